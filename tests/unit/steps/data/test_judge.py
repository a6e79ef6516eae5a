"""Verdicts on datasets: a check per expectation, examples by key, and nothing shown of columns that are hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import judge
from mlops_provider.steps.data.suite import load
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, outcome

PEOPLE = {
    "id": [f"p{n}" for n in range(40)],
    "age": [20 + n for n in range(40)],
    "name": ["Ada"] * 20 + ["Bob"] * 19 + [None],
    "empty": pa.array([None] * 40, pa.float64()),
}


def expectation(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


@pytest.fixture
def people(tmp_path: Path) -> Dataset:
    pq.write_table(pa.table(PEOPLE), tmp_path / "people.parquet", row_group_size=15)
    return Dataset(Storage(), str(tmp_path / "people.parquet"))


def verdict(dataset: Dataset, *items: Any, **options: Any) -> Verdict:
    suite = load(json.dumps({"name": "s", "expectations": items}).encode(), "s.json")
    return judge(suite, dataset, **{"key": "id", **options})


def only(dataset: Dataset, *items: Any, **options: Any) -> Check:
    (check,) = verdict(dataset, *items, **options).checks
    return check


OLD = expectation("column_values_to_be_between", column="age", max_value=29)
OLD_BY_GX = expectation("column_values_to_be_between", column="age", max_value=29, row_condition='col("age") > 0')


@pytest.mark.parametrize("item", [OLD, OLD_BY_GX])
def test_up_to_twenty_examples_are_told_by_key(people: Dataset, item: dict[str, Any]) -> None:
    if item is OLD_BY_GX:
        item = {**item, "kwargs": {**item["kwargs"], "condition_parser": "great_expectations"}}
    check = only(people, item)
    assert (check.passed, check.value) == (False, "30 unexpected (75 %)")
    assert check.unexpected is not None
    assert (check.unexpected.rows, check.unexpected.count, check.unexpected.share) == (40, 30, 0.75)
    assert check.unexpected.examples == tuple({"row": n, "id": f"p{n}", "age": 20 + n} for n in range(10, 30))
    assert check.detail.startswith("for instance 30 (id p10), 31 (id p11)")


def test_rows_are_numbered_where_there_is_no_key(people: Dataset) -> None:
    for key in (None, "absent"):
        check = only(people, OLD, key=key)
        assert check.unexpected is not None
        assert check.unexpected.examples[0] == {"row": 10, "age": 30}
        assert "30 (row 10)" in check.detail


@pytest.mark.parametrize(
    "item",
    [
        expectation("column_values_to_be_in_set", column="name", value_set=["Eve"]),
        expectation("column_distinct_values_to_be_in_set", column="name", value_set=["Eve"]),
        expectation("column_most_common_value_to_be_in_set", column="name", value_set=["Eve"]),
        expectation("column_values_to_be_unique", column="name"),
        expectation("column_values_to_be_between", column="name", min_value=3),
        expectation("column_values_to_be_of_type", column="name", type_="int64"),
        expectation("column_pair_values_to_be_equal", column_A="name", column_B="id"),
        expectation("column_mean_to_be_between", column="name", min_value=3),
    ],
)
def test_nothing_of_a_hidden_column_is_shown(people: Dataset, item: dict[str, Any]) -> None:
    check = only(people, item, hidden=["name"])
    assert not check.passed
    for name in ("Ada", "Bob"):
        assert name not in check.model_dump_json()
    assert check.value or check.state == "error"


def test_a_hidden_extreme_and_a_hidden_key_are_not_shown(people: Dataset) -> None:
    largest = expectation("column_max_to_be_between", column="age", max_value=29)
    assert only(people, largest, hidden=["age"]).value == "(not shown)"
    check = only(people, OLD, hidden=["id"])
    assert "p10" not in check.model_dump_json()
    assert "row 10" in check.detail


def test_a_column_without_values_says_that_there_was_nothing_to_check(people: Dataset) -> None:
    """Great Expectations lets it pass; that is kept, and told."""
    check = only(people, expectation("column_values_to_be_between", column="empty", max_value=1))
    assert check.passed
    assert "nothing to check" in check.detail


@pytest.mark.parametrize(("severity", "state"), [("critical", "fail"), ("warning", "warn"), ("info", "warn")])
def test_severity_decides_what_a_failure_means(people: Dataset, severity: str, state: str) -> None:
    check = only(people, {**OLD, "severity": severity})
    assert check.state == state
    assert check.detail.startswith("info: ") == (severity == "info")


@pytest.mark.parametrize("length", [1, 2])
def test_values_that_are_lists_are_shown_as_such(tmp_path: Path, length: int) -> None:
    frame = pd.DataFrame({"id": [1, 2, 3], "all": [[n] * length for n in range(3)]})
    frame.to_parquet(tmp_path / "lists.parquet")
    check = only(
        Dataset(Storage(), str(tmp_path / "lists.parquet")), expectation("column_values_to_be_null", column="all")
    )
    assert check.state == "fail"
    assert check.unexpected is not None
    assert [example["all"] for example in check.unexpected.examples] == [str([n] * length) for n in range(3)]


def test_a_count_of_no_rows_is_no_share(people: Dataset) -> None:
    check = only(people, expectation("column_distinct_values_to_equal_set", column="age", value_set=[1]))
    assert check.state == "fail"
    assert "%" not in str(check.value)


def test_checks_stand_in_the_order_of_the_suite_whichever_engine_made_them(people: Dataset) -> None:
    items = [
        expectation("column_values_to_be_of_type", column="age", type_="int64"),
        expectation("table_row_count_to_equal", value=40),
        expectation("column_values_to_be_of_type", column="absent", type_="int64"),
        expectation("column_to_exist", column="absent"),
        expectation("column_max_to_be_between", column="absent", max_value=1),
    ]
    checks = verdict(people, *items).checks
    assert [c.name for c in checks] == [item["type"].removeprefix("expect_") for item in items]
    assert [c.state for c in checks] == ["pass", "pass", "error", "fail", "error"]
    assert "lacks the column 'absent'; it has id, age, name, empty" in checks[2].detail


@pytest.mark.parametrize(
    "item",
    [
        expectation("column_valuez_to_not_be_null", column="absent"),
        expectation("column_values_to_be_between", column="age", minimum=1),
        expectation("column_values_to_be_between", column="age"),
        expectation("column_values_to_not_be_null", column="age", mostly=2),
        expectation("column_values_to_not_be_null", column="age", mostly=0),
        expectation("table_column_count_to_be_between", min_value=1, strict_min=True),
    ],
)
def test_what_nobody_knows_is_refused(people: Dataset, item: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"s\.json"):
        verdict(people, OLD, item)


def test_a_condition_that_no_row_fits_is_an_error(people: Dataset) -> None:
    item = expectation("column_values_to_be_between", column="age", max_value=1)
    item["kwargs"] |= {"row_condition": "age > 1000", "condition_parser": "pandas"}
    (check,) = verdict(people, item).checks
    assert (check.state, check.detail) == ("error", "no row fits row_condition")


def test_a_sum_of_no_rows_is_an_error_too(people: Dataset) -> None:
    """Great Expectations has no count of rows there, and of no rows it says that the sum is 0 and every value in the set."""
    limits = {"row_condition": "age > 1000", "condition_parser": "pandas"}
    fits = {"row_condition": "age > 30", "condition_parser": "pandas"}
    items = [
        expectation("column_sum_to_be_between", column="age", max_value=10_000, **limits),
        expectation("column_distinct_values_to_be_in_set", column="age", value_set=[1], **limits),
        expectation("column_sum_to_be_between", column="age", max_value=10_000, **fits),
    ]
    checks = verdict(people, *items).checks
    assert [check.state for check in checks] == ["error", "error", "pass"]
    assert checks[0].detail == "no row fits row_condition"


@pytest.mark.parametrize(
    "item",
    [
        expectation("table_columns_to_match_set", column_set=["id"]),
        expectation("table_column_count_to_equal", value=1),
        expectation("table_columns_to_match_ordered_list", column_list=["id"]),
        expectation("column_to_exist", column="id"),
    ],
)
@pytest.mark.parametrize("first", ["a", "b"])
def test_files_of_other_columns_in_one_folder_are_an_error_for_what_is_asked_of_columns(
    tmp_path: Path, item: dict[str, Any], first: str
) -> None:
    second = "b" if first == "a" else "a"
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / f"{first}.parquet")
    pq.write_table(pa.table({"id": [3], "extra": [1]}), tmp_path / f"{second}.parquet")
    folder = Dataset(Storage(), str(tmp_path))
    check, other = verdict(folder, item, expectation("column_values_to_not_be_null", column="id")).checks
    assert (check.state, other.state) == ("error", "pass")
    assert "b.parquet has the columns" in check.detail


@pytest.mark.parametrize(
    "item",
    [
        OLD,
        expectation("column_to_exist", column="id"),
        expectation("column_values_to_be_of_type", column="absent", type_="x"),
    ],
)
def test_a_dataset_without_rows_is_an_error_whatever_is_asked(tmp_path: Path, item: dict[str, Any]) -> None:
    pq.write_table(pa.table(PEOPLE).slice(0, 0), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has no rows"):
        verdict(Dataset(Storage(), str(tmp_path / "x.parquet")), item)


def test_a_suite_with_parameters_is_refused_unless_the_library_knows_them(people: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"s\.json needs parameters.* low\. Write the value in place of \$PARAMETER"):
        verdict(people, expectation("column_values_to_be_between", column="age", min_value={"$PARAMETER": "low"}))
    known = expectation("table_row_count_to_be_between", min_value={"$PARAMETER": "30 + 10"})
    assert only(people, known).passed


# --- the step ------------------------------------------------------------------------------------------------------


def test_a_folder_and_a_suite_of_ones_own_are_judged(delivered: World) -> None:
    suite = delivered.root / "suite.yaml"
    suite.write_text("name: own\nexpectations:\n- {type: expect_table_row_count_to_equal, kwargs: {value: 3600}}\n")
    for day in DAYS[:3]:
        pq.write_table(pq.read_table(delivered.file(day, "inputs")), _made(delivered.root / "days" / f"{day}.parquet"))
    uri = f"file://{delivered.root}/days"
    result = call(delivered.job(), "validate_dataset", dataset=uri, suite=str(suite), partition="all")
    assert result.verdict.passed
    assert result.verdict.subject == f"tiny all {suite} data"


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def test_a_dataset_under_a_relative_uri_lies_under_data_root_and_is_never_reused(delivered: World) -> None:
    asked = {"dataset": f"tiny/{DAYS[0]}/inputs.parquet", "suite": "expectations/raw.json"}
    assert call(delivered.job(), "validate_dataset", **asked).verdict.passed
    delivered.rewrite(DAYS[0], "inputs", lambda frame: frame.assign(a=99.0))
    found = outcome(delivered.job(), "validate_dataset", **asked)
    assert not found.reused
    assert found.result["verdict"]["checks"][2]["passed"] is False


def test_a_suite_that_is_nowhere_is_named(delivered: World) -> None:
    for name, error in (("expectations/absent.json", ConfigError), ("/absent/suite.json", DataError)):
        with pytest.raises(error, match="absent"):
            call(delivered.job(), "validate_dataset", dataset=f"tiny/{DAYS[0]}/inputs.parquet", suite=name)
