"""Expectations about every row, evaluated batch by batch as Great Expectations evaluates them on pandas.

A test says which rows break it; missing values break none, but for the two tests of missing values. Each factory takes the
arguments of an expectation and the type of its column, and returns None where it cannot promise the very same outcome.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.steps.data.batches import EXAMPLES, Batch, Column, Found, Mask, as_mask, is_number, is_text, is_time
from mlops_provider.steps.data.suite import Expectation

Test = Callable[[Column], Mask]

_EXACT = 2**53
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?")
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FEW = 16  # a regex runs once per distinct value if values repeat as often as this


class Streamed(Protocol):
    """An expectation that sees a dataset batch by batch."""

    expectation: Expectation

    def feed(self, batch: Batch) -> None: ...

    def end(self) -> bool:
        """The dataset has been seen. Whether it must be seen once more."""
        ...

    def found(self) -> Found: ...


class Rows:
    """An expectation about every row of a column."""

    def __init__(self, expectation: Expectation, test: Test, *, counts_missing: bool = False) -> None:
        self.expectation, self._test, self._counts_missing = expectation, test, counts_missing
        self._column = expectation.kwargs["column"]
        self._mostly = float(expectation.kwargs.get("mostly", 1.0))
        self._found = Found(rows=0, count=0, missing=None if counts_missing else 0)

    def broken(self, batch: Batch) -> Mask:
        """The rows that break it."""
        return self._test(batch.columns[self._column])

    def feed(self, batch: Batch) -> None:
        found, broken = self._found, self.broken(batch)
        count = int(np.count_nonzero(broken))
        found.rows = (found.rows or 0) + batch.rows
        found.count = (found.count or 0) + count
        if found.missing is not None:
            found.missing += batch.columns[self._column].missing_count
        if count and (room := EXAMPLES - len(found.examples)) > 0:
            found.examples += [batch.example(int(row), self._column) for row in np.flatnonzero(broken)[:room]]

    def end(self) -> bool:
        return False

    def found(self) -> Found:
        considered, count = self._found.considered, self._found.count or 0
        self._found.passed = not considered or (considered - count) / considered >= self._mostly
        return self._found


def _null(column: Column) -> Mask:
    return column.missing


def _not_null(column: Column) -> Mask:
    return ~column.missing


def between(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """Numbers or timestamps between bounds; None for what Great Expectations compares in other ways."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    strict = (kwargs.get("strict_min", False), kwargs.get("strict_max", False))
    if is_number(kind) and number_bounds(kwargs):
        return _outside(lambda column: column.numbers, low, high, strict)
    if is_time(kind) and all(bound is None or _is_time(bound, kind) for bound in (low, high)):
        ticks = {"min_value": _tick(low, kind), "max_value": _tick(high, kind)}
        flags = {key: kwargs[key] for key in ("strict_min", "strict_max") if key in kwargs}
        if number_bounds({key: tick for key, tick in ticks.items() if tick is not None} | flags, exact=False):
            return _outside(lambda column: column.ticks, ticks["min_value"], ticks["max_value"], strict)
    return None


def number_bounds(kwargs: dict[str, Any], *, whole: bool = False, exact: bool = True) -> bool:
    """Whether the bounds are plain numbers in their order, at least one, and the flags are plain flags."""
    bounds = [kwargs[key] for key in ("min_value", "max_value") if key in kwargs]
    kinds = (int,) if whole else (int, float)
    plain = all(type(b) in kinds and math.isfinite(b) and (abs(b) <= _EXACT or not exact) for b in bounds)
    flags = all(type(kwargs.get(key, False)) is bool for key in ("strict_min", "strict_max"))
    return bool(bounds) and plain and flags and bounds == sorted(bounds)


