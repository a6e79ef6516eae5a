"""Features: the model's own code turns delivered inputs into a table, and labels join by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_provider.checks import Frozen, Verdict
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.sections import KNOWN_AT, PAST
from mlops_provider.steps import tables
from mlops_provider.steps.data import past, privacy
from mlops_provider.steps.data.feature_checks import Function, check_features
from mlops_provider.steps.data.rows import GROUP, check_key, event_times, groups, in_partition, labels, learnable
from mlops_provider.steps.data.rows import LABEL as LABEL
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd


class FeaturesArguments(Frozen):
    """The partition to build features of.

    :param accepted: the inputs without the rows that validation put into quarantine; all inputs if it is not given.
    """

    work: DataWork
    accepted: Artifact | None = None


class FeaturesResult(Frozen):
    """The labelled feature table: key, event time, the features as float64, and the label (null where there is none). Of a
    ranking it has the group, too.

    :param positives: rows with a positive label; None if the objective knows none.
    :param verdict: what was found of the features function on this partition.
    :param built_from: the accepted inputs, where others had been put into quarantine.
    """

    partition: str
    table: Artifact
    built_from: Artifact | None = None
    labelled: int
    positives: int | None = None
    verdict: Verdict


@dataclass(frozen=True)
class Delivered:
    """What the features function gets: the declared columns of the rows, the history, and the moment of each prediction.

    :ivar event_time: in UTC, one a row.
    """

    rows: pd.DataFrame
    history: dict[str, pd.DataFrame]
    event_time: pd.Series[Any]
    as_of: pd.Series[Any]
    uri: str


@step("build_features", arguments=FeaturesArguments, result=FeaturesResult, sections=("data", "features"), code=True)
def build_features(job: Job, arguments: FeaturesArguments) -> FeaturesResult:
    """Builds the labelled feature table of a partition. Rows without a label stay, as unlabelled.

    The features function is looked at, too: on a sample of the rows it must give the same for one row, any batch and any
    order, and nothing later than the moment of a prediction may change that.

    :raises DataError: for inputs, labels or features that are not as model.yaml promises.
    :raises ConfigError: for a features function that does not hold to this.
    """
    work, data = arguments.work, job.config.data
    inputs, told = delivered(work)
    privacy.require_named(job, work)
    found = load(job, work.partition, arguments.accepted or inputs, work.history)
    made = _made(job, found)
    verdict = _held(job, found, made)
    frame = _beside(job, found, made)
    frame[LABEL] = labels(job, told, frame[data.key])
    if data.group:
        learnable(frame[GROUP], data.group, found.uri)
    labelled = frame[LABEL].dropna()
    return FeaturesResult(
        partition=work.partition,
        table=tables.write_frame(job.storage, job.under("features", work.partition), frame),
        built_from=arguments.accepted,
        labelled=len(labelled),
        positives=int(labelled.sum()) if job.config.training.objective == "binary" else None,
        verdict=verdict,
    )


def delivered(work: DataWork) -> tuple[Artifact, Artifact]:
    """The inputs and labels of a partition.

    :raises DataError: if one is missing.
    """
    if work.problem or work.inputs is None or work.labels is None:
        raise DataError(f"partition {work.partition}: {work.problem or 'inputs or labels are missing'}")
    return work.inputs, work.labels


def build(job: Job, partition: str, inputs: Artifact, history: Mapping[str, Artifact]) -> pd.DataFrame:
    """Key, event time and features of a partition's inputs, one row for each input row, in the order of the inputs.

    The features function sees the declared columns only, and for each row the moment at which its prediction is made.

    :raises DataError: if the inputs are not as model.yaml promises.
    :raises ConfigError: if the features function raises, or returns something else than it must.
    """
    found = load(job, partition, inputs, history)
    return _beside(job, found, _made(job, found))


def load(job: Job, partition: str, inputs: Artifact, history: Mapping[str, Artifact]) -> Delivered:
    """Reads what features are built from, and nothing else: no other column, no column that is marked `pii`.

    :raises DataError: if the inputs are not as model.yaml promises.
    """
    data = job.config.data
    rows = tables.frame(job.storage, inputs, data.columns)
    check_key(rows, data.key, inputs.uri)
    event_time = event_times(rows, data.event_time, inputs.uri)
    in_partition(event_time, partition, data.partition, inputs.uri)
    return Delivered(
        rows=rows,
        history=_history(job, partition, history, rows),
        event_time=event_time,
        as_of=event_time - parse_duration(data.lead),
        uri=inputs.uri,
    )


def _history(job: Job, partition: str, given: Mapping[str, Artifact], rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables that this version of the model declares, by name."""
    declared = [*job.config.data.history, *([PAST] if job.config.data.past else [])]
    if missing := [name for name in declared if name not in given]:
        raise ConfigError(
            f"{job.config.name}: the features need the history {', '.join(missing)}, which was not planned for or is no "
            f"longer delivered with {partition}"
        )
    found = {name: _known(job, given[name]) for name in job.config.data.history}
    return found | ({PAST: past.read(job, partition, given[PAST], rows)} if job.config.data.past else {})


