"""How quality goes with the age of a model: what past versions were worth on what they scored, as the ledger tells it."""

from __future__ import annotations

from collections.abc import Iterable

from mlops_provider.ledger import Record
from mlops_provider.steps.records import Evaluation, Measured
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.findings import Aged


def aged(records: Iterable[Record], metric: str, before: str) -> tuple[Aged, ...]:
    """The measured partitions up to `before`, oldest first: the model's age there, and its quality beside that on its holdout.

    Partitions differ, so a change is that of the model and of the time together: none of it is a cause.

    :param metric: the primary metric; versions that were evaluated by another one are left out.
    """
    known = list(records)
    evaluated = {
        record.version: Evaluation.model_validate(record.facts["evaluation"])
        for record in known
        if record.kind == "candidate"
    }
    partitions = sorted({
        record.partition for record in known if record.kind == "data" and record.outcome == "accepted"
    })
    measured = {record.partition: record.facts.get("quality") for record in known if record.kind == "retrain"}
    found = []
    for partition in sorted(name for name, quality in measured.items() if quality and name <= before):
        quality = Measured.model_validate(measured[partition])
        origin = evaluated.get(quality.version)
        if origin and metric in quality.metrics and metric in origin.candidate:
            found.append(_aged(quality, origin, metric, partitions))
    return tuple(found)


def _aged(quality: Measured, origin: Evaluation, metric: str, partitions: list[str]) -> Aged:
    value = quality.metrics[metric]
    return Aged(
        version=quality.version,
        partition=quality.partition,
        age=sum(origin.partition < name <= quality.partition for name in partitions),
        value=value,
        change=metrics.sign(metric) * (value - origin.candidate[metric]),
    )
