"""Estimates of quality, and what came out: which labelled rows the next one stands on, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlops_provider.ledger import Record
from mlops_provider.steps.monitoring.records import Basis, Estimated, EstimateWork
from mlops_provider.steps.records import FeatureVersion, Measured, ModelVersion, Predictions
from mlops_provider.steps.scoring.predictions import folder, manifest
from mlops_provider.steps.step import Job

_NEWEST = 12
_REMEMBERED = 50
_LOOKED_AT = 2


def estimate_uri(job: Job, partition: str) -> str:
    """Where the estimated quality of a scored partition is kept."""
    return job.under("monitoring", partition, "estimate.json")


def known_estimate(job: Job, partition: str) -> Any:
    """What the quality of a partition was estimated at before its labels came, if it was."""
    uri = estimate_uri(job, partition)
    return job.storage.read_json(uri) if job.storage.exists(uri) else None


def known(job: Job, partition: str) -> dict[str, Any]:
    """What a decision on a partition is told of estimates: that of the partition, and those of later ones, as JSON."""
    names = [name for name in job.storage.names(folder(job)) if name > partition]
    later = [found for name in names if (found := known_estimate(job, name))]
    return {"estimate": known_estimate(job, partition), "later": later}


def due(job: Job, records: Sequence[Record], scored: Iterable[str]) -> Iterable[EstimateWork]:
    """The work for those of these partitions whose quality was not estimated yet: of a binary objective, as no other has scores
    that are chances."""
    if job.config.training.objective != "binary":
        return
    versions = {record.version: record.facts["version"] for record in records if record.kind == "candidate"}
    for name in scored:
        found = None if job.storage.exists(estimate_uri(job, name)) else manifest(job, name)
        if found is None or found.version not in versions:
            continue
        version = ModelVersion.model_validate(versions[found.version])
        if version.package.objective == "binary":
            yield estimate_work(job, records, version, found)


def estimate_work(job: Job, records: Sequence[Record], version: ModelVersion, predictions: Predictions) -> EstimateWork:
    """What the estimate of a scored partition is made from, by the decisions that were taken up to now.

    :param version: that scored it.
    """
    judged = misses(records, job.config.evaluation.metric)
    mine = [miss for number, miss in judged if number == version.version]
    return EstimateWork(
        predictions=predictions,
        package=version.package,
        split=version.split,
        basis=tuple(_basis(job, records, version, predictions.partition)),
        misses=tuple(miss for _, miss in judged[-_REMEMBERED:]),
        contradicted=sum(miss > 1 for miss in mine[-_LOOKED_AT:]),
    )


def misses(records: Iterable[Record], metric: str) -> list[tuple[int, float]]:
    """The version of each estimate that labels have judged, oldest first, and how far it was off: in half-widths of its interval,
    so that above 1 labels contradict it."""
    found = []
    for record in records:
        estimate, quality = record.facts.get("estimate"), record.facts.get("quality")
        if record.kind != "retrain" or not estimate or not quality:
            continue
        told, real = Estimated.model_validate(estimate).metrics.get(metric), Measured.model_validate(quality)
        if told is None or told.low is None or told.high is None or metric not in real.metrics:
            continue
        half = max((told.high - told.low) / 2, 1e-12)
        found.append((real.version, abs(real.metrics[metric] - (told.low + told.high) / 2) / half))
    return found


def _basis(job: Job, records: Sequence[Record], version: ModelVersion, before: str) -> Iterable[Basis]:
    """The newest partitions before this one that the version scored and whose labels were looked at."""
    accepted = {r.partition: r for r in records if r.kind == "data" and r.outcome == "accepted"}
    looked = sorted({
        r.partition for r in records if r.kind == "retrain" and r.facts.get("quality") and r.partition < before
    })
    scored = [found for name in looked if (found := manifest(job, name)) and found.version == version.version]
    for found in scored[-_NEWEST:]:
        yield Basis(predictions=found, data=FeatureVersion.model_validate(accepted[found.partition].facts["data"]))
