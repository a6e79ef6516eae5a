"""What model.yaml may ask of training, and the model's own `fit`: each is trained, packaged exactly, or refused with a reason."""

from __future__ import annotations

import datetime as dt
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, DataError, RequestError
from mlops_provider.steps import plan, tables
from mlops_provider.steps.data.features import build
from mlops_provider.steps.records import Trained
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import boosting
from mlops_provider.steps.training.train import start_from
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, train

STOPPING = {"rounds": 300, "early_stopping": {"rounds": 5, "window": "6h"}}
SITES = ("import pandas as pd\n\nCODES = {codes}\n\n\ndef build(rows, history, as_of):\n"
         "    return rows[['a', 'b', 'c']].assign(height=rows['site'].map(CODES))\n")  # fmt: skip
OWN = """import lightgbm


def fit(features, labels, weights, settings):
    {body}
"""
TRAINS = (
    "given = lightgbm.Dataset(features, labels, weight=weights)\n"
    "    return lightgbm.train(settings['params'], given, settings['rounds'])"
)


def trained(world: World, job: Job, **arguments: Any) -> Trained:
    found: Trained = call(job, "train", split=world.split(DAYS[2], job), **arguments)
    return found


def parity(job: Job, found: Trained) -> bool:
    """Whether the package scores as LightGBM does, found out for its sample and beside each threshold."""
    verdict = call(job, "package", trained=found).parity
    assert max(check.value for check in verdict.checks) <= 1e-6
    return bool(verdict.passed)


def own(world: World, body: str, **training: Any) -> Job:
    world.configure(training={"fit": "train.py:fit", **training})
    world.model.joinpath("train.py").write_text(OWN.format(body=body))
    return world.job()


# Early stopping


def test_training_stops_when_later_rows_are_no_better_scored(accepted: World) -> None:
    job = accepted.configure(training=STOPPING)
    found = trained(accepted, job)
    assert 0 < found.trees < 300
    assert found.validation is not None
    assert found.validation.metric == "log_loss"
    assert found.validation.last - found.validation.first < dt.timedelta(hours=6)
    assert found.rows < trained(accepted, accepted.configure(training={"rounds": 20, "early_stopping": None})).rows
    assert lightgbm.Booster(model_file=found.booster.uri).num_trees() == found.trees
    assert parity(job, found)


