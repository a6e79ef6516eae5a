"""Partitions of time: how they are named, which comes next, when they end."""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal

from mlops_provider.exceptions import RequestError

Frequency = Literal["monthly", "daily", "hourly"]

FORMATS: dict[str, str] = {"monthly": "%Y-%m", "daily": "%Y-%m-%d", "hourly": "%Y-%m-%dT%H"}
PATTERNS: dict[str, str] = {
    "monthly": r"^\d{4}-(0[1-9]|1[0-2])$",
    "daily": r"^\d{4}-(0[1-9]|1[0-2])-\d{2}$",
    "hourly": r"^\d{4}-(0[1-9]|1[0-2])-\d{2}T([01]\d|2[0-3])$",
}
# The shortest that a partition can be.
LENGTHS: dict[str, dt.timedelta] = {
    "monthly": dt.timedelta(days=28),
    "daily": dt.timedelta(days=1),
    "hourly": dt.timedelta(hours=1),
}
# Leaves room for partitions that follow a local calendar.
SLACK = dt.timedelta(days=1)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> dt.timedelta:
    """A duration such as ``30s``, ``90m``, ``2h``, ``1d`` or ``3w``.

    :raises ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not found:
        raise ValueError(f"{text!r} is no duration, expected a number and s, m, h, d or w, such as '2h'")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


def start(partition: str, frequency: str) -> dt.datetime:
    """First moment of a partition, UTC.

    :raises RequestError: if the partition's name does not fit the frequency, or there is no such frequency.
    """
    if frequency not in FORMATS:
        raise RequestError(f"{frequency!r} is no frequency of partitions, expected one of {', '.join(FORMATS)}")
    try:
        if isinstance(partition, str) and re.fullmatch(PATTERNS[frequency], partition):
            return dt.datetime.strptime(partition, FORMATS[frequency]).replace(tzinfo=dt.UTC)
    except ValueError:
        pass
    raise RequestError(f"{partition!r} is no {frequency} partition, expected one such as {_example(frequency)!r}")


def beside(source: str, name: str) -> str:
    """URI of a file in the folder of a source; a source that ends with ``/`` is a folder itself."""
    return f"{source.rpartition('/')[0]}/{name}" if "/" in source else name


def is_partition(name: str, frequency: str) -> bool:
    """Whether a name is that of a partition."""
    try:
        start(name, frequency)
    except RequestError:
        return False
    return True


def shift(partition: str, frequency: str, by: int) -> str:
    """The partition that many places later (or, if negative, before).

    :raises RequestError: if there is none: years have four digits.
    """
    moment = start(partition, frequency)
    try:
        if frequency == "monthly":
            months = moment.year * 12 + moment.month - 1 + by
            moment = moment.replace(year=months // 12, month=months % 12 + 1)
        else:
            moment += by * dt.timedelta(**{"daily": {"days": 1}, "hourly": {"hours": 1}}[frequency])
    except (ValueError, OverflowError) as error:
        raise RequestError(f"there is no partition {abs(by)} {'after' if by > 0 else 'before'} {partition}") from error
    # strftime writes the year 999 with three digits.
    return moment.strftime(FORMATS[frequency]).zfill(len(partition))


def _example(frequency: str) -> str:
    return dt.datetime(2013, 1, 31, 5).strftime(FORMATS[frequency])
