"""What the steps hand to each other: small frozen records; anything big is a file that they name."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.modelcode import CodeRef
from mlops_provider.storage import Artifact, digest

Parameters = dict[str, bool | int | float | str]


class DataWork(Frozen):
    """A partition whose inputs and labels have arrived, as they lay there when the work was planned.

    :param problem: why the partition cannot be worked on, for instance a file that is missing; empty if it can.
    :param accepted: once it was judged: the inputs without the rows that validation put into quarantine; None if all
        of them were accepted, and in records of old.
    :param quarantined: the rows of the feature table that validation put into quarantine, likewise.
    """

    partition: str
    inputs: Artifact | None = None
    labels: Artifact | None = None
    history: dict[str, Artifact] = {}
    problem: str = ""
    accepted: Artifact | None = None
    quarantined: Artifact | None = None

    @property
    def identity(self) -> str:
        """Hash of the delivered content: a partition delivered again with other content is judged again."""
        hashes = [a.hash if a else "" for a in (self.inputs, self.labels)]
        return digest([hashes, {n: a.hash for n, a in self.history.items() if self.partition in a.uri}])


class DataVersion(Frozen):
    """A versioned dataset, or a partition of one.

    :param partition: empty if the dataset is versioned as a whole.
    :param rev: git commit whose DVC pointer names the content.
    :param path: of the content in the data repository; its pointer has ``.dvc`` after it.
    :param md5: content hash as DVC computes it; that of a folder ends in ``.dir``.
    :param size: bytes, of all files together.
    :param schema_hash: hash of the names and types of the columns, in their order; empty in records of old.
    :param uri: where the content lies in the DVC remote; empty in records of old.
    """

    partition: str
    rev: str
    tag: str
    path: str
    md5: str
    size: int
    rows: int
    files: int = 1
    schema_hash: str = ""
    uri: str = ""


class FeatureVersion(DataVersion):
    """An accepted, versioned feature table of one partition.

    :param first: earliest event time in the table, UTC; `last` the latest.
    :param labelled: rows with a label.
    :param maker: hash of the code and settings that made the table (`steps/data/standard.py`); empty in records of old.
    """

    labelled: int
    first: dt.datetime
    last: dt.datetime
    maker: str = ""


class Split(Frozen):
    """What a candidate is fitted on and judged on. The holdout lies after the fit, by at least the label delay.

    :param cutoff: rows whose label was not known at this moment are not fitted on.
    """

    fit: tuple[FeatureVersion, ...]
    holdout: FeatureVersion
    holdout_work: DataWork
    cutoff: dt.datetime


class SplitRef(Frozen):
    """A split by reference: it grows with the history, so it travels as a file.

    :param until: latest event time of the holdout: nothing later was seen.
    """

    file: Artifact
    holdout: str
    first: str
    last: str
    partitions: int
    until: dt.datetime


class Validation(Frozen):
    """What early stopping measured on, later than all that was fitted on.

    :param value: of the metric, with the trees that were kept; None if the model's own `fit` did not tell.
    """

    metric: str
    value: float | None = None
    rows: int
    first: dt.datetime
    last: dt.datetime


class Trained(Frozen):
    """A fitted model, before it is packaged.

    :param model_hash: sha256 of the trees alone: equal for any number of threads.
    :param reference: a sample of the training features, as they were built, for drift and parity.
    :param fitted: statistics that the model's own code fitted on the training data, if it does that.
    :param trees: how many there are; 0 in records of old.
    :param validation: what early stopping measured, if it was asked for.
    :param start: the version whose trees it goes on from, if it does.
    :param environment: versions of what it was fitted with.
    :param params: tuned parameters, which came before those of model.yaml.
    :param tuning: record of the search, whether its result was kept or not; None if there was none.
    """

    booster: Artifact
    reference: Artifact
    model_hash: str
    fingerprint: str
    rows: int
    split: SplitRef
    fitted: Artifact | None = None
    drill: str | None = None
    trees: int = 0
    validation: Validation | None = None
    start: int | None = None
    environment: dict[str, str]
    params: Parameters = {}
    tuning: Artifact | None = None


class Latency(Frozen):
    """How long scoring a batch took, in milliseconds, where the package was made.

    :param rows: of the batch; `runs` is how often it was scored, 0 if it was not, `why` says why not.
    :param median: of the runs; `p95` their 95th percentile.
    """

    rows: int
    runs: int
    median: float | None = None
    p95: float | None = None
    why: str = ""


class Package(Frozen):
    """A model as it is deployed: data, not code.

    :param objective: what it predicts; `classes` those that its scores have columns for, none if a score is one number.
    :param features: names in the order of the input tensor.
    :param cut: a score from here on is decided as positive; None unless the objective is binary.
    :param fitted: the version's own statistics, applied to features before they are scored.
    :param files: what travels with the model, by file name: golden.json, schema.json, profile.json, environment.txt,
        and the edge variants if model.yaml asks for them. Empty in records of old.
    :param latency: by batch, smallest first; empty in records of old.
    :param checks: what else was checked while it was packaged.
    """

    onnx: Artifact
    booster: Artifact
    reference: Artifact
    code: CodeRef
    features: tuple[str, ...]
    fitted: Artifact | None = None
    objective: str = "binary"
    classes: tuple[str, ...] = ()
    cut: float | None
    parity: Verdict
    files: dict[str, Artifact] = {}
    latency: tuple[Latency, ...] = ()
    checks: tuple[Check, ...] = ()


class Interval(Frozen):
    """A gain of the candidate over the champion in the primary metric, positive is better, with its bounds."""

    gain: float
    low: float
    high: float
    blocks: int
    confidence: float


class Trial(Frozen):
    """A set of parameters that was tried.

    :param state: ``failed`` if LightGBM refused them or nothing could be measured, ``out_of_time`` if it was stopped,
        ``not_started`` if the time was spent before its turn.
    :param value: the primary metric, mean over the partitions it was measured on, which `values` lists.
    """

    number: int
    wave: int
    params: Parameters = {}
    state: Literal["finished", "failed", "out_of_time", "not_started"]
    value: float | None = None
    values: dict[str, float] = {}
    seconds: float = 0.0
    reason: str = ""
    run_id: str = ""


class Tuned(Frozen):
    """What a search for parameters came to.

    :param params: the parameters to train with beside those of model.yaml; none if what it found was not kept.
    :param best: the parameters that were best in the search, and `trial` their number.
    :param interval: their gain over model.yaml's on the partition that the search did not see.
    :param stopped: whether the time was spent before all trials were run: a repetition may find other parameters.
    :param record: file with all trials.
    """

    params: Parameters = {}
    best: Parameters = {}
    trial: int | None = None
    finished: int
    trials: int
    metric: str
    partition: str
    interval: Interval | None = None
    stopped: bool = False
    verdict: Verdict
    reason: str
    run_id: str
    record: Artifact


class Evaluation(Frozen):
    """Candidate and champion on the same holdout rows.

    :param champion_version: None if there was no champion to compare with.
    :param findings: all that was found beside the comparison, as JSON (steps/training/findings.py); None in records of
        old, and where the holdout could not be trusted.
    :param report: the same as a page for people.
    """

    metric: str
    partition: str
    rows: int
    candidate: dict[str, float]
    champion: dict[str, float] | None = None
    champion_version: int | None = None
    interval: Interval | None = None
    verdict: Verdict
    findings: Artifact | None = None
    report: Artifact | None = None


class ModelVersion(Frozen):
    """A registered version with its lineage: the unit of trust.

    :param lineage: file with the whole lineage: data versions, code, configuration, environment.
    :param card: the model card, in Markdown; None in records of old.
    """

    model: str
    version: int
    run_id: str
    fingerprint: str
    package: Package
    split: SplitRef
    lineage: Artifact
    drill: str | None = None
    card: Artifact | None = None

    @property
    def seen_until(self) -> str:
        """The last partition that the version was fitted or judged on: it scores only later ones."""
        return self.split.holdout


class ScoreWork(Frozen):
    """A partition to score and the version to score it with."""

    partition: str
    inputs: Artifact
    history: dict[str, Artifact] = {}
    version: ModelVersion


class Predictions(Frozen):
    """A scored partition: the manifest that commits it.

    :param positives: rows decided as positive; None unless the objective is binary.
    :param mean_score: of a multiclass objective the mean score of the likeliest class.
    """

    partition: str
    table: Artifact
    version: int
    fingerprint: str
    rows: int
    positives: int | None
    mean_score: float
    inputs: Artifact
    history: dict[str, Artifact] = {}
    code: CodeRef
    reference: Artifact
    scored_at: dt.datetime


class Drifted(Frozen):
    """Input drift of a scored partition against the training data of the version that scored it."""

    partition: str
    version: int
    columns: tuple[str, ...]
    of: int
    verdict: Verdict
    report: Artifact


class Measured(Frozen):
    """Quality of a scored partition, after its labels arrived.

    :param low: bounds of the primary metric's interval; None if it could not be measured.
    :param coverage: share of the rows whose labels are due that have one.
    :param due: rows whose labels are due, of all `rows` that were scored; None in records of old.
    :param calibration: expected calibration error; None if there is none to speak of.
    :param findings: slices and calibration, as JSON (`QualityFindings`).
    """

    partition: str
    version: int
    metrics: dict[str, float]
    low: float | None
    high: float | None
    coverage: float
    rows: int | None = None
    due: int | None = None
    calibration: float | None = None
    findings: Artifact | None = None
    verdict: Verdict


class Decision(Frozen):
    """Whether to train, and why."""

    partition: str
    retrain: bool
    reason: str
    record: int


class Judged(Frozen):
    """What the gate found.

    :param outcome: promote, harmful, no_proven_gain, below_threshold, not_comparable, tests_failed, untested or drill_passed.
    """

    version: int
    outcome: str
    reason: str
    verdict: Verdict
    evaluation: Evaluation

    @property
    def promote(self) -> bool:
        return self.outcome == "promote"


class Released(Frozen):
    """A decision about a version, as it stands in the ledger and in the registry."""

    version: int
    previous: int | None
    record: int
    reason: str
