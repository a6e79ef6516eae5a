"""What an evaluation finds beside the comparison with the champion: records that travel as one JSON file."""

from __future__ import annotations

from mlops_provider.checks import Frozen
from mlops_provider.steps.records import Interval


class Baseline(Frozen):
    """A simple model on the rows of the holdout.

    :param gain: of the candidate over it in the primary metric.
    """

    name: str
    metrics: dict[str, float]
    gain: Interval


class SliceResult(Frozen):
    """A slice that model.yaml names.

    :param slices: the name in model.yaml; `value` says which of its slices.
    :param metrics: of the candidate; a metric that the slice does not define, such as the AUC of one class, is left out.
    :param errors: standard errors of `metrics` under the bootstrap over time blocks.
    :param gain: over the champion in the primary metric, positive is better; None if it cannot be had.
    """

    slices: str
    value: str
    rows: int
    blocks: int
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    gain: float | None = None
    gain_error: float | None = None


class FoundSlice(Frozen):
    """A slice that was found on one half of the time blocks and confirmed on the other.

    :param against: the ``champion``, or the model's ``own`` expectation.
    :param excess: loss (squared error, or what comes nearest to it) on the second half above what it was compared with.
    :param p: one-sided, before the correction for the number of slices that were tried on the second half.
    """

    feature: str
    value: str
    against: str
    rows: int
    excess: float
    p: float


class CalibrationBin(Frozen):
    """Rows of neighbouring scores: mean score, and mean label (the share of positives) among them."""

    rows: int
    score: float
    observed: float


class Calibrated(Frozen):
    """Calibration of the scores.

    :param error: expected calibration error: mean distance of score and label over the bins.
    :param reliability: `resolution` and `uncertainty`: the parts of the mean squared error (Brier score) over the bins.
    :param within: what it has beside them, as scores and labels of a bin differ.
    """

    bins: tuple[CalibrationBin, ...]
    error: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


class Curves(Frozen):
    """ROC and precision-recall curve as points, thinned."""

    roc: tuple[tuple[float, float], ...]
    precision_recall: tuple[tuple[float, float], ...]


class FeatureEffect(Frozen):
    """What the primary metric loses if the feature is permuted, with its interval; positive is a useful feature.

    :param missing: share of the rows without a value.
    :param cost: as model.yaml gives it.
    """

    feature: str
    effect: float
    low: float
    high: float
    missing: float
    cost: float | None = None


class Perturbed(Frozen):
    """What the primary metric loses under worse inputs; positive is a loss."""

    name: str
    value: float
    loss: float


class Aged(Frozen):
    """Quality of a version on a partition that it scored, beside its quality when it was evaluated.

    :param age: accepted partitions from the version's holdout to the scored one.
    """

    version: int
    partition: str
    age: int
    value: float
    change: float


class Group(Frozen):
    """Decisions in one group of a column, at the cut of the model. A rate of rows that there are none of is None."""

    value: str
    rows: int
    selection_rate: float
    true_positive_rate: float | None
    false_positive_rate: float | None


class Fairness(Frozen):
    """The groups of a column, and the largest differences among those that have enough rows.

    :param problem: why there are no differences; empty if there are.
    """

    column: str
    groups: tuple[Group, ...]
    differences: dict[str, float] = {}
    problem: str = ""


class QualityFindings(Frozen):
    """What is found of predictions whose labels have come, beside the metrics of all rows.

    :param calibration: None for a ranking, whose scores mean nothing by themselves.
    """

    slices: tuple[SliceResult, ...] = ()
    calibration: Calibrated | None = None


class Findings(Frozen):
    """All of it. What depends on the champion of the moment is `slices` and the part of `found` against it.

    :param labels: how they are distributed, for people.
    :param classes: of a multiclass objective, in the order of the scores.
    :param curves: of a binary objective.
    :param confusion: of a multiclass objective: rows of each class, by the class that they were scored likeliest to be.
    :param residuals: of a regression: score, and label minus score, of rows spread evenly over the scores.
    :param group_quality: of a ranking: quantiles (each tenth) of the NDCG of the groups.
    :param calibration: None for a ranking, whose scores mean nothing by themselves.
    """

    metric: str
    rows: int
    labels: str
    classes: tuple[str, ...] = ()
    curves: Curves | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    residuals: tuple[tuple[float, float], ...] = ()
    group_quality: tuple[float, ...] = ()
    calibration: Calibrated | None = None
    baselines: tuple[Baseline, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    found: tuple[FoundSlice, ...] = ()
    importance: tuple[FeatureEffect, ...] = ()
    sample: int = 0
    robustness: tuple[Perturbed, ...] = ()
    age: tuple[Aged, ...] = ()
    fairness: tuple[Fairness, ...] = ()
