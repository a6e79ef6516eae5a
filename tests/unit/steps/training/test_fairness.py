"""Groups of people: rates by definition, differences, and what cannot be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlops_provider.checks import Check
from mlops_provider.steps.training.fairness import _compared, fairness_checks
from mlops_provider.steps.training.findings import Fairness, Findings
from mlops_provider.storage import Storage
from tests.support.tiny import World, candidate

pytest.importorskip("fairlearn")
pd = pytest.importorskip("pandas")

GROUPS = pd.Series(["x"] * 8 + ["y"] * 8 + [None] * 2)
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0] * 2 + [1, 0])
DECIDED = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1])


def compared(least: int = 8) -> Fairness:
    return _compared("group", GROUPS, LABELS, DECIDED, least)


def test_rates_and_differences_follow_their_definitions() -> None:
    found = compared()
    by = {group.value: group for group in found.groups}
    assert (by["x"].rows, by["x"].selection_rate) == (8, 0.5)
    assert (by["x"].true_positive_rate, by["x"].false_positive_rate) == (0.75, 0.25)
    assert by["y"].true_positive_rate == 0.25
    assert found.differences == {"demographic_parity_difference": 0.375, "equalized_odds_difference": 0.5}


def test_a_small_group_is_told_and_not_compared() -> None:
    assert {group.value for group in compared().groups} == {"x", "y", "missing"}
    assert compared(least=2).differences["demographic_parity_difference"] == 0.875


def test_one_large_group_cannot_be_compared() -> None:
    found = compared(least=9)
    (check,) = fairness_checks((found,))
    assert found.differences == {}
    assert (check.state, check.subject) == ("error", "group")
    assert "fewer than two groups have 9 rows" in check.detail


def test_a_column_of_very_many_values_has_no_groups() -> None:
    values = pd.Series(range(60))
    found = _compared("group", values, np.ones(60, int), np.ones(60, int), 1)
    assert "60 values" in found.problem


def test_a_group_of_one_class_has_no_odds() -> None:
    labels = np.where(GROUPS.to_numpy() == "y", 1, LABELS)
    assert set(_compared("group", GROUPS, labels, DECIDED, 8).differences) == {"demographic_parity_difference"}


def evaluated(world: World, **changes: Any) -> Any:
    return candidate(world, world.configure(**changes))["evaluation"]


def test_groups_of_an_input_column_are_compared(accepted: World) -> None:
    evaluation = evaluated(accepted, evaluation={"fairness": ["site"], "minimum_rows": 200})
    findings = Findings.model_validate_json(Storage().fetch(evaluation.findings))
    (found,) = findings.fairness
    assert {group.value for group in found.groups} == {"north", "south", "east"}
    assert sum(group.rows for group in found.groups) == evaluation.rows
    assert set(found.differences) == {"demographic_parity_difference", "equalized_odds_difference"}


def test_without_columns_nothing_is_asked(accepted: World) -> None:
    checks: tuple[Check, ...] = evaluated(accepted).verdict.checks
    assert not [check for check in checks if "fairness" in check.name]
