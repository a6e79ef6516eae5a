"""The prediction log: one schema for what was predicted in batch and online, and its reader as of a clock.

| column | type | what it holds |
|---|---|---|
| ``data.key`` | text | the entity; whole numbers as their digits. A batch table keeps the type in which inputs are delivered |
| ``data.event_time`` | timestamp[us, UTC] | of the event that is predicted |
| ``group`` | text | of a ranking: what is ranked against each other |
| ``score`` | double | the score; of classes that of the likeliest |
| ``label`` | bool, or text | what is decided by it: at or above the cut, or the likeliest class |
| ``scores`` | list of double | of all classes, in the order of ``data.label.classes`` |
| ``rank`` | int32 | of a ranking: the place in its group, 1 is first |
| ``model``, ``version`` | text, int32 | what predicted |
| ``scored_at`` | timestamp[us, UTC] | when it was predicted |
| ``variant`` | text | ``champion``, or what the serving side calls it |
| ``source`` | text | ``batch``, or the online target |
| ``inputs``, ``row`` | text, int64 | URI of the file with the inputs, and the number of the row in it, from 0 |
| ``features`` | text | the inputs of an online request, as a JSON object; null where `inputs` is given |

A model has those of ``group``, ``label``, ``scores`` and ``rank`` that its objective gives. No column of ``data.pii`` is ever
in it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.partitions import start
from mlops_provider.steps import tables
from mlops_provider.steps.data.profile import batches
from mlops_provider.steps.data.rows import GROUP
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.release.ab_assign import texts
from mlops_provider.steps.scoring.online_files import live
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact

CHAMPION = "champion"
BATCH = "batch"
NAME = r"[A-Za-z0-9][A-Za-z0-9_. -]{0,62}"
MOMENT = pa.timestamp("us", tz="UTC")
_NAMES = pa.dictionary(pa.int32(), pa.string())
_DECIDED: dict[str, dict[str, pa.DataType]] = {
    "binary": {"score": pa.float64(), "label": pa.bool_()},
    "multiclass": {"score": pa.float64(), "label": _NAMES, "scores": pa.list_(pa.float64())},
    "regression": {"score": pa.float64()},
    "lambdarank": {GROUP: pa.string(), "score": pa.float64(), "rank": pa.int32()},
}
_MADE = {
    "model": _NAMES,
    "version": pa.int32(),
    "scored_at": MOMENT,
    "variant": _NAMES,
    "source": _NAMES,
    "inputs": _NAMES,
    "row": pa.int64(),
    "features": pa.string(),
}
# Batch tables of old lack these; what their manifest says stands in for them.
_LATER = {"variant", "source", "inputs", "row", "features"}


def schema(config: ModelConfig) -> pa.Schema:
    """The columns of a model's prediction log."""
    first = {config.data.key: pa.string(), config.data.event_time: MOMENT}
    return pa.schema([*(first | _DECIDED[config.training.objective] | _MADE).items()])


def require_no_personal(config: ModelConfig, names: Iterable[str]) -> None:
    """:raises DataError: naming the columns that `data.pii` keeps out of the log."""
    if marked := sorted(set(names) & set(config.data.pii) - set(schema(config).names)):
        raise DataError(
            f"{config.name}: data.pii names {', '.join(marked)}, whose values are written nowhere: take them out of what is "
            "to be logged"
        )


def batch_table(
    config: ModelConfig, scored: Mapping[str, Any], *, version: ModelVersion, inputs: Artifact, at: dt.datetime
) -> pa.Table:
    """A scored partition as the log has it, its rows in the order of the inputs.

    :param scored: key, event time and what is said of the scores, columns [n].
    :param inputs: the file that was scored.
    :param at: when.
    """
    require_no_personal(config, scored)
    found = pa.table(dict(scored))
    time = config.data.event_time
    constants = {
        "model": version.model,
        "version": version.version,
        "scored_at": at,
        "variant": CHAMPION,
        "source": BATCH,
        "inputs": inputs.uri,
    }
    columns = {name: found[name] for name in found.column_names} | {time: _moments(found[time])}
    columns |= {name: _repeated(value, _MADE[name], len(found)) for name, value in constants.items()}
    return pa.table({**columns, "row": pa.array(range(len(found))), "features": pa.nulls(len(found), pa.string())})


