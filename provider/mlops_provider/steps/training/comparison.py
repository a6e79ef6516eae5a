"""The holdout as evaluations see it, and the paired comparison of two models on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mlops_provider.partitions import parse_duration
from mlops_provider.steps import tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Interval, Package, Split
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.objectives import Objective, objective, targets

Array = metrics.Array


class Labelled(Protocol):
    """Rows with labels, whose slices can be measured."""

    @property
    def job(self) -> Job: ...

    @property
    def labels(self) -> Array:
        """As metrics take them, float [n] or [n, 2]."""

    @property
    def blocks(self) -> Array:
        """Number of the time block of each row, int [n]."""

    def columns(self, names: set[str]) -> Any:
        """Columns of these rows, a DataFrame [n]."""


@dataclass(frozen=True)
class Holdout:
    """The labelled rows of a holdout.

    :param rows: the accepted feature table, a DataFrame [n].
    """

    job: Job
    split: Split
    rows: Any

    @classmethod
    def of(cls, job: Job, split: Split) -> Holdout:
        """The holdout of a split, read and verified."""
        rows = snapshot.read(job, split.holdout).to_pandas()
        return cls(job, split, rows[rows[LABEL].notna()])

    @cached_property
    def labels(self) -> Array:
        """The labels as metrics take them, float [n] or [n, 2]."""
        return targets(self.job.config, self.rows)

    @property
    def objective(self) -> Objective:
        """What is predicted."""
        return objective(self.job.config)

    @cached_property
    def blocks(self) -> Array:
        """Number of the time block of each row, int [n]."""
        settings = self.job.config
        return metrics.time_blocks(self.rows[settings.data.event_time], parse_duration(settings.evaluation.block))

    def features(self, package: Package) -> Array:
        """The features as the package takes them, float64 [n, features]."""
        given = applied(self.job, package.fitted, self.rows[list(package.features)])
        return np.asarray(given.to_numpy(), np.float64)

    def columns(self, names: set[str]) -> Any:
        """Columns of these rows: features from the accepted table, others from the inputs that it was built from."""
        frame = self.rows[[name for name in self.rows.columns if name in names]].reset_index(drop=True)
        if further := sorted(names - set(frame.columns)):
            key, work = self.job.config.data.key, self.split.holdout_work
            inputs = work.accepted or work.inputs
            if inputs is None:
                raise AssertionError("an accepted partition has inputs")
            found = tables.frame(self.job.storage, inputs, [key, *further]).set_index(key)
            frame[further] = found.loc[self.rows[key], further].to_numpy()
        return frame


def scorer(job: Job, package: Package) -> Scorer:
    """The package, ready to score with the threads that scoring has."""
    return Scorer.of(package, job.storage, threads=job.config.scoring.resources.cpu)


def compare(job: Job, labels: Any, scores: Any, rival: Any, blocks: Any) -> Interval:
    """The gain in the primary metric, positive is better, and its interval."""
    settings = job.config.evaluation
    functions = [metrics.metric(settings.metric, labels, values) for values in (scores, rival)]
    sign = metrics.sign(settings.metric)
    every = np.ones(len(labels))
    seed = job.config.training.seed
    values = metrics.resampled(functions, blocks, resamples=settings.resamples, seed=seed)
    low, high = metrics.bounds(sign * (values[:, 0] - values[:, 1]), settings.confidence)
    gain = sign * (functions[0](every) - functions[1](every))
    count = int(blocks.max()) + 1
    return Interval(gain=gain, low=low, high=high, blocks=count, confidence=settings.confidence)


def thinned(count: int, rows: int) -> Array:
    """Numbers of `rows` rows of `count`, spread evenly; of all if there are no more."""
    return np.arange(count) if rows >= count else np.linspace(0, count - 1, rows).astype(int)


def renumbered(blocks: Array) -> Array:
    """Block numbers of some rows, without gaps."""
    return np.unique(blocks, return_inverse=True)[1]
