"""The two simple models that a candidate must be worth more than: one that knows the labels alone, and a linear one.

A simple model costs less to train, to run and to explain: a candidate that is not better than it is not worth its price
(Breck et al. 2017, test Model 5).
"""

from __future__ import annotations

import numpy as np

from mlops_provider.checks import Check
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import GROUP, LABEL
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Package, Split
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.comparison import Array, Holdout, compare, thinned
from mlops_provider.steps.training.findings import Baseline
from mlops_provider.steps.training.objectives import targets

_STEPS, _CLOSE = 50, 1e-8


class Linear:
    """What linear models take for features, and a ridge regression of them on numbers (Hoerl and Kennard 1970).

    Features are cut off at their 1st and 99th percentile and scaled; a missing or infinite value counts as the mean, and a
    feature with such values has a column that says so. Its categories are numbers to it, as simple models take them.

    :param features: float64 [n, features], NaN is missing; `labels` float [n].
    """

    def __init__(self, features: Array, labels: Array, *, penalty: float = 1.0) -> None:
        known = np.where(np.isfinite(features), features, np.nan)
        self._indicated = np.isnan(known).any(axis=0)
        known[:, np.isnan(known).all(axis=0)] = 0.0
        self._low, self._high = np.nanquantile(known, [0.01, 0.99], axis=0)
        cut = np.clip(known, self._low, self._high)
        self._mean, spread = np.nanmean(cut, axis=0), np.nanstd(cut, axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._weights = self._fitted(self._design(features), labels, penalty)

    def score(self, features: Array) -> Array:
        """Scores, float [n]."""
        return np.asarray(self._design(features) @ self._weights)

    def _fitted(self, design: Array, labels: Array, penalty: float) -> Array:
        return np.linalg.solve(design.T @ design + _ridge(design, penalty), design.T @ labels)

    def _design(self, features: Array) -> Array:
        known = np.where(np.isfinite(features), features, np.nan)
        scaled = (np.clip(known, self._low, self._high) - self._mean) / self._spread
        missing = np.isnan(known[:, self._indicated]).astype(float)
        return np.column_stack([np.ones(len(features)), np.nan_to_num(scaled, nan=0.0), missing])


class Logistic(Linear):
    """A logistic regression with a ridge penalty, fitted by Newton's method (iteratively reweighted least squares).

    :param labels: 0 or 1, float [n], both classes.
    """

    def score(self, features: Array) -> Array:
        """Probabilities, float [n]."""
        return _logistic(super().score(features))

    def _fitted(self, design: Array, labels: Array, penalty: float) -> Array:
        return _newton(design, labels, penalty)


class OneVersusRest:
    """A logistic regression for each class against all others, their scores scaled to add up to 1 (Rifkin and Klautau 2004).

    :param labels: numbers of classes [n]; a class without a row, or with all of them, keeps its share.
    """

    def __init__(self, features: Array, labels: Array, classes: int) -> None:
        outcomes = [(labels == place).astype(float) for place in range(classes)]
        self._each = [Logistic(features, one) if 0 < one.mean() < 1 else one.mean() for one in outcomes]

    def score(self, features: Array) -> Array:
        """Probabilities, float [n, classes]."""
        columns = [
            one.score(features) if isinstance(one, Logistic) else np.full(len(features), one) for one in self._each
        ]
        scores = np.column_stack(columns)
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def _ridge(design: Array, penalty: float) -> Array:
    return np.diag([1e-9, *np.full(design.shape[1] - 1, penalty)])


def _newton(design: Array, labels: Array, penalty: float) -> Array:
    ridge = _ridge(design, penalty)
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chances = _logistic(design @ weights)
        slope = design.T @ (labels - chances) - ridge @ weights
        curvature = (design * (chances * (1 - chances))[:, None]).T @ design + ridge
        move = np.linalg.solve(curvature, slope)
        weights = weights + move
        if np.abs(move).max() < _CLOSE:
            break
    return weights


def _logistic(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))


def baselines(holdout: Holdout, package: Package, features: Array, scores: Array) -> tuple[Baseline, ...]:
    """Both simple models, fitted on what the candidate was fitted on, on the same holdout rows.

    :param features: as the package takes them, float64 [n, features]; `scores` of the candidate, float [n].
    """
    given, labels = fitted_rows(holdout.job, holdout.split, package)
    rivals = _rivals(holdout, given, labels, features)
    return tuple(_measured(holdout, name, scores, rival) for name, rival in rivals.items())


def _rivals(holdout: Holdout, given: Array, labels: Array, features: Array) -> dict[str, Array]:
    """Scores of the holdout's rows by simple models of this kind, by their names."""
    rows = len(features)
    match holdout.job.config.training.objective:
        case "binary":
            return {"prevalence": np.full(rows, labels.mean()), "logistic": Logistic(given, labels).score(features)}
        case "multiclass":
            classes = len(holdout.objective.classes)
            shares = np.bincount(labels.astype(int), minlength=classes) / len(labels)
            return {
                "prevalence": np.tile(shares, (rows, 1)),
                "logistic": OneVersusRest(given, labels, classes).score(features),
            }
        case "regression":
            return {"mean": np.full(rows, labels.mean()), "ridge": Linear(given, labels).score(features)}
        case "lambdarank":  # equal scores share their places: the order is left to chance
            return {"chance": np.zeros(rows), "ridge": Linear(given, labels[:, 0]).score(features)}


def _measured(holdout: Holdout, name: str, scores: Array, rival: Array) -> Baseline:
    job = holdout.job
    return Baseline(
        name=name,
        metrics=metrics.measure(job.config.evaluation.metrics, holdout.labels, rival),
        gain=compare(job, holdout.labels, scores, rival, holdout.blocks),
    )


def fitted_rows(job: Job, split: Split, package: Package) -> tuple[Array, Array]:
    """Features and labels of rows that the candidate was fitted on, equally many from each partition, and no more than asked."""
    import pandas as pd

    data, share = job.config.data, job.config.evaluation.baselines.rows // len(split.fit)
    names, parts = list(package.features), []
    for version in split.fit:
        group = [GROUP] if data.group else []
        rows = snapshot.read(job, version, [data.event_time, LABEL, *group, *names]).to_pandas()
        late = rows[data.event_time] + parse_duration(data.label.delay) > pd.Timestamp(split.cutoff)
        rows = rows[rows[LABEL].notna() & ~late]
        parts.append(rows.iloc[thinned(len(rows), max(share, 1))])
    frame = pd.concat(parts, ignore_index=True)
    given = applied(job, package.fitted, frame[names]).to_numpy()
    return np.asarray(given, np.float64), targets(job.config, frame)


def baseline_checks(job: Job, found: tuple[Baseline, ...]) -> list[Check]:
    """That the candidate is proved better than each."""
    return [_check(job, baseline) for baseline in found]


def _check(job: Job, baseline: Baseline) -> Check:
    gain = baseline.gain
    detail = (
        f"{metrics.change(job.config.evaluation.metric, gain)} against it: {gain.confidence:.0%} interval over "
        f"{gain.blocks} time blocks"
    )
    return Check(
        name="simpler_model_is_not_better",
        passed=gain.low > 0,
        value=gain.low,
        threshold="lower bound above 0",
        severity=job.config.evaluation.baselines.severity,
        subject=baseline.name,
        detail=detail,
    )
