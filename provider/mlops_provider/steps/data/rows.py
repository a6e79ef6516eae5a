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
GROUP = "group"
# LightGBM holds labels as 32-bit floats, and squares what is left of them.
_HUGE = 1e18
_GROUP_ROWS = 10_000
_RELEVANCE = 30  # LightGBM's gain of a relevance is 2 to its power, and 31 are the most that it has


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
    """The label of each key, float64: 0 or 1, the number of a class, a value, or a relevance; NaN where it is null or not
    delivered.

    :raises DataError: if the labels are not what the objective needs, repeat a key, or there are none.
    """
    label, key = job.config.data.label, job.config.data.key
    table = tables.read(job.storage, artifact, (key, label.column))
    values = table.to_pandas(ignore_metadata=True).set_index(key)[label.column]
    if values.index.has_duplicates:
        raise DataError(f"{artifact.uri}: {int(values.index.duplicated().sum())} keys have more than one label")
    found = keys.map(values)
    if found.isna().all():
        types = (
            f"; its keys are {values.index.dtype}, those of the inputs {keys.dtype}"
            if values.index.dtype != keys.dtype
            else ""
        )
        raise DataError(
            f"{artifact.uri}: the label {label.column!r} is null or missing for every row of the partition{types}"
        )
    return _numbered(job, found, f"{artifact.uri}: the label {label.column!r}", table.schema.field(label.column).type)


def _numbered(job: Job, found: pd.Series[Any], what: str, kind: Any) -> pd.Series[Any]:
    """Labels as numbers.

    :param kind: their type as delivered.
    """
    import pyarrow as pa

    label, objective = job.config.data.label, job.config.training.objective
    if objective == "multiclass":
        return _class_numbers(found, label.classes, what)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{what} must be a number, found {kind}")
    numbers, known = found.astype("float64"), found.notna()
    if label.positive_above is not None:
        return (numbers > label.positive_above).astype("float64").where(known)
    if infinite := int(numbers.isin([float("inf"), float("-inf")]).sum()):
        raise DataError(f"{what} is infinite in {infinite} rows")
    if huge := int((numbers.abs() > _HUGE).sum()):
        raise DataError(
            f"{what} is beyond {_HUGE:g} in {huge} rows, more than LightGBM can learn: choose a larger unit"
        )
    if objective == "lambdarank":
        odd = known & ~((numbers % 1 == 0) & numbers.between(0, _RELEVANCE))
        if odd.any():
            raise DataError(
                f"{what} must be a relevance, a whole number from 0 to {_RELEVANCE}: {int(odd.sum())} rows have another, such "
                f"as {numbers[odd].iloc[0]:g}"
            )
    return numbers


def _class_numbers(found: pd.Series[Any], classes: tuple[str | int, ...], what: str) -> pd.Series[Any]:
    """The place of each label among the classes of model.yaml."""
    numbers = found.astype("object").map({name: place for place, name in enumerate(classes)}).astype("float64")
    strange = found[found.notna() & numbers.isna()]
    if len(strange):
        named = ", ".join(repr(value) for value in strange.astype("object").unique()[:5])
        raise DataError(
            f"{what} has values that data.label.classes does not name, in {len(strange)} rows: {named}; the classes are "
            f"{', '.join(map(repr, classes))}"
        )
    return numbers


def groups(rows: pd.DataFrame, column: str, uri: str) -> pd.Series[Any]:
    """What says which rows are ranked against each other.

    :raises DataError: if it is null.
    """
    if missing := int(rows[column].isna().sum()):
        raise DataError(f"{uri}: the group {column!r} is null in {missing} rows")
    return rows[column]


def learnable(grouped: pd.Series[Any], column: str, uri: str) -> None:
    """:raises DataError: if a group has more rows than LightGBM can learn an order of."""
    sizes = grouped.value_counts()
    if len(sizes) and sizes.iloc[0] > _GROUP_ROWS:
        raise DataError(
            f"{uri}: the group {sizes.index[0]!r} ({column!r}) has {sizes.iloc[0]} rows, LightGBM ranks at most {_GROUP_ROWS}"
        )
