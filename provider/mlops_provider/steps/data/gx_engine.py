"""What does not stream: evaluated by Great Expectations on the columns that it needs, held as pandas."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data.batches import EXAMPLES, Example, Found
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.suite import Expectation, Suite

Results = dict[int, tuple[Found, list[int]]]


def loaded(suite: Suite, expectations: Sequence[Expectation]) -> Any:
    """These expectations as a suite of the library.

    :raises ConfigError: if it does not know one of them, or one of its arguments.
    """
    from great_expectations.core import ExpectationSuite

    try:
        found = ExpectationSuite(name=suite.name, expectations=[e.stored() for e in expectations])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{suite.where} cannot be used: {type(error).__name__}: {error}") from error
    if len(found.expectations) != len(expectations):
        known = {e.expectation_type for e in found.expectations}
        dropped = sorted({e.type for e in expectations} - known)
        raise ConfigError(
            f"{suite.where} holds expectations that Great Expectations does not know: {', '.join(dropped)}"
        )
    return found


def run(suite: Suite, expectations: Sequence[Expectation], dataset: Dataset, key: str | None) -> Results:
    """What came of each, by its place in the suite, and the numbers of the rows that break it where it says so."""
    if not expectations:
        return {}
    asked = probes(expectations)
    stored = loaded(suite, [*expectations, *asked.values()])
    names = dataset.schema.names
    wanted = {column for e in expectations for column in e.reads(names)} | ({key} if key else set())
    frame = dataset.table([name for name in names if name in wanted]).to_pandas(ignore_metadata=True)
    found: Results = {}
    with parameters_refused(suite):
        outcome = results(stored, frame)
    for result in outcome:
        place = int(result.expectation_config.meta["place"])
        rows = [row for row in (result.result or {}).get("unexpected_index_list") or () if isinstance(row, int)]
        found[place] = (_found(result, frame, rows, key), rows)
    without_rows({place: one for place, (one, _) in found.items()}, expectations, asked)
    return {place: one for place, one in found.items() if place >= 0}


@contextmanager
def parameters_refused(suite: Suite) -> Iterator[None]:
    """Of the parameters of a suite the library knows a few itself, such as ``now()``; nothing here gives others a value.

    :raises ConfigError: if the suite needs one.
    """
    from great_expectations.exceptions import SuiteParameterError

    try:
        yield
    except SuiteParameterError as error:
        raise ConfigError(
            f"{suite.where} needs parameters, which nothing here gives a value: {error}. Write the value in place of $PARAMETER"
        ) from error


def probes(expectations: Sequence[Expectation]) -> dict[str, Expectation]:
    """For each condition, the question whether any row fits it: of a sum of no rows the library only says that it is 0."""
    conditions = {_condition(e): e.kwargs for e in expectations if e.kwargs.get("row_condition")}
    return {
        condition: Expectation(
            -1 - number,
            "expect_table_row_count_to_be_between",
            {"min_value": 1, **{k: kwargs[k] for k in ("row_condition", "condition_parser") if k in kwargs}},
            "critical",
        )
        for number, (condition, kwargs) in enumerate(conditions.items())
    }


def without_rows(
    found: Mapping[int, Found], expectations: Sequence[Expectation], asked: Mapping[str, Expectation]
) -> None:
    """Writes into what was found that it stands on 0 rows, where a condition is one that no row fits.

    :param asked: the probes of these expectations; their answers are among what was found.
    """
    for expectation in expectations:
        if probe := asked.get(_condition(expectation)):
            fits = found[probe.place]
            if fits.error or not fits.passed:
                found[expectation.place].rows = 0


def _condition(expectation: Expectation) -> str:
    return repr(expectation.kwargs.get("row_condition")) if expectation.kwargs.get("row_condition") else ""


def results(stored: Any, frame: Any, *, result_format: str = "COMPLETE") -> list[Any]:
    """What Great Expectations itself says of a frame.

    :param result_format: one of the library's own; ``COMPLETE`` names the rows.
    """
    asset = quiet_context().data_sources.add_pandas("pandas").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return list(batch.validate(stored, result_format=result_format).results)


def quiet_context() -> Any:
    """A context of the library that lives in memory and shows no progress bars."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _found(result: Any, frame: Any, rows: list[int], key: str | None) -> Found:
    found = told(result)
    columns = [c for c in (result.expectation_config.kwargs.get(k) for k in ("column", "column_A", "column_B")) if c]
    columns += result.expectation_config.kwargs.get("column_list") or []
    found.examples = [] if found.error else [_example(frame, row, key, columns) for row in rows[:EXAMPLES]]
    return found


def told(result: Any) -> Found:
    """What the library says of an expectation, examples aside."""
    if raised := _exception(result.exception_info):
        return Found(error=raised)
    outcome = result.result or {}
    return Found(
        passed=bool(result.success),
        observed=_native(outcome.get("observed_value")),
        rows=outcome.get("element_count"),
        count=outcome.get("unexpected_count"),
        missing=outcome.get("missing_count"),
    )


def _example(frame: Any, row: int, key: str | None, columns: list[str]) -> Example:
    values = {column: _native(frame[column].iloc[row]) for column in columns if column in frame.columns}
    return Example(row, _native(frame[key].iloc[row]) if key else None, values)


def _native(value: Any) -> Any:
    if getattr(value, "ndim", 0):  # the value of a list column
        return value.tolist()
    return value.item() if hasattr(value, "item") and not hasattr(value, "isoformat") else value


def _exception(info: dict[str, Any] | None) -> str:
    """What was raised, wherever Great Expectations put it: at the top, or below the id of a metric."""
    for item in (info or {}, *(v for v in (info or {}).values() if isinstance(v, dict))):
        if item.get("raised_exception"):
            return (
                str(item.get("exception_message"))[:300] or "Great Expectations raised an exception without a message"
            )
    return ""
