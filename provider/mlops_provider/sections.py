"""The sections of model.yaml, as typed and validated data. `ModelConfig` in config.py puts them together."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mlops_provider.partitions import Frequency, beside, parse_duration

NAME = r"^[a-z][a-z0-9_]{1,62}$"
REF = r"^[A-Za-z0-9][A-Za-z0-9._/@+#=-]{0,199}$"
ENVIRONMENT = r"^[a-z][a-z0-9_-]{0,30}$"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("must be a path inside the model's directory, without '..'")
    return path


def _function(path: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*\.py:[a-z_][a-z0-9_]*", path):
        raise ValueError("must look like 'features.py:build': a file in the model's directory and a function in it")
    return path


def _duration(value: str) -> str:
    parse_duration(value)
    return value


Name = Annotated[str, StringConstraints(pattern=NAME)]
Inside = Annotated[str, AfterValidator(_inside)]
Function = Annotated[str, AfterValidator(_function)]
Duration = Annotated[str, AfterValidator(_duration)]
Share = Annotated[float, Field(ge=0, le=1)]
Metric = Literal["auc", "log_loss", "brier"]


_NUMBERS = (int, float, int | None, float | None)


class Section(BaseModel):
    """A part of model.yaml; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: object, info: ValidationInfo) -> object:
        """A number must be written as one: no ``yes`` for 1, no text with digits in it."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if wanted in _NUMBERS and isinstance(value, bool | str):
            raise ValueError("must be a number")
        return value


class Label(Section):
    """What came true, and when it is known.

    `positive_above` makes a binary label of a number: 1 above it, 0 up to it, unlabelled where it is null.
    """

    source: str
    column: str
    positive_above: float
    delay: Duration


class Suites(Section):
    """Great Expectations suites, as JSON or YAML files in the model's directory."""

    raw: Inside
    features: Inside


class Dvc(Section):
    """Where accepted data is versioned: a git repository with a DVC remote. Relative places lie under data_root."""

    repository: str
    remote: str
    path: Name


class Completeness(Section):
    """When a partition that is there is taken for complete.

    :param complete: ``stable``: its files are the same in two looks. ``marker``: a marker file lies there and is not older
        than them. ``rows``: stable, and its parquet files hold at least `rows`.
    :param marker: name of the marker, in the folder of the source; may hold ``{partition}``.
    """

    complete: Literal["stable", "marker", "rows"] = "stable"
    marker: str = Field("_SUCCESS", pattern=r"^[^/*?\[\]]+$")
    rows: int = Field(1, ge=1)

    def marker_of(self, source: str) -> str:
        """URI of the marker of a source.

        :raises ValueError: if all partitions would share it.
        """
        if "{partition}" not in (uri := beside(source, self.marker)):
            raise ValueError(
                f"marker: all partitions of {source} would share {uri}: put {{partition}} into the marker's name, or end the "
                "source with '/' if a partition is a folder"
            )
        return uri


class Watch(Completeness):
    """How partitions are noticed when nobody posts an event.

    :param poll: time between two looks at the source.
    """

    poll: Duration = "60s"

    @field_validator("poll")
    @classmethod
    def _has_a_width(cls, poll: str) -> str:
        if not parse_duration(poll):
            raise ValueError("must be longer than nothing")
        return poll


class History(Section):
    """A further table that features are built from.

    :param known_at: its column with the moment from which each row was known; a table with timestamps needs one, so that
        it can be checked that no feature looks ahead.
    """

    source: str
    known_at: str | None = None


class Past(Section):
    """Earlier partitions with what came true, handed to the features function as ``history["past"]``.

    :param window: how far back it reaches from a partition's first predictions.
    """

    window: Duration

    @field_validator("window")
    @classmethod
    def _reaches_back(cls, window: str) -> str:
        if not parse_duration(window):
            raise ValueError("must be longer than nothing")
        return window


PAST, KNOWN_AT = "past", "known_at"


class Limits(Section):
    """What the model's own tests may use. Each process may use that much; `wall` ends all of them.

    :param memory: address space, which is more than what is resident: pandas alone asks for half a gibibyte.
    """

    cpu_seconds: int = Field(300, ge=1, le=86_400)
    memory: str = Field("4GiB", pattern=r"^[1-9]\d{0,5}(MiB|GiB)$")
    wall: Duration = "10m"
    processes: int = Field(64, ge=1, le=4_096)


class Code(Section):
    """Where the model's code and its tests are looked up when a run asks for a commit. Never taken from `conf`.

    :param repository: git repository; None if only the code as deployed is tested.
    :param path: the model's directory in it; ``include/models/<name>`` if not given.
    :param refs: regular expression that the whole of an asked ref must match.
    :param protected: branches that only reviewed code gets into; a commit must be reachable from one of them.
    :param allow_untrusted_refs: test commits that are not, for instance those of a merge request.
    """

    repository: str | None = Field(None, pattern=r"^[A-Za-z0-9._/~]")
    path: Inside | None = None
    refs: str = r"[A-Za-z0-9].*"
    protected: tuple[Annotated[str, StringConstraints(pattern=REF)], ...] = Field(("main",), min_length=1)
    allow_untrusted_refs: bool = False
    limits: Limits = Limits()

    @field_validator("repository")
    @classmethod
    def _no_secret(cls, repository: str | None) -> str | None:
        scheme = (repository or "").partition("://")[0]
        if "::" in scheme or ("://" in (repository or "") and scheme not in ("https", "http", "ssh", "git", "file")):
            raise ValueError("must be a path or an address with https://, http://, ssh://, git:// or file://")
        if re.match(r"[a-z]+://[^/@]*:[^/@]*@", repository or ""):
            raise ValueError("must hold no password: git's credential helpers bring it")
        return repository

    @field_validator("refs")
    @classmethod
    def _expression(cls, refs: str) -> str:
        try:
            re.compile(refs)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return refs


