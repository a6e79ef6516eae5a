"""What is due: the first question of every loop, answered from what lies there, never from an event.

Events may be lost, doubled or forged, and Airflow merges those that come close together. So an event only wakes a loop; what
there is to do follows from the partitions delivered, the predictions made and the ledger. No event, one or ten lead to the
same work, in the order of the data.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import DataError, MlopsError, RequestError
from mlops_provider.ledger import Record, champion, decision_on, last
from mlops_provider.partitions import SLACK, is_partition, shift, start
from mlops_provider.sections import PAST, Data
from mlops_provider.steps.data import past
from mlops_provider.steps.data.code_tests import untested
from mlops_provider.steps.data.standard import stands
from mlops_provider.steps.monitoring.decide import accepted
from mlops_provider.steps.monitoring.estimates import due as due_estimates
from mlops_provider.steps.monitoring.records import EstimateWork
from mlops_provider.steps.records import (
    DataWork,
    FeatureVersion,
    ModelVersion,
    Predictions,
    ScoreWork,
)
from mlops_provider.steps.scoring.predictions import folder, manifest, unscored
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import guard
from mlops_provider.steps.training.guard import TrainWork as TrainWork
from mlops_provider.steps.training.guard import split as split
from mlops_provider.storage import Artifact

log = logging.getLogger("mlops_provider")

# Stands for the partition in the URI of a source; a private letter, which is in nobody's folders.
_BLANK = "\ue000"


class MonitorWork(Frozen):
    """What monitoring owes: drift and estimated quality of newly scored partitions, and at most one decision, with the quality
    it stands on."""

    drift: tuple[Predictions, ...] = ()
    estimate: tuple[EstimateWork, ...] = ()
    decide: str | None = None
    quality: Predictions | None = None
    data: FeatureVersion | None = None


class State:
    """The state of one model, read once."""

    def __init__(self, job: Job) -> None:
        self.job, self.data = job, job.config.data
        self.records: tuple[Record, ...] = job.ledger.records()
        self._works: dict[str, DataWork] = {}

    @cached_property
    def inputs(self) -> list[str]:
        """Partitions whose inputs have been delivered, in order of time."""
        return self._delivered(self.data.source)

    @cached_property
    def labels(self) -> list[str]:
        return self._delivered(self.data.label.source)

    @cached_property
    def accepted(self) -> dict[str, FeatureVersion]:
        return accepted(self.job, self.records)

    @cached_property
    def champion(self) -> ModelVersion | None:
        record = champion(self.records)
        return ModelVersion.model_validate(record.facts["version"]) if record else None

    @cached_property
    def scored(self) -> list[str]:
        """Partitions with committed predictions."""
        names = self.job.storage.names(folder(self.job))
        return [name for name in names if manifest(self.job, name) is not None]

    @property
    def labelled(self) -> list[str]:
        return [name for name in self.inputs if name in self.labels]

    @property
    def decided(self) -> str:
        """The newest partition on which a decision to retrain was taken; empty if none."""
        return max((r.partition for r in self.records if r.kind == "retrain"), default="")

    def work(self, partition: str) -> DataWork:
        """The delivered files of a partition; what is missing is named in `problem`."""
        if partition not in self._works:
            self._works[partition] = self._looked_up(partition)
        return self._works[partition]

    def _looked_up(self, partition: str) -> DataWork:
        try:
            return DataWork(
                partition=partition,
                inputs=self._describe(self.data.source, partition),
                labels=self._describe(self.data.label.source, partition),
                history=self.history(partition),
            )
        except DataError as error:
            return DataWork(partition=partition, problem=str(error))

    def history(self, partition: str) -> dict[str, Artifact]:
        return {name: self._describe(table.source, partition) for name, table in self.data.history.items()}

    @cached_property
    def declared(self) -> Data:
        """The data section that the champion was trained with: it is scored and compared with what that declares."""
        if self.champion is None:
            return self.data
        try:
            return self.job.with_code(self.champion.package.code).config.data
        except MlopsError:
            return self.data  # the steps that need its code will tell what is wrong with it

    def with_past(self, work: DataWork) -> DataWork:
        """The work with all the history that candidate and champion need, which its identity does not depend on."""
        if work.problem:
            return work
        return work.model_copy(
            update={"history": self.former(work.partition) | work.history | self.past(work.partition)}
        )

    def former(self, partition: str) -> dict[str, Artifact]:
        """History that the champion needs and model.yaml no longer declares, as far as it is still delivered."""
        found = {}
        for name, table in self.declared.history.items():
            if name not in self.data.history:
                with suppress(DataError):
                    found[name] = self._describe(table.source, partition)
        return found

    def past(self, partition: str) -> dict[str, Artifact]:
        """The list of earlier partitions whose outcomes are known, as they lie there now; those refused are left out."""
        asking = [data for data in (self.data, self.declared) if data.past]
        if not asking:
            return {}
        first = min(past.since(data, partition) for data in asking)
        near = [n for n in self.labelled if n < partition and self._until(n) > first]
        works = [work for n in near if not (work := self.work(n)).problem and not self.refused(work)]
        files = [past.delivered(work, self.verdict_on(work)) for work in works]
        return {PAST: past.save(self.job, past.PastList(since=first, partitions=tuple(files)))}

    def _until(self, partition: str) -> dt.datetime:
        return start(shift(partition, self.data.partition, 1), self.data.partition) + SLACK

    def refused(self, work: DataWork) -> bool:
        """Whether the partition, as it lies there now, was refused."""
        record = self.verdict_on(work)
        return record is not None and record.outcome == "refused"

    def judged(self, work: DataWork) -> bool:
        """Whether the partition, as it lies there now, was accepted, or refused by what would judge it now."""
        record = self.verdict_on(work)
        return record is not None and stands(self.job, record)

    def verdict_on(self, work: DataWork) -> Record | None:
        """The record that accepted or refused the partition as it lies there now; None if it was not judged yet."""
        record = last(self.records, "data", partition=work.partition)
        return record if record is not None and record.facts["identity"] == work.identity else None

    def settled(self, partition: str) -> bool:
        """Whether all that a labelled partition leads to has been decided, up to the release of its candidate."""
        work = self.work(partition)
        if work.problem:
            return True  # it cannot be judged before it is delivered in full, and holds up nobody until then
        record = self.verdict_on(work)
        if record is None:
            return False
        if partition < self.decided:
            return True  # also if it was refused and other suites may let it in: what came after has been decided
        if record.outcome == "refused":
            return stands(self.job, record)
        decision = last(self.records, "retrain", partition=partition)
        if decision is None:
            return False
        return decision.outcome == "wait" or self.lapsed(partition) or self.released(partition)

    @cached_property
    def hindrance(self) -> str:
        """Why nothing is decided or trained now; empty if nothing is in the way.

        Accepted partitions whose labels mean something else by now, or whose features other code made, are due again and must
        come first. One whose files have gone cannot come back, and is not waited for.
        """
        missing = [name for name in self.labelled if name not in self.accepted]
        found = [
            name for name in missing if (record := self.verdict_on(self.work(name))) and record.outcome == "accepted"
        ]
        if not found:
            return ""
        names = f"{found[0]} to {found[-1]}" if len(found) > 1 else found[0]
        return (
            f"other code or settings than today's made {len(found)} of the accepted partitions ({names}); "
            f"{self.job.config.name}.ci makes them anew, by itself within the hour or when it is triggered"
        )

    def lapsed(self, partition: str) -> bool:
        """Whether the guard of training found that the last decision on a partition no longer stood."""
        found, decision = (
            last(self.records, "lapse", partition=partition),
            last(self.records, "retrain", partition=partition),
        )
        return found is not None and decision is not None and found.number > decision.number

    def settled_before(self, partition: str) -> bool:
        """Whether a partition was delivered and settled already."""
        return partition in self.labelled and self.settled(partition)

    def released(self, partition: str) -> bool:
        """Whether the candidate that was to be trained on a partition has been promoted or refused."""
        return any(decision_on(self.records, v.version) for v in self.candidates(partition))

    def candidates(self, partition: str) -> list[ModelVersion]:
        """Registered candidates with this holdout, drills aside."""
        found = [self.version(r) for r in self.records if r.kind == "candidate" and r.partition == partition]
        return [version for version in found if not version.drill]

    def version(self, record: Record) -> ModelVersion:
        return ModelVersion.model_validate(record.facts["version"])

    def waits_for(self, partition: str) -> str | None:
        """The earlier labelled partition that is not settled yet, if there is one."""
        return next((name for name in self.labelled if name < partition and not self.settled(name)), None)

    def scorable(self, partition: str) -> bool:
        """Whether the champion may score it: it has seen only earlier data."""
        return self.champion is not None and self.champion.seen_until < partition

    def unscored(self, partition: str) -> bool:
        """Whether the champion was found unable to score the partition as it lies there now."""
        if self.champion is None or last(self.records, "unscored", partition=partition) is None:
            return False
        with suppress(DataError):
            inputs = self._describe(self.data.source, partition)
            return unscored(self.records, partition, self.champion.version, inputs) is not None
        return False

    def awaited(self, partition: str) -> bool:
        """Whether there will be predictions of the partition that are not there yet."""
        return self.scorable(partition) and partition not in self.scored and not self.unscored(partition)

    def _describe(self, source: str, partition: str) -> Artifact:
        return self.job.storage.describe(self.job.deployment.source(source, partition))

    def _delivered(self, source: str) -> list[str]:
        names = self.job.storage.filled(self.job.deployment.source(source, _BLANK), _BLANK)
        return [name for name in names if is_partition(name, self.data.partition)]


def ci(job: Job, *, partition: str | None = None, ref: str | None = None) -> list[DataWork]:
    """Labelled partitions that have not been judged as they lie there now. A partition that is asked for is judged again.

    :param ref: a commit whose tests are asked for: a run for them does nothing else.
    :raises RequestError: if both are asked for: tests of a commit must not let data in to the code as deployed.
    """
    if ref is not None:
        if partition is not None:
            raise RequestError("ref and partition: the tests of a commit let no data in; ask for one of the two")
        return []
    state = State(job)
    if partition is not None:
        _known(job, partition)
        return [state.with_past(state.work(partition))]
    arrived = sorted(set(state.inputs) | set(state.labels))
    works = (state.work(name) for name in arrived if name in state.labels)
    return [state.with_past(work) for work in works if not state.judged(work)]


def code_due(job: Job, ref: str | None) -> bool:
    """Whether tests are to be run although no partition is due: those of a ref, or of code that has no verdict yet."""
    return ref is not None or untested(job)


def score(job: Job, *, partition: str | None = None) -> list[ScoreWork]:
    """Partitions with inputs and no predictions that the champion may score, as far as it is their turn.

    :raises RequestError: if a partition is asked for that cannot be scored.
    """
    state = State(job)
    if partition is not None:
        _known(job, partition)
        if partition not in state.inputs:
            raise RequestError(
                f"partition {partition} has no inputs: {job.deployment.source(job.config.data.source, partition)}"
            )
        if not state.scorable(partition):
            seen = state.champion.seen_until if state.champion else None
            raise RequestError(
                f"partition {partition} cannot be scored: {f'the champion saw {seen}' if seen else 'no champion'}"
            )
    due = [n for n in state.inputs if n not in state.scored and state.scorable(n) and partition in (None, n)]
    if partition is None:
        due = [name for name in due if not state.unscored(name) and _complete(state, name)]
        due = _in_turn(state, due) if job.config.scoring.order == "wait" else due
    return [_score_work(state, name) for name in due]


def cm(job: Job) -> MonitorWork | None:
    """Drift of scored partitions, and the next decision, in the order of the data, if all that comes before it is settled."""
    state = State(job)
    fresh = [found for name in state.scored if not drift_done(job, name) and (found := manifest(job, name))]
    estimates = tuple(due_estimates(job, state.records, [name for name in state.scored if name > state.decided]))
    due = next((name for name in state.accepted if name > state.decided), None)
    if due is not None and state.hindrance:
        log.warning("%s is not decided yet: %s", due, state.hindrance)
        due = None
    if due is None or state.waits_for(due) or state.awaited(due):
        return MonitorWork(drift=tuple(fresh), estimate=estimates) if fresh or estimates else None
    found = manifest(job, due)
    return MonitorWork(drift=tuple(fresh), estimate=estimates, decide=due, quality=found, data=state.accepted[due])


def ct(job: Job, *, partition: str | None = None) -> TrainWork | None:
    """The oldest decision to train that still waits for its candidate; or what a person asks for.

    A decision that no longer stands is recorded as lapsed.

    :param partition: the holdout of the candidate that a person asks for.
    :raises RequestError: if there is too little data for it.
    """
    state = State(job)
    if partition is not None:
        _known(job, partition)
        return guard.asked(state, partition)
    return guard.decided(state)


def cd(job: Job, *, version: int | None = None) -> list[ModelVersion]:
    """Registered candidates that have not been decided; or the one that a person asks for.

    :raises RequestError: if there is no such version.
    """
    state = State(job)
    found = [state.version(r) for r in state.records if r.kind == "candidate"]
    if version is not None:
        if not (asked := [v for v in found if v.version == version]):
            raise RequestError(f"version {version} is no candidate; the candidates are {[v.version for v in found]}")
        return asked[-1:]
    return [v for v in found if decision_on(state.records, v.version) is None]


def drift_uri(job: Job, partition: str) -> str:
    """Where the drift found in a scored partition is kept."""
    return job.under("monitoring", partition, "drift.json")


def drift_done(job: Job, partition: str) -> bool:
    """Whether the drift of a scored partition has been looked at."""
    return job.storage.exists(drift_uri(job, partition))


def _complete(state: State, partition: str) -> bool:
    """Whether the history that the features need has been delivered with the inputs."""
    try:
        state.history(partition)
    except DataError as error:
        log.warning("%s is not scored yet: %s", partition, error)
        return False
    return True


def _in_turn(state: State, due: Iterable[str]) -> list[str]:
    turn = []
    for name in due:
        if earlier := state.waits_for(name):
            log.info("%s waits: %s has labels and is not decided yet", name, earlier)
            break
        turn.append(name)
    return turn


def _score_work(state: State, partition: str) -> ScoreWork:
    assert state.champion is not None
    return ScoreWork(
        partition=partition,
        inputs=state._describe(state.data.source, partition),
        history=state.former(partition) | state.history(partition) | state.past(partition),
        version=state.champion,
    )


def _known(job: Job, partition: str) -> None:
    start(partition, job.config.data.partition)
