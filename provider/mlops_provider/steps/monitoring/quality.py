"""Quality of the predictions made, once the labels are there."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.partitions import parse_duration
from mlops_provider.steps import tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import GROUP, LABEL
from mlops_provider.steps.data.rows import labels as given_labels
from mlops_provider.steps.records import FeatureVersion, Measured, Predictions
from mlops_provider.steps.release.gate import bounded
from mlops_provider.steps.release.group_checks import slice_checks
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.calibration import calibration, calibration_checks
from mlops_provider.steps.training.findings import QualityFindings
from mlops_provider.steps.training.objectives import Objective, objective, targets
from mlops_provider.steps.training.slices import named
from mlops_provider.storage import Artifact, digest


class QualityArguments(Frozen):
    """The scored partition, and the accepted data with its labels.

    :param as_of: the moment that is asked about; now if None. A label that is due later is not looked at.
    :param labels: file with the labels that count, in place of those that were accepted with the data: what was posted up to a
        moment, say (`steps.data.label_log.as_delivered`).
    """

    predictions: Predictions
    data: FeatureVersion
    as_of: dt.datetime | None = None
    labels: Artifact | None = None


@dataclass(frozen=True)
class Known:
    """Predictions whose labels are due and there.

    :ivar rows: DataFrame [n] of key, event time, score (of classes: scores) and label.
    """

    job: Job
    arguments: QualityArguments
    rows: Any

    @property
    def kind(self) -> Objective:
        return objective(self.job.config)

    @cached_property
    def labels(self) -> metrics.Array:
        """As metrics take them, float [n] or [n, 2]."""
        return targets(self.job.config, self.rows)

    @cached_property
    def scores(self) -> metrics.Array:
        """As they were given, float [n] or [n, classes]."""
        return np.stack(self.rows["scores"].to_numpy()) if self.kind.classes else self.rows["score"].to_numpy()

    @cached_property
    def blocks(self) -> metrics.Array:
        """Number of the time block of each row, int [n]."""
        times, settings = self.rows[self.job.config.data.event_time], self.job.config.evaluation
        return metrics.time_blocks(times, parse_duration(settings.block))

    @property
    def problem(self) -> str:
        """Why these rows tell nothing; empty if they do."""
        return _other_meaning(self.job, self.arguments.predictions) or self.kind.problem(self.labels)

    def columns(self, names: set[str]) -> Any:
        """Columns of these rows: features from the accepted table, others from the inputs that were scored."""
        key, data = self.job.config.data.key, self.arguments.data
        features = sorted(names & set(self.job.config.features.columns))
        found = snapshot.read(self.job, data, [key, *features]).to_pandas().set_index(key)
        if further := sorted(names - set(features)):
            inputs = tables.frame(self.job.storage, self.arguments.predictions.inputs, [key, *further])
            found = found.join(inputs.set_index(key))
        return found.loc[self.rows[key]].reset_index(drop=True)


def _other_meaning(job: Job, found: Predictions) -> str:
    """Why labels as model.yaml has them now say nothing about these predictions; empty if they do."""
    ours, theirs = job.config, job.with_code(found.code).config
    if theirs.training.objective != ours.training.objective:
        return f"the predictions are those of the objective {theirs.training.objective}"
    if theirs.data.label.classes != ours.data.label.classes:
        return f"the predictions are of other classes, or in another order: {', '.join(map(str, theirs.data.label.classes))}"
    return ""


def _final(measured: Measured) -> bool:
    """Whether the same question will have the same answer later: not while labels are still to come due."""
    return measured.due == measured.rows


@step(
    "quality", arguments=QualityArguments, result=Measured, sections=("data", "evaluation", "monitoring"), keep=_final
)
def quality(job: Job, arguments: QualityArguments) -> Measured:
    """The metrics of the scores as they were given, on the rows whose labels are due by now and there; how many of those that
    are due are there is checked too. Slices that model.yaml names are measured by themselves, and so is calibration.

    A label that came before it was due is left alone until then: those that come early are not like the others.
    """
    found = arguments.predictions
    due = _due(job, arguments)
    known = Known(job, arguments, due[due[LABEL].notna()])
    coverage = len(known.rows) / len(due) if len(due) else 0.0
    measured: dict[str, Any] = {"metrics": {}, "low": None, "high": None}
    problem = known.problem
    checks = [could_not_run("labels", _told(job, found, due, known, problem))] if problem else []
    if not problem:
        further, measured = _measured(known)
        checks += further
    limits = job.config.monitoring.quality
    bounds = [bounded(name, limit, measured["metrics"].get(name)) for name, limit in limits.thresholds.items()]
    covered = Check(
        name="label_coverage", passed=coverage >= limits.coverage, value=coverage, threshold=limits.coverage
    )
    verdict = Verdict(subject=f"{job.config.name} {found.partition} quality", checks=(*bounds, *checks, covered))
    return Measured(
        partition=found.partition,
        version=found.version,
        rows=found.rows,
        due=len(due),
        coverage=coverage,
        verdict=verdict,
        **measured,
    )


def _due(job: Job, arguments: QualityArguments) -> Any:
    """Predictions with their labels, by key, as far as labels are due; a prediction without a label stays."""
    data, now = job.config.data, arguments.as_of or dt.datetime.now(dt.UTC)
    scores = tables.read(job.storage, arguments.predictions.table).to_pandas()
    kept = [name for name in (data.key, data.event_time, GROUP, "score", "scores") if name in scores]
    if arguments.labels:
        joined = scores[kept].assign(**{LABEL: given_labels(job, arguments.labels, scores[data.key])})
    else:
        labels = snapshot.read(job, arguments.data, [data.key, LABEL]).to_pandas()
        joined = scores[kept].merge(labels, on=data.key, how="left", validate="one_to_one")
    return joined[joined[data.event_time] + parse_duration(data.label.delay) <= now]


def _told(job: Job, found: Predictions, due: Any, known: Known, problem: str) -> str:
    if not len(due):
        return f"none of the {found.rows} labels is due: they are, {job.config.data.label.delay} after the event"
    return f"{len(known.rows)} labelled rows: {problem}"


def _measured(known: Known) -> tuple[list[Check], dict[str, Any]]:
    """Checks beside those of the metrics, and what was measured."""
    config = known.job.config
    settings, limits = config.evaluation, config.monitoring.quality
    slices, checks = named(known, known.scores, None)
    checks += slice_checks(config, limits.slices, slices)
    # Scores of a ranking only order.
    calibrated = calibration(known.labels, known.scores, settings.calibration.bins) if known.labels.ndim == 1 else None
    if calibrated:
        checks += calibration_checks(calibrated, settings.calibration.max_error)
    low, high = _interval(known)
    return checks, {
        "metrics": metrics.measure(settings.metrics, known.labels, known.scores),
        "low": low,
        "high": high,
        "calibration": calibrated.error if calibrated else None,
        "findings": _kept(known.job, QualityFindings(slices=slices, calibration=calibrated)),
    }


def _kept(job: Job, findings: QualityFindings) -> Artifact:
    value = findings.model_dump(mode="json")
    return job.storage.write_json(job.under("evaluations", f"{digest(value)[:32]}.json"), value)


def _interval(known: Known) -> tuple[float, float]:
    """Interval of the primary metric under resampled time blocks."""
    settings = known.job.config.evaluation
    function = metrics.metric(settings.metric, known.labels, known.scores)
    seed = known.job.config.training.seed
    values = metrics.resampled([function], known.blocks, resamples=settings.resamples, seed=seed)
    return metrics.bounds(values[:, 0], settings.confidence)
