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
    """An observation an hour at each airport, and two planes."""
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
    return {"weather": weather.reset_index(drop=True), "planes": planes}


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


def test_what_is_observed_later_changes_nothing(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    weather, asked = history["weather"], rows.iloc[:10]
    later = weather["observed_at"] > (asked["scheduled_departure"] - LEAD).max()
    assert 0 < later.sum() < len(weather)
    other = weather.copy()
    other.loc[later, list(READINGS)] += 1_000.0
    pd.testing.assert_frame_equal(made(asked, {**history, "weather": other}), made(asked, history))


def test_what_was_observed_before_does_change_features(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    other = history["weather"].assign(temp=history["weather"]["temp"] + 1_000.0)
    assert (made(rows, {**history, "weather": other})["temp"] - made(rows, history)["temp"]).eq(1_000.0).all()


def test_one_row_has_the_features_that_it_has_in_a_batch(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    batch = made(rows, history)
    alone = pd.concat([made(rows.loc[[place]], history) for place in rows.index])
    pd.testing.assert_frame_equal(alone, batch)


def test_the_order_of_rows_and_history_does_not_matter(rows: pd.DataFrame, history: dict[str, pd.DataFrame]) -> None:
    shuffled = {name: table.sample(frac=1.0, random_state=3) for name, table in history.items()}
    found = made(rows.sample(frac=1.0, random_state=4), shuffled)
    pd.testing.assert_frame_equal(found.sort_index(), made(rows, history))