def inside(kwargs: dict[str, Any], value: float) -> bool:
    """Whether one number lies between the bounds."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
    below = high is None or (value < high if kwargs.get("strict_max") else value <= high)
    return above and below


def _outside(values: Callable[[Column], Any], low: Any, high: Any, strict: tuple[bool, bool]) -> Test:
    def test(column: Column) -> Mask:
        found = values(column)
        ok: Mask = np.ones(len(found), np.bool_)
        if low is not None:
            ok &= (found > low) if strict[0] else (found >= low)
        if high is not None:
            ok &= (found < high) if strict[1] else (found <= high)
        return ~ok & ~column.missing if column.missing_count else ~ok

    return test


def _is_time(bound: object, kind: pa.DataType) -> bool:
    """Whether a bound is a point in time that every parser reads alike, with a zone if the column has one.

    Columns without a zone are compared as time in nanoseconds only; Great Expectations treats other units as objects.
    """
    if not isinstance(bound, str) or not (read := _TIME.fullmatch(bound)):
        return False
    return bool(read[2]) if kind.tz else not read[2] and kind.unit == "ns"


def _tick(bound: str | None, kind: pa.DataType) -> float | int | None:
    """A bound in the unit of the column, exact: a half where it lies between two ticks."""
    if bound is None:
        return None
    moment = dt.datetime.fromisoformat(bound)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    micros = (moment - _EPOCH) // dt.timedelta(microseconds=1)
    if kind.unit == "ns":
        return micros * 1_000
    whole, rest = divmod(micros, _UNITS[kind.unit])
    return whole + 0.5 if rest else whole


def in_set(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """Text among texts, or numbers among numbers; pandas has rules of its own for every other pair."""
    values = kwargs.get("value_set")
    if not isinstance(values, list) or not values:
        return None
    if is_text(kind) and all(type(v) is str for v in values):
        known = pa.array(values, kind)
        return lambda column: ~as_mask(pc.is_in(column.array, value_set=known)) & ~column.missing
    if is_number(kind) and all(type(v) in (int, float) and abs(v) <= _EXACT for v in values):
        numbers = np.array(values)
        return lambda column: ~np.isin(column.numbers, numbers) & ~column.missing
    return None


def not_in_set(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """The values that are in the set, for the same types."""
    test = in_set(kwargs, kind)
    return test and (lambda column: ~test(column) & ~column.missing)


def lengths(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """Lengths of text, in characters."""
    if not is_text(kind) or not number_bounds(kwargs, whole=True):
        return None
    return _outside(_lengths, kwargs.get("min_value"), kwargs.get("max_value"), _strict(kwargs))


def length(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """One length of text, in characters."""
    value = kwargs.get("value")
    return _outside(_lengths, value, value, (False, False)) if is_text(kind) and type(value) is int else None


def _strict(kwargs: dict[str, Any]) -> tuple[bool, bool]:
    return kwargs.get("strict_min", False), kwargs.get("strict_max", False)


def _lengths(column: Column) -> Any:
    return pc.fill_null(pc.utf8_length(column.array), 0).to_numpy(zero_copy_only=False)


def regex(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """A pattern that text must hold somewhere."""
    pattern = kwargs.get("regex")
    if not is_text(kind) or not isinstance(pattern, str):
        return None
    try:
        compiled = re.compile(pattern)
    except re.error:
        return None
    return lambda column: ~_matching(column, compiled) & ~column.missing


def not_regex(kwargs: dict[str, Any], kind: pa.DataType) -> Test | None:
    """A pattern that text must not hold."""
    test = regex(kwargs, kind)
    return test and (lambda column: ~test(column) & ~column.missing)


def _matching(column: Column, pattern: re.Pattern[str]) -> Mask:
    """Python's own search, as in pandas, so that every pattern means the same; RE2 where both read it alike."""
    values = column.array
    simple, ascii_only = translated(pattern.pattern)
    if simple is not None and not (ascii_only and not pc.all(pc.string_is_ascii(values), min_count=0).as_py()):
        return as_mask(pc.match_substring_regex(values, simple))
    coded = values.dictionary_encode()
    if len(coded.dictionary) * _FEW <= len(values):
        matches = pa.array([pattern.search(value) is not None for value in coded.dictionary.to_pylist()], pa.bool_())
        return as_mask(matches.take(coded.indices))
    return np.array([v is not None and pattern.search(v) is not None for v in values.to_pylist()], np.bool_)


_PIECE = re.compile(
    r"[A-Za-z0-9 _@%&/:;,<>=~#'\"!-]|\\[.\-/+*?()\[\]{}|^$\\dw]|\[[A-Za-z0-9_.@ -]+\]|\.|[*+?](?![*+?])|"
    r"\{\d{1,2}(?:,\d{0,2})?\}(?![*+?{])|\((?!\?)|\)|\|"
)
_ASCII = {r"\d": "[0-9]", r"\w": "[0-9A-Za-z_]"}


