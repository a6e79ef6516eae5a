"""The flight delays model's feed and features, on real data: nothing known only later may reach a feature."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from mlops_provider.steps.data.feature_checks import check_features

MODEL = Path(__file__).resolve().parents[3] / "include" / "models" / "flight_delays"
AFTER_DEPARTURE = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
BEFORE, PARTITION = "2013-01", "2013-02"  # the worst month for cancellations


def _load(name: str) -> ModuleType:
    """Import a file of the model's directory by its path, as the provider does."""
    spec = importlib.util.spec_from_file_location(f"flight_delays_{name}", MODEL / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


feed, features = _load("feed"), _load("features")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds one month, inputs and labels."""
    path = tmp_path_factory.mktemp("data")
    for what in ("inputs", "labels"):
        feed.deliver(str(path), PARTITION, what)
    return path


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Keys and codes of all flights of the year, in the order of delivery."""
    path = tmp_path_factory.mktemp("year")
    delivered = [feed.deliver(str(path), partition, "inputs")[-1] for partition in feed.partitions()]
    columns = ["flight_id", "origin", "carrier", "dest"]
    return pd.concat([pd.read_parquet(file, columns=columns) for file in delivered], ignore_index=True)


@pytest.fixture(scope="module")
def inputs(root: Path) -> pd.DataFrame:
    """The whole month's inputs, about 25,000 rows."""
    return pd.read_parquet(root / "flights" / PARTITION / "inputs.parquet")


@pytest.fixture(scope="module")
def rows(inputs: pd.DataFrame) -> pd.DataFrame:
    """Some 500 flights spread over the month, with gaps in the index, as a quarantine leaves them."""
    return inputs.iloc[::50]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What came of the last nine days of the month before, as the provider hands it over."""
    path = tmp_path_factory.mktemp("past")
    delivered = [feed.deliver(str(path), BEFORE, what)[-1] for what in ("inputs", "labels")]
    frame = pd.merge(*(pd.read_parquet(file) for file in delivered), on="flight_id")
    frame = frame[frame["arr_delay"].notna() & (frame["scheduled_departure"] > pd.Timestamp("2013-01-23", tz="UTC"))]
    label = (frame.pop("arr_delay") > 15).astype("float64")
    return frame.assign(label=label, known_at=frame["scheduled_departure"] + pd.Timedelta(days=1))


@pytest.fixture(scope="module")
def history(root: Path, past: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The weather and the planes delivered with the month, and the outcomes known before it."""
    return {
        "past": past,
        "weather": pd.read_parquet(root / "flights" / PARTITION / "weather.parquet"),
        "planes": pd.read_parquet(root / "flights" / "planes.parquet"),
    }


def _as_of(rows: pd.DataFrame) -> pd.Series:
    """The prediction time of each row: two hours before the scheduled departure."""
    return rows["scheduled_departure"] - pd.Timedelta(hours=2)


def _build(rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = features.build(rows, history, _as_of(rows))
    assert isinstance(table, pd.DataFrame)
    return table


def _disturbed(weather: pd.DataFrame, which: pd.Series) -> pd.DataFrame:
    """The weather with every reading of the marked observations made another one."""
    names = list(features.READINGS)
    table = weather.copy()
    table.loc[which, names] = table.loc[which, names].fillna(0.0) + 1000.0
    return table


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_flight_ids_are_unique_over_the_year(year: pd.DataFrame) -> None:
    ids = year["flight_id"]
    assert len(ids) == 336_776
    assert ids.is_unique
    assert ids.is_monotonic_increasing  # sorted in each month, and the months follow each other


def test_inputs_hold_the_columns_promised_and_nothing_known_after_departure(inputs: pd.DataFrame) -> None:
    assert list(inputs.columns) == feed.INPUTS.names
    assert not set(AFTER_DEPARTURE) & set(inputs.columns)
    assert not set(AFTER_DEPARTURE) & set(features.FEATURES)


def test_only_the_label_file_knows_the_delay(root: Path) -> None:
    holders = [path.name for path in root.rglob("*.parquet") if "arr_delay" in pd.read_parquet(path)]
    assert holders == ["labels.parquet"]


def test_inputs_delivery_does_not_bring_labels(tmp_path: Path) -> None:
    delivered = [Path(path).name for path in feed.deliver(str(tmp_path), PARTITION, "inputs")]
    assert delivered == ["planes.parquet", "weather.parquet", "inputs.parquet"]
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == sorted(delivered)


def test_cancelled_flights_are_delivered_without_a_label(root: Path, inputs: pd.DataFrame) -> None:
    labels = pd.read_parquet(root / "flights" / PARTITION / "labels.parquet")
    assert list(labels.columns) == ["flight_id", "arr_delay"]
    assert labels["flight_id"].tolist() == inputs["flight_id"].tolist()
    assert 0.03 < labels["arr_delay"].isna().mean() < 0.1
    assert inputs["tailnum"].isna().any()  # only cancelled flights lack a plane


def test_the_id_names_the_local_departure_and_the_origin(inputs: pd.DataFrame) -> None:
    local = inputs["scheduled_departure"].dt.tz_convert("America/New_York")
    assert (local.dt.strftime("%Y-%m-%d") == inputs["flight_id"].str[:10]).all()
    assert (local.dt.strftime("%H%M") == inputs["flight_id"].str[-4:]).all()
    assert (inputs["origin"] == inputs["flight_id"].str[-8:-5]).all()


def test_weather_begins_the_day_before_and_has_one_row_an_hour(history: Mapping[str, pd.DataFrame]) -> None:
    weather = history["weather"]
    assert not weather.duplicated(["origin", "observed_at"]).any()
    assert weather["observed_at"].min() == pd.Timestamp("2013-01-31 00:51", tz="America/New_York")
    assert weather["observed_at"].max() == pd.Timestamp("2013-02-28 23:51", tz="America/New_York")


def test_the_weather_of_an_hour_is_known_when_it_is_reported_and_not_before(
    history: Mapping[str, pd.DataFrame],
) -> None:
    source = pd.read_csv(feed._source("weather.csv"), usecols=["origin", "time_hour", "temp", "pressure"])
    hour = pd.to_datetime(source["time_hour"], utc=True)
    weather = history["weather"].assign(hour=lambda table: table["observed_at"].dt.floor("h"))
    both = weather.merge(source.assign(hour=hour), on=["origin", "hour"], suffixes=("", "_of_the_source"))
    assert len(both) >= len(weather)
    pd.testing.assert_series_equal(both["temp"], both["temp_of_the_source"], check_names=False)
    assert (both["observed_at"] - both["hour"] == pd.Timedelta(minutes=51)).all()


def test_delivering_again_changes_no_byte_and_rewrites_nothing(root: Path) -> None:
    before, path = _contents(root), root / "flights" / PARTITION / "inputs.parquet"
    written = path.stat().st_mtime_ns
    for what in ("inputs", "labels"):
        feed.deliver(str(root), PARTITION, what)
    assert _contents(root) == before
    assert path.stat().st_mtime_ns == written


def test_a_damaged_file_is_replaced_and_nothing_temporary_stays(tmp_path: Path) -> None:
    feed.deliver(str(tmp_path), PARTITION, "labels")
    whole, path = _contents(tmp_path), tmp_path / "flights" / PARTITION / "labels.parquet"
    path.write_bytes(b"torn")
    feed.deliver(str(tmp_path), PARTITION, "labels")
    assert _contents(tmp_path) == whole


@pytest.mark.parametrize(("partition", "what"), [("2014-01", "inputs"), ("2013-1", "inputs"), ("2013-01", "all")])
def test_an_unknown_delivery_is_refused(tmp_path: Path, partition: str, what: str) -> None:
    with pytest.raises(ValueError, match="there are"):
        feed.deliver(str(tmp_path), partition, what)
    assert not list(tmp_path.iterdir())


def test_features_are_floats_in_the_order_and_with_the_index_of_the_rows(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    table = _build(rows, history)
    assert tuple(table.columns) == features.FEATURES
    assert table.index.equals(rows.index)
    assert (table.dtypes == np.float64).all()
    assert table.notna().any().all()


def test_columns_known_after_departure_change_no_feature(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    random = np.random.default_rng(0)
    known = rows.assign(**{name: random.normal(60.0, 30.0, len(rows)) for name in AFTER_DEPARTURE})
    pd.testing.assert_frame_equal(_build(known, history), _build(rows, history))


def test_weather_later_than_the_prediction_changes_no_feature_and_earlier_weather_does(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    weather = history["weather"]
    for place in range(0, len(rows), 25):  # one flight at a time: each has a prediction time of its own
        row = rows.iloc[[place]]
        later = weather["observed_at"] > _as_of(row).iloc[0]
        expected = _build(row, history)
        assert later.any()
        assert not later.all()
        pd.testing.assert_frame_equal(_build(row, {**history, "weather": _disturbed(weather, later)}), expected)
        pd.testing.assert_frame_equal(_build(row, {**history, "weather": weather[~later]}), expected)
        assert not _build(row, {**history, "weather": _disturbed(weather, ~later)}).equals(expected)


@pytest.mark.parametrize(
    ("minutes_before", "known"),
    [(0, True), (360, True), (361, False), (-1, False)],
)
def test_an_observation_counts_from_its_minute_on_for_six_hours(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame], minutes_before: int, known: bool
) -> None:
    row = rows.iloc[[0]]
    observed = _as_of(row).iloc[0] - pd.Timedelta(minutes=minutes_before)
    weather = history["weather"].iloc[[0]].assign(origin=row["origin"].iloc[0], observed_at=observed, temp=50.0)
    temperature = _build(row, {**history, "weather": weather})["temp"].iloc[0]
    assert (temperature == 50.0) if known else np.isnan(temperature)


def test_a_row_has_the_same_features_alone_in_a_batch_and_shuffled(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    batch = _build(rows, history)
    shuffled = _build(rows.sample(frac=1.0, random_state=0), history)
    pd.testing.assert_frame_equal(shuffled.loc[batch.index], batch)
    for place in range(0, len(rows), 25):
        pd.testing.assert_frame_equal(_build(rows.iloc[[place]], history), batch.iloc[[place]])


def test_the_order_and_overlap_of_the_history_do_not_matter(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    weather, planes = history["weather"], history["planes"]
    twice = pd.concat([weather, weather.iloc[::3]]).sample(frac=1.0, random_state=0)
    past = history["past"].sample(frac=1.0, random_state=0)
    other = {"weather": twice, "planes": planes.sample(frac=1.0, random_state=0), "past": past}
    pd.testing.assert_frame_equal(_build(rows, other), _build(rows, history))


def test_what_the_model_has_never_seen_is_missing_not_an_error(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    strange = rows.iloc[:1].assign(origin="SWF", carrier="ZZ", dest="XXX", tailnum=None)
    table = _build(strange, history).iloc[0]
    unknown = [
        "origin_code",
        "carrier_code",
        "dest_code",
        *features.PLANE,
        *features.READINGS,
        "pressure_change",
        "carrier_late_7d",
    ]
    assert table[unknown].isna().all()
    assert table.drop(unknown).notna().all()


def test_features_have_the_values_worked_out_by_hand(history: Mapping[str, pd.DataFrame]) -> None:
    row = pd.DataFrame({
        "scheduled_departure": [pd.Timestamp("2013-02-05 23:30", tz="America/New_York").tz_convert("UTC")],
        "scheduled_arrival": [15],
        "carrier": ["B6"],
        "flight": [618],
        "tailnum": ["N14228"],
        "origin": ["JFK"],
        "dest": ["BOS"],
        "distance": [187.0],
    })
    table = _build(row, history).iloc[0]
    assert table["departure_hour"] == 23
    assert table["departure_minute"] == 23 * 60 + 30
    assert table["block_minutes"] == 45  # past midnight
    assert table["day_of_week"] == 1  # a Tuesday in New York, already Wednesday in UTC
    assert table["carrier_code"] == features.CARRIERS.index("B6")
    assert table["plane_age"] == 2013 - 1999
    assert table["plane_seats"] == 149


def test_the_checks_of_the_provider_find_nothing(rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]) -> None:
    known_at = {"weather": "observed_at", "past": "known_at"}
    verdict = check_features(features.build, rows, history, _as_of(rows), known_at=known_at)
    assert verdict.passed, verdict.reason()
    assert {c.subject for c in verdict.checks if c.name == "nothing_later"} == {"weather", "planes", "past"}


def _late(row: pd.DataFrame, history: Mapping[str, pd.DataFrame], known: list[tuple[str, str, float]]) -> float:
    """carrier_late_7d of a row, with outcomes of carriers known at these times, each for thirty flights."""
    named = pd.DataFrame(known, columns=["carrier", "known_at", "label"])
    past = named.loc[named.index.repeat(30)].assign(
        known_at=lambda f: pd.to_datetime(f["known_at"], utc=True, format="ISO8601")
    )
    return float(_build(row, {**history, "past": past})["carrier_late_7d"].iloc[0])


def test_lateness_is_the_carriers_share_less_that_of_all_in_the_week_last_known(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    row = rows.iloc[[-1]].assign(carrier="UA")  # the end of February: nothing of this month is known
    known = [("UA", "2013-02-01", 1.0), ("UA", "2013-01-27", 0.0), ("AA", "2013-02-01 10:00", 0.0)]
    assert _late(row, history, known) == pytest.approx(1 / 2 - 1 / 3)
    assert _late(row, history, [*known, ("UA", "2013-01-25 10:00", 1.0)]) == pytest.approx(1 / 2 - 1 / 3)
    assert _late(row, history, [*known, ("AA", "2013-01-25 10:01", 1.0)]) == pytest.approx(1 / 2 - 1 / 2)


def test_an_outcome_known_only_after_the_prediction_changes_no_feature(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    row = rows.iloc[[0]].assign(carrier="UA")
    then = _as_of(row).iloc[0]
    known = [("UA", str(then), 1.0), ("AA", str(then), 0.0)]
    assert _late(row, history, [*known, ("UA", str(then + pd.Timedelta(seconds=1)), 0.0)]) == 0.5
    assert _late(row, history, known) == 0.5


def test_without_enough_known_outcomes_lateness_is_missing(
    rows: pd.DataFrame, history: Mapping[str, pd.DataFrame]
) -> None:
    past = history["past"]
    for few in (past.iloc[:0], past.iloc[:19]):
        assert _build(rows, {**history, "past": few})["carrier_late_7d"].isna().all()


def test_codes_cover_the_year_and_name_nothing_twice(year: pd.DataFrame) -> None:
    for column, known in (
        ("origin", features.ORIGINS),
        ("carrier", features.CARRIERS),
        ("dest", features.DESTINATIONS),
    ):
        assert sorted(known) == sorted(year[column].unique())


@pytest.mark.parametrize("name", ["raw", "features"])
def test_expectations_name_columns_that_exist(name: str) -> None:
    suite = json.loads((MODEL / "expectations" / f"{name}.json").read_text())
    labelled = ["flight_id", "scheduled_departure", *features.FEATURES, "label"]
    columns = feed.INPUTS.names if name == "raw" else labelled
    expectations = {entry["type"]: entry["kwargs"] for entry in suite["expectations"]}
    assert sorted(expectations["expect_table_columns_to_match_set"]["column_set"]) == sorted(columns)
    assert {entry["kwargs"].get("column", "flight_id") for entry in suite["expectations"]} <= set(columns)
    assert {entry["severity"] for entry in suite["expectations"]} == {"critical", "warning"}
