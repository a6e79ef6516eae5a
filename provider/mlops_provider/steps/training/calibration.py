"""Whether scores are probabilities, and the curves that people draw of scores."""

from __future__ import annotations

import numpy as np

from mlops_provider.checks import Check
from mlops_provider.steps.training.comparison import Array, thinned
from mlops_provider.steps.training.findings import Calibrated, CalibrationBin, Curves

_POINTS = 200


def calibration(labels: Array, scores: Array, bins: int) -> Calibrated:
    """Reliability of the scores over bins of equally many rows.

    The expected calibration error is the mean distance between score and share of positives (Naeini et al. 2015), the parts of
    the Brier score are Murphy's (1973); as the scores of a bin differ, they leave a rest.
    """
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    table = [(len(part), float(scores[part].mean()), float(labels[part].mean())) for part in parts]
    rows, means, observed = (np.array(column, float) for column in zip(*table, strict=True))
    share, rate = rows / rows.sum(), float(labels.mean())
    reliability = float((share * (means - observed) ** 2).sum())
    resolution = float((share * (observed - rate) ** 2).sum())
    uncertainty = rate * (1 - rate)
    brier = float(((scores - labels) ** 2).mean())
    return Calibrated(
        bins=tuple(CalibrationBin(rows=count, score=mean, observed=seen) for count, mean, seen in table),
        error=float((share * np.abs(means - observed)).sum()),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within=brier - (reliability - resolution + uncertainty),
    )


def calibration_checks(found: Calibrated, limit: float | None) -> list[Check]:
    """The limit of the calibration error, if there is one."""
    if limit is None:
        return []
    detail = f"expected calibration error over {len(found.bins)} bins of equally many rows"
    return [
        Check(
            name="calibration",
            passed=found.error <= limit,
            value=found.error,
            threshold=limit,
            severity="warn",
            detail=detail,
        )
    ]


def curves(labels: Array, scores: Array) -> Curves:
    """ROC and precision-recall curve, at most 200 points each; equal scores are one point."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    hits, misses = np.cumsum(labels[order])[last], np.cumsum(1 - labels[order])[last]
    recall, false = hits / hits[-1], misses / misses[-1]
    precision = hits / (hits + misses)
    kept = thinned(len(last), _POINTS)
    return Curves(
        roc=((0.0, 0.0), *_points(false[kept], recall[kept])), precision_recall=_points(recall[kept], precision[kept])
    )


def _points(across: Array, up: Array) -> tuple[tuple[float, float], ...]:
    return tuple(zip(np.round(across, 5).tolist(), np.round(up, 5).tolist(), strict=True))
