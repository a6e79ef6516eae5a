"""Validation by a suite of Great Expectations: one check per expectation, and what a failed one means."""

from __future__ import annotations

import re

from mlops_provider.checks import Frozen, Verdict
from mlops_provider.exceptions import DataError
from mlops_provider.sections import Validation
from mlops_provider.steps.data import quarantine
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import evaluate
from mlops_provider.steps.data.suite import Suite, load
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact


class ValidateArguments(Frozen):
    """A table of a partition, recorded by its hash.

    :param suite: ``raw``, ``features``, or a suite file in the model's directory.
    :param dataset: the table to validate; the partition's inputs if it is not given.
    """

    work: DataWork
    suite: str
    dataset: Artifact | None = None


class ValidateDatasetArguments(Frozen):
    """A dataset as it lies there now.

    :param suite: as above, or the URI of a suite file.
    :param dataset: a parquet or CSV file, a folder of parquet files, or a recorded table.
    :param partition: what to call it.
    """

    suite: str
    dataset: str | Artifact
    partition: str = ""


class ValidateResult(Frozen):
    """The verdict on a table: one check per expectation.

    :param accepted: the rows that go on, where others were put into quarantine; None if all of them do.
    :param quarantined: the rows that do not, with a column that says why.
    """

    partition: str
    suite: str
    verdict: Verdict
    accepted: Artifact | None = None
    quarantined: Artifact | None = None


@step("validate", arguments=ValidateArguments, result=ValidateResult, sections=("data",), code=True)
def validate(job: Job, arguments: ValidateArguments) -> ValidateResult:
    """Judges a table of a partition by one of the model's suites.

    :raises DataError: if the table cannot be read.
    :raises ConfigError: if the suite is empty, unreadable or holds an unknown expectation.
    """
    work = arguments.work
    if work.problem:
        raise DataError(f"partition {work.partition}: {work.problem}")
    dataset = arguments.dataset or work.inputs
    if dataset is None:
        raise DataError(f"partition {work.partition}: there are no inputs to validate")
    suite = _of_model(job, arguments.suite)
    return _judged(job, suite, Dataset.of(job.storage, dataset), arguments.suite, work.partition)


@step("validate_dataset", arguments=ValidateDatasetArguments, result=ValidateResult, cached=False)
def validate_dataset(job: Job, arguments: ValidateDatasetArguments) -> ValidateResult:
    """Judges a dataset that lies under a URI. Never reused: a URI does not tell whether its content has changed.

    :raises DataError: if the dataset cannot be read.
    :raises ConfigError: if the suite is empty, unreadable or holds an unknown expectation.
    """
    name, given = arguments.suite, arguments.dataset
    outside = "://" in name or name.startswith("/")
    suite = load(job.storage.read(name), name) if outside else _of_model(job, name)
    uri = given if isinstance(given, str) else given.uri
    dataset = (
        Dataset(job.storage, job.deployment.source(uri)) if isinstance(given, str) else Dataset.of(job.storage, given)
    )
    return _judged(job, suite, dataset, name, arguments.partition)


def _of_model(job: Job, name: str) -> Suite:
    file = getattr(job.config.data.suites, name, name) if name in ("raw", "features") else name
    return load(job.model.read(file), f"{job.config.name}: {file}")


def _judged(job: Job, suite: Suite, dataset: Dataset, name: str, partition: str) -> ValidateResult:
    """The verdict under the mode of model.yaml."""
    data = job.config.data
    hidden = frozenset(getattr(data, "pii", ()))
    subject = " ".join(part for part in (job.config.name, partition, name, "data") if part)
    judged = evaluate(suite, dataset, data.key)
    verdict = judged.verdict(subject, data.key, hidden)
    if data.validation.mode == "warn":
        checks = quarantine.softened(verdict.checks, "mode warn")
        verdict = verdict.model_copy(update={"checks": checks})
    broken = quarantine.breakers(judged) if data.validation.mode == "quarantine" else None
    if not broken:
        return ValidateResult(partition=partition, suite=name, verdict=verdict)
    place = quarantine.folder(job.under, re.sub(r"\W+", "_", name).strip("_"), partition)
    apart = quarantine.separate(dataset, broken, job.storage, place, data.validation.max_share)
    return _apart(
        job, suite, verdict, apart, ValidateResult(partition=partition, suite=name, verdict=verdict), data.validation
    )


def _apart(
    job: Job, suite: Suite, verdict: Verdict, apart: quarantine.Separated, result: ValidateResult, settings: Validation
) -> ValidateResult:
    again = None
    if apart.accepted is not None:
        key = job.config.data.key
        hidden = frozenset(getattr(job.config.data, "pii", ()))
        again = evaluate(suite, Dataset.of(job.storage, apart.accepted), key).verdict(verdict.subject, key, hidden)
    told = quarantine.explained(verdict, apart, settings.max_share, again)
    found = {"verdict": told, "accepted": apart.accepted, "quarantined": apart.quarantined}
    return result.model_copy(update=found)
