"""The sections of model.yaml after `data`: features, training, evaluation, gates, scoring, monitoring, retrain."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from mlops_provider.sections.base import Function, Metric, Section, Share, Span
from mlops_provider.sections.lightgbm import amiss


class Features(Section):
    """How inputs become features.

    :param build: ``build(rows, history, as_of)`` in the model's directory.
    :param columns: the features it returns, in the model's order; all numeric.
    :param fit: ``fit(features, labels)``, called on what a candidate is trained on; what it returns belongs to the version.
    :param apply: ``apply(features, fitted)``, called before each score with what the version's own training gave.
    """

    build: Function
    fit: Function | None = None
    apply: Function | None = None
    columns: tuple[str, ...] = Field(min_length=1)

    @field_validator("columns")
    @classmethod
    def _once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return columns

    @model_validator(mode="after")
    def _both(self) -> Features:
        if (self.fit is None) != (self.apply is None):
            raise ValueError("fit and apply go together: what is fitted must be applied, in training and in scoring")
        return self


class Window(Section):
    """Which labelled partitions a candidate is fitted on: all (expanding), or the last `size` (rolling)."""

    kind: Literal["expanding", "rolling"] = "expanding"
    minimum: int = Field(3, ge=1)
    size: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _sized(self) -> Window:
        if (self.kind == "rolling") != (self.size is not None):
            raise ValueError("a rolling window needs size (partitions), an expanding one has none")
        if self.size is not None and self.size < self.minimum:
            raise ValueError(f"size ({self.size}) must be at least minimum ({self.minimum})")
        return self


class Resources(Section):
    """What a step may use; threads are set from `cpu`, never guessed."""

    cpu: int = Field(1, ge=1, le=256)


# Parameters for which the exported ONNX model would not score exactly as LightGBM does, or that the loops set.
_INEXACT = (
    "linear_tree linear_trees zero_as_missing boosting boosting_type boost categorical_feature cat_feature "
    "categorical_column cat_column categorical_features"
)
_OURS = (
    "objective objective_type app application loss num_threads num_thread n_jobs nthread nthreads seed random_seed "
    "random_state metric metrics metric_types device_type device"
)
_ROUNDS = (
    "num_iterations num_iteration n_iter num_tree num_trees num_round num_rounds nrounds num_boost_round "
    "n_estimators max_iter"
)


# LightGBM would pass over a name that it does not know without a word.
_PARAMS = (
    "learning_rate num_leaves max_depth min_data_in_leaf min_sum_hessian_in_leaf bagging_fraction pos_bagging_fraction "
    "neg_bagging_fraction bagging_freq bagging_seed feature_fraction feature_fraction_bynode feature_fraction_seed "
    "extra_trees extra_seed max_delta_step lambda_l1 lambda_l2 min_gain_to_split path_smooth max_bin min_data_in_bin "
    "bin_construct_sample_cnt data_random_seed is_unbalance scale_pos_weight sigmoid boost_from_average use_missing "
    "feature_pre_filter enable_bundle"
)


class Training(Section):
    """How a candidate is trained."""

    engine: Literal["lightgbm"] = "lightgbm"
    objective: Literal["binary"] = "binary"
    params: dict[str, int | float | bool | str] = {}
    rounds: int = Field(100, ge=1, le=100_000)
    window: Window = Window()
    seed: int = Field(0, ge=0, le=2**31 - 1)
    resources: Resources = Resources()
    run_on: Literal["worker"] = "worker"

    @model_validator(mode="after")
    def _usable(self) -> Training:
        for names, why in (
            (_OURS, "objective, metric, seed and resources are set elsewhere"),
            (_INEXACT, "the ONNX package could not score exactly so"),
            (_ROUNDS, "use training.rounds"),
        ):
            if taken := sorted(set(names.split()) & set(self.params)):
                raise ValueError(f"params must not set {', '.join(taken)}: {why}")
        if unknown := sorted(set(self.params) - set(_PARAMS.split())):
            raise ValueError(f"params: {', '.join(unknown)}: not among LightGBM's parameters for training: {_PARAMS}")
        if wrong := amiss(self.params):
            raise ValueError(f"params: {'; '.join(wrong)}")
        return self


class Evaluation(Section):
    """How candidate and champion are compared, on the same holdout rows.

    :param metric: the primary metric, the one that a candidate must improve.
    :param cut: a score from here on is decided as positive.
    :param block: resampling unit of the paired bootstrap, in event time.
    :param confidence: of the two-sided interval.
    """

    metric: Metric = "auc"
    metrics: tuple[Metric, ...] = ("auc", "log_loss", "brier")
    cut: float = Field(0.5, gt=0, lt=1)
    block: Span = "1d"
    minimum_blocks: int = Field(20, ge=2)
    resamples: int = Field(300, ge=100)
    confidence: float = Field(0.9, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _primary_is_measured(self) -> Evaluation:
        if self.metric not in self.metrics:
            raise ValueError(f"metrics must name the primary metric {self.metric!r}")
        return self


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


class Gates(Section):
    """What a candidate must show before it replaces the champion.

    :param thresholds: absolute limits by metric. They also decide on the first model, which has no champion to beat.
    :param min_gain: the lower confidence bound of the gain over the champion must be above this.
    :param parity: largest accepted relative difference between the package and the trained model.
    """

    thresholds: dict[Metric, Bounds] = Field(min_length=1)
    min_gain: float = Field(0.0, ge=0, allow_inf_nan=False)
    parity: float = Field(1e-6, gt=0, le=1e-3)


class Scoring(Section):
    """How partitions are scored.

    :param order: ``wait`` scores a partition once every earlier labelled partition has been decided, so that a backlog is
        scored as it would have been live; ``immediate`` never waits.
    """

    order: Literal["wait", "immediate"] = "wait"
    resources: Resources = Resources()
    run_on: Literal["worker"] = "worker"


class Drift(Section):
    """Input drift against the champion's training data (Evidently)."""

    threshold: float = Field(0.1, gt=0, allow_inf_nan=False)
    share: Share = 0.5
    sample: int = Field(10_000, gt=1_000)


class Quality(Section):
    """Quality of the predictions made, once labels are there."""

    thresholds: dict[Metric, Bounds] = Field(min_length=1)
    coverage: Share = 0.9


class Monitoring(Section):
    """What is watched; `schedule` is a cron expression in UTC, the safety net under the events."""

    schedule: str = "0 6 * * *"
    drift: Drift = Drift()
    quality: Quality

    @model_validator(mode="after")
    def _cron(self) -> Monitoring:
        from croniter import croniter

        if not croniter.is_valid(self.schedule):
            raise ValueError(
                f"schedule: {self.schedule!r} is no cron expression, expected five fields such as '0 6 * * *'"
            )
        return self


class Retrain(Section):
    """When the loops train.

    ``never``: only on a person's demand. ``periodic``: after every `every` newly labelled partitions. ``threshold``: when at
    least `violations` of the last `windows` judged partitions, the newest among them, missed a quality threshold.
    """

    policy: Literal["never", "periodic", "threshold"] = "threshold"
    every: int = Field(1, ge=1)
    windows: int = Field(3, ge=1)
    violations: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Retrain:
        if self.violations > self.windows:
            raise ValueError(f"violations ({self.violations}) cannot exceed windows ({self.windows})")
        return self
