"""What a LightGBM text model says of its splits and features, read without building its trees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

# The bits of LightGBM's decision_type.
_CATEGORICAL = 1
_MISSING = {0: "None", 1: "Zero", 2: "NaN"}


class Split(NamedTuple):
    """A split at a number, or by categories.

    :param threshold: values up to it go left; NaN for a split by categories.
    :param missing: what it takes for a missing value: ``NaN`` if training had some, ``None`` if it had none.
    :param categories: those that go left, of a split by categories.
    """

    feature: int
    threshold: float
    gain: float
    missing: str
    categories: tuple[int, ...] = ()


class Range(NamedTuple):
    """What training saw of a feature: the ends of its range, or its categories."""

    low: float | None
    high: float | None
    categories: tuple[int, ...]


def splits(text: str) -> list[Split]:
    """Every split of a model, tree by tree."""
    found: list[Split] = []
    for tree in _trees(text):
        columns = [tree[key].split() for key in ("split_feature", "threshold", "split_gain", "decision_type")]
        for feature, threshold, gain, kind in zip(*columns, strict=True):
            missing = _MISSING[int(kind) >> 2 & 3]
            if int(kind) & _CATEGORICAL:
                members = _members(tree, int(float(threshold)))
                found.append(Split(int(feature), math.nan, float(gain), missing, members))
            else:
                found.append(Split(int(feature), float(threshold), float(gain), missing))
    return found


def _members(tree: dict[str, str], number: int) -> tuple[int, ...]:
    """The categories of a split, which the text keeps as the bits of 32-bit words."""
    first, end = (int(bound) for bound in tree["cat_boundaries"].split()[number : number + 2])
    words = [int(word) for word in tree["cat_threshold"].split()[first:end]]
    return tuple(32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1)


def used_features(text: str) -> set[int]:
    """Features that any split asks for."""
    return {int(feature) for tree in _trees(text) for feature in tree["split_feature"].split()}


def ranges(text: str) -> tuple[Range, ...]:
    """What training saw of each feature, in the order of the input."""
    return tuple(_range(entry) for entry in _header(text).get("feature_infos", "").split())


def tree_count(text: str) -> int:
    """How many trees the model has."""
    return text.count("\nTree=")


def _range(entry: str) -> Range:
    if entry == "none":  # one value only, which LightGBM does not keep
        return Range(None, None, ())
    if entry.startswith("["):
        low, high = (float(end) for end in entry.strip("[]").split(":"))
        return Range(low, high, ())
    categories = sorted(int(value) for value in entry.split(":"))
    return Range(None, None, tuple(value for value in categories if value >= 0))


def _header(text: str) -> dict[str, str]:
    return _keys(text[: text.index("\nTree=")] if "\nTree=" in text else text)


def _trees(text: str) -> Iterator[dict[str, str]]:
    """The keys of each tree that has a split."""
    _, *blocks = text[: text.index("end of trees")].split("\nTree=")
    for block in blocks:
        keys = _keys(block)
        if "split_feature" in keys and int(keys.get("num_leaves", "1")) > 1:
            yield keys


def _keys(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
