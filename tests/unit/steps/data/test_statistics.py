"""Statistics fitted on training data: artifacts of the version, and what it scores with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, IntegrityError
from mlops_provider.steps import plan
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL, build
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.split import load_split
from tests.support.tiny import DAYS, World, call, crown, registry_of, train

FIT = "    return {'offset': float(features['a'].mean()), 'rate': float(labels.mean())}"
APPLY = "    return features.assign(a=features['a'] - 100 * fitted['offset'])"


def with_statistics(world: World, fit: str = FIT, apply: str = APPLY) -> Job:
    """In a file of their own, as another features.py would make the partitions due again."""
    world.configure(features={"fit": "fitted.py:fit", "apply": "fitted.py:apply"})
    (world.model / "fitted.py").write_text(
        f"def fit(features, labels):\n{fit}\n\n\ndef apply(features, fitted):\n{apply}\n"
    )
    return world.job()


def told(job: Job, version: Any) -> dict[str, float]:
    assert version.package.fitted is not None
    return dict(json.loads(job.storage.fetch(version.package.fitted)))


def test_they_are_fitted_on_the_training_rows_alone_and_kept_with_the_version(accepted: World) -> None:
    job = with_statistics(accepted)
    version = train(accepted, job)
    split = load_split(job, version.split)
    frame = pd.concat([snapshot.read(job, one).to_pandas() for one in split.fit])
    known = frame[frame[LABEL].notna() & (frame["at"] + pd.Timedelta(hours=1) <= pd.Timestamp(split.cutoff))]
    assert told(job, version) == pytest.approx({"offset": known["a"].mean(), "rate": known[LABEL].mean()})
    assert version.fingerprint in version.package.fitted.uri
    lineage = json.loads(job.storage.fetch(version.lineage))
    assert lineage["fitted"]["hash"] == version.package.fitted.hash
    assert version.package.parity.passed
    beside = {file.path for file in registry_of(accepted).list_artifacts(version.run_id, "model")}
    assert "model/fitted.json" in beside


def test_each_version_scores_with_its_own(champion: World) -> None:
    job = with_statistics(champion)
    first, second = (train(champion, job, day) for day in (DAYS[2], _next(champion)))
    assert told(job, first) != told(job, second)
    crown(champion, first)
    champion.deliver(DAYS[4], what=("inputs",))
    (work,) = plan.score(job, partition=DAYS[4])
    found = call(job, "score", work=work)
    scores = pd.read_parquet(found.table.uri)["score"]
    features = build(job, DAYS[4], work.inputs, work.history)[list(first.package.features)]

    def expected(statistics: dict[str, float]) -> Any:
        rows = features.assign(a=features["a"] - 100 * statistics["offset"])
        return Scorer.of(first.package, job.storage).score(rows.to_numpy())

    np.testing.assert_array_equal(scores, expected(told(job, first)))
    assert not np.array_equal(scores, expected(told(job, second)))


def _next(world: World) -> str:
    world.deliver(DAYS[3])
    world.loops().ci()
    return DAYS[3]


def test_candidate_and_champion_are_each_compared_with_their_own(champion: World) -> None:
    job = with_statistics(champion)
    first = train(champion, job)
    crown(champion, first)
    second = train(champion, job, _next(champion))
    alone = call(job, "evaluate", package=first.package, split=second.split)
    both = call(job, "evaluate", package=second.package, split=second.split, champion=first)
    assert both.verdict.passed
    assert both.champion == alone.candidate


def test_a_damaged_file_of_statistics_scores_nothing(champion: World) -> None:
    job = with_statistics(champion)
    version = train(champion, job)
    Path(version.package.fitted.uri).write_text('{"offset": 0.0, "rate": 0.5}')
    with pytest.raises(IntegrityError, match=r"fitted\.json has changed"):
        call(job, "evaluate", package=version.package, split=version.split)


@pytest.mark.parametrize(
    ("fit", "apply", "said"),
    [
        ("    return [1.0]", APPLY, r"fitted\.py:fit returned what is no JSON object: expected a dict, found list"),
        ("    return {'offset': float('nan')}", APPLY, "no JSON object"),
        ("    return {'offset': features}", APPLY, "no JSON object"),
        ("    return features['absent']", APPLY, r"fitted\.py:fit raised KeyError"),
        ("    return {}", APPLY, r"features_function: it raised ConfigError: .*apply raised KeyError: 'offset'"),
        (FIT, "    return features - features.mean()", "is refused: same_in_any_batch"),
        (FIT, "    return features.iloc[1:]", "it must keep the rows"),
        (FIT, "    return features[['a', 'b']]", "did not make the features that model.yaml names: c, height"),
    ],
)
def test_what_cannot_be_fitted_or_applied_is_refused(accepted: World, fit: str, apply: str, said: str) -> None:
    job = with_statistics(accepted, fit, apply)
    with pytest.raises(ConfigError, match=said):
        call(job, "train", split=accepted.split(DAYS[2], job))


def test_one_without_the_other_is_refused(empty: World) -> None:
    with pytest.raises(ConfigError, match="fit and apply go together"):
        empty.configure(features={"fit": "features.py:fit"})


def test_without_them_nothing_is_fitted(accepted: World) -> None:
    assert train(accepted, accepted.job()).package.fitted is None
