"""Checks and verdicts: nothing fails open."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from mlops_provider.checks import Check, Verdict, could_not_run, merge
from mlops_provider.exceptions import Refused

GOOD = Check(name="rows", passed=True, value=3.0, threshold=1.0)
BAD = Check(name="auc", passed=False, value=0.4, threshold="at least 0.6", subject="day")
WARN = Check(name="drift", passed=False, severity="warn")
ERROR = could_not_run("auc", "no labels", subject="day")


def verdict(*checks: Check) -> Verdict:
    return Verdict(subject="tiny", checks=checks)


@pytest.mark.parametrize(
    ("checks", "passed", "outcome"),
    [
        ((), False, "error"),
        ((GOOD,), True, "pass"),
        ((GOOD, WARN), True, "warn"),
        ((GOOD, BAD), False, "fail"),
        ((GOOD, WARN, BAD, ERROR), False, "error"),
        ((ERROR,), False, "error"),
    ],
)
def test_the_worst_check_decides(checks: tuple[Check, ...], passed: bool, outcome: str) -> None:
    assert (verdict(*checks).passed, verdict(*checks).outcome) == (passed, outcome)


@pytest.mark.parametrize("checks", [(), (BAD,), (ERROR,), (GOOD, ERROR)])
def test_a_verdict_that_did_not_pass_refuses(checks: tuple[Check, ...]) -> None:
    with pytest.raises(Refused, match="tiny refused"):
        verdict(*checks).require()


def test_a_verdict_that_passed_is_returned() -> None:
    assert verdict(GOOD, WARN).require() == verdict(GOOD, WARN)


def test_the_reason_names_what_stands_in_the_way() -> None:
    assert verdict(GOOD, BAD, WARN).reason() == "auc (day): 0.4 against at least 0.6"
    assert verdict().reason() == "tiny: nothing was checked"


def test_an_empty_verdict_among_others_is_an_error() -> None:
    merged = merge("all", [verdict(GOOD), Verdict(subject="lost", checks=())])
    assert not merged.passed
    assert [(c.severity, c.subject) for c in merged.problems] == [("error", "lost")]


def test_no_verdicts_at_all_are_no_pass() -> None:
    assert not merge("all", []).passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_json_lacks_survive_json(value: float) -> None:
    before = verdict(Check(name="auc", passed=False, value=value, threshold=value))
    after = Verdict.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.checks[0].value == str(value)


def test_the_table_shows_the_worst_first_and_keeps_its_columns() -> None:
    rows = verdict(GOOD, ERROR, Check(name="a|b", passed=False, detail="two\nlines")).markdown().splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| error", "| fail", "| pass"]
    assert "a\\|b" in rows[1]


def test_a_check_is_frozen_and_knows_its_fields() -> None:
    with pytest.raises(ValidationError):
        GOOD.passed = False  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Check(name="auc", passed=True, treshold=1)  # type: ignore[call-arg]