@lru_cache
def translated(pattern: str) -> tuple[str | None, bool]:
    r"""The pattern for RE2 if it is made of nothing but what both engines read alike, and whether only of ASCII text.

    Python's ``\d`` and ``\w`` hold the digits and letters of every script; its ``$`` also matches before a last newline.
    RE2 has limits that Python lacks, such as 1,000 for repetitions within repetitions: what it refuses is left to Python.
    """
    begin, rest = ("^", pattern[1:]) if pattern.startswith("^") else ("", pattern)
    ends = rest.endswith("$") and not rest.endswith("\\$")
    pieces = _pieces(rest[:-1] if ends else rest)
    if pieces is None or ((begin or ends) and _splits(pieces)):
        return None, False
    middle = "".join(_ASCII.get(piece, piece) for piece in pieces)
    simple = begin + middle + ("\\n?\\z" if ends else "")
    try:
        pc.match_substring_regex(pa.array([""]), simple)
    except pa.ArrowInvalid:
        return None, False
    return simple, any(piece in _ASCII for piece in pieces)


def _pieces(text: str) -> list[str] | None:
    found, at = [], 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        found.append(piece[0])
        at = piece.end()
    return found


def _splits(pieces: list[str]) -> bool:
    """Whether an alternative outside of parentheses would take an anchor for itself."""
    depth = 0
    for piece in pieces:
        depth += (piece == "(") - (piece == ")")
        if piece == "|" and not depth:
            return True
    return False


_TESTS: dict[str, Callable[[dict[str, Any], pa.DataType], Test | None]] = {
    "expect_column_values_to_be_between": between,
    "expect_column_values_to_be_in_set": in_set,
    "expect_column_values_to_not_be_in_set": not_in_set,
    "expect_column_values_to_match_regex": regex,
    "expect_column_values_to_not_match_regex": not_regex,
    "expect_column_value_lengths_to_be_between": lengths,
    "expect_column_value_lengths_to_equal": length,
}
_ARGUMENTS = {
    "expect_column_values_to_be_between": {"min_value", "max_value", "strict_min", "strict_max"},
    "expect_column_values_to_be_in_set": {"value_set"},
    "expect_column_values_to_not_be_in_set": {"value_set"},
    "expect_column_values_to_match_regex": {"regex"},
    "expect_column_values_to_not_match_regex": {"regex"},
    "expect_column_value_lengths_to_be_between": {"min_value", "max_value", "strict_min", "strict_max"},
    "expect_column_value_lengths_to_equal": {"value"},
    "expect_column_values_to_not_be_null": set(),
    "expect_column_values_to_be_null": set(),
    "expect_column_values_to_be_unique": set(),
}


def plain(kwargs: dict[str, Any], allowed: set[str], *, mostly: bool = False) -> bool:
    """Whether the arguments are a column and no other than these; anything else is for Great Expectations to judge."""
    share = kwargs.get("mostly", 1.0)
    usable = type(share) in (int, float) and 0 <= share <= 1
    return (
        isinstance(kwargs.get("column"), str) and set(kwargs) <= allowed | {"column", *(["mostly"] * mostly)} and usable
    )


def rows(expectation: Expectation, kind: pa.DataType) -> Rows | None:
    """The streamed form of an expectation about every row but for uniqueness, or None."""
    if not row_arguments(expectation):
        return None
    if expectation.type == "expect_column_values_to_not_be_null":
        return Rows(expectation, _null, counts_missing=True) if _nulls_alike(kind) else None
    if expectation.type == "expect_column_values_to_be_null":
        return Rows(expectation, _not_null, counts_missing=True) if _nulls_alike(kind) else None
    factory = _TESTS.get(expectation.type)
    test = factory(expectation.kwargs, kind) if factory else None
    return Rows(expectation, test) if test else None


def row_arguments(expectation: Expectation) -> bool:
    """Whether it is about every row and its arguments are known exactly."""
    allowed = _ARGUMENTS.get(expectation.type)
    return allowed is not None and plain(expectation.kwargs, allowed, mostly=True)


def _nulls_alike(kind: pa.DataType) -> bool:
    return is_text(kind) or is_time(kind) or is_number(kind) or kind in (pa.bool_(), pa.date32())
