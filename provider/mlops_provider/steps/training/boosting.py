"""Boosting: LightGBM as model.yaml tells, or the model's own `fit`, on rows in memory or on disk."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops_provider.exceptions import ConfigError
from mlops_provider.sections.objectives import larger_is_better
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.objectives import objective, plain
from mlops_provider.steps.training.trees import splits

log = logging.getLogger("mlops_provider")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """What is learned from, or measured on.

    :param features: float64 [n, features], or a list of LightGBM's ``Sequence`` of such rows.
    :param labels: float64 [n], of a ranking [n, 2], whose groups follow each other (metrics.py).
    :param weights: float64 [n]; None if all rows count alike.
    """

    features: Any
    labels: Array
    weights: Array | None = None

    @property
    def plain(self) -> Array:
        """The labels without the groups, float64 [n]."""
        return plain(self.labels)

    @property
    def groups(self) -> Array | None:
        """How many rows each group has, in the order of the rows; None unless it is a ranking."""
        if self.labels.ndim != 2:
            return None
        ends = np.flatnonzero(np.diff(self.labels[:, 1])) + 1
        return np.asarray(np.diff(np.r_[0, ends, len(self.labels)]))

    def dataset(self, **settings: Any) -> Any:
        """The rows as LightGBM takes them."""
        import lightgbm

        return lightgbm.Dataset(self.features, label=self.plain, weight=self.weights, group=self.groups, **settings)


@dataclass(frozen=True)
class Boosted:
    """:param text: the model as LightGBM's text, with the trees that are kept.
    :param value: what early stopping measured with them.
    """

    text: str
    value: float | None = None

    @property
    def trees(self) -> int:
        return self.text.count("\nTree=")


def settings(job: Job) -> dict[str, Any]:
    """LightGBM's parameters: those of model.yaml, and what makes the trees the same for any number of threads."""
    training = job.config.training
    return {
        **training.params,
        **objective(job.config).params,
        "objective": training.objective,
        "seed": training.seed,
        "num_threads": training.resources.cpu,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }


def bin_seed(seed: int) -> int:
    """The seed that LightGBM draws rows for its bins with, as it derives it from `seed` (Config::Set and Random::NextShort).

    For rows in memory it does so itself; for a ``Sequence`` its Python side forgets `seed`.
    """
    state = (214_013 * seed + 2_531_011) % 2**32
    return (state >> 16 & 0x7FFF) % 0x7FFF


def boosted(
    job: Job, rows: Rows, validation: Rows | None, start: str | None = None, callbacks: Sequence[Any] = ()
) -> Boosted:
    """LightGBM as model.yaml tells.

    :param validation: what early stopping measures on.
    :param start: text of the model whose trees are gone on from.
    :param callbacks: LightGBM's, in place of the one that tells how far it is.
    """
    import lightgbm

    training, features = job.config.training, job.config.features
    given = {"data_random_seed": bin_seed(training.seed), **settings(job), "metric": "None"}
    columns = {"feature_name": list(features.columns), "categorical_feature": list(features.categorical)}
    dataset = rows.dataset(params=given, **columns)
    more: dict[str, Any] = {"callbacks": list(callbacks) or [_progress(training.rounds)]}
    if validation is not None:
        more |= _stopping(job, validation, validation.dataset(reference=dataset))
    if start is not None:
        more["init_model"] = lightgbm.Booster(model_str=start)
    booster = lightgbm.train(given, dataset, num_boost_round=training.rounds, **more)
    return Boosted(str(booster.model_to_string()), _best(booster))


def _stopping(job: Job, validation: Rows, dataset: Any) -> dict[str, Any]:
    """Early stopping by a metric of our own: LightGBM's sums depend on the number of threads in their last digits."""
    import lightgbm

    asked = job.config.training.early_stopping
    assert asked is not None

    def measured(scores: Array, _: Any) -> tuple[str, float, bool]:
        value = metrics.measure((asked.metric,), validation.labels, scores)[asked.metric]
        return asked.metric, value, larger_is_better(asked.metric)

    stop = lightgbm.early_stopping(asked.rounds, verbose=False)
    callbacks = [_progress(job.config.training.rounds), stop]
    return {"valid_sets": [dataset], "valid_names": ["validation"], "feval": measured, "callbacks": callbacks}


