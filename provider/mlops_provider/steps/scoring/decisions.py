"""What is decided by a score, and whether two scorings of the same rows decide alike."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def decided(scores: Array, cut: float | None) -> Array | None:
    """What a score decides, by row: the likeliest class, or whether it reaches the cut; None if nothing is decided.

    :param scores: float [n], or [n, classes].
    """
    if scores.ndim == 2:
        return np.asarray(scores.argmax(axis=1))
    return None if cut is None else np.asarray(scores >= cut)


def distance(found: Array, expected: Array) -> Array:
    """|a - b| / max(1, |b|) of each row, float [n]; the largest of its classes."""
    apart: Array = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return apart.max(axis=1) if apart.ndim == 2 else apart


def turned(found: Array, expected: Array, *, cut: float | None, tolerance: float) -> Array:
    """Rows that are decided otherwise although what was expected lies farther than `tolerance` from where that turns, bool [n]."""
    ours, theirs = decided(found, cut), decided(expected, cut)
    if ours is None or theirs is None:
        return np.zeros(len(expected), bool)
    if expected.ndim == 2:
        second, first = np.partition(expected, -2, axis=1)[:, -2:].T
        clear = first - second > 2 * tolerance
    else:
        clear = np.abs(expected - (cut or 0.0)) > tolerance
    return np.asarray((ours != theirs) & clear)
