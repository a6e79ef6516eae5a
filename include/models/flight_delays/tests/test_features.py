"""What the features of this model promise, on a few made-up flights. CI runs this before it lets data in.

The tests run confined, from the model's own directory: no network is needed, and nothing outside it can be relied on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from features import FEATURES, READINGS, build

CONFIG = yaml.safe_load(Path("model.yaml").read_text())
LEAD = pd.Timedelta(hours=2)
ROWS = 40


@pytest.fixture
def rows() -> pd.DataFrame:
    """Flights, one every 50 minutes, with gaps in the index as a quarantine leaves them."""
    rng = np.random.default_rng(7)
    departure = pd.Timestamp("2013-02-03", tz="UTC") + pd.to_timedelta(np.arange(ROWS) * 50, unit="min")
    return pd.DataFrame(
        {
            "flight_id": [f"flight-{number}" for number in range(ROWS)],
            "scheduled_departure": departure,
            "scheduled_arrival": rng.integers(0, 24, ROWS) * 100 + rng.integers(0, 60, ROWS),
            "carrier": rng.choice(["UA", "B6", "??"], ROWS),
            "tailnum": rng.choice(["N1", "N2", "N404"], ROWS),
            "origin": rng.choice(["EWR", "JFK", "LGA"], ROWS),
            "dest": rng.choice(["ATL", "SFO"], ROWS),
            "distance": rng.integers(200, 2_600, ROWS).astype(float),
        },
        index=np.arange(ROWS) * 3 + 1,
    )


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    """An observation an hour at each airport, two planes, and an earlier flight's outcome every ten minutes."""
    rng = np.random.default_rng(8)
    hours = pd.date_range("2013-02-02", "2013-02-06", freq="h", tz="UTC")
    weather = pd.concat([
        pd.DataFrame({"origin": origin, "observed_at": hours}).assign(**{
            name: rng.normal(size=len(hours)) for name in READINGS
        })
        for origin in ("EWR", "JFK", "LGA")
    ])
    planes = pd.DataFrame({
        "tailnum": ["N1", "N2"],
        "built": [1998.0, np.nan],
        "seats": [180, 55],
        "engines": [2, 2],
        "engine": ["Turbo-fan", "Turbo-jet"],
    })
    known = pd.date_range("2013-01-20", "2013-02-06", freq="10min", tz="UTC")
    past = pd.DataFrame({
        "carrier": rng.choice(["UA", "B6"], len(known)),
        "label": rng.integers(0, 2, len(known)).astype(float),
        "known_at": known,
    })
    return {"weather": weather.reset_index(drop=True), "planes": planes, "past": past}


def made(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return build(rows, history, rows["scheduled_departure"] - LEAD)


def test_every_row_is_kept_in_its_place(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    found = made(rows, history)
    assert found.index.equals(rows.index)
    assert list(found.columns) == CONFIG["features"]["columns"]
    assert set(found.dtypes) == {np.dtype("float64")}


def test_nothing_that_is_known_only_after_departure_is_an_input() -> None:
    later = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "hour", "minute"}
    assert not later & {*CONFIG["data"]["columns"], *FEATURES}
    assert CONFIG["data"]["label"]["column"] not in CONFIG["data"]["columns"]


def test_columns_that_are_no_input_change_nothing(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(made(rows.assign(arr_delay=99.0, dep_time=1.0), history), made(rows, history))


def test_what_becomes_known_later_changes_nothing(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    asked = rows.iloc[:10]
    now = (asked["scheduled_departure"] - LEAD).max()
    other = dict(history)
    for name, time, columns in (("weather", "observed_at", list(READINGS)), ("past", "known_at", ["label"])):
        later = history[name][time] > now
        assert 0 < later.sum() < len(later)
        other[name] = history[name].copy()
        other[name].loc[later, columns] = 1.0 - history[name].loc[later, columns]
    pd.testing.assert_frame_equal(made(asked, other), made(asked, history))


def test_what_was_known_before_does_change_features(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    weather = history["weather"].assign(temp=history["weather"]["temp"] + 1_000.0)
    past = history["past"].assign(label=1.0 - history["past"]["label"])
    before, after = made(rows, history), made(rows, {**history, "weather": weather, "past": past})
    assert (after["temp"] - before["temp"]).eq(1_000.0).all()
    known = before["carrier_late_7d"].notna()
    assert known.any()
    assert (after["carrier_late_7d"] != before["carrier_late_7d"])[known].any()


def test_one_row_has_the_features_that_it_has_in_a_batch(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    batch = made(rows, history)
    alone = pd.concat([made(rows.loc[[place]], history) for place in rows.index])
    pd.testing.assert_frame_equal(alone, batch)


def test_the_order_of_rows_and_history_does_not_matter(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    shuffled = {name: table.sample(frac=1.0, random_state=3) for name, table in history.items()}
    found = made(rows.sample(frac=1.0, random_state=4), shuffled)
    pd.testing.assert_frame_equal(found.sort_index(), made(rows, history))
