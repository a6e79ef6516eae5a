"""LightGBM trees as an ONNX graph that scores exactly as LightGBM does.

Thresholds stay float64 (``nodes_values_as_tensor`` of ai.onnx.ml 3, with a float64 input): the usual converters round
them to float32, which sends values next to a threshold to the wrong side. Leaf sums are float32, as that operator has
them. A split by category becomes a chain of comparisons with its categories, after the codes were cut to whole numbers as
LightGBM cuts them. What cannot be represented is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from mlops_provider.exceptions import ConfigError

_IR, _OPSET, _ML_OPSET = 9, 18, 3
_INFINITE = (
    1e300  # what LightGBM's dump writes for a threshold that is infinite: a split of the missing from all others
)
_ZERO = 1.0000000180025095e-35  # LightGBM's kZeroThreshold: a value this close to zero is read as zero


@dataclass
class _Nodes:
    """The columns of the TreeEnsembleRegressor's node table, filled tree by tree."""

    trees: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    true: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    leaf_trees: list[int] = field(default_factory=list)
    leaf_ids: list[int] = field(default_factory=list)
    leaf_values: list[float] = field(default_factory=list)
    leaf_outputs: list[int] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)

    def add(self, tree: int, number: int) -> int:
        for column, value in (
            (self.trees, tree),
            (self.ids, number),
            (self.features, 0),
            (self.true, 0),
            (self.false, 0),
        ):
            column.append(value)
        self.modes.append("LEAF")
        self.values.append(0.0)
        self.missing.append(0)
        return len(self.ids) - 1


def export(text: str) -> bytes:
    """The ONNX model of a LightGBM text model: input ``input`` float64 [n, features], output ``score`` float32 [n, 1], or a column
    for each class.

    :raises ConfigError: for a model that could not be represented exactly.
    """
    import lightgbm
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if "is_linear=1" in text:
        raise ConfigError("a model with linear trees cannot be packaged exactly")
    dump = lightgbm.Booster(model_str=text).dump_model()
    outputs = dump["num_tree_per_iteration"]
    link, scale = _link(dump)
    nodes = _Nodes()
    for number, tree in enumerate(dump["tree_info"]):
        _walk(nodes, number, tree["tree_structure"])
        nodes.leaf_outputs += [number % outputs] * (len(nodes.leaf_ids) - len(nodes.leaf_outputs))
    cut, constants, given = _whole_codes(nodes.codes, dump["max_feature_idx"] + 1)
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", [given], ["raw"], domain="ai.onnx.ml", n_targets=outputs, aggregate_function="SUM",
        post_transform="NONE", nodes_treeids=nodes.trees, nodes_nodeids=nodes.ids, nodes_featureids=nodes.features,
        nodes_modes=nodes.modes, nodes_truenodeids=nodes.true, nodes_falsenodeids=nodes.false,
        nodes_missing_value_tracks_true=nodes.missing, target_treeids=nodes.leaf_trees, target_nodeids=nodes.leaf_ids,
        target_ids=nodes.leaf_outputs,
        nodes_values_as_tensor=numpy_helper.from_array(np.array(nodes.values, np.float64), "thresholds"),
        target_weights_as_tensor=numpy_helper.from_array(np.array(nodes.leaf_values, np.float64), "leaves"),
    )  # fmt: skip
    graph = helper.make_graph(
        [*cut, ensemble, *link],
        "lightgbm",
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, [None, dump["max_feature_idx"] + 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, outputs])],
        [*scale, *constants],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="airflow-provider-mlops")
    return bytes(model.SerializeToString())


