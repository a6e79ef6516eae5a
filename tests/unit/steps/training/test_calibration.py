"""Calibration and curves against scikit-learn, and by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, brier_score_loss, precision_recall_curve, roc_auc_score

from mlops_provider.steps.training.calibration import calibration, calibration_checks
from mlops_provider.steps.training.curves import curves
from mlops_provider.steps.training.metrics import Array


def drawn(rows: int = 4_000, shift: float = 0.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    chances = rng.beta(2, 4, rows)
    return (rng.random(rows) < chances).astype(float), np.clip(chances + shift, 0, 1)


def test_bins_are_those_of_scikit_learn() -> None:
    labels, scores = drawn()
    observed, means = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    found = calibration(labels, scores, 10)
    assert [one.score for one in found.bins] == pytest.approx(list(means), abs=2e-3)
    assert [one.observed for one in found.bins] == pytest.approx(list(observed), abs=2e-2)
    assert sum(one.rows for one in found.bins) == len(labels)


@pytest.mark.parametrize("bins", [2, 10, 50])
def test_the_parts_make_the_brier_score(bins: int) -> None:
    labels, scores = drawn()
    found = calibration(labels, scores, bins)
    whole = found.reliability - found.resolution + found.uncertainty + found.within
    assert whole == pytest.approx(brier_score_loss(labels, scores))


def test_scores_of_one_value_a_bin_leave_no_rest() -> None:
    labels = np.array([0.0, 1.0] * 50 + [1.0] * 100)
    scores = np.array([0.5] * 100 + [0.9] * 100)
    found = calibration(labels, scores, 2)
    assert found.within == pytest.approx(0)
    assert found.error == pytest.approx(0.05)
    assert found.reliability == pytest.approx(0.005)


@pytest.mark.parametrize(("shift", "error"), [(0.0, 0.0), (0.15, 0.15)])
def test_the_error_is_how_far_scores_are_off(shift: float, error: float) -> None:
    assert calibration(*drawn(20_000, shift), 10).error == pytest.approx(error, abs=0.015)


def test_a_limit_warns_and_no_limit_says_nothing() -> None:
    found = calibration(*drawn(shift=0.2), 10)
    assert calibration_checks(found, None) == []
    assert [c.state for limit in (0.1, 0.3) for c in calibration_checks(found, limit)] == ["warn", "pass"]


def test_fewer_rows_than_bins_are_no_fault() -> None:
    assert len(calibration(np.array([0.0, 1.0]), np.array([0.2, 0.8]), 10).bins) == 2


def test_the_curves_enclose_what_the_metrics_say() -> None:
    labels, scores = drawn()
    found = curves(labels, scores)
    across, up = zip(*found.roc, strict=True)
    assert auc(across, up) == pytest.approx(roc_auc_score(labels, scores), abs=2e-3)
    assert (found.roc[0], found.roc[-1]) == ((0, 0), (1, 1))
    assert len(found.roc) <= 201
    assert found.precision_recall[-1] == (1.0, pytest.approx(labels.mean(), abs=1e-4))


def test_the_points_are_those_of_scikit_learn_where_scores_tie() -> None:
    labels, scores = np.array([1.0, 0, 1, 0, 1, 0]), np.array([0.9, 0.9, 0.5, 0.5, 0.5, 0.1])
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = [
        (pytest.approx(r, abs=1e-5), pytest.approx(p, abs=1e-5)) for p, r in zip(precision, recall, strict=True)
    ]
    assert list(curves(labels, scores).precision_recall) == expected[:-1][::-1]
