"""What the suite of one partition cannot see: how the partition differs from those that were accepted before it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import DataError, IntegrityError
from mlops_provider.ledger import Record
from mlops_provider.partitions import LENGTHS, SLACK, parse_duration, shift, start
from mlops_provider.steps.data.leakage import leakage
from mlops_provider.steps.data.profile import (
    Hashes,
    Profile,
    ProfileArguments,
    TableProfile,
    batches,
    hashed,
    key_hashes,
    load,
    profile,
)
from mlops_provider.steps.data.standard import maker
from mlops_provider.steps.data.validation_report import write_report
from mlops_provider.steps.records import DataWork, FeatureVersion
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

_EXAMPLES = 5
_ALLOW = "then set data.changes.duplicates: allow"


class HistoryArguments(Frozen):
    """The partition and its feature table.

    :param accepted: the inputs without the rows that validation put into quarantine; all inputs if it is not given.
    """

    work: DataWork
    table: Artifact
    accepted: Artifact | None = None


class HistoryResult(Frozen):
    """The verdict, the page that shows it, and the accepted partition that this one was held against, if there is one."""

    partition: str
    against: str | None
    verdict: Verdict
    report: Artifact


# Not cached: what it says depends on what has been accepted by now. The costly part of it, the profile, is.
@step("compare_history", arguments=HistoryArguments, result=HistoryResult, cached=False)
def compare_history(job: Job, arguments: HistoryArguments) -> HistoryResult:
    """Holds a partition against the accepted ones, its event times against its name, and its features against the label.

    :raises DataError: if a table of the partition cannot be read.
    :raises IntegrityError: if what was kept of an accepted partition is gone or damaged.
    """
    work, table = arguments.work.model_copy(update={"accepted": arguments.accepted}), arguments.table
    records = job.ledger.records()
    mine = profile(job, ProfileArguments(work=work, table=table)).profile
    compared = against_history(job, work, mine, records)
    checks = (*compared.checks, _event_times(job, work), *leakage(job, table))
    verdict = compared.model_copy(update={"checks": checks})
    known = near(records, work.partition, 1)
    facts = {"rows": str(mine.inputs.rows)} | {
        f"held against {r.partition}": str(r.facts["data"]["tag"]) for r in known
    }
    data = {"inputs": work.inputs, "feature table": table}
    return HistoryResult(
        partition=work.partition,
        against=known[0].partition if known else None,
        verdict=verdict,
        report=write_report(job, verdict, partition=work.partition, suite="history", data=data, facts=facts),
    )


def against_history(job: Job, work: DataWork, mine: Profile, records: tuple[Record, ...]) -> Verdict:
    """The part that depends on the ledger: shapes against the last accepted partition, keys against the last several.

    :raises DataError: if a table of the partition cannot be read.
    :raises IntegrityError: if what was kept of an accepted partition is gone or damaged.
    """
    subject = f"{job.config.name} {work.partition} history"
    others = near(records, work.partition, job.config.data.changes.partitions)
    if not others:
        told = "no other partition has been accepted yet: there is nothing to compare with"
        return Verdict(subject=subject, checks=(Check(name="history", passed=True, detail=told),))
    return Verdict(subject=subject, checks=(*_shapes(job, mine, others[0]), *_duplicates(job, mine, work, others)))


def near(records: tuple[Record, ...], partition: str, count: int) -> list[Record]:
    """The records of the accepted partitions next to one: those before it, the last first; then those after it."""
    newest = {r.partition: r for r in records if r.kind == "data" and r.partition != partition}
    accepted = [newest[name] for name in sorted(newest) if newest[name].outcome == "accepted"]
    before = [r for r in accepted if r.partition < partition]
    return [*reversed(before), *accepted[len(before) :]][:count]


def _shapes(job: Job, mine: Profile, last: Record) -> Iterator[Check]:
    """Rows, columns and nulls against the last accepted partition."""
    file = last.facts.get("profile")
    if file is None:
        told = f"{last.partition} was accepted before profiles were kept: columns, rows and nulls are not compared"
        yield Check(name="history", passed=False, severity="warn", detail=told)
        return
    theirs = load(job, Artifact.model_validate(file))
    yield _row_count(job, mine.inputs, theirs)
    yield from _columns(job, mine.inputs, theirs)
    alike = last.facts.get("maker") in (None, maker(job))
    yield _feature_columns(mine.features, theirs, alike=alike)
    yield from _null_shares(job, "inputs", mine.inputs, theirs.inputs, theirs.partition)
    if alike:
        yield from _null_shares(job, "features", mine.features, theirs.features, theirs.partition)


def _row_count(job: Job, mine: TableProfile, theirs: Profile) -> Check:
    changes, rows = job.config.data.changes, theirs.inputs.rows
    change = (mine.rows - rows) / rows
    return Check(
        name="row_count_jump",
        passed=abs(change) <= changes.row_count,
        value=change,
        threshold=changes.row_count,
        severity=changes.jumps,
        subject="inputs",
        detail=f"{mine.rows} rows, {rows} in {theirs.partition}",
    )


def _columns(job: Job, mine: TableProfile, theirs: Profile) -> Iterator[Check]:
    for name, found in _differences(mine.dtypes, theirs.inputs.dtypes).items():
        yield Check(
            name=name,
            passed=not found,
            value=", ".join(found) or "none",
            threshold=f"as in {theirs.partition}",
            severity=job.config.data.changes.columns,
            subject="inputs",
        )


def _feature_columns(mine: TableProfile, theirs: Profile, *, alike: bool) -> Check:
    """Features are what model.yaml asks for: another set of them is the model's doing, so it is no fault of the data.

    :param alike: whether both were made in the same way; if not, what differs in them says nothing about the data.
    """
    differences = _differences(mine.dtypes, theirs.features.dtypes)
    told = [f"{name.removeprefix('columns_')}: {', '.join(found)}" for name, found in differences.items() if found]
    return Check(
        name="feature_columns",
        passed=not told,
        value="; ".join(told) or "unchanged",
        threshold=f"as in {theirs.partition}",
        severity="warn",
        subject="features",
        detail="" if alike else f"other code made those of {theirs.partition}: their shares of nulls are not compared",
    )


def _differences(mine: dict[str, str], theirs: dict[str, str]) -> dict[str, list[str]]:
    both = sorted(set(mine) & set(theirs))
    return {
        "columns_added": sorted(set(mine) - set(theirs)),
        "columns_removed": sorted(set(theirs) - set(mine)),
        "columns_retyped": [f"{n}: {theirs[n]} to {mine[n]}" for n in both if mine[n] != theirs[n]],
    }


def _null_shares(job: Job, subject: str, mine: TableProfile, theirs: TableProfile, partition: str) -> list[Check]:
    """A check for each column whose share of nulls has moved too far; one that passed if none has."""
    changes, now, before = job.config.data.changes, mine.null_shares, theirs.null_shares
    moved = {name: now[name] - before[name] for name in now if name in before}
    if not moved:
        return [could_not_run("null_share_jump", f"no column is also in {partition}", subject=subject)]
    largest = max(moved, key=lambda name: abs(moved[name]))
    jumps = {name: by for name, by in moved.items() if abs(by) > changes.null_share}
    return [
        Check(
            name="null_share_jump",
            passed=name not in jumps,
            value=by,
            threshold=changes.null_share,
            severity=changes.jumps,
            subject=name if jumps else subject,
            detail=f"{'' if jumps else f'largest of {len(moved)} columns: {name}, '}"
            f"{now[name]:.3g} of the {subject} null, {before[name]:.3g} in {partition}",
        )
        for name, by in (jumps or {largest: moved[largest]}).items()
    ]


def _duplicates(job: Job, mine: Profile, work: DataWork, others: list[Record]) -> list[Check]:
    """A check for each accepted partition that holds a key of this one; one that passed if none does."""
    key, severity = job.config.data.key, job.config.data.changes.duplicates
    if severity == "allow":
        return [Check(name="duplicate_keys", passed=True, subject=key, detail="keys may return, says model.yaml")]
    hashes, found = key_hashes(job, mine), {}
    for record in others:
        # One partition after the other: memory holds the hashes of two.
        alike = hashes[_among(hashes, _their_hashes(job, record))]
        if len(alike) and (keys := _shared(job, work, record, alike)):
            found[record.partition] = keys
    names = sorted(record.partition for record in others)
    looked = f"accepted partitions looked at: {len(names)}, {names[0]} to {names[-1]}"
    return [
        Check(
            name="duplicate_keys",
            passed=False,
            value=float(len(keys)),
            threshold=0.0,
            severity=severity,
            subject=key,
            detail=f"also in {partition}, for instance {', '.join(keys[:_EXAMPLES])}; may keys return? {_ALLOW}",
        )
        for partition, keys in found.items()
    ] or [Check(name="duplicate_keys", passed=True, value=0.0, threshold=0.0, subject=key, detail=looked)]


def _among(hashes: Hashes, others: Hashes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the hashes are also in others (sorted)."""
    place = np.minimum(np.searchsorted(others, hashes), len(others) - 1)
    return np.asarray(others[place] == hashes)


