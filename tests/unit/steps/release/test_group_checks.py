"""Slices and groups at the gate: what is proved, corrected for many slices, and what cannot be judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlops_provider.checks import Check
from mlops_provider.config import ModelConfig
from mlops_provider.steps.release.gate import judge
from mlops_provider.steps.release.group_checks import fairness_checks, slice_checks, slice_gates
from mlops_provider.steps.training.findings import Calibrated, CalibrationBin, Curves, Fairness, Findings, SliceResult
from mlops_provider.steps.training.metrics import exceeds, holm
from tests.support.tiny import DAYS, World, crown, train, values

NAMED = {"site": {"column": "site"}}


def config(**changes: Any) -> ModelConfig:
    evaluation = {"slices": NAMED, **changes.pop("evaluation", {})}
    return ModelConfig.model_validate(values(evaluation=evaluation, **changes))


def result(value: str, gain: float | None = 0.0, error: float = 0.01, **facts: Any) -> SliceResult:
    given: dict[str, Any] = {"rows": 600, "blocks": 24, "metrics": {"auc": 0.7}, "errors": {"auc": 0.01}} | facts
    return SliceResult(slices="site", value=value, gain=gain, gain_error=error, **given)


def findings(*slices: SliceResult, fairness: tuple[Fairness, ...] = ()) -> Findings:
    bins = (CalibrationBin(rows=1, score=0.5, observed=0.5),)
    calibrated = Calibrated(bins=bins, error=0, reliability=0, resolution=0, uncertainty=0, within=0)
    curves = Curves(roc=((0, 0), (1, 1)), precision_recall=((0, 1), (1, 1)))
    return Findings(
        metric="auc",
        rows=1,
        labels="0.5000 of them positive",
        curves=curves,
        calibration=calibrated,
        slices=slices,
        fairness=fairness,
    )


def judged(*slices: SliceResult, **changes: Any) -> list[tuple[str, str, str]]:
    asked = config(**changes)
    found: list[Check] = slice_checks(asked, slice_gates(asked), slices)
    return [(check.name, check.subject, check.state) for check in found]


def test_slices_that_lose_nothing_pass() -> None:
    assert judged(result("north"), result("south", 0.02)) == [("slices", "site", "pass")]


def test_a_proved_loss_on_one_slice_fails() -> None:
    found = judged(result("north", -0.05), result("south", 0.02))
    assert found == [("slices", "site", "pass"), ("slice_loss", "site north", "fail")]


def test_a_loss_within_its_error_is_not_proved() -> None:
    assert judged(result("north", -0.015)) == [("slices", "site", "pass")]


def test_a_loss_that_one_look_would_prove_is_not_proved_among_many() -> None:
    one, many = judged(result("0", -0.02)), judged(*(result(str(n), -0.02 if n == 0 else 0.0) for n in range(40)))
    assert ("slice_loss", "site 0", "fail") in one
    assert many == [("slices", "site", "pass")]


def test_a_clear_loss_is_proved_among_very_many() -> None:
    found = judged(*(result(str(n), -0.06 if n == 0 else 0.0) for n in range(500)))
    assert ("slice_loss", "site 0", "fail") in found


@pytest.mark.parametrize(("allowed", "states"), [(0.0, ["pass", "fail"]), (0.05, ["pass"])])
def test_a_loss_may_be_allowed(allowed: float, states: list[str]) -> None:
    found = judged(result("north", -0.05), gates={"slices": {"site": {"max_loss": allowed}}})
    assert [state for _, _, state in found] == states


@pytest.mark.parametrize(
    ("limit", "states"), [({"min": 0.75}, ["fail"]), ({"min": 0.69}, []), ({"max": 0.65}, ["fail"])]
)
def test_a_slice_must_keep_the_thresholds(limit: dict[str, float], states: list[str]) -> None:
    gates = {"slices": {"site": {"thresholds": {"auc": limit}}}}
    found = judged(result("north", None), gates=gates)
    assert [state for name, _, state in found if name == "slice_auc"] == states


def test_a_gate_may_only_warn() -> None:
    found = judged(result("north", -0.1), gates={"slices": {"site": {"severity": "warn"}}})
    assert ("slice_loss", "site north", "warn") in found


@pytest.mark.parametrize("small", [{"rows": 499}, {"blocks": 19}])
def test_a_small_slice_gates_nothing_and_is_told(small: dict[str, int]) -> None:
    assert judged(result("north", -0.5, **small), result("south")) == [("slices", "site", "warn")]


@pytest.mark.parametrize("slices", [(), (result("north", rows=10),)])
def test_a_name_without_any_slice_to_judge_is_an_error(slices: tuple[SliceResult, ...]) -> None:
    assert judged(*slices) == [("slices", "site", "error")]


def test_a_metric_that_a_large_slice_does_not_define_is_an_error() -> None:
    found = judged(result("north", None, metrics={"brier": 0.1}, errors={"brier": 0.01}), result("south"))
    assert ("slice_auc", "site north", "error") in found


def test_holm_rejects_as_its_paper_says() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([0.01, 0.01]), 0.05).tolist() == [True, True]
    assert holm(np.array([]), 0.05).tolist() == []
    assert holm(np.array([0.2, np.nan]), 0.05).tolist() == [False, False]


@pytest.mark.parametrize(
    ("value", "error", "p"), [(0.0, 1.0, 0.5), (1.645, 1.0, 0.05), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
)
def test_p_values_of_a_normal_estimate(value: float, error: float, p: float) -> None:
    assert exceeds(value, 0.0, error) == pytest.approx(p, abs=1e-4)


@pytest.mark.parametrize(("largest", "state"), [(0.2, "pass"), (0.05, "fail")])
def test_a_difference_between_groups_has_a_limit(largest: float, state: str) -> None:
    gates = {"fairness": {"equalized_odds_difference": {"max": largest}}}
    given = config(evaluation={"fairness": ["site"]}, gates=gates)
    compared = Fairness(column="site", groups=(), differences={"equalized_odds_difference": 0.1})
    (check,) = fairness_checks(given, findings(fairness=(compared,)))
    assert (check.name, check.subject, check.state) == ("equalized_odds_difference", "site", state)
    (missing,) = fairness_checks(given, findings())
    assert missing.state == "error"


def test_a_candidate_that_is_worse_on_a_slice_is_refused(challenger: World) -> None:
    first, _ = challenger.versions()
    job = challenger.configure(evaluation={"slices": NAMED, "minimum_rows": 200})
    second = train(challenger, job, DAYS[3])
    better = judge(job, second)
    assert better.promote
    assert ("slices", "site", "pass") in [(c.name, c.subject, c.state) for c in better.verdict.checks]
    # The other way round: the second is champion, of the same holdout, and the first would take its place.
    crown(challenger, second.model_copy(update={"split": first.split}))
    package = first.package.model_copy(update={"code": job.model.ref})
    worse = judge(job, first.model_copy(update={"split": second.split, "package": package}))
    assert not worse.promote
    failed = {check.subject for check in worse.verdict.problems if check.name == "slice_loss"}
    assert failed == {"site north", "site south", "site east"}


def test_slices_that_the_evaluation_did_not_measure_are_an_error(challenger: World) -> None:
    _, second = challenger.versions()
    later = challenger.configure(evaluation={"slices": NAMED})
    found = judge(later, second)
    errors = [(c.name, c.subject) for c in found.verdict.problems]
    assert errors == [("slices", "site")]
    assert found.outcome == "not_comparable"
