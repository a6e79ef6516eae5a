"""A model's labelled history as a line of periods: the accepted partitions, or weeks or days that are cut from their rows."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.partitions import LENGTHS, parse_duration, start
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.rows import LABEL
from mlops_provider.steps.monitoring.decide import accepted
from mlops_provider.steps.records import DataWork, FeatureVersion, Split
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.objectives import objective, targets

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mlops_provider")

Cut = Literal["day", "week"]
_WIDTHS = {"day": dt.timedelta(days=1), "week": dt.timedelta(weeks=1)}
_NAMES = {"day": "%Y-%m-%d", "week": "%G-W%V"}


@dataclass(frozen=True)
class Period:
    """Rows of one period, as they were accepted.

    :param rows: the feature table, a DataFrame [n], sorted by key.
    :param first: earliest event time, UTC; `last` the latest.
    """

    name: str
    rows: pd.DataFrame
    first: dt.datetime
    last: dt.datetime

    @property
    def version(self) -> FeatureVersion:
        """The period as what reads rows of a split takes it; it is nowhere stored as such."""
        known = {"rows": len(self.rows), "labelled": int(self.rows[LABEL].notna().sum())}
        place = {"rev": "", "tag": "", "path": "", "md5": "", "size": 0}
        return FeatureVersion(partition=self.name, first=self.first, last=self.last, **known, **place)


@dataclass(frozen=True)
class Timeline:
    """Periods in order of time, and what the rules of the loops come to in periods.

    :param minimum: fewest periods that a candidate is fitted on; `size` most of them, None for all.
    :param holdout: periods that a candidate is judged on: as few as hold `evaluation.minimum_blocks` time blocks.
    :param lag: from the period that is decided on to the first one that a model promoted then can score, in periods.
    """

    job: Job
    periods: tuple[Period, ...]
    minimum: int
    size: int | None
    holdout: int
    lag: int

    def __len__(self) -> int:
        return len(self.periods)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(period.name for period in self.periods)

    def fit(self, last: int) -> tuple[Period, ...]:
        """The periods that the candidate is fitted on whose last one has this number."""
        return self.periods[: last + 1][-(self.size or 0) :]

    def split(self, last: int) -> Split:
        """The split of that candidate: it knows what was known before the first prediction of its holdout was made."""
        judged = self.periods[last + 1].version
        lead = parse_duration(self.job.config.data.lead)
        return Split(
            fit=tuple(period.version for period in self.fit(last)),
            holdout=judged,
            holdout_work=DataWork(partition=judged.partition),
            cutoff=judged.first - lead,
        )


def timeline(job: Job, *, cut: Cut | None = None, lag: int | None = None) -> Timeline:
    """Reads the accepted partitions of a model.

    :param cut: regroup their rows by event time (UTC); None keeps the partitions. A period at either end that is not whole is
        left out.
    :param lag: periods, in place of what event times, `data.label.delay` and `data.lead` say.
    :raises RequestError: if nothing was accepted, or there are too few periods to decide on.
    """
    versions = accepted(job, job.ledger.records())
    if not versions:
        raise RequestError(
            f"{job.config.name}: no partition was accepted yet: deliver labelled partitions and run ci, or `mlops lap`"
        )
    periods = _regrouped(job, versions, cut) if cut else tuple(_read(job, version) for version in versions.values())
    shrunk = _shrunk(job, cut)
    window = job.config.training.window
    found = Timeline(
        job=job,
        periods=periods,
        minimum=window.minimum * shrunk,
        size=window.size * shrunk if window.size else None,
        holdout=_holdout(job, periods),
        lag=_lag(job, periods) if lag is None else lag,
    )
    if (need := found.minimum + found.holdout + found.lag + 1) > len(found):
        raise RequestError(
            f"{job.config.name}: {len(found)} periods, at least {need} are needed: {found.minimum} to fit on, "
            f"{found.holdout} to judge on, and {found.lag + 1} until a first model and a second one have scored"
        )
    return found


def identity(job: Job, cut: Cut | None) -> list[Any]:
    """What the rows of a timeline follow from: the content of the accepted partitions, and how it is cut."""
    versions = accepted(job, job.ledger.records())
    return [cut, [[name, version.md5] for name, version in versions.items()]]


def _read(job: Job, version: FeatureVersion) -> Period:
    log.info("reading %s", version.partition)
    rows = snapshot.read(job, version).to_pandas()
    return _period(job, version.partition, rows)


def _period(job: Job, name: str, rows: pd.DataFrame) -> Period:
    data = job.config.data
    if problem := objective(job.config).problem(targets(job.config, rows[rows[LABEL].notna()])):
        raise DataError(f"{job.config.name} {name}: no model can be judged on it: {problem}")
    times = rows[data.event_time]
    ordered = rows.sort_values([data.key, data.event_time], ignore_index=True)
    return Period(name, ordered, times.min().to_pydatetime(), times.max().to_pydatetime())


def _regrouped(job: Job, versions: Mapping[str, FeatureVersion], cut: Cut) -> tuple[Period, ...]:
    """All accepted rows, cut anew.

    :raises RequestError: if the model's own partitions are not longer.
    """
    import pandas as pd

    data, width = job.config.data, _WIDTHS[cut]
    if LENGTHS[data.partition] <= width:
        raise RequestError(f"{job.config.name}: partitions are {data.partition}, they cannot be cut by {cut}")
    rows = pd.concat([_read(job, version).rows for version in versions.values()], ignore_index=True)
    days = rows[data.event_time].dt.tz_convert(None).dt.floor("D")
    begins = days - pd.to_timedelta(days.dt.dayofweek if cut == "week" else 0, unit="D")
    names = list(versions)
    known = start(names[0], data.partition), max(period.last for period in versions.values())
    whole = [
        (begin, group)
        for begin, group in rows.groupby(begins, sort=True)
        if _whole(begin.tz_localize(dt.UTC).to_pydatetime(), width, known)
    ]
    return tuple(_period(job, begin.strftime(_NAMES[cut]), group) for begin, group in whole)


def _whole(begin: dt.datetime, width: dt.timedelta, known: tuple[dt.datetime, dt.datetime]) -> bool:
    """Whether a period lies within what was delivered, to the day: partitions may follow a local calendar."""
    day = dt.timedelta(days=1)
    return begin >= known[0] - day and begin + width <= known[1] + day


def _shrunk(job: Job, cut: Cut | None) -> int:
    """How many of the periods make up a partition of model.yaml, whose window counts partitions."""
    return 1 if cut is None else max(1, LENGTHS[job.config.data.partition] // _WIDTHS[cut])


def _holdout(job: Job, periods: tuple[Period, ...]) -> int:
    settings = job.config.evaluation
    width = parse_duration(settings.block)
    event_time = job.config.data.event_time
    blocks = [int(metrics.time_blocks(period.rows[event_time], width).max()) + 1 for period in periods]
    return max(1, math.ceil(settings.minimum_blocks / float(np.median(blocks))))


def _lag(job: Job, periods: tuple[Period, ...]) -> int:
    """From event times: labels are known a delay after the last event, and predictions are made a lead before theirs."""
    data = job.config.data
    delay, lead = parse_duration(data.label.delay), parse_duration(data.lead)
    found = [
        next(
            (
                later - now
                for later in range(now + 1, len(periods))
                if periods[later].first - lead >= period.last + delay
            ),
            0,
        )
        for now, period in enumerate(periods)
    ]
    return max(found, default=1) or 1