class Changes(Section):
    """How far a partition may differ from the accepted ones before it, and from what is plausible.

    :param row_count: relative: rows more or fewer, as a share of the last accepted partition's rows.
    :param null_share: absolute: a column's share of nulls may differ by this much from the last accepted partition's.
    :param columns: what a column of the inputs that was added, removed or retyped means; `jumps` likewise.
    :param duplicates: what a key means that was accepted before; ``allow`` where keys name what returns, a customer say.
    :param leakage: a feature whose AUC against the label, alone and in either direction, is above this is a leak.
    :param partitions: how many accepted partitions may not share a key with this one.
    """

    row_count: float = Field(0.5, gt=0, allow_inf_nan=False)
    null_share: Share = 0.2
    jumps: Literal["fail", "warn"] = "warn"
    columns: Literal["fail", "warn"] = "fail"
    duplicates: Literal["fail", "warn", "allow"] = "fail"
    leakage: float = Field(0.98, gt=0.5, le=1)
    partitions: int = Field(12, ge=1, le=1_000)


class Validation(Section):
    """What a failed critical expectation means.

    ``fail`` refuses the partition, ``warn`` lets it through with a warning, ``quarantine`` puts the rows that break it aside
    and lets the rest through, unless they are more than `max_share` of all rows.
    """

    mode: Literal["fail", "warn", "quarantine"] = "fail"
    max_share: Share = 0.05


class Data(Section):
    """Where the data comes from. Relative URIs lie under the deployment's data_root.

    :param source: inputs of a partition, labels not needed; holds ``{partition}``.
    :param columns: the columns of the inputs that features may be built from. Nothing else is read.
    :param pii: columns of the inputs, labels or history that tell who a person is: no step reads their values.
    :param history: further tables handed to the features function by name.
    :param past: hands it the outcomes of earlier partitions, too.
    :param lead: how long before `event_time` the prediction is made: nothing known later may be used.
    :param code: repository and limits of the model's own tests.
    :param replay: function that delivers partitions for demos and tests, as ``feed.py:deliver``.
    :param watch: look for new inputs and labels, instead of being told. It shapes no model, so that it is no part of the
        code archive and of fingerprints.
    :param changes: what a partition is held against beside its suites.
    """

    source: str
    partition: Frequency
    key: str
    event_time: str
    lead: Duration = "0h"
    columns: tuple[str, ...] = Field(min_length=1)
    pii: tuple[str, ...] = ()
    history: dict[str, History] = {}
    past: Past | None = None
    label: Label
    suites: Suites
    validation: Validation = Validation()
    dvc: Dvc
    code: Code | None = None
    replay: Function | None = None
    watch: Watch | None = Field(None, exclude=True)

    @field_validator("history", mode="before")
    @classmethod
    def _named_by_source(cls, history: object) -> object:
        """A table without a time needs no more than its source."""
        if not isinstance(history, dict):
            return history
        return {name: {"source": told} if isinstance(told, str) else told for name, told in history.items()}

    @model_validator(mode="after")
    def _private(self) -> Data:
        needed = {self.key: "key", self.event_time: "event_time", self.label.column: "label.column"}
        needed |= {t.known_at: f"history.{name}.known_at" for name, t in self.history.items() if t.known_at}
        for name in self.pii:
            if name in needed:
                raise ValueError(
                    f"pii must not name {name!r} ({needed[name]}): tables and reports hold it. Have a pseudonym delivered"
                )
            if name in self.columns:
                raise ValueError(f"columns must not name {name!r}: it is marked pii, and features would see it")
        return self

    changes: Changes = Changes()

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        for name, uri in (("source", self.source), ("label.source", self.label.source)):
            if "{partition}" not in uri:
                raise ValueError(f"{name} must hold {{partition}}: each partition has files of its own")
        for name in (self.key, self.event_time):
            if name not in self.columns:
                raise ValueError(f"columns must name {name!r} (key and event_time)")
        if self.label.column in self.columns:
            raise ValueError(f"columns must not name the label {self.label.column!r}: features would see it")
        if self.watch and self.watch.complete == "marker":
            for source in (self.source, self.label.source):
                self.watch.marker_of(source)
        if PAST in self.history:
            raise ValueError(f"history must not name a table {PAST!r}: data.past brings the one of that name")
        if self.past and (taken := sorted({KNOWN_AT, "label"} & set(self.columns))):
            raise ValueError(f"columns must not name {', '.join(taken)}: data.past adds it to the rows of the past")
        return self


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
    seed: int = 0
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
    block: Duration = "1d"
    minimum_blocks: int = Field(20, ge=2)
    resamples: int = Field(300, ge=100)
    confidence: float = Field(0.9, gt=0.5, lt=1)

    @field_validator("block")
    @classmethod
    def _has_a_width(cls, block: str) -> str:
        if not parse_duration(block):
            raise ValueError("must be longer than nothing")
        return block

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
    min_gain: float = Field(0.0, ge=0)
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

    threshold: float = Field(0.1, gt=0)
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
