"""The files of online predictions: many small ones as they are appended, and the merged one that compaction makes of them.

::

    predictions_online/<model>/<partition>/<sha256>.parquet             appended, never changed
    predictions_online/<model>/<partition>/_compacted/<sha256>.parquet  merged; nobody reads it before a manifest names it
    predictions_online/<model>/<partition>/_manifests/<n>.json          created once; n+1 takes the place of n

Readers take what the newest manifest names, and the appended files that it does not know. So a merge takes effect in one step,
the creation of a manifest: whatever is killed, no prediction is lost and none counts twice.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import suppress

from pydantic import ValidationError

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import IntegrityError
from mlops_provider.partitions import is_partition
from mlops_provider.steps import tables
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, join

COMPACTED = "_compacted"
_MANIFESTS = "_manifests"


class Compaction(Frozen):
    """A manifest of one partition.

    :param number: 1, 2, ...; 0 stands for none.
    :param files: the merged files.
    :param merged: when each file, by its name below the folder, was superseded. It keeps those that are removed since, so that
        an append that is repeated still adds nothing.
    """

    number: int = 0
    files: tuple[Artifact, ...] = ()
    merged: dict[str, dt.datetime] = {}
    at: dt.datetime | None = None


def folder(job: Job, *parts: str) -> str:
    """Where online predictions of the model lie: not among those made in batch, whose folders have a manifest of their own."""
    return job.under("predictions_online", *parts)


def partitions(job: Job) -> list[str]:
    """Partitions with online predictions, in order of time."""
    return [name for name in job.storage.names(folder(job)) if is_partition(name, job.config.data.partition)]


def newest(job: Job, partition: str) -> Compaction:
    """The manifest that counts.

    :raises IntegrityError: if it is damaged.
    """
    where = folder(job, partition, _MANIFESTS)
    numbers = [name for name in job.storage.names(where) if re.fullmatch(r"\d{8}\.json", name)]
    if not numbers:
        return Compaction()
    uri = join(where, max(numbers))
    try:
        return Compaction.model_validate_json(job.storage.read(uri))
    except ValidationError as error:
        raise IntegrityError(f"{uri} is no manifest of merged predictions, it was damaged or replaced") from error


def replace(job: Job, partition: str, following: Compaction) -> bool:
    """Makes a manifest the newest: False if another writer was first."""
    uri = folder(job, partition, _MANIFESTS, f"{following.number:08d}.json")
    return job.storage.create(uri, following.model_dump_json(indent=1).encode())


def loose(job: Job, partition: str, known: Compaction) -> tuple[Artifact, ...]:
    """Appended files that a manifest does not know."""
    found = tables.created(job.storage, folder(job, partition))
    return tuple(file for file in found if name_of(file) not in known.merged)


def live(job: Job, partition: str) -> tuple[Artifact, ...]:
    """The files that hold each online prediction of a partition, the merged ones first."""
    known = newest(job, partition)
    return (*known.files, *loose(job, partition, known))


def name_of(file: Artifact) -> str:
    """Of an appended file, as manifests have it."""
    return file.uri.rsplit("/", 1)[-1]


def remove(job: Job, partition: str, known: Compaction, grace: dt.timedelta) -> int:
    """Removes files that were superseded, or merged and never named, longer ago than the grace; returns how many."""
    count, limit = 0, dt.datetime.now(dt.UTC) - grace
    for name in (*_superseded(job, partition, known, limit), *_never_named(job, partition, known, limit)):
        fs, path = job.storage.filesystem(folder(job, partition, name))
        with suppress(FileNotFoundError):
            fs.rm_file(path)
            count += 1
    return count


def _superseded(job: Job, partition: str, known: Compaction, limit: dt.datetime) -> Iterator[str]:
    there = {name_of(file) for file in tables.created(job.storage, folder(job, partition))}
    there |= {f"{COMPACTED}/{name}" for name in job.storage.names(folder(job, partition, COMPACTED))}
    return (name for name, since in known.merged.items() if since < limit and name in there)


def _never_named(job: Job, partition: str, known: Compaction, limit: dt.datetime) -> Iterator[str]:
    """Merged files that a kill left behind."""
    named = {name_of(file) for file in known.files}
    for file in tables.created(job.storage, folder(job, partition, COMPACTED)):
        name = f"{COMPACTED}/{name_of(file)}"
        made = job.storage.modified(file.uri)
        if name not in known.merged and name_of(file) not in named and made and made < limit:
            yield name
