"""The section `evaluation` of model.yaml, and what gates may ask of its slices and groups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mlops_provider.sections.base import Name, Section, Share, Span
from mlops_provider.sections.objectives import Metric

Finite = Annotated[float, Field(allow_inf_nan=False)]
Disparity = Literal["demographic_parity_difference", "equalized_odds_difference"]


class Bounds(Section):
    """Absolute limits of a metric."""

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bounded(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g})")
        return self


class Slices(Section):
    """Slices of the holdout by one column; rows without a value are a slice of their own.

    :param column: a feature, or a column of the inputs.
    :param values: one slice a value; every value that occurs if neither this nor `bins` is given.
    :param bins: edges of intervals, closed on the left: two edges make three slices.
    """

    column: str
    values: tuple[str | int | float | bool, ...] | None = Field(None, min_length=1)
    bins: tuple[Finite, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_way(self) -> Slices:
        if self.values is not None and self.bins is not None:
            raise ValueError("give values or bins, not both")
        if self.values is not None and len(set(self.values)) < len(self.values):
            raise ValueError("values names a value twice")
        if self.bins is not None and list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must be edges that rise")
        return self


class Baselines(Section):
    """The simple models that a candidate is compared with: one that knows the labels' distribution alone, and a linear one.

    :param severity: what it means if the candidate is not proved better than both.
    :param rows: the linear model is fitted on this many rows at most.
    """

    severity: Literal["fail", "warn"] = "warn"
    rows: int = Field(20_000, ge=100, le=1_000_000)


class Calibration(Section):
    """Whether scores are probabilities; of a regression, whether they are right on average wherever they lie.

    :param bins: of equally many rows.
    :param max_error: the expected calibration error above which there is a warning, of a regression in the unit of the
        label; None for none.
    """

    bins: int = Field(10, ge=2, le=100)
    max_error: float | None = Field(None, gt=0, allow_inf_nan=False)


class Importance(Section):
    """What the primary metric loses if a feature is permuted.

    :param rows: of the holdout, at most; 0 leaves the importance out.
    :param costs: what a feature costs, in a unit of your own.
    :param worth: gain in the primary metric that one unit of cost must bring.
    """

    rows: int = Field(2_000, ge=0, le=1_000_000)
    costs: dict[str, float] = {}
    worth: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _priced(self) -> Importance:
        if bool(self.costs) != (self.worth is not None):
            raise ValueError("costs and worth go together: what features cost, and what one unit of it must bring")
        if bad := sorted(name for name, cost in self.costs.items() if not 0 < cost < float("inf")):
            raise ValueError(f"costs of {', '.join(bad)} must be above 0")
        return self


class Robustness(Section):
    """How the primary metric stands inputs that are worse than usual, on the rows of the importance.

    :param noise: normal noise on every feature of more than 20 values, in standard deviations of the feature.
    :param missing: share of the values that are taken away.
    :param max_loss: of the primary metric, above which there is a warning; None for none.
    """

    noise: float = Field(0.1, gt=0, le=10)
    missing: Share = 0.1
    max_loss: float | None = Field(None, ge=0, allow_inf_nan=False)


class Evaluation(Section):
    """How candidate and champion are compared, on the same holdout rows.

    :param metric: the primary metric, the one that a candidate must improve. It and `metrics` follow from
        `training.objective` if they are not given.
    :param cut: a score from here on is decided as positive; for a binary objective alone.
    :param block: resampling unit of the paired bootstrap, in event time.
    :param confidence: of the two-sided interval.
    :param slices: slices by name; they gate (`gates.slices`).
    :param minimum_rows: a slice with fewer labelled rows is told and gates nothing.
    :param fairness: columns whose groups are compared; for a binary objective alone.
    """

    metric: Metric = "auc"
    metrics: tuple[Metric, ...] = ("auc", "log_loss", "brier")
    cut: float = Field(0.5, gt=0, lt=1)
    block: Span = "1d"
    minimum_blocks: int = Field(20, ge=2)
    resamples: int = Field(300, ge=100)
    confidence: float = Field(0.9, gt=0.5, lt=1)
    baselines: Baselines = Baselines()
    slices: dict[Name, Slices] = {}
    minimum_rows: int = Field(500, ge=100)
    calibration: Calibration = Calibration()
    importance: Importance = Importance()
    robustness: Robustness = Robustness()
    fairness: tuple[str, ...] = ()

    @field_validator("fairness")
    @classmethod
    def _once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) < len(columns):
            raise ValueError("names a column twice")
        return columns

    @model_validator(mode="after")
    def _primary_is_measured(self) -> Evaluation:
        if self.metric not in self.metrics:
            raise ValueError(f"metrics must name the primary metric {self.metric!r}")
        return self

    @property
    def grouping(self) -> dict[str, str]:
        """The columns that rows are put into groups by, with the key that asks for it."""
        named = {f"evaluation.slices.{name}": rule.column for name, rule in self.slices.items()}
        return named | {f"evaluation.fairness[{number}]": column for number, column in enumerate(self.fairness)}


class SliceGate(Section):
    """What a candidate must show on each slice of a name.

    :param max_loss: a larger loss in the primary metric against the champion must not be proved on any slice.
    :param thresholds: absolute limits by metric; it must not be proved that a slice misses one.
    :param severity: what it means if it is proved.
    """

    max_loss: float = Field(0.0, ge=0, allow_inf_nan=False)
    thresholds: dict[Metric, Bounds] = {}
    severity: Literal["fail", "warn"] = "fail"


class SliceQuality(Section):
    """What the predictions made must be worth on each slice of a name.

    :param thresholds: absolute limits by metric; it must not be proved that a slice misses one.
    """

    thresholds: dict[Metric, Bounds] = Field(min_length=1)
    severity: Literal["fail", "warn"] = "fail"


class FairnessGate(Section):
    """A limit of the difference between groups.

    :param max: the largest difference that is accepted.
    """

    max: float = Field(ge=0, le=1)
    severity: Literal["fail", "warn"] = "fail"
