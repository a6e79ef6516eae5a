"""The rows that a candidate learns from, those that early stopping measures on, and what they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_provider.exceptions import DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import GROUP, LABEL
from mlops_provider.steps.records import Split
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.objectives import objective

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]
_HUGE = 1e300  # LightGBM takes what is beyond for infinite when it writes a threshold
_MAX_CODE = 65_535  # LightGBM keeps a bit for every code up to the largest, in each split


def where(job: Job, split: Split) -> str:
    """What errors say of where rows come from."""
    return f"{job.config.name}: {split.fit[0].partition} to {split.fit[-1].partition}"


def known_rows(job: Job, split: Split) -> pd.DataFrame:
    """The labelled rows whose label was known at the cutoff, sorted by key; of a ranking by group before that.

    :raises DataError: if there are none.
    """
    import pandas as pd

    frame: pd.DataFrame = pd.concat(
        [snapshot.read(job, version).to_pandas() for version in split.fit], ignore_index=True
    )
    frame = frame[known(job, split, frame)].sort_values(order(job), ignore_index=True)
    if frame.empty:
        raise DataError(f"{where(job, split)}: no row has a label that was known on {split.cutoff:%Y-%m-%d %H:%M}")
    return frame


def order(job: Job) -> list[str]:
    """The columns that training rows are sorted by. LightGBM wants the rows of a group to follow each other."""
    data = job.config.data
    return [*([GROUP] if data.group else []), data.key, data.event_time]


def known(job: Job, split: Split, frame: pd.DataFrame) -> pd.Series[bool]:
    """Which rows have a label that was known at the cutoff."""
    import pandas as pd

    data = job.config.data
    told = frame[data.event_time] + parse_duration(data.label.delay) <= pd.Timestamp(split.cutoff)
    return told & frame[LABEL].notna()


def divided(job: Job, times: pd.Series[Any]) -> tuple[Array, Array]:
    """Which rows are fitted on and which early stopping measures on.

    What is fitted on was labelled before the first prediction of the window was made, as it would be in life.

    :param times: event times, pandas [n].
    """
    stopping, data = job.config.training.early_stopping, job.config.data
    assert stopping is not None
    begin = times.max() - parse_duration(stopping.window)
    later = (times > begin).to_numpy()
    gap = parse_duration(data.label.delay) + parse_duration(data.lead)
    return (times + gap <= times[later].min()).to_numpy(), later


def weights(job: Job, split: Split, features: Any, times: pd.Series[Any]) -> Array | None:
    """How much each row counts, float64 [n]; None if all count alike.

    :param features: the features of the rows, by name.
    :raises DataError: for a weight that is none.
    """
    import pandas as pd

    asked, made = job.config.training.weight, np.ones(len(times))
    if asked is None:
        return None
    if asked.half_life:
        age = (pd.Timestamp(split.cutoff) - times).dt.total_seconds().to_numpy()
        made *= 0.5 ** (age / parse_duration(asked.half_life).total_seconds())
    if asked.column:
        made *= np.asarray(features[asked.column], np.float64)
    if not (np.isfinite(made).all() and (made >= 0).all() and made.any()):
        source = f"the feature {asked.column!r}" if asked.column else f"a half-life of {asked.half_life}"
        raise DataError(
            f"{where(job, split)}: training.weight: {source} must give every row a finite number from 0, and not 0 to all"
        )
    return made


def check_labels(job: Job, labels: Array, what: str) -> None:
    """Raises if there is nothing to tell apart.

    :raises DataError: if all labels are the same, or there are none.
    """
    if problem := objective(job.config).problem(labels):
        raise DataError(f"{what}: {problem}")


def check_features(job: Job, split: Split, block: Array) -> None:
    """Looks at all rows at once.

    :raises DataError: naming the feature that is not what can be learned from.
    """
    checks = FeatureChecks(job, where(job, split))
    checks.add(block)
    checks.finish()


class FeatureChecks:
    """What features must be to be learned from, looked at block by block."""

    def __init__(self, job: Job, what: str) -> None:
        features = job.config.features
        self._columns, self._optional, self._what = list(features.columns), features.optional, what
        self._codes = [self._columns.index(name) for name in features.categorical]
        self._seen = np.zeros(len(self._columns), bool)

    def add(self, block: Array) -> None:
        """Looks at rows, float64 [n, features].

        :raises DataError: naming the feature that is infinite or huge, or no code of a category.
        """
        self._seen |= ~np.isnan(block).all(axis=0)
        self._refuse(np.abs(block) >= _HUGE, "is infinite, or beyond 1e300,")
        codes = block[:, self._codes]
        odd = np.zeros(block.shape, bool)
        odd[:, self._codes] = ~np.isnan(codes) & ((codes < 0) | (codes > _MAX_CODE) | (codes != np.floor(codes)))
        self._refuse(odd, f"is categorical and no whole number from 0 to {_MAX_CODE}")

    def finish(self) -> None:
        """:raises DataError: naming the features that have no value in any row, those aside that may have none."""
        empty = [name for name, seen in zip(self._columns, self._seen, strict=True) if not seen]
        if empty := [name for name in empty if name not in self._optional]:
            raise DataError(
                f"{self._what}: no row has a value of {', '.join(empty)}; mend the features, or name it in features.optional "
                "if it may have none"
            )

    def _refuse(self, bad: Array, why: str) -> None:
        if bad.any():
            place = int(bad.any(axis=0).argmax())
            raise DataError(
                f"{self._what}: the feature {self._columns[place]!r} {why} in {int(bad[:, place].sum())} rows; "
                "make it NaN where it is not known"
            )
