"""A first suite, proposed from data, judged by Great Expectations itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.__main__ import main
from mlops_provider.exceptions import RequestError
from mlops_provider.steps.data.propose import _wide, propose
from tests.support.tiny import DAYS, World, call

Found = dict[tuple[str, str], dict[str, Any]]


def odd(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of every kind."""
    rows = np.arange(len(frame))
    return frame.assign(
        count=rows % 7,
        sparse=frame["a"].where(rows % 10 > 0),
        sparser=frame["a"].where(rows % 10 == 0),
        empty=None,
        infinite=np.where(rows == 3, np.inf, 1.0),
        constant=0.0,
        flag=rows % 2 == 0,
        names=[f"name {row}" for row in rows],
        kind=pd.Series(["x", "y"] * (len(frame) // 2), dtype="category"),
        big=rows * 10**12,
        small=frame["b"] * 1e-9,
    )


def proposed(world: World, which: Any = "raw", partition: str | None = None) -> dict[str, Any]:
    return propose(world.job(), which, partition)[1]


def by_place(suite: dict[str, Any]) -> Found:
    return {(e["type"][7:], e["kwargs"].get("column", "")): e for e in suite["expectations"]}


@pytest.mark.parametrize("which", ["raw", "features"])
def test_what_is_proposed_passes_in_great_expectations_on_the_data_it_was_made_from(
    delivered: World, which: str
) -> None:
    delivered.rewrite(DAYS[2], "inputs", odd)
    suite = proposed(delivered, which)
    (delivered.model / "expectations" / f"{which}.json").write_text(json.dumps(suite))
    job, work = delivered.job(), delivered.work(DAYS[2])
    table = None if which == "raw" else call(job, "build_features", work=work).table
    verdict = call(job, "validate", work=work, suite=which, dataset=table).verdict
    assert [c for c in verdict.checks if not c.passed] == []
    assert len(verdict.checks) == len(suite["expectations"])


def test_no_value_of_a_person_is_proposed(delivered: World) -> None:
    delivered.rewrite(
        DAYS[2], "inputs", lambda frame: frame.assign(name=["Ada", "Bob"] * (len(frame) // 2), phone=123456)
    )
    delivered.configure(data={"pii": ["name", "phone"]})
    suite = proposed(delivered)
    assert {kind for kind, column in by_place(suite) if column in ("name", "phone")} == {"column_values_to_not_be_null"}
    assert not [value for value in ("Ada", "Bob", "123456") if value in json.dumps(suite)]


def test_every_expectation_says_why_and_only_the_frame_is_critical(delivered: World) -> None:
    suite = proposed(delivered)
    assert all(e["meta"]["notes"] for e in suite["expectations"])
    critical = {place for place, e in by_place(suite).items() if e["severity"] == "critical"}
    assert critical == {
        ("table_row_count_to_be_between", ""),
        ("column_values_to_not_be_null", "id"),
        ("column_values_to_be_unique", "id"),
        ("column_values_to_not_be_null", "at"),
    }
    assert {e["severity"] for e in suite["expectations"]} == {"critical", "warning"}


def test_the_kinds_of_columns_get_what_fits_them(delivered: World) -> None:
    delivered.rewrite(DAYS[2], "inputs", odd)
    found = by_place(proposed(delivered))
    bands = {column for kind, column in found if kind == "column_values_to_be_between"}
    sets = {column: e["kwargs"]["value_set"] for (kind, column), e in found.items() if kind.endswith("in_set")}
    nulls = {column: e["kwargs"].get("mostly") for (kind, column), e in found.items() if kind.endswith("not_be_null")}
    assert bands == {"a", "b", "c", "later", "count", "sparse", "sparser", "constant", "big", "small"}
    assert sets == {"site": ["east", "north", "south"], "kind": ["x", "y"]}
    assert {name: nulls[name] for name in ("names", "flag", "sparse")} == {"names": None, "flag": None, "sparse": 0.81}
    assert not {"sparser", "empty"} & set(nulls)
    assert found["column_values_to_be_between", "count"]["kwargs"]["min_value"] == 0
    rows = found["table_row_count_to_be_between", ""]["kwargs"]
    assert (rows["min_value"], rows["max_value"]) == (600, 2400)
    assert "later" in found["table_columns_to_match_set", ""]["kwargs"]["column_set"]


def test_the_label_of_the_features_is_binary(delivered: World) -> None:
    label = by_place(proposed(delivered, "features"))["column_values_to_be_in_set", "label"]
    assert (label["kwargs"]["value_set"], label["severity"]) == ([0, 1], "critical")


def test_the_newest_partition_is_taken_unless_one_is_named(delivered: World) -> None:
    assert propose(delivered.job(), "raw")[0] == DAYS[2]
    assert propose(delivered.job(), "raw", DAYS[0])[0] == DAYS[0]
    delivered.deliver(DAYS[3], what=("inputs",))
    assert propose(delivered.job(), "raw")[0] == DAYS[3]
    assert propose(delivered.job(), "features")[0] == DAYS[2]


def test_there_must_be_something_to_look_at(empty: World) -> None:
    with pytest.raises(RequestError, match="nothing to propose a suite from"):
        propose(empty.job(), "raw")
    with pytest.raises(RequestError, match="no daily partition"):
        propose(empty.job(), "raw", "../x")


finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)


@given(finite, finite)
def test_a_band_is_wider_than_what_was_seen(one: float, other: float) -> None:
    least, most = sorted((one, other))
    low, high = _wide(least, most)
    assert low <= least <= most <= high
    assert json.loads(json.dumps([low, high])) == [low, high]


# mlops suite init


@pytest.fixture
def suite_init(delivered: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", str(delivered.artifacts))
    monkeypatch.setenv("AIRFLOW__MLOPS__DATA_ROOT", str(delivered.data))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["suite", "init", "--model", "tiny", "--include", str(delivered.include), *arguments])
        return status, *capsys.readouterr()

    return run


def test_it_is_printed_for_a_person_to_edit(suite_init: Any, delivered: World) -> None:
    status, out, _ = suite_init("--partition", DAYS[1])
    assert status == 0
    assert json.loads(out) == proposed(delivered, "raw", DAYS[1])


def test_it_is_written_where_model_yaml_names_it(suite_init: Any, delivered: World) -> None:
    path = delivered.model / "expectations" / "features.json"
    path.unlink()
    status, out, _ = suite_init("--which", "features", "--write", "--json")
    told = json.loads(out)
    assert (status, told["partition"], Path(told["written"])) == (0, DAYS[2], path)
    assert json.loads(path.read_text()) == told["suite"]


def test_a_suite_that_is_there_is_never_replaced(suite_init: Any, delivered: World) -> None:
    path = delivered.model / "expectations" / "raw.json"
    before = path.read_text()
    status, out, err = suite_init("--write")
    assert (status, out, path.read_text()) == (2, "", before)
    assert "raw.json is there already" in err
