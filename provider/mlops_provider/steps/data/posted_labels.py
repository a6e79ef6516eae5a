"""Labels as somebody posted them: rows in a request or a file, within limits, each looked at by itself."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.steps import tables
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.label_log import KEY, KNOWN_AT, LABEL, SOURCE, kind
from mlops_provider.steps.release.ab_assign import texts
from mlops_provider.steps.scoring.online import SKEW, Reasons
from mlops_provider.steps.scoring.prediction_log import MOMENT, NAME
from mlops_provider.steps.step import Job
from mlops_provider.storage import canonical_json

INLINE_ROWS = 1_000
INLINE_BYTES = 256 * 1024
FILE_ROWS = 1_000_000
_HUGE = 1e18  # as delivered labels, which LightGBM holds as 32-bit floats
_RELEVANCE = 30
_ODD_KEY = "the key is neither text nor a whole number"
_ODD_LABEL = "the label is of another type"
_ODD_TIME = "known_at is no time with a zone"


@dataclass(frozen=True)
class Post:
    """What was posted, [n] rows.

    :ivar rows: key (text), label (of its kind), known_at (null where it was not given) and source; what cannot be read is null.
    :ivar told: key, label and known_at as text, for those that are put aside.
    :ivar reasons: what is wrong with each row.
    """

    rows: pa.Table
    told: pa.Table
    reasons: Reasons


def posted_rows(config: ModelConfig, rows: Iterable[Mapping[str, Any]]) -> Post:
    """Rows of a request.

    :raises RequestError: if they are too many or too large, none, or have a field that is not asked for.
    """
    given = [dict(row) for row in rows]
    if len(given) > INLINE_ROWS:
        raise RequestError(f"{len(given):,} rows: a request carries at most {INLINE_ROWS:,}, post a file")
    if (size := len(canonical_json(given))) > INLINE_BYTES:
        raise RequestError(f"the rows have {size:,} bytes: a request carries at most {INLINE_BYTES:,}, post a file")
    names = _names(config)
    if unknown := sorted({str(name) for row in given for name in row} - set(names.values())):
        raise RequestError(f"rows: unknown field {unknown[0]!r}; a row has {', '.join(names.values())}")
    if not given:
        raise RequestError("rows: there are none")
    raw = {ours: [row.get(theirs) for row in given] for ours, theirs in names.items()}
    raw |= {name: [None] * len(given) for name in (KNOWN_AT, SOURCE) if name not in raw}
    reasons = Reasons(len(given))
    read = {
        KEY: _readable(raw[KEY], _key, pa.string(), reasons, _ODD_KEY),
        LABEL: _readable(raw[LABEL], _label_of(kind(config)), kind(config), reasons, _ODD_LABEL),
        KNOWN_AT: _readable(raw[KNOWN_AT], _moment, MOMENT, reasons, _ODD_TIME),
        SOURCE: _readable(raw[SOURCE], _text, pa.string(), reasons, "source is no text"),
    }
    told = {n: pa.array([None if v is None else str(v) for v in raw[n]], pa.string()) for n in (KEY, LABEL, KNOWN_AT)}
    return _judged(config, Post(pa.table(read), pa.table(told), reasons))


def posted_file(job: Job, uri: str, limit: int) -> Post:
    """A parquet or CSV file.

    :param uri: relative to data_root, or absolute.
    :raises DataError: if it cannot be read, has too many rows, or lacks a column or has it with another type.
    """
    dataset = Dataset(job.storage, job.deployment.source(uri))
    names = _names(job.config)
    tables.require(dataset.schema.names, [names[KEY], names[LABEL]], dataset.uri)
    there = {ours: theirs for ours, theirs in names.items() if theirs in dataset.schema.names}
    if marked := sorted(set(there.values()) & set(job.config.data.pii)):
        raise DataError(
            f"{dataset.uri}: data.pii names {', '.join(marked)}, whose values are written nowhere: leave it out"
        )
    found, count = [], 0
    for batch in dataset.batches(list(there.values())):
        count += batch.num_rows
        if count > limit:
            raise DataError(f"{dataset.uri} has more than {limit:,} rows, the most that one post takes: split it")
        found.append(batch)
    table = pa.Table.from_batches(found).rename_columns(list(there))
    read = {name: _column(table, name, wanted, dataset.uri) for name, wanted in _wanted(job.config).items()}
    told = {name: read[name].cast(pa.string()) for name in (KEY, LABEL, KNOWN_AT)}
    return _judged(job.config, Post(pa.table(read), pa.table(told), Reasons(len(table))))


def _names(config: ModelConfig) -> dict[str, str]:
    """The columns of a post, as model.yaml names them."""
    first = {KEY: config.data.key, LABEL: config.data.label.column}
    return first | {name: name for name in (KNOWN_AT, SOURCE) if name not in first.values()}


def _wanted(config: ModelConfig) -> dict[str, pa.DataType]:
    return {KEY: pa.string(), LABEL: kind(config), KNOWN_AT: MOMENT, SOURCE: pa.string()}


def _column(table: pa.Table, name: str, wanted: pa.DataType, uri: str) -> pa.ChunkedArray:
    """A column of a file as it is kept; nulls if the file has none of the name."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), wanted)])
    column = table[name]
    if name == KEY:
        return _chunked(texts(column, f"{uri}: the key"))
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_null(found) or _fits(found, wanted)):
        raise DataError(f"{uri}: the {name} is {found}, expected {wanted}")
    return _chunked(column.cast(found).cast(wanted, safe=not pa.types.is_timestamp(wanted)))


