"""A dataset by URI, read as record batches: a parquet file, a folder of parquet files, or CSV. Never held as a whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mlops_provider.exceptions import DataError, IntegrityError
from mlops_provider.steps import tables
from mlops_provider.storage import Artifact, Storage

_BATCH = 65_536
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_CSV_BLOCK = 4 << 20
# What pandas, and so Great Expectations, reads as a missing value.
_CSV_NULLS = [*pa.csv.ConvertOptions().null_values, "None", "<NA>"]
_BUFFER = 1 << 20


Constants = dict[str, str | int | None]


@dataclass(frozen=True)
class Part:
    """A file of a dataset, with the values that hive puts into the names of its folders; `whole` names the numbers."""

    uri: str
    constants: Constants = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)


class Dataset:
    """Rows under a URI. Each pass over them reads only the columns that it asks for.

    :param uri: a ``.parquet`` or ``.csv`` file, or a folder with parquet files in it, at any depth; hive's ``key=value``
        folders become columns.
    :param expected: a file or a folder as it was recorded earlier; other content is refused.
    """

    def __init__(self, storage: Storage, uri: str, expected: Artifact | None = None) -> None:
        self.storage, self.uri, self._expected = storage, uri, expected
        self._verified = False

    @classmethod
    def of(cls, storage: Storage, artifact: Artifact) -> Dataset:
        """A dataset that was recorded: its content is verified before it is read."""
        if not artifact.size:
            raise DataError(f"{artifact.uri} is empty (0 bytes)")
        return cls(storage, artifact.uri, artifact)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        with self.storage.reaching(self.uri) as (fs, path):
            return self._found(fs, path)

    def _found(self, fs: Any, path: str) -> tuple[Part, ...]:
        if (self._expected and not self._expected.many) or fs.isfile(path):
            return (Part(self.uri),)
        found = [name for name in self.files() if name.endswith(".parquet")]
        if not found:
            what = "holds no parquet file" if fs.exists(path) else "does not exist"
            raise DataError(f"{self.uri} {what}: name a .parquet or .csv file, or a folder of parquet files")
        parts = [Part(_uri(self.uri, f"{path.rstrip('/')}/{name}"), _constants(name)) for name in found]
        return _typed(parts, self.uri)

    def files(self) -> list[str]:
        """Names of all files of a folder, below it and sorted; hidden ones, which Spark and others leave there, aside."""
        fs, path = self.storage.filesystem(self.uri)
        try:
            found = fs.find(path)
        except FileNotFoundError as error:  # of a bucket that is not there
            raise DataError(f"{self.uri} does not exist: {error}") from error
        names = (name[len(path) :].lstrip("/") for name in found)
        return sorted(name for name in names if not _hidden(name))

    def content(self) -> Artifact:
        """What was recorded, or else what lies there now; of a folder the files as one, without hidden ones."""
        return self._expected or self._now()

    def _now(self) -> Artifact:
        if self.parts[0].uri == self.uri:
            return self.storage.describe(self.uri)
        return self.storage.describe_files(self.uri, lambda name: not _hidden(name))

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns, from the first file."""
        first = self.parts[0]
        with self._open(first) as file:
            schema = _reading(first.uri, lambda: _schema(file, first))
        if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise DataError(f"{first.uri} has more than one column {', '.join(map(repr, twice))}")
        return schema

    @cached_property
    def uneven(self) -> str:
        """Which file of a folder has other columns than the first, or has them in another order; empty if none has."""
        for part in self.parts[1:]:
            with self._open(part) as file:
                names = _reading(part.uri, lambda file=file, part=part: _schema(file, part)).names
            if names != self.schema.names:
                return (
                    f"{part.uri} has the columns {', '.join(names)}; the first file has {', '.join(self.schema.names)}"
                )
        return ""

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Batches with these columns in this order (all if None), of at most 65,536 rows.

        :raises DataError: if a file is unreadable, lacks a column or has it with another type, or if there are no rows.
        """
        names = list(self.schema.names if columns is None else columns)
        tables.require(self.schema.names, names, self.uri)
        wanted = pa.schema([self.schema.field(name) for name in names])
        rows = 0
        for part in self.parts:
            for batch in self._part(part, wanted):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise DataError(f"{self.uri} has no rows")

    def table(self, columns: Sequence[str]) -> pa.Table:
        """The columns as a whole: for what cannot be evaluated batch by batch."""
        return pa.Table.from_batches(self.batches(columns))

    def _part(self, part: Part, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        with self._open(part) as file:
            found = _reading(part.uri, lambda: _schema(file, part))
            _same_columns(found, wanted, part.uri)
            inside = [name for name in wanted.names if name not in part.constants]
            batches = _csv(file, inside) if _is_csv(part.uri) else _parquet(file, inside)
            while (batch := _reading(part.uri, lambda: next(batches, None))) is not None:
                if batch.num_rows:
                    yield _completed(batch, wanted, part.constants)

    def verify(self) -> None:
        """For readers other than this one: whether a recorded file is still the one that was recorded.

        On S3 a file that we wrote ourselves is compared by its size, as it was recorded with another hash than S3 gives.

        :raises IntegrityError: if it is not.
        """
        if (expected := self._expected) is None:
            return
        if self.storage.is_local(expected.uri) or expected.hash.startswith("etag:") or expected.many:
            self.storage.same(expected, self._now().hash)
        elif not self.storage.holds(expected):
            raise IntegrityError(f"{expected.uri} does not have the {expected.size} bytes that were recorded")

    @contextmanager
    def _open(self, part: Part) -> Iterator[BinaryIO]:
        """A recorded file is verified once and its handle kept: a replacement gets another inode, never this one."""
        if self._expected is not None and not self._expected.many:
            self._recorded.seek(0)
            yield self._recorded
            return
        self._verify_folder()
        with self.storage.open(part.uri) as file:
            yield file

    def _verify_folder(self) -> None:
        """Once, before the first of its files is read, if it was recorded."""
        if self._expected is not None and not self._verified:
            self.storage.same(self._expected, self._now().hash)
            self._verified = True

    @cached_property
    def _recorded(self) -> BinaryIO:
        expected = self._expected
        assert expected is not None
        file = self.storage.open(expected.uri)
        if expected.hash.startswith("etag:"):
            found = self.storage.describe(expected.uri).hash
        else:
            found = f"{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]
        Storage.same(expected, found)
        return file


def _reading(uri: str, read: Any) -> Any:
    try:
        return read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Arrow's own complaints have no number; one with a number is the storage's, which says nothing about the data.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = "CSV" if _is_csv(uri) else "parquet"
        if isinstance(error, UnicodeDecodeError):
            told = "its header is not UTF-8 text: write it in UTF-8, and not compressed"
            raise DataError(f"{uri} is no readable {kind} file, {told}") from None
        told = _unquoted(str(error)) if kind == "CSV" else str(error)
        # Not `from error`: whoever prints the cause would show what was cut away.
        raise DataError(f"{uri} is no readable {kind} file, perhaps truncated: {told}") from None


def _unquoted(told: str) -> str:
    """Arrow's complaint about a CSV file up to where it quotes a value or a row, which may tell who a person is."""
    return re.split(r": invalid value|'", re.sub(r"(, got \d+): .*", r"\1", told, flags=re.DOTALL), maxsplit=1)[0]


