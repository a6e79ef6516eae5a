"""Features: the model's own code turns delivered inputs into a table, and labels join by key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.partitions import parse_duration, shift, start
from mlops_provider.steps import tables
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"
_SLACK = dt.timedelta(days=1)


class FeaturesArguments(Frozen):
    """The partition to build features of.

    :param accepted: the inputs without the rows that validation put into quarantine; all inputs if it is not given.
    """

    work: DataWork
    accepted: Artifact | None = None


class FeaturesResult(Frozen):
    """The labelled feature table: key, event time, the features as float64, and the label (null where there is none)."""

    partition: str
    table: Artifact
    labelled: int
    positives: int


@step("build_features", arguments=FeaturesArguments, result=FeaturesResult, sections=("data", "features"), code=True)
def build_features(job: Job, arguments: FeaturesArguments) -> FeaturesResult:
    """Builds the labelled feature table of a partition. Rows without a label stay, as unlabelled.

    :raises DataError: for inputs, labels or features that are not as model.yaml promises.
    """
    work = arguments.work
    inputs, labels = delivered(work)
    frame = build(job, work.partition, arguments.accepted or inputs, work.history)
    frame[LABEL] = _labels(job, labels, frame[job.config.data.key])
    labelled = frame[LABEL].dropna()
    return FeaturesResult(
        partition=work.partition,
        table=tables.write_frame(job.storage, job.under("features", work.partition), frame),
        labelled=len(labelled),
        positives=int(labelled.sum()),
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
    data = job.config.data
    rows = tables.frame(job.storage, inputs, data.columns)
    _check_key(rows, data.key, inputs.uri)
    event_time = _event_times(rows, data.event_time, inputs.uri)
    _in_partition(event_time, partition, data.partition, inputs.uri)
    known = {name: tables.frame(job.storage, artifact) for name, artifact in history.items()}
    function = job.model.function(job.config.features.build)
    try:
        made = function(rows.copy(), known, event_time - parse_duration(data.lead))
    except Exception as error:
        # The model's own code: a fault of it says nothing about the data, which stays due until the code is mended.
        where = f"{job.config.name}: {job.config.features.build}"
        raise ConfigError(f"{where} raised {type(error).__name__}: {error} (on {inputs.uri})") from error
    features = _checked(made, job, len(rows), rows.index)
    features.insert(0, data.key, rows[data.key])
    features.insert(1, data.event_time, event_time)
    return features


def _check_key(rows: pd.DataFrame, key: str, uri: str) -> None:
    if missing := int(rows[key].isna().sum()):
        raise DataError(f"{uri}: the key {key!r} is null in {missing} rows")
    if twice := int(rows[key].duplicated().sum()):
        raise DataError(f"{uri}: the key {key!r} is not unique, {twice} rows repeat one")


def _event_times(rows: pd.DataFrame, column: str, uri: str) -> pd.Series[Any]:
    import pandas as pd

    if not isinstance(rows[column].dtype, pd.DatetimeTZDtype):
        raise DataError(f"{uri}: {column!r} must be a timestamp with a time zone, found {rows[column].dtype}")
    if missing := int(rows[column].isna().sum()):
        raise DataError(f"{uri}: the event time {column!r} is null in {missing} rows")
    times: pd.Series[Any] = rows[column].dt.tz_convert("UTC")
    return times


def _in_partition(times: pd.Series[Any], partition: str, frequency: str, uri: str) -> None:
    """Rows of another partition delivered under this name would be scored by a model that was fitted on them.

    A day of slack leaves room for partitions that follow a local calendar.
    """
    first, last = start(partition, frequency) - _SLACK, start(shift(partition, frequency, 1), frequency) + _SLACK
    if times.min() < first or times.max() >= last:
        raise DataError(
            f"{uri}: event times from {times.min()} to {times.max()} do not belong to the partition {partition}"
        )


def _checked(made: object, job: Job, rows: int, index: pd.Index[Any]) -> pd.DataFrame:
    import pandas as pd

    where = f"{job.config.name}: {job.config.features.build}"
    if not isinstance(made, pd.DataFrame):
        raise ConfigError(f"{where} returned {type(made).__name__}, expected a DataFrame")
    if len(made) != rows or not made.index.equals(index):
        raise ConfigError(f"{where} returned {len(made)} rows for {rows}, or another order: it must keep the rows")
    wanted = list(job.config.features.columns)
    if missing := [column for column in wanted if column not in made.columns]:
        raise ConfigError(f"{where} did not make the features that model.yaml names: {', '.join(missing)}")
    odd = [c for c in wanted if not (pd.api.types.is_numeric_dtype(made[c]) or pd.api.types.is_bool_dtype(made[c]))]
    if odd:
        raise DataError(f"{where}: features must be numeric, these are not: {', '.join(odd)}")
    return made[wanted].astype("float64")


def _labels(job: Job, artifact: Artifact, keys: pd.Series[Any]) -> pd.Series[Any]:
    """The binary label of each key; NaN where it is null or not delivered."""
    label, key = job.config.data.label, job.config.data.key
    table = tables.read(job.storage, artifact, (key, label.column))
    kind = table.schema.field(label.column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{artifact.uri}: the label {label.column!r} must be a number, found {kind}")
    values = table.to_pandas(ignore_metadata=True).set_index(key)[label.column]
    if values.index.has_duplicates:
        raise DataError(f"{artifact.uri}: {int(values.index.duplicated().sum())} keys have more than one label")
    found = keys.map(values)
    if found.isna().all():
        raise DataError(f"{artifact.uri}: the label {label.column!r} is null or missing for every row of the partition")
    return (found > label.positive_above).astype("float64").where(found.notna())
