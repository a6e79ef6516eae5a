"""Delivered rows: what must hold of their keys and times, and the label that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import DataError
from mlops_provider.partitions import SLACK, shift, start
from mlops_provider.steps import tables
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"


def check_key(rows: pd.DataFrame, key: str, uri: str) -> None:
    """A key must name one row.

    :raises DataError: if it is null or repeated.
    """
    if missing := int(rows[key].isna().sum()):
        raise DataError(f"{uri}: the key {key!r} is null in {missing} rows")
    if twice := int(rows[key].duplicated().sum()):
        raise DataError(f"{uri}: the key {key!r} is not unique, {twice} rows repeat one")


def event_times(rows: pd.DataFrame, column: str, uri: str) -> pd.Series[Any]:
    """The event times in UTC.

    :raises DataError: if they are no timestamps with a time zone, or null.
    """
    import pandas as pd

    if not isinstance(rows[column].dtype, pd.DatetimeTZDtype):
        raise DataError(f"{uri}: {column!r} must be a timestamp with a time zone, found {rows[column].dtype}")
    if missing := int(rows[column].isna().sum()):
        raise DataError(f"{uri}: the event time {column!r} is null in {missing} rows")
    times: pd.Series[Any] = rows[column].dt.tz_convert("UTC")
    return times


def in_partition(times: pd.Series[Any], partition: str, frequency: str, uri: str) -> None:
    """Rows of another partition delivered under this name would be scored by a model that was fitted on them.

    :raises DataError: if there are any.
    """
    first, last = start(partition, frequency) - SLACK, start(shift(partition, frequency, 1), frequency) + SLACK
    if times.min() < first or times.max() >= last:
        raise DataError(
            f"{uri}: event times from {times.min()} to {times.max()} do not belong to the partition {partition}"
        )


def labels(job: Job, artifact: Artifact, keys: pd.Series[Any]) -> pd.Series[Any]:
    """The binary label of each key; NaN where it is null or not delivered.

    :raises DataError: if the labels are no numbers, repeat a key, or there are none.
    """
    import pyarrow as pa

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
