"""How well one feature tells the label."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mlops_provider.steps.data.leakage import leakage, strength
from tests.support.tiny import DAYS, World, call

NAN = float("nan")
rows = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.5]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=40)


@given(rows)
def test_without_nulls_it_is_the_auc_in_the_better_direction(pairs: list[tuple[float, float]]) -> None:
    values, label = (np.array(side) for side in zip(*pairs, strict=True))
    if len(set(label)) == 2:
        area = roc_auc_score(label, values)
        assert strength(values, label) == pytest.approx(max(area, 1 - area))


@given(rows)
def test_it_is_what_counting_pairs_gives_with_nulls_on_either_side(pairs: list[tuple[float, float]]) -> None:
    values, label = (np.array(side) for side in zip(*pairs, strict=True))
    values = np.where(values == 3.5, NAN, values)
    if len(set(label)) == 2:
        areas = [_counted(np.where(np.isnan(values), aside, values), label) for aside in (-np.inf, np.inf)]
        assert strength(values, label) == pytest.approx(max(max(area, 1 - area) for area in areas))


def _counted(values: np.ndarray, label: np.ndarray) -> float:
    pairs = list(itertools.product(values[label == 1], values[label == 0]))
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], 1.0),
        ([7, 7, 7, 7], 0.5),
        ([NAN, NAN, NAN, NAN], 0.5),
        ([5, 6, NAN, NAN], 1.0),
        ([NAN, NAN, 1, -np.inf], 1.0),
        ([-np.inf, NAN, np.inf, np.inf], 1.0),
    ],
)
def test_nulls_and_infinities_have_their_place(values: list[float], expected: float) -> None:
    assert strength(np.array(values, dtype=float), np.array([0.0, 0.0, 1.0, 1.0])) == expected


def test_honest_features_pass_and_the_strongest_is_named(delivered: World) -> None:
    job = delivered.job()
    (check,) = leakage(job, call(job, "build_features", work=delivered.work(DAYS[1])).table)
    assert check.passed
    assert 0.6 < float(check.value or 0) < 0.98
    assert check.detail == "the strongest of 4 features is c"


def test_the_limit_is_the_owners(delivered: World) -> None:
    job = delivered.configure(data={"changes": {"leakage": 0.6}})
    found = leakage(job, call(job, "build_features", work=delivered.work(DAYS[1])).table)
    assert [(c.subject, c.state) for c in found] == [("a", "fail"), ("c", "fail")]


@pytest.mark.parametrize(("positives", "state"), [(0, "warn"), (19, "warn"), (20, "pass")])
def test_few_labels_of_one_kind_are_a_warning_never_a_pass(delivered: World, positives: int, state: str) -> None:
    delivered.rewrite(DAYS[0], "labels", lambda f: f.assign(outcome=np.where(np.arange(len(f)) < positives, 1.0, -1.0)))
    job = delivered.job()
    (check,) = leakage(job, call(job, "build_features", work=delivered.work(DAYS[0])).table)
    assert check.state == state
