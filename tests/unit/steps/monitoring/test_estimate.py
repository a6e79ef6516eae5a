"""Quality before the labels arrive: what is expected of scores, how far that may be off, and when it is not believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlops_provider.exceptions import DataError
from mlops_provider.ledger import Record
from mlops_provider.steps import plan
from mlops_provider.steps.monitoring.estimate import calibrated, expected, missed
from mlops_provider.steps.monitoring.estimates import estimate_work, known_estimate, misses
from mlops_provider.steps.monitoring.records import Estimated
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from tests.support.tiny import DAYS, World, call

DAY = DAYS[3]


def drawn(rows: int, days: int = 50, shock: float = 0.0, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Labels, scores that are too sure of themselves, true chances, and the day of each row; days share a shock."""
    rng = np.random.default_rng(seed)
    odds, day = rng.normal(-1, 1, rows), rng.integers(0, days, rows)
    told = odds + shock * rng.normal(size=days)[day]
    labels = (rng.random(rows) < 1 / (1 + np.exp(-told))).astype(float)
    return labels, 1 / (1 + np.exp(-2 * odds)), 1 / (1 + np.exp(-odds)), day


@pytest.mark.parametrize("name", ["auc", "log_loss", "brier"])
def test_what_is_expected_is_the_mean_over_what_the_chances_may_bring(name: str) -> None:
    _, scores, chances, _ = drawn(1_000)
    rng = np.random.default_rng(1)
    found = [metrics.measure([name], (rng.random(1_000) < chances).astype(float), scores)[name] for _ in range(400)]
    error = np.std(found) / np.sqrt(len(found))
    assert expected(name, scores, chances) == pytest.approx(np.mean(found), abs=4 * error)


def test_scores_that_are_too_sure_become_chances() -> None:
    labels, scores, chances, _ = drawn(20_000)
    assert np.abs(calibrated(labels, scores)(scores) - chances).mean() < 0.01 < np.abs(scores - chances).mean()


def test_other_rows_are_expected_to_have_another_metric() -> None:
    labels, scores, _, _ = drawn(20_000)
    chances = calibrated(labels, scores)
    middling = (scores > np.quantile(scores, 0.3)) & (scores < np.quantile(scores, 0.7))
    told = expected("auc", scores[middling], chances(scores[middling]))
    assert told == pytest.approx(metrics.measure(["auc"], labels[middling], scores[middling])["auc"], abs=0.02)
    assert told < expected("auc", scores, chances(scores)) - 0.1


def test_days_that_share_a_shock_widen_the_interval() -> None:
    widths = []
    for shock in (0.0, 1.5):
        labels, scores, _, days = drawn(10_000, shock=shock)
        chances = calibrated(labels, scores)(scores)
        low, high = metrics.bounds(missed("auc", labels, scores, chances, days, count=7, seed=0), 0.9)
        assert low < 0 < high
        widths.append(high - low)
    assert widths[1] > 1.3 * widths[0]


def estimated(world: World, day: str = DAY, **changed: Any) -> Estimated:
    job = world.job()
    work = works(job, day).model_copy(update=changed)
    found: Estimated = call(job, "estimate", work=work)
    return found


def works(job: Job, day: str) -> Any:
    state, found = plan.State(job), plan.manifest(job, day)
    assert found is not None
    version = next(state.version(r) for r in state.records if r.kind == "candidate" and r.version == found.version)
    return estimate_work(job, state.records, version, found)


def test_a_scored_partition_is_estimated_before_its_labels_are_there(scored: World) -> None:
    assert [work.predictions.partition for work in plan.cm(scored.job()).estimate] == [DAY]
    scored.loops().cm()
    assert plan.cm(scored.job()) is None
    told = Estimated.model_validate(known_estimate(scored.job(), DAY))
    assert (told.partition, told.version, told.calibrated_on, told.trusted) == (DAY, 1, (DAYS[2],), True)
    assert set(told.metrics) == {"auc", "log_loss", "brier"}
    auc = told.metrics["auc"]
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low < auc.value < auc.high


