"""One batch of a dataset in the forms that expectations need, each made once however many expectations ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.steps.data.distinct import SEEDS, U64, number_keys, text_keys

Mask = npt.NDArray[np.bool_]
EXAMPLES = 20


class Column:
    """One column of one batch. What pandas calls missing is missing here: null, and NaN in numbers."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @cached_property
    def missing(self) -> Mask:
        if pa.types.is_floating(self.array.type):
            missing: Mask = np.isnan(self.numbers)
            return missing
        if not self.array.null_count:
            return np.zeros(len(self.array), np.bool_)
        return _mask(self.array.is_null())

    @cached_property
    def missing_count(self) -> int:
        if not pa.types.is_floating(self.array.type):
            return int(self.array.null_count)
        return int(np.count_nonzero(self.missing))

    @cached_property
    def numbers(self) -> npt.NDArray[Any]:
        """As pandas sees them: whole numbers become floats with NaN where one is missing, floats become doubles."""
        found: npt.NDArray[Any] = self.array.to_numpy(zero_copy_only=False)
        return found.astype(np.float64) if found.dtype == np.float32 else found

    @cached_property
    def present(self) -> npt.NDArray[Any]:
        """The numbers that are not missing."""
        return self.numbers[~self.missing] if self.missing_count else self.numbers

    @cached_property
    def ticks(self) -> npt.NDArray[np.int64]:
        """Timestamps as whole units since 1970; 0 where one is missing."""
        found: npt.NDArray[np.int64] = self.array.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return found

    def keys(self, seed: int = 0) -> U64:
        """64-bit keys of what is not missing: equal values have equal keys."""
        kind = self.array.type
        if is_text(kind):
            return text_keys(self.array.drop_null(), SEEDS[seed])
        if pa.types.is_floating(kind):
            return number_keys(self.present)
        found = self.array.drop_null()
        if not pa.types.is_integer(kind):
            found = found.view(pa.int32() if pa.types.is_date32(kind) else pa.int64())
        return number_keys(found.to_numpy(zero_copy_only=False))


@dataclass
class Batch:
    """Columns of one batch by name.

    :ivar begin: number of its first row in the dataset.
    :ivar key: name of the column that names rows, if there is one.
    """

    begin: int
    rows: int
    columns: dict[str, Column]
    key: str | None = None

    @classmethod
    def of(cls, batch: pa.RecordBatch, begin: int, key: str | None) -> Batch:
        columns = {name: Column(batch.column(name)) for name in batch.schema.names}
        return cls(begin, batch.num_rows, columns, key)

    def example(self, row: int, column: str) -> Example:
        key = self.columns[self.key].array[row].as_py() if self.key in self.columns else None
        return Example(self.begin + row, key, {column: self.columns[column].array[row].as_py()})


@dataclass(frozen=True)
class Example:
    """A row that breaks an expectation."""

    row: int | None
    key: Any
    values: dict[str, Any]


@dataclass
class Found:
    """What came of an expectation, from whichever engine.

    :ivar count: rows that break it, for an expectation about every row; None for others.
    :ivar missing: rows without a value, where those are left out of account.
    :ivar error: why it could not be evaluated; nothing else counts then.
    """

    passed: bool = False
    observed: Any = None
    rows: int | None = None
    count: int | None = None
    missing: int | None = None
    examples: list[Example] = field(default_factory=list)
    error: str = ""

    @property
    def considered(self) -> int:
        return 0 if self.rows is None else self.rows - (self.missing or 0)

    @property
    def percent(self) -> float | None:
        """Of the rows that were considered, as Great Expectations computes it."""
        return self.count / self.considered * 100 if self.count is not None and self.considered else None


def is_text(kind: pa.DataType) -> bool:
    """Plain strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_time(kind: pa.DataType) -> bool:
    """Timestamps of any unit, with or without a zone."""
    return bool(pa.types.is_timestamp(kind))


def is_number(kind: pa.DataType) -> bool:
    """Numbers that numpy, arrow and pandas hold alike."""
    return is_whole(kind) or kind in (pa.float32(), pa.float64())


def is_whole(kind: pa.DataType) -> bool:
    """Whole numbers that fit into 64 bits with a sign."""
    return bool(pa.types.is_integer(kind)) and kind != pa.uint64()


def as_mask(array: Any) -> Mask:
    """A boolean arrow array as a mask; null is False."""
    return _mask(pc.fill_null(array, False))


def _mask(array: Any) -> Mask:
    found: Mask = array.to_numpy(zero_copy_only=False)
    return found
