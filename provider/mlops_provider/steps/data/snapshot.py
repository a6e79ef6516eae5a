"""Versions of accepted data: content into the DVC remote, the pointer into git, the decision into the ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_provider.checks import Frozen, Verdict, merge
from mlops_provider.exceptions import DataError, Transient
from mlops_provider.ledger import Draft, Record
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.history import against_history
from mlops_provider.steps.data.profile import ProfileArguments, profile
from mlops_provider.steps.data.remote import Pointer
from mlops_provider.steps.data.repository import Repository, repository
from mlops_provider.steps.data.standard import maker, meaning, standard
from mlops_provider.steps.records import DataWork, FeatureVersion
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, digest


class SnapshotArguments(Frozen):
    """The partition, its feature table, and the verdicts that let it in.

    :param accepted: the inputs without the rows that validation put into quarantine; None if all of them are accepted.
    :param quarantined: the rows of the feature table that validation put into quarantine; None if there are none.
    """

    work: DataWork
    table: Artifact
    verdicts: tuple[Verdict, ...]
    accepted: Artifact | None = None
    quarantined: Artifact | None = None


class SnapshotResult(Frozen):
    """The version, and the number of the ledger record that accepted it."""

    partition: str
    data: FeatureVersion
    record: int


class RefuseArguments(Frozen):
    """The partition and why it is refused.

    :param by_code: whether the model's code took part, so that other code may come to another verdict.
    """

    work: DataWork
    reason: str
    by_code: bool = False


class RefuseResult(Frozen):
    """The number of the ledger record that refused the partition."""

    partition: str
    record: int


@step("snapshot", arguments=SnapshotArguments, result=SnapshotResult, cached=False)
def snapshot(job: Job, arguments: SnapshotArguments) -> SnapshotResult:
    """Versions the feature table of an accepted partition and records that it was accepted.

    Content first, pointer last: no pointer ever names content that is not in the remote. Unchanged content keeps its version.
    A rerun after a kill at any point goes on from what is there.

    :raises Refused: if a verdict did not pass.
    :raises AccessDenied: if the repository or the remote does not let us in, which is found out before anything is read.
    :raises Transient: if the repository or the remote cannot be reached, or a disk is full.
    """
    # Whoever reads the inputs of this partition later must not see rows that no model was allowed to see.
    aside = {"accepted": arguments.accepted, "quarantined": arguments.quarantined}
    work = arguments.work.model_copy(update=aside)
    verdict = merge(f"{job.config.name} {work.partition} data", arguments.verdicts).require()
    version = _versioned(job, work.partition, arguments.table)
    profiled = profile(job, ProfileArguments(work=work, table=arguments.table))
    facts = {
        "identity": work.identity,
        "meaning": meaning(job),
        "maker": maker(job),
        "work": work.model_dump(mode="json"),
        "data": version.model_dump(mode="json"),
        "profile": profiled.file.model_dump(mode="json"),
        "warnings": [c.name for c in verdict.checks if not c.passed],
        "checked": {c.name: c.state for c in sorted(verdict.checks, key=lambda c: not c.passed)},
    }
    # Not how many checks there were: what there is to compare with depends on what was accepted by then.
    reason = f"all checks passed; {version.rows} rows, {version.labelled} labelled, {version.tag}"
    draft = Draft(kind="data", partition=work.partition, outcome="accepted", reason=reason, facts=facts)
    same = _same(draft)

    def guard(records: tuple[Record, ...]) -> Record | None:
        # Partitions that are judged at the same time do not see each other before one of them is accepted.
        known: Record | None = same(records)
        if known is None:
            against_history(job, work, profiled.profile, records).require()
        return known

    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=guard)
    return SnapshotResult(partition=work.partition, data=version, record=record.number)


@step("refuse_data", arguments=RefuseArguments, result=RefuseResult, cached=False)
def refuse_data(job: Job, arguments: RefuseArguments) -> RefuseResult:
    """Records that a partition was refused, so that it is judged again only once its files or what judged it have changed."""
    work = arguments.work
    facts = {
        "identity": work.identity,
        "work": work.model_dump(mode="json"),
        "standard": standard(job, code=arguments.by_code),
        "by_code": arguments.by_code,
    }
    draft = Draft(kind="data", partition=work.partition, outcome="refused", reason=arguments.reason, facts=facts)
    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=_same(draft))
    return RefuseResult(partition=work.partition, record=record.number)


def _same(draft: Draft) -> Any:
    """A guard: the newest word on this partition says the same already."""

    def guard(records: tuple[Record, ...]) -> Record | None:
        newest = next((r for r in reversed(records) if r.kind == "data" and r.partition == draft.partition), None)
        if newest is None or newest.outcome != draft.outcome or newest.facts["identity"] != draft.facts["identity"]:
            return None
        return newest if _identity(newest) == _identity(draft) else None

    return guard


def _identity(said: Draft | Record) -> Any:
    """What makes two versions or refusals one; records of old tell less about them."""
    data, work = said.facts.get("data") or {}, said.facts.get("work") or {}
    aside = [(work.get(key) or {}).get("hash") for key in ("accepted", "quarantined")]
    return [
        *(said.facts.get(key) for key in ("standard", "meaning", "maker")),
        *(data.get(key) for key in ("rev", "tag", "md5")),
        *aside,
    ]


def read(job: Job, version: FeatureVersion, columns: list[str] | None = None) -> Any:
    """The pyarrow table of a data version, out of the DVC remote, verified by DVC's hash. Git is not needed for it.

    If model.yaml names another remote by now, it is read where it was put.

    :raises DataError: if the remote lacks the content or holds other content.
    """
    holder = repository(job).holder(version, Pointer(md5=version.md5))
    content = holder.read(version.md5, version.tag)
    return pq.read_table(pa.BufferReader(content), columns=columns)


def _versioned(job: Job, partition: str, table: Artifact) -> FeatureVersion:
    place = repository(job)
    try:
        place.probe(write=True)
        with tempfile.TemporaryDirectory(prefix="mlops-snapshot-", ignore_cleanup_errors=True) as folder:
            return _added(job, place, partition, table, Path(folder, "table.parquet"))
    except OSError as error:
        raise Transient(f"{job.config.name} {partition} was not versioned: {error}") from error


def _added(job: Job, place: Repository, partition: str, table: Artifact, file: Path) -> FeatureVersion:
    data = job.config.data
    job.storage.download(table, file)
    known = _described(file, data.event_time, table.uri)
    path = f"{data.dvc.path}/{partition}.parquet"
    stored = place.add(file, path, f"{job.config.name} {partition}")
    return FeatureVersion(
        partition=partition,
        rev=stored.rev,
        tag=stored.tag,
        path=path,
        md5=stored.pointer.md5,
        size=stored.pointer.size or 0,
        files=stored.pointer.files,
        uri=place.remote.uri(stored.pointer.md5),
        maker=maker(job),
        **known,
    )


def _described(file: Path, event_time: str, where: str) -> dict[str, Any]:
    """What a version tells of its table; only the columns that it takes are read."""
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        tables.require(schema.names, [event_time, LABEL], where)
        table = parquet.read(columns=[event_time, LABEL])
    except pa.ArrowException as error:
        raise DataError(f"{where} is no readable parquet file, perhaps truncated: {error}") from error
    extremes = pc.min_max(table.column(event_time)).as_py()
    return {
        "rows": table.num_rows,
        "labelled": table.num_rows - table.column(LABEL).null_count,
        "first": extremes["min"],
        "last": extremes["max"],
        "schema_hash": digest([[field.name, str(field.type)] for field in schema]),
    }
