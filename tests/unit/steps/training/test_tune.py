"""Tuning: the same search however it is cut into pieces, and a result that must prove itself on data it has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightgbm
import pytest

from mlops_provider.config import ModelConfig, validate
from mlops_provider.exceptions import ConfigError, ConflictError, DataError, RequestError
from mlops_provider.steps.records import Trained, Trial, Tuned
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import tune
from mlops_provider.steps.training.parameters import with_params
from mlops_provider.steps.training.rows import known_rows
from mlops_provider.steps.training.split import load_split
from mlops_provider.steps.training.tune_folds import accepting_fold, search_folds
from mlops_provider.steps.training.tune_runs import RESULT
from mlops_provider.steps.training.tune_search import best, proposed
from tests.support.tiny import DAYS, Killed, World, call, outcome, registry_of, train, values

HOLDOUT = DAYS[3]
RATE = {"low": 0.05, "high": 0.5, "log": True}
SPACE = {"learning_rate": RATE, "num_leaves": {"low": 2, "high": 16}}
SLOW = {"params": {"learning_rate": 0.0001, "num_leaves": 2}}  # whatever lies in SPACE is better
GOOD = {"params": {"learning_rate": 0.2, "num_leaves": 8}}


def training(tuned: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The section `training` with a search of two waves of two."""
    search = {"trials": 4, "parallel": 2, "space": SPACE, **(tuned or {})}
    return {"rounds": 10, "window": {"minimum": 3}, **SLOW, "tune": search, **changes}


def tuned(world: World, job: Job) -> Tuned:
    found: Tuned = call(job, "tune", split=world.split(HOLDOUT, job))
    return found


def trial(world: World, job: Job, number: int) -> Trial:
    found: Trial = call(job, "tune_trial", split=world.split(HOLDOUT, job), number=number)
    return found


