"""Validation with Great Expectations, closed against the ways in which a suite passes without having checked anything."""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps import tables
from mlops_provider.steps.data import privacy
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

_SEVERITY: dict[str, Literal["fail", "warn"]] = {"critical": "fail", "warning": "warn", "info": "warn"}


class ValidateArguments(Frozen):
    """:param dataset: the table to validate; the partition's inputs if it is not given."""

    work: DataWork
    suite: Literal["raw", "features"]
    dataset: Artifact | None = None


class ValidateResult(Frozen):
    """The verdict on a partition: one check per expectation."""

    partition: str
    verdict: Verdict


@step("validate", arguments=ValidateArguments, result=ValidateResult, sections=("data",), code=True)
def validate(job: Job, arguments: ValidateArguments) -> ValidateResult:
    """Judges a table by one of the model's suites: one check per expectation.

    :raises DataError: if the table cannot be read.
    :raises ConfigError: if the suite is empty, unreadable or holds an unknown expectation.
    """
    work, name = arguments.work, getattr(job.config.data.suites, arguments.suite)
    if work.problem:
        raise DataError(f"partition {work.partition}: {work.problem}")
    dataset = arguments.dataset or work.inputs
    if dataset is None:
        raise DataError(f"partition {work.partition}: there are no inputs to validate")
    suite = _suite(job, name)
    privacy.require_named(job, work)
    table = tables.read(job.storage, dataset)
    frame = privacy.veiled(table, job.config.data.pii).to_pandas()
    subject = f"{job.config.name} {work.partition} {arguments.suite} data"
    checks = [_check(result) for result in _results(suite, frame)]
    if len(checks) != len(suite.expectations):
        told = f"{len(checks)} of {len(suite.expectations)} expectations were evaluated"
        checks.append(could_not_run("all_expectations", told, subject=name))
    return ValidateResult(partition=work.partition, verdict=Verdict(subject=subject, checks=tuple(checks)))


def _suite(job: Job, name: str) -> Any:
    from great_expectations.core import ExpectationSuite

    where = f"{job.config.name}: {name}"
    try:
        stored = json.loads(job.model.read(name))
        expectations = stored["expectations"]
        suite = ExpectationSuite(name=stored["name"], expectations=expectations)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} is no Great Expectations suite: {type(error).__name__}: {error}") from error
    if not expectations:
        raise ConfigError(f"{where} holds no expectation: an empty suite would accept anything")
    if len(suite.expectations) != len(expectations):
        known = {e.expectation_type for e in suite.expectations}
        dropped = sorted({e.get("type", "(no type)") for e in expectations} - known)
        raise ConfigError(f"{where} holds expectations that Great Expectations does not know: {', '.join(dropped)}")
    return suite


def _results(suite: Any, frame: Any) -> list[Any]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return list(batch.validate(suite, result_format="BASIC").results)


def _check(result: Any) -> Check:
    expectation, outcome = result.expectation_config, result.result or {}
    name, subject = expectation.type.removeprefix("expect_"), str(expectation.kwargs.get("column", "table"))
    if raised := _exception(result.exception_info):
        return could_not_run(name, raised, subject=subject)
    limits = {k: v for k, v in expectation.kwargs.items() if k not in ("column", "batch_id") and v is not None}
    observed = outcome.get("observed_value")
    if observed is None and "unexpected_percent" in outcome:
        observed = f"{outcome['unexpected_count']} unexpected ({outcome['unexpected_percent']:.3g} %)"
    return Check(
        name=name,
        passed=bool(result.success),
        value=_plain(observed),
        threshold=_plain(limits),
        severity=_SEVERITY[str(getattr(expectation.severity, "value", expectation.severity) or "critical")],
        subject=subject,
        detail=_examples(outcome) if not result.success else "",
    )


def _exception(info: dict[str, Any] | None) -> str:
    """What was raised, wherever Great Expectations put it: at the top, or below the id of a metric."""
    for item in (info or {}, *(v for v in (info or {}).values() if isinstance(v, dict))):
        if item.get("raised_exception"):
            return str(item.get("exception_message"))[:300]
    return ""


def _examples(outcome: dict[str, Any]) -> str:
    found = outcome.get("partial_unexpected_list") or []
    return f"for instance {', '.join(repr(v) for v in found[:5])}" if found else ""


def _plain(value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value)
    return json.dumps(value, default=str)[:200]
