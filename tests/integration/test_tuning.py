"""Tuning with a real MLflow server: tasks that are mapped over the trials of a wave, kills in the middle, no trial twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import lightgbm
import pytest

from mlops_provider.steps import plan
from mlops_provider.steps.records import SplitRef, Tuned
from mlops_provider.steps.training.split import save_split
from tests.integration.house import House, Run, deliver_tiny
from tests.support.tiny import DAYS, Killed, call, write_model

HOLDOUT = DAYS[3]
TRAINING = {
    "window": {"minimum": 3},
    "rounds": 10,
    "params": {"learning_rate": 0.0001, "num_leaves": 2},
    "tune": {
        "trials": 4,
        "parallel": 2,
        "space": {"learning_rate": {"low": 0.05, "high": 0.5, "log": True}, "num_leaves": {"low": 2, "high": 16}},
    },
}
TRIALS = tuple(f"trials_{wave}[{place}]" for wave in (1, 2) for place in (0, 1))


@pytest.fixture(scope="module")
def house(houses: Any) -> House:
    """Four accepted days of a model that is tuned, and a search that was killed in its third trial."""
    house: House = houses("tuning")
    write_model(house.include, training=TRAINING)
    deliver_tiny(house, *DAYS[:4])
    house.loops("tiny").ci()
    return house


def split(house: House) -> SplitRef:
    job = house.job("tiny")
    return save_split(job, plan.split(plan.State(job), HOLDOUT))


@pytest.fixture(scope="module")
def killed(house: House) -> Iterator[list[int]]:
    """A search that was killed in its third trial; counts the fits from there on."""
    fit, calls, done = lightgbm.train, count(), list[int]()

    def killing(*arguments: Any, **more: Any) -> Any:
        number = next(calls)
        if number == 2:
            raise Killed
        done.append(number)
        return fit(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightgbm, "train", killing)
        with pytest.raises(Killed):
            call(house.job("tiny"), "tune", split=split(house))
        yield done


@pytest.fixture(scope="module")
def run(house: House, killed: list[int]) -> Run:
    """CT, after the kill."""
    return house.run("tiny", "ct", partition=HOLDOUT)


def test_ct_runs_two_waves_of_two_and_trains_with_what_they_found(run: Run) -> None:
    tasks = ("plan", *TRIALS, "tune", "train", "package", "evaluate", "register")
    assert run.states() == dict.fromkeys(tasks, "success")
    found = run.task("tune").result
    assert found["params"] == found["best"] != {}
    assert run.task("train").result["params"] == found["params"]


def test_no_trial_that_was_done_before_the_kill_is_repeated(run: Run, killed: list[int]) -> None:
    # Two before the kill, the two that were missing, two to compare, and the candidate.
    assert len(killed) == 2 + 2 + 2 + 1


def test_each_trial_is_one_run_below_that_of_the_search(run: Run, house: House) -> None:
    found, client = run.task("tune").result, house.registry()
    experiment = client.get_run(found["run_id"]).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{found['run_id']}'")
    assert sorted(child.data.tags["mlflow.runName"] for child in runs) == [f"trial {number}" for number in range(4)]
    assert {child.info.status for child in runs} == {"FINISHED"}
    assert {child.info.run_id for child in runs} == {
        run.task(name, place).result["run_id"] for name in ("trials_1", "trials_2") for place in (0, 1)
    }


def test_the_winner_is_the_one_of_a_search_that_nobody_disturbed(run: Run, house: House) -> None:
    calm = house.job("tiny")
    place = calm.deployment.model_copy(update={"artifact_root": str(house.root / "calm"), "registry_prefix": "calm."})
    undisturbed = type(calm)(calm.model, place)
    found: Tuned = call(undisturbed, "tune", split=split(house))
    apart = {"run_id", "record"}
    known = Tuned.model_validate(run.task("tune").result)
    assert found.model_dump(exclude=apart) == known.model_dump(exclude=apart)


def test_the_version_and_its_run_name_the_tuned_parameters(run: Run, house: House) -> None:
    version = run.task("register").result["version"]
    logged = house.registry().get_run(version["run_id"]).data.params
    assert logged["num_leaves"] == str(run.task("tune").result["params"]["num_leaves"])
