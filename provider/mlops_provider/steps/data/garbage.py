"""Garbage collection: content of data versions that nothing needs any more is removed from the DVC remote.

What is removed is worked out from this model's ledger and never from a listing of the remote, so that content of others is
safe. A version stays if it is among the newest of its partition, if a registered model version names it (ours, or one that
somebody made by hand in MLflow) or a planned training, if another model's ledger does, or a branch or tag in git. All of it
must have been so for the length of the grace period.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable

from pydantic import Field

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConflictError
from mlops_provider.steps import registry
from mlops_provider.steps.data import versions
from mlops_provider.steps.data.remote import Remote
from mlops_provider.steps.data.repository import Refs, repository
from mlops_provider.steps.data.versions import Known
from mlops_provider.steps.records import ModelVersion, Split
from mlops_provider.steps.step import Job, step

# The ledger learns of a version a little later than git.
_SLACK = dt.timedelta(hours=1)

log = logging.getLogger("mlops_provider")


class GarbageArguments(Frozen):
    """:param keep: newest versions of each partition that stay, whether used or not.
    :param grace: hours that a version must have been superseded and its content have lain there.
    :param purged: numbers of model versions that were deleted in MLflow together with their runs, so that it does not know
        them any more.
    :param delete: whether to delete; otherwise it is only told what would be.
    """

    keep: int = Field(2, ge=1)
    grace: float = Field(168.0, ge=1)
    purged: tuple[int, ...] = ()
    delete: bool = False


class Garbage(Frozen):
    """A version whose content is not needed."""

    partition: str
    tag: str
    md5: str
    size: int


class Collected(Frozen):
    """What was, or would be, removed.

    :param kept: versions that stay.
    :param size: bytes of the content removed.
    """

    deleted: bool
    garbage: tuple[Garbage, ...]
    kept: int
    size: int


@step("collect_garbage", arguments=GarbageArguments, result=Collected, cached=False)
def collect_garbage(job: Job, arguments: GarbageArguments) -> Collected:
    """Removes content that nothing needs: first the tag that names it, then the content.

    A snapshot that brings removed content back meanwhile is safe: it writes the content anew, which makes it too young to be
    removed, and looks again once its pointer is pushed.

    :raises ConflictError: if MLflow does not know a version that it should know: it may be the wrong one.
    :raises MlopsError: if anything that may name a version cannot be read. Nothing is removed then.
    """
    place, before = repository(job), _now() - dt.timedelta(hours=arguments.grace)
    _registrations_are_finished(job)
    every = versions.known(job, job.ledger.records())
    refs = place.refs()
    needed = _needed(job, every, refs, arguments.keep, before)
    idle = [one for one in every if one.data.md5 not in needed and _old(place.remote, one, before)]
    registered = [one for one in _registered_by_us(job) if one.version not in arguments.purged]
    if registered or idle:  # before there is either, no MLflow can be the wrong one
        registry.require_ours(job, registered)
    if arguments.delete and idle:
        mine = {one.data.tag for one in idle}
        place.forget({tag: sha for tag, sha in refs.tags.items() if tag in mine})
        idle = [one for one in idle if _old(place.remote, one, before)]
        for one in idle:
            log.info("removing %s, %d bytes", one.data.tag, one.data.size)
            place.remote.remove(one.data.md5)
    if arguments.delete:
        place.remote.sweep(before)
    garbage = tuple(
        Garbage(partition=one.data.partition, tag=one.data.tag, md5=one.data.md5, size=one.data.size) for one in idle
    )
    size = sum({g.md5: g.size for g in garbage}.values())
    return Collected(deleted=arguments.delete, garbage=garbage, kept=len(every) - len(idle), size=size)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _registered_by_us(job: Job) -> list[ModelVersion]:
    return [ModelVersion.model_validate(r.facts["version"]) for r in job.ledger.records() if r.kind == "candidate"]


def _registrations_are_finished(job: Job) -> None:
    """A registration that was cut off may have left a version in MLflow that the ledger does not know yet.

    :raises ConflictError: if there is one.
    """
    known = {one.fingerprint for one in _registered_by_us(job)}
    begun = {name.removesuffix(".json") for name in job.storage.names(job.under("claims"))}
    if unfinished := sorted(begun - known):
        raise ConflictError(
            f"{job.config.name}: the registration of {unfinished[0][:12]} was begun and is not in the ledger: what it was "
            f"trained on may not be removed. Let ct finish it, or delete {job.under('claims', unfinished[0])}.json"
        )


def _needed(job: Job, every: tuple[Known, ...], refs: Refs, keep: int, before: dt.datetime) -> set[str]:
    """md5s that somebody needs, for whatever reason."""
    recent = {one.data.md5 for one in every if one.superseded is None or one.superseded > before}
    used = {one.data.md5 for one in every if one.used}
    needed = recent | used | _newest(every, keep) | _planned(job, before) | _of_other_models(job) | refs.named
    needed |= _registered(job, every)
    own = {one.data.tag for one in every}
    foreign = {digits for tag, digits in refs.versions.items() if tag not in own}
    return needed | {one.data.md5 for one in every if one.data.md5[:12] in foreign}


def _newest(every: Iterable[Known], keep: int) -> set[str]:
    partitions: dict[str, list[str]] = {}
    for one in every:
        partitions.setdefault(one.data.partition, []).append(one.data.md5)
    return {md5 for found in partitions.values() for md5 in found[-keep:]}


def _planned(job: Job, before: dt.datetime) -> set[str]:
    """Data of trainings that were planned lately, and may be at work."""
    folder = job.under("splits")
    found: set[str] = set()
    for name in job.storage.names(folder):
        uri = f"{folder}/{name}"
        written = job.storage.modified(uri)
        if written is not None and written >= before:
            split = Split.model_validate(job.storage.read_json(uri))
            found |= {data.md5 for data in (*split.fit, split.holdout)}
    return found


def _registered(job: Job, every: tuple[Known, ...]) -> set[str]:
    """What MLflow's versions of the model name by tag, md5 or place; with a commit, all that was accepted at its time."""
    said = registry.said_of_versions(job, {one.fingerprint for one in _registered_by_us(job)})
    named = {one.data.md5 for one in every if any(word in said for word in _words(one.data.md5))}
    return named.union(*(_in_force(every, one.accepted) for one in every if one.data.rev in said))


def _words(md5: str) -> tuple[str, str]:
    """How content is named: in tags of the repository and by its whole md5, or as a place in the remote."""
    return md5[:12], f"{md5[:2]}/{md5[2:12]}"


def _in_force(every: tuple[Known, ...], at: dt.datetime) -> set[str]:
    return {
        one.data.md5
        for one in every
        if one.accepted <= at + _SLACK and (one.superseded is None or one.superseded > at - _SLACK)
    }


def _of_other_models(job: Job) -> set[str]:
    """Content that other models' ledgers accepted: the same content is one object in the remote."""
    models = [name for name in job.storage.names(job.deployment.under("ledger")) if name != job.config.name]
    records = (record for model in models for record in job.deployment.ledger(model).records())
    return {r.facts["data"]["md5"] for r in records if r.kind == "data" and r.outcome == "accepted"}


def _old(remote: Remote, one: Known, before: dt.datetime) -> bool:
    """Whether the content is there, and has been for long."""
    written = remote.written(one.data.md5)
    return written is not None and written < before
