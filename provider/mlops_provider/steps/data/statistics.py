"""Statistics that the model's own code fits on its training data, such as a mean to put where a value is missing.

They are fitted once for a version, on the rows that it is trained on and no other, stored as a file of the version, and
applied to whatever it scores: never fitted anew on a batch, which would make a row's features depend on its neighbours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data.feature_checks import check_features
from mlops_provider.steps.data.features import LABEL, checked
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, canonical_json

if TYPE_CHECKING:
    import pandas as pd


def fit(job: Job, features: pd.DataFrame, labels: Any, fingerprint: str) -> Artifact | None:
    """Calls the model's `fit` on the training rows and stores what it returns with the version; None if it has none.

    :raises ConfigError: if it raises, returns no JSON object, or what is applied then depends on other rows.
    """
    reference = job.config.features.fit
    if reference is None:
        return None
    import pandas as pd

    given = pd.Series(labels, index=features.index, name=LABEL)
    made = _called(job, reference, features.copy(), given)
    try:
        if not isinstance(made, dict):
            raise TypeError(f"expected a dict, found {type(made).__name__}")
        content = canonical_json(made, indent=1)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{job.config.name}: {reference} returned what is no JSON object: {error}") from error
    stored = job.storage.write(job.under("models", fingerprint, "fitted.json"), content)
    _held(job, stored, features)
    return stored


def applied(job: Job, fitted: Artifact | None, features: pd.DataFrame) -> pd.DataFrame:
    """The features as the version takes them: with its own statistics applied, unchanged if it has none.

    :param job: with the code that the version was trained with.
    :raises ConfigError: if the model's `apply` raises, or returns other rows or columns.
    """
    reference = job.config.features.apply
    if fitted is None and reference is None:
        return features
    if fitted is None or reference is None:
        raise ConfigError(f"{job.config.name}: the version and its code do not agree on whether statistics are applied")
    statistics = json.loads(job.storage.fetch(fitted))
    return checked(_called(job, reference, features.copy(), statistics), job, reference, features.index)


def _held(job: Job, fitted: Artifact, features: pd.DataFrame) -> None:
    """What is applied must not depend on other rows, as little as what is built."""
    import pandas as pd

    def build(rows: pd.DataFrame, history: object, as_of: object) -> pd.DataFrame:
        return applied(job, fitted, rows)

    verdict = check_features(build, features, {}, pd.Series(0, index=features.index), known_at={})
    if not verdict.passed:
        raise ConfigError(f"{job.config.name}: {job.config.features.apply} is refused: {verdict.reason()}")


def _called(job: Job, reference: str, *arguments: Any) -> Any:
    try:
        return job.model.function(reference)(*arguments)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{job.config.name}: {reference} raised {type(error).__name__}: {error}") from error
