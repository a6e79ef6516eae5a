"""Expectations about a table or about one number of a column, evaluated batch by batch as Great Expectations does on pandas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlops_provider.steps.data.batches import EXAMPLES, Batch, Found, Mask, is_number, is_text, is_time, is_whole
from mlops_provider.steps.data.distinct import U64, Keys, contains
from mlops_provider.steps.data.streamed_rows import Streamed, inside, number_bounds, plain, row_arguments
from mlops_provider.steps.data.suite import Expectation

_BOUNDS = {"min_value", "max_value", "strict_min", "strict_max"}
_HELD = 1 << 22  # values of a median that are held at once, 32 MiB


class Value:
    """An expectation about one number of a column: it must lie between the bounds. NaN stands for none, which fails."""

    def __init__(self, expectation: Expectation) -> None:
        self.expectation = expectation
        self._column = expectation.kwargs.get("column", "")

    def feed(self, batch: Batch) -> None:
        raise NotImplementedError

    def end(self) -> bool:
        return False

    def value(self) -> float | int:
        raise NotImplementedError

    def found(self) -> Found:
        value = self.value()
        if isinstance(value, float) and math.isnan(value):
            return Found(passed=False)
        return Found(passed=inside(self.expectation.kwargs, self.compared(value)), observed=value)

    def compared(self, value: float | int) -> Any:
        """The number as it meets the bounds."""
        return value


class Extreme(Value):
    """The smallest or largest number."""

    def __init__(self, expectation: Expectation, pick: Callable[[Any], Any]) -> None:
        super().__init__(expectation)
        self._pick, self._best, self._single = pick, math.nan, False

    def feed(self, batch: Batch) -> None:
        present = batch.columns[self._column].present
        self._single = batch.columns[self._column].array.type == pa.float32()
        if len(present):
            mine = self._pick(present).item()
            self._best = mine if math.isnan(self._best) else self._pick([self._best, mine]).item()

    def value(self) -> float | int:
        return self._best

    def compared(self, value: float | int) -> Any:
        """Pandas answers in the column's own precision, and numpy rounds a bound to that of what it is compared with."""
        return np.float32(value) if self._single else value


class Moments(Value):
    """Sum, mean or sample deviation; deviations of batches are combined as in Chan, Golub and LeVeque (1983)."""

    def __init__(self, expectation: Expectation, what: str) -> None:
        super().__init__(expectation)
        self._what = what
        self._count, self._sum, self._mean, self._squares = 0, 0.0, 0.0, 0.0
        self._whole = 0

    def feed(self, batch: Batch) -> None:
        present = batch.columns[self._column].present
        if len(present):
            with np.errstate(invalid="ignore"):  # infinities of both signs: the sum is NaN, as in pandas
                self._add(present, len(present))

    def _add(self, present: npt.NDArray[Any], count: int) -> None:
        if self._what == "stdev":
            self._spread(present, count, float(present.mean(dtype=np.float64)))
        elif present.dtype.kind == "f":
            self._sum += float(present.sum())
        else:
            self._whole += int(present.sum(dtype=np.int64))
        self._count += count

    def _spread(self, present: npt.NDArray[Any], count: int, mean: float) -> None:
        squares = float(np.square(present - mean).sum())
        step = mean - self._mean
        both = self._count + count
        self._squares += squares + step * step * self._count * count / both
        self._mean += step * count / both

    def value(self) -> float | int:
        if self._what == "sum":
            return self._whole + self._sum if self._sum else self._whole
        if self._what == "mean":
            return (self._whole + self._sum) / self._count if self._count else math.nan
        return math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else math.nan


