"""Why a LightGBM model gives a row its score: contributions of the features, and the path through every tree.

Contributions are TreeSHAP (Lundberg, Erion, Lee 2018, "Consistent individualized feature attribution for tree ensembles") as
LightGBM computes them (`pred_contrib`), on the scale of the raw score, before the link function: they and `base` add up to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import IntegrityError

# LightGBM reads values as near to zero as this as zero (its kZeroThreshold).
_ZERO = 1e-35


class Decision(Frozen):
    """One split on the way.

    :param rule: what it asks, such as ``<= 0.5`` or ``in 1, 2``.
    :param yes: whether the row goes left; a missing value goes the way that was learnt for it.
    """

    feature: str
    value: float | None
    rule: str
    yes: bool


class Path(Frozen):
    """A row's way through one tree.

    :param adds: the leaf's value, which is added to the raw score.
    """

    tree: int
    decisions: tuple[Decision, ...]
    leaf: int
    adds: float


class Explanation(Frozen):
    """Why a row gets its score.

    :param label: the class whose score it is, if there are several.
    :param score: as the deployed package gives it.
    :param raw: before the link function: `base` and all contributions together.
    :param base: the raw score of a row of which nothing is known.
    :param contributions: what each feature adds to it, the largest first.
    """

    score: float
    raw: float
    base: float
    contributions: dict[str, float]
    paths: tuple[Path, ...]
    label: str = ""

    def __str__(self) -> str:
        head = f"score{f' of {self.label}' if self.label else ''} {self.score:.6g}; raw {self.raw:+.6g} = base {self.base:+.6g}"
        return "\n".join([head, *(f"  {added:+.6g}  {name}" for name, added in self.contributions.items())])


def explained(
    booster: Any, names: Sequence[str], values: np.ndarray[Any, Any], score: float, *, output: int = 0
) -> Explanation:
    """The explanation of one row.

    :param values: float64 [features], as the booster takes them.
    :param output: number of the class that the score is of, if there are several.
    :raises IntegrityError: if our way through the trees is not LightGBM's.
    """
    row, outputs = values.reshape(1, -1), booster.num_model_per_iteration()
    parts = np.asarray(booster.predict(row, pred_contrib=True)).reshape(outputs, -1)
    *added, base = (float(value) for value in parts[output])
    trees = booster.dump_model()["tree_info"]
    numbers = range(output, len(trees), outputs)
    paths = tuple(_path(number, trees[number]["tree_structure"], names, values) for number in numbers)
    leaves = np.asarray(booster.predict(row, pred_leaf=True)).reshape(-1)
    if [path.leaf for path in paths] != leaves[output::outputs].tolist():
        raise IntegrityError(
            "the paths through the trees do not end in the leaves that LightGBM names: they are not told"
        )
    largest = sorted(zip(names, added, strict=True), key=lambda pair: -abs(pair[1]))
    return Explanation(score=score, raw=base + sum(added), base=base, contributions=dict(largest), paths=paths)


def _path(number: int, root: Mapping[str, Any], names: Sequence[str], values: np.ndarray[Any, Any]) -> Path:
    way = list(_walked(root, names, values))
    *decided, (_, leaf) = way
    decisions = tuple(decision for decision, _ in decided if decision is not None)
    return Path(tree=number, decisions=decisions, leaf=int(leaf.get("leaf_index", 0)), adds=float(leaf["leaf_value"]))


def _walked(
    node: Mapping[str, Any], names: Sequence[str], values: np.ndarray[Any, Any]
) -> Iterator[tuple[Decision | None, Mapping[str, Any]]]:
    """The splits on the way with what was decided at each, and the leaf at its end."""
    while "split_feature" in node:
        value = float(values[node["split_feature"]])
        yes = _in_categories(node, value) if node["decision_type"] == "==" else _below(node, value)
        shown = value if math.isfinite(value) else None
        yield Decision(feature=names[node["split_feature"]], value=shown, rule=_rule(node), yes=yes), node
        node = node["left_child" if yes else "right_child"]
    yield None, node


def _rule(node: Mapping[str, Any]) -> str:
    if node["decision_type"] == "==":
        return f"in {str(node['threshold']).replace('||', ', ')}"
    return f"<= {node['threshold']:.17g}"


def _below(node: Mapping[str, Any], value: float) -> bool:
    """Whether a numeric split sends the value left."""
    missing = node["missing_type"]
    if math.isnan(value) and missing != "NaN":
        value = 0.0
    if (missing == "NaN" and math.isnan(value)) or (missing == "Zero" and abs(value) <= _ZERO):
        return bool(node["default_left"])
    return value <= float(node["threshold"])


def _in_categories(node: Mapping[str, Any], value: float) -> bool:
    """Whether a categorical split sends the value left: LightGBM cuts it to a whole number, and knows none below zero."""
    if math.isnan(value):
        if node["missing_type"] == "NaN":
            return False
        value = 0.0
    return value >= 0 and str(int(value)) in str(node["threshold"]).split("||")
