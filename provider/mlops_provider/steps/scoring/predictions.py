"""Committed predictions: the manifest that makes those of a partition visible, and where they lie."""

from __future__ import annotations

import logging

from mlops_provider.ledger import Record, last
from mlops_provider.steps.records import Predictions
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, join

log = logging.getLogger("mlops_provider")


def committed(job: Job, predictions: Predictions) -> Predictions:
    """Creates the manifest that makes the predictions of a partition visible; whoever was first stands."""
    content = predictions.model_dump_json(indent=1).encode()
    if not job.storage.create(manifest_uri(job, predictions.partition), content):
        log.info("%s was scored before", predictions.partition)
    standing = manifest(job, predictions.partition)
    assert standing is not None
    return standing


def manifest(job: Job, partition: str) -> Predictions | None:
    """The committed predictions of a partition, if there are any."""
    uri = manifest_uri(job, partition)
    return Predictions.model_validate(job.storage.read_json(uri)) if job.storage.exists(uri) else None


def manifest_uri(job: Job, partition: str) -> str:
    """Where the manifest of a partition lies; readers of parquet folders pass over names that begin with an underscore."""
    return join(folder(job), partition, "_manifest.json")


def folder(job: Job) -> str:
    """Where the predictions of the model lie, one folder a partition."""
    return job.under("predictions")


def unscored(records: tuple[Record, ...], partition: str, version: int, inputs: Artifact) -> Record | None:
    """The record that says that a version cannot score a partition as it lies there, if it was tried."""
    record = last((r for r in records if r.version == version), "unscored", partition=partition)
    return record if record and record.facts["inputs"] == inputs.hash else None
