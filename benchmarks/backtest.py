"""Retraining policies on the weeks of 2013: every candidate trained once, every policy replayed, through the gate and without it.

    python -m benchmarks.backtest [folder [--development]]

Delivers and accepts the flights as `mlops lap` would, into the folder (a temporary one if none is named; what lies there is used
again), and replays with the constants of benchmarks/flights_weekly.yaml, which were fixed on the weeks before the test. Writes
backtest.html beside it; --development prints what they were taken from. Takes 25 s for the data and 7 minutes for 38
candidates on one core.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from mlops_provider.backtest.chart import page
from mlops_provider.backtest.matrix import Matrix, matrix, measured
from mlops_provider.backtest.replay import Board
from mlops_provider.backtest.report import backtest, render
from mlops_provider.backtest.timeline import Timeline, timeline
from mlops_provider.deployment import Deployment
from mlops_provider.loops import Loops
from mlops_provider.modelcode import pack
from mlops_provider.sections import Retrain
from mlops_provider.steps.step import Job

HERE = Path(__file__).parent
log = logging.getLogger("mlops_provider")


def accepted(root: Path) -> Job:
    """The flights model with all twelve months accepted."""
    place = Deployment(artifact_root=str(root / "artifacts"), data_root=str(root / "data"), actor="benchmark")
    model = pack(
        HERE.parent / "include" / "models" / "flight_delays", place.environment, place.storage, place.artifact_root
    )
    job, repository = Job(model, place), root / "data" / "repository.git"
    if not repository.exists():
        subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(repository)], check=True)
    for month in model.function("feed.py:partitions")():
        for what in ("inputs", "labels"):
            model.function("feed.py:deliver")(place.data_root, month, what)
    Loops(job, lambda label, outcome: log.info("%s %s", label, outcome.step)).ci()
    return job


def weeks(root: Path) -> tuple[Timeline, Matrix]:
    """The weeks of the year, and the matrix of their candidates."""
    line = timeline(accepted(root), cut="week")
    return line, matrix(line, "week")


def development(line: Timeline) -> None:
    """What the constants were taken from: the weeks up to W15, and candidates whose features all have values."""
    known = replace(line, periods=line.periods[:15])
    rows = {last: measured(known, last)["values_auc"] for last in range(5, 14)}
    for weeks in (1, 2, 4):
        pairs = [(rows[last + weeks] - rows[last])[last + weeks + 1 :] for last in rows if last + weeks in rows]
        won = np.concatenate(pairs)
        print(f"{weeks} weeks of new data: {won.mean():+.4f} AUC on the same later week, {len(won)} pairs")
    print(f"one candidate from week to week: standard deviation {np.nanstd(rows[5]):.3f} AUC")


def signal(board: Board, weeks: int = 4) -> None:
    """How much of what a new model wins is seen beforehand: in the measured loss, and in the number of weeks since the last one.

    Over all champions and all decisions of the test span; what is won is the mean gain over the four weeks after the decision.
    """
    seen = []
    for at in board.decisions:
        candidate, after = board.candidate(at), slice(at + board.lag, at + board.lag + weeks)
        for champion in range(board.first, candidate - board.holdout + 1):
            served = board.values[champion, champion + board.holdout + board.lag : at + 1]
            if len(served) and after.stop <= len(board.matrix.names):
                shown = board.matrix.judged[board.metric][champion, champion + board.holdout]
                won = float(np.mean(board.values[candidate, after] - board.values[champion, after]))
                seen.append((shown - served.mean(), candidate - champion, won))
    loss, age, won = np.array(seen).T
    print(
        f"of what a new model won over {weeks} weeks, {len(seen)} pairs: correlation with the measured loss "
        f"{np.corrcoef(loss, won)[0, 1]:+.2f}, with the champion's age {np.corrcoef(age, won)[0, 1]:+.2f}"
    )


def main(root: Path) -> None:
    if "--development" in sys.argv:
        development(timeline(accepted(root), cut="week"))
        return
    line, found = weeks(root)
    rule = Retrain.model_validate(yaml.safe_load((HERE / "flights_weekly.yaml").read_text()))
    boards = [Board(line, found, gated=gated) for gated in (True, False)]
    told = backtest(boards, rule, "week")
    (root / "backtest.html").write_text(page(told, boards[0]))
    (root / "backtest.json").write_text(told.model_dump_json(indent=1))
    print(render(told))
    signal(boards[0])
    print(f"\n{root / 'backtest.html'}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mlops_provider").setLevel(logging.INFO)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlops-backtest-")))
