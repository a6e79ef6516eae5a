"""Validation with Great Expectations: every way in which a suite could pass without having checked anything is closed."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import ConfigError, DataError
from tests.support.tiny import DAYS, World, call, outcome

DAY = DAYS[0]


def expectation(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


def write_suite(world: World, *expectations: Any, **content: Any) -> None:
    suite = {"name": "tiny_raw", "expectations": list(expectations), **content}
    (world.model / "expectations" / "raw.json").write_text(json.dumps(suite))


def judged(world: World) -> Verdict:
    verdict: Verdict = call(world.job(), "validate", work=world.work(DAY), suite="raw").verdict
    return verdict


def only(world: World, *expectations: Any) -> Check:
    write_suite(world, *expectations)
    (check,) = judged(world).checks
    return check


NOT_NULL = expectation("column_values_to_not_be_null", column="a")


def test_good_data_pass_with_a_check_per_expectation(delivered: World) -> None:
    verdict = judged(delivered)
    assert verdict.passed
    assert [(c.name, c.subject) for c in verdict.checks] == [
        ("table_row_count_to_be_between", "table"),
        ("column_values_to_not_be_null", "id"),
        ("column_values_to_be_between", "a"),
        ("column_mean_to_be_between", "b"),
    ]


def test_bad_data_fail_with_what_was_found(delivered: World) -> None:
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(a=frame["a"].where(frame.index != 7, 99.0)))
    (problem,) = judged(delivered).problems
    assert (problem.subject, problem.severity) == ("a", "fail")
    assert "99.0" in problem.detail
    assert "1 unexpected" in str(problem.value)
    assert "max_value" in str(problem.threshold)


@pytest.mark.parametrize(
    ("severity", "outcome"), [("critical", "fail"), ("warning", "warn"), ("info", "warn"), (None, "fail")]
)
def test_severity_follows_the_suite(delivered: World, severity: str | None, outcome: str) -> None:
    asked = expectation("column_values_to_be_between", column="a", min_value=100)
    asked = {key: value for key, value in (asked | {"severity": severity}).items() if value}
    write_suite(delivered, asked)
    assert judged(delivered).outcome == outcome


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_a_missing_column_is_an_error_whatever_its_severity(delivered: World, severity: str) -> None:
    check = only(delivered, expectation("column_values_to_not_be_null", severity, column="absent"))
    assert (check.state, check.subject) == ("error", "absent")
    assert "absent" in check.detail


def test_a_check_that_raised_is_an_error(delivered: World) -> None:
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(a=frame["a"].astype(str)))
    check = only(delivered, expectation("column_mean_to_be_between", "warning", column="a", min_value=0))
    assert check.state == "error"
    assert check.detail


def test_an_unknown_expectation_is_refused(delivered: World) -> None:
    write_suite(delivered, NOT_NULL, expectation("column_valuez_to_not_be_null", column="a"))
    with pytest.raises(ConfigError, match=r"raw\.json holds expectations .* not know: expect_column_valuez"):
        judged(delivered)


def test_an_empty_suite_is_refused(delivered: World) -> None:
    write_suite(delivered)
    with pytest.raises(ConfigError, match=r"raw\.json holds no expectation"):
        judged(delivered)


def test_an_expectation_that_stands_there_twice_is_checked_twice(delivered: World) -> None:
    write_suite(delivered, NOT_NULL, NOT_NULL)
    assert len(judged(delivered).checks) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": "x"}',
        '{"name": "x", "expectations": {"type": 1}}',
        '{"name": "x", "expectations": [7]}',
    ],
)
def test_what_is_no_suite_is_refused(delivered: World, text: str) -> None:
    (delivered.model / "expectations" / "raw.json").write_text(text)
    with pytest.raises(ConfigError, match=r"raw\.json"):
        judged(delivered)


def test_bad_arguments_of_an_expectation_are_refused(delivered: World) -> None:
    write_suite(delivered, expectation("column_values_to_be_between", column="a", minimum=0))
    with pytest.raises(ConfigError, match=r"raw\.json"):
        judged(delivered)


def test_a_missing_suite_is_a_fault_of_the_model_not_of_the_data(delivered: World) -> None:
    (delivered.model / "expectations" / "raw.json").unlink()
    with pytest.raises(ConfigError, match=r"raw\.json"):
        judged(delivered)


def test_an_expectation_that_was_not_evaluated_is_an_error(delivered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.data import gx_engine

    results = gx_engine.results
    monkeypatch.setattr(gx_engine, "results", lambda suite, frame: results(suite, frame)[1:])
    of_type = expectation("column_values_to_be_of_type", column="a", type_="float64")
    write_suite(delivered, of_type, expectation("column_values_to_be_of_type", column="b", type_="float64"))
    verdict = judged(delivered)
    assert [(c.state, c.detail) for c in verdict.checks] == [("error", "it was not evaluated"), ("pass", "")]


def test_a_table_without_rows_is_refused(delivered: World) -> None:
    write_suite(delivered, NOT_NULL)
    delivered.rewrite(DAY, "inputs", lambda frame: frame.head(0))
    with pytest.raises(DataError, match=r"inputs\.parquet has no rows"):
        judged(delivered)


def test_an_all_null_column_fails(delivered: World) -> None:
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(a=pd.Series([None] * len(frame), dtype="float64")))
    assert only(delivered, NOT_NULL).state == "fail"


@pytest.mark.parametrize("missing", ["inputs", "labels"])
def test_a_partition_with_a_missing_file_is_named(delivered: World, missing: str) -> None:
    delivered.file(DAY, missing).unlink()
    with pytest.raises(DataError, match=rf"{DAY}/{missing}\.parquet does not exist"):
        judged(delivered)


def test_a_given_table_is_judged_instead_of_the_inputs(delivered: World) -> None:
    built = call(delivered.job(), "build_features", work=delivered.work(DAY))
    found = call(delivered.job(), "validate", work=delivered.work(DAY), suite="features", dataset=built.table)
    assert [c.subject for c in found.verdict.checks] == ["id", "label"]
    assert found.verdict.passed


def test_a_changed_suite_is_judged_anew(delivered: World) -> None:
    judged(delivered)
    write_suite(delivered, expectation("table_row_count_to_be_between", min_value=10**6))
    assert not judged(delivered).passed


def test_a_verdict_is_reused(delivered: World) -> None:
    found = [outcome(delivered.job(), "validate", work=delivered.work(DAY), suite="raw") for _ in range(2)]
    assert [o.reused for o in found] == [False, True]