def _their_hashes(job: Job, record: Record) -> Hashes:
    if file := record.facts.get("profile"):
        return key_hashes(job, load(job, Artifact.model_validate(file)))
    return np.sort(hashed(_their_keys(job, record)))


def _shared(job: Job, work: DataWork, record: Record, alike: Hashes) -> list[str]:
    """The keys behind equal hashes that are equal indeed, sorted. Rows in quarantine have none."""
    inputs = work.accepted or work.inputs
    assert inputs is not None
    mine = [batch.column(0) for batch in batches(job.storage, inputs, (job.config.data.key,))]
    theirs = set(_text(_their_keys(job, record), alike))
    return sorted({key for keys in mine for key in _text(keys, alike)} & theirs)


def _text(keys: pa.Array, alike: Hashes) -> list[str]:
    chosen = pc.cast(keys, pa.string()).filter(pa.array(_among(hashed(keys), alike)))
    return [str(key) for key in chosen.to_pylist()]


def _their_keys(job: Job, record: Record) -> pa.Array:
    """The keys of an accepted version, out of the data repository."""
    from mlops_provider.steps.data.snapshot import read

    version, key = FeatureVersion.model_validate(record.facts["data"]), job.config.data.key
    try:
        return read(job, version, [key]).column(key).combine_chunks()
    except DataError as error:
        # Not the fault of the partition that is judged: it must not be refused for it.
        raise IntegrityError(f"the keys of the accepted partition {version.partition} are lost: {error}") from error


