"""Slices of the holdout: those that model.yaml names, measured; and those that nobody thought of, found and confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.sections import Slices
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.comparison import Array, Holdout, Labelled, renumbered
from mlops_provider.steps.training.findings import FoundSlice, SliceResult

MISSING = "missing"
_MOST_VALUES = 50
_FEW_VALUES = 10
_TRIED = 5
_HALF = 2


def named(rows: Labelled, scores: Array, rival: Array | None) -> tuple[tuple[SliceResult, ...], list[Check]]:
    """Every slice of `evaluation.slices` measured, and an error for each name that could not be sliced.

    :param rival: scores of the champion; None if there is none.
    """
    rules = rows.job.config.evaluation.slices
    if not rules:
        return (), []
    columns = rows.columns({rule.column for rule in rules.values()})
    results: list[SliceResult] = []
    errors = []
    for name, rule in rules.items():
        try:
            found = members(rule, columns[rule.column])
        except ValueError as error:
            errors.append(could_not_run("slices", f"{rule.column}: {error}", subject=name))
            continue
        results += [_measured(rows, name, value, where, scores, rival) for value, where in found.items()]
    return tuple(results), errors


def members(rule: Slices, values: Any) -> dict[str, Array]:
    """Which rows belong to which slice.

    :param values: the column, a Series [n].
    :returns: bool [n] by name of the slice.
    :raises ValueError: if the column cannot be sliced so.
    """
    absent = values.isna().to_numpy()
    found = _intervals(rule.bins, values) if rule.bins else _values(rule.values, values)
    return {**found, **({MISSING: absent} if absent.any() else {})}


def _values(wanted: Iterable[object] | None, values: Any) -> dict[str, Array]:
    chosen = list(wanted) if wanted else sorted(values.dropna().unique().tolist(), key=lambda value: str(value))
    if len(chosen) > _MOST_VALUES:
        raise ValueError(f"has {len(chosen)} values, at most {_MOST_VALUES} make slices: give values or bins")
    return {str(value): (values == value).to_numpy(dtype=bool, na_value=False) for value in chosen}


def _intervals(edges: tuple[float, ...] | None, values: Any) -> dict[str, Array]:
    if values.dtype.kind not in "iufb":
        raise ValueError("is not numeric, bins need numbers")
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    bounds = [-np.inf, *(edges or ()), np.inf]
    return {
        _interval(low, high): (numbers >= low) & ((numbers < high) | (high == np.inf)) for low, high in pairwise(bounds)
    }


def _interval(low: float, high: float) -> str:
    if np.isinf(low):
        return f"below {high:g}"
    return f"from {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _measured(whole: Labelled, name: str, value: str, where: Array, scores: Array, rival: Array | None) -> SliceResult:
    where = _uncut(whole.labels, where)
    rows = int(where.sum())
    if not rows:
        return SliceResult(slices=name, value=value, rows=0, blocks=0)
    settings, labels = whole.job.config.evaluation, whole.labels[where]
    blocks = renumbered(whole.blocks[where])
    functions: dict[str, metrics.Weighted] = {
        metric: metrics.metric(metric, labels, scores[where]) for metric in settings.metrics
    }
    if rival is not None:
        functions[""] = metrics.metric(settings.metric, labels, rival[where])
    every = np.ones(rows)
    drawn = metrics.resampled(
        list(functions.values()), blocks, resamples=settings.resamples, seed=whole.job.config.training.seed
    )
    told = dict(zip(functions, (function(every) for function in functions.values()), strict=True))
    found = dict(zip(functions, drawn.T, strict=True))
    gain: dict[str, float | None] = {}
    if rival is not None and np.isfinite(told[""] + told[settings.metric]):
        sign = metrics.sign(settings.metric)
        gain["gain"] = sign * (told[settings.metric] - told[""])
        gain["gain_error"] = _spread(found[settings.metric] - found[""])
    known = [metric for metric in settings.metrics if np.isfinite(told[metric])]
    return SliceResult(
        slices=name,
        value=value,
        rows=rows,
        blocks=int(blocks.max()) + 1,
        metrics={metric: told[metric] for metric in known},
        errors={metric: _spread(found[metric]) for metric in known},
        **gain,
    )


def _uncut(labels: Array, where: Array) -> Array:
    """The rows of a slice; of a ranking all rows of its groups, as half a group ranks otherwise."""
    return where if labels.ndim == 1 else np.isin(labels[:, 1], labels[where, 1])


def _spread(values: Array) -> float:
    """Standard error from resampled values; of draws without one class there is no AUC."""
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else 0.0


def found(holdout: Holdout, excess: Array, *, against: str) -> tuple[FoundSlice, ...]:
    """Slices of single features on which `excess` is high: found on every other time block, confirmed on those between.

    The worst few of the first half are tested once on the second (one-sided, Holm). What was found by looking at many slices
    and never confirmed is mostly noise (Chung et al. 2019 on the search; Cawley and Talbot 2010 on its bias).

    :param excess: squared error above what it is compared with, float [n].
    """
    job = holdout.job
    features, blocks = holdout.rows[list(job.config.features.columns)], holdout.blocks
    first = blocks % _HALF == 0
    halves = [(excess[half], renumbered(blocks[half])) for half in (first, ~first)]
    least = job.config.evaluation.minimum_rows / _HALF
    tried = _worst(_automatic(features, first), first, halves[0], least)
    tested = [(name, value, *_tested(where[~first], *halves[1])) for name, value, where in tried]
    tested = [test for test in tested if test[2] >= least]
    confirmed = metrics.holm(np.array([test[4] for test in tested]), (1 - job.config.evaluation.confidence) / 2)
    return tuple(
        FoundSlice(feature=name, value=value, against=against, rows=rows, excess=mean, p=p)
        for (name, value, rows, mean, p), kept in zip(tested, confirmed, strict=True)
        if kept
    )


def _worst(
    slices: Iterable[tuple[str, str, Array]], first: Array, half: tuple[Array, Array], least: float
) -> list[tuple[str, str, Array]]:
    """The few worst slices of the first half that are not mostly the same rows."""
    judged = [(*_tested(where[first], *half), name, value, where) for name, value, where in slices]
    chosen: list[tuple[str, str, Array]] = []
    for rows, mean, _, name, value, where in sorted(judged, key=lambda one: one[2]):
        same = any((where & other).sum() > (where | other).sum() / 2 for _, _, other in chosen)
        if rows >= least and mean > 0 and not same and len(chosen) < _TRIED:
            chosen.append((name, value, where))
    return chosen


def _tested(where: Array, excess: Array, blocks: Array) -> tuple[int, float, float]:
    """Rows of a slice, their mean excess, and its one-sided p-value. Rows of a block may err together (Liang and Zeger 1986)."""
    rows = int(where.sum())
    if not rows:
        return 0, 0.0, 1.0
    mean = float(excess[where].mean())
    sums = np.bincount(blocks[where], excess[where] - mean)
    # With one block there is nothing to tell chance from the slice.
    blocks_of = len(np.unique(blocks[where]))
    error = float(np.sqrt((sums**2).sum() * blocks_of / (blocks_of - 1))) / rows if blocks_of > 1 else np.inf
    return rows, mean, metrics.exceeds(mean, 0.0, error)


def _automatic(features: Any, first: Array) -> Iterable[tuple[str, str, Array]]:
    """The values of features with few of them, quarters of the others, and where a feature is missing."""
    for name in features.columns:
        values = features[name].astype(float)
        distinct = values[first].dropna().unique()
        if len(distinct) <= _FEW_VALUES:
            rule = Slices(column=name, values=tuple(sorted(f for f in distinct.tolist() if np.isfinite(f))) or None)
        else:
            edges = np.unique(values[first].quantile([0.25, 0.5, 0.75]))
            rule = Slices(column=name, bins=tuple(edge for edge in edges.tolist() if np.isfinite(edge)) or (0.0,))
        if rule.values or rule.bins or values.isna().any():
            yield from ((name, value, where) for value, where in members(rule, values).items())


def found_checks(slices: tuple[FoundSlice, ...], against: str, *, told: str) -> Check:
    """One warning about all slices that were found; they only warn."""
    named = ", ".join(f"{one.feature} {one.value} ({one.rows} rows, {one.excess:+.4f})" for one in slices)
    return Check(
        name="found_slices",
        passed=not slices,
        value=float(len(slices)),
        threshold=0.0,
        severity="warn",
        subject=f"against {against}",
        detail=f"{told}: {named}" if named else "",
    )
