"""The loops without Airflow: the same plans and the same steps, one after the other, in one process.

`mlops lap` and the notebooks use this; the DAGs in dags/ wire the same steps as tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from mlops_provider.exceptions import ConfigError, ConflictError, DataError, Refused
from mlops_provider.steps import plan
from mlops_provider.steps.monitoring.estimates import estimate_uri, known
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.release.promote import repair
from mlops_provider.steps.step import Job, Outcome, find

log = logging.getLogger("mlops_provider")

Told = Callable[[str, Outcome], None]


class Loops:
    """The loops of one model.

    :param told: called after each step with a label for people and the outcome.
    """

    def __init__(self, job: Job, told: Told) -> None:
        self.job, self.told = job, told

    def drain(self) -> None:
        """Runs all loops until nothing is due."""
        while any([self.score(), self.ci(), self.cm(), self.ct(), self.cd()]):
            pass

    def score(self) -> bool:
        works = plan.score(self.job)
        done = 0
        for work in works:
            try:
                self._run("score", work.partition, work=work)
                done += 1
            except ConflictError as error:
                log.error("%s: not scored: %s", work.partition, error)
            except (ConfigError, DataError) as error:
                done += 1
                log.error("%s: not scored: %s", work.partition, error)
                self._run("refuse_scoring", work.partition, work=work, reason=str(error))
        return bool(done)

    def ci(self) -> bool:
        works, done = plan.ci(self.job), 0
        if (works or plan.code_due(self.job, None)) and not self._code_is_sound():
            return False
        for work in works:
            if work.problem:
                log.error("%s: waits: %s", work.partition, work.problem)
                continue
            try:
                self._judge(work)
                done += 1
            except ConflictError as error:
                log.error("%s: waits: %s", work.partition, error)
        return bool(done)

    def cm(self) -> bool:
        work = plan.cm(self.job)
        if work is None:
            return False
        for predictions in work.drift:
            drift = self._run("drift", predictions.partition, predictions=predictions)
            self.job.storage.write_json(plan.drift_uri(self.job, drift.partition), drift.model_dump(mode="json"))
            if not drift.verdict.passed:
                log.error("%s: %s", drift.partition, drift.verdict.reason())
        for estimate in work.estimate:
            told = self._run("estimate", estimate.predictions.partition, work=estimate)
            self.job.storage.write_json(estimate_uri(self.job, told.partition), told.model_dump(mode="json"))
        if work.decide is None:
            return bool(work.drift or work.estimate)
        measured = None
        if work.quality:
            measured = self._run("quality", work.decide, predictions=work.quality, data=work.data)
        given = {"drift": known_drift(self.job, work.decide), **known(self.job, work.decide)}
        self._run("decide", work.decide, partition=work.decide, quality=measured, **given)
        return True

    def ct(self) -> bool:
        before = len(self.job.ledger.records())
        work = plan.ct(self.job)
        if work is not None:
            self.train(work)
        # A decision that lapsed makes way for the next one.
        return work is not None or len(self.job.ledger.records()) > before

    def train(self, work: plan.TrainWork, **arguments: Any) -> Any:
        """Tune if model.yaml asks for it, train, package, evaluate, register."""
        label, rival = work.split.holdout, plan.State(self.job).champion
        if self.job.config.training.start == "champion":
            from mlops_provider.steps.training.train import start_from

            arguments["start"] = start_from(self.job, rival)
        trained = self._run("train", label, split=work.split, **self._tuned(work), **arguments)
        package = self._run("package", label, trained=trained)
        evaluation = self._run("evaluate", label, package=package, split=work.split, champion=rival)
        return self._run("register", label, trained=trained, package=package, evaluation=evaluation)

    def _tuned(self, work: plan.TrainWork) -> dict[str, Any]:
        """What training takes from tuning, as arguments."""
        if self.job.config.training.tune is None:
            return {}
        tuned = self._run("tune", work.split.holdout, split=work.split)
        return {"params": tuned.params, "tuning": tuned.record}

    def cd(self) -> bool:
        repair(self.job)
        versions = plan.cd(self.job)
        for version in versions:
            judged = self._run("gate", version.split.holdout, version=version)
            if judged.promote:
                self._run("promote", version.split.holdout, version=version, judged=judged)
        return bool(versions)

    def _code_is_sound(self) -> bool:
        """Whether the model's own tests pass, if it has any. New code is tested although no data is due, as in the DAG."""
        if not self.job.model.tests and self.job.config.data.code is None:
            return True
        verdict = self._run("test_code", "code", code=self.job.model.ref).verdict
        if not verdict.passed:
            log.error("no data is let in: %s", verdict.reason())
        return bool(verdict.passed)

    def _judge(self, work: DataWork) -> None:
        raw = None
        try:
            raw = self._run("validate", work.partition, work=work, suite="raw")
            raw.verdict.require()
            self._let_in(work, raw)
        except (DataError, Refused) as error:
            log.error("%s: refused: %s", work.partition, error)
            by_code = raw is not None and raw.verdict.passed
            self._run("refuse_data", work.partition, work=work, reason=str(error), by_code=by_code)

    def _let_in(self, work: DataWork, raw: Any) -> None:
        built = self._run("build_features", work.partition, work=work, accepted=raw.accepted)
        features = self._run("validate", work.partition, work=work, suite="features", dataset=built.table)
        features.verdict.require()
        table = features.accepted or built.table
        accepted = {"work": work, "accepted": raw.accepted}
        history = self._run("compare_history", work.partition, **accepted, table=built.table)
        verdicts = (raw.verdict, features.verdict, history.verdict)
        aside = features.quarantined
        self._run("snapshot", work.partition, **accepted, table=table, verdicts=verdicts, quarantined=aside)

    def _run(self, name: str, label: str, **arguments: Any) -> Any:
        step = find(name)
        outcome = step.run(self.job, step.arguments(**arguments))
        self.told(label, outcome)
        return step.result.model_validate(outcome.result)


def known_drift(job: Job, partition: str) -> Any:
    """The drift that was found in a scored partition, if it was scored."""
    uri = plan.drift_uri(job, partition)
    return job.storage.read_json(uri) if job.storage.exists(uri) else None


def require_replay(job: Job) -> None:
    """Looks whether a replay could begin: there is something to replay, and the model's code can be imported.

    :raises ConfigError: if not.
    """
    data = job.config.data
    for reference in (job.config.features.build, *((data.replay, _partitions_of(data.replay)) if data.replay else ())):
        job.model.function(reference)
    for suite in (data.suites.raw, data.suites.features):
        job.model.read(suite)
    if data.replay is None and not plan.State(job).labelled:
        raise ConfigError(
            f"{job.config.name}: data.replay is not set and no labelled partition lies under {job.deployment.data_root}"
        )


def _partitions_of(reference: str) -> str:
    return f"{reference.split(':')[0]}:partitions"


def replay(job: Job, loops: Loops, data_root: str) -> Iterator[str]:
    """Delivers each partition as it came in life (inputs first, labels later) and runs the loops after each delivery.

    Without a `data.replay` function the partitions must lie there already; then one pass runs over all of them.

    :raises ConfigError: if there is nothing to replay, or the model's code cannot be imported.
    """
    require_replay(job)
    reference = job.config.data.replay
    if reference is None:
        loops.drain()
        return
    deliver = job.model.function(reference)
    for partition in job.model.function(_partitions_of(reference))():
        for what in ("inputs", "labels"):
            deliver(data_root, partition, what)
            loops.drain()
        yield partition
