"""Metrics of binary scores with weights on rows, and the paired bootstrap over blocks of time.

Rows that are near in time are alike, so resampling single rows understates how uncertain a comparison is; blocks (a day,
say) are drawn with replacement instead, the same blocks for both models (Kuensch 1989; Efron and Tibshirani 1993, ch. 8).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Weighted = Callable[[Array], float]
_EDGE = 1e-15
LARGER_IS_BETTER = {"auc": True, "log_loss": False, "brier": False}


def auc(labels: Array, scores: Array, weights: Array) -> float:
    """Area under the ROC curve; ties count half. NaN if one class has no weight."""
    return Auc(labels, scores)(weights)


class Auc:
    """AUC of the same rows under changing weights: the rows are sorted once.

    :param labels: 0 or 1, float [n]; `scores` float [n].
    """

    def __init__(self, labels: Array, scores: Array) -> None:
        values, self._group = np.unique(scores, return_inverse=True)
        self._groups, self._labels = len(values), labels

    def __call__(self, weights: Array) -> float:
        positive = np.bincount(self._group, weights * self._labels, self._groups)
        negative = np.bincount(self._group, weights * (1 - self._labels), self._groups)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


class Mean:
    """A metric that is a weighted mean of a loss per row."""

    def __init__(self, losses: Array) -> None:
        self._losses = losses

    def __call__(self, weights: Array) -> float:
        return float(np.average(self._losses, weights=weights))


def metric(name: str, labels: Array, scores: Array) -> Weighted:
    """The metric as a function of row weights."""
    if name == "auc":
        return Auc(labels, scores)
    if name == "brier":
        return Mean((scores - labels) ** 2)
    if name == "log_loss":
        clipped = np.clip(scores, _EDGE, 1 - _EDGE)
        return Mean(-(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped)))
    raise ValueError(f"unknown metric {name!r}")


def measure(names: Iterable[str], labels: Array, scores: Array) -> dict[str, float]:
    """The named metrics, every row counting once."""
    weights = np.ones(len(labels))
    return {name: metric(name, labels, scores)(weights) for name in names}


def time_blocks(times: Any, width: dt.timedelta) -> Array:
    """Block number of each row, 0 to n-1 without gaps.

    :param times: event times, a pandas Series of timestamps [n].
    """
    return np.unique(times.dt.floor(width).to_numpy(), return_inverse=True)[1]


def resampled(functions: list[Weighted], blocks: Array, *, resamples: int, seed: int) -> np.ndarray[Any, Any]:
    """Values of metrics under resampled blocks.

    :param functions: metrics of the same rows as functions of row weights; paired, as all get the same draw.
    :param blocks: block number of each row, int [n].
    :returns: float [resamples, functions].
    """
    rng = np.random.default_rng(seed)
    count = int(blocks.max()) + 1
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.array([[function(draw[blocks].astype(float)) for function in functions] for draw in draws])


def bounds(values: Array, confidence: float) -> tuple[float, float]:
    """The two-sided percentile interval."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def sign(name: str) -> int:
    """1 for a metric that should be large, -1 for one that should be small."""
    return 1 if LARGER_IS_BETTER[name] else -1


def holm(values: Array, level: float) -> Array:
    """Which hypotheses are rejected at a family-wise level (Holm 1979).

    :param values: p-values, float [n].
    :returns: bool [n].
    """
    order = np.argsort(values, kind="stable")
    held = ~(np.asarray(values)[order] <= level / np.arange(len(values), 0, -1))
    rejected = np.zeros(len(values), bool)
    rejected[order[: int(np.argmax(held)) if held.any() else len(values)]] = True
    return rejected


def exceeds(value: float, limit: float, error: float) -> float:
    """One-sided p-value that a quantity lies above a limit, for an estimate that is normal about it.

    Resampling alone could not give p-values as small as a correction for many slices asks for.

    :param error: standard error; with none, the estimate is the quantity.
    """
    if not error:
        return 0.0 if value > limit else 1.0
    return math.erfc((value - limit) / error / math.sqrt(2)) / 2
