"""What a partition is judged by beside its own files: a refusal by other suites, settings or code does not stand for ever, and
neither does an acceptance with labels of another meaning, or with features that other code made."""

from __future__ import annotations

from functools import lru_cache

from mlops_provider.ledger import Record
from mlops_provider.steps.step import Job
from mlops_provider.storage import digest

# Where versions are kept and where tests and demo data come from says nothing about a partition.
_ELSEWHERE = ("dvc", "code", "replay")
# What a feature table is made of, beside the code.
_TABLE = ("columns", "event_time", "history", "key", "lead", "past", "pii")


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


@lru_cache(maxsize=4)  # planning asks once for each partition that was ever accepted
def maker(job: Job) -> str:
    """Hash of what makes a feature table out of inputs: the features function with the files that it imports, and the settings
    that it follows. Rows that two of them made must never be learned from together."""
    features, files = job.config.features, job.model.files
    data = job.config.data.model_dump(mode="json", include=set(_TABLE))
    code = {name: files[name].hex() for name in job.model.imported(features.build)}
    return digest([code, features.build, features.columns, {key: data[key] for key in _TABLE}])


def stands(job: Job, record: Record) -> bool:
    """Whether a verdict on a partition still holds: an acceptance as long as labels mean the same and features are made in the
    same way, a refusal as long as nothing that judged it has changed. Records of old name none of these, and stand."""
    if record.outcome != "refused":
        facts = record.facts
        return facts.get("meaning") in (None, meaning(job)) and facts.get("maker") in (None, maker(job))
    known = record.facts.get("standard")
    return known is None or bool(known == standard(job, code=record.facts["by_code"]))
