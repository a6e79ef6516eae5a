"""Tuning: a search for parameters, and proof on data that the search did not see before they are used.

Trials are run in waves. `tune_trial` runs one, so that a task can be mapped over a wave; `tune` runs those that are missing
and then compares the best with the configuration as it stands. So one call of `tune` does what the tasks do together, and
whatever is repeated finds what is done.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import ConfigError, ConflictError
from mlops_provider.partitions import parse_duration
from mlops_provider.sections import Tune
from mlops_provider.steps.records import Interval, Split, SplitRef, Trial, Tuned
from mlops_provider.steps.step import Job, libraries, step
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.evaluate import compare
from mlops_provider.steps.training.identity import environment
from mlops_provider.steps.training.split import split_to_fit
from mlops_provider.steps.training.tune_folds import Fold, accepting_fold, read, search_folds
from mlops_provider.steps.training.tune_runs import Runs, runs
from mlops_provider.steps.training.tune_search import best, finished, proposed
from mlops_provider.storage import Artifact, digest

log = logging.getLogger("mlops_provider")

_SHAPES_NO_TRIAL = ("resources", "run_on")


class TuneArguments(Frozen):
    """:param split: of the candidate that is to be trained; its holdout is not looked at."""

    split: SplitRef


class TrialArguments(Frozen):
    """:param number: of the trial, from 0."""

    split: SplitRef
    number: int


@step("tune_trial", arguments=TrialArguments, result=Trial, cached=False)
def tune_trial(job: Job, arguments: TrialArguments) -> Trial:
    """Runs one trial, or finds it done. Trials of one wave may run side by side, waves one after another.

    :raises ConfigError: if the model is not tuned, or has no trial of that number.
    :raises ConflictError: if a trial of an earlier wave is not done yet.
    :raises Transient: if MLflow cannot be reached.
    """
    search = Search(job, split_to_fit(job, arguments.split))
    if not 0 <= arguments.number < search.tune.trials:
        raise ConfigError(
            f"{job.config.name}: there is no trial {arguments.number}: training.tune.trials is {search.tune.trials}"
        )
    with runs(job, search.fingerprint) as known:
        return search.trial(known, arguments.number)


@step("tune", arguments=TuneArguments, result=Tuned, sections=("data", "features", "training", "evaluation"), code=True)
def tune(job: Job, arguments: TuneArguments) -> Tuned:
    """Runs the trials that are missing, and keeps the best parameters if they prove better than the configuration.

    :raises ConfigError: if the model is not tuned.
    :raises DataError: if there is nothing to measure trials on.
    :raises Transient: if MLflow cannot be reached.
    """
    search = Search(job, split_to_fit(job, arguments.split))
    with runs(job, search.fingerprint) as known:
        trials = [search.trial(known, number) for wave in search.tune.waves for number in wave]
        tuned = _judged(search, trials, known.run_id)
        known.closed(tuned)
    log.info("tuning: %s", tuned.reason)
    return tuned


class Search:
    """A search on one split: its data is read when the first trial needs it, and kept for the next."""

    def __init__(self, job: Job, split: Split) -> None:
        if job.config.training.tune is None:
            raise ConfigError(f"{job.config.name}: training.tune is not set: there is nothing to search")
        self.job, self.split, self.tune = job, split, job.config.training.tune
        self._metric = job.config.evaluation.metric
        self._folds: list[Fold] = []

    @property
    def fingerprint(self) -> str:
        """What shapes a trial beside its number. How many trials there may be does not: more may be added."""
        sections = self.job.config.sections("data", "features", "training")
        for place in _SHAPES_NO_TRIAL:
            del sections["training"][place]
        del sections["training"]["tune"]["trials"]
        return digest({
            "what": "tuning",
            "data": [[version.partition, version.md5] for version in self.split.fit],
            "code": self.job.model.code_hash,
            "sections": sections,
            "metric": self._metric,
            "environment": {**environment(), "optuna": libraries()["optuna"]},
        })

    def trial(self, known: Runs, number: int) -> Trial:
        """The trial of that number, run now if it is not done."""
        trials = known.trials()
        if number in trials:
            log.info("trial %d: found, %s", number, _told(trials[number]))
            return trials[number]
        wave = number // self.tune.parallel
        earlier = {n: trial for n, trial in trials.items() if n < wave * self.tune.parallel}
        left = _left(self.tune, earlier)
        if left is not None and left <= 0:
            return Trial(
                number=number, wave=wave, state="not_started", reason=f"the time ({self.tune.timeout}) is spent"
            )
        if missing := set(range(wave * self.tune.parallel)) - set(earlier):
            raise ConflictError(
                f"{self.job.config.name}: trial {number} is chosen by what came of trial {min(missing)}, which is not done"
            )
        params = proposed(self.job.config, earlier.values(), number)
        trial = Trial(number=number, wave=wave, params=params, state="not_started")
        trial = trial.model_copy(update={"run_id": known.begun(trial)})
        done = self._measured(trial, left)
        known.done(done, self._metric)
        log.info("trial %d: %s with %s", number, _told(done), params)
        return done

    def folds(self) -> list[Fold]:
        if not self._folds:
            self._folds = [read(self.job, fold) for fold in search_folds(self.job, self.split)]
        return self._folds

    def _measured(self, trial: Trial, left: float | None) -> Trial:
        from lightgbm.basic import LightGBMError

        folds, began = self.folds(), time.monotonic()
        values: dict[str, float] = {}
        state, reason = "finished", ""
        try:
            for fold in folds:
                scores = fold.scores(self.job, trial.params, [_clock(began, left)])
                values[fold.partition] = metrics.measure([self._metric], fold.labels_later, scores)[self._metric]
        except _OutOfTimeError:
            state, reason = "out_of_time", f"stopped: no more than {left:.1f} s of {self.tune.timeout} were left"
        except LightGBMError as error:
            state, reason = "failed", f"LightGBM refused: {error}"[:500]
        found = {
            "state": state,
            "reason": reason,
            "values": values,
            "value": float(np.mean(list(values.values()))) if state == "finished" else None,
            "seconds": round(time.monotonic() - began, 3),
        }
        return trial.model_copy(update=found)


class _OutOfTimeError(Exception):
    """The time of the search is spent."""


def _clock(began: float, left: float | None) -> Callable[[object], None]:
    """A callback of LightGBM's that stops a trial when the time of the search is spent."""

    def look(environment: object) -> None:
        if left is not None and time.monotonic() - began > left:
            raise _OutOfTimeError

    return look


