"""`mlops backtest` and `mlops replay`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from mlops_provider.deployment import from_environment
from mlops_provider.exceptions import RequestError
from mlops_provider.sections import Retrain

if TYPE_CHECKING:
    from mlops_provider.backtest.timeline import Cut
    from mlops_provider.steps.step import Job

log = logging.getLogger("mlops_provider")

Add = Callable[[str, Callable[[Any], int], str], argparse.ArgumentParser]


def add(command: Add, model_options: Callable[[argparse.ArgumentParser], None], job: Callable[[Any, Any], Job]) -> None:
    """Adds the two commands.

    :param job: makes the job of a command's options and a deployment.
    """
    back = command(
        "backtest", lambda o: _backtest(job(o, from_environment()), o), "replay retraining policies on the history"
    )
    back.add_argument("--partition-by", choices=("day", "week"), help="cut the accepted rows anew by event time")
    back.add_argument("--chart", metavar="FILE", help="write a page with the charts (HTML)")
    again = command("replay", lambda o: _replay(job(o, from_environment()), o), "dry run of the policy on the history")
    again.add_argument("--from", dest="since", metavar="DATE", required=True, help="first partition to decide on")
    for parser in (back, again):
        model_options(parser)
        parser.add_argument(
            "--retrain", metavar="FILE", help="YAML with the section retrain to try, in place of model.yaml's"
        )
        lag = (
            "periods from a decision to the first one that its candidate can score; from event times if it is not given"
        )
        parser.add_argument("--lag", type=int, help=lag)
        parser.add_argument("--force", action="store_true", help="train again what was trained before")


def _backtest(job: Job, options: Any) -> int:
    from mlops_provider.backtest.chart import page
    from mlops_provider.backtest.report import backtest, render

    job.force = options.force
    rule, cut = _rule(job, options.retrain), options.partition_by
    boards = _boards(job, options, cut)
    log.info("replaying on %d decisions", len(boards[0].decisions))
    found = backtest(boards, rule, cut or "partition")
    if options.chart:
        Path(options.chart).write_text(page(found, boards[0]), encoding="utf-8")
    print(found.model_dump_json(indent=1) if options.json else render(found))
    return 0


def _replay(job: Job, options: Any) -> int:
    from mlops_provider.backtest.report import dry_run, told

    job.force = options.force
    rule = _rule(job, options.retrain)
    (board,) = _boards(job, options, None, since=options.since, both=False)
    found = dry_run(board, rule)
    print(found.model_dump_json(indent=1) if options.json else told(found))
    return 0


def _boards(job: Job, options: Any, cut: Cut | None, *, since: str | None = None, both: bool = True) -> list[Any]:
    from mlops_provider.backtest.matrix import matrix
    from mlops_provider.backtest.replay import Board, first_decision
    from mlops_provider.backtest.timeline import timeline

    if options.lag is not None and options.lag < 1:
        raise RequestError(
            f"--lag {options.lag}: a candidate scores no period before the one after its decision; give 1 or more"
        )
    line = timeline(job, cut=cut, lag=options.lag)
    first = first_decision(line, since) - line.holdout
    found = matrix(line, cut, first=first)
    return [Board(line, found, gated=gated, since=since) for gated in ((True, False) if both else (True,))]


def _rule(job: Job, file: str | None) -> Retrain:
    """The section to try.

    :raises RequestError: if the file holds none.
    """
    if file is None:
        return job.config.retrain
    try:
        rule = Retrain.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise RequestError(f"--retrain {file}: {error}") from error
    if rule.costs and rule.costs.wrong_answer is not None and job.config.evaluation.metric != "accuracy":
        raise RequestError(
            f"--retrain {file}: {job.config.evaluation.metric} does not count wrong answers; give metric_unit"
        )
    return rule
