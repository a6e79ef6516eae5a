"""What trials are measured on: later partitions inside the window that a candidate is fitted on.

A fold is made as the loops make a split: everything before a partition whose label was known when that partition began, and
the partition to measure on. The last partition of the window belongs to no fold of the search: on it, and with all before
it, the result of the search is compared with the configuration as it stands. The holdout has no part in any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.statistics import applied, fit
from mlops_provider.steps.records import Parameters, Split
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import rows as known
from mlops_provider.steps.training.boosting import Rows, boosted
from mlops_provider.steps.training.objectives import objective, plain, targets
from mlops_provider.steps.training.parameters import with_params
from mlops_provider.storage import digest


def search_folds(job: Job, split: Split) -> list[Split]:
    """The folds of the search, in order of time."""
    tune = job.config.training.tune
    assert tune is not None
    needed = tune.folds + 2
    if len(split.fit) < needed:
        raise DataError(
            f"{job.config.name}: {len(split.fit)} partitions before {split.holdout.partition}, tuning on {tune.folds} "
            f"folds needs {needed}"
        )
    last = len(split.fit) - 1
    return [_until(job, split, place) for place in range(last - tune.folds, last)]


def accepting_fold(job: Job, split: Split) -> Split:
    """The fold that the search does not see."""
    return _until(job, split, len(split.fit) - 1)


def _until(job: Job, split: Split, place: int) -> Split:
    judged = split.fit[place]
    cutoff = judged.first - parse_duration(job.config.data.lead)
    return split.model_copy(update={"fit": split.fit[:place], "holdout": judged, "cutoff": cutoff})


@dataclass(frozen=True)
class Fold:
    """A fold with its rows: what is fitted on, and what is measured on.

    :ivar later: the labelled rows of the partition that is measured on, with key and event time.
    """

    config: ModelConfig
    partition: str
    features: Any
    labels: Any
    weights: Any
    later: Any
    later_features: Any

    @property
    def labels_later(self) -> Any:
        return targets(self.config, self.later)

    def scores(self, job: Job, params: Parameters, callbacks: Sequence[Any] = ()) -> Any:
        """Scores of the later rows by a model with these parameters, fitted on the earlier ones.

        :raises lightgbm.basic.LightGBMError: if the parameters do not go together.
        """
        import lightgbm

        made = boosted(
            with_params(job, params), Rows(self.features, self.labels, self.weights), None, callbacks=callbacks
        )
        return lightgbm.Booster(model_str=made.text).predict(
            self.later_features, num_threads=job.config.training.resources.cpu
        )


def read(job: Job, split: Split) -> Fold:
    """The rows of a fold, with the statistics that the model's own code fits on the earlier ones.

    :raises DataError: if there is nothing to learn from, or nothing to tell apart in the later partition.
    """
    frame, columns = known.known_rows(job, split), list(job.config.features.columns)
    labels = targets(job.config, frame)
    known.check_labels(job, labels, known.where(job, split))
    statistics = fit(job, frame[columns], plain(labels), digest([split.model_dump(mode="json"), job.model.code_hash]))
    later = snapshot.read(job, split.holdout).to_pandas()
    later = later[later[LABEL].notna()]
    if problem := objective(job.config).problem(targets(job.config, later)):
        raise DataError(
            f"{job.config.name}: {split.holdout.partition}: {problem}: no trial can be measured on it. Widen "
            "training.window, or take training.tune out of model.yaml"
        )
    features = applied(job, statistics, frame[columns])
    known.check_features(job, split, features.to_numpy())
    return Fold(
        config=job.config,
        partition=split.holdout.partition,
        features=features.to_numpy(),
        labels=labels,
        weights=known.weights(job, split, features, frame[job.config.data.event_time]),
        later=later,
        later_features=applied(job, statistics, later[columns]).to_numpy(),
    )