def _link(dump: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What makes scores of the sums of leaves: nodes from ``raw`` to ``score``, and constants."""
    import numpy as np
    from onnx import helper, numpy_helper

    name, *settings = dump["objective"].split(" ")
    outputs, known = dump["num_tree_per_iteration"], dict(setting.partition(":")[::2] for setting in settings)
    if dump.get("average_output") or "sqrt" in known or (outputs > 1) != (name == "multiclass"):
        raise ConfigError(f"the objective {dump['objective']!r} cannot be packaged exactly")
    if name == "binary":
        scale = numpy_helper.from_array(np.array([float(known["sigmoid"])], np.float32), "sigmoid")
        scaled = helper.make_node("Mul", ["raw", "sigmoid"], ["scaled"])
        return [scaled, helper.make_node("Sigmoid", ["scaled"], ["score"])], [scale]
    if name == "multiclass":
        return [helper.make_node("Softmax", ["raw"], ["score"], axis=1)], []
    if name in ("regression", "lambdarank"):
        return [helper.make_node("Identity", ["raw"], ["score"])], []
    packaged = "binary, multiclass, regression and lambdarank can"
    raise ConfigError(f"the objective {dump['objective']!r} cannot be packaged exactly; {packaged}")


def _whole_codes(codes: set[int], features: int) -> tuple[list[Any], list[Any], str]:
    """What cuts the categorical columns to whole numbers: nodes, constants, and the name of what the trees read."""
    import numpy as np
    from onnx import helper, numpy_helper

    if not codes:
        return [], [], "input"
    categorical = np.isin(np.arange(features), sorted(codes))[None, :]
    made = [
        helper.make_node("Abs", ["input"], ["size"]),
        helper.make_node("Floor", ["size"], ["floor"]),
        helper.make_node("Sign", ["input"], ["sign"]),
        helper.make_node("Mul", ["floor", "sign"], ["cut"]),
        helper.make_node("Where", ["categorical", "cut", "input"], ["given"]),
    ]
    return made, [numpy_helper.from_array(categorical, "categorical")], "given"


_Parents = list[tuple[list[int], int]]


def _walk(nodes: _Nodes, tree: int, root: dict[str, Any]) -> None:
    """Adds a tree, without recursion: LightGBM grows leaf-wise, so a tree may be deep."""
    waiting: list[tuple[dict[str, Any], _Parents]] = [(root, [])]
    number = 0
    while waiting:
        node, parents = waiting.pop()
        first = nodes.add(tree, number)
        for column, place in parents:
            column[place] = number
        number += 1
        if "split_index" not in node:
            nodes.leaf_trees.append(tree)
            nodes.leaf_ids.append(nodes.ids[first])
            nodes.leaf_values.append(float(node["leaf_value"]))
            continue
        last = _branch(nodes, first, node)
        number += last - first
        left = [(nodes.true, at) for at in range(first, last + 1)]
        waiting += [(node["right_child"], [(nodes.false, last)]), (node["left_child"], left)]


def _branch(nodes: _Nodes, at: int, node: dict[str, Any]) -> int:
    """Makes a split of the node, and returns the last node that the split takes."""
    if node["decision_type"] == "==":
        return _members(nodes, at, node)
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise ConfigError(
            f"a split of kind {node['decision_type']!r} with missing values as {node['missing_type']} cannot be packaged exactly"
        )
    nodes.modes[at] = "BRANCH_LEQ"
    nodes.features[at] = node["split_feature"]
    nodes.values[at] = _threshold(float(node["threshold"]))
    # Without missing values in training LightGBM takes NaN for zero.
    left = node["default_left"] if node["missing_type"] == "NaN" else float(node["threshold"]) >= 0
    nodes.missing[at] = int(left)
    return at


def _members(nodes: _Nodes, at: int, node: dict[str, Any]) -> int:
    """A split by category: one comparison after the other, all of which lead to the same left child.

    What is missing, negative or unseen equals none of them and goes right, as in LightGBM.
    """
    nodes.codes.add(node["split_feature"])
    categories = [float(code) for code in node["threshold"].split("||")]
    for place, category in enumerate(categories):
        if place:
            before, at = at, nodes.add(nodes.trees[at], nodes.ids[at] + 1)
            nodes.false[before] = nodes.ids[at]
        nodes.modes[at] = "BRANCH_EQ"
        nodes.features[at] = node["split_feature"]
        nodes.values[at] = category
    return at


def _threshold(value: float) -> float:
    """The threshold that divides values as LightGBM does, which reads those within `_ZERO` of zero as zero."""
    if abs(value) >= _INFINITE:
        return math.copysign(math.inf, value)
    if -_ZERO <= value < 0:
        return math.nextafter(-_ZERO, -math.inf)
    return _ZERO if 0 <= value <= _ZERO else value
