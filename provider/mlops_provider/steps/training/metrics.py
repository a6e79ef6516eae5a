"""Metrics of scores with weights on rows, and the paired bootstrap over blocks of time.

Rows that are near in time are alike, so resampling single rows understates how uncertain a comparison is; blocks (a day,
say) are drawn with replacement instead, the same blocks for both models (Kuensch 1989; Efron and Tibshirani 1993, ch. 8).

Labels and scores are arrays of n rows. Of a multiclass objective, scores have a column for each class and labels are the
numbers of the columns; of a ranking, labels have two columns: relevance, and the number of the row's group.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlops_provider.sections.objectives import larger_is_better
from mlops_provider.steps.records import Interval

Array = np.ndarray[Any, Any]
Weighted = Callable[[Array], float]
_EDGE = 1e-15


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


class MacroAuc:
    """Mean AUC of each class against all others, over the classes that have weight on both sides (Fawcett 2006, sect. 9).

    :param labels: numbers of classes [n]; `scores` float [n, classes].
    """

    def __init__(self, labels: Array, scores: Array) -> None:
        self._each = [Auc((labels == place).astype(float), scores[:, place]) for place in range(scores.shape[1])]

    def __call__(self, weights: Array) -> float:
        found = np.array([auc(weights) for auc in self._each])
        return float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else float("nan")


class RootMean(Mean):
    """The root of a weighted mean of squares."""

    def __call__(self, weights: Array) -> float:
        return math.sqrt(super().__call__(weights))


class Explained:
    """R²: the share of the labels' variance that is not left in the errors. NaN if the labels do not vary."""

    def __init__(self, labels: Array, scores: Array) -> None:
        self._labels, self._left = labels, (labels - scores) ** 2

    def __call__(self, weights: Array) -> float:
        mean = np.average(self._labels, weights=weights)
        whole = float((weights * (self._labels - mean) ** 2).sum())
        return 1 - float((weights * self._left).sum()) / whole if whole else float("nan")


class MeanOfGroups:
    """A metric of each group of a ranking, averaged over the groups; a group counts with the mean weight of its rows.

    :param values: by group, NaN where the metric is not defined; `groups` number of the group of each row [n].
    """

    def __init__(self, values: Array, groups: Array) -> None:
        self._values, self._groups, self._defined = values, groups, np.isfinite(values)
        self._rows = np.bincount(groups, minlength=len(values))

    def __call__(self, weights: Array) -> float:
        share = np.bincount(self._groups, weights, len(self._values)) / self._rows
        share, values = share[self._defined], self._values[self._defined]
        return float(np.average(values, weights=share)) if share.sum() else float("nan")


def ndcg(relevance: Array, scores: Array, depth: int | None = None) -> float:
    """Normalized discounted cumulative gain of one group, gain 2^relevance - 1 (Burges et al. 2005).

    Rows of equal score share the discounts of their places (McSherry and Najork 2008), as any order of them is a matter of
    chance. NaN if no order is better than another.

    :param depth: places that count, from the first; all if None.
    """
    gains = np.exp2(relevance) - 1
    if (relevance == relevance[0]).all():
        return float("nan")
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    discounts[len(gains) if depth is None else depth :] = 0.0
    _, tied = np.unique(-scores, return_inverse=True)
    rows = np.bincount(tied)
    shared = np.bincount(np.sort(tied), discounts) / rows
    return float((gains * shared[tied]).sum() / (np.sort(gains)[::-1] * discounts).sum())


def average_precision(relevance: Array, scores: Array) -> float:
    """Average precision of one group, relevant is above 0; of rows of equal score what any order of them gives on average
    (McSherry and Najork 2008).

    NaN if all or none are relevant.
    """
    relevant = relevance > 0
    if relevant.all() or not relevant.any():
        return float("nan")
    _, tied = np.unique(-scores, return_inverse=True)
    rows, hits = np.bincount(tied), np.bincount(tied, relevant)
    block = np.sort(tied)
    rows_before, hits_before = (np.cumsum(count) - count for count in (rows, hits))
    place = np.arange(len(block)) - rows_before[block]
    # A relevant row at this place has, of those before it in its block, the share of the block's other relevant rows.
    others = place * (hits[block] - 1) / np.maximum(rows[block] - 1, 1)
    precision = (hits_before[block] + 1 + others) / (rows_before[block] + place + 1)
    return float((hits[block] / rows[block] * precision).sum() / hits.sum())


def by_group(function: Callable[[Array, Array], float], labels: Array, scores: Array) -> tuple[Array, Array]:
    """A metric of each group of a ranking, float [groups], and the number of the group of each row, int [n]."""
    _, groups = np.unique(labels[:, 1], return_inverse=True)
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    return np.array([function(labels[part, 0], scores[part]) for part in parts]), groups


def metric(name: str, labels: Array, scores: Array) -> Weighted:
    """The metric as a function of row weights."""
    if scores.ndim == 2:
        return _of_classes(name, labels.astype(int), scores)
    if labels.ndim == 2:
        return MeanOfGroups(*by_group(_RANKED[name], labels, scores))
    if name == "auc":
        return Auc(labels, scores)
    if name == "r2":
        return Explained(labels, scores)
    if name == "mae":
        return Mean(np.abs(scores - labels))
    if name in ("brier", "rmse"):
        squared = (scores - labels) ** 2
        return Mean(squared) if name == "brier" else RootMean(squared)
    if name == "log_loss":
        clipped = np.clip(scores, _EDGE, 1 - _EDGE)
        return Mean(-(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped)))
    raise ValueError(f"unknown metric {name!r}")


_RANKED: dict[str, Callable[[Array, Array], float]] = {
    "ndcg": ndcg,
    "ndcg_at_5": lambda relevance, scores: ndcg(relevance, scores, 5),
    "ndcg_at_10": lambda relevance, scores: ndcg(relevance, scores, 10),
    "map": average_precision,
}


def _of_classes(name: str, labels: Array, scores: Array) -> Weighted:
    if name == "auc":
        return MacroAuc(labels, scores)
    if name == "accuracy":
        return Mean((scores.argmax(axis=1) == labels).astype(float))
    if name == "brier":
        return Mean(((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(axis=1))
    if name == "log_loss":
        return Mean(-np.log(np.clip(scores[np.arange(len(labels)), labels], _EDGE, 1)))
    raise ValueError(f"unknown metric {name!r} of several classes")


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


def change(name: str, found: Interval) -> str:
    """A gain for people, as what happened to the metric: of one that should be small, a gain lets it fall."""
    low, high = (found.low, found.high) if sign(name) > 0 else (-found.high, -found.low)
    return f"{name} {sign(name) * found.gain:+.4f} [{low:+.4f}, {high:+.4f}]"


def sign(name: str) -> int:
    """1 for a metric that should be large, -1 for one that should be small."""
    return 1 if larger_is_better(name) else -1


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
