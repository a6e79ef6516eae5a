"""For notebooks and terminals: a model as the steps get it, and any of its versions for scoring and inspection.

import mlops_provider

model = mlops_provider.load("flight_delays", "champion")
model.score(frame)
print(model.explain(frame.iloc[[0]]))
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_provider import config
from mlops_provider.deployment import Deployment, from_environment
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.explain import Explanation, explained
from mlops_provider.ledger import champion
from mlops_provider.modelcode import pack, unpack
from mlops_provider.steps import registry
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job

if TYPE_CHECKING:
    import pandas as pd


def job(
    model: str,
    *,
    include: str | Path | None = None,
    environment: str | None = None,
    deployment: Deployment | None = None,
    force: bool = False,
) -> Job:
    """A model's directory as it is now, as every step gets it: packed, with the deployment.

    :param include: folder with models/ in it; ``AIRFLOW__MLOPS__INCLUDE_DIR``, or ``include``, if None.
    :param environment: whose overlays of model.yaml apply; the deployment's if None.
    :param deployment: that of the environment variables if None.
    :param force: compute again what was computed before.
    :raises ConfigError: if model.yaml is not valid, or no deployment is named.
    """
    place = deployment or from_environment()
    folder = Path(
        include or os.environ.get("AIRFLOW__MLOPS__INCLUDE_DIR", "include"), "models", config.check_name(model)
    )
    packed = pack(folder, environment or place.environment, place.storage, place.artifact_root)
    return Job(packed, place, force=force)


def load(model: str, version: str | int = "champion", *, deployment: Deployment | None = None) -> LoadedModel:
    """A registered version, with the code that it was trained with.

    :param version: a number, or an alias. Who is ``champion`` the ledger says; other aliases are MLflow's.
    :param deployment: that of the environment variables if None.
    :raises RequestError: if there is no such version.
    :raises IntegrityError: if a file of it is not the one that was registered.
    """
    place = deployment or from_environment()
    found = find(model, version, place)
    return LoadedModel(found, Job(unpack(found.package.code, place.storage), place))


def find(model: str, version: str | int, place: Deployment) -> ModelVersion:
    """A version of a model by number or alias.

    :raises RequestError: if there is none.
    """
    records = place.ledger(config.check_name(model)).records()
    known = {r.version: ModelVersion.model_validate(r.facts["version"]) for r in records if r.kind == "candidate"}
    if not known:
        raise RequestError(f"{model}: no version is registered below {place.artifact_root}")
    if str(version).isdecimal():
        number: int | None = int(version)
    elif version == registry.CHAMPION:
        crowned = champion(records)
        number = crowned.version if crowned else None
    else:
        number = _aliased(str(version), next(iter(known.values())), place)
    if number not in known:
        raise RequestError(
            f"{model}: there is no version {version}; there are {', '.join(map(str, sorted(filter(None, known))))}"
        )
    return known[number]


def _aliased(alias: str, one: ModelVersion, place: Deployment) -> int | None:
    """The version that MLflow has under an alias; None if it has none."""
    ours = Job(unpack(one.package.code, place.storage), place)
    with registry.client(ours) as mlflow:
        found = mlflow.get_registered_model(place.registered_name(ours.config)).aliases.get(alias)
    return int(found) if found is not None else None


class LoadedModel:
    """A version, ready to score and to be looked at.

    :ivar version: its record: run, split, package, fingerprint.
    :ivar features: names of the columns that it takes.
    """

    def __init__(self, version: ModelVersion, job: Job) -> None:
        self.version, self.job = version, job
        self.features = version.package.features

    def __repr__(self) -> str:
        split = self.version.split
        return f"<{self.version.model} version {self.version.version}, fitted on {split.first} to {split.last}>"

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """All that the version came from: data versions, code, configuration, environment, evaluation."""
        found: dict[str, Any] = self.job.storage.read_json(self.version.lineage.uri)
        return found

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer.of(self.version.package, self.job.storage)

    @cached_property
    def _booster(self) -> Any:
        import lightgbm

        text = self.job.storage.fetch(self.version.package.booster).decode()
        return lightgbm.Booster(model_str=text)

    def score(self, features: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Scores of rows by the deployed package, float64 [n], or [n, classes].

        :param features: the columns `features`, as features.py builds them; others are ignored.
        :raises DataError: if one is missing, or holds no numbers.
        """
        return self._scorer.score(self._taken(features))

    def explain(self, row: pd.DataFrame, label: str | None = None) -> Explanation:
        """Why one row gets its score: what each feature adds, and its path through every tree.

        :param row: a frame of one row, with the columns `features`.
        :param label: the class whose score is explained; the likeliest if None.
        :raises DataError: if it is not one row, a column is missing, or there is no such class.
        """
        if len(row) != 1:
            raise DataError(f"one row is explained at a time, {len(row)} were given: take frame.iloc[[i]]")
        values = self._taken(row)
        scores = np.atleast_1d(self._scorer.score(values)[0])
        output = int(scores.argmax()) if label is None else self._class(label)
        found = explained(self._booster, self.features, values[0], float(scores[output]), output=output)
        classes = self.version.package.classes
        return found.model_copy(update={"label": classes[output]}) if classes else found

    def _class(self, label: str) -> int:
        classes = self.version.package.classes
        if label not in classes:
            raise DataError(
                f"{self!r} has no class {label!r}; it has {', '.join(classes) or 'none, a score is one number'}"
            )
        return classes.index(label)

    def _taken(self, features: pd.DataFrame) -> np.ndarray[Any, Any]:
        if missing := [name for name in self.features if name not in features]:
            raise DataError(f"{self!r} takes the columns {', '.join(missing)}, which the frame does not have")
        given = applied(self.job, self.version.package.fitted, features[list(self.features)])
        try:
            return given.to_numpy(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self!r} takes numbers, as features.py builds them: {error}") from error
