"""Compaction: the many small files of a partition's online predictions become one."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_provider.checks import Frozen
from mlops_provider.partitions import start
from mlops_provider.steps.data.profile import batches
from mlops_provider.steps.scoring.online_files import (
    COMPACTED,
    Compaction,
    folder,
    loose,
    name_of,
    newest,
    remove,
    replace,
)
from mlops_provider.steps.scoring.prediction_log import conformed, schema, unseen
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, file_hash

log = logging.getLogger("mlops_provider")

# Longer than any reader takes: one that began before a merge still finds the files that it listed.
GRACE = dt.timedelta(days=1)
_GROUP = 65_536


class Compacted(Frozen):
    """What a compaction came to.

    :param merged: files that became one; 0 if there was nothing to merge, or another writer was first.
    :param removed: files that had been superseded for longer than the grace.
    """

    partition: str
    merged: int
    removed: int


def compact(job: Job, partition: str, *, grace: dt.timedelta = GRACE) -> Compacted:
    """Merges the files of a partition, beside whoever appends and reads, and removes what was superseded long enough ago.

    :raises RequestError: if there can be no such partition.
    """
    start(partition, job.config.data.partition)
    known = newest(job, partition)
    fresh = loose(job, partition, known)
    merged = 0
    if fresh and len(fresh) + len(known.files) > 1:
        merged = _merged(job, partition, known, fresh)
        known = newest(job, partition)
    return Compacted(partition=partition, merged=merged, removed=remove(job, partition, known, grace))


def _merged(job: Job, partition: str, known: Compaction, fresh: tuple[Artifact, ...]) -> int:
    now = dt.datetime.now(dt.UTC)
    files = (*known.files, *fresh)
    made = _written(job, partition, files)
    gone = {f"{COMPACTED}/{name_of(file)}": now for file in known.files if file.hash != made.hash}
    gone |= {name_of(file): now for file in fresh}
    following = Compaction(number=known.number + 1, files=(made,), merged=known.merged | gone, at=now)
    if replace(job, partition, following):
        return len(files)
    log.info("%s: another writer merged its predictions first", partition)
    return 0


def _written(job: Job, partition: str, files: tuple[Artifact, ...]) -> Artifact:
    """The predictions of these files in one, each once."""
    rows = 0
    with tempfile.TemporaryDirectory(prefix="mlops-compaction-") as scratch:
        path = Path(scratch, "merged.parquet")
        with pq.ParquetWriter(path, schema(job.config), compression="zstd") as writer:
            for table in _groups(job, files):
                writer.write_table(table)
                rows += len(table)
        name = f"{file_hash(path)}.parquet"
        return job.storage.upload(path, folder(job, partition, COMPACTED, name), rows=rows)


def _groups(job: Job, files: tuple[Artifact, ...]) -> Iterator[pa.Table]:
    """The rows in pieces that are worth a row group each, however small the files are."""
    seen: set[tuple[Any, ...]] = set()
    pending: list[pa.RecordBatch] = []
    for file in files:
        for batch in batches(job.storage, file):
            found = conformed(job.config, batch, file.uri)
            pending.append(found.filter(pa.array(unseen(job, found, seen), pa.bool_())))
            if sum(one.num_rows for one in pending) >= _GROUP:
                yield pa.Table.from_batches(pending)
                pending = []
    if pending:
        yield pa.Table.from_batches(pending)
