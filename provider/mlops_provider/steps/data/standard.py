"""What a partition is judged by beside its own files: a refusal by other suites, settings or code does not stand for ever, and
neither does an acceptance with labels of another meaning."""

from __future__ import annotations

from mlops_provider.ledger import Record
from mlops_provider.steps.step import Job
from mlops_provider.storage import digest

# Where versions are kept and where tests and demo data come from says nothing about a partition.
_ELSEWHERE = ("dvc", "code", "replay")


def standard(job: Job, *, code: bool) -> str:
    """Hash of suites and settings, and of the model's code if that took part.

    A suite that is missing counts, too: planning must go on without it, and the step that needs it tells.
    """
    data, files = job.config.sections("data")["data"], job.model.files
    suites = [files.get(name, b"").hex() for name in (data["suites"]["raw"], data["suites"]["features"])]
    settings = {key: value for key, value in data.items() if key not in _ELSEWHERE}
    return digest([suites, settings, [job.model.code_hash, job.config.sections("features")] if code else None])


def meaning(job: Job) -> str:
    """Hash of what a label is: its column and how it is read. Labels of two meanings must never be learned from together."""
    data, objective = job.config.data, job.config.training.objective
    return digest([data.label.column, data.label.positive_above, data.label.classes, data.group, objective])


def stands(job: Job, record: Record) -> bool:
    """Whether a verdict on a partition still holds: an acceptance as long as labels mean the same, a refusal as long as nothing
    that judged it has changed. Records of old name neither, and stand."""
    if record.outcome != "refused":
        return record.facts.get("meaning") in (None, meaning(job))
    known = record.facts.get("standard")
    return known is None or bool(known == standard(job, code=record.facts["by_code"]))