def _left(tune: Tune, earlier: dict[int, Trial]) -> float | None:
    """Seconds of training that are left after the earlier waves; None without a limit."""
    if tune.timeout is None:
        return None
    return parse_duration(tune.timeout) / dt.timedelta(seconds=1) - sum(trial.seconds for trial in earlier.values())


def _told(trial: Trial) -> str:
    return f"{trial.value:.6g}" if trial.value is not None else f"{trial.state} ({trial.reason})"


def _judged(search: Search, trials: list[Trial], run_id: str) -> Tuned:
    """The best of the trials against the configuration, on the partition that the search did not see."""
    config, winner = search.job.config, best(search.job.config, trials)
    fold = accepting_fold(search.job, search.split)
    partition = fold.holdout.partition
    checks, interval = [_some(trials)], None
    if winner and checks[0].passed:
        checks.append(_different(search.job, winner))
    if winner and all(check.passed for check in checks):
        interval = _gain(search.job, read(search.job, fold), winner, checks)
    verdict = Verdict(subject=f"tuned parameters on {partition}", checks=tuple(checks))
    facts: dict[str, Any] = {
        "params": winner.params if winner and verdict.passed else {},
        "best": winner.params if winner else {},
        "trial": winner.number if winner else None,
        "finished": len(finished(trials)),
        "trials": search.tune.trials,
        "metric": config.evaluation.metric,
        "partition": partition,
        "interval": interval,
        "stopped": any(trial.state in ("out_of_time", "not_started") for trial in trials),
        "verdict": verdict,
        "run_id": run_id,
    }
    facts["reason"] = _reason(facts, search.tune)
    return Tuned(**facts, record=_kept(search, trials, facts))


def _some(trials: list[Trial]) -> Check:
    count = len(finished(trials))
    if count:
        return Check(name="trials_finished", passed=True, value=float(count), detail=f"of {len(trials)}")
    why = next((trial.reason for trial in trials if trial.reason), "")
    return could_not_run("trials_finished", f"none of {len(trials)} trials came to an end: {why}")


def _different(job: Job, winner: Trial) -> Check:
    configured = job.config.training.params
    same = all(name in configured and configured[name] == value for name, value in winner.params.items())
    detail = "the search found nothing better than model.yaml's own parameters" if same else ""
    return Check(name="parameters_differ", passed=not same, subject=f"trial {winner.number}", detail=detail)


def _gain(job: Job, fold: Fold, winner: Trial, checks: list[Check]) -> Interval | None:
    """The gain of the parameters over the configured ones, with a paired bootstrap over time blocks; adds to `checks`."""
    settings = job.config.evaluation
    blocks = metrics.time_blocks(fold.later[job.config.data.event_time], parse_duration(settings.block))
    count = int(blocks.max()) + 1
    name = f"{settings.metric}_gain"
    if count < settings.minimum_blocks:
        why = f"{fold.partition} spans {count} time blocks, at least {settings.minimum_blocks} are needed"
        checks.append(could_not_run(name, why))
        return None
    found = compare(job, fold.labels_later, fold.scores(job, winner.params), fold.scores(job, {}), blocks)
    told = f"{metrics.change(settings.metric, found)}: {found.confidence:.0%} interval over {count} time blocks"
    checks.append(Check(name=name, passed=found.low > 0, value=found.low, threshold="lower bound above 0", detail=told))
    return found


def _reason(facts: dict[str, Any], tune: Tune) -> str:
    """One line for people."""
    done = f"{facts['finished']} of {facts['trials']} trials"
    if facts["stopped"]:
        done += f", as the time ({tune.timeout}) was spent"
    if not facts["verdict"].passed:
        return f"the parameters of model.yaml are kept after {done}: {facts['verdict'].reason()}"
    return f"the parameters of trial {facts['trial']} are taken after {done}: {facts['verdict'].checks[-1].detail}"


def _kept(search: Search, trials: list[Trial], facts: dict[str, Any]) -> Artifact:
    """The file with all trials, for the lineage."""
    value = {
        **{name: fact.model_dump(mode="json") if isinstance(fact, Frozen) else fact for name, fact in facts.items()},
        "search": search.fingerprint,
        "space": search.tune.model_dump(mode="json"),
        "all": [trial.model_dump(mode="json") for trial in trials],
    }
    job = search.job
    return job.storage.write_json(job.under("tuning", search.fingerprint, f"{digest(value)[:16]}.json"), value)