class Median(Value):
    """The exact median: a histogram of the leading bits of all numbers, then of the next bits of those around the middle.

    The order of doubles is the order of their bits, once those of negative numbers are turned around.
    """

    def __init__(self, expectation: Expectation) -> None:
        super().__init__(expectation)
        self._ranks: list[_Rank] | None = None
        self._histogram = np.zeros(1 << 16, np.int64)

    def feed(self, batch: Batch) -> None:
        bits = _ordered(batch.columns[self._column].present)
        if self._ranks is None:
            self._histogram += np.bincount(bits >> np.uint64(48), minlength=1 << 16)
            return
        for rank in self._ranks:
            rank.feed(bits)

    def end(self) -> bool:
        if self._ranks is None:
            count = int(self._histogram.sum())
            places = {(count - 1) // 2, count // 2} if count else set()
            self._ranks = [_Rank(place, self._histogram) for place in sorted(places)]
            return bool(self._ranks)
        again = [rank.end() for rank in self._ranks]
        return any(again)

    def value(self) -> float:
        middle = [rank.value for rank in self._ranks or ()]
        return float(np.mean(middle)) if middle else math.nan


class _Rank:
    """The number at a place in the order, found by its leading bits."""

    def __init__(self, place: int, histogram: npt.NDArray[np.int64]) -> None:
        self.value = math.nan
        self._done, self._prefix, self._shift = False, np.uint64(0), 64
        self._held: list[U64] = []
        self._narrow(place, histogram)

    def _narrow(self, place: int, histogram: npt.NDArray[np.int64]) -> None:
        below = np.cumsum(histogram)
        bucket = int(np.searchsorted(below, place, side="right"))
        self._place = place - (int(below[bucket - 1]) if bucket else 0)
        self._count = int(histogram[bucket])
        self._prefix = (self._prefix << np.uint64(16)) | np.uint64(bucket)
        self._shift -= 16
        self._histogram = np.zeros(1 << 16, np.int64)

    def feed(self, bits: U64) -> None:
        if self._done:
            return
        mine = bits[bits >> np.uint64(self._shift) == self._prefix]
        if self._count <= _HELD:
            self._held.append(mine)
        else:
            next_bits = (mine >> np.uint64(self._shift - 16)) & np.uint64(0xFFFF)
            self._histogram += np.bincount(next_bits, minlength=1 << 16)

    def end(self) -> bool:
        """Whether the numbers must be seen once more."""
        if self._done:
            return False
        if self._count <= _HELD:
            self._finish(np.partition(np.concatenate(self._held), self._place)[self._place])
        else:
            self._narrow(self._place, self._histogram)
            if not self._shift:
                self._finish(self._prefix)
        return not self._done

    def _finish(self, bits: np.uint64) -> None:
        top = np.uint64(1 << 63)
        self.value = float((bits ^ top if bits & top else ~bits).view(np.float64))
        self._done, self._held = True, []


def _ordered(numbers: npt.NDArray[Any]) -> U64:
    bits = (numbers.astype(np.float64) + 0.0).view(np.uint64)
    top = np.uint64(1 << 63)
    return np.where(bits & top, ~bits, bits | top)


class Nonnull(Value):
    """The share of rows that have a value."""

    def __init__(self, expectation: Expectation) -> None:
        super().__init__(expectation)
        self._rows = self._missing = 0

    def feed(self, batch: Batch) -> None:
        self._rows += batch.rows
        self._missing += batch.columns[self._column].missing_count

    def value(self) -> float:
        return (self._rows - self._missing) / self._rows if self._rows else 0


class DistinctValues(Value):
    """The number of distinct values, or its share of all values. Text is counted by 64-bit hash."""

    def __init__(self, expectation: Expectation, *, share: bool) -> None:
        super().__init__(expectation)
        self._share, self._keys, self._count = share, Keys(), 0

    def feed(self, batch: Batch) -> None:
        keys = batch.columns[self._column].keys()
        self._count += len(keys)
        self._keys.add(keys)

    def value(self) -> float | int:
        distinct = self._keys.distinct()
        return distinct if not self._share else distinct / self._count if self._count else 0


class UniqueValues:
    """No value stands there twice. A first pass finds keys that repeat; a second confirms them and finds examples.

    Keys of numbers and times are the values. Text is confirmed by a second hash, so that a chance of one in 2**64 per pair
    becomes one in 2**128; where more keys repeat than fit into memory, the first hash decides.
    """

    def __init__(self, expectation: Expectation, kind: pa.DataType, *, memory: int | None = None) -> None:
        self.expectation = expectation
        self._column = expectation.kwargs["column"]
        self._mostly = float(expectation.kwargs.get("mostly", 1.0))
        self._hashed = is_text(kind)
        self._memory = {"memory": memory} if memory else {}
        self._keys, self._again = Keys(**self._memory), False
        self._repeated: U64 = np.empty(0, np.uint64)
        self._found = Found(rows=0, count=0, missing=0)
        self.whole = True

    def feed(self, batch: Batch) -> None:
        if self._again:
            self._confirm(batch)
            return
        column = batch.columns[self._column]
        self._found.rows = (self._found.rows or 0) + batch.rows
        self._found.missing = (self._found.missing or 0) + column.missing_count
        self._keys.add(column.keys())

    def broken(self, batch: Batch) -> Mask:
        """The rows whose value stands there more than once."""
        column = batch.columns[self._column]
        mask: Mask = np.zeros(batch.rows, np.bool_)
        mask[~column.missing] = contains(self._repeated, column.keys())
        return mask

    def _confirm(self, batch: Batch) -> None:
        broken, found = self.broken(batch), self._found
        if self._hashed and self.whole:
            column = batch.columns[self._column]
            first, second = column.keys(), column.keys(1)
            again = broken[~column.missing]
            self._keys.add(second[again] ^ (first[again] >> np.uint64(1)))
        for row in np.flatnonzero(broken)[: EXAMPLES - len(found.examples)]:
            found.examples.append(batch.example(int(row), self._column))

    def end(self) -> bool:
        if self._again:
            if self._hashed and self.whole:
                self._found.count = self._keys.repeated()[0]
            self._again = False
            return False
        self._found.count, self._repeated, self.whole = self._keys.repeated()
        self._again, self._keys = bool(self._found.count), Keys(**self._memory)
        return self._again

    def found(self) -> Found:
        considered, count = self._found.considered, self._found.count or 0
        self._found.passed = not considered or (considered - count) / considered >= self._mostly
        return self._found


class RowCount(Value):
    """The number of rows."""

    def __init__(self, expectation: Expectation) -> None:
        super().__init__(expectation)
        self._rows = 0

    def feed(self, batch: Batch) -> None:
        self._rows += batch.rows

    def value(self) -> int:
        return self._rows

    def found(self) -> Found:
        if "value" in self.expectation.kwargs:
            return Found(passed=self._rows == self.expectation.kwargs["value"], observed=self._rows)
        return super().found()


class Known:
    """An expectation that the names of the columns answer."""

    def __init__(self, expectation: Expectation, found: Found) -> None:
        self.expectation, self._found = expectation, found

    def feed(self, batch: Batch) -> None:
        pass

    def end(self) -> bool:
        return False

    def found(self) -> Found:
        return self._found


_NUMBERS: dict[str, tuple[Callable[[pa.DataType], bool], Callable[[Expectation], Value]]] = {
    "expect_column_min_to_be_between": (is_number, lambda e: Extreme(e, np.min)),
    "expect_column_max_to_be_between": (is_number, lambda e: Extreme(e, np.max)),
    "expect_column_mean_to_be_between": (lambda k: _is_wide(k), lambda e: Moments(e, "mean")),
    "expect_column_sum_to_be_between": (lambda k: _is_wide(k), lambda e: Moments(e, "sum")),
    "expect_column_stdev_to_be_between": (lambda k: _is_wide(k), lambda e: Moments(e, "stdev")),
    "expect_column_median_to_be_between": (lambda k: _is_wide(k), Median),
    "expect_column_proportion_of_non_null_values_to_be_between": (lambda k: _has_keys(k), Nonnull),
    "expect_column_unique_value_count_to_be_between": (
        lambda k: _has_keys(k),
        lambda e: DistinctValues(e, share=False),
    ),
    "expect_column_proportion_of_unique_values_to_be_between": (
        lambda k: _has_keys(k),
        lambda e: DistinctValues(e, share=True),
    ),
}


def _is_wide(kind: pa.DataType) -> bool:
    """Pandas adds up narrower floats in their own precision."""
    return is_whole(kind) or kind == pa.float64()


def _has_keys(kind: pa.DataType) -> bool:
    return is_text(kind) or is_number(kind) or is_time(kind) or kind == pa.date32()


def number(expectation: Expectation, kind: pa.DataType) -> Streamed | None:
    """The streamed form of uniqueness or of an expectation about one number of a column, or None."""
    if expectation.type == "expect_column_values_to_be_unique":
        return UniqueValues(expectation, kind) if row_arguments(expectation) and _has_keys(kind) else None
    fits, made = _NUMBERS.get(expectation.type, (None, None))
    kwargs = expectation.kwargs
    if fits is None or made is None or not plain(kwargs, _BOUNDS) or not number_bounds(kwargs):
        return None
    return made(expectation) if fits(kind) else None


def table(expectation: Expectation, names: list[str]) -> Streamed | None:
    """The streamed form of an expectation about the table, or None."""
    kwargs, kind = expectation.kwargs, expectation.type
    bounds = set(kwargs) <= _BOUNDS and number_bounds(kwargs, whole=True)
    equal = set(kwargs) == {"value"} and type(kwargs["value"]) is int
    if (kind == "expect_table_row_count_to_be_between" and bounds) or (
        kind == "expect_table_row_count_to_equal" and equal
    ):
        return RowCount(expectation)
    if kind == "expect_table_column_count_to_be_between" and bounds and set(kwargs) <= {"min_value", "max_value"}:
        return Known(expectation, Found(passed=inside(kwargs, len(names)), observed=len(names)))
    if kind == "expect_table_column_count_to_equal" and equal:
        return Known(expectation, Found(passed=len(names) == kwargs["value"], observed=len(names)))
    found = _names(expectation, names)
    return Known(expectation, found) if found else None


def _names(expectation: Expectation, names: list[str]) -> Found | None:
    kwargs, kind = expectation.kwargs, expectation.type
    if kind == "expect_column_to_exist" and set(kwargs) == {"column"} and isinstance(kwargs["column"], str):
        return Found(passed=kwargs["column"] in names)
    if kind == "expect_table_columns_to_match_ordered_list" and set(kwargs) == {"column_list"}:
        wanted = kwargs["column_list"]
        return Found(passed=wanted == names, observed=names) if _is_names(wanted) else None
    if kind == "expect_table_columns_to_match_set" and {"column_set"} <= set(kwargs) <= {"column_set", "exact_match"}:
        wanted, exact = kwargs["column_set"], kwargs.get("exact_match", True)
        if not _is_names(wanted) or type(exact) is not bool:
            return None
        passed = set(wanted) == set(names) if exact else set(wanted) <= set(names)
        return Found(passed=passed, observed=sorted(names))
    return None


def _is_names(wanted: object) -> bool:
    return isinstance(wanted, list) and bool(wanted) and all(type(name) is str for name in wanted)
