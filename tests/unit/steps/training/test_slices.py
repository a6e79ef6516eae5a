"""Slices: who belongs to which, how they are measured, and which are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.sections import Slices
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.training import slices
from mlops_provider.steps.training.comparison import Holdout
from mlops_provider.steps.training.findings import Findings, FoundSlice, SliceResult
from mlops_provider.steps.training.metrics import Array
from mlops_provider.steps.training.split import load_split
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call

NUMBERS = pd.Series([1.0, 2.0, np.nan, 5.0, -np.inf])


def counted(rule: dict[str, Any], values: pd.Series) -> dict[str, int]:
    return {name: int(where.sum()) for name, where in slices.members(Slices(column="x", **rule), values).items()}


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ({}, pd.Series(["b", "a", None, "b"]), {"a": 1, "b": 2, "missing": 1}),
        ({"values": ["b", "z"]}, pd.Series(["b", "a", "b"]), {"b": 2, "z": 0}),
        ({"values": [1, 2]}, NUMBERS, {"1": 1, "2": 1, "missing": 1}),
        ({"bins": [2]}, NUMBERS, {"below 2": 2, "from 2": 2, "missing": 1}),
        ({"bins": [0, 2.5]}, NUMBERS, {"below 0": 1, "0 to 2.5": 2, "from 2.5": 1, "missing": 1}),
        ({}, pd.Series([True, False, True]), {"False": 1, "True": 2}),
        ({"values": ["x"]}, pd.Series(["x", None], dtype="category"), {"x": 1, "missing": 1}),
        ({"bins": [2]}, pd.Series([1, None, 3], dtype="Int64"), {"below 2": 1, "from 2": 1, "missing": 1}),
    ],
)
def test_every_row_belongs_to_its_slice(rule: dict[str, Any], values: pd.Series, expected: dict[str, int]) -> None:
    assert counted(rule, values) == expected


@pytest.mark.parametrize(
    ("rule", "values", "why"),
    [
        ({"bins": [1]}, pd.Series(["a", "b"]), "not numeric"),
        ({}, pd.Series(range(51)), "51 values, at most 50"),
    ],
)
def test_a_column_that_cannot_be_sliced_so_is_refused(rule: dict[str, Any], values: pd.Series, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        counted(rule, values)


def measured(world: World, rules: dict[str, Any], champion: bool = True) -> tuple[Findings, Any]:
    job = world.configure(evaluation={"slices": rules, "minimum_rows": 200})
    first, second = world.versions()
    given = {"package": second.package, "split": second.split, "champion": first if champion else None}
    found = call(job, "evaluate", **given)
    return Findings.model_validate_json(Storage().fetch(found.findings)), found


def test_a_slice_is_measured_by_itself_beside_the_champion(challenger: World) -> None:
    findings, evaluation = measured(challenger, {"sign": {"column": "a", "bins": [0]}, "site": {"column": "site"}})
    by = {(one.slices, one.value): one for one in findings.slices}
    assert set(by) == {("sign", "below 0"), ("sign", "from 0"), *(("site", s) for s in ("north", "south", "east"))}
    assert sum(one.rows for one in findings.slices if one.slices == "site") == evaluation.rows
    below = by["sign", "below 0"]
    assert set(below.metrics) == set(below.errors) == {"auc", "log_loss", "brier"}
    assert below.blocks == 24
    assert 0 < below.errors["auc"] < 0.1
    assert below.gain is not None
    assert below.gain_error is not None
    weighted = sum(one.rows * one.metrics["brier"] for one in findings.slices if one.slices == "sign") / evaluation.rows
    assert weighted == pytest.approx(evaluation.candidate["brier"])


def test_without_a_champion_a_slice_has_no_gain(challenger: World) -> None:
    findings, _ = measured(challenger, {"site": {"column": "site"}}, champion=False)
    assert {(one.gain, one.gain_error) for one in findings.slices} == {(None, None)}


def test_a_column_that_cannot_be_sliced_is_an_error_of_the_evaluation(challenger: World) -> None:
    _, evaluation = measured(challenger, {"site": {"column": "site", "bins": [1]}})
    (problem,) = evaluation.verdict.problems
    assert (problem.name, problem.severity, problem.subject) == ("slices", "error", "site")


def test_a_slice_without_rows_or_of_one_class_has_no_metric_that_it_does_not_define(challenger: World) -> None:
    findings, _ = measured(challenger, {"far": {"column": "a", "bins": [3.2, 100]}})
    by = {one.value: one for one in findings.slices}
    assert by["from 100"] == SliceResult(slices="far", value="from 100", rows=0, blocks=0)
    assert "auc" not in by["3.2 to 100"].metrics


def holdout(world: World, version: ModelVersion) -> Holdout:
    job = world.configure(evaluation={"minimum_rows": 200})
    return Holdout.of(job, load_split(job, version.split))


def search(world: World, excess: Any) -> tuple[FoundSlice, ...]:
    given = holdout(world, world.versions()[-1])
    return slices.found(given, np.asarray(excess(given)), against="own")


def test_a_slice_where_the_model_fails_is_found(challenger: World) -> None:
    def excess(given: Holdout) -> Array:
        noise = np.random.default_rng(0).normal(0, 0.1, len(given.rows))
        failing = 0.1 * (given.rows["height"] == 20)
        return np.asarray(noise + failing - failing.mean())

    (found,) = search(challenger, excess)
    assert (found.feature, found.value) == ("height", "20.0")
    assert found.excess == pytest.approx(0.067, abs=0.02)
    assert found.p < 0.001


def test_what_one_half_finds_and_the_other_does_not_confirm_is_not_told(challenger: World) -> None:
    def excess(given: Holdout) -> Array:
        return np.asarray((given.blocks % 2 == 0) * 1.0 * (given.rows["height"] == 20))

    assert search(challenger, excess) == ()


def test_noise_is_seldom_confirmed(challenger: World) -> None:
    given = holdout(challenger, challenger.versions()[-1])
    rng = np.random.default_rng(0)
    told = [bool(slices.found(given, rng.normal(size=len(given.rows)), against="own")) for _ in range(60)]
    assert sum(told) <= 8


def test_found_slices_only_warn(challenger: World) -> None:
    found = FoundSlice(feature="a", value="below 0", against="champion", rows=300, excess=0.02, p=0.001)
    check = slices.found_checks((found,), "champion", told="loss above the champion's")
    assert check.state == "warn"
    assert "a below 0 (300 rows, +0.0200)" in check.detail
    assert slices.found_checks((), "champion", told="").passed


def test_the_inputs_of_a_quarantined_partition_are_those_that_were_accepted(challenger: World) -> None:
    given = holdout(challenger, challenger.versions()[-1])
    rows = given.columns({"site", "a"})
    assert len(rows) == len(given.rows)
    delivered = pd.read_parquet(challenger.file(DAYS[3], "inputs")).set_index("id")
    assert (rows["site"].to_numpy() == delivered.loc[given.rows["id"], "site"].to_numpy()).all()


def test_a_slice_of_a_ranking_is_made_of_whole_groups() -> None:
    labels = np.array([[1.0, 0], [0, 0], [2, 1], [0, 1], [1, 2]])
    where = np.array([True, False, False, False, True])
    assert slices._uncut(labels, where).tolist() == [True, True, False, False, True]
    assert slices._uncut(labels[:, 0], where).tolist() == where.tolist()
