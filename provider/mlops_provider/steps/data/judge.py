"""A suite and a dataset make a verdict: one check per expectation, whichever engine evaluated it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mlops_provider.checks import Check, Scalar, Unexpected, Verdict, could_not_run
from mlops_provider.steps.data import gx_engine, streaming
from mlops_provider.steps.data.batches import Example, Found
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.streamed_rows import Streamed
from mlops_provider.steps.data.suite import Expectation, Suite

_SEVERITY: dict[str, Literal["fail", "warn"]] = {"critical": "fail", "warning": "warn", "info": "warn"}
_SHOWN = 5


@dataclass
class Judged:
    """What came of every expectation, with what quarantine needs to tell rows apart.

    :ivar rows: numbers of the rows that break an expectation that Great Expectations evaluated, by its place.
    """

    suite: Suite
    found: dict[int, Found] = field(default_factory=dict)
    streamed: dict[int, Streamed] = field(default_factory=dict)
    rows: dict[int, list[int]] = field(default_factory=dict)

    def verdict(self, subject: str, key: str | None, hidden: frozenset[str]) -> Verdict:
        checks = [
            _check(e, self.found[e.place], key, hidden) if e.place in self.found else _lost(e)
            for e in self.suite.expectations
        ]
        return Verdict(subject=subject, checks=tuple(checks))


def judge(suite: Suite, dataset: Dataset, *, key: str | None, subject: str = "", hidden: Iterable[str] = ()) -> Verdict:
    """One check per expectation, in the order of the suite.

    :param key: the column that names a row in examples; without one rows are numbered.
    :param hidden: columns whose values are never shown.
    :raises DataError: if the dataset is unreadable or has no rows.
    :raises ConfigError: if the suite holds an expectation or an argument that nothing knows.
    """
    return evaluate(suite, dataset, key).verdict(subject or dataset.uri, key, frozenset(hidden))


def evaluate(suite: Suite, dataset: Dataset, key: str | None) -> Judged:
    """Every expectation by the engine that it needs."""
    judged, others, names = Judged(suite), [], dataset.schema.names
    key = key if key in names else None
    for expectation in suite.expectations:
        if expectation.about_columns and dataset.uneven:
            judged.found[expectation.place] = Found(error=dataset.uneven)
        elif streamed := streaming.streamed(expectation, dataset.schema):
            judged.streamed[expectation.place] = streamed
        else:
            others.append(expectation)
    present = _unless_missing(suite, others, dataset, judged)
    # Both read the data; a table without rows is told by either.
    if judged.streamed or not present:
        streaming.run(list(judged.streamed.values()) or [_nothing(suite)], dataset, key)
    judged.found |= {place: streamed.found() for place, streamed in judged.streamed.items()}
    for place, (found, rows) in gx_engine.run(suite, present, dataset, key).items():
        judged.found[place], judged.rows[place] = found, rows
    return judged


def _nothing(suite: Suite) -> Streamed:
    from mlops_provider.steps.data.streamed_columns import Known

    return Known(suite.expectations[0], Found())


def _unless_missing(suite: Suite, others: list[Expectation], dataset: Dataset, judged: Judged) -> list[Expectation]:
    """Those whose columns are there. The library still says of all of them whether it knows them."""
    if others:
        gx_engine.loaded(suite, others)
    present = []
    for expectation in others:
        lacking = [column for column in expectation.columns if column not in dataset.schema.names]
        if lacking and expectation.name != "column_to_exist":
            told = f"{dataset.uri} lacks the column {lacking[0]!r}; it has {', '.join(dataset.schema.names)}"
            judged.found[expectation.place] = Found(error=told)
        else:
            present.append(expectation)
    return present


def _lost(expectation: Expectation) -> Check:
    return could_not_run(expectation.name, "it was not evaluated", subject=expectation.subject)


def _check(expectation: Expectation, found: Found, key: str | None, hidden: frozenset[str]) -> Check:
    condition = str(expectation.kwargs.get("row_condition") or "")
    secret = any(name in expectation.columns or name in condition for name in hidden)
    if not found.error and found.rows == 0:
        return could_not_run(expectation.name, "no row fits row_condition", subject=expectation.subject)
    if found.error:
        told = "it raised an error, which is not shown as it may hold values" if secret else found.error
        return could_not_run(expectation.name, told, subject=expectation.subject)
    return Check(
        name=expectation.name,
        passed=found.passed,
        value=_observed(found, secret),
        threshold="(not shown)" if secret else _threshold(expectation),
        severity=_SEVERITY[expectation.severity],
        subject=expectation.subject,
        detail=_detail(expectation, found, key, hidden),
        unexpected=_unexpected(found, key, hidden),
    )


def _observed(found: Found, secret: bool) -> float | str | None:
    if found.observed is None and found.count is not None:
        share = "" if found.percent is None else f" ({found.percent:.3g} %)"
        return f"{found.count} unexpected{share}"
    return "(not shown)" if secret and found.observed is not None else _plain(found.observed)


def _threshold(expectation: Expectation) -> float | str | None:
    limits = {k: v for k, v in expectation.kwargs.items() if k not in ("column", "batch_id")}
    return _plain(limits)


def _detail(expectation: Expectation, found: Found, key: str | None, hidden: frozenset[str]) -> str:
    told = []
    if not found.passed and expectation.severity == "info":
        told.append("info")
    if found.count is not None and found.rows and found.missing == found.rows:
        told.append("every row lacks a value, so there was nothing to check")
    if not found.passed and found.examples:
        told.append(f"for instance {', '.join(_told(e, key, hidden) for e in found.examples[:_SHOWN])}")
    return ": ".join(told)


def _told(example: Example, key: str | None, hidden: frozenset[str]) -> str:
    shown = [repr(value) for column, value in example.values.items() if column not in hidden]
    named = f"{key} {example.key}" if key and key not in hidden and example.key is not None else f"row {example.row}"
    return f"{' and '.join(shown)} ({named})" if shown else named


def _unexpected(found: Found, key: str | None, hidden: frozenset[str]) -> Unexpected | None:
    if found.count is None or found.rows is None:
        return None
    return Unexpected(
        rows=found.rows,
        count=found.count,
        share=found.count / found.considered if found.considered else None,
        missing=found.missing or 0,
        examples=tuple(_row(example, key, hidden) for example in found.examples),
    )


def _row(example: Example, key: str | None, hidden: frozenset[str]) -> dict[str, Scalar]:
    row: dict[str, Scalar] = {} if example.row is None else {"row": example.row}
    if key and key not in hidden and example.key is not None:
        row[key] = _scalar(example.key)
    return row | {column: _scalar(v) for column, v in example.values.items() if column not in hidden}


def _scalar(value: Any) -> Scalar:
    if value is None or type(value) is int or (type(value) is float and abs(value) < float("inf")):
        return value
    return str(value)[:200]


def _plain(value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value)
    return json.dumps(value, default=str)[:200]