def test_labels_judge_the_estimate_and_the_decision_keeps_both(challenger: World) -> None:
    record = challenger.records("retrain")[-1]
    assert record.partition == DAY
    told, real = record.facts["estimate"]["metrics"]["auc"], record.facts["quality"]["metrics"]["auc"]
    ((version, miss),) = misses(challenger.records(), "auc")
    assert version == 1
    assert miss == pytest.approx(abs(real - (told["low"] + told["high"]) / 2) / (told["high"] - told["low"]) * 2)


def test_what_a_version_scored_before_is_calibrated_on_once_it_is_judged(lapped: World) -> None:
    """Never on the partition itself, nor on what another version scored."""
    for day in DAYS[3:]:
        work = works(lapped.job(), day)
        before = [
            one
            for one in DAYS[3:]
            if one < day and plan.manifest(lapped.job(), one).version == work.predictions.version
        ]
        assert [one.predictions.partition for one in work.basis] == before


def test_an_estimate_that_labels_contradicted_twice_is_not_trusted(scored: World) -> None:
    assert estimated(scored, contradicted=1).trusted
    found = estimated(scored, contradicted=2)
    assert not found.trusted
    assert [(check.name, check.state) for check in found.verdict.checks if not check.passed] == [("trusted", "warn")]


def test_two_contradictions_in_a_row_are_counted_for_the_version_that_they_are_of(challenger: World) -> None:
    (record,) = [one for one in challenger.records("retrain") if one.facts["estimate"]]
    wrong, right = (measured_as(record, value) for value in (0.1, record.facts["estimate"]["metrics"]["auc"]["low"]))
    job, state = challenger.job(), plan.State(challenger.job())
    version, found = state.version(challenger.records("candidate")[0]), plan.manifest(job, DAY)
    assert found is not None
    earlier = found.model_copy(update={"partition": DAYS[0]})
    counted = (((wrong,), 1), ((wrong, wrong), 2), ((wrong, wrong, right), 1), ((right, right), 0))
    for records, count in counted:
        assert estimate_work(job, records, version, earlier).contradicted == count
    other = version.model_copy(update={"version": 9})
    assert estimate_work(job, (wrong, wrong), other, earlier).contradicted == 0


def measured_as(record: Record, auc: float) -> Record:
    quality = record.facts["quality"]
    facts = {**record.facts, "quality": {**quality, "metrics": {**quality["metrics"], "auc": auc}}}
    return record.model_copy(update={"facts": facts})


def test_earlier_misses_widen_the_interval_once_there_are_enough(scored: World) -> None:
    usual, few, many = (estimated(scored, misses=(2.0,) * count).metrics["auc"] for count in (0, 7, 8))
    assert few == usual
    assert many.high - many.low == pytest.approx(2 * (usual.high - usual.low))  # type: ignore[operator]
    assert many.value == usual.value


def test_a_limit_that_the_estimate_misses_is_a_warning(scored: World) -> None:
    scored.configure(monitoring={"quality": {"thresholds": {"auc": {"min": 0.999}}}})
    told = {check.name: check.state for check in estimated(scored).verdict.checks}
    assert told == {"estimated_auc": "warn", "trusted": "pass"}


def test_only_scores_that_are_chances_are_estimated(scored: World) -> None:
    work = works(scored.job(), DAY)
    job = scored.configure(
        training={"objective": "regression"},
        data={"label": {"positive_above": None}},
        evaluation={"metric": "rmse", "metrics": ["rmse"]},
        gates={"thresholds": {"auc": None, "rmse": {"max": 9.0}}},
        monitoring={"quality": {"thresholds": {"auc": None, "rmse": {"max": 9.0}}}},
    )
    assert plan.cm(job).estimate == ()
    with pytest.raises(DataError, match="estimated for a binary objective alone"):
        call(job, "estimate", work=work)
