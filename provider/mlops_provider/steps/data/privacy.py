"""Personal data: the values of columns that model.yaml marks `pii` are written by no step; validation alone looks at them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact


def require_named(job: Job, work: DataWork) -> None:
    """Every marked column must be somewhere in what was delivered: a mark on nothing protects nothing.

    :raises ConfigError: naming what no table has: misspelt, or renamed by whoever delivers.
    """
    marked = set(job.config.data.pii)
    if not marked:
        return
    delivered = [a for a in (work.inputs, work.labels, *work.history.values()) if a]
    there = {name for artifact in delivered for name in _columns(job, artifact)}
    if unknown := sorted(marked - there):
        raise ConfigError(
            f"{job.config.name}: data.pii names {', '.join(unknown)}, which no delivered table of {work.partition} has: "
            "misspelt, or renamed where it comes from? Name the columns as they are delivered"
        )


def without(job: Job, columns: Iterable[str]) -> list[str]:
    """The columns that may be read."""
    return [name for name in columns if name not in job.config.data.pii]


def _columns(job: Job, artifact: Artifact) -> list[str]:
    if not artifact.uri.endswith(".parquet"):
        return []
    try:
        with job.storage.open(artifact.uri) as file:
            return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{artifact.uri} is no readable parquet file, perhaps truncated: {error}") from error
