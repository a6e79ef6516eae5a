"""What a model takes and what it was trained on, in numbers: the input schema and the reference profile of a package."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mlops_provider.checks import Frozen
from mlops_provider.steps.training.trees import Range, ranges, splits, used_features

Array = np.ndarray[Any, Any]
_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
Missing = Literal["learned", "read_as_zero", "as_unseen", "no_effect"]


class Feature(Frozen):
    """One input of a model.

    :param dtype: as the model's code builds it; the tensor is float64.
    :param minimum: smallest value that training saw, `maximum` the largest; None where it saw none.
    :param categories: what training saw of a categorical feature; empty for a number.
    :param missing: what a missing value (NaN) does. ``learned``: training had some, and the trees know where they go.
        ``read_as_zero``: training had none, and LightGBM takes it for 0. ``as_unseen``: it goes where a category goes that
        training did not see. ``no_effect``: no split asks for the feature.
    """

    name: str
    dtype: str
    minimum: float | None
    maximum: float | None
    categories: tuple[int, ...] = ()
    missing: Missing

    @property
    def missing_allowed(self) -> bool:
        """Whether the model was trained to make something of a missing value, or does not look at the feature."""
        return self.missing != "read_as_zero"


class Schema(Frozen):
    """What goes into the ONNX file and what comes out of it.

    :param features: in the order of the tensor ``input``, float64 [n, features]; out comes ``score``, float32 [n, 1], or a
        column for each class.
    :param cut: a score from here on is decided as positive; None if nothing is decided by one.
    """

    features: tuple[Feature, ...]
    cut: float | None
    classes: tuple[str, ...] = ()
    input: str = "input: float64 [n, features]"
    output: str = "score: float32 [n, 1]"


class Distribution(Frozen):
    """How the values of a column are distributed.

    :param missing: share of the rows without a value.
    :param quantiles: of the finite values, by share, each a value that is there; empty if there are none.
    """

    name: str
    missing: float
    distinct: int
    mean: float | None
    deviation: float | None
    quantiles: dict[str, float]


class ReferenceProfile(Frozen):
    """The training data of a version.

    :param rows: fitted on; `sampled` rows of them, drawn at random, are described.
    :param scores: LightGBM's, of the sampled rows; of each class, if there are several.
    """

    rows: int
    sampled: int
    features: tuple[Distribution, ...]
    scores: tuple[Distribution, ...]


def schema(
    text: str, sample: Array, *, features: dict[str, str], cut: float | None, classes: tuple[str, ...] = ()
) -> Schema:
    """The input schema of a model.

    :param text: of the LightGBM model.
    :param sample: rows of its training data as its tensor takes them, float64 [n, features].
    :param features: dtypes by name, in the order of the tensor.
    """
    used, known = used_features(text), ranges(text)
    learned = {split.feature for split in splits(text) if split.missing == "NaN"}
    found = []
    for at, (name, dtype) in enumerate(features.items()):
        seen = known[at] if at < len(known) else Range(None, None, ())
        missing: Missing = "read_as_zero"
        if at not in used:
            missing = "no_effect"
        elif seen.categories:
            missing = "as_unseen"
        elif at in learned:
            missing = "learned"
        low, high = (None, None) if seen.categories else _ends(sample[:, at], seen)
        found.append(
            Feature(name=name, dtype=dtype, minimum=low, maximum=high, categories=seen.categories, missing=missing)
        )
    output = f"score: float32 [n, {max(1, len(classes))}]"
    return Schema(features=tuple(found), cut=cut, classes=classes, output=output)


def _ends(column: Array, seen: Range) -> tuple[float | None, float | None]:
    """The range of a column, by the rows at hand and by what LightGBM noted of those that it made its bins of."""
    noted = [end for end in (seen.low, seen.high) if end is not None]
    values = np.concatenate([column[np.isfinite(column)], np.array(noted)[np.isfinite(noted)]])
    return (float(values.min()), float(values.max())) if len(values) else (None, None)


def reference_profile(sample: Any, scores: Array, *, rows: int, classes: tuple[str, ...] = ()) -> ReferenceProfile:
    """The profile of the training data.

    :param sample: a DataFrame of features as they were built; `scores` float64 [n] or [n, classes] of the same rows.
    :param rows: that the model was fitted on.
    """
    features = tuple(distribution(name, sample[name].to_numpy(np.float64)) for name in sample.columns)
    columns = np.asarray(scores, np.float64).reshape(len(sample), -1).T
    names = [f"score of {name}" for name in classes] or ["score"]
    scored = tuple(distribution(name, column) for name, column in zip(names, columns, strict=True))
    return ReferenceProfile(rows=rows, sampled=len(sample), features=features, scores=scored)


def distribution(name: str, values: Array) -> Distribution:
    """How values are distributed: float64 [n], NaN where missing."""
    known = values[np.isfinite(values)]
    quantiles: Any = np.quantile(known, _SHARES, method="inverted_cdf") if len(known) else []
    with np.errstate(over="ignore", invalid="ignore"):
        moments = [float(known.mean()), float(known.std())] if len(known) else [None, None]
    mean, deviation = (m if m is not None and np.isfinite(m) else None for m in moments)
    return Distribution(
        name=name,
        missing=float(np.isnan(values).mean()) if len(values) else 0.0,
        distinct=len(np.unique(known)),
        mean=mean,
        deviation=deviation,
        quantiles={f"{share:g}": float(value) for share, value in zip(_SHARES, quantiles, strict=False)},
    )
