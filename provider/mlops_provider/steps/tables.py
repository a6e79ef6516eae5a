"""Parquet tables by URI, read with errors that name the file and the column."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.exceptions import DataError
from mlops_provider.storage import Artifact, Storage, file_hash, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

# pyarrow is imported where it is used: planning knows tables by name, and is the first task of every run.


def read(storage: Storage, artifact: Artifact, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a verified file, or some of its columns.

    :raises DataError: if the file is empty, no parquet, without rows, or lacks one of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not artifact.size:
        raise DataError(f"{artifact.uri} is empty (0 bytes)")
    content = storage.fetch(artifact)
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        require(file.schema_arrow.names, columns or (), artifact.uri)
        table = file.read(columns=list(columns) if columns else None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{artifact.uri} is no readable parquet file, perhaps truncated: {error}") from error
    if not table.num_rows:
        raise DataError(f"{artifact.uri} has no rows")
    return table


def frame(storage: Storage, artifact: Artifact, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table as a DataFrame whose columns are the file's columns, whatever pandas noted in it about an index."""
    found: pd.DataFrame = read(storage, artifact, columns).to_pandas(ignore_metadata=True)
    return found


def require(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Checks that the columns are there.

    :raises DataError: naming the first that is not.
    """
    for column in columns:
        if column not in names:
            raise DataError(f"{where} lacks the column {column!r}; it has {', '.join(names)}")


def write(storage: Storage, folder: str, table: pa.Table) -> Artifact:
    """Writes a table as parquet into a folder, under the hash of its content: two writers never replace each other's."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "table.parquet")
        pq.write_table(table, path, compression="zstd")
        return storage.upload(path, join(folder, f"{file_hash(path)[:32]}.parquet"), rows=table.num_rows)


def write_frame(storage: Storage, folder: str, frame: pd.DataFrame) -> Artifact:
    """Writes a frame as parquet into a folder, without its index."""
    import pyarrow as pa

    return write(storage, folder, pa.Table.from_pandas(frame, preserve_index=False))


def create(storage: Storage, folder: str, table: pa.Table) -> tuple[Artifact, bool]:
    """Creates a parquet file whose name is the sha256 of its content; False if it was there: the same table adds nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    found = hashlib.sha256(content).hexdigest()
    artifact = Artifact(uri=join(folder, f"{found}.parquet"), hash=found, size=len(content), rows=table.num_rows)
    return artifact, storage.create(artifact.uri, content)


def created(storage: Storage, folder: str) -> tuple[Artifact, ...]:
    """The files that `create` made in a folder, sorted; their names vouch for their content."""
    fs, path = storage.filesystem(folder)
    try:
        found = {
            entry["name"].rstrip("/").rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in fs.ls(path, detail=True)
        }
    except FileNotFoundError:
        return ()
    names = sorted(name for name in found if re.fullmatch(r"[0-9a-f]{64}\.parquet", name))
    return tuple(Artifact(uri=join(folder, name), hash=name[:64], size=found[name]) for name in names)
