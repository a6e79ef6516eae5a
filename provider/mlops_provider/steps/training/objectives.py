"""What differs between the kinds of prediction: what labels must be, what a row's loss is, what a score can be.

Metrics are told apart by the shape of labels and scores (metrics.py), decisions likewise (scoring/decisions.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from mlops_provider.config import ModelConfig
from mlops_provider.steps.data.rows import GROUP, LABEL
from mlops_provider.steps.training import metrics

Array = metrics.Array


def objective(config: ModelConfig) -> Objective:
    """What `training.objective` of a model asks for."""
    return _KINDS[config.training.objective](config)


def targets(config: ModelConfig, frame: Any) -> Array:
    """The labels of a feature table as metrics take them: float [n], of a ranking [n, 2]: relevance and number of the group.

    :param frame: a DataFrame with the columns ``label`` and, for a ranking, ``group``.
    """
    labels = np.asarray(frame[LABEL].to_numpy(), np.float64)
    if config.training.objective != "lambdarank":
        return labels
    return np.column_stack([labels, np.unique(frame[GROUP].to_numpy(), return_inverse=True)[1]])


def plain(labels: Array) -> Array:
    """The labels without the groups that those of a ranking have beside them, float64 [n]."""
    return np.asarray(labels[:, 0] if labels.ndim == 2 else labels)


class Objective(ABC):
    """One kind of prediction."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @property
    def cut(self) -> float | None:
        """A score from here on is decided as positive; None where nothing is decided so."""
        return None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that a score has a column for; empty if it is one number."""
        return ()

    @property
    def params(self) -> dict[str, Any]:
        """What LightGBM needs to know beside the name."""
        return {}

    def problem(self, labels: Array) -> str:
        """Why these labels tell nothing; empty if they do."""
        if not len(labels):
            return "no rows"
        if (labels == labels[0]).all():
            return f"the label is {self.named(labels[0])} in all {len(labels)} rows, nothing to learn"
        return ""

    def named(self, label: float) -> str:
        """A label for people."""
        return f"{label:g}"

    @abstractmethod
    def losses(self, labels: Array, scores: Array) -> Array:
        """What each row's score is worth, float [n], less is better: squared error, or what comes nearest to it."""

    def expected(self, scores: Array) -> Array:
        """The loss of each row that the scores themselves expect, float [n]; 0 where they are no chances and expect none."""
        return np.zeros(len(scores))

    def possible(self, scores: Array) -> Array:
        """Which scores a model of this kind can give, bool [n]."""
        return np.isfinite(scores)

    @abstractmethod
    def told(self, labels: Array) -> str:
        """How labels are distributed, for people."""


class Binary(Objective):
    """The chance of one of two outcomes."""

    @property
    def cut(self) -> float | None:
        return self.config.evaluation.cut

    def losses(self, labels: Array, scores: Array) -> Array:
        return np.asarray((scores - labels) ** 2)

    def expected(self, scores: Array) -> Array:
        return np.asarray(scores * (1 - scores))

    def possible(self, scores: Array) -> Array:
        return np.asarray((scores >= 0) & (scores <= 1))

    def told(self, labels: Array) -> str:
        return f"{labels.mean():.4f} of them positive"


class Multiclass(Objective):
    """The chance of each of several classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.config.data.label.classes))

    @property
    def params(self) -> dict[str, Any]:
        return {"num_class": len(self.classes)}

    def named(self, label: float) -> str:
        return self.classes[int(label)]

    def losses(self, labels: Array, scores: Array) -> Array:
        return np.asarray(((scores - np.eye(len(self.classes))[labels.astype(int)]) ** 2).sum(axis=1))

    def expected(self, scores: Array) -> Array:
        return np.asarray((scores * (1 - scores)).sum(axis=1))

    def possible(self, scores: Array) -> Array:
        return np.asarray(((scores >= 0) & (scores <= 1)).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) < 1e-5))

    def told(self, labels: Array) -> str:
        shares = np.bincount(labels.astype(int), minlength=len(self.classes)) / len(labels)
        return ", ".join(f"{share:.4f} {name}" for name, share in zip(self.classes, shares, strict=True))


class Regression(Objective):
    """A number."""

    def losses(self, labels: Array, scores: Array) -> Array:
        return np.asarray((scores - labels) ** 2)

    def told(self, labels: Array) -> str:
        return f"mean {labels.mean():.4g}, standard deviation {labels.std():.4g}"


class Ranking(Objective):
    """An order within each group."""

    def problem(self, labels: Array) -> str:
        if not len(labels):
            return "no rows"
        _, groups = np.unique(labels[:, 1], return_inverse=True)
        count = int(groups.max()) + 1
        least, most = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(least, groups, labels[:, 0])
        np.maximum.at(most, groups, labels[:, 0])
        if (least == most).all():
            return f"every one of the {count} groups has one relevance only, nothing to learn"
        return ""

    def losses(self, labels: Array, scores: Array) -> Array:
        """What the group's NDCG lacks of 1, for each of its rows; 0 where no order is better than another."""
        values, groups = metrics.by_group(metrics.ndcg, labels, scores)
        return np.asarray(np.nan_to_num(1 - values, nan=0.0)[groups])

    def told(self, labels: Array) -> str:
        return f"in {len(np.unique(labels[:, 1]))} groups, mean relevance {labels[:, 0].mean():.4g}"


_KINDS: dict[str, type[Objective]] = {
    "binary": Binary,
    "multiclass": Multiclass,
    "regression": Regression,
    "lambdarank": Ranking,
}
