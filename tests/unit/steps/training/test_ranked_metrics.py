"""Metrics of several classes, of numbers and of rankings, against scikit-learn's."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    log_loss,
    mean_absolute_error,
    ndcg_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from mlops_provider.sections.objectives import METRICS
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.metrics import Array

RNG = np.random.default_rng(3)
ROWS, CLASSES = 400, 4


def classes() -> tuple[Array, Array]:
    raw = RNG.normal(size=(ROWS, CLASSES))
    scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    return (raw + RNG.normal(size=raw.shape)).argmax(axis=1).astype(float), scores


def numbers() -> tuple[Array, Array]:
    labels = RNG.normal(5, 3, ROWS)
    return labels, labels + RNG.normal(size=ROWS)


def ranked(*, ties: bool = False) -> tuple[Array, Array]:
    groups = RNG.integers(0, 30, ROWS)
    relevance = RNG.integers(0, 4, ROWS)
    scores = relevance + RNG.normal(size=ROWS)
    return np.column_stack([relevance, groups]).astype(float), np.round(scores) if ties else scores


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_classes_are_those_of_scikit_learn(weighted: bool) -> None:
    labels, scores = classes()
    weights = RNG.integers(0, 3, ROWS).astype(float) if weighted else np.ones(ROWS)
    told = {
        "log_loss": log_loss(labels, scores, sample_weight=weights),
        "accuracy": accuracy_score(labels, scores.argmax(axis=1), sample_weight=weights),
        "auc": np.mean([
            roc_auc_score(labels == place, scores[:, place], sample_weight=weights) for place in range(CLASSES)
        ]),
        "brier": np.average(((scores - np.eye(CLASSES)[labels.astype(int)]) ** 2).sum(axis=1), weights=weights),
    }
    assert set(told) == set(METRICS["multiclass"])
    for name, expected in told.items():
        assert metrics.metric(name, labels, scores)(weights) == pytest.approx(expected), name


def test_a_class_that_does_not_occur_is_left_out_of_the_mean_auc() -> None:
    labels, scores = classes()
    labels[labels == 2] = 1
    expected = np.mean([roc_auc_score(labels == place, scores[:, place]) for place in (0, 1, 3)])
    assert metrics.measure(["auc"], labels, scores)["auc"] == pytest.approx(expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_numbers_are_those_of_scikit_learn(weighted: bool) -> None:
    labels, scores = numbers()
    weights = RNG.integers(0, 3, ROWS).astype(float) if weighted else np.ones(ROWS)
    told = {
        "rmse": root_mean_squared_error(labels, scores, sample_weight=weights),
        "mae": mean_absolute_error(labels, scores, sample_weight=weights),
        "r2": r2_score(labels, scores, sample_weight=weights),
    }
    assert set(told) == set(METRICS["regression"])
    for name, expected in told.items():
        assert metrics.metric(name, labels, scores)(weights) == pytest.approx(expected), name


def test_labels_that_do_not_vary_have_no_r2() -> None:
    assert np.isnan(metrics.measure(["r2"], np.ones(5), np.arange(5.0))["r2"])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("name", "depth"), [("ndcg", None), ("ndcg_at_5", 5), ("ndcg_at_10", 10)])
def test_ndcg_is_scikit_learns_ties_included(name: str, depth: int | None, ties: bool) -> None:
    labels, scores = ranked(ties=ties)
    each = []
    for group in np.unique(labels[:, 1]):
        mine = labels[:, 1] == group
        gains = np.exp2(labels[mine, 0]) - 1
        if len(np.unique(gains)) > 1:
            each.append(ndcg_score([gains], [scores[mine]], k=depth))
    assert metrics.measure([name], labels, scores)[name] == pytest.approx(np.mean(each))


def test_average_precision_is_scikit_learns() -> None:
    labels, scores = ranked()
    each = []
    for group in np.unique(labels[:, 1]):
        mine = labels[:, 1] == group
        relevant = labels[mine, 0] > 0
        if 0 < relevant.mean() < 1:
            each.append(average_precision_score(relevant, scores[mine]))
    assert metrics.measure(["map"], labels, scores)["map"] == pytest.approx(np.mean(each))


def test_average_precision_of_equal_scores_is_that_of_any_order_of_them() -> None:
    relevance, scores = np.array([1.0, 0, 2, 0, 0, 1]), np.array([3.0, 3, 2, 2, 2, 1])
    orders = [np.array(order) for order in permutations(range(6)) if (np.diff(scores[list(order)]) <= 0).all()]
    each = [average_precision_score(relevance[order] > 0, -np.arange(6.0)) for order in orders]
    assert metrics.average_precision(relevance, scores) == pytest.approx(np.mean(each))


def test_equal_scores_are_worth_no_more_than_chance_in_either_metric() -> None:
    labels = np.column_stack([[1.0, 0, 0, 0], np.zeros(4)])
    level, best = np.zeros(4), np.array([1.0, 0, 0, 0])
    chance = np.mean([1 / np.log2(place + 2) for place in range(4)])
    assert metrics.measure(["ndcg"], labels, level)["ndcg"] == pytest.approx(chance)
    assert metrics.measure(["map"], labels, level)["map"] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]))
    assert metrics.measure(["ndcg", "map"], labels, best) == {"ndcg": 1.0, "map": 1.0}


def test_groups_in_which_no_order_is_better_do_not_count() -> None:
    labels = np.array([[1.0, 0], [0.0, 0], [2.0, 1], [2.0, 1]])
    assert metrics.measure(["ndcg"], labels, np.array([1.0, 0, 0, 1]))["ndcg"] == 1.0
    assert np.isnan(metrics.measure(["ndcg"], labels[2:], np.array([0.0, 1]))["ndcg"])


def test_a_group_counts_with_the_mean_weight_of_its_rows() -> None:
    labels = np.array([[1.0, 0], [0.0, 0], [1.0, 1], [0.0, 1]])
    scores = np.array([1.0, 0, 0, 1])
    worse = 1 / np.log2(3)
    found = metrics.metric("ndcg", labels, scores)(np.array([3.0, 3.0, 1.0, 1.0]))
    assert found == pytest.approx((3 + worse) / 4)
