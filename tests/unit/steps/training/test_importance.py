"""What features and sound inputs are worth, on models whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlops_provider.sections import Importance
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.findings import FeatureEffect, Perturbed
from mlops_provider.steps.training.importance import (
    Sample,
    importance,
    importance_checks,
    robustness,
    robustness_checks,
)
from mlops_provider.steps.training.metrics import Array
from tests.support.tiny import World, candidate

NAMES = ("strong", "weak", "idle", "code")


class Linear(Scorer):
    """A model whose features are worth what its weights say."""

    def __init__(self, *, missing: float = 0.0) -> None:
        self.missing = missing

    def score(self, features: Array) -> Array:
        known = np.nan_to_num(features, nan=self.missing, posinf=1e9, neginf=-1e9)
        return np.asarray(1 / (1 + np.exp(-np.clip(2 * known[:, 0] + 0.7 * known[:, 1], -50, 50))))


def sampled(job: Job, scorer: Scorer | None = None, rows: int = 2_000) -> Sample:
    rng = np.random.default_rng(0)
    features = np.column_stack([*rng.normal(size=(3, rows)), rng.integers(0, 4, rows)])
    model = scorer or Linear()
    labels = (rng.random(rows) < Linear().score(features)).astype(float)
    return Sample(job, model, NAMES, features, labels, np.arange(rows) // 50)


@pytest.fixture
def job(empty: World) -> Job:
    return empty.job()


def test_features_are_worth_what_the_model_makes_of_them(job: Job) -> None:
    effects = importance(sampled(job))
    assert [one.feature for one in effects][:2] == ["strong", "weak"]
    by = {one.feature: one for one in effects}
    assert by["strong"].low > 0.1
    assert by["weak"].low > 0
    assert (by["idle"].effect, by["idle"].low, by["idle"].high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["auc", "log_loss", "brier"])
def test_an_effect_is_positive_whichever_way_the_metric_is_better(empty: World, metric: str) -> None:
    effects = importance(sampled(empty.configure(evaluation={"metric": metric})))
    assert effects[0].feature == "strong"
    assert effects[0].low > 0


def test_features_without_an_effect_are_named(job: Job) -> None:
    (check,) = importance_checks(importance(sampled(job)), Importance(), 2_000)
    assert (check.name, check.state) == ("useless_features", "warn")
    assert set(check.subject.split(", ")) == {"idle", "code"}


def effect(name: str, value: float, cost: float | None = None) -> FeatureEffect:
    return FeatureEffect(feature=name, effect=value, low=value / 2, high=2 * value, missing=0.0, cost=cost)


def test_features_that_do_not_bring_what_they_cost_are_named() -> None:
    effects = (effect("cheap", 0.01, 1.0), effect("dear", 0.01, 20.0), effect("free", 0.0001))
    settings = Importance(costs={"cheap": 1.0, "dear": 20.0}, worth=0.001)
    useless, costly = importance_checks(effects, settings, 2_000)
    assert useless.passed
    assert (costly.name, costly.subject, costly.state) == ("costly_features", "dear", "warn")


def test_worse_inputs_cost_quality(job: Job) -> None:
    noise, missing = robustness(sampled(job))
    assert 0 < noise.loss < missing.loss
    assert missing.name == "10% of the values missing"


def test_codes_get_no_noise(job: Job) -> None:
    seen: list[Array] = []

    class Watching(Linear):
        def score(self, features: Array) -> Array:
            seen.append(features)
            return super().score(features)

    sample = sampled(job, Watching())
    robustness(sample)
    noisy = seen[1]
    assert (noisy[:, 3] == sample.features[:, 3]).all()
    assert np.std(noisy[:, 0] - sample.features[:, 0]) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("limit", "states"), [(None, []), (0.5, ["pass", "pass"]), (0.0, ["warn", "warn"])])
def test_a_limit_of_the_loss_warns(empty: World, limit: float | None, states: list[str]) -> None:
    sample = sampled(empty.configure(evaluation={"robustness": {"max_loss": limit}} if limit is not None else {}))
    found = (Perturbed(name="noise", value=0.7, loss=0.1), Perturbed(name="missing", value=0.6, loss=0.2))
    assert [c.state for c in robustness_checks(sample, found)][1:] == states


@pytest.mark.parametrize(("missing", "state"), [(0.0, "pass"), (np.nan, "fail")])
def test_scores_that_are_no_probabilities_fail(job: Job, missing: float, state: str) -> None:
    (check,) = robustness_checks(sampled(job, Linear(missing=missing)), ())
    assert (check.name, check.state) == ("extreme_inputs", state)


def checks_of(world: World, **evaluation: Any) -> dict[str, Any]:
    found = candidate(world, world.configure(evaluation=evaluation))["evaluation"]
    return {check.name: check for check in found.verdict.checks}


def test_the_tiny_model_names_what_it_does_not_need(accepted: World) -> None:
    checks = checks_of(accepted)
    assert "height" in checks["useless_features"].subject
    assert "a" not in checks["useless_features"].subject.split(", ")
    assert checks["extreme_inputs"].passed


def test_no_rows_asked_for_leave_it_out(accepted: World) -> None:
    assert not {"useless_features", "extreme_inputs", "importance"} & set(checks_of(accepted, importance={"rows": 0}))


def test_a_sample_of_one_class_is_an_error(accepted: World) -> None:
    assert checks_of(accepted, importance={"rows": 1})["importance"].state == "error"
