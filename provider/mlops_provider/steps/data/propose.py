"""A first Great Expectations suite, proposed from one partition, for a person to edit: what was true of it, taken widely."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.exceptions import RequestError
from mlops_provider.partitions import start
from mlops_provider.steps import plan
from mlops_provider.steps.data.features import LABEL, FeaturesArguments, build_features
from mlops_provider.steps.data.profile import opened
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact

Suite = Literal["raw", "features"]
_MOST_VALUES = 30
_ROWS_A_VALUE = 20
_MOST_NULLS = 0.5


def propose(job: Job, which: Suite, partition: str | None = None) -> tuple[str, dict[str, Any]]:
    """The partition that was looked at, and a suite that it passes, in Great Expectations' own format.

    :param partition: the newest that was delivered if None.
    :raises RequestError: if there is no such partition.
    :raises DataError: if its data cannot be read.
    """
    state = plan.State(job)
    delivered = state.inputs if which == "raw" else state.labelled
    if partition is not None:
        start(partition, job.config.data.partition)
    elif not delivered:
        raise RequestError(f"{job.config.name}: nothing to propose a suite from lies under {job.deployment.data_root}")
    chosen = partition or delivered[-1]
    return chosen, {
        "name": f"{job.config.name}_{which}",
        "expectations": list(_expectations(job, _table(job, state, which, chosen), chosen)),
        "meta": {"notes": f"Proposed from {chosen}. Edit it: what was true of one partition need not be right."},
    }


def write(job: Job, which: Suite, directory: Path, text: str) -> Path:
    """Writes a suite where model.yaml names it, in the model's directory; never over a file.

    :raises RequestError: if there is one.
    """
    path = Path(directory, getattr(job.config.data.suites, which))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RequestError(
            f"{path} is there already and is not replaced; leave out --write to see a proposal"
        ) from error
    return path


def _table(job: Job, state: plan.State, which: Suite, partition: str) -> Artifact:
    if which == "raw":
        return job.storage.describe(job.deployment.source(job.config.data.source, partition))
    return build_features(job, FeaturesArguments(work=state.work(partition))).table


def _expectations(job: Job, table: Artifact, partition: str) -> Iterator[dict[str, Any]]:
    data = job.config.data
    with opened(job.storage, table) as file:
        rows, names = file.metadata.num_rows, file.schema_arrow.names
        yield _rows(rows, partition)
        why = f"The columns of {partition}. A new one may only be known after the event; take out what may come and go."
        yield _expect("table_columns_to_match_set", why, column_set=sorted(names))
        for name in names:
            values = file.read(columns=[name]).column(0)
            if name == data.key:
                yield _expect("column_values_to_not_be_null", "The key.", "critical", column=name)
                yield _expect("column_values_to_be_unique", "The key: one row each.", "critical", column=name)
            elif name == data.event_time:
                yield _expect(
                    "column_values_to_not_be_null",
                    "The event time: a row has its place by it.",
                    "critical",
                    column=name,
                )
            elif name == LABEL and (values_of := _label_values(job)):
                why = f"The label of the objective {job.config.training.objective}."
                yield _expect("column_values_to_be_in_set", why, "critical", column=name, value_set=values_of)
            elif name in data.pii:
                # Limits and lists of values would tell whose they are.
                if present := _present(name, len(values), len(values) - values.null_count, partition):
                    yield present
            else:
                yield from _column(name, values, partition)


def _label_values(job: Job) -> list[int]:
    """The values that a label can have; empty if it can be any number."""
    if job.config.training.objective == "binary":
        return [0, 1]
    return list(range(len(job.config.data.label.classes)))


def _rows(rows: int, partition: str) -> dict[str, Any]:
    why = f"{partition} has {rows} rows; far fewer is a torn delivery, far more a doubled one."
    return _expect("table_row_count_to_be_between", why, "critical", min_value=rows // 2, max_value=rows * 2)


def _column(name: str, values: pa.ChunkedArray, partition: str) -> Iterator[dict[str, Any]]:
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    known = values.filter(pc.invert(pc.is_null(values, nan_is_null=True)))
    if (present := _present(name, len(values), len(known), partition)) is not None:
        yield present
    if len(known) and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        yield from _set(name, known, partition)
    elif len(known) and (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        yield from _band(name, known, partition)


def _present(name: str, rows: int, known: int, partition: str) -> dict[str, Any] | None:
    kind, share = "column_values_to_not_be_null", 1 - known / rows
    if not share:
        return _expect(kind, f"No value is missing in {partition}.", column=name)
    if share > _MOST_NULLS:
        return None
    why = f"{share:.3g} of the values are missing in {partition}; a tenth more of the rest may be."
    return _expect(kind, why, column=name, mostly=math.floor((1 - share) * 90) / 100)


def _set(name: str, known: pa.ChunkedArray, partition: str) -> Iterator[dict[str, Any]]:
    values = sorted(pc.unique(known).to_pylist())
    if len(values) <= _MOST_VALUES and len(known) >= _ROWS_A_VALUE * len(values):
        why = f"All {len(values)} values of {partition}. Is it a closed list? A new value is a row that no model has seen."
        yield _expect("column_values_to_be_in_set", why, column=name, value_set=values)


def _band(name: str, known: pa.ChunkedArray, partition: str) -> Iterator[dict[str, Any]]:
    extremes = pc.min_max(known).as_py()
    least, most = float(extremes["min"]), float(extremes["max"])
    if not (math.isfinite(least) and math.isfinite(most)):
        return
    low, high = _wide(least, most)
    if least == 0 or (least > 0 and pa.types.is_integer(known.type)):
        low = max(low, 0)  # counts, codes, shares
    why = f"From {least:g} to {most:g} in {partition}, and as much again on either side. Put the limits of the thing itself."
    yield _expect("column_values_to_be_between", why, column=name, min_value=low, max_value=high)


def _wide(least: float, most: float) -> tuple[float, float]:
    """A band three times as wide, rounded outwards."""
    span = (most - least) or abs(most) or 1.0
    digits = 1 - math.floor(math.log10(span))
    return _rounded(least - span, digits, math.floor), _rounded(most + span, digits, math.ceil)


def _rounded(value: float, digits: int, toward: Any) -> float:
    scale = 10.0**digits
    rounded = round(toward(value * scale) / scale, max(digits, 0))
    return int(rounded) if rounded == int(rounded) else rounded


def _expect(kind: str, why: str, severity: str = "warning", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity, "meta": {"notes": why}}
