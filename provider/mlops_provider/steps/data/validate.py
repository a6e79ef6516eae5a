"""Validation by a suite of Great Expectations: one check per expectation, and what a failed one means."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from mlops_provider.checks import Frozen, Verdict
from mlops_provider.exceptions import DataError
from mlops_provider.sections import Validation
from mlops_provider.steps.data import privacy, quarantine
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import Judged, evaluate
from mlops_provider.steps.data.suite import Suite, load
from mlops_provider.steps.data.validation_report import write_report
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

log = logging.getLogger("mlops_provider")


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
    """The verdict on a dataset: one check per expectation.

    :param dataset: what was judged, with the hash that it had before it was read; None if Spark alone could look at it.
    :param accepted: the rows that go on, where others were put into quarantine; None if all of them do.
    :param quarantined: the rows that do not, with a column that says why.
    :param report: the verdict as a page.
    """

    partition: str
    suite: str
    verdict: Verdict
    dataset: Artifact | None
    accepted: Artifact | None = None
    quarantined: Artifact | None = None
    report: Artifact | None = None

    @property
    def passed_on(self) -> Artifact | None:
        """What the verdict vouches for, if that is known."""
        return self.accepted or self.dataset


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
    privacy.require_named(job, work)
    suite = _of_model(job, arguments.suite)
    found = _judged(job, suite, Dataset.of(job.storage, dataset), arguments.suite, work.partition)
    return _with_report(job, found, dataset.uri)


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
    found = _judged(job, suite, dataset, name, arguments.partition)
    return _with_report(job, found, dataset.uri)


def _with_report(job: Job, found: ValidateResult, uri: str) -> ValidateResult:
    tables = {"data": found.dataset, "accepted rows": found.accepted, "quarantined rows": found.quarantined}
    facts = {} if found.dataset else {"data": uri}
    name, partition = _file_name(found.suite), found.partition or "dataset"
    page = write_report(job, found.verdict, partition=partition, suite=name, data=tables, facts=facts)
    return found.model_copy(update={"report": page})


def _file_name(suite: str) -> str:
    return re.sub(r"\W+", "_", suite).strip("_")


def _of_model(job: Job, name: str) -> Suite:
    file = getattr(job.config.data.suites, name, name) if name in ("raw", "features") else name
    return load(job.model.read(file), f"{job.config.name}: {file}")


def _judged(job: Job, suite: Suite, dataset: Dataset, name: str, partition: str) -> ValidateResult:
    """The verdict under the mode of model.yaml."""
    data, content = job.config.data, _content(dataset, job.config.data.validation)
    hidden = frozenset(data.pii)
    subject = " ".join(part for part in (job.config.name, partition, name, "data") if part)
    judged = _engine(data.validation)(suite, dataset, data.key)
    verdict = judged.verdict(subject, data.key, hidden)
    if data.validation.mode == "warn":
        checks = quarantine.softened(verdict.checks, "mode warn")
        verdict = verdict.model_copy(update={"checks": checks})
    result = ValidateResult(partition=partition, suite=name, verdict=verdict, dataset=content)
    broken = quarantine.breakers(judged) if data.validation.mode == "quarantine" else None
    if not broken:
        return result
    place = quarantine.folder(job.under, _file_name(name), partition)
    apart = quarantine.separate(dataset, broken, job.storage, place, data.validation.max_share, hidden)
    return _apart(job, suite, result, apart)


def _content(dataset: Dataset, settings: Validation) -> Artifact | None:
    """Spark reads with its own access, in places and forms that may be closed to us."""
    try:
        return dataset.content()
    except Exception as error:
        if settings.engine != "spark":
            raise
        log.info("%s: only Spark can look at it (%s)", dataset.uri, error)
        return None


def _engine(settings: Validation) -> Callable[[Suite, Dataset, str | None], Judged]:
    if settings.engine == "spark":
        from mlops_provider.steps.data import spark_engine

        return spark_engine.evaluate
    return evaluate


def _apart(job: Job, suite: Suite, result: ValidateResult, apart: quarantine.Separated) -> ValidateResult:
    """The result once the rows are apart: what goes on is judged once more."""
    data, verdict, again = job.config.data, result.verdict, None
    hidden = frozenset(data.pii)
    left = quarantine.shown(suite, hidden)
    if apart.accepted is not None and left is not None:
        accepted = Dataset.of(job.storage, apart.accepted)
        again = evaluate(left, accepted, data.key).verdict(verdict.subject, data.key, hidden)
    told = quarantine.explained(verdict, apart, data.validation.max_share, again)
    found = {"verdict": told, "accepted": apart.accepted, "quarantined": apart.quarantined}
    return result.model_copy(update=found)
