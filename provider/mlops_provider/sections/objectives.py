"""What a model may predict: the kinds of label, and the metrics that measure each."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Objective = Literal["binary", "multiclass", "regression", "lambdarank"]
Metric = Literal["auc", "log_loss", "brier", "accuracy", "rmse", "mae", "r2", "ndcg", "ndcg_at_5", "ndcg_at_10", "map"]


class Scale(NamedTuple):
    """The values that a metric can have.

    :param larger: whether more is better.
    """

    low: float
    high: float
    larger: bool


_UNIT = Scale(0, 1, True)
_LOSS = Scale(0, math.inf, False)

# The first metric of each is the primary one unless model.yaml names another.
METRICS: dict[str, dict[str, Scale]] = {
    "binary": {"auc": _UNIT, "log_loss": _LOSS, "brier": Scale(0, 1, False)},
    "multiclass": {"log_loss": _LOSS, "accuracy": _UNIT, "auc": _UNIT, "brier": Scale(0, 2, False)},
    "regression": {"rmse": _LOSS, "mae": _LOSS, "r2": Scale(-math.inf, 1, True)},
    "lambdarank": {"ndcg_at_10": _UNIT, "ndcg_at_5": _UNIT, "ndcg": _UNIT, "map": _UNIT},
}

# What early stopping measures unless it is told otherwise.
STOPPING = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse", "lambdarank": "ndcg_at_10"}

# Parameters of LightGBM that say something for some objectives only; for others it would pass over them.
PARAMS = {
    "scale_pos_weight": ("binary",),
    "is_unbalance": ("binary",),
    "pos_bagging_fraction": ("binary",),
    "neg_bagging_fraction": ("binary",),
    "sigmoid": ("binary", "lambdarank"),
    "boost_from_average": ("binary", "multiclass", "regression"),
    "lambdarank_truncation_level": ("lambdarank",),
    "lambdarank_norm": ("lambdarank",),
}


def larger_is_better(metric: str) -> bool:
    """Whether more of a metric is better, whichever objective it measures."""
    return next(known[metric].larger for known in METRICS.values() if metric in known)