def _event_times(job: Job, work: DataWork) -> Check:
    """Whether the event times lie in the partition, with the slack that a local calendar needs."""
    data, name = job.config.data, "event_times_in_partition"
    first, last = start(work.partition, data.partition), start(shift(work.partition, data.partition, 1), data.partition)
    inputs = work.accepted or work.inputs
    assert inputs is not None
    slack = parse_duration(data.changes.slack) if data.changes.slack else min(SLACK, LENGTHS[data.partition])
    rows = early_or_late = beyond = 0
    for batch in batches(job.storage, inputs, (data.event_time,)):
        times = batch.column(0)
        if not (pa.types.is_timestamp(times.type) and times.type.tz):
            told = f"expected a timestamp with a time zone, found {times.type}"
            return could_not_run(name, told, subject=data.event_time)
        rows += len(times)
        early_or_late += _outside(times, first, last)
        beyond += _outside(times, first - slack, last + slack)
    return Check(
        name=name,
        passed=not beyond,
        value=float(beyond),
        threshold=0.0,
        subject=data.event_time,
        detail=f"rows more than {slack} outside; {early_or_late} of {rows} are outside {work.partition} in UTC",
    )


def _outside(times: pa.Array, first: dt.datetime, last: dt.datetime) -> int:
    """How many times do not lie in [first, last); nulls among them."""
    low, high = (pa.scalar(moment, pa.timestamp("us", tz="UTC")).cast(times.type) for moment in (first, last))
    inside = pc.and_(pc.greater_equal(times, low), pc.less(times, high))
    return len(times) - int(pc.sum(inside).as_py() or 0)
