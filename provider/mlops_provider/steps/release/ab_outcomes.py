"""Outcomes of an A/B test: rows read by column, looked through, and put together by entity, the unit that was randomized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mlops_provider.checks import Check, Frozen
from mlops_provider.exceptions import DataError
from mlops_provider.steps.release.ab_assign import texts
from mlops_provider.steps.release.ab_statistics import Kind
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from mlops_provider.steps.step import Job

Aggregate = Literal["mean", "sum", "any"]
_NUMERIC = ("integer", "floating", "decimal", "null")  # as Arrow calls the types


class Metric(Frozen):
    """The business metric of a test, one number an entity.

    :param name: column with it.
    :param kind: ``mean`` of numbers, or ``proportion`` of entities, whose rows have 0 or 1, false or true.
    :param aggregate: what makes one number of several rows of an entity: their ``mean`` or ``sum``; for a proportion ``any``,
        1 if one of the rows has it. By default mean and any.
    :param lowest: a lower value is an error: 0 for counts. None if there is no lowest.
    """

    name: str = Field(min_length=1)
    kind: Kind
    larger_is_better: bool = True
    aggregate: Aggregate | None = None
    lowest: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self) -> Metric:
        if self.aggregate is not None and (self.aggregate == "any") != (self.kind == "proportion"):
            raise ValueError(f"aggregate {self.aggregate}: a mean takes mean or sum, a proportion takes any")
        if self.lowest is not None and self.kind == "proportion":
            raise ValueError("lowest: says nothing about a proportion, whose rows have 0 or 1")
        return self

    @property
    def function(self) -> str:
        """What pandas calls the aggregate."""
        return "max" if self.kind == "proportion" else self.aggregate or "mean"


def read(job: Job, given: str | Artifact, columns: list[str]) -> tuple[Artifact, Any]:
    """Columns of a parquet or CSV file or a folder of parquet files, as they lie there now.

    :param given: a URI, under data_root if it is relative; or a recorded table.
    :returns: what was read, by hash, and a pyarrow table.
    :raises DataError: if it cannot be read, has no rows, or lacks a column.
    """
    from mlops_provider.steps.data.dataset import Dataset

    content = described(job, given)
    return content, Dataset.of(job.storage, content).table(columns)


def described(job: Job, given: str | Artifact) -> Artifact:
    """What lies under a URI now, or the recorded table itself.

    :raises DataError: if nothing does.
    """
    from mlops_provider.steps.data.dataset import Dataset

    return Dataset(job.storage, job.deployment.source(given)).content() if isinstance(given, str) else given


def numbers(column: Any, name: str) -> npt.NDArray[np.float64]:
    """A column as float64 [n]; NaN where there is no value.

    :raises DataError: if it holds no numbers.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not any(getattr(pa.types, f"is_{kind_of}")(kind) for kind_of in _NUMERIC):
        raise DataError(f"the metric {name!r} is {kind}: it must hold numbers, or true and false")
    found: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return found


def keys(column: Any, name: str) -> pd.Series[str]:
    """A column of keys as text, None where there is none."""
    found = texts(column, f"the column {name!r}").to_pandas()
    return found.where(found != "", None)  # type: ignore[no-any-return]


def value_checks(values: npt.NDArray[np.float64], metric: Metric) -> list[Check]:
    """Whether the metric can be reckoned with: no value is missing, infinite or impossible. [n]: one a row."""
    import numpy as np

    name = metric.name
    missing, endless = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    found = values[np.isfinite(values)]
    checks = [
        none_wrong("values_present", missing, name, "rows have no value: write 0 for an entity that did nothing"),
        none_wrong("values_finite", endless, name, "rows are infinite"),
    ]
    if metric.kind == "proportion":
        odd = int(((found != 0) & (found != 1)).sum())
        checks.append(none_wrong("values_possible", odd, name, "rows are neither 0 nor 1"))
    elif metric.lowest is not None:
        low, least = int((found < metric.lowest).sum()), f"{metric.lowest:g}, the lowest possible"
        checks.append(none_wrong("values_possible", low, name, f"rows are below {least}"))
    return checks


def none_wrong(name: str, count: int, subject: str, what: str) -> Check:
    """The check that nothing of a kind is there, where a single one is an error.

    :param what: the rest of a sentence that begins with the count.
    """
    detail = f"{count:,} {what}" if count else ""
    return Check(
        name=name, passed=not count, value=count, threshold=0, severity="error", subject=subject, detail=detail
    )


def per_entity(entities: pd.Series[str], values: npt.NDArray[np.float64], metric: Metric) -> pd.Series[float]:
    """The metric of each entity, by its key."""
    import pandas as pd

    rows = pd.Series(values, index=entities.to_numpy())
    found: pd.Series[float] = rows.groupby(level=0, sort=False).agg(metric.function)
    return found
