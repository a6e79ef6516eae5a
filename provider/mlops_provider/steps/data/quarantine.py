"""Quarantine: the rows that break a critical expectation are put aside with the reason, the rest goes on.

Both are written in one pass over the dataset, batch by batch, and what goes on is judged once more: taking rows away may break
what held before, a number of rows for instance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import DataError
from mlops_provider.steps.data.batches import Batch, Mask
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import Judged
from mlops_provider.steps.data.streamed_columns import UniqueValues
from mlops_provider.steps.data.streamed_rows import Rows
from mlops_provider.steps.data.suite import Expectation, Suite
from mlops_provider.storage import Artifact, Storage, file_hash, join

REASON = "reason"

Broken = Callable[[Batch], Mask]


@dataclass(frozen=True)
class Separated:
    """What was put aside, and what goes on; None where too much would have been put aside."""

    rows: int
    aside: int
    accepted: Artifact | None = None
    quarantined: Artifact | None = None


def breakers(judged: Judged) -> dict[Expectation, Broken] | None:
    """Which rows break each failed critical expectation; None if one of these is no matter of single rows."""
    found: dict[Expectation, Broken] = {}
    for expectation in judged.suite.expectations:
        outcome = judged.found.get(expectation.place)
        if outcome is None or outcome.error:
            return None
        if expectation.severity != "critical" or outcome.passed:
            continue
        broken = _broken(judged, expectation)
        if broken is None:
            return None
        found[expectation] = broken
    return found


def _broken(judged: Judged, expectation: Expectation) -> Broken | None:
    streamed = judged.streamed.get(expectation.place)
    if isinstance(streamed, Rows) or (isinstance(streamed, UniqueValues) and streamed.whole):
        return streamed.broken
    numbers = np.array(sorted(judged.rows.get(expectation.place, ())), np.int64)
    if not len(numbers) or len(numbers) != judged.found[expectation.place].count:
        return None

    def broken(batch: Batch) -> Mask:
        mask: Mask = np.zeros(batch.rows, np.bool_)
        low, high = np.searchsorted(numbers, (batch.begin, batch.begin + batch.rows))
        mask[numbers[low:high] - batch.begin] = True
        return mask

    return broken


def separate(
    dataset: Dataset,
    broken: dict[Expectation, Broken],
    storage: Storage,
    place: Callable[[str], str],
    max_share: float,
    hidden: frozenset[str] = frozenset(),
) -> Separated:
    """Writes the rows that break something, and the others, as parquet files named by content.

    :param place: folder of a room, ``accepted`` or ``quarantine``.
    :param hidden: columns whose values are not written: they are null in both files.
    :raises DataError: if the dataset has a column of the name that is needed for the reason.
    """
    if REASON in dataset.schema.names:
        raise DataError(f"{dataset.uri} has a column {REASON!r}: quarantine writes one of that name, rename it")
    with tempfile.TemporaryDirectory(prefix="mlops-quarantine-") as folder:
        kept, aside = Path(folder, "accepted"), Path(folder, "quarantine")
        rows, count = _written(dataset, broken, kept, aside, hidden)
        if count > max_share * rows or count == rows:
            return Separated(rows, count)
        return Separated(
            rows,
            count,
            accepted=_uploaded(storage, kept, place("accepted"), rows - count),
            quarantined=_uploaded(storage, aside, place("quarantine"), count),
        )


def shown(suite: Suite, hidden: frozenset[str]) -> Suite | None:
    """The suite without what it asks of hidden columns, whose values the accepted rows no longer have; None if nothing is
    left of it."""
    left = tuple(e for e in suite.expectations if not _asks_of(e, hidden))
    return replace(suite, expectations=left) if left else None


def _asks_of(expectation: Expectation, hidden: frozenset[str]) -> bool:
    condition = str(expectation.kwargs.get("row_condition") or "")
    return any(name in expectation.columns or name in condition for name in hidden)


def _written(
    dataset: Dataset, broken: dict[Expectation, Broken], kept: Path, aside: Path, hidden: frozenset[str]
) -> tuple[int, int]:
    rows = count = 0
    schema = pa.schema([field.with_nullable(field.nullable or field.name in hidden) for field in dataset.schema])
    with (
        pq.ParquetWriter(kept, schema, compression="zstd") as good,
        pq.ParquetWriter(aside, schema.append(pa.field(REASON, pa.string())), compression="zstd") as bad,
    ):
        for batch in dataset.batches():
            masks = {e: test(Batch.of(batch, rows, None)) for e, test in broken.items()}
            any_broken = np.logical_or.reduce(list(masks.values()))
            batch = _without_values(batch, schema, hidden)
            good.write_batch(batch.filter(pa.array(~any_broken)))
            bad.write_batch(_reasoned(batch, masks, any_broken))
            rows += batch.num_rows
            count += int(np.count_nonzero(any_broken))
    return rows, count


def _without_values(batch: pa.RecordBatch, schema: pa.Schema, hidden: frozenset[str]) -> pa.RecordBatch:
    arrays = [pa.nulls(batch.num_rows, c.type) if c.name in hidden else batch.column(c.name) for c in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _reasoned(batch: pa.RecordBatch, masks: dict[Expectation, Mask], any_broken: Mask) -> pa.RecordBatch:
    at = np.flatnonzero(any_broken)
    reasons = ["; ".join(f"{e.name} ({e.subject})" for e, mask in masks.items() if mask[row]) for row in at]
    return batch.filter(pa.array(any_broken)).append_column(REASON, pa.array(reasons, pa.string()))


def _uploaded(storage: Storage, path: Path, stem: str, rows: int) -> Artifact:
    return storage.upload(path, f"{stem}-{file_hash(path)[:32]}.parquet", rows=rows)


def explained(verdict: Verdict, separated: Separated, max_share: float, again: Verdict | None) -> Verdict:
    """The verdict once the rows are apart: what they broke is a warning, unless they are too many.

    :param again: the verdict on the accepted rows; what fails among those fails the whole. None if there are none, or if
        the suite asks of nothing but hidden columns.
    """
    share = separated.aside / separated.rows
    count = Check(
        name="quarantined_rows",
        passed=separated.accepted is not None,
        value=float(separated.aside),
        threshold=f"at most {max_share:.3g} of {separated.rows} rows",
        detail=f"{share:.3%} of the rows break a critical expectation",
    )
    if separated.accepted is None:
        return Verdict(subject=verdict.subject, checks=(*verdict.checks, count))
    problems = again.problems if again else ()
    left = [c.model_copy(update={"detail": _also(c, "among the accepted rows")}) for c in problems]
    return Verdict(subject=verdict.subject, checks=(*softened(verdict.checks, "rows quarantined"), count, *left))


def softened(checks: Iterable[Check], why: str) -> tuple[Check, ...]:
    """The checks with every failure made a warning. What could not be checked stays an error."""
    return tuple(
        c.model_copy(update={"severity": "warn", "detail": _also(c, why)}) if c.state == "fail" else c for c in checks
    )


def _also(check: Check, why: str) -> str:
    return f"{why}: {check.detail}" if check.detail else why


def folder(under: Callable[..., str], suite: str, partition: str) -> Callable[[str], str]:
    """Where accepted and quarantined rows of a partition go, without the hash of their content."""

    def place(room: str) -> Any:
        return join(under(room, partition or "unpartitioned"), suite)

    return place
