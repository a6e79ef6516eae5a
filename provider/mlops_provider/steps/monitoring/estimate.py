"""Quality before the labels arrive, estimated from how sure the model is: confidence-based performance estimation.

Scores are turned into chances on labelled rows that the version was not trained on (logistic calibration, Platt 1999); under
these chances each row is positive in part and negative in part, and the metrics follow (CBPE, see Bialek et al. 2024, arXiv
2401.08348).

**What it assumes**: that what is alike still comes out alike (no concept drift). It sees other inputs and the model's doubt
about them, and nothing else. So it never stands alone: matured labels check it, and one that was wrong twice says so itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps import tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import LABEL
from mlops_provider.steps.monitoring.records import Estimate, Estimated, EstimateWork
from mlops_provider.steps.release.gate import bounded
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.comparison import Holdout, scorer
from mlops_provider.steps.training.split import load_split

Array = metrics.Array
ASSUMES = "no concept drift: what is alike still comes out alike"
_EDGE = 1e-6
_DRAWS = 200
_FEW = 8


class EstimateArguments(Frozen):
    """The scored partition, and what its estimate is made from."""

    work: EstimateWork


@step("estimate", arguments=EstimateArguments, result=Estimated, sections=("data", "evaluation", "monitoring"))
def estimate(job: Job, arguments: EstimateArguments) -> Estimated:
    """The metrics that the predictions of a partition will have, as far as the scores can tell, with an interval for the primary.

    :raises DataError: if the objective is not binary.
    """
    work, found = arguments.work, arguments.work.predictions
    if job.config.training.objective != "binary":
        raise DataError(
            f"{job.config.name}: quality is estimated for a binary objective alone: only its scores are chances"
        )
    basis = known_rows(job, work)
    labels = basis[0]
    if problem := _problem(labels):
        values = {}
        checks = [could_not_run("estimate", f"{len(labels)} labelled rows outside of training: {problem}")]
    else:
        values = _values(job, work, basis)
        checks = _limits(job, values)
    return Estimated(
        partition=found.partition,
        version=found.version,
        metrics=values,
        calibrated_on=(work.split.holdout, *(one.predictions.partition for one in work.basis)),
        rows=len(labels),
        assumes=ASSUMES,
        trusted=work.trusted,
        verdict=Verdict(
            subject=f"{job.config.name} {found.partition} estimated quality", checks=(*checks, _trust(work))
        ),
    )


def _values(job: Job, work: EstimateWork, basis: tuple[Array, Array, Array]) -> dict[str, Estimate]:
    """The estimated metrics of the fresh predictions."""
    settings, (labels, scores, days) = job.config.evaluation, basis
    given = tables.read(job.storage, work.predictions.table, [job.config.data.event_time, "score"]).to_pandas()
    fresh, chances = given["score"].to_numpy(), calibrated(labels, scores)
    blocks = metrics.time_blocks(given[job.config.data.event_time], parse_duration(settings.block))
    count, seed = int(blocks.max()) + 1, job.config.training.seed
    errors = missed(settings.metric, labels, scores, chances(scores), days, count=count, seed=seed)
    values = {str(name): Estimate(value=expected(name, fresh, chances(fresh))) for name in settings.metrics}
    primary = _bounded(values[settings.metric].value, errors, settings.confidence, work.misses)
    return {**values, settings.metric: primary}


def known_rows(job: Job, work: EstimateWork) -> tuple[Array, Array, Array]:
    """Labels, scores and time blocks of the labelled rows outside of the version's training, float [n] and int [n]."""
    package, data = work.package, job.config.data
    own = job.with_code(package.code)
    holdout = Holdout.of(own, load_split(own, work.split))
    parts = [(holdout.labels, scorer(own, package).score(holdout.features(package)), holdout.blocks)]
    width = parse_duration(job.config.evaluation.block)
    for one in work.basis:
        told = snapshot.read(job, one.data, [data.key, LABEL]).to_pandas()
        made = tables.read(job.storage, one.predictions.table, [data.key, data.event_time, "score"]).to_pandas()
        rows = made.merge(told, on=data.key, validate="one_to_one").dropna(subset=LABEL)
        parts.append((
            rows[LABEL].to_numpy(),
            rows["score"].to_numpy(),
            metrics.time_blocks(rows[data.event_time], width),
        ))
    first = np.cumsum([0, *(len(np.unique(days)) for _, _, days in parts)])
    labels, scores, days = (np.concatenate([part[place] for part in parts]) for place in range(3))
    return labels, scores, days + np.repeat(first[:-1], [len(part[2]) for part in parts])