def _known(job: Job, artifact: Artifact) -> pd.DataFrame:
    table = tables.read(job.storage, artifact)
    found: pd.DataFrame = table.select(privacy.without(job, table.column_names)).to_pandas(ignore_metadata=True)
    return found


def _made(job: Job, found: Delivered) -> pd.DataFrame:
    function = job.model.function(job.config.features.build)
    try:
        made = function(
            found.rows.copy(), {name: table.copy() for name, table in found.history.items()}, found.as_of.copy()
        )
    except (Exception, SystemExit) as error:
        # The model's own code: a fault of it says nothing about the data, which stays due until the code is mended.
        where = f"{job.config.name}: {job.config.features.build}"
        raise ConfigError(f"{where} raised {type(error).__name__}: {error} (on {found.uri})") from error
    return checked(made, job, job.config.features.build, found.rows.index)


def _held(job: Job, found: Delivered, made: pd.DataFrame) -> Verdict:
    """The verdict on the features function, which must have passed."""
    known_at = {name: table.known_at for name, table in job.config.data.history.items()} | {PAST: KNOWN_AT}
    build: Function = job.model.function(job.config.features.build)
    verdict = check_features(build, found.rows, found.history, found.as_of, known_at=known_at, made=made)
    if not verdict.passed:
        raise ConfigError(f"{job.config.name}: {job.config.features.build} is refused: {verdict.reason()}")
    return verdict


def _beside(job: Job, found: Delivered, made: pd.DataFrame) -> pd.DataFrame:
    """The features with key and event time before them, and of a ranking the group."""
    data, features = job.config.data, made.copy()
    features.insert(0, data.key, found.rows[data.key])
    features.insert(1, data.event_time, found.event_time)
    if data.group:
        features.insert(2, GROUP, groups(found.rows, data.group, found.uri))
    return features


def checked(made: object, job: Job, where: str, index: pd.Index[Any]) -> pd.DataFrame:
    """The features that a function of the model made, as float64 in the model's order.

    :raises ConfigError: if it made something else, or of other rows, or a feature that is no number.
    """
    import pandas as pd

    rows, where = len(index), f"{job.config.name}: {where}"
    if not isinstance(made, pd.DataFrame):
        raise ConfigError(f"{where} returned {type(made).__name__}, expected a DataFrame")
    if len(made) != rows or not made.index.equals(index):
        raise ConfigError(f"{where} returned {len(made)} rows for {rows}, or another order: it must keep the rows")
    wanted = list(job.config.features.columns)
    if missing := [column for column in wanted if column not in made.columns]:
        raise ConfigError(f"{where} did not make the features that model.yaml names: {', '.join(missing)}")
    odd = [c for c in wanted if not (pd.api.types.is_numeric_dtype(made[c]) or pd.api.types.is_bool_dtype(made[c]))]
    if odd:
        raise ConfigError(f"{where}: features must be numeric, these are not: {', '.join(odd)}")
    return made[wanted].astype("float64")
