"""Labels and feedback as they were posted: append-only, every revision kept, read as of a clock.

``labels/<model>/<partition>/<sha256>.parquet`` holds key (text), label (as ``data.label.column`` holds it), ``known_at``,
``source`` and ``received_at``. The partition is that of the predictions, or of the inputs, that have the key.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError
from mlops_provider.partitions import is_partition, start
from mlops_provider.steps import tables
from mlops_provider.steps.scoring.prediction_log import MOMENT, moment
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

KEY, LABEL, KNOWN_AT, SOURCE, RECEIVED_AT = "key", "label", "known_at", "source", "received_at"


def folder(job: Job, *parts: str) -> str:
    """Where posted labels of the model lie, one folder a partition."""
    return job.under("labels", *parts)


def schema(config: ModelConfig) -> pa.Schema:
    """The columns of the files."""
    kinds = {KEY: pa.string(), LABEL: kind(config), KNOWN_AT: MOMENT, SOURCE: pa.string(), RECEIVED_AT: MOMENT}
    return pa.schema([*kinds.items()])


def kind(config: ModelConfig) -> pa.DataType:
    """The type of a label: that of the classes, or a number."""
    classes = config.data.label.classes
    if not classes:
        return pa.float64()
    return pa.string() if isinstance(classes[0], str) else pa.int64()


def partitions(job: Job) -> list[str]:
    """Partitions with posted labels, in order of time."""
    return [name for name in job.storage.names(folder(job)) if is_partition(name, job.config.data.partition)]


def stored(job: Job, partition: str) -> pd.DataFrame:
    """Every posted label of a partition, by key and the time it became known.

    :raises DataError: if labels were posted that were of another kind.
    """
    start(partition, job.config.data.partition)
    wanted, found = schema(job.config), []
    for file in tables.created(job.storage, folder(job, partition)):
        try:
            found.append(tables.read(job.storage, file).select(wanted.names).cast(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{file.uri} holds labels of another kind than {wanted.field(LABEL).type}: {error}"
            ) from error
    table = pa.concat_tables(found) if found else wanted.empty_table()
    rows: pd.DataFrame = table.to_pandas().sort_values([KEY, KNOWN_AT, RECEIVED_AT], kind="stable", ignore_index=True)
    return rows


def labels_as_of(job: Job, partition: str, as_of: dt.datetime | None = None) -> pd.DataFrame:
    """The label of each key that counts as of a moment: the newest one known by then.

    :param as_of: with its time zone; now if None.
    :returns: columns ``key`` (text), ``label``, ``known_at`` (when that label was first known) and ``revision`` (1 for a label that
        was never another; a label posted again unchanged is no revision), one row a key.
    :raises RequestError: for what is no partition, or a moment without a time zone.
    """
    clock = moment(as_of)
    return revisions(stored(job, partition), clock)


def revisions(rows: pd.DataFrame, clock: dt.datetime) -> pd.DataFrame:
    """The last revision of each key by a moment, as `labels_as_of` tells it.

    :param rows: as `stored` gives them.
    """
    known = rows[rows[KNOWN_AT] <= clock]
    changed = known[(known[KEY] != known[KEY].shift()) | (known[LABEL] != known[LABEL].shift())]
    numbered = changed.assign(revision=changed.groupby(KEY).cumcount() + 1)
    last: pd.DataFrame = numbered.drop_duplicates(KEY, keep="last")[[KEY, LABEL, KNOWN_AT, "revision"]]
    return last.reset_index(drop=True)


def as_delivered(job: Job, partition: str, as_of: dt.datetime | None = None) -> Artifact:
    """The same as a file such as ``data.label.source`` delivers: key and label, under the names that model.yaml gives them.

    :raises DataError: if no label was posted by then.
    """
    found, data = labels_as_of(job, partition, as_of), job.config.data
    if found.empty:
        raise DataError(
            f"{job.config.name}: no label of {partition} was posted up to {moment(as_of):%Y-%m-%d %H:%M} UTC"
        )
    keys = pa.array(found[KEY], pa.string())
    table = pa.table({
        data.key: pc.cast(keys, pa.int64()) if _whole_numbers(job, partition) else keys,
        data.label.column: pa.array(found[LABEL], kind(job.config)),
    })
    return tables.create(job.storage, job.under("labels_as_of", partition), table)[0]


def _whole_numbers(job: Job, partition: str) -> bool:
    """Whether the keys of the batch predictions, which labels are joined to, are numbers."""
    found = manifest(job, partition)
    if found is None:
        return False
    key = tables.read(job.storage, found.table, [job.config.data.key]).schema.field(0)
    return bool(pa.types.is_integer(key.type))
