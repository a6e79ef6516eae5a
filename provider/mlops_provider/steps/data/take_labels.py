"""The intake for labels and user feedback: what is sound is kept with its time, the rest is put aside and counted.

A label of a key that has one becomes a revision; both are kept. Which one counts, a clock says (label_log.py).
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.partitions import start
from mlops_provider.steps import tables
from mlops_provider.steps.data.label_log import (
    KEY,
    KNOWN_AT,
    LABEL,
    RECEIVED_AT,
    folder,
    revisions,
    schema,
    stored,
)
from mlops_provider.steps.data.posted_labels import FILE_ROWS, Post, posted_file, posted_rows
from mlops_provider.steps.data.profile import batches
from mlops_provider.steps.plan import State
from mlops_provider.steps.release.ab_assign import texts
from mlops_provider.steps.scoring import online_files
from mlops_provider.steps.scoring.online import REASON
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mlops_provider")

_GIVEN = "given"


class TakeLabelsArguments(Frozen):
    """Give one of `rows` and `file`.

    :param rows: objects with the key and the label, under the names of ``data.key`` and ``data.label.column``, and perhaps
        ``known_at`` (ISO 8601 with a zone; now if it is missing) and ``source``. At most 1,000, and 256 KiB.
    :param file: URI of a parquet or CSV file with columns of these names, relative to data_root or absolute.
    :param max_rows: the most that a file may have.
    :param partitions: where the keys are looked for; everywhere, newest first, if none is named.
    """

    rows: tuple[dict[str, Any], ...] | None = None
    file: str | None = None
    max_rows: int = Field(FILE_ROWS, gt=0, le=10_000_000)
    partitions: tuple[str, ...] = ()


class LabelsTaken(Frozen):
    """What became of a post.

    :param rows: posted; each of them was `taken`, `repeated` (it says what stands already, or was posted before) or refused.
    :param refused: by reason; `aside` is the file with them.
    :param partitions: rows taken by partition; `files` hold them.
    """

    rows: int
    taken: int
    repeated: int
    refused: dict[str, int] = {}
    partitions: dict[str, int] = {}
    files: tuple[Artifact, ...] = ()
    aside: Artifact | None = None


@step("take_labels", arguments=TakeLabelsArguments, result=LabelsTaken, cached=False)
def take_labels(job: Job, arguments: TakeLabelsArguments) -> LabelsTaken:
    """Keeps the posted labels; a post that is repeated adds nothing, so that a run that was killed may run again.

    :raises RequestError: for rows beyond the limits, or with unknown fields.
    :raises DataError: for a file that is too long, or cannot be one of labels of this model.
    """
    if (arguments.rows is None) == (arguments.file is None):
        raise RequestError("give rows or file, one of the two")
    for name in arguments.partitions:
        start(name, job.config.data.partition)
    if arguments.rows is not None:
        post = posted_rows(job.config, arguments.rows)
    else:
        post = posted_file(job, arguments.file or "", arguments.max_rows)
    now = dt.datetime.now(dt.UTC)
    frame = _sound(post, now)
    frame = frame.assign(partition=_located(job, frame[KEY], arguments.partitions))
    foreign = pa.array(frame.loc[frame["partition"].isna(), KEY], pa.string())
    post.reasons.mark(pc.is_in(post.rows[KEY], value_set=foreign), "the key was neither predicted nor delivered")
    return _taken(job, post, frame.dropna(subset="partition"), now)


def _sound(post: Post, now: dt.datetime) -> pd.DataFrame:
    """The rows in which nothing is wrong, each once, by their number; contradictions in one post are marked.

    Rows of one key that became known at different times do not contradict each other: one revises the other.
    """
    sound = post.reasons.sound
    rows = post.rows.append_column(_GIVEN, pc.is_valid(post.rows[KNOWN_AT])).filter(pa.array(sound))
    frame: pd.DataFrame = rows.to_pandas().set_index(np.flatnonzero(sound))
    frame[KNOWN_AT] = frame[KNOWN_AT].fillna(now)
    alike = frame.drop_duplicates([KEY, KNOWN_AT, LABEL])
    against = alike[alike.duplicated([KEY, KNOWN_AT], keep=False)]
    if against.empty:
        return alike
    # As keys first: an index of two levels over a million rows takes seconds.
    known = frame[frame[KEY].isin(against[KEY])]
    known = known[known.set_index([KEY, KNOWN_AT]).index.isin(against.set_index([KEY, KNOWN_AT]).index)]
    post.reasons.mark(_at(post, known), "contradicts another row of this post")
    return alike[~alike.index.isin(known.index)]


def _at(post: Post, rows: pd.DataFrame) -> Any:
    """Where these rows were in the post, bool [n]."""
    mask = np.zeros(len(post.rows), bool)
    mask[rows.index.to_numpy()] = True
    return mask


def _located(job: Job, keys: pd.Series[str], among: Sequence[str]) -> Any:
    """The partition of each key, object [n]; None for one that nobody knows. Predictions come before inputs that were merely
    delivered, newer partitions before older ones."""
    import pandas as pd

    found = pd.Series(None, index=keys.unique(), dtype=object)
    for partition, told in _told_keys(job, among):
        left = found.index[found.isna()]
        if not len(left):
            break
        hit = np.asarray(pc.is_in(pa.array(left, pa.string()), value_set=told), bool)
        found[left[hit]] = partition
    return keys.map(found)


def _told_keys(job: Job, among: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
    state, key = State(job), job.config.data.key
    predicted = {*state.scored, *online_files.partitions(job)}
    for name in sorted(predicted & set(among or predicted), reverse=True):
        found = manifest(job, name)
        for file in (*([found.table] if found else ()), *online_files.live(job, name)):
            for batch in batches(job.storage, file, [key]):
                yield name, texts(batch.column(0), f"{file.uri}: the key")
    for name in sorted(set(state.inputs) & set(among or state.inputs), reverse=True):
        uri = job.deployment.source(job.config.data.source, name)
        try:
            table = tables.read(job.storage, job.storage.describe(uri), [key])
            yield name, texts(table[key], f"{uri}: the key").combine_chunks()
        except DataError as error:
            log.warning("the keys of %s are not known: %s", name, error)


def _taken(job: Job, post: Post, frame: pd.DataFrame, now: dt.datetime) -> LabelsTaken:
    files, counts = [], {}
    for name, rows in frame.groupby("partition", sort=True):
        fresh = rows[~_stands(job, str(name), rows, now)]
        if len(fresh):
            table = pa.Table.from_pandas(
                fresh.assign(**{RECEIVED_AT: now}), schema=schema(job.config), preserve_index=False
            )
            files.append(tables.create(job.storage, folder(job, str(name)), table.replace_schema_metadata())[0])
            counts[str(name)] = len(fresh)
    aside = _put_aside(job, post)
    refused, taken = post.reasons.counts, sum(counts.values())
    if refused:
        log.warning("labels put aside: %s", ", ".join(f"{count:,} x {reason}" for reason, count in refused.items()))
    return LabelsTaken(
        rows=len(post.rows),
        taken=taken,
        repeated=len(post.rows) - taken - sum(refused.values()),
        refused=refused,
        partitions=counts,
        files=tuple(files),
        aside=aside,
    )


def _stands(job: Job, partition: str, rows: pd.DataFrame, now: dt.datetime) -> Any:
    """Which rows say nothing new, bool [n]: of that time they are kept already, or without a time they say what stands."""
    kept = stored(job, partition)
    same = rows.set_index([KEY, KNOWN_AT, LABEL]).index.isin(kept.set_index([KEY, KNOWN_AT, LABEL]).index)
    standing = revisions(kept, now).set_index([KEY, LABEL]).index
    return same | (~rows[_GIVEN].to_numpy() & rows.set_index([KEY, LABEL]).index.isin(standing))


def _put_aside(job: Job, post: Post) -> Artifact | None:
    """The refused rows as text, with their reasons."""
    if post.reasons.sound.all():
        return None
    told = post.told.append_column(REASON, pa.array(post.reasons.found.tolist(), pa.string()))
    return tables.create(job.storage, folder(job, "refused"), told.filter(pa.array(~post.reasons.sound)))[0]
