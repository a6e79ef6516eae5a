"""The past: outcomes of earlier partitions, known by the time of each prediction, the same in training and in scoring."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, ConflictError
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan
from mlops_provider.steps.data.features import build, load
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job
from tests.support.tiny import DAYS, World, call, crown, feed, train

FEATURES = '''import numpy as np
import pandas as pd

def build(rows, history, as_of):
    """The share of positive outcomes among all that were known at as_of."""
    past = history["past"].sort_values("known_at")
    total = np.append(0.0, past["label"].cumsum())
    count = np.searchsorted(past["known_at"], as_of, side="right")
    share = np.where(count > 0, total[count] / np.maximum(count, 1), np.nan)
    return rows[["a", "b", "c"]].assign(height=share)
'''


def with_past(world: World, window: str = "1d", features: str = FEATURES) -> Job:
    job = world.configure(data={"past": {"window": window}})
    (world.model / "features.py").write_text(features)
    place = job.deployment
    return Job(pack(world.model, place.environment, place.storage, place.artifact_root), place)


def planned(job: Job, day: str) -> DataWork:
    (work,) = plan.ci(job, partition=day)
    return work


def past_of(job: Job, day: str) -> pd.DataFrame:
    work = planned(job, day)
    assert work.inputs is not None
    return load(job, day, work.inputs, work.history).history["past"]


def listed(job: Job, work: Any) -> list[str]:
    return [one["partition"] for one in json.loads(job.storage.fetch(work.history["past"]))["partitions"]]


def test_it_holds_the_labelled_rows_of_earlier_partitions_with_the_time_they_were_known(delivered: World) -> None:
    found = past_of(with_past(delivered, "2d"), DAYS[1])
    told, came = feed.inputs(DAYS[0]), feed.labels(DAYS[0]).set_index("id")["outcome"].dropna()
    assert list(found.columns) == ["id", "at", "site", "a", "b", "c", "label", "known_at"]
    assert set(found["id"]) == set(came.index)
    assert (found["known_at"] - found["at"] == pd.Timedelta(hours=1)).all()
    assert found["known_at"].is_monotonic_increasing
    assert (found["label"] == (found["id"].map(came) > 0)).all()
    assert len(told) > len(found)


@pytest.mark.parametrize(("window", "first"), [("1h", "2024-01-01 21:00"), ("12h", "2024-01-01 10:00")])
def test_it_reaches_back_by_the_window(delivered: World, window: str, first: str) -> None:
    found = past_of(with_past(delivered, window), DAYS[2])
    assert found["at"].min() >= pd.Timestamp(first, tz="UTC")
    assert found["at"].min() < pd.Timestamp(first, tz="UTC") + pd.Timedelta(minutes=10)


def test_its_own_labels_are_never_in_it(delivered: World) -> None:
    job = with_past(delivered, "4w")
    assert [listed(job, planned(job, day)) for day in DAYS[:3]] == [[], [DAYS[0]], list(DAYS[:2])]
    assert past_of(job, DAYS[0]).empty


def test_a_past_without_rows_has_the_same_columns_and_kinds(delivered: World) -> None:
    job = with_past(delivered, "2d")
    assert past_of(job, DAYS[0]).dtypes.astype(str).to_dict() == past_of(job, DAYS[1]).dtypes.astype(str).to_dict()


def test_inputs_without_labels_are_not_in_it(delivered: World) -> None:
    job = with_past(delivered, "4w")
    delivered.file(DAYS[1], "labels").unlink()
    assert listed(job, planned(job, DAYS[2])) == [DAYS[0]]


def test_a_refused_partition_is_not_in_it(delivered: World) -> None:
    job = with_past(delivered, "4w")
    call(job, "refuse_data", work=delivered.work(DAYS[0], job), reason="test")
    assert listed(job, planned(job, DAYS[2])) == [DAYS[1]]


def test_what_is_scored_is_what_is_trained_on(champion: World) -> None:
    job = with_past(champion)
    champion.deliver(DAYS[3], what=("inputs",))
    (scoring,) = plan.score(job)
    served = build(job, DAYS[3], scoring.inputs, scoring.history)
    champion.deliver(DAYS[3], what=("labels",))
    work = planned(job, DAYS[3])
    result = call(job, "build_features", work=work)
    trained = pd.read_parquet(result.table.uri).drop(columns="label")
    pd.testing.assert_frame_equal(served, trained)
    assert served["height"].nunique() > 1
    assert scoring.history == work.history


def test_the_step_proves_that_no_later_outcome_is_read(delivered: World) -> None:
    result = call(job := with_past(delivered), "build_features", work=planned(job, DAYS[1]))
    assert {c.subject for c in result.verdict.checks if c.name == "nothing_later"} == {"past", "sites"}
    careless = with_past(delivered, features=FEATURES.replace("total[count]", "total[-1]"))
    with pytest.raises(ConfigError, match=r"is refused: nothing_later \(past\): .*height \(changed\)"):
        call(careless, "build_features", work=planned(careless, DAYS[1]))


def test_labels_that_come_late_do_not_make_the_next_partition_due_again(delivered: World) -> None:
    job = with_past(delivered)
    delivered.loops(job).ci()
    assert plan.ci(job) == []
    delivered.rewrite(DAYS[0], "labels", lambda frame: frame.assign(outcome=-frame["outcome"]))
    assert [work.partition for work in plan.ci(job)] == [DAYS[0]]


def test_a_damaged_earlier_partition_is_no_fault_of_this_one(delivered: World) -> None:
    job = with_past(delivered, "4w")
    work = planned(job, DAYS[1])
    delivered.file(DAYS[0], "labels").write_bytes(b"torn")
    with pytest.raises(ConflictError, match="an earlier partition.*labels.parquet has changed"):
        call(job, "build_features", work=work)
    # In the loops the next look leaves out what was refused, and takes the rest.
    delivered.loops(job).drain()
    assert list(plan.State(job).accepted) == list(DAYS[1:3])
    assert delivered.records("data")[0].outcome == "refused"


def test_a_version_that_needs_the_past_is_told_apart_from_a_configuration_without(delivered: World) -> None:
    job = with_past(delivered)
    with pytest.raises(ConfigError, match="the features need the history past, which was not planned for"):
        call(job, "build_features", work=delivered.work(DAYS[1], job))


def test_a_champion_is_scored_and_compared_with_the_window_it_was_trained_with(accepted: World) -> None:
    job = with_past(accepted, "12h")
    accepted.loops(job).ci()
    crown(accepted, version := train(accepted, job))
    own = with_window(accepted, "1h")
    accepted.deliver(DAYS[3], what=("inputs",))
    (work,) = plan.score(own, partition=DAYS[3])
    for at_work, first in ((job.with_code(version.package.code), "2024-01-02 10:00Z"), (own, "2024-01-02 21:00Z")):
        found = load(at_work, DAYS[3], work.inputs, work.history).history["past"]["at"].min()
        assert pd.Timestamp(first) <= found < pd.Timestamp(first) + pd.Timedelta(minutes=10)
    call(own, "score", work=work)
    accepted.deliver(DAYS[3], what=("labels",))
    accepted.loops(own).ci()
    split = accepted.split(DAYS[3], own)
    compared = {"package": version.package, "split": split, "champion": version}
    assert call(own, "evaluate", **compared).verdict.passed
    # The table was built with the window of now, so the champion's features are built anew: that needs the inputs.
    accepted.file(DAYS[3], "inputs").unlink()
    again = call(accepted.job(force=True), "evaluate", **compared)
    assert [check.name for check in again.verdict.problems] == ["champion_scores"]


def with_window(world: World, window: str | None) -> Job:
    """Another window in model.yaml, and the same code."""
    code = (world.model / "features.py").read_text()
    world.configure(data={"past": {"window": window} if window else None})
    (world.model / "features.py").write_text(code)
    return world.job()


def test_a_past_that_reaches_back_less_than_the_version_needs_is_an_error(delivered: World) -> None:
    wide, short = with_past(delivered, "12h"), with_window(delivered, "1h")
    with pytest.raises(ConfigError, match="was planned from .* this version of the model needs it from"):
        call(wide, "build_features", work=planned(short, DAYS[2]))


def test_a_champions_history_is_planned_for_though_no_longer_declared(champion: World) -> None:
    job = champion.configure(data={"history": None})
    champion.deliver(DAYS[3])
    (work,) = plan.score(job)
    assert set(work.history) == {"sites"}
    assert {tuple(judged.history) for judged in plan.ci(job)} == {("sites",)}
    (champion.data / "sites.parquet").unlink()
    assert plan.ci(job)[0].history == {}


def test_what_the_loops_build_is_recorded_with_what_it_was_built_from(champion: World) -> None:
    job = with_past(champion)
    loops = champion.loops(job)
    for what in ("inputs", "labels"):
        champion.deliver(DAYS[3], what=(what,))
        loops.drain()
    (scored,) = [plan.manifest(job, DAYS[3])]
    assert scored is not None
    assert listed(job, scored) == list(DAYS[:3])
    record = champion.records("data")[-1]
    assert record.facts["work"]["history"]["past"] == scored.history["past"].model_dump()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"past": {"window": "0d"}}, "longer than nothing"),
        ({"past": {"window": "soon"}}, "is no duration"),
        ({"history": {"past": "x.parquet"}}, "history must not name a table 'past'"),
        ({"past": {"window": "1d"}, "columns": ["id", "at", "label"]}, "columns must not name label"),
    ],
)
def test_a_past_that_cannot_be_is_refused(empty: World, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        empty.configure(data=changes)
