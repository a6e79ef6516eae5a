"""What is estimated of predictions before their labels come. Planning hands these on, so nothing heavy is imported here."""

from __future__ import annotations

from mlops_provider.checks import Frozen, Verdict
from mlops_provider.steps.records import FeatureVersion, Package, Predictions, SplitRef


class Estimate(Frozen):
    """An estimated metric; of the primary one with its interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Estimated(Frozen):
    """Quality of a scored partition before its labels arrive, as far as the scores can tell.

    :param calibrated_on: partitions with labels that the version was not trained on; `rows` of them have one.
    :param trusted: whether labels have not contradicted the version's last two estimates.
    """

    partition: str
    version: int
    metrics: dict[str, Estimate]
    calibrated_on: tuple[str, ...]
    rows: int
    assumes: str
    trusted: bool
    verdict: Verdict


class Basis(Frozen):
    """Predictions of a version whose labels have come: the partition, and the accepted data."""

    predictions: Predictions
    data: FeatureVersion


class EstimateWork(Frozen):
    """A scored partition whose quality is to be estimated.

    :param package: of the version that scored it; the holdout of its `split` is the first of what scores are calibrated on,
        `basis` is the rest.
    :param misses: how far earlier estimates of this model were from what came out, in half-widths of their intervals.
    :param contradicted: how many of the version's last two estimates that labels could judge they contradicted.
    """

    predictions: Predictions
    package: Package
    split: SplitRef
    basis: tuple[Basis, ...] = ()
    misses: tuple[float, ...] = ()
    contradicted: int = 0

    @property
    def trusted(self) -> bool:
        """Whether the next estimate is to be believed."""
        return self.contradicted < 2
