"""Whether scores are the chances, or the numbers, that they say."""

from __future__ import annotations

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.steps.training.comparison import Array
from mlops_provider.steps.training.findings import Calibrated, CalibrationBin


def calibration(labels: Array, scores: Array, bins: int) -> Calibrated:
    """Reliability of the scores over bins of equally many rows.

    The expected calibration error is the mean distance between score and share of positives (Naeini et al. 2015), the parts of
    the Brier score are Murphy's (1973); as the scores of a bin differ, they leave a rest. Of several classes each one is held
    against all others, all of them together (classwise, Kull et al. 2019); of a regression the mean label takes the place
    of the share. Scores of a ranking say nothing that could be right.

    :param labels: 0 or 1, numbers of classes, or values, float [n]; `scores` float [n] or [n, classes].
    """
    if scores.ndim == 2:
        labels, scores = np.eye(scores.shape[1])[labels.astype(int)].ravel(), scores.ravel()
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    table = [(len(part), float(scores[part].mean()), float(labels[part].mean())) for part in parts]
    rows, means, observed = (np.array(column, float) for column in zip(*table, strict=True))
    share, rate, uncertainty = rows / rows.sum(), float(labels.mean()), float(labels.var())
    reliability = float((share * (means - observed) ** 2).sum())
    resolution = float((share * (observed - rate) ** 2).sum())
    squared = float(((scores - labels) ** 2).mean())
    return Calibrated(
        bins=tuple(CalibrationBin(rows=count, score=mean, observed=seen) for count, mean, seen in table),
        error=float((share * np.abs(means - observed)).sum()),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within=squared - (reliability - resolution + uncertainty),
    )


def calibration_checks(found: Calibrated | None, limit: float | None) -> list[Check]:
    """The limit of the calibration error, if there is one."""
    if limit is None:
        return []
    if found is None:
        return [
            could_not_run("calibration", "scores of a ranking only order: there is nothing that they could say rightly")
        ]
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
