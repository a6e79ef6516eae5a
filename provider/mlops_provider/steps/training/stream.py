"""Rows on disk instead of in memory, for training data that is larger than it.

Only the key, the time and the label of all rows are held at once. The features go, batch by batch and in the order of the
keys, into a file on disk, which LightGBM reads as a ``Sequence``: first a sample of rows for its bins, then all of them
once. What it keeps is a byte or two for a value. The rows, their order and LightGBM's sample are those of training in
memory, and so are the trees.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlops_provider.exceptions import DataError, Transient
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.remote import Pointer
from mlops_provider.steps.data.repository import repository
from mlops_provider.steps.records import FeatureVersion, Split
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.objectives import targets
from mlops_provider.steps.training.rows import FeatureChecks, known, order, where

Array = np.ndarray[Any, Any]
_BATCH = 65_536
_BUFFER = 1 << 18


class Store:
    """Rows of features in a file, float64, at the place that the order of the keys gives them.

    :param rows: how many there will be; `columns` features in each.
    """

    def __init__(self, file: Path, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        file.unlink()  # the place on disk is given back when the process ends, however it ends

    def close(self) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self._rows

    def put(self, places: Array, block: Array) -> None:
        """Writes rows to their places: those that follow each other in one go."""
        order = np.argsort(places, kind="stable")
        places, block = places[order], np.ascontiguousarray(block[order], np.float64)
        if not len(places):
            return
        starts = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1)
        for begin, end in zip(starts, [*starts[1:], len(places)], strict=True):
            self._write(memoryview(block[begin:end].tobytes()), int(places[begin]) * self._columns * 8)

    def read(self, first: int, last: int) -> Array:
        """Rows from `first` up to, not including, `last`."""
        found = bytearray((last - first) * self._columns * 8)
        view, at = memoryview(found), first * self._columns * 8
        while view:
            count = os.preadv(self._file, [view], at)
            if not count:
                raise EOFError("the file of training rows ends early")
            view, at = view[count:], at + count
        return np.frombuffer(found, np.float64).reshape(-1, self._columns)

    def take(self, places: Array) -> Array:
        """Single rows, in the order asked for."""
        return np.concatenate([self.read(int(place), int(place) + 1) for place in places])

    def sequence(self) -> Any:
        """The rows as LightGBM reads them."""
        import lightgbm

        store = self

        class Sequence(lightgbm.Sequence):  # type: ignore[misc]
            batch_size = _BATCH

            def __len__(self) -> int:
                return len(store)

            def __getitem__(self, place: Any) -> Array:
                if isinstance(place, slice):
                    first, last, _ = place.indices(len(store))
                    return store.read(first, last)
                if isinstance(place, int | np.integer):
                    return np.asarray(store.read(int(place), int(place) + 1)[0])
                return store.take(np.asarray(place))

        return Sequence()

    def _write(self, view: memoryview, at: int) -> None:
        while view:
            count = os.pwrite(self._file, view, at)
            view, at = view[count:], at + count


class Streamed:
    """The known rows of a split on disk.

    :param folder: for scratch files, which must hold 8 bytes for every value of the training data, and the partitions.
    :ivar times: event times of the known rows in the order of the keys; `labels` likewise, as metrics take them.
    """

    def __init__(self, job: Job, split: Split, folder: Path) -> None:
        self._job, self._split, self._folder = job, split, folder
        self._stores: list[Store] = []
        self._files = [self._fetched(number, version) for number, version in enumerate(split.fit)]
        self.times, self.labels, self._places = self._ordered()

    def stored(self, chosen: Array, name: str, column: str | None = None) -> tuple[Store, Mapping[str, Array]]:
        """The chosen rows in a file, and one column of them in memory.

        :param chosen: bool [known rows], in the order of the keys.
        :raises DataError: if a feature is not what can be learned from.
        """
        columns = list(self._job.config.features.columns)
        target = np.where(chosen, np.cumsum(chosen) - 1, -1)
        store, kept = Store(self._folder / name, int(chosen.sum()), len(columns)), np.zeros(int(chosen.sum()))
        self._stores.append(store)
        checks = FeatureChecks(self._job, where(self._job, self._split))
        for first, block in self._blocks(columns):
            places = self._places[first : first + len(block)]
            places = np.where(places >= 0, target[places], -1)
            block, places = block[places >= 0], places[places >= 0]
            checks.add(block)
            store.put(places, block)
            if column:
                kept[places] = block[:, columns.index(column)]
        checks.finish()
        return store, {column: kept} if column else {}

    def close(self) -> None:
        """Gives the disk back."""
        for store in self._stores:
            store.close()

    def _fetched(self, number: int, version: FeatureVersion) -> Path:
        target = self._folder / f"{number}.parquet"
        pointer = Pointer(md5=version.md5, size=version.size)
        repository(self._job).remote.fetch(pointer, target, version.tag)
        return target

    def _ordered(self) -> tuple[Any, Array, Array]:
        """Times and labels of the known rows by key, and the place of each row as it is read; -1 if it is not known."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        data = self._job.config.data
        sorting, config = order(self._job), self._job.config
        parts = [pq.read_table(file, columns=[*sorting, LABEL]) for file in self._files]
        table = pa.concat_tables(parts, promote_options="permissive")
        frame = table.drop_columns([data.key]).to_pandas()
        rows = np.flatnonzero(known(self._job, self._split, frame).to_numpy())
        if not len(rows):
            told = f"{self._split.cutoff:%Y-%m-%d %H:%M}"
            raise DataError(f"{where(self._job, self._split)}: no row has a label that was known on {told}")
        keys = table.select(sorting).take(rows)
        rows = rows[pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in sorting]).to_numpy()]
        places = np.full(table.num_rows, -1, np.int64)
        places[rows] = np.arange(len(rows))
        frame = frame.iloc[rows].reset_index(drop=True)
        return frame[data.event_time], targets(config, frame), places

    def _blocks(self, columns: list[str]) -> Iterator[tuple[int, Array]]:
        """The features of all rows as they are read, and the number of the first row of each block."""
        import pyarrow.parquet as pq

        first = 0
        for file in self._files:
            # A buffer of its own for each column: else a whole row group of all columns would be in memory.
            with pq.ParquetFile(file, buffer_size=_BUFFER) as parquet:
                tables.require(parquet.schema_arrow.names, columns, file.name)
                for batch in parquet.iter_batches(_BATCH, columns=columns, use_threads=False):
                    values = [batch.column(name).to_numpy(zero_copy_only=False) for name in columns]
                    yield first, np.stack(values, axis=1).astype(np.float64, copy=False)
                    first += batch.num_rows


@contextmanager
def streamed(job: Job, split: Split) -> Iterator[Streamed]:
    """The known rows of a split, with a scratch folder for as long as they are needed.

    :raises Transient: if the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-training-", ignore_cleanup_errors=True) as folder:
            found = Streamed(job, split, Path(folder))
            try:
                yield found
            finally:
                found.close()
    except OSError as error:
        raise Transient(f"{where(job, split)}: training rows could not be kept on disk: {error}") from error
