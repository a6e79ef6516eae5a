"""Features: what comes in is checked, what the model's function sees is limited, what it returns is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, DataError, MlopsError
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, feed

DAY = DAYS[0]
Change = Callable[[pd.DataFrame], pd.DataFrame]


def built(world: World) -> pd.DataFrame:
    result = call(world.job(), "build_features", work=world.work(DAY))
    return pd.read_parquet(result.table.uri)


def refused(world: World) -> str:
    with pytest.raises(DataError) as error:
        built(world)
    return str(error.value)


def write_features(world: World, body: str) -> None:
    head = "import numpy as np\nimport pandas as pd\n\ndef build(rows, history, as_of):\n"
    (world.model / "features.py").write_text(head + "".join(f"    {line}\n" for line in body.splitlines()))


MADE = "made = rows[['a', 'b', 'c']].assign(height=1.0)"


def test_the_table_holds_key_time_features_and_label(delivered: World) -> None:
    frame = built(delivered)
    assert list(frame.columns) == ["id", "at", "a", "b", "c", "height", "label"]
    assert [str(kind) for kind in frame.dtypes[2:]] == ["float64"] * 5
    assert list(frame["id"]) == list(feed.inputs(DAY)["id"])
    assert set(frame["height"]) == {10.0, 20.0, 30.0}


def test_labels_join_by_key_and_missing_ones_stay_null(delivered: World) -> None:
    frame, told = built(delivered), feed.labels(DAY).set_index("id")["outcome"]
    expected = frame["id"].map((told > 0).astype(float).where(told.notna()))
    pd.testing.assert_series_equal(frame["label"], expected, check_names=False)
    assert 0 < frame["label"].isna().sum() < 100


def test_the_result_counts_labels_and_positives(delivered: World) -> None:
    result = call(delivered.job(), "build_features", work=delivered.work(DAY))
    frame = pd.read_parquet(result.table.uri)
    assert (result.table.rows, result.labelled) == (len(frame), frame["label"].notna().sum())
    assert result.positives == (frame["label"] == 1).sum()


def test_rows_without_a_delivered_label_stay(delivered: World) -> None:
    delivered.rewrite(DAY, "labels", lambda frame: frame.head(100))
    frame = built(delivered)
    assert len(frame) == feed.ROWS
    assert frame["label"].notna().sum() <= 100


@pytest.mark.parametrize(("above", "expected"), [(1.5, 1.0), (2.0, 0.0), (2.5, 0.0)])
def test_a_label_is_positive_above_the_limit(delivered: World, above: float, expected: float) -> None:
    delivered.configure(data={"label": {"positive_above": above}})
    delivered.rewrite(DAY, "labels", lambda frame: frame.assign(outcome=2.0))
    assert set(built(delivered)["label"]) == {expected}


def test_a_changed_label_definition_leaves_the_earlier_table_alone(delivered: World) -> None:
    first = call(delivered.job(), "build_features", work=delivered.work(DAY))
    second = call(
        delivered.configure(data={"label": {"positive_above": 3}}), "build_features", work=delivered.work(DAY)
    )
    assert second.positives < first.positives
    for table in (first.table, second.table):
        Storage().fetch(table)


@pytest.mark.parametrize("what", ["inputs", "labels"])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda content: b"", r"empty \(0 bytes\)"),
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: content[:-4], "truncated"),
        (lambda content: b"id,a,b\n1,2,3\n", "no readable parquet"),
    ],
    ids=["empty", "half", "without_its_end", "csv"],
)
def test_an_unreadable_file_is_named(
    delivered: World, what: str, spoil: Callable[[bytes], bytes], expected: str
) -> None:
    import re

    file = delivered.file(DAY, what)
    file.write_bytes(spoil(file.read_bytes()))
    assert re.search(rf"{DAY}/{what}\.parquet is .*{expected}", refused(delivered))


def test_a_damaged_page_is_named(delivered: World) -> None:
    file = delivered.file(DAY, "inputs")
    content = bytearray(file.read_bytes())
    content[200:4000] = bytes(3800)
    file.write_bytes(bytes(content))
    assert "inputs.parquet is no readable parquet file" in refused(delivered)


@pytest.mark.parametrize("what", ["inputs", "labels"])
def test_a_missing_file_is_named(delivered: World, what: str) -> None:
    delivered.file(DAY, what).unlink()
    assert f"{DAY}/{what}.parquet does not exist" in refused(delivered)


def test_a_missing_history_file_is_named(delivered: World) -> None:
    (delivered.data / "sites.parquet").unlink()
    assert "sites.parquet does not exist" in refused(delivered)


@pytest.mark.parametrize(
    ("what", "change", "expected"),
    [
        ("inputs", lambda f: f.drop(columns="b"), "inputs.parquet lacks the column 'b'"),
        ("inputs", lambda f: f.drop(columns="id"), "inputs.parquet lacks the column 'id'"),
        ("labels", lambda f: f.drop(columns="outcome"), "labels.parquet lacks the column 'outcome'"),
        ("labels", lambda f: f.drop(columns="id"), "labels.parquet lacks the column 'id'"),
        ("inputs", lambda f: f.head(0), "inputs.parquet has no rows"),
        ("labels", lambda f: f.head(0), "labels.parquet has no rows"),
        ("inputs", lambda f: f.assign(at=f["at"].astype(str)), "'at' must be a timestamp with a time zone"),
        ("inputs", lambda f: f.assign(at=f["at"].dt.tz_localize(None)), "'at' must be a timestamp with a time zone"),
        ("inputs", lambda f: f.assign(at=f["at"].astype("int64")), "'at' must be a timestamp with a time zone"),
        ("inputs", lambda f: f.assign(at=f["at"].where(f.index > 2)), "'at' is null in 3 rows"),
        ("inputs", lambda f: f.assign(id=f["id"].where(f.index > 1)), "the key 'id' is null in 2 rows"),
        ("inputs", lambda f: f.assign(id=f["id"].where(f.index != 1, f["id"][0])), "not unique, 1 rows repeat"),
        ("labels", lambda f: f.assign(outcome="yes"), "'outcome' must be a number"),
        ("labels", lambda f: f.assign(outcome=f["outcome"] > 0), "'outcome' must be a number"),
        ("labels", lambda f: f.assign(outcome=np.nan), "null or missing for every row"),
        ("labels", lambda f: f.assign(id=f["id"] + "x"), "null or missing for every row"),
        ("labels", lambda f: f.assign(id=range(len(f))), "null or missing for every row"),
        ("labels", lambda f: pd.concat([f, f.head(5)]), "5 keys have more than one label"),
    ],
)
def test_bad_data_name_file_and_column(delivered: World, what: str, change: Change, expected: str) -> None:
    delivered.rewrite(DAY, what, change)
    assert expected in refused(delivered)


@pytest.mark.parametrize("what", ["inputs", "labels"])
def test_a_key_that_pandas_stored_as_its_index_is_a_column_all_the_same(delivered: World, what: str) -> None:
    before = built(delivered)
    delivered.rewrite(DAY, what, lambda frame: frame.set_index("id"))
    pd.testing.assert_frame_equal(built(delivered), before)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_event_times_of_any_zone_become_utc(delivered: World, zone: str) -> None:
    before = built(delivered)
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(at=frame["at"].dt.tz_convert(zone)))
    assert str(built(delivered)["at"].dt.tz) == "UTC"
    assert (built(delivered)["at"] == before["at"]).all()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{MADE}\nreturn made.iloc[1:]", "returned 1199 rows for 1200"),
        (f"{MADE}\nreturn made.iloc[::-1]", "another order"),
        (f"{MADE}\nreturn made.sort_values('a')", "another order"),
        (f"{MADE}\nreturn made.set_index(rows['id'])", "must keep the rows"),
        (f"{MADE}\nreturn made.drop(columns='height')", "did not make the features that model.yaml names: height"),
        (f"{MADE}\nreturn made.to_numpy()", "returned ndarray, expected a DataFrame"),
        ("return None", "returned NoneType, expected a DataFrame"),
    ],
)
def test_a_result_of_the_wrong_shape_is_a_fault_of_the_code(delivered: World, body: str, expected: str) -> None:
    write_features(delivered, body)
    with pytest.raises(ConfigError) as error:
        built(delivered)
    assert "features.py:build" in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize("value", ["'text'", "as_of"])
def test_values_that_are_no_numbers_are_a_fault_of_the_code(delivered: World, value: str) -> None:
    write_features(delivered, f"{MADE}\nreturn made.assign(a={value})")
    with pytest.raises(ConfigError, match=r"features\.py:build: features must be numeric, these are not: a"):
        built(delivered)


def test_a_function_that_raises_is_named(delivered: World) -> None:
    write_features(delivered, "return rows['absent']")
    with pytest.raises(MlopsError, match=r"features\.py:build.*KeyError.*absent"):
        built(delivered)


def test_further_columns_of_the_function_are_left_out(delivered: World) -> None:
    write_features(delivered, f"{MADE}\nreturn made.assign(extra=1)[['extra', 'height', 'c', 'b', 'a']]")
    assert list(built(delivered).columns) == ["id", "at", "a", "b", "c", "height", "label"]


@pytest.mark.parametrize("kind", ["bool", "int8", "float32", "Int64", "boolean"])
def test_numbers_of_every_kind_become_float64(delivered: World, kind: str) -> None:
    write_features(delivered, f"{MADE}\nreturn made.assign(a=(rows['a'] > 0).astype('{kind}'))")
    assert set(built(delivered)["a"]) == {0.0, 1.0}


def test_missing_integers_become_nan(delivered: World) -> None:
    write_features(delivered, f"{MADE}\nreturn made.assign(a=made['a'].round().astype('Int64').where(made['a'] > 0))")
    lacking = int((pd.read_parquet(delivered.file(DAY, "inputs"))["a"] <= 0).sum())
    assert lacking > 0
    assert built(delivered)["a"].isna().sum() == lacking


def test_undeclared_columns_never_reach_the_function(delivered: World) -> None:
    write_features(
        delivered, f"assert sorted(rows.columns) == ['a', 'at', 'b', 'c', 'id', 'site']\n{MADE}\nreturn made"
    )
    built(delivered)


def test_labels_never_reach_the_function(delivered: World) -> None:
    write_features(delivered, f"assert sorted(history) == ['sites']\n{MADE}\nreturn made")
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(outcome=1.0, label=1.0))
    built(delivered)


@pytest.mark.parametrize(("lead", "hours"), [("0h", 0), ("1h", 1), ("2d", 48)])
def test_the_moment_of_prediction_is_the_lead_before_the_event(delivered: World, lead: str, hours: int) -> None:
    delivered.configure(data={"lead": lead})
    write_features(
        delivered,
        "assert str(as_of.dt.tz) == 'UTC'\n"
        f"{MADE}\nreturn made.assign(height=(rows['at'] - as_of) / pd.Timedelta(hours=1))",
    )
    assert set(built(delivered)["height"]) == {float(hours)}


def test_the_function_cannot_change_key_or_time(delivered: World) -> None:
    write_features(delivered, f"rows['id'] = 'x'\nrows['at'] = rows['at'] + pd.Timedelta(days=9)\n{MADE}\nreturn made")
    frame: Any = built(delivered)
    assert list(frame["id"]) == list(feed.inputs(DAY)["id"])
    assert frame["at"].max() < pd.Timestamp(DAYS[1], tz="UTC")
