"""Quality of the predictions made, once labels are there."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mlops_provider.steps.monitoring import decide
from mlops_provider.steps.records import FeatureVersion, Measured
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.training.findings import QualityFindings
from tests.support.tiny import DAYS, World, call, feed, outcome

DAY = DAYS[3]


def measured(world: World, day: str = DAY, *, as_of: dt.datetime | None = None, **configuration: Any) -> Measured:
    job = world.configure(**configuration)
    record = next(r for r in reversed(world.records("data")) if r.partition == day)
    data = FeatureVersion.model_validate(record.facts["data"])
    found: Measured = call(job, "quality", predictions=manifest(job, DAY), data=data, as_of=as_of)
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


NOON = dt.datetime.fromisoformat(f"{DAY}T12:00:00+00:00")


def test_labels_that_are_not_due_yet_are_left_alone_though_they_are_there(challenger: World) -> None:
    whole, half = measured(challenger), measured(challenger, as_of=NOON)
    frame = told(challenger)
    due = frame[frame["at"] + pd.Timedelta("1h") <= NOON]
    assert (whole.due, whole.rows) == (feed.ROWS, feed.ROWS)
    assert half.metrics["auc"] == pytest.approx(roc_auc_score(due["outcome"] > 0, due["score"]))
    assert half.due is not None
    assert len(due) <= half.due < feed.ROWS
    assert half.coverage == pytest.approx(len(due) / half.due)


def test_before_any_label_is_due_nothing_is_judged(challenger: World) -> None:
    found = measured(challenger, as_of=NOON - dt.timedelta(days=1))
    assert (found.due, found.metrics, found.verdict.outcome) == (0, {}, "error")
    assert f"none of the {feed.ROWS} labels is due" in found.verdict.reason()


def test_what_was_measured_while_labels_were_to_come_is_measured_anew(challenger: World) -> None:
    job = challenger.job()
    data = FeatureVersion.model_validate(challenger.records("data")[-1].facts["data"])
    asked = {"predictions": manifest(job, DAY), "data": data}
    assert not any(outcome(job, "quality", **asked, as_of=NOON).reused for _ in range(2))
    assert [outcome(job, "quality", **asked).reused for _ in range(2)][1]


SITES = {
    "evaluation": {"slices": {"site": {"column": "site"}, "sign": {"column": "a", "bins": [0.0]}}, "minimum_rows": 100}
}


def test_named_slices_are_measured_each_by_itself(challenger: World) -> None:
    found = measured(challenger, **SITES)
    assert found.findings is not None
    slices = QualityFindings.model_validate_json(challenger.job().storage.fetch(found.findings)).slices
    frame = told(challenger).merge(feed.inputs(DAY)[["id", "site", "a"]], on="id")
    expected = {("site", str(value)): part for value, part in frame.groupby("site")}
    expected |= {("sign", name): frame[(frame["a"] < 0) == (name == "below 0")] for name in ("below 0", "from 0")}
    assert {(one.slices, one.value) for one in slices} == set(expected)
    for one in slices:
        part = expected[one.slices, one.value]
        assert one.rows == len(part)
        assert one.metrics["auc"] == pytest.approx(roc_auc_score(part["outcome"] > 0, part["score"]))
        assert one.errors["auc"] > 0


def slice_limit(minimum: float, severity: str = "fail") -> dict[str, Any]:
    limit = {"thresholds": {"auc": {"min": minimum}}, "severity": severity}
    return {**SITES, "monitoring": {"quality": {"slices": {"site": limit}}}}


@pytest.mark.parametrize(
    ("minimum", "severity", "state"), [(0.99, "fail", "fail"), (0.99, "warn", "warn"), (0.6, "fail", None)]
)
def test_a_slice_that_is_proved_to_miss_its_limit_is_told(
    challenger: World, minimum: float, severity: str, state: str | None
) -> None:
    found = measured(challenger, **slice_limit(minimum, severity))
    told = {(check.subject, check.state) for check in found.verdict.checks if check.name == "slice_auc"}
    assert told == ({(f"site {site}", state) for site in feed.SITES} if state else set())
    assert {check.subject for check in found.verdict.checks if check.name == "slices"} == {"site"}


def test_a_slice_that_misses_its_limit_is_no_loss_of_quality_of_the_whole(challenger: World) -> None:
    """A decision to retrain goes by the metrics of all rows."""
    found = measured(challenger, **slice_limit(0.99))
    assert not decide._measured(challenger.job(), found).missed


def test_calibration_is_measured_and_its_limit_warns(challenger: World) -> None:
    found = measured(challenger, evaluation={"calibration": {"max_error": 0.0001}})
    frame = told(challenger).sort_values("score", kind="stable")
    parts = np.array_split(np.arange(len(frame)), 10)
    labels, scores = (frame["outcome"] > 0).to_numpy(float), frame["score"].to_numpy()
    error = sum(abs(labels[part].mean() - scores[part].mean()) * len(part) for part in parts) / len(frame)
    assert found.calibration == pytest.approx(error)
    assert [(c.name, c.state) for c in found.verdict.checks if not c.passed] == [("calibration", "warn")]
