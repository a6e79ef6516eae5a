"""Training: LightGBM on accepted, versioned data, and on nothing that was not known at the cutoff."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_provider.exceptions import ConfigError, RequestError
from mlops_provider.steps import tables
from mlops_provider.steps.data.statistics import applied, fit
from mlops_provider.steps.records import ModelVersion, Split, Trained, Validation
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import rows as known
from mlops_provider.steps.training.boosting import Boosted, Rows, boosted, own
from mlops_provider.steps.training.identity import Start, TrainArguments, environment, version_fingerprint
from mlops_provider.steps.training.objectives import plain, targets
from mlops_provider.steps.training.parameters import with_params
from mlops_provider.steps.training.split import split_to_fit
from mlops_provider.steps.training.stream import streamed
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mlops_provider")

Array = np.ndarray[Any, Any]
_REFERENCE_ROWS = 10_000


@step("train", arguments=TrainArguments, result=Trained, sections=("data", "features", "training"), code=True)
def train(job: Job, arguments: TrainArguments) -> Trained:
    """Fits a candidate on the split. Rows are sorted by key first, so that their order of arrival does not matter.

    :raises DataError: if there is nothing to learn from, or a feature is not what can be learned from.
    :raises ConfigError: if a function of the model's own raises, or returns what cannot be used.
    """
    job = with_params(job, arguments.params)
    split = split_to_fit(job, arguments.split)
    return _Training(job, split, arguments).trained()


def start_from(job: Job, champion: ModelVersion | None) -> Start | None:
    """What a candidate is told of the champion whose trees it goes on from; None if it starts anew."""
    if job.config.training.start == "fresh" or champion is None:
        return None
    if champion.package.features != job.config.features.columns or champion.package.fitted or job.config.features.fit:
        log.warning("starting anew: version %d has other features, or statistics of its own", champion.version)
        return None
    package = champion.package
    return Start(version=champion.version, booster=package.booster, features=package.features, seen=champion.seen_until)


class _Training:
    """One candidate."""

    def __init__(self, job: Job, split: Split, arguments: TrainArguments) -> None:
        self.job, self.split, self.arguments = job, split, arguments
        self.fingerprint = version_fingerprint(job, split, arguments)
        self.columns = list(job.config.features.columns)

    def trained(self) -> Trained:
        from lightgbm.basic import LightGBMError

        try:
            return self._streamed() if self.job.config.training.memory == "streamed" else self._whole()
        except LightGBMError as error:
            where = f"{self.job.config.name}: model.yaml: training.params {self.job.config.training.params}"
            raise ConfigError(f"{where}: LightGBM does not train with them: {error}") from error

    def _whole(self) -> Trained:
        """With all rows in memory."""
        frame = known.known_rows(self.job, self.split)
        times = frame[self.job.config.data.event_time]
        labels = self._labels(targets(self.job.config, frame))
        chosen, later = self._divided(times, labels)
        features = frame.loc[chosen, self.columns].reset_index(drop=True)
        statistics = fit(self.job, features, plain(labels[chosen]), self.fingerprint)
        given = applied(self.job, statistics, features)
        known.check_features(self.job, self.split, given.to_numpy())
        weights = known.weights(self.job, self.split, given, times[chosen])
        validation = None
        if later.any():
            unseen = frame.loc[later, self.columns].reset_index(drop=True)
            validation = applied(self.job, statistics, unseen), labels[later]
        made = self._made(given, labels[chosen], weights, validation)
        sample = features.sample(min(_REFERENCE_ROWS, len(features)), random_state=self.job.config.training.seed)
        return self._told(made, sample, int(chosen.sum()), times[later], statistics)

    def _made(self, given: pd.DataFrame, labels: Array, weights: Array | None, validation: Any) -> Boosted:
        start = self._start()
        rows = Rows(given.to_numpy(), labels, weights)
        if self.job.config.training.fit:
            return own(self.job, given, rows, validation, start)
        return boosted(self.job, rows, Rows(validation[0].to_numpy(), validation[1]) if validation else None, start)

    def _streamed(self) -> Trained:
        """With rows on disk."""
        weight = self.job.config.training.weight
        with streamed(self.job, self.split) as found:
            labels = self._labels(found.labels)
            chosen, later = self._divided(found.times, labels)
            store, kept = found.stored(chosen, "fit", weight.column if weight else None)
            weights = known.weights(self.job, self.split, kept, found.times[chosen])
            validation = None
            if later.any():
                validation = Rows(found.stored(later, "validation")[0].sequence(), labels[later])
            made = boosted(self.job, Rows(store.sequence(), labels[chosen], weights), validation)
            return self._told(made, self._sampled(store), len(store), found.times[later], None)

    def _sampled(self, store: Any) -> pd.DataFrame:
        """The rows that `DataFrame.sample` would have drawn."""
        import pandas as pd

        draw = np.random.RandomState(self.job.config.training.seed)  # the generator that pandas uses for a seed
        places = draw.choice(len(store), size=min(_REFERENCE_ROWS, len(store)), replace=False)
        return pd.DataFrame(store.take(places), columns=self.columns)

    def _labels(self, labels: Array) -> Array:
        if self.arguments.drill != "shuffled_labels":
            return labels
        log.warning("drill: labels are shuffled on purpose; the gate must refuse this candidate")
        order = np.random.default_rng(self.job.config.training.seed).permutation(len(labels))
        return labels[order] if labels.ndim == 1 else np.column_stack([labels[order, 0], labels[:, 1]])

    def _divided(self, times: pd.Series[Any], labels: Array) -> tuple[Array, Array]:
        """Which rows are fitted on, and which early stopping measures on; both must tell something."""
        what, stopping = known.where(self.job, self.split), self.job.config.training.early_stopping
        if stopping is None:
            known.check_labels(self.job, labels, what)
            return np.ones(len(labels), bool), np.zeros(len(labels), bool)
        chosen, later = known.divided(self.job, times)
        known.check_labels(
            self.job, labels[chosen], f"{what}: what early stopping's window of {stopping.window} leaves to fit on"
        )
        known.check_labels(self.job, labels[later], f"{what}: early stopping's window, the last {stopping.window},")
        return chosen, later

    def _start(self) -> str | None:
        """The trees to go on from.

        :raises RequestError: if they have seen the holdout.
        """
        start = self.arguments.start
        if start is None:
            return None
        if start.seen >= self.split.holdout.partition:
            raise RequestError(
                f"version {start.version} has seen data until {start.seen}: what goes on from it cannot be judged on "
                f"{self.split.holdout.partition}"
            )
        return self.job.storage.fetch(start.booster).decode()

    def _told(
        self, made: Boosted, sample: pd.DataFrame, rows: int, later: pd.Series[Any], statistics: Artifact | None
    ) -> Trained:
        job, folder = self.job, ("models", self.fingerprint)
        return Trained(
            booster=job.storage.write(job.under(*folder, "model.txt"), made.text.encode()),
            reference=tables.write_frame(job.storage, job.under(*folder, "reference"), sample),
            model_hash=model_hash(made.text),
            fingerprint=self.fingerprint,
            rows=rows,
            split=self.arguments.split,
            fitted=statistics,
            drill=self.arguments.drill,
            trees=made.trees,
            validation=self._validation(made, later),
            start=self.arguments.start.version if self.arguments.start else None,
            environment=environment(),
            params=self.arguments.params,
            tuning=self.arguments.tuning,
        )

    def _validation(self, made: Boosted, later: pd.Series[Any]) -> Validation | None:
        asked = self.job.config.training.early_stopping
        if asked is None:
            return None
        span = {"first": later.min().to_pydatetime(), "last": later.max().to_pydatetime()}
        return Validation(metric=asked.metric, value=made.value, rows=len(later), **span)


def model_hash(text: str) -> str:
    """sha256 of the trees of a LightGBM text model; what surrounds them names the number of threads."""
    trees = text[text.index("Tree=0") : text.index("end of trees")]
    return hashlib.sha256(trees.encode()).hexdigest()
