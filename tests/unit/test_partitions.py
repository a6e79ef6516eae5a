"""Partitions: names, order, durations."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.exceptions import RequestError
from mlops_provider.partitions import FORMATS, parse_duration, shift, start


@pytest.mark.parametrize(
    ("partition", "frequency", "by", "expected"),
    [
        ("2013-12", "monthly", 1, "2014-01"),
        ("2013-01", "monthly", -1, "2012-12"),
        ("2013-01", "monthly", -25, "2010-12"),
        ("2024-02-28", "daily", 1, "2024-02-29"),
        ("2024-01-01", "daily", -1, "2023-12-31"),
        ("2024-01-01T23", "hourly", 1, "2024-01-02T00"),
    ],
)
def test_the_next_partition(partition: str, frequency: str, by: int, expected: str) -> None:
    assert shift(partition, frequency, by) == expected


@given(
    moment=st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1)),
    frequency=st.sampled_from(sorted(FORMATS)),
    by=st.integers(-1000, 1000),
)
def test_there_and_back_again(moment: dt.datetime, frequency: str, by: int) -> None:
    partition = moment.strftime(FORMATS[frequency])
    moved = shift(partition, frequency, by)
    assert shift(moved, frequency, -by) == partition
    assert (start(moved, frequency) > start(partition, frequency)) == (by > 0)
    assert (moved > partition) == (by > 0)


@pytest.mark.parametrize(
    ("partition", "frequency"),
    [
        ("2013-13", "monthly"),
        ("2013-1", "monthly"),
        ("2013-01-01", "monthly"),
        ("2013-02-30", "daily"),
        ("2013-01-01T24", "hourly"),
        ("2013-01\n", "monthly"),
        ("../2013-01", "monthly"),
        ("", "monthly"),
    ],
)
def test_what_is_no_partition_is_refused(partition: str, frequency: str) -> None:
    with pytest.raises(RequestError, match="expected one such as '2013-01"):
        start(partition, frequency)


@pytest.mark.parametrize(("text", "hours"), [("90m", 1.5), ("2h", 2), ("1d", 24), ("3w", 504), ("0h", 0)])
def test_durations(text: str, hours: float) -> None:
    assert parse_duration(text) == dt.timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-2h", "1.5h", "2y", "2h\n", "9999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("partition", "frequency", "by", "expected"),
    [
        ("2013-01", "weekly", 1, "'weekly' is no frequency of partitions, expected one of monthly, daily, hourly"),
        (None, "monthly", 1, "None is no monthly partition"),
        ("0001-01", "monthly", -1, "there is no partition 1 before 0001-01"),
        ("9999-12", "monthly", 1, "there is no partition 1 after 9999-12"),
        ("9999-12-31", "daily", 1, "there is no partition 1 after 9999-12-31"),
    ],
)
def test_what_cannot_be_reckoned_is_refused(partition: Any, frequency: str, by: int, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        shift(partition, frequency, by)


def test_early_years_have_four_digits() -> None:
    assert [shift("0999-05", "monthly", -1), shift("0999-05-01", "daily", 1)] == ["0999-04", "0999-05-02"]
