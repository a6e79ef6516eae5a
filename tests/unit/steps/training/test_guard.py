"""The guard before training: what is carried out, what is not, and that the reason is on record."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from mlops_provider.steps import plan
from mlops_provider.steps.plan import State
from tests.support.tiny import DAYS, World, call, crown, train


def decide(world: World, *days: str) -> None:
    for day in days:
        call(world.job(), "decide", partition=day)


def withdraw(world: World, day: str) -> None:
    """Delivers a day anew in a way that validation refuses."""
    world.rewrite(day, "inputs", lambda frame: frame.assign(a=np.where(frame.index == 0, 99.0, frame["a"])))
    world.loops().ci()


def lapses(world: World) -> list[tuple[str, str]]:
    return [(record.partition, record.reason) for record in world.records("lapse")]


def test_a_decision_that_stands_is_carried_out_for_its_reason(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    work = plan.ct(accepted.job())
    assert work is not None
    assert work.why == "there is no champion yet, and 3 labelled partitions"
    assert lapses(accepted) == []


def test_what_has_its_candidate_is_not_trained_again(registered: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="mlops_provider"):
        assert plan.ct(registered.job()) is None
    assert "version 1 was trained for it" in caplog.text
    assert lapses(registered) == []


def test_a_decision_that_a_newer_one_overtook_lapses(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[2])
    accepted.deliver(DAYS[3])
    accepted.loops().ci()
    decide(accepted, DAYS[3])
    accepted.deliver(DAYS[2])
    accepted.loops().ci()
    work = plan.ct(accepted.job())
    assert work is not None
    assert work.split.holdout == DAYS[3]
    assert lapses(accepted) == [(DAYS[2], f"the decision on {DAYS[3]} came after it")]


def test_a_decision_whose_holdout_the_champion_has_seen_lapses(registered: World) -> None:
    (version,) = registered.versions()
    later = version.split.model_copy(update={"holdout": DAYS[4]})
    registered.deliver(DAYS[3])
    registered.loops().ci()
    decide(registered, DAYS[3])
    crown(registered, version.model_copy(update={"split": later}))
    assert plan.ct(registered.job()) is None
    assert lapses(registered) == [
        (DAYS[3], f"the champion, version 1, has seen data until {DAYS[4]}: nothing fair to compare on")
    ]


def test_too_little_data_lapses_once_and_holds_up_nothing(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[1])
    assert plan.ct(accepted.job()) is None
    assert plan.ct(accepted.job()) is None
    told = f"too little data: 1 labelled partitions before {DAYS[2]}, 2 are needed to fit on"
    assert lapses(accepted) == [(DAYS[2], told)]
    assert State(accepted.job()).settled(DAYS[2])
    accepted.deliver(DAYS[3])
    accepted.loops().ci()
    work = plan.cm(accepted.job())
    assert work is not None
    assert work.decide == DAYS[3]


def test_the_loops_go_on_after_a_lapse(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[1])
    accepted.deliver(DAYS[3])
    accepted.loops().drain()
    assert [partition for partition, _ in lapses(accepted)] == [DAYS[2]]
    assert [version.split.holdout for version in accepted.versions()] == [DAYS[3]]


def test_a_decision_that_lapsed_stays_so_when_its_data_come_back(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[1])
    assert plan.ct(accepted.job()) is None
    accepted.deliver(DAYS[1])
    accepted.loops().ci()
    assert plan.ct(accepted.job()) is None


def test_a_holdout_that_was_refused_waits_and_does_not_lapse(accepted: World, caplog: pytest.LogCaptureFixture) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[2])
    assert plan.ct(accepted.job()) is None
    assert "its data was refused after that was decided" in caplog.text
    assert lapses(accepted) == []
    accepted.deliver(DAYS[2])
    accepted.loops().ci()
    assert plan.ct(accepted.job()) is not None


def test_a_person_counts_whatever_the_guard_says(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    withdraw(accepted, DAYS[1])
    assert plan.ct(accepted.job()) is None
    accepted.deliver(DAYS[1])
    accepted.loops().ci()
    work = plan.ct(accepted.job(), partition=DAYS[2])
    assert work is not None
    assert work.why == "a person asked for it"


def test_a_person_is_told_that_it_was_trained_before(registered: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mlops_provider"):
        assert plan.ct(registered.job(), partition=DAYS[2]) is not None
        assert "version 1 has this very fingerprint" in caplog.text
        caplog.clear()
        plan.ct(registered.configure(training={"seed": 8}), partition=DAYS[2])
        assert "fingerprint" not in caplog.text


def test_two_runs_at_once_train_one_version(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    first, second = plan.ct(accepted.job()), plan.ct(accepted.job())
    assert first == second
    for work in (first, second):
        assert work is not None
        accepted.loops().train(work)
    assert [version.version for version in accepted.versions()] == [1]


def test_a_drill_carries_out_no_decision(accepted: World) -> None:
    decide(accepted, *DAYS[:3])
    train(accepted, accepted.job(), drill="shuffled_labels")
    assert plan.ct(accepted.job()) is not None