def _chunked(column: Any) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_timestamp(wanted):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    return bool(pa.types.is_integer(found) or (pa.types.is_floating(wanted) and pa.types.is_floating(found)))


def _judged(config: ModelConfig, post: Post) -> Post:
    """Marks what is wrong with rows that could be read."""
    rows, reasons = post.rows, post.reasons
    reasons.mark(pc.equal(pc.fill_null(rows[KEY], ""), ""), "the key is null or empty")
    reasons.mark(pc.is_null(rows[LABEL], nan_is_null=True), "the label is null")
    reasons.mark(_impossible(config, rows[LABEL]), "the label cannot be")
    late = pa.scalar(dt.datetime.now(dt.UTC) + SKEW, MOMENT)
    reasons.mark(pc.greater(rows[KNOWN_AT], late), "known_at is in the future")
    reasons.mark(
        np.array([s is not None and not re.fullmatch(NAME, s) for s in _listed(rows[SOURCE])]), "source is no name"
    )
    return post


def _listed(column: pa.ChunkedArray) -> list[Any]:
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()


def _impossible(config: ModelConfig, labels: pa.ChunkedArray) -> Any:
    """Which labels the objective knows nothing of, bool [n]."""
    if config.data.label.classes:
        return ~np.asarray(pc.is_in(labels, pa.array(config.data.label.classes, labels.type)), bool)
    numbers = labels.to_numpy()
    odd = ~np.isfinite(numbers) | (np.abs(numbers) > _HUGE)
    if config.training.objective == "lambdarank":
        odd |= ~((numbers % 1 == 0) & (numbers >= 0) & (numbers <= _RELEVANCE))
    return odd


def _readable(values: list[Any], read: Any, wanted: pa.DataType, reasons: Reasons, reason: str) -> pa.ChunkedArray:
    """The values of a field, null where one cannot be read."""
    found, wrong = [], np.zeros(len(values), bool)
    for place, value in enumerate(values):
        try:
            found.append(None if value is None else read(value))
        except (ValueError, OverflowError):
            found.append(None)
            wrong[place] = True
    reasons.mark(wrong, reason)
    return pa.chunked_array([pa.array(found, wanted)])


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError
    return _text(str(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    value.encode()  # half of a surrogate pair is valid JSON, and no UTF-8
    return value


def _label_of(wanted: pa.DataType) -> Any:
    if pa.types.is_string(wanted):
        return _text

    def number(value: Any) -> Any:
        whole = pa.types.is_integer(wanted)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError
        if whole and abs(value) >= 2**63:
            raise OverflowError
        return value if whole else float(value)

    return number


def _moment(value: Any) -> dt.datetime:
    """ISO 8601 with a time zone; without one nobody knows when that was."""
    found = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(_text(value))
    if found.tzinfo is None:
        raise ValueError
    return found.astimezone(dt.UTC)
