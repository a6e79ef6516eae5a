"""`training.tune` of model.yaml: which parameters are searched, in which bounds, and for how long."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from mlops_provider.sections.base import Section, Span
from mlops_provider.sections.lightgbm import RANGES

Value = bool | int | float | str

# LightGBM refuses a fraction for these, and takes only a truth value for those.
WHOLE = frozenset(name for name, wanted in RANGES.items() if wanted.whole)
TRUTHS = frozenset({
    "extra_trees",
    "is_unbalance",
    "boost_from_average",
    "use_missing",
    "feature_pre_filter",
    "enable_bundle",
    "lambdarank_norm",
})
_SEEDS = frozenset({"bagging_seed", "feature_fraction_seed", "extra_seed", "data_random_seed"})


class Dimension(Section):
    """Where one parameter is searched: from `low` to `high`, both included, or among `choices`.

    :param log: search the logarithm, so that each power of ten gets its share.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = Field(None, min_length=2)

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        bounds = (self.low, self.high)
        if self.choices is not None:
            if bounds != (None, None) or self.log:
                raise ValueError("choices stand alone: low, high and log are for a range")
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices names a value more than once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g}), and both finite")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0 ({self.low:g} has no logarithm)")
        return self

    def holds(self, value: Value) -> bool:
        """Whether a value lies in here."""
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool | str) or self.low is None or self.high is None:
            return False
        return self.low <= value <= self.high


class Tune(Section):
    """The search for parameters (Optuna), before a candidate is trained.

    :param trials: how many sets of parameters are tried at most.
    :param parallel: how many at a time. A wave is chosen by what came of the waves before it.
    :param timeout: training time of all trials together; when it is spent, no further wave begins.
    :param folds: partitions that a trial is measured on, each after a fit on all that was known before it.
    """

    trials: int = Field(20, ge=1, le=1000)
    parallel: int = Field(4, ge=1, le=64)
    timeout: Span | None = None
    folds: int = Field(1, ge=1, le=12)
    space: dict[str, Dimension] = Field(min_length=1)

    @property
    def waves(self) -> tuple[range, ...]:
        """Numbers of the trials of each wave."""
        starts = range(0, self.trials, self.parallel)
        return tuple(range(start, min(start + self.parallel, self.trials)) for start in starts)

    @model_validator(mode="after")
    def _searchable(self) -> Tune:
        if len(self.waves) > _WAVES:
            raise ValueError(
                f"{self.trials} trials, {self.parallel} at a time, are {len(self.waves)} waves: each is a task of its "
                f"own, and at most {_WAVES} are allowed; raise parallel or lower trials"
            )
        return self


_WAVES = 50


def fault(name: str, dimension: Dimension) -> str:
    """What makes a dimension unfit for the parameter of that name; empty if nothing."""
    given = dimension.choices or (dimension.low, dimension.high)
    if name in _SEEDS:
        return "a seed is luck and is not searched"
    if name in TRUTHS:
        return "" if all(isinstance(value, bool) for value in given) else "is true or false: give choices [true, false]"
    if any(isinstance(value, bool | str) for value in given):
        return "is a number"
    return "must be a whole number" if name in WHOLE and any(isinstance(value, float) for value in given) else ""
