"""Simple models: the logistic regression against scikit-learn's, and what it means if a candidate is not better."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_provider.checks import Check
from mlops_provider.exceptions import Refused
from mlops_provider.steps.training.baselines import Logistic, fitted_rows
from mlops_provider.steps.training.findings import Findings
from mlops_provider.steps.training.metrics import Array
from mlops_provider.steps.training.split import load_split
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, candidate

CHECK = "simpler_model_is_not_better"


def drawn(rows: int = 2_000) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    features = rng.normal([5, 0, -3], [100, 1, 0.01], size=(rows, 3))
    slope = (features[:, 0] - 5) / 100 - 2 * features[:, 1]
    return features, (rng.random(rows) < 1 / (1 + np.exp(-slope))).astype(float)


def test_the_logistic_regression_is_that_of_scikit_learn() -> None:
    features, labels = drawn()
    low, high = np.quantile(features, [0.01, 0.99], axis=0)
    cut = np.clip(features, low, high)
    scaled = (cut - cut.mean(axis=0)) / cut.std(axis=0)
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=1_000).fit(scaled, labels).predict_proba(scaled)[:, 1]
    assert Logistic(features, labels).score(features) == pytest.approx(peer, abs=1e-5)


def test_a_missing_value_is_told_apart() -> None:
    features, labels = drawn()
    features[labels == 1, 2] = np.nan
    scores = Logistic(features, labels).score(features)
    assert scores[labels == 1].min() > scores[labels == 0].max()


@pytest.mark.parametrize("spoil", [np.nan, np.inf, -np.inf, 1e300])
def test_what_was_never_seen_still_gives_probabilities(spoil: float) -> None:
    features, labels = drawn(300)
    model = Logistic(features, labels)
    assert np.isfinite(model.score(np.full((2, 3), spoil))).all()


def test_columns_without_a_value_or_of_one_value_say_nothing() -> None:
    features, labels = drawn()
    usual = Logistic(features, labels).score(features)
    padded = np.column_stack([features, np.full(len(labels), np.nan), np.full(len(labels), 7.0)])
    assert Logistic(padded, labels).score(padded) == pytest.approx(usual, abs=1e-6)


def test_separable_classes_do_not_run_away() -> None:
    labels = np.r_[np.zeros(50), np.ones(50)]
    scores = Logistic(labels[:, None], labels).score(labels[:, None])
    assert scores[0] < 0.1 < 0.9 < scores[-1]


def test_no_more_rows_are_fitted_than_asked_and_none_without_a_label(registered: World) -> None:
    (version,) = registered.versions()
    job = registered.configure(evaluation={"baselines": {"rows": 500}})
    features, labels = fitted_rows(job, load_split(job, version.split), version.package)
    assert features.shape == (500, 4)
    assert set(labels) == {0.0, 1.0}


def test_a_row_whose_label_was_not_known_at_the_cutoff_is_not_fitted(registered: World) -> None:
    (version,) = registered.versions()
    job = registered.job()
    split = load_split(job, version.split)
    earlier = split.model_copy(update={"cutoff": split.fit[-1].first})
    whole, fewer = (len(fitted_rows(job, one, version.package)[1]) for one in (split, earlier))
    assert 0 < fewer < split.fit[0].labelled < whole


def checks(world: World, severity: str, **arguments: str) -> list[Check]:
    job = world.configure(evaluation={"baselines": {"severity": severity}})
    evaluation = candidate(world, job, DAYS[2], **arguments)["evaluation"]
    return [check for check in evaluation.verdict.checks if check.name == CHECK]


def test_a_candidate_is_compared_with_both_simple_models(accepted: World) -> None:
    evaluation = candidate(accepted)["evaluation"]
    found = {c.subject: c for c in evaluation.verdict.checks if c.name == CHECK}
    assert set(found) == {"prevalence", "logistic"}
    assert found["prevalence"].passed
    # The outcome of the tiny model is linear in its features: trees cannot be better than a logistic regression.
    assert not found["logistic"].passed
    assert found["logistic"].state == "warn"
    assert evaluation.verdict.passed
    assert evaluation.findings is not None
    findings = Findings.model_validate_json(Storage().fetch(evaluation.findings))
    constant, logistic = findings.baselines
    assert constant.metrics["auc"] == 0.5
    assert constant.gain.gain == pytest.approx(evaluation.candidate["auc"] - 0.5)
    assert logistic.metrics["auc"] > evaluation.candidate["auc"] > 0.6


def test_a_candidate_that_is_not_better_is_refused_where_model_yaml_says_so(accepted: World) -> None:
    accepted.configure(evaluation={"baselines": {"severity": "fail"}})
    loops = accepted.loops()
    while loops.cm():
        pass
    loops.ct()
    loops.cd()
    (refusal,) = accepted.records("refusal")
    assert refusal.outcome == "below_threshold"
    assert f"{CHECK} (logistic)" in refusal.reason


def test_a_candidate_that_has_learned_nothing_is_worse_than_the_simple_model(accepted: World) -> None:
    found = {check.subject: check for check in checks(accepted, "fail", drill="shuffled_labels")}
    assert not found["logistic"].passed
    assert found["logistic"].state == "fail"
    assert float(found["logistic"].value or 0) < -0.1


def test_the_gate_finds_the_diagnosis_done(challenger: World) -> None:
    from tests.support.tiny import outcome

    champion, version = challenger.versions()
    job = challenger.job()
    given = {"package": version.package, "split": version.split}
    call(job, "evaluate", **given, champion=champion)
    call(job, "evaluate", **given)
    assert outcome(job, "diagnose", **given).reused


def test_a_verdict_with_a_failed_comparison_is_no_pass(accepted: World) -> None:
    job = accepted.configure(evaluation={"baselines": {"severity": "fail"}})
    with pytest.raises(Refused, match=CHECK):
        candidate(accepted, job)["evaluation"].verdict.require()
