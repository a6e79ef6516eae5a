"""Quality of the predictions made, once the labels are there."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.partitions import parse_duration
from mlops_provider.steps import tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import GROUP, LABEL
from mlops_provider.steps.records import FeatureVersion, Measured, Predictions
from mlops_provider.steps.release.gate import bounded
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.objectives import Objective, objective, targets


class QualityArguments(Frozen):
    """The scored partition, and the accepted data with its labels."""

    predictions: Predictions
    data: FeatureVersion


@step("quality", arguments=QualityArguments, result=Measured, sections=("data", "evaluation", "monitoring"))
def quality(job: Job, arguments: QualityArguments) -> Measured:
    """The metrics of the scores as they were given, on the rows that have a label by now; how many have one is checked too."""
    found, settings = arguments.predictions, job.config.evaluation
    frame = _joined(job, arguments)
    known = frame[frame[LABEL].notna()]
    coverage = len(known) / found.rows
    kind = objective(job.config)
    problem = _other(kind, known) or kind.problem(targets(job.config, known))
    values, low, high = {}, None, None
    if not problem:
        labels, scores = targets(job.config, known), _scores(kind, known)
        values = metrics.measure(settings.metrics, labels, scores)
        low, high = _interval(job, known, labels, scores)
    limits = job.config.monitoring.quality
    checks = [bounded(name, limit, values.get(name)) for name, limit in limits.thresholds.items()]
    if problem:
        checks.append(could_not_run("labels", f"{len(known)} labelled rows: {problem}"))
    checks.append(
        Check(name="label_coverage", passed=coverage >= limits.coverage, value=coverage, threshold=limits.coverage)
    )
    return Measured(
        partition=found.partition,
        version=found.version,
        metrics=values,
        low=low,
        high=high,
        coverage=coverage,
        verdict=Verdict(subject=f"{job.config.name} {found.partition} quality", checks=tuple(checks)),
    )


def _joined(job: Job, arguments: QualityArguments) -> Any:
    """Predictions with their labels, by key; a prediction without a label stays."""
    data = job.config.data
    scores = tables.read(job.storage, arguments.predictions.table).to_pandas()
    labels = snapshot.read(job, arguments.data, [data.key, LABEL]).to_pandas()
    kept = [name for name in (data.key, data.event_time, GROUP, "score", "scores") if name in scores]
    return scores[kept].merge(labels, on=data.key, how="left", validate="one_to_one")


def _other(kind: Objective, known: Any) -> str:
    """Why these predictions cannot be measured as the model is now; empty if they can."""
    columns = len(known["scores"].iloc[0]) if "scores" in known and len(known) else 0
    if not len(known) or columns == len(kind.classes):
        return ""
    return "the predictions were made by a version with another objective, or other classes"


def _scores(kind: Objective, known: Any) -> Any:
    """The scores as metrics take them, float [n] or [n, classes]."""
    return np.stack(known["scores"].to_numpy()) if kind.classes else known["score"].to_numpy()


def _interval(job: Job, known: Any, labels: Any, scores: Any) -> tuple[float, float]:
    """Interval of the primary metric under resampled time blocks."""
    settings = job.config.evaluation
    blocks = metrics.time_blocks(known[job.config.data.event_time], parse_duration(settings.block))
    function = metrics.metric(settings.metric, labels, scores)
    seed = job.config.training.seed
    values = metrics.resampled([function], blocks, resamples=settings.resamples, seed=seed)
    return metrics.bounds(values[:, 0], settings.confidence)
