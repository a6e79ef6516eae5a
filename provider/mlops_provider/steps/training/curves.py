"""What people draw of labels and scores: curves, confusions, residuals, and how groups of a ranking fare."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.comparison import Array, thinned
from mlops_provider.steps.training.findings import Curves
from mlops_provider.steps.training.objectives import Objective

_POINTS = 200
_RESIDUALS = 600


def drawn(kind: Objective, labels: Array, scores: Array) -> dict[str, Any]:
    """What is drawn of this kind of prediction, by its name among the findings."""
    if kind.classes:
        return {"confusion": confusion(labels, scores)}
    if labels.ndim == 2:
        values, _ = metrics.by_group(metrics.ndcg, labels, scores)
        known = values[np.isfinite(values)]
        return {"group_quality": tuple(float(value) for value in np.quantile(known, np.linspace(0, 1, 11)))}
    if kind.cut is None:
        return {"residuals": residuals(labels, scores)}
    return {"curves": curves(labels, scores)}


def confusion(labels: Array, scores: Array) -> tuple[tuple[int, ...], ...]:
    """How many rows of each class were scored likeliest to be of which."""
    classes = scores.shape[1]
    counted = np.bincount(labels.astype(int) * classes + scores.argmax(axis=1), minlength=classes**2)
    return tuple(tuple(int(count) for count in row) for row in counted.reshape(classes, classes))


def residuals(labels: Array, scores: Array) -> tuple[tuple[float, float], ...]:
    """Score, and label minus score, of rows spread evenly over the scores, so that the largest and the smallest are there."""
    order = np.argsort(scores, kind="stable")[thinned(len(scores), _RESIDUALS)]
    return tuple(zip(scores[order].tolist(), (labels - scores)[order].tolist(), strict=True))


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
