"""What is due: worked out from what lies there, in the order of the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlops_provider.exceptions import RequestError
from mlops_provider.ledger import Draft
from mlops_provider.steps import plan
from mlops_provider.steps.plan import State
from tests.support.tiny import DAYS, MODELS, World, call


def partitions(works: list[object]) -> list[str]:
    return [work.partition for work in works]  # type: ignore[attr-defined]


def spoiled(world: World, day: str) -> None:
    world.rewrite(day, "inputs", lambda frame: frame.assign(a=np.where(frame.index == 0, 99.0, frame["a"])))


# CI


def test_labelled_partitions_are_judged_in_order(delivered: World) -> None:
    works = plan.ci(delivered.job())
    assert partitions(works) == list(DAYS[:3])
    assert not any(work.problem for work in works)


def test_inputs_alone_are_not_judged(empty: World) -> None:
    empty.deliver(DAYS[0], what=("inputs",))
    assert plan.ci(empty.job()) == []


def test_labels_before_inputs_name_the_file_that_is_missing(empty: World) -> None:
    empty.deliver(DAYS[0], what=("labels",))
    (work,) = plan.ci(empty.job())
    assert work.problem.endswith(f"tiny/{DAYS[0]}/inputs.parquet does not exist")


def test_a_missing_history_file_is_named(delivered: World) -> None:
    (delivered.data / "sites.parquet").unlink()
    assert all("sites.parquet does not exist" in work.problem for work in plan.ci(delivered.job()))


def test_accepted_partitions_are_done(accepted: World) -> None:
    assert plan.ci(accepted.job()) == []
    accepted.deliver(*DAYS[:3])
    assert plan.ci(accepted.job()) == []


def test_labels_of_another_meaning_are_judged_anew_and_never_learned_from_together(accepted: World) -> None:
    job = accepted.configure(data={"label": {"positive_above": 1}})
    assert partitions(plan.ci(job)) == list(DAYS[:3])
    assert State(job).accepted == {}
    accepted.loops(job).ci()
    assert plan.ci(job) == []
    assert list(State(job).accepted) == list(DAYS[:3])
    assert partitions(plan.ci(accepted.configure())) == list(DAYS[:3])


def edited(world: World, file: str, text: str) -> None:
    with (world.model / file).open("a") as source:
        source.write(text)


@pytest.mark.parametrize("way", ["function", "import", "setting"])
def test_features_that_other_code_makes_are_made_anew_before_anything_is_decided(accepted: World, way: str) -> None:
    accepted.loops().cm()
    last = accepted.records("retrain")[-1].partition
    if way == "setting":
        accepted.configure(data={"lead": "2h"})
    elif way == "function":
        edited(accepted, "features.py", "# other\n")
    else:
        edited(accepted, "features.py", "from . import helper\n")
        (accepted.model / "helper.py").touch()
    job = accepted.job()
    assert partitions(plan.ci(job)) == list(DAYS[:3])
    assert State(job).accepted == {}
    with pytest.raises(RequestError, match="tiny.ci makes them anew"):
        plan.ct(job, partition=last)
    accepted.loops(job).ci()
    assert plan.ci(job) == []
    assert list(State(job).accepted) == list(DAYS[:3])
    assert not State(job).hindrance


def test_no_partition_is_decided_while_one_before_it_is_made_anew(
    accepted: World, caplog: pytest.LogCaptureFixture
) -> None:
    accepted.loops().drain()
    edited(accepted, "features.py", "# other\n")
    accepted.deliver(DAYS[3])
    job = accepted.job()
    judged = accepted.loops(job)
    assert judged.score()
    work = next(work for work in plan.ci(job) if work.partition == DAYS[3])
    judged._judge(work)
    assert list(State(job).accepted) == [DAYS[3]]
    assert plan.cm(job).decide is None
    assert f"{DAYS[3]} is not decided yet: other code or settings than today's made 3 " in caplog.text
    judged.ci()
    assert plan.cm(job).decide == DAYS[3]


def test_other_code_that_makes_no_features_makes_nothing_due(accepted: World) -> None:
    (accepted.model / "notes.py").write_text("import this\n")
    accepted.configure(training={"params": {"num_leaves": 7}})
    assert plan.ci(accepted.job()) == []


def test_what_cannot_be_made_anew_is_not_waited_for(accepted: World) -> None:
    edited(accepted, "features.py", "# other\n")
    for day in DAYS[:2]:
        accepted.file(day, "inputs").unlink()
    accepted.loops().ci()
    state = State(accepted.job())
    assert list(state.accepted) == [DAYS[2]]
    assert not state.hindrance


@pytest.mark.parametrize("what", ["inputs", "labels"])
def test_a_partition_that_is_delivered_anew_is_judged_again(accepted: World, what: str) -> None:
    accepted.rewrite(DAYS[1], what, lambda frame: frame.iloc[::-1])
    assert partitions(plan.ci(accepted.job())) == [DAYS[1]]


def test_a_refused_partition_is_judged_again_when_it_is_delivered_anew(delivered: World) -> None:
    spoiled(delivered, DAYS[1])
    delivered.loops().ci()
    assert plan.ci(delivered.job()) == []
    assert list(State(delivered.job()).accepted) == [DAYS[0], DAYS[2]]
    delivered.deliver(DAYS[1])
    delivered.loops().ci()
    assert list(State(delivered.job()).accepted) == list(DAYS[:3])


@pytest.mark.parametrize("root", ["data[1]", "d*", "{partition}"])
def test_partitions_are_found_under_any_root(delivered: World, tmp_path: Path, root: str) -> None:
    (tmp_path / root).symlink_to(delivered.data)
    job = delivered.job(data_root=str(tmp_path / root))
    assert [work.problem for work in plan.ci(job)] == ["", "", ""]


def expect(world: World, suite: str, kind: str, **kwargs: object) -> None:
    """Adds an expectation to a suite of the model."""
    file = world.model / "expectations" / f"{suite}.json"
    content = json.loads(file.read_text())
    content["expectations"].append({"type": kind, "kwargs": kwargs, "severity": "critical"})
    file.write_text(json.dumps(content))


def mended(world: World) -> None:
    shutil.copytree(MODELS / "tiny" / "expectations", world.model / "expectations", dirs_exist_ok=True)


@pytest.mark.parametrize("suite", ["raw", "features"])
def test_a_refused_partition_is_judged_again_by_a_suite_that_was_mended(empty: World, suite: str) -> None:
    empty.deliver(DAYS[0])
    expect(empty, suite, "expect_column_to_exist", column="idd")
    empty.loops().ci()
    (record,) = empty.records("data")
    assert record.outcome == "refused"
    assert "idd" in record.reason
    assert plan.ci(empty.job()) == []
    mended(empty)
    assert partitions(plan.ci(empty.job())) == [DAYS[0]]
    assert not State(empty.job()).settled(DAYS[0])
    empty.loops().ci()
    assert list(State(empty.job()).accepted) == [DAYS[0]]


def test_what_other_suites_refuse_again_is_refused_for_good(delivered: World) -> None:
    spoiled(delivered, DAYS[1])
    delivered.loops().ci()
    expect(delivered, "raw", "expect_column_values_to_not_be_null", column="a")
    assert partitions(plan.ci(delivered.job())) == [DAYS[1]]
    assert State(delivered.job()).refused(delivered.work(DAYS[1]))
    delivered.loops().ci()
    assert plan.ci(delivered.job()) == []
    assert [r.partition for r in delivered.records("data") if r.outcome == "refused"] == [DAYS[1]] * 2


def test_other_settings_judge_a_refused_partition_again_and_other_code_if_it_took_part(delivered: World) -> None:
    expect(delivered, "features", "expect_column_values_to_be_between", column="a", max_value=-100)
    delivered.rewrite(DAYS[0], "inputs", lambda frame: frame.assign(a=99.0))
    delivered.loops().ci()
    (delivered.model / "features.py").open("a").write("\n")
    assert partitions(plan.ci(delivered.job())) == list(DAYS[1:3])
    changed = delivered.configure(data={"changes": {"slack": "1h"}})
    assert partitions(plan.ci(changed)) == list(DAYS[:3])


def test_an_old_refusal_that_is_looked_at_again_holds_up_nobody(champion: World) -> None:
    spoiled(champion, DAYS[0])
    champion.loops().ci()
    champion.deliver(DAYS[3], what=("inputs",))
    expect(champion, "raw", "expect_column_to_exist", column="a")
    assert partitions(plan.ci(champion.job())) == [DAYS[0]]
    assert partitions(plan.score(champion.job())) == [DAYS[3]]


def test_a_refusal_of_old_stands_and_a_suite_that_is_missing_stops_no_planning(delivered: World) -> None:
    work = delivered.work(DAYS[0])
    facts = {"identity": work.identity, "work": work.model_dump(mode="json")}
    old = Draft(kind="data", partition=DAYS[0], outcome="refused", reason="old", facts=facts)
    delivered.job().ledger.append(old, actor="test")
    call(delivered.job(), "refuse_data", work=delivered.work(DAYS[1]), reason="new")
    shutil.rmtree(delivered.model / "expectations")
    assert partitions(plan.ci(delivered.job())) == [DAYS[1], DAYS[2]]


def test_an_accepted_partition_that_is_redelivered_badly_is_withdrawn(accepted: World) -> None:
    spoiled(accepted, DAYS[1])
    accepted.loops().ci()
    assert list(State(accepted.job()).accepted) == [DAYS[0], DAYS[2]]


def test_a_partition_that_is_asked_for_is_judged_again(accepted: World) -> None:
    assert partitions(plan.ci(accepted.job(), partition=DAYS[0])) == [DAYS[0]]


@pytest.mark.parametrize("stray", ["2024-01", "2024-01-32", "2024-01-01.bak", "latest", ".2024-01-01"])
def test_folders_that_are_no_partitions_are_passed_over(delivered: World, stray: str) -> None:
    (delivered.data / "tiny" / DAYS[0]).rename(delivered.data / "tiny" / stray)
    assert partitions(plan.ci(delivered.job())) == list(DAYS[1:3])


# Score


def test_without_a_champion_nothing_is_scored(accepted: World) -> None:
    assert plan.score(accepted.job()) == []


def test_a_partition_with_inputs_and_no_predictions_is_scored(champion: World) -> None:
    champion.deliver(DAYS[3], what=("inputs",))
    (work,) = plan.score(champion.job())
    assert (work.partition, work.version.version) == (DAYS[3], 1)


def test_partitions_that_the_champion_has_seen_are_not_scored(champion: World) -> None:
    assert plan.score(champion.job()) == []


@pytest.mark.parametrize(("order", "due"), [("wait", [DAYS[3]]), ("immediate", [DAYS[3], DAYS[4]])])
def test_the_order_says_whether_to_wait_for_earlier_partitions(champion: World, order: str, due: list[str]) -> None:
    champion.deliver(*DAYS[3:])
    assert partitions(plan.score(champion.configure(scoring={"order": order}))) == due


def test_an_unlabelled_partition_holds_up_nobody(champion: World) -> None:
    champion.deliver(*DAYS[3:], what=("inputs",))
    assert partitions(plan.score(champion.job())) == list(DAYS[3:])


def test_a_partition_whose_history_is_missing_holds_up_nobody(champion: World) -> None:
    champion.deliver(*DAYS[3:], what=("inputs",))
    sites = (champion.data / "sites.parquet").read_bytes()
    champion.file(DAYS[3], "sites").write_bytes(sites)
    job = champion.configure(data={"history": {"sites": "tiny/{partition}/sites.parquet"}})
    assert partitions(plan.score(job)) == [DAYS[3]]


@pytest.mark.parametrize(
    ("partition", "expected"),
    [("2024-01-09", "has no inputs"), (DAYS[2], f"the champion saw {DAYS[2]}"), ("2024-01", "no daily partition")],
)
def test_a_partition_that_cannot_be_scored_is_refused(champion: World, partition: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        plan.score(champion.job(), partition=partition)


def test_without_a_champion_a_partition_that_is_asked_for_is_refused(accepted: World) -> None:
    with pytest.raises(RequestError, match="no champion"):
        plan.score(accepted.job(), partition=DAYS[0])


# CM


def test_partitions_are_decided_one_by_one_in_order(accepted: World) -> None:
    due = []
    while work := plan.cm(accepted.job()):
        due.append(work.decide)
        call(accepted.job(), "decide", partition=work.decide)
    assert due == list(DAYS[:3])


def test_a_decision_waits_for_predictions_that_the_champion_owes(champion: World) -> None:
    champion.deliver(DAYS[3])
    champion.loops().ci()
    assert plan.cm(champion.job()) is None
    champion.loops().score()
    work = plan.cm(champion.job())
    assert work is not None
    assert (work.decide, work.quality is not None, len(work.drift)) == (DAYS[3], True, 1)


def test_a_decision_waits_for_the_release_of_the_candidate_before(challenger: World) -> None:
    challenger.deliver(DAYS[4])
    challenger.loops().ci()
    assert plan.cm(challenger.job()) is None


def test_a_late_earlier_partition_is_accepted_and_not_decided_on(lapped: World) -> None:
    early = "2023-12-31"
    lapped.deliver(early)
    lapped.loops().drain()
    assert early in State(lapped.job()).accepted
    assert [r.partition for r in lapped.records() if r.partition == early and r.kind != "data"] == []
    split = plan.split(State(lapped.job()), DAYS[4])
    assert [v.partition for v in split.fit] == [early, *DAYS[:4]]


# CT


def test_a_decision_to_train_is_due_until_its_candidate_is_registered(accepted: World) -> None:
    assert plan.ct(accepted.job()) is None
    for day in DAYS[:3]:
        call(accepted.job(), "decide", partition=day)
    work = plan.ct(accepted.job())
    assert work is not None
    assert (work.split.holdout, work.split.first, work.split.last) == (DAYS[2], DAYS[0], DAYS[1])
    accepted.loops().ct()
    assert plan.ct(accepted.job()) is None


def test_a_drill_does_not_stand_for_the_candidate(accepted: World) -> None:
    for day in DAYS[:3]:
        call(accepted.job(), "decide", partition=day)
    work = plan.ct(accepted.job())
    assert work is not None
    accepted.loops().train(work, drill="shuffled_labels")
    assert plan.ct(accepted.job()) is not None


@pytest.mark.parametrize(
    ("partition", "expected"),
    [(DAYS[4], "no accepted data"), (DAYS[1], "1 labelled partitions before"), ("2024", "no daily partition")],
)
def test_training_that_is_not_possible_is_refused(accepted: World, partition: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        plan.ct(accepted.job(), partition=partition)


def test_a_person_may_ask_for_training(accepted: World) -> None:
    work = plan.ct(accepted.job(), partition=DAYS[2])
    assert work is not None
    assert work.why == "a person asked for it"


def test_a_holdout_that_was_withdrawn_does_not_hold_up_training(accepted: World) -> None:
    for day in DAYS[:3]:
        call(accepted.job(), "decide", partition=day)
    spoiled(accepted, DAYS[2])
    accepted.loops().ci()
    assert plan.ct(accepted.job()) is None


# CD


def test_a_candidate_is_due_until_it_is_decided(registered: World) -> None:
    assert [v.version for v in plan.cd(registered.job())] == [1]
    registered.loops().cd()
    assert plan.cd(registered.job()) == []


def test_a_version_that_is_asked_for_is_due_again(champion: World) -> None:
    assert [v.version for v in plan.cd(champion.job(), version=1)] == [1]
    with pytest.raises(RequestError, match=r"version 9 is no candidate; the candidates are \[1\]"):
        plan.cd(champion.job(), version=9)