def _schema(file: BinaryIO, part: Part) -> pa.Schema:
    schema = _csv_schema(file, part.uri) if _is_csv(part.uri) else pq.ParquetFile(file).schema_arrow
    _ = schema.names  # only now are they decoded
    file.seek(0)
    for name in part.constants:
        schema = schema.append(pa.field(name, pa.int64() if name in part.whole else pa.string()))
    return schema.remove_metadata()


def _same_columns(found: pa.Schema, wanted: pa.Schema, uri: str) -> None:
    tables.require(found.names, wanted.names, uri)
    for column in wanted:
        if (kind := found.field(column.name).type) != column.type:
            raise DataError(
                f"{uri}: the column {column.name!r} is {kind}, in the first file of the dataset {column.type}"
            )


def _parquet(file: BinaryIO, columns: list[str]) -> Iterator[pa.RecordBatch]:
    reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
    # Row group by row group: reading ahead over several would let memory grow with their size.
    for group in range(reader.num_row_groups):
        yield from reader.iter_batches(_BATCH, row_groups=[group], columns=columns, use_threads=False)


def _csv_schema(file: BinaryIO, uri: str) -> pa.Schema:
    """The columns of a CSV file, as the beginning of the file tells them.

    :raises DataError: for text that is not UTF-8, which Arrow would hand over as bytes that equal no text.
    """
    schema = _csv_reader(file).schema
    if odd := [field.name for field in schema if pa.types.is_binary(field.type)]:
        raise DataError(
            f"{uri} is no readable CSV file: values of {', '.join(map(repr, odd))} are not UTF-8 text: write it in UTF-8"
        )
    return schema


def _csv_reader(file: BinaryIO, columns: list[str] | None = None) -> Any:
    return pa.csv.open_csv(
        file,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns, strings_can_be_null=True, null_values=_CSV_NULLS
        ),
    )


def _csv(file: BinaryIO, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in _csv_reader(file, columns):
        for begin in range(0, batch.num_rows, _BATCH):
            yield batch.slice(begin, _BATCH)


def _completed(batch: pa.RecordBatch, wanted: pa.Schema, constants: Constants) -> pa.RecordBatch:
    """The batch with what the names of its folders say, in the order asked for."""
    arrays = [
        pa.repeat(pa.scalar(constants[c.name], c.type), batch.num_rows) if c.name in constants else batch.column(c.name)
        for c in wanted
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _is_csv(uri: str) -> bool:
    return uri.lower().endswith(".csv")


def _hidden(path: str) -> bool:
    return any(piece.startswith(("_", ".")) for piece in path.split("/") if piece)


def _uri(root: str, path: str) -> str:
    """The URI of a path as the file system of the root names it."""
    protocol, found, _ = root.partition("://")
    return f"{protocol}://{path}" if found else path


def _constants(path: str) -> Constants:
    pairs = [piece.split("=", 1) for piece in path.split("/")[:-1] if "=" in piece]
    return {name: None if value == _HIVE_NULL else unquote(value) for name, value in pairs}


def _typed(parts: Sequence[Part], uri: str) -> tuple[Part, ...]:
    """Whole numbers where every folder of a level has one, else text, as hive readers do."""
    names = set(parts[0].constants)
    if odd := next((p for p in parts if set(p.constants) != names), None):
        raise DataError(f"{uri}: {odd.uri} lies in folders of other names than the first file: {sorted(names)}")
    known = {name: [str(v) for p in parts if (v := p.constants[name]) is not None] for name in names}
    whole = {name for name, values in known.items() if values and all(value.isdecimal() for value in values)}
    return tuple(Part(p.uri, {n: _typed_value(v, n in whole) for n, v in p.constants.items()}, whole) for p in parts)


def _typed_value(value: str | int | None, whole: bool) -> str | int | None:
    return int(value) if whole and value is not None else value
