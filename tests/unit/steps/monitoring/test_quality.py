"""Quality of the predictions made, once labels are there."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mlops_provider.steps.records import FeatureVersion, Measured
from mlops_provider.steps.scoring.predictions import manifest
from tests.support.tiny import DAYS, World, call, feed

DAY = DAYS[3]


def measured(world: World, day: str = DAY, **configuration: Any) -> Measured:
    job = world.configure(**configuration)
    record = next(r for r in reversed(world.records("data")) if r.partition == day)
    data = FeatureVersion.model_validate(record.facts["data"])
    found: Measured = call(job, "quality", predictions=manifest(job, DAY), data=data)
    return found


def told(world: World) -> pd.DataFrame:
    """Predictions with the labels that were delivered."""
    found = manifest(world.job(), DAY)
    assert found is not None
    return pd.read_parquet(found.table.uri).merge(feed.labels(DAY), on="id").dropna(subset="outcome")


def test_the_metrics_are_those_of_the_scores_as_they_were_given(challenger: World) -> None:
    found, frame = measured(challenger), told(challenger)
    assert found.metrics["auc"] == pytest.approx(roc_auc_score(frame["outcome"] > 0, frame["score"]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.metrics["auc"] < found.high
    assert (found.version, found.verdict.outcome) == (1, "pass")


def test_unlabelled_rows_are_counted(challenger: World) -> None:
    found = measured(challenger)
    assert found.coverage == pytest.approx(len(told(challenger)) / feed.ROWS)
    assert 0.9 < found.coverage < 1


def test_too_few_labels_fail(challenger: World) -> None:
    found = measured(challenger, monitoring={"quality": {"coverage": 0.999}})
    assert [(c.name, c.severity) for c in found.verdict.problems] == [("label_coverage", "fail")]


def test_a_missed_threshold_fails(challenger: World) -> None:
    found = measured(challenger, monitoring={"quality": {"thresholds": {"auc": {"min": 0.999}}}})
    assert [(c.name, c.severity) for c in found.verdict.problems] == [("auc", "fail")]


def test_no_labels_at_all_are_an_error(challenger: World) -> None:
    found = measured(challenger, DAYS[2])
    assert (found.coverage, found.metrics, found.low) == (0, {}, None)
    assert {c.severity for c in found.verdict.problems if c.name != "label_coverage"} == {"error"}


def test_labels_of_one_class_are_an_error(challenger: World) -> None:
    challenger.rewrite(DAY, "labels", lambda frame: frame.assign(outcome=frame["outcome"].abs() + 1))
    challenger.loops().ci()
    found = measured(challenger)
    assert found.verdict.outcome == "error"
    assert found.coverage > 0.9


def test_labels_that_arrive_later_are_measured_anew(challenger: World) -> None:
    before = measured(challenger)
    challenger.rewrite(DAY, "labels", lambda frame: frame.assign(outcome=frame["outcome"].fillna(1.0)))
    challenger.loops().ci()
    after = measured(challenger)
    assert (before.coverage < 1, after.coverage) == (True, 1)


def test_the_interval_follows_the_time_blocks(challenger: World) -> None:
    hours = measured(challenger)
    minutes = measured(challenger, evaluation={"block": "12h", "minimum_blocks": 2})
    assert (hours.low, hours.high) != (minutes.low, minutes.high)
    assert hours.metrics == minutes.metrics
