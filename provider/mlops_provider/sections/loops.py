"""The sections of model.yaml after `data`: features, training, gates, scoring, monitoring; `retrain` has a module of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from mlops_provider.sections.base import Function, Name, Section, Share, Span
from mlops_provider.sections.evaluation import Bounds, Disparity, FairnessGate, SliceGate, SliceQuality
from mlops_provider.sections.lightgbm import amiss
from mlops_provider.sections.objectives import PARAMS, Metric, Objective
from mlops_provider.sections.tune import Tune, fault


class Features(Section):
    """How inputs become features.

    :param build: ``build(rows, history, as_of)`` in the model's directory.
    :param columns: the features it returns, in the model's order; all numeric.
    :param categorical: those of them that are codes of categories, whole numbers from 0; NaN and codes that training did not
        see go where LightGBM sends what it does not know.
    :param optional: those that may have no value in all of the training data, such as a window of the past in the first
        partition; of any other that is an error.
    :param fit: ``fit(features, labels)``, called on what a candidate is trained on; what it returns belongs to the version.
    :param apply: ``apply(features, fitted)``, called before each score with what the version's own training gave.
    """

    build: Function
    fit: Function | None = None
    apply: Function | None = None
    columns: tuple[str, ...] = Field(min_length=1)
    categorical: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @field_validator("columns", "categorical", "optional")
    @classmethod
    def _once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return columns

    @model_validator(mode="after")
    def _both(self) -> Features:
        if (self.fit is None) != (self.apply is None):
            raise ValueError("fit and apply go together: what is fitted must be applied, in training and in scoring")
        for place, names in (("categorical", self.categorical), ("optional", self.optional)):
            if strange := sorted(set(names) - set(self.columns)):
                raise ValueError(f"{place} names {', '.join(strange)}, which columns does not")
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
_INEXACT = "linear_tree linear_trees zero_as_missing boosting boosting_type boost"
_CATEGORICAL = "categorical_feature cat_feature categorical_column cat_column categorical_features"
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
    "feature_pre_filter enable_bundle cat_smooth cat_l2 max_cat_threshold max_cat_to_onehot min_data_per_group "
    "lambdarank_truncation_level lambdarank_norm"
)
_STOPPING = "early_stopping_round early_stopping_rounds early_stopping n_iter_no_change early_stopping_min_delta first_metric_only"


class EarlyStopping(Section):
    """Trees are added until the score of later rows has not improved for a while.

    :param rounds: trees without an improvement after which training stops; those up to the best one are kept.
    :param window: the last stretch of the labelled rows, in event time, that is measured on and not fitted on. Between it and
        what is fitted on lies the label delay.
    :param metric: what is measured, every row counting once; it follows from `objective` if it is not given.
    """

    rounds: int = Field(ge=1)
    window: Span
    metric: Metric = "log_loss"


class Weight(Section):
    """How much a row counts in fitting; with both, their product. Metrics count every row once.

    :param column: a feature that says so: a number from 0, never missing.
    :param half_life: a row that is older by this much, at the cutoff, counts half.
    """

    column: str | None = None
    half_life: Span | None = None

    @model_validator(mode="after")
    def _something(self) -> Weight:
        if self.column is None and self.half_life is None:
            raise ValueError("give column, half_life or both")
        return self


class Training(Section):
    """How a candidate is trained.

    :param objective: what is predicted. ``binary``: the chance of one of two outcomes. ``multiclass``: the chance of each
        class of `data.label.classes`. ``regression``: a number. ``lambdarank``: the order within each group of `data.group`.
    :param fit: ``fit(features, labels, weights, settings)`` in the model's directory, instead of LightGBM as told here.
    :param start: ``champion`` goes on from the champion's trees and adds `rounds` to them; ``fresh`` starts anew.
    :param memory: ``streamed`` keeps rows on disk, for data that is larger than memory; the trees are the same.
    """

    engine: Literal["lightgbm"] = "lightgbm"
    objective: Objective = "binary"
    params: dict[str, int | float | bool | str] = {}
    rounds: int = Field(100, ge=1, le=100_000)
    window: Window = Window()
    seed: int = Field(0, ge=0, le=2**31 - 1)
    early_stopping: EarlyStopping | None = None
    weight: Weight | None = None
    fit: Function | None = None
    start: Literal["fresh", "champion"] = "fresh"
    memory: Literal["whole", "streamed"] = "whole"
    resources: Resources = Resources()
    run_on: Literal["worker"] = "worker"
    tune: Tune | None = None

    @model_validator(mode="after")
    def _tunable(self) -> Training:
        """Trials are fitted anew, in memory, with `rounds` trees: what is then trained must be of that kind."""
        asked = {
            "fit": self.fit,
            "early_stopping": self.early_stopping,
            "start champion": self.start == "champion",
            "memory streamed": self.memory == "streamed",
        }
        if self.tune and (found := [name for name, value in asked.items() if value]):
            raise ValueError(
                f"tune does not go with {found[0]}: its trials are fitted anew, in memory, with `rounds` trees"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_tune(self) -> Training:
        """One partition to fit on before the first that a trial is measured on, and one that the search does not see."""
        if self.tune and self.window.minimum < self.tune.folds + 2:
            raise ValueError(
                f"tune: folds ({self.tune.folds}) need window.minimum of at least {self.tune.folds + 2}: partitions to "
                "fit on, to search on, and one more to accept on"
            )
        return self

    @model_validator(mode="after")
    def _streams(self) -> Training:
        for key, value in (("fit", self.fit), ("start", self.start if self.start == "champion" else None)):
            if value and self.memory == "streamed":
                raise ValueError(f"memory streamed does not go with {key} {value}, which needs all rows at once")
        return self

    @model_validator(mode="after")
    def _of_use(self) -> Training:
        for place, given in (("params", self.params), ("tune.space", self.tune.space if self.tune else {})):
            if idle := sorted(name for name in given if self.objective not in PARAMS.get(name, (self.objective,))):
                raise ValueError(f"{place}: {', '.join(idle)}: says nothing for the objective {self.objective}")
        return self

    @model_validator(mode="after")
    def _usable(self) -> Training:
        searched = self.tune.space if self.tune else {}
        for names, why in (
            (_OURS, "objective, metric, seed and resources are set elsewhere"),
            (_INEXACT, "the ONNX package could not score exactly so"),
            (_ROUNDS, "use training.rounds"),
            (_CATEGORICAL, "use features.categorical"),
            (_STOPPING, "use training.early_stopping"),
        ):
            for place, given in (("params", self.params), ("tune.space", searched)):
                if taken := sorted(set(names.split()) & set(given)):
                    raise ValueError(f"{place} must not set {', '.join(taken)}: {why}")
        for place, given in (("params", self.params), ("tune.space", searched)):
            if unknown := sorted(set(given) - set(_PARAMS.split())):
                raise ValueError(
                    f"{place}: {', '.join(unknown)}: not among LightGBM's parameters for training: {_PARAMS}"
                )
        for name, dimension in searched.items():
            if told := fault(name, dimension):
                raise ValueError(f"tune.space.{name}: {told}")
        if wrong := amiss(self.params):
            raise ValueError(f"params: {'; '.join(wrong)}")
        return self


Milliseconds = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


class LatencyLimits(Section):
    """How many milliseconds the package may take to score a batch of so many rows, by the median of several runs."""

    rows_1: Milliseconds = None
    rows_1000: Milliseconds = None
    rows_100000: Milliseconds = None

    @property
    def by_rows(self) -> dict[int, float]:
        """The limits that were given, by rows of the batch."""
        limits = {1: self.rows_1, 1_000: self.rows_1000, 100_000: self.rows_100000}
        return {rows: limit for rows, limit in limits.items() if limit is not None}


class Gates(Section):
    """What a candidate must show before it replaces the champion.

    :param thresholds: absolute limits by metric. They also decide on the first model, which has no champion to beat.
    :param min_gain: the lower confidence bound of the gain over the champion must be above this.
    :param parity: largest accepted relative difference between the package and the trained model.
    :param slices: by the name of the slices; slices that are not named here must not be proved worse than the champion's.
    :param fairness: limits of the differences between the groups of every column of `evaluation.fairness`.
    :param size: of the ONNX file.
    """

    thresholds: dict[Metric, Bounds] = Field(min_length=1)
    min_gain: float = Field(0.0, ge=0, allow_inf_nan=False)
    parity: float = Field(1e-6, gt=0, le=1e-3)
    slices: dict[Name, SliceGate] = {}
    fairness: dict[Disparity, FairnessGate] = {}
    latency: LatencyLimits = LatencyLimits()
    size: str | None = Field(None, pattern=r"^[1-9]\d{0,5}(KiB|MiB|GiB)$")

    @property
    def size_bytes(self) -> int | None:
        """The largest accepted size of the ONNX file in bytes; None if any will do."""
        if self.size is None:
            return None
        return int(self.size[:-3]) * {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[self.size[-3:]]


class Edge(Section):
    """A smaller variant of each package, for devices: measured beside the package, never scored with by the loops.

    :param keep: share of the trees that are kept, the first ones; at least one is.
    :param precision: of inputs, thresholds and leaves; ``float32`` scores each float32 input as the trees do.
    :param max_loss: largest accepted loss in the primary metric on the holdout; None only measures it.
    """

    keep: float = Field(1.0, gt=0, le=1)
    precision: Literal["float32", "float64"] = "float32"
    max_loss: float | None = Field(None, ge=0, allow_inf_nan=False)


class Packaging(Section):
    """What is packaged beside the model itself.

    :param edge: none unless it is given.
    """

    edge: Edge | None = None


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
    """Quality of the predictions made, once labels are there.

    :param coverage: share of the rows whose labels are due that must have one.
    :param slices: by the name of the slices (`evaluation.slices`).
    """

    thresholds: dict[Metric, Bounds] = Field(min_length=1)
    coverage: Share = 0.9
    slices: dict[Name, SliceQuality] = {}


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