def _best(booster: Any) -> float | None:
    return next((float(v) for found in booster.best_score.values() for v in found.values()), None)


def _progress(rounds: int) -> Any:
    def report(state: Any) -> None:
        done = state.iteration - state.begin_iteration + 1
        if done % max(1, rounds // 4) == 0:
            log.info("%s training: %d of %d trees", dt.datetime.now(dt.UTC).strftime("%H:%M:%S"), done, rounds)

    return report


def own(job: Job, features: Any, rows: Rows, validation: tuple[Any, Array] | None, start: str | None = None) -> Boosted:
    """What the model's own `fit` makes of the rows.

    :param features: the features of the rows as a DataFrame; `validation` features and labels likewise, of a ranking with the
        rows of its groups as a third.
    :raises ConfigError: if it raises, or returns what cannot be packaged.
    """
    import lightgbm

    training = job.config.training
    assert training.fit is not None
    told = {
        "params": settings(job),
        "rounds": training.rounds,
        "categorical": list(job.config.features.categorical),
        "validation": _validation(validation),
        "early_stopping": training.early_stopping.rounds if training.early_stopping else None,
        "start": lightgbm.Booster(model_str=start) if start else None,
        "groups": rows.groups,
    }
    function = job.model.function(training.fit)
    try:
        # Copies: what it changes must not become what drift and packaging take for the training data.
        made = function(features.copy(), rows.plain.copy(), None if rows.weights is None else rows.weights.copy(), told)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{job.config.name}: {training.fit} raised {type(error).__name__}: {error}") from error
    return Boosted(_accepted(job, f"{job.config.name}: {training.fit}", made))


def _validation(given: tuple[Any, Array] | None) -> tuple[Any, ...] | None:
    if given is None:
        return None
    rows = Rows(*given)
    return (rows.features, rows.plain) if rows.groups is None else (rows.features, rows.plain, rows.groups)


def _accepted(job: Job, what: str, made: object) -> str:
    """The text of a booster that can be packaged.

    :raises ConfigError: if it is none.
    """
    import lightgbm

    if not isinstance(made, lightgbm.Booster):
        hint = ", return its booster_" if hasattr(made, "booster_") else ""
        raise ConfigError(
            f"{what} returned {type(made).__name__}, expected a lightgbm.Booster{hint}: what is registered is data, not "
            "code, and can be packaged exactly"
        )
    wanted = [name.replace(" ", "_") for name in job.config.features.columns]
    if (names := made.feature_name()) != wanted:
        raise ConfigError(f"{what} returned a model of the features {', '.join(names)}, expected {', '.join(wanted)}")
    text = str(made.model_to_string())
    found = next((line for line in text.splitlines() if line.startswith("objective=")), "objective=none")
    if found.removeprefix("objective=").split(" ")[0] != job.config.training.objective:
        raise ConfigError(f"{what} returned a model with {found}, model.yaml says {job.config.training.objective}")
    if (outputs := made.num_model_per_iteration()) != (wanted_outputs := max(1, len(objective(job.config).classes))):
        raise ConfigError(f"{what} returned a model of {outputs} scores for a row, expected {wanted_outputs}")
    if not made.num_trees():
        raise ConfigError(f"{what} returned a model without trees")
    if made.pandas_categorical:
        raise ConfigError(
            f"{what} returned a model of pandas categories, which are not stored with it: give LightGBM whole numbers, and name "
            "the features in features.categorical"
        )
    names, known = job.config.features.columns, job.config.features.categorical
    if strange := sorted({names[one.feature] for one in splits(text) if one.categories} - set(known)):
        raise ConfigError(f"{what} splits {', '.join(strange)} by category, which features.categorical does not name")
    return text