def calibrated(labels: Array, scores: Array) -> Callable[[Array], Array]:
    """What turns scores into chances, both float [n]: a logistic regression on the log-odds of the scores."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6).fit(_odds(scores), labels)
    return lambda values: np.asarray(model.predict_proba(_odds(values))[:, 1])


def _odds(scores: Array) -> Array:
    held = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(held / (1 - held)))[:, None]


def expected(name: str, scores: Array, chances: Array) -> float:
    """The metric that is to be expected if rows are positive with these chances, float [n]: each row counts as both."""
    return _both(name, scores)(np.concatenate([chances, 1 - chances]))


def _both(name: str, scores: Array) -> metrics.Weighted:
    """The metric of every row taken twice, as a positive and as a negative one; weights [2 n]."""
    labels = np.repeat([1.0, 0.0], len(scores))
    return metrics.metric(name, labels, np.concatenate([scores, scores]))


def missed(name: str, labels: Array, scores: Array, chances: Array, days: Array, *, count: int, seed: int) -> Array:
    """How far the metric lies from its estimate in partitions of so many time blocks, drawn from those that are known.

    Rows of a block share what the scores do not know of, weather say, so that blocks are drawn and not rows.

    :param days: number of the time block of each row, int [n].
    :param count: time blocks of the partition that is estimated.
    :returns: differences, metric minus estimate, float [draws].
    """
    rng, blocks = np.random.default_rng(seed), int(days.max()) + 1
    real, told = metrics.metric(name, labels, scores), _both(name, scores)
    found = []
    for draw in rng.multinomial(count, np.full(blocks, 1 / blocks), size=_DRAWS):
        weights = draw[days].astype(float)
        found.append(real(weights) - told(np.concatenate([weights * chances, weights * (1 - chances)])))
    return np.array(found)


def _bounded(value: float, errors: Array, confidence: float, misses: tuple[float, ...]) -> Estimate:
    """The estimate with its interval, widened by how far earlier estimates lay off (as split conformal prediction does)."""
    low, high = metrics.bounds(errors, confidence)
    centre, half = value + (low + high) / 2, (high - low) / 2
    if len(misses) >= _FEW:
        share = min(1.0, confidence * (1 + 1 / len(misses)))
        half *= max(1.0, float(np.quantile(misses, share)))
    return Estimate(value=value, low=centre - half, high=centre + half)


def _problem(labels: Array) -> str:
    if len(labels) and 0 < labels.mean() < 1:
        return ""
    return "scores cannot be calibrated on them, both outcomes are needed"


def _limits(job: Job, values: dict[str, Estimate]) -> list[Check]:
    """The limits of the quality, on what is estimated: they warn, as nothing was measured."""
    limits = job.config.monitoring.quality.thresholds
    found = [bounded(name, limit, values[name].value) for name, limit in limits.items()]
    return [check.model_copy(update={"name": f"estimated_{check.name}", "severity": "warn"}) for check in found]


def _trust(work: EstimateWork) -> Check:
    told = f"labels contradicted {work.contradicted} of this version's last two estimates that they could judge"
    return Check(name="trusted", passed=work.trusted, severity="warn", detail=told)