def read(job: Job, partitions: Sequence[str], *, as_of: dt.datetime | None = None) -> Iterator[pa.RecordBatch]:
    """All predictions of these partitions that were made up to a moment, in batch and online, batch by batch.

    There is one row for each key, version, variant and time of prediction; a row that was logged twice comes once.

    :param partitions: of the event time; one that has no predictions gives none.
    :param as_of: with its time zone; now if None.
    :raises RequestError: for what is no partition, or a moment without a time zone.
    """
    names = list(dict.fromkeys(partitions))
    for name in names:
        start(name, job.config.data.partition)
    clock = moment(as_of)
    return (batch for name in names for batch in _partition(job, name, clock))


def moment(as_of: dt.datetime | None) -> dt.datetime:
    """The moment that is asked about; now if None.

    :raises RequestError: if it has no time zone.
    """
    if as_of is not None and as_of.tzinfo is None:
        raise RequestError(f"as_of {as_of.isoformat()} has no time zone: give one, for instance +00:00")
    return as_of or dt.datetime.now(dt.UTC)


def _partition(job: Job, partition: str, clock: dt.datetime) -> Iterator[pa.RecordBatch]:
    files = live(job, partition)
    seen: set[tuple[Any, ...]] = set()
    for batch in _in_batch(job, partition, clock):
        if files:
            unseen(job, batch, seen)
        yield batch
    yield from _made_online(job, files, clock, seen)


def _in_batch(job: Job, partition: str, clock: dt.datetime) -> Iterator[pa.RecordBatch]:
    found = manifest(job, partition)
    if found is None or found.scored_at > clock:
        return
    row = 0
    for batch in batches(job.storage, found.table):
        stand_in = {"variant": CHAMPION, "source": BATCH, "inputs": found.inputs.uri, "row": row}
        yield conformed(job.config, batch, found.table.uri, stand_in)
        row += batch.num_rows


def _made_online(
    job: Job, files: Iterable[Artifact], clock: dt.datetime, seen: set[tuple[Any, ...]]
) -> Iterator[pa.RecordBatch]:
    limit = pa.scalar(clock, MOMENT)
    for file in files:
        for batch in batches(job.storage, file):
            whole = conformed(job.config, batch, file.uri)
            found = whole.filter(pc.less_equal(whole.column("scored_at"), limit))
            found = found.filter(pa.array(unseen(job, found, seen), pa.bool_()))
            if found.num_rows:
                yield found


def unseen(job: Job, batch: pa.RecordBatch, seen: set[tuple[Any, ...]]) -> list[bool]:
    """Which rows are predictions that were not seen before, and notes all of them as seen.

    :param batch: in the schema of the log, [n].
    """
    made = batch.column("scored_at").cast(pa.int64()).to_pylist()
    columns = (batch.column(name).to_pylist() for name in (job.config.data.key, "version", "variant"))
    found = []
    for identity in zip(*columns, made, strict=True):
        found.append(identity not in seen)
        seen.add(identity)
    return found


def conformed(
    config: ModelConfig, batch: pa.RecordBatch, uri: str, stand_in: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """A batch of a file of the log in the schema of today.

    :param stand_in: for columns that files of old lack; of ``row`` the number of the first.
    :raises DataError: if it lacks another column, or holds one with values of another meaning.
    """
    wanted, given = schema(config), stand_in or {}
    tables.require(batch.schema.names, [n for n in wanted.names if not (stand_in and n in _LATER)], uri)
    arrays = []
    for field in wanted:
        if field.name in batch.schema.names:
            arrays.append(_cast(config, batch.column(field.name), field, uri))
        elif field.name == "row":
            arrays.append(pa.array(range(given["row"], given["row"] + batch.num_rows), pa.int64()))
        else:
            arrays.append(_repeated(given.get(field.name), field.type, batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _cast(config: ModelConfig, column: pa.Array, field: pa.Field, uri: str) -> pa.Array:
    try:
        if field.name in (config.data.key, GROUP):
            return texts(column, f"{uri}: the column {field.name!r}")
        if pa.types.is_timestamp(field.type):
            return _moments(column)
        if pa.types.is_dictionary(field.type):
            plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            return plain.cast(pa.string()).dictionary_encode()
        return column.cast(field.type)
    except pa.ArrowException as error:
        told = f"{uri}: the column {field.name!r} is {column.type}, and the log has {field.type} there"
        raise DataError(f"{told}; was it made under another objective? Read it with the model.yaml of then") from error


def _moments(column: Any) -> Any:
    """Times to the microsecond: Arrow's own check would refuse what pandas counts in nanoseconds."""
    return column.cast(MOMENT, safe=False)


def _repeated(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.repeat(pa.scalar(value, pa.string()), rows).dictionary_encode()
    return pa.repeat(pa.scalar(value, kind), rows)
