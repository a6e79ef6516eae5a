"""Leakage: a feature that by itself tells the label almost perfectly most likely knows what came true."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlops_provider.checks import Check
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.profile import opened
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact

Floats = NDArray[np.float64]

# With fewer rows of either outcome, chance alone gives AUCs near 1.
_FEWEST = 20


def leakage(job: Job, table: Artifact) -> list[Check]:
    """A check for each feature that tells the label too well; one that passed if none does.

    :raises DataError: if the feature table cannot be read.
    """
    limit, names = job.config.data.changes.leakage, job.config.features.columns
    with opened(job.storage, table, (LABEL, *names)) as file:
        label = file.read(columns=[LABEL]).column(0).to_numpy().astype("float64")
        known = ~np.isnan(label)
        outcome = label[known]
        outcomes = _outcomes(job, outcome)
        if fewest := _too_few(outcomes[0]):
            return [Check(name="leakage", passed=False, severity="warn", subject="features", detail=fewest)]
        found = {name: max(strength(_values(file, name)[known], told) for told in outcomes) for name in names}
    leaks = [_leak(name, value, limit) for name, value in found.items() if value > limit]
    strongest = max(found, key=lambda name: found[name])
    told = f"the strongest of {len(found)} features is {strongest}"
    passed = Check(
        name="leakage", passed=True, value=found[strongest], threshold=limit, subject="features", detail=told
    )
    return leaks or [passed]


def _outcomes(job: Job, labels: Floats) -> list[Floats]:
    """What a feature may tell of the labels, as outcomes of 0 and 1: the label itself; each class that has rows enough, against
    all others; of a number, whether it is above the median, or on it if none is."""
    objective = job.config.training.objective
    if objective == "binary":
        return [labels]
    if objective == "multiclass":
        each = [(labels == place).astype(float) for place in range(len(job.config.data.label.classes))]
        return [one for one in each if not _too_few(one)] or each
    middle = float(np.median(labels)) if len(labels) else 0.0
    return [(labels > middle).astype(float) if (labels > middle).any() else (labels == middle).astype(float)]


def strength(values: Floats, label: Floats) -> float:
    """AUC of one feature against a binary label, in the better direction: 0.5 tells nothing, 1 tells all.

    Ties count half. Nulls are a group of their own, below or above all values, whichever tells more.
    The rank form of the AUC: Hanley and McNeil 1982, Radiology 143.

    :param values: (n,) float64, NaN where null.
    :param label: (n,) float64, 0 or 1, both at least once.
    """
    null = np.isnan(values)
    _, codes = np.unique(values[~null], return_inverse=True)
    groups = int(codes.max(initial=-1)) + 1
    positives, negatives = (_counts(codes, label[~null] == side, groups) for side in (1, 0))
    aside = [np.array([float(np.sum(label[null] == side))]) for side in (1, 0)]
    areas = [
        _area(np.concatenate([aside[0], positives]), np.concatenate([aside[1], negatives])),
        _area(np.concatenate([positives, aside[0]]), np.concatenate([negatives, aside[1]])),
    ]
    return max(max(area, 1 - area) for area in areas)


def _area(positives: Floats, negatives: Floats) -> float:
    """Share of pairs of a positive and a negative in which the positive is in a later group; same group counts half."""
    before = np.cumsum(negatives) - negatives
    return float(np.sum(positives * (before + negatives / 2)) / (positives.sum() * negatives.sum()))


def _counts(codes: NDArray[np.intp], chosen: NDArray[np.bool_], groups: int) -> Floats:
    return np.bincount(codes[chosen], minlength=groups).astype("float64")


def _values(file: object, name: str) -> Floats:
    values: Floats = file.read(columns=[name]).column(0).to_numpy().astype("float64")  # type: ignore[attr-defined]
    return values


def _too_few(outcome: Floats) -> str:
    ones = int(np.sum(outcome == 1))
    zeros = len(outcome) - ones
    if min(ones, zeros) >= _FEWEST:
        return ""
    return f"cannot be told from chance: {ones} positive and {zeros} negative labels, {_FEWEST} of each are needed"


def _leak(name: str, value: float, limit: float) -> Check:
    told = "tells the label almost by itself: is it only known afterwards? (data.changes.leakage in model.yaml)"
    return Check(name="leakage", passed=False, value=value, threshold=limit, subject=name, detail=told)
