"""Metrics against scikit-learn; the paired bootstrap over blocks of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from mlops_provider.steps.records import Interval
from mlops_provider.steps.training.metrics import Array, bounds, change, measure, metric, resampled

PEERS = {"auc": roc_auc_score, "log_loss": log_loss, "brier": brier_score_loss}


def drawn(seed: int, rows: int, ties: bool) -> tuple[Array, Array, Array]:
    """Labels of both classes, scores and integer weights."""
    rng = np.random.default_rng(seed)
    labels = np.r_[0.0, 1.0, rng.integers(0, 2, rows)]
    scores = np.round(rng.normal(0.3 + 0.3 * labels, 0.2), 1 if ties else 9)
    return labels, np.clip(scores, 0.001, 0.999), rng.integers(1, 5, rows + 2).astype(float)


@pytest.mark.parametrize("name", sorted(PEERS))
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 200), ties=st.booleans())
def test_metrics_agree_with_scikit_learn(name: str, seed: int, rows: int, ties: bool) -> None:
    labels, scores, weights = drawn(seed, rows, ties)
    found = metric(name, labels, scores)(weights)
    assert found == pytest.approx(PEERS[name](labels, scores, sample_weight=weights), abs=1e-9)
    assert measure([name], labels, scores)[name] == pytest.approx(PEERS[name](labels, scores), abs=1e-9)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_weight_counts_like_repeated_rows(name: str) -> None:
    labels, scores, weights = drawn(1, 50, ties=True)
    times = weights.astype(int)
    repeated = measure([name], labels.repeat(times), scores.repeat(times))[name]
    assert metric(name, labels, scores)(weights) == pytest.approx(repeated)


def test_certain_and_wrong_is_not_infinite() -> None:
    assert np.isfinite(measure(["log_loss"], np.array([0.0, 1.0]), np.array([1.0, 0.0]))["log_loss"])


@pytest.mark.parametrize("scores", [[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]])
def test_extreme_auc(scores: list[float]) -> None:
    expected = {0.1: 1.0, 0.9: 0.0, 0.5: 0.5}[scores[0]]
    assert measure(["auc"], np.array([0.0, 1.0]), np.array(scores))["auc"] == expected


def test_auc_of_one_class_is_nan() -> None:
    assert np.isnan(measure(["auc"], np.ones(3), np.arange(3.0))["auc"])


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown metric 'f1'"):
        metric("f1", np.ones(1), np.ones(1))


def correlated(seed: int = 0, days: int = 40, rows: int = 50) -> tuple[Array, Array, Array]:
    """Rows of which those of one day share most of their noise."""
    rng = np.random.default_rng(seed)
    blocks = np.arange(days).repeat(rows)
    values = rng.normal(size=days).repeat(rows) + 0.3 * rng.normal(size=days * rows)
    return blocks, values, np.arange(days * rows)


def width(values: Array, blocks: Array) -> float:
    found = resampled([lambda weights: float(np.average(values, weights=weights))], blocks, resamples=300, seed=3)
    low, high = bounds(found[:, 0], 0.9)
    return high - low


def test_days_are_wider_than_rows_where_rows_of_a_day_are_alike() -> None:
    blocks, values, rows = correlated()
    assert width(values, blocks) > 3 * width(values, rows)


def test_days_are_as_wide_as_rows_where_rows_are_independent() -> None:
    blocks, _, rows = correlated()
    values = np.random.default_rng(1).normal(size=len(rows))
    assert 0.6 < width(values, blocks) / width(values, rows) < 1.6


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = []
    for seed in range(60):
        blocks, values, _ = correlated(seed, days=30, rows=4)
        found = resampled([lambda w, v=values: float(np.average(v, weights=w))], blocks, resamples=200, seed=1)  # type: ignore[misc]
        low, high = bounds(found[:, 0], 0.9)
        covered.append(low <= 0 <= high)
    assert 0.75 <= np.mean(covered) <= 1


def test_all_metrics_get_the_same_draw() -> None:
    labels, scores, _ = drawn(2, 300, ties=False)
    blocks = np.arange(len(labels)) // 10
    one = metric("auc", labels, scores)
    found = resampled([one, one], blocks, resamples=100, seed=0)
    assert (found[:, 0] == found[:, 1]).all()
    assert np.ptp(found[:, 0]) > 0


def test_a_block_is_drawn_whole() -> None:
    blocks = np.array([0, 0, 1, 1, 2])
    seen: list[Array] = []
    resampled([lambda weights: float(seen.append(weights) or 0)], blocks, resamples=50, seed=0)  # type: ignore[func-returns-value]
    for weights in seen:
        assert weights[0] == weights[1]
        assert weights[2] == weights[3]
        assert weights[0] + weights[2] + weights[4] == 3


def test_a_draw_without_one_class_does_not_spoil_the_interval() -> None:
    labels = np.r_[np.ones(5), np.zeros(45)]
    scores = np.linspace(1, 0, 50)
    blocks = np.arange(50) // 5
    found = resampled([metric("auc", labels, scores)], blocks, resamples=200, seed=0)
    assert np.isnan(found).any()
    assert bounds(found[:, 0], 0.9) == (1.0, 1.0)


def test_equal_seeds_draw_equally() -> None:
    blocks, values, _ = correlated()
    assert width(values, blocks) == width(values, blocks)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.99])
def test_bounds_leave_out_both_tails(confidence: float) -> None:
    low, high = bounds(np.linspace(0, 1, 10_001), confidence)
    assert (low, high) == (pytest.approx((1 - confidence) / 2), pytest.approx((1 + confidence) / 2))


@pytest.mark.parametrize(
    ("name", "told"), [("auc", "auc +0.0300 [+0.0100, +0.0500]"), ("rmse", "rmse -0.0300 [-0.0500, -0.0100]")]
)
def test_a_gain_is_told_as_what_happened_to_the_metric(name: str, told: str) -> None:
    assert change(name, Interval(gain=0.03, low=0.01, high=0.05, blocks=20, confidence=0.9)) == told
