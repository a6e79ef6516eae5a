"""The prediction log's way in for online targets: what they predicted is appended, row by row what is sound.

A table that cannot be what it should be (a column is missing, unknown, of another type, or personal) is refused as a whole. A row
that cannot is counted and put aside under ``refused/`` with the reason, and the rest goes on.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.checks import Frozen
from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.ledger import Record
from mlops_provider.partitions import FORMATS, is_partition
from mlops_provider.steps import tables
from mlops_provider.steps.data.rows import GROUP
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.scoring.online_files import folder, name_of, newest
from mlops_provider.steps.scoring.prediction_log import MOMENT, NAME, conformed, require_no_personal, schema, unseen
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.objectives import objective
from mlops_provider.storage import Artifact

log = logging.getLogger("mlops_provider")

REASON = "reason"
# Clocks of two machines are never quite the same.
SKEW = dt.timedelta(minutes=5)
_FILLED = ("model", "source")
_OPTIONAL = ("inputs", "row", "features")

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Appended(Frozen):
    """What became of a table of online predictions.

    :param rows: of the table; `taken` of them are in the log now, `repeated` of those were there before.
    :param refused: rows that were put aside, by reason; `aside` is the file with them.
    :param files: one a partition of the event time.
    """

    rows: int
    taken: int
    repeated: int = 0
    refused: dict[str, int] = {}
    files: tuple[Artifact, ...] = ()
    aside: Artifact | None = None


class Reasons:
    """Why rows are put aside: the first thing that is wrong with each.

    :ivar found: object [n], empty text for a row that is sound.
    """

    def __init__(self, rows: int) -> None:
        self.found = np.full(rows, "", dtype=object)

    def mark(self, wrong: Any, reason: str) -> None:
        """:param wrong: bool [n]; a null is no."""
        mask = np.asarray(pc.fill_null(wrong, False) if isinstance(wrong, pa.Array | pa.ChunkedArray) else wrong, bool)
        self.found[mask & (self.found == "")] = reason

    @property
    def sound(self) -> Mask:
        return np.asarray(self.found == "", bool)

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.found[~self.sound].tolist()).items()))


def append(job: Job, table: pa.Table, *, source: str) -> Appended:
    """Appends predictions that were made online; a table that was appended before adds nothing.

    :param table: the columns of the log without ``model`` and ``source`` (prediction_log.py). Each row has its inputs:
        ``features``, a JSON object with columns of ``data.columns`` or ``features.columns``, or ``inputs`` and ``row``.
    :param source: name of the target that served them.
    :raises RequestError: for a name that is none.
    :raises DataError: for a table that is none of predictions of this model, or has a column that `data.pii` names.
    """
    if not re.fullmatch(NAME, source):
        raise RequestError(f"{source!r} is no name of a source of predictions ({NAME})")
    found = _as_log(job.config, table, source)
    reasons = _judged(job, found)
    names = _partitions(job.config, found)
    reasons.mark(np.array([not is_partition(name, job.config.data.partition) for name in names]), "no event time")
    aside = _put_aside(job, found, reasons)
    files = [_appended(job, found, names, name, reasons.sound) for name in sorted(set(names[reasons.sound]))]
    taken = int(reasons.sound.sum())
    if taken < len(found):
        log.warning("%s: %d of %d online predictions put aside", source, len(found) - taken, len(found))
    return Appended(
        rows=len(found),
        taken=taken,
        repeated=sum(file.rows or 0 for file, new in files if not new),
        refused=reasons.counts,
        files=tuple(file for file, _ in files),
        aside=aside,
    )


def _as_log(config: ModelConfig, table: pa.Table, source: str) -> pa.Table:
    """The table in the schema of the log.

    :raises DataError: for columns that it must not have, lacks, or has with another type.
    """
    wanted, where = schema(config), f"{config.name}: predictions of {source}"
    require_no_personal(config, table.column_names)
    if unknown := sorted(set(table.column_names) - set(wanted.names)):
        raise DataError(f"{where} have the column {unknown[0]!r}; the log has {', '.join(wanted.names)}")
    tables.require(table.column_names, [n for n in wanted.names if n not in (*_FILLED, *_OPTIONAL)], where)
    if not len(table):
        raise DataError(f"{where} have no rows")
    for field in wanted:
        if field.name in table.column_names:
            _require_type(config, table.schema.field(field.name), field, where)
    constant = {"model": config.name, "source": source}
    given = table.drop_columns([name for name in constant if name in table.column_names]).combine_chunks()
    for name, value in constant.items():
        given = given.append_column(name, pa.repeat(pa.scalar(value), len(given)))
    columns = [
        given[name] if name in given.column_names else pa.nulls(len(given), wanted.field(name).type)
        for name in wanted.names
    ]
    (batch,) = pa.table(dict(zip(wanted.names, columns, strict=True))).to_batches(max_chunksize=len(given))
    return pa.Table.from_batches([conformed(config, batch, where)])


def _require_type(config: ModelConfig, given: pa.Field, wanted: pa.Field, where: str) -> None:
    """:raises DataError: for a column of another kind: text is no number, a time without a zone no moment."""
    kind = given.type.value_type if pa.types.is_dictionary(given.type) else given.type
    if given.name in (config.data.key, GROUP):
        return  # text or whole numbers, as `conformed` looks up
    if not _KINDS[_kind(wanted.type)](kind) and not pa.types.is_null(kind):
        raise DataError(f"{where}: the column {given.name!r} is {given.type}, expected {wanted.type}")


def _kind(wanted: pa.DataType) -> str:
    if pa.types.is_dictionary(wanted) or pa.types.is_string(wanted):
        return "text"
    return str(wanted).split("[")[0].split("<")[0]


def _list_of_numbers(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "double": pa.types.is_floating,
    "bool": pa.types.is_boolean,
    "int32": pa.types.is_integer,
    "int64": pa.types.is_integer,
    "timestamp": lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None,
    "list": _list_of_numbers,
}


def _judged(job: Job, found: pa.Table) -> Reasons:
    """What is wrong with rows, in the schema of the log."""
    reasons, data = Reasons(len(found)), job.config.data
    needed = [n for n in found.column_names if n not in _OPTIONAL]
    for name in needed:
        what = "the key" if name == data.key else "the event time" if name == data.event_time else name
        reasons.mark(pc.is_null(found[name]), f"{what} is null")
    reasons.mark(pc.equal(found[data.key], ""), "the key is empty")
    _judge_scores(job.config, found, reasons)
    _judge_versions(job, found, reasons)
    reasons.mark(
        ~np.array([bool(re.fullmatch(NAME, v or "")) for v in found["variant"].to_pylist()]), "variant is no name"
    )
    late = pa.scalar(dt.datetime.now(dt.UTC) + SKEW, MOMENT)
    reasons.mark(pc.greater(found["scored_at"], late), "scored_at is in the future")
    _judge_inputs(job.config, found, reasons)
    (batch,) = found.to_batches(max_chunksize=len(found))
    reasons.mark(~np.array(unseen(job, batch, set())), "repeats a prediction of this table")
    return reasons


def _judge_scores(config: ModelConfig, found: pa.Table, reasons: Reasons) -> None:
    kind = objective(config)
    scores = found["score"].to_numpy()
    if kind.classes:
        listed = found["scores"].to_pylist()
        whole = np.array([row is not None and len(row) == len(kind.classes) and None not in row for row in listed])
        reasons.mark(~whole, f"scores are not {len(kind.classes)} numbers")
        filled = np.array([
            row if fits else [np.nan] * len(kind.classes) for row, fits in zip(listed, whole, strict=True)
        ])
        reasons.mark(~kind.possible(filled), "scores are no chances of the classes")
        reasons.mark(~(np.abs(scores - filled.max(axis=1)) < 1e-6), "score is not that of the likeliest class")
        reasons.mark(
            pc.invert(pc.is_in(found["label"].cast(pa.string()), pa.array(kind.classes))),
            "label is none of the classes",
        )
    else:
        reasons.mark(~kind.possible(scores), "score is out of range")
    if "rank" in found.column_names:
        reasons.mark(pc.less(found["rank"], 1), "rank is below 1")


def _judge_versions(job: Job, found: pa.Table, reasons: Reasons) -> None:
    """A version must be registered, and must not have seen what it predicts."""
    seen = {r.version: _until(r) for r in job.ledger.records() if r.kind == "candidate" and r.version is not None}
    versions, times = found["version"].to_pylist(), found[job.config.data.event_time].to_pylist()
    reasons.mark(np.array([v not in seen for v in versions]), "version was never registered")
    known = (v in seen and at is not None and at <= seen[v] for v, at in zip(versions, times, strict=True))
    reasons.mark(np.array(list(known)), "version has seen data of that time")


def _until(record: Record) -> dt.datetime:
    return ModelVersion.model_validate(record.facts["version"]).split.until


def _judge_inputs(config: ModelConfig, found: pa.Table, reasons: Reasons) -> None:
    allowed = {*config.data.columns, *config.features.columns}
    reasons.mark(
        np.array([_problem(text, allowed) for text in found["features"].to_pylist()]),
        "features are no JSON object with declared columns",
    )
    stored = pc.and_(pc.is_valid(found["inputs"]), pc.greater_equal(pc.fill_null(found["row"], -1), 0))
    reasons.mark(pc.equal(stored, pc.is_valid(found["features"])), "needs features, or inputs and row, and not both")


def _problem(text: str | None, allowed: set[str]) -> bool:
    """Whether the inputs of a request are not what may be kept: values of other columns might tell who a person is."""
    if text is None:
        return False
    try:
        found = json.loads(text)
    except ValueError:
        return True
    flat = isinstance(found, dict) and not any(isinstance(value, dict | list) for value in found.values())
    return not flat or not set(found) <= allowed


def _partitions(config: ModelConfig, found: pa.Table) -> Any:
    """The partition of each row's event time, object [n]; empty text where there is none."""
    names = pc.strftime(found[config.data.event_time], format=FORMATS[config.data.partition])
    return pc.fill_null(names, "").to_numpy()


def _appended(job: Job, found: pa.Table, names: Any, partition: str, sound: Mask) -> tuple[Artifact, bool]:
    """The file with the sound rows of a partition, and whether it is new."""
    rows = _only(job.config, found, (names == partition) & sound)
    known = newest(job, partition)
    file, new = tables.create(job.storage, folder(job, partition), rows)
    return file, new and name_of(file) not in known.merged


def _put_aside(job: Job, found: pa.Table, reasons: Reasons) -> Artifact | None:
    """The refused rows with their reasons; without features, which may hold what must not be kept."""
    if reasons.sound.all():
        return None
    refused = ~reasons.sound
    rows = _only(job.config, found, refused).drop_columns("features")
    told = rows.append_column(REASON, pa.array(reasons.found[refused].tolist(), pa.string()))
    file, _ = tables.create(job.storage, folder(job, "refused"), told)
    return file


def _only(config: ModelConfig, found: pa.Table, mask: Mask) -> pa.Table:
    """Some rows. Their dictionaries are made anew: a filter would carry over the values of the other rows."""
    (batch,) = found.filter(pa.array(mask)).to_batches(max_chunksize=len(found))
    return pa.Table.from_batches([conformed(config, batch, config.name)])
