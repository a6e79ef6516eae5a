"""What is kept of an accepted partition, so that the next ones can be held against it: shapes, counts and hashed keys."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import DataError, IntegrityError
from mlops_provider.steps import tables
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, Storage, canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Sequence

Hashes = NDArray[np.uint64]
_ROWS = 65_536
# What pandas writes beside the columns of a frame whose rows were filtered or moved.
_PANDAS_INDEX = r"__index_level_\d+__"


class Column(Frozen):
    """A column of a table: its type as pyarrow names it, and how many of its values are null or NaN."""

    name: str
    dtype: str
    nulls: int


class TableProfile(Frozen):
    """The shape of a table.

    :param schema_hash: of the names and types, in any order.
    """

    rows: int
    columns: tuple[Column, ...]
    schema_hash: str

    @property
    def dtypes(self) -> dict[str, str]:
        return {column.name: column.dtype for column in self.columns}

    @property
    def null_shares(self) -> dict[str, float]:
        return {column.name: column.nulls / self.rows for column in self.columns}


class Profile(Frozen):
    """A partition as it was delivered and as it was built.

    :param keys: file of the sorted 64-bit hashes of the keys (uint64, parquet): 8 bytes a row, whatever the keys are.
    """

    partition: str
    inputs: TableProfile
    features: TableProfile
    keys: Artifact


class ProfileArguments(Frozen):
    """The partition and its feature table."""

    work: DataWork
    table: Artifact


class ProfileResult(Frozen):
    """The profile, and the file that holds it, named by its content."""

    profile: Profile
    file: Artifact


@step("profile", arguments=ProfileArguments, result=ProfileResult, sections=("data",))
def profile(job: Job, arguments: ProfileArguments) -> ProfileResult:
    """Profiles a partition, row group by row group.

    :raises DataError: if a table cannot be read.
    """
    work, key = arguments.work, job.config.data.key
    if work.problem or work.inputs is None:
        raise DataError(f"partition {work.partition}: {work.problem or 'there are no inputs'}")
    keys = np.sort(np.concatenate([hashed(batch.column(0)) for batch in batches(job.storage, work.inputs, (key,))]))
    found = Profile(
        partition=work.partition,
        inputs=_shape(job.storage, work.inputs),
        features=_shape(job.storage, arguments.table),
        keys=tables.write(job.storage, job.under("profiles", work.partition), pa.table({"hash": keys})),
    )
    content = canonical_json(found.model_dump(mode="json"), indent=1)
    uri = job.under("profiles", work.partition, f"{digest(found.model_dump(mode='json'))[:32]}.json")
    return ProfileResult(profile=found, file=job.storage.write(uri, content))


def load(job: Job, file: Artifact) -> Profile:
    """The profile in a file.

    :raises IntegrityError: if the file is gone or damaged.
    """
    return Profile.model_validate_json(_fetched(job, file))


def key_hashes(job: Job, found: Profile) -> Hashes:
    """The sorted hashes of a partition's keys.

    :raises IntegrityError: if their file is gone or damaged.
    """
    table = pq.read_table(io.BytesIO(_fetched(job, found.keys)))
    hashes: Hashes = table.column("hash").to_numpy()
    return hashes


def _fetched(job: Job, file: Artifact) -> bytes:
    try:
        return job.storage.fetch(file)
    except (DataError, IntegrityError) as error:
        partition = file.uri.split("/")[-2]
        raise IntegrityError(
            f"what was kept of the accepted partition {partition} is gone or damaged: {error} "
            f"Start the ci loop with this partition to write it anew."
        ) from error


def hashed(keys: pa.Array) -> Hashes:
    """64-bit hashes of keys: equal for equal text, so that a key that was retyped from number to text stays itself."""
    import pandas as pd

    text = pc.cast(keys, pa.string()).to_numpy(zero_copy_only=False)
    hashes: Hashes = pd.util.hash_array(text, categorize=False)
    return hashes


def batches(storage: Storage, artifact: Artifact, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The record batches of a verified parquet file, or those of some of its columns.

    :raises DataError: if the file is no parquet, has no rows, or lacks a column.
    """
    with opened(storage, artifact, columns or ()) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(_ROWS, row_groups=[group], columns=list(columns) if columns else None)


@contextmanager
def opened(storage: Storage, artifact: Artifact, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A verified parquet file, to be read in parts.

    :raises DataError: if it is no parquet, also when that shows while it is read, has no rows, or lacks a column.
    """
    content = storage.fetch(artifact)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))  # reads from the bytes, where BytesIO would copy them
        tables.require(file.schema_arrow.names, columns, artifact.uri)
        if not file.metadata.num_rows:
            raise DataError(f"{artifact.uri} has no rows")
        yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{artifact.uri} is no readable parquet file, perhaps truncated: {error}") from error


def _shape(storage: Storage, artifact: Artifact) -> TableProfile:
    rows = 0
    nulls: dict[str, int] = {}
    types: dict[str, str] = {}
    for batch in batches(storage, artifact):
        rows += batch.num_rows
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            types[name] = _plain(values.type)
            nulls[name] = nulls.get(name, 0) + pc.sum(pc.is_null(values, nan_is_null=True)).as_py()
    names = sorted(name for name in types if not re.fullmatch(_PANDAS_INDEX, name))
    columns = tuple(Column(name=name, dtype=types[name], nulls=nulls[name]) for name in names)
    return TableProfile(rows=rows, columns=columns, schema_hash=digest([[c.name, c.dtype] for c in columns]))


def _plain(kind: pa.DataType) -> str:
    """A type without what only tells how its values are stored: a categorical is what its categories are."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return str(kind).removeprefix("large_")