def test_the_best_trees_are_kept_and_no_more(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    measure = boosting.metrics.measure

    def watched(names: Any, labels: Any, scores: Any) -> dict[str, float]:
        found = measure(names, labels, scores)
        told.append(found["log_loss"])
        return found

    monkeypatch.setattr(boosting.metrics, "measure", watched)
    found = trained(accepted, accepted.configure(training=STOPPING))
    assert found.trees == int(np.argmin(told)) + 1
    assert found.validation is not None
    assert found.validation.value == min(told)


def test_early_stopping_is_the_same_for_any_number_of_threads(accepted: World) -> None:
    jobs = [accepted.configure(training={**STOPPING, "resources": {"cpu": cpu}}) for cpu in (1, 2)]
    assert len({trained(accepted, job).model_hash for job in jobs}) == 1


def test_one_class_in_the_window_is_an_error(accepted: World) -> None:
    accepted.rewrite(
        DAYS[1], "labels", lambda frame: frame.assign(outcome=frame["outcome"].mask(frame.index > 600, 1.0))
    )
    accepted.loops().ci()
    with pytest.raises(DataError, match=r"early stopping's window, the last 6h,: the label is 1 in all \d+ rows"):
        trained(accepted, accepted.configure(training=STOPPING))


def test_a_window_that_leaves_nothing_to_fit_on_is_an_error(accepted: World) -> None:
    job = accepted.configure(training={"early_stopping": {"rounds": 5, "window": "9w"}})
    with pytest.raises(DataError, match="what early stopping's window of 9w leaves to fit on: no rows"):
        trained(accepted, job)


# Weights


@pytest.mark.parametrize("weight", [{"half_life": "6h"}, {"column": "height"}])
def test_weights_shape_the_trees(accepted: World, weight: dict[str, str]) -> None:
    plain = trained(accepted, accepted.job())
    job = accepted.configure(training={"weight": weight})
    found = trained(accepted, job)
    assert found.model_hash != plain.model_hash
    assert found.fingerprint != plain.fingerprint
    assert parity(job, found)


# Categories


def categorical(world: World, codes: dict[str, float]) -> Job:
    params = {"min_data_per_group": 5, "cat_smooth": 1.0, "max_cat_to_onehot": 1}
    world.configure(features={"categorical": ["height"]}, training={"params": params})
    world.model.joinpath("features.py").write_text(SITES.format(codes=codes))
    world.model.joinpath("expectations", "features.json").write_text(
        '{"name": "features", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "a"}}], "meta": {}}'
    )
    world.loops(world.job()).ci()
    return world.job()


def test_categories_are_split_by_membership_and_packaged_exactly(delivered: World) -> None:
    for day in DAYS[:3]:
        delivered.rewrite(
            day, "labels",
            lambda frame, day=day: frame.assign(
                outcome=frame["outcome"] + 3 * (pd.read_parquet(delivered.file(day, "inputs"))["site"] == "south")
            ),
        )  # fmt: skip
    job = categorical(delivered, {"north": 3, "south": 0, "east": 17})
    found = trained(delivered, job)
    trees = lightgbm.Booster(model_file=found.booster.uri).trees_to_dataframe()
    assert "==" in set(trees["decision_type"])
    assert parity(job, found)


def test_a_category_that_training_did_not_see_is_scored_as_lightgbm_does(delivered: World) -> None:
    job = categorical(delivered, {"north": 3, "south": 0})  # east is not known, and comes as missing
    found = trained(delivered, job)
    package = call(job, "package", trained=found)
    rows = build(job, DAYS[2], delivered.work(DAYS[2]).inputs, delivered.work(DAYS[2]).history)  # type: ignore[arg-type]
    rows = rows[list(package.features)].assign(height=np.arange(len(rows)) % 60.0)
    expected = np.asarray(lightgbm.Booster(model_file=found.booster.uri).predict(rows.to_numpy()))
    assert np.abs(Scorer.of(package, Storage()).score(rows.to_numpy()) - expected).max() <= 1e-6


# The model's own fit


def test_the_models_own_fit_is_what_trains(accepted: World) -> None:
    plain = trained(accepted, accepted.job())
    job = own(accepted, TRAINS)
    found = trained(accepted, job)
    assert found.model_hash == plain.model_hash
    assert found.fingerprint != plain.fingerprint
    assert parity(job, found)
    changed = own(accepted, "settings['params']['num_leaves'] = 3\n    " + TRAINS)
    assert trained(accepted, changed).model_hash != plain.model_hash


def test_the_models_own_fit_gets_what_model_yaml_says(accepted: World) -> None:
    body = (
        "assert list(features.columns) == ['a', 'b', 'c', 'height'], features\n"
        "    assert len(features) == len(labels) == len(weights)\n"
        "    assert settings['params']['num_threads'] == 1 and settings['early_stopping'] == 5\n"
        "    unseen, truth = settings['validation']\n"
        "    assert 0 < len(unseen) == len(truth) and settings['start'] is None and settings['categorical'] == []\n    "
    )
    job = own(accepted, body + TRAINS, weight={"half_life": "1d"}, **{**STOPPING, "rounds": 20})
    assert trained(accepted, job).trees == 20


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise KeyError('height')", r"train\.py:fit raised KeyError: 'height'"),
        ("return None", r"train\.py:fit returned NoneType, expected a lightgbm\.Booster: "),
        (
            "return lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1, n_jobs=1).fit(features, labels)",
            "returned LGBMClassifier, expected a lightgbm.Booster, return its booster_: what is registered is data",
        ),
        (
            "return lightgbm.train(settings['params'], lightgbm.Dataset(features[['b', 'a']], labels), 2)",
            "returned a model of the features b, a, expected a, b, c, height",
        ),
        (
            "return lightgbm.train({'objective': 'regression', 'num_threads': 1}, lightgbm.Dataset(features, labels), 2)",
            "returned a model with objective=regression, model.yaml says binary",
        ),
        ("raise SystemExit(0)", r"train\.py:fit raised SystemExit: 0"),
        (
            "features['c'] = features['c'].round().astype('category')\n    "
            "return lightgbm.train(settings['params'], lightgbm.Dataset(features, labels), 2)",
            "returned a model of pandas categories, which are not stored with it",
        ),
        (
            "features = features.assign(b=features['b'].round() + 9)\n    return lightgbm.train({**settings['params'], "
            "'min_data_per_group': 1}, lightgbm.Dataset(features, labels, categorical_feature=['b']), 9)",
            "splits b by category, which features.categorical does not name",
        ),
    ],
)
def test_a_fit_that_gives_something_else_is_refused(accepted: World, body: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        trained(accepted, own(accepted, body))


def test_what_a_fit_changes_is_not_taken_for_the_training_data(accepted: World) -> None:
    body = TRAINS.replace("return ", "made = ") + "\n    features['a'] = 1e9; labels[:] = 0\n    return made"
    plain = trained(accepted, accepted.job())
    found = trained(accepted, own(accepted, body))
    assert found.model_hash == plain.model_hash
    storage = accepted.deployment.storage
    assert tables.frame(storage, found.reference).equals(tables.frame(storage, plain.reference))


# Going on from the champion


def test_a_candidate_goes_on_from_the_champions_trees(champion: World) -> None:
    champion.deliver(DAYS[3])
    champion.loops().ci()
    job = champion.configure(training={"start": "champion", "rounds": 7})
    version = train(champion, job, DAYS[3])
    (old, _) = champion.versions()
    (before, after) = (Storage().fetch(v.package.booster).decode() for v in (old, version))
    assert after.count("\nTree=") == before.count("\nTree=") + 7
    assert before[before.index("leaf_value=") :].split("\n")[0] in after
    assert version.package.parity.passed
    assert Storage().read_json(version.lineage.uri)["training"] == {"trees": 27, "validation": None, "start": 1}


def test_it_starts_anew_where_there_is_nothing_to_go_on_from(accepted: World) -> None:
    job = accepted.configure(training={"start": "champion"})
    assert start_from(job, None) is None
    assert train(accepted, job).version == 1


def test_it_starts_anew_where_the_champion_has_other_features(champion: World) -> None:
    (version,) = champion.versions()
    job = champion.configure(training={"start": "champion"}, features={"columns": ["a", "b", "c"]})
    assert start_from(job, version) is None
    assert start_from(champion.configure(training={"start": "champion"}), version) is not None


def test_what_it_goes_on_from_is_part_of_the_fingerprint(champion: World) -> None:
    champion.deliver(DAYS[3])
    champion.loops().ci()
    job = champion.configure(training={"start": "champion"})
    start = start_from(job, champion.versions()[0])
    split = champion.split(DAYS[3], job)
    assert call(job, "train", split=split, start=start).fingerprint != call(job, "train", split=split).fingerprint


def test_going_on_from_a_version_that_has_seen_the_holdout_is_refused(champion: World) -> None:
    job = champion.configure(training={"start": "champion"})
    start = start_from(job, champion.versions()[0])
    with pytest.raises(RequestError, match=f"version 1 has seen data until {DAYS[2]}: what goes on from it"):
        trained(champion, job, start=start)


def test_a_loop_trains_on_from_the_champion_that_it_finds(champion: World) -> None:
    champion.configure(training={"start": "champion", "rounds": 3})
    champion.deliver(DAYS[3])
    champion.loops().ci()
    work = plan.ct(champion.job(), partition=DAYS[3])
    assert work is not None
    champion.loops().train(work)
    lineage = Storage().read_json(champion.versions()[-1].lineage.uri)
    assert lineage["training"]["start"] == 1