def elsewhere(world: World, place: str) -> Job:
    """The same model under another name in MLflow, with other artifacts: nothing of the search is known there."""
    return world.job(artifact_root=str(world.root / place), registry_prefix=f"{place}.")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of every fit."""
    seen: list[dict[str, Any]] = []
    fit = lightgbm.train

    def counted(settings: dict[str, Any], *arguments: Any, **more: Any) -> Any:
        found = fit(settings, *arguments, **more)
        seen.append(settings)
        return found

    monkeypatch.setattr(lightgbm, "train", counted)
    return seen


@pytest.fixture
def world(challenger: World) -> World:
    """Four accepted days."""
    return challenger


# --- which parameters are tried --------------------------------------------------------------------------------------


def config(**changes: Any) -> ModelConfig:
    return validate(values(training=training(**changes)), "test")


def known(number: int) -> list[Trial]:
    """So many trials that were measured; what is near a learning rate of 0.1 was better."""
    made = []
    for place in range(number):
        rate = 0.05 + 0.02 * place
        params = {"learning_rate": rate, "num_leaves": 2 + place % 15}
        made.append(Trial(number=place, wave=0, params=params, state="finished", value=1 - abs(rate - 0.1)))
    return made


def test_a_trial_that_is_asked_for_again_proposes_the_same() -> None:
    assert proposed(config(), known(12), 13) == proposed(config(), reversed(known(12)), 13)


def test_the_trials_of_a_wave_differ() -> None:
    assert proposed(config(), known(12), 12) != proposed(config(), known(12), 13)


def test_another_seed_proposes_otherwise() -> None:
    assert proposed(config(), [], 1) != proposed(config(seed=8), [], 1)


def test_what_was_found_shapes_what_is_proposed() -> None:
    worse = [trial.model_copy(update={"value": -(trial.value or 0)}) for trial in known(12)]
    assert proposed(config(), known(12), 13) != proposed(config(), worse, 13)


def test_the_order_in_which_the_space_is_named_does_not_matter() -> None:
    turned = dict(reversed(SPACE.items()))
    assert proposed(config(), known(12), 13) == proposed(config(tuned={"space": turned}), known(12), 13)


def test_the_first_trial_begins_where_the_model_stands() -> None:
    assert proposed(config(**GOOD), [], 0) == GOOD["params"]
    outside = proposed(config(), [], 0)
    assert outside["num_leaves"] == 2
    assert RATE["low"] <= outside["learning_rate"] <= RATE["high"]


def test_every_kind_of_parameter_keeps_to_its_bounds() -> None:
    space = {
        "lambda_l1": {"low": 0, "high": 3},
        "max_depth": {"low": 2, "high": 5},
        "extra_trees": {"choices": [True, False]},
        "max_bin": {"choices": [63, 255]},
    }
    tried = [proposed(config(tuned={"space": space}), [], number) for number in range(30)]
    assert all(isinstance(params["lambda_l1"], float) and 0 <= params["lambda_l1"] <= 3 for params in tried)
    assert {params["max_depth"] for params in tried} == {2, 3, 4, 5}
    assert {params["extra_trees"] for params in tried} == {True, False}
    assert {params["max_bin"] for params in tried} == {63, 255}


def test_of_equals_the_first_is_the_best_and_a_loss_is_small() -> None:
    trials = [Trial(number=n, wave=0, state="finished", value=v) for n, v in ((2, 0.7), (1, 0.7), (0, 0.4))]
    lost = Trial(number=9, wave=4, state="failed")
    found = best(config(), [*trials, lost])
    assert found is not None
    assert found.number == 1
    by_loss = validate(values(training=training(), evaluation={"metric": "log_loss"}), "test")
    found = best(by_loss, trials)
    assert found is not None
    assert found.number == 0
    assert best(config(), [lost]) is None


# --- what they are measured on ---------------------------------------------------------------------------------------


def test_the_search_is_measured_on_a_day_and_accepted_on_the_next_and_the_holdout_is_left_alone(world: World) -> None:
    job = world.configure(training=training())
    split = load_split(job, world.split(HOLDOUT, job))
    (searched,) = search_folds(job, split)
    accepted = accepting_fold(job, split)
    assert [v.partition for v in searched.fit] == [DAYS[0]]
    assert (searched.holdout.partition, accepted.holdout.partition) == (DAYS[1], DAYS[2])
    assert [v.partition for v in accepted.fit] == [DAYS[0], DAYS[1]]


def test_a_trial_knows_only_labels_that_were_there_before_its_day(world: World) -> None:
    job = world.configure(training=training(), data={"label": {"delay": "6h"}})
    (fold,) = search_folds(job, load_split(job, world.split(HOLDOUT, job)))
    first, last = fold.holdout.first, known_rows(job, fold)["at"].max()
    assert (first - last).total_seconds() >= 7 * 3600  # the delay, and the lead of an hour


def test_too_few_days_are_an_error(world: World) -> None:
    job = world.configure(training=training())
    split = load_split(job, world.split(HOLDOUT, job))
    with pytest.raises(DataError, match="2 partitions before 2024-01-04, tuning on 1 folds needs 3"):
        search_folds(job, split.model_copy(update={"fit": split.fit[1:]}))


def test_a_day_of_one_class_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.training import tune_folds

    job = world.configure(training=training())
    whole = tune_folds.snapshot.read

    def one_class(job: Job, version: Any) -> Any:
        frame = whole(job, version).to_pandas()
        frame.loc[frame["label"].notna(), "label"] = 1.0
        return SimpleNamespace(
            to_pandas=lambda: frame if version.partition == DAYS[1] else whole(job, version).to_pandas()
        )

    monkeypatch.setattr(tune_folds, "snapshot", SimpleNamespace(read=one_class))
    with pytest.raises(
        DataError, match="2024-01-02: the label is 1 in all 1.* rows, nothing to learn: no trial can be measured on it"
    ):
        tuned(world, job)


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_better_parameters_are_kept_and_train_the_candidate(world: World) -> None:
    job = world.configure(training=training())
    found = tuned(world, job)
    assert found.verdict.passed
    assert found.interval is not None
    assert found.interval.low > 0
    assert found.partition == DAYS[2]
    assert found.params == found.best
    assert set(found.params) == set(SPACE)
    assert f"the parameters of trial {found.trial} are taken after 4 of 4 trials" in found.reason
    made: Trained = call(job, "train", split=world.split(HOLDOUT, job), params=found.params, tuning=found.record)
    assert made.params == found.params
    booster = lightgbm.Booster(model_str=Path(made.booster.uri).read_text())
    assert booster.params["num_leaves"] == found.params["num_leaves"]


def test_accepted_parameters_make_the_version_that_model_yaml_would_make_with_them(world: World) -> None:
    job = world.configure(training=training())
    split, params = world.split(HOLDOUT, job), {"learning_rate": 0.3, "num_leaves": 5}
    plain, other = call(job, "train", split=split), call(job, "train", split=split, params=params)
    by_hand = call(world.configure(training={**training(params=params), "tune": None}), "train", split=split)
    assert other.fingerprint != plain.fingerprint
    assert (other.fingerprint, other.model_hash) == (by_hand.fingerprint, by_hand.model_hash)


def test_worse_parameters_are_refused_and_the_configured_ones_kept(world: World) -> None:
    bad = {"learning_rate": {"low": 0.00001, "high": 0.0001}, "num_leaves": {"low": 2, "high": 3}}
    job = world.configure(training=training({"space": bad}, **GOOD))
    found = tuned(world, job)
    assert found.params == {}
    assert found.best != {}
    assert found.interval is not None
    assert found.interval.gain < 0
    assert found.verdict.outcome == "fail"
    assert found.reason.startswith("the parameters of model.yaml are kept after 4 of 4 trials: auc_gain")


def test_what_the_search_did_not_beat_is_not_measured_again(world: World, fits: list[dict[str, Any]]) -> None:
    around = {"learning_rate": {"low": 0.00001, "high": 0.2, "log": True}}
    job = world.configure(training=training({"space": around, "trials": 1}, params={"learning_rate": 0.2}))
    found = tuned(world, job)
    assert found.params == {}
    assert "the search found nothing better than model.yaml's own parameters" in found.reason
    assert len(fits) == 1


def test_too_few_time_blocks_to_accept_are_an_error_and_no_pass(world: World) -> None:
    job = world.configure(training=training())
    evaluation = job.config.evaluation.model_copy(update={"minimum_blocks": 25})
    job.model.config = job.config.model_copy(update={"evaluation": evaluation})
    found = tuned(world, job)
    assert (found.params, found.verdict.outcome) == ({}, "error")
    assert "spans 24 time blocks, at least 25 are needed" in found.reason


def test_parameters_that_lightgbm_refuses_fail_their_own_trial_only(world: World) -> None:
    space = {"is_unbalance": {"choices": [True, False]}, **SPACE}
    job = world.configure(training=training({"space": space}, params={**SLOW["params"], "scale_pos_weight": 2.0}))
    found = tuned(world, job)
    trials = json.loads(Path(found.record.uri).read_text())["all"]
    assert {(trial["params"]["is_unbalance"], trial["state"]) for trial in trials} == {
        (True, "failed"),
        (False, "finished"),
    }
    assert found.best["is_unbalance"] is False
    assert "LightGBM refused" in next(trial["reason"] for trial in trials if trial["state"] == "failed")


def test_a_search_without_a_result_is_an_error_and_no_pass(world: World) -> None:
    space = {"is_unbalance": {"choices": [True, False]}}
    params = {"scale_pos_weight": 2.0, "is_unbalance": True}
    job = world.configure(training=training({"space": space, "trials": 1}, params=params))
    found = tuned(world, job)
    assert (found.params, found.trial, found.verdict.outcome) == ({}, None, "error")
    assert "none of 1 trials came to an end: LightGBM refused" in found.reason


def test_parameters_that_model_yaml_could_not_name_are_refused(world: World) -> None:
    with pytest.raises(RequestError, match="tuned parameters: .*objective"):
        with_params(world.job(), {"objective": "l2"})


def test_the_lineage_of_a_version_holds_the_search(world: World) -> None:
    job = world.configure(training=training())
    version = train(world, job, HOLDOUT)
    lineage = json.loads(Path(version.lineage.uri).read_text())
    found = tuned(world, job)
    assert lineage["tuning"]["params"] == found.params != {}
    assert len(lineage["tuning"]["search"]["all"]) == 4
    run = registry_of(world).get_run(version.run_id)
    assert run.data.params["num_leaves"] == str(found.params["num_leaves"])
    assert lineage["tuning"]["search"]["stopped"] is False


# --- cut into pieces -------------------------------------------------------------------------------------------------


def told(found: Tuned) -> dict[str, Any]:
    """What a search came to, without the names of places."""
    return found.model_dump(mode="json", exclude={"run_id", "record"})


def test_tasks_and_one_call_find_the_same(world: World, fits: list[dict[str, Any]]) -> None:
    job = world.configure(training=training())
    in_one = tuned(world, job)
    assert len(fits) == 4 + 2
    other = elsewhere(world, "other")
    split = world.split(HOLDOUT, job)
    for number in (1, 0, 3, 2):  # those of a wave in any order
        call(other, "tune_trial", split=split, number=number)
    assert len(fits) == 6 + 4
    assert told(call(other, "tune", split=split)) == told(in_one)
    assert len(fits) == 10 + 2


@pytest.mark.parametrize("when", [1, 2, 4, 5])
def test_a_kill_repeats_no_trial_that_was_done(
    world: World, fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    job = world.configure(training=training())
    fit, calls = lightgbm.train, count()

    def killing(*arguments: Any, **more: Any) -> Any:
        if next(calls) == when:
            raise Killed
        return fit(*arguments, **more)

    monkeypatch.setattr(lightgbm, "train", killing)
    with pytest.raises(Killed):
        tuned(world, job)
    found = tuned(world, job)
    assert len(fits) == 4 + 2 + max(
        0, when - 4
    )  # what is killed while it is compared is compared again, from the start
    assert told(found) == told(call(elsewhere(world, "other"), "tune", split=world.split(HOLDOUT, job)))


def test_a_kill_before_a_trial_counts_leaves_no_second_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.training.tune_runs import Runs

    job = world.configure(training=training())
    done: Callable[..., None] = Runs.done

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(Runs, "done", killed)
    with pytest.raises(Killed):
        trial(world, job, 0)
    monkeypatch.setattr(Runs, "done", done)
    found = tuned(world, job)
    assert len(children(world, found)) == 4


def children(world: World, found: Tuned) -> list[Any]:
    """The runs of the trials, in MLflow."""
    client = registry_of(world)
    experiment = client.get_run(found.run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{found.run_id}'"))


def test_a_trial_is_a_run_below_that_of_the_search(world: World) -> None:
    found = tuned(world, world.configure(training=training()))
    runs = {run.data.tags["mlflow.runName"]: run for run in children(world, found)}
    assert sorted(runs) == [f"trial {number}" for number in range(4)]
    best = runs[f"trial {found.trial}"]
    assert best.info.status == "FINISHED"
    assert best.data.metrics["auc"] == max(run.data.metrics["auc"] for run in runs.values())
    assert best.data.metrics["auc"] == best.data.metrics[f"auc_{DAYS[1]}"]
    assert best.data.params == {name: str(value) for name, value in found.best.items()}
    search = registry_of(world).get_run(found.run_id)
    assert search.info.status == "FINISHED"
    assert search.data.tags["mlops.tuning"] == "kept"


def test_more_trials_go_on_from_those_that_are_done(world: World, fits: list[dict[str, Any]]) -> None:
    first = tuned(world, world.configure(training=training({"trials": 3})))
    assert len(fits) == 3 + 2
    second = tuned(world, world.configure(training=training({"trials": 4})))
    assert second.run_id == first.run_id
    assert len(fits) == 5 + 1 + 2


def test_a_search_that_is_asked_for_again_is_reused(world: World, fits: list[dict[str, Any]]) -> None:
    job = world.configure(training=training())
    tuned(world, job)
    seen = len(fits)
    assert outcome(job, "tune", split=world.split(HOLDOUT, job)).reused
    assert len(fits) == seen


def test_a_wave_waits_for_the_one_before_it(world: World) -> None:
    job = world.configure(training=training())
    trial(world, job, 1)
    with pytest.raises(ConflictError, match="trial 2 is chosen by what came of trial 0, which is not done"):
        trial(world, job, 2)


def test_a_trial_that_there_is_not_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="there is no trial 4: training.tune.trials is 4"):
        trial(world, world.configure(training=training()), 4)


def test_a_model_that_is_not_tuned_has_no_search(world: World) -> None:
    with pytest.raises(ConfigError, match=r"training\.tune is not set"):
        tuned(world, world.job())


# --- time ------------------------------------------------------------------------------------------------------------


def test_the_time_ends_a_trial_and_the_search_and_the_record_says_so(
    world: World, fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))  # a second a look
    job = world.configure(training=training({"timeout": "18s", "parallel": 1}))
    found = tuned(world, job)
    trials = json.loads(Path(found.record.uri).read_text())["all"]
    assert [trial["state"] for trial in trials] == ["finished", "out_of_time", "not_started", "not_started"]
    assert found.stopped
    assert "after 1 of 4 trials, as the time (18s) was spent" in found.reason
    assert len(fits) == 1 + 2
    again = tuned(world, world.job(force=True))
    assert [run.data.tags[RESULT] for run in children(world, again)]
    assert len(fits) == 3 + 2
