"""Promotion and rollback: one record in the ledger is the decision, the registry's alias follows it."""

from __future__ import annotations

import logging

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConflictError, Refused, RequestError
from mlops_provider.ledger import Draft, Guard, Record, champion, decision_on
from mlops_provider.steps import registry
from mlops_provider.steps.records import Judged, ModelVersion, Released
from mlops_provider.steps.release.gate import GateArguments, gate
from mlops_provider.steps.step import Job, step

log = logging.getLogger("mlops_provider")


class PromoteArguments(Frozen):
    """:param judged: what the gate found; it is asked again if the champion has changed since."""

    version: ModelVersion
    judged: Judged
    again: bool = False


class RollbackArguments(Frozen):
    """:param version: the version to go back to; the champion before the present one if None.
    :param request: what makes a rerun known as the same request, such as a DAG run.
    """

    version: int | None = None
    reason: str = "asked for"
    request: str = ""


@step("promote", arguments=PromoteArguments, result=Released, cached=False)
def promote(job: Job, arguments: PromoteArguments) -> Released:
    """Makes a judged candidate the champion.

    The record names the champion that the gate compared with. If that one is champion no longer, the gate judges again.

    :raises Refused: if the gate, asked again, refuses; or if the candidate is a drill.
    :raises RequestError: if the verdict is about another version, or promotes although a check stands in the way.
    """
    version, judged = arguments.version, arguments.judged
    _fits(version, judged)
    if version.drill:
        raise Refused(
            f"version {version.version} is a drill ({version.drill}): it is never promoted, whatever the gate says"
        )
    for _ in range(10):
        if not judged.promote:
            raise Refused(f"version {version.version}: {judged.reason}")
        try:
            record = _recorded(job, version, judged, again=arguments.again)
            break
        except ConflictError:
            log.info("the champion changed while version %d was judged; the gate is asked again", version.version)
            judged = gate(job, GateArguments(version=version, again=arguments.again))
    else:
        raise ConflictError(f"version {version.version}: the champion changed ten times while it was judged")
    return _projected(job, record)


@step("rollback", arguments=RollbackArguments, result=Released, cached=False)
def rollback(job: Job, arguments: RollbackArguments) -> Released:
    """Makes an earlier champion the champion again.

    :raises RequestError: if there is no such version among the champions of the past.
    """
    while True:
        records = job.ledger.records()
        if arguments.version is None and (begun := _begun(job, records, arguments.request)):
            return _projected(job, begun)
        target = _target(records, arguments.version)
        now = champion(records)
        assert now is not None
        if now.version == target.version:
            return _projected(job, now)
        facts = {"version": target.facts["version"], "champion": now.version, "request": arguments.request}
        draft = Draft(
            kind="rollback",
            partition=target.partition,
            version=target.version,
            outcome="rolled_back",
            reason=f"from version {now.version} to {target.version}: {arguments.reason}",
            facts=facts,
        )
        try:
            record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=_champion_is(now.version))
        except ConflictError:
            continue
        return _projected(job, record)


def repair(job: Job) -> bool:
    """Brings the alias back to what the ledger says; returns whether it had to be moved.

    A promotion that was cut off between the record and the alias is finished by the next task that comes by.
    """
    record = champion(job.ledger.records())
    return bool(record and record.version is not None and registry.point_champion(job, record.version))


def _begun(job: Job, records: tuple[Record, ...], request: str) -> Record | None:
    """A rollback that was decided and then cut off: a rerun finishes it and does not go back once more."""
    head = champion(records)
    if head is None or head.kind != "rollback":
        return None
    same = bool(request) and head.facts.get("request") == request
    return head if same or repair(job) else None


def _target(records: tuple[Record, ...], version: int | None) -> Record:
    past = [r for r in records if r.kind in ("promotion", "rollback")]
    if not past:
        raise RequestError("there has been no champion yet: nothing to roll back to")
    if version is None:
        found = [r for r in past if r.version != past[-1].version]
        missing = f"version {past[-1].version} is the only champion there ever was"
    else:
        found = [r for r in past if r.version == version]
        missing = f"version {version} was never champion; the champions were {sorted({str(r.version) for r in past})}"
    if not found:
        raise RequestError(f"{missing}: nothing to roll back to")
    return found[-1]


def _fits(version: ModelVersion, judged: Judged) -> None:
    if judged.version != version.version:
        raise RequestError(
            f"the verdict is about version {judged.version}: it cannot promote version {version.version}"
        )
    if judged.promote and not judged.verdict.passed:
        raise RequestError(f"the verdict on version {version.version} did not pass: {judged.verdict.reason()}")


def _recorded(job: Job, version: ModelVersion, judged: Judged, *, again: bool) -> Record:
    against = judged.evaluation.champion_version
    draft = Draft(
        kind="promotion",
        partition=version.split.holdout,
        version=version.version,
        outcome="promoted",
        reason=judged.reason,
        facts={
            "champion": against,
            "version": version.model_dump(mode="json"),
            "judged": judged.model_dump(mode="json"),
        },
    )
    unchanged = _champion_is(against)

    def guard(records: tuple[Record, ...]) -> Record | None:
        decided = decision_on(records, version.version)
        if decided and not again:
            if decided.kind == "promotion":
                return decided
            raise Refused(f"version {version.version} was refused in the meantime: {decided.reason}")
        now = champion(records)
        return now if now and now.version == version.version else unchanged(records)

    return job.ledger.append(draft, actor=job.deployment.actor, guard=guard)[0]


def _champion_is(version: int | None) -> Guard:
    def guard(records: tuple[Record, ...]) -> Record | None:
        now = champion(records)
        if (now.version if now else None) != version:
            raise ConflictError(f"the champion is no longer version {version}")
        return None

    return guard


def _projected(job: Job, record: Record) -> Released:
    """Writes the decision through to the registry. The head of the ledger counts, should it have moved on."""
    repair(job)
    assert record.version is not None
    now = champion(job.ledger.records())
    if now and now.version != record.version:
        log.warning(
            "version %s was made champion by record %d; since record %d it is version %s",
            *(record.version, record.number, now.number, now.version),
        )
    return Released(
        version=record.version, previous=record.facts.get("champion"), record=record.number, reason=record.reason
    )
