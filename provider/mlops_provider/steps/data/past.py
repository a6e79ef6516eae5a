"""The past: outcomes of earlier partitions, as far as their labels had been delivered, as a table for features.

Only partitions before the one in hand are in it: when a partition is scored, its own labels are not there yet, and what is
trained on must be what will be scored. Which files it was read from is listed in one file, and recorded with whatever was
built from it.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConfigError, ConflictError, DataError, IntegrityError
from mlops_provider.ledger import Record
from mlops_provider.partitions import SLACK, parse_duration, start
from mlops_provider.sections import KNOWN_AT, Data
from mlops_provider.steps import tables
from mlops_provider.steps.data.rows import LABEL, event_times, labels
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, digest

if TYPE_CHECKING:
    import pandas as pd


class PastPartition(Frozen):
    """The files of an earlier partition, as they lay there when the work was planned.

    :param inputs: without the rows that validation put into quarantine, if the partition had been judged by then.
    :param quarantined: rows that were left out later, of the feature table: what has their keys is left out here, too.
    """

    partition: str
    inputs: Artifact
    labels: Artifact
    quarantined: Artifact | None = None


class PastList(Frozen):
    """What the past of a partition is read from: rows whose event time is not before `since`."""

    since: dt.datetime
    partitions: tuple[PastPartition, ...]


def since(data: Data, partition: str) -> dt.datetime:
    """How far back the past of a partition reaches: a label known within the window before its first prediction is in it."""
    assert data.past is not None
    reach = (data.lead, data.past.window, data.label.delay)
    return start(partition, data.partition) - SLACK - sum(map(parse_duration, reach), dt.timedelta())


def delivered(work: DataWork, record: Record | None) -> PastPartition:
    """The files of a partition whose inputs and labels are there.

    :param record: the one that accepted the partition as it lies there now; None before it was judged.
    """
    known = DataWork.model_validate(record.facts["work"]) if record else work
    inputs, told = known.accepted or work.inputs, work.labels
    assert inputs is not None
    assert told is not None
    return PastPartition(partition=work.partition, inputs=inputs, labels=told, quarantined=known.quarantined)


def save(job: Job, listed: PastList) -> Artifact:
    """Stores the list under its hash: it grows with the window, so it travels as a file."""
    value = listed.model_dump(mode="json")
    return job.storage.write_json(job.under("past", f"{digest(value)[:32]}.json"), value)


def read(job: Job, partition: str, artifact: Artifact, rows: pd.DataFrame) -> pd.DataFrame:
    """The labelled rows of the past: the declared columns of the inputs, `label` (0 or 1) and `known_at`, in the order in
    which they became known.

    :param rows: rows of the partition in hand, for the columns and kinds of a past without rows.
    :raises ConfigError: if the list was made for a shorter window than this version of the model declares.
    :raises ConflictError: if a file of an earlier partition is not there as it was, or is damaged.
    """
    import pandas as pd

    listed = PastList.model_validate_json(job.storage.fetch(artifact))
    first = since(job.config.data, partition)
    if listed.since > first:
        told = f"the past of {partition} was planned from {listed.since} on, this version of the model needs it from {first}"
        raise ConfigError(f"{job.config.name}: {told}")
    try:
        frames = [_outcomes(job, files, first) for files in listed.partitions]
    except (DataError, IntegrityError) as error:
        # Says nothing about the partition in hand: it stays due, and is planned again without what was refused.
        raise ConflictError(
            f"an earlier partition, whose outcomes are features here, cannot be read: {error}"
        ) from error
    empty = _known(job, rows.iloc[:0].assign(**{LABEL: 0.0}), "")
    found = pd.concat(frames, ignore_index=True) if any(map(len, frames)) else empty
    return found.sort_values([KNOWN_AT, job.config.data.key], ignore_index=True)


def _outcomes(job: Job, files: PastPartition, first: dt.datetime) -> pd.DataFrame:
    data = job.config.data
    rows = tables.frame(job.storage, files.inputs, data.columns)
    if files.quarantined is not None:
        rows = rows[~rows[data.key].isin(tables.frame(job.storage, files.quarantined, [data.key])[data.key])]
    rows = rows.assign(**{LABEL: labels(job, files.labels, rows[data.key])})
    found = _known(job, rows, files.inputs.uri)
    return found[found[LABEL].notna() & (found[data.event_time] >= first)]


def _known(job: Job, rows: pd.DataFrame, uri: str) -> pd.DataFrame:
    data = job.config.data
    times: pd.Series[Any] = event_times(rows, data.event_time, uri)
    return rows.assign(**{data.event_time: times, KNOWN_AT: times + parse_duration(data.label.delay)})
