"""The loops without Airflow: however the deliveries come, the same decisions, versions and predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import ConfigError
from mlops_provider.loops import replay
from mlops_provider.steps import plan
from mlops_provider.steps.data.code_tests import verdict_of
from mlops_provider.steps.plan import State
from mlops_provider.steps.records import Judged
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import STEPS
from tests.support.code import BAD, with_tests
from tests.support.tiny import DAYS, Killed, World, alias, feed

At = Callable[[str], World]
Delivery = tuple[str, str]


def told(world: World) -> dict[str, Any]:
    """Everything that was decided, apart from times and the order of what does not depend on each other."""
    job = world.job()
    state = State(job)
    found = {day: manifest(job, day) for day in state.scored}
    return {
        "records": sorted((r.kind, r.partition, r.version or 0, r.outcome, r.reason) for r in state.records),
        "predictions": {day: (p.version, p.rows, p.mean_score) for day, p in found.items() if p},
        "versions": [(v.version, v.fingerprint, v.seen_until) for v in world.versions()],
        "alias": alias(world),
    }


def forgotten(world: World) -> World:
    """Takes back all deliveries and decisions; what was computed may be reused."""
    for gone in ("data/tiny", "artifacts/ledger", "artifacts/predictions", "artifacts/monitoring"):
        shutil.rmtree(world.root / gone)
    return world


@pytest.fixture(scope="module")
def one_at_a_time(stages: At) -> dict[str, Any]:
    return told(stages("lapped"))


def test_the_days_one_at_a_time(one_at_a_time: dict[str, Any]) -> None:
    assert one_at_a_time["predictions"].keys() == set(DAYS[3:])
    assert [p[0] for p in one_at_a_time["predictions"].values()] == [1, 2]
    outcomes = {(kind, version): outcome for kind, _, version, outcome, _ in one_at_a_time["records"]}
    assert outcomes["promotion", 1] == outcomes["promotion", 2] == "promoted"
    assert outcomes["refusal", 3] == "no_proven_gain"
    assert one_at_a_time["alias"] == 2


def test_all_days_at_once_lead_to_the_same(stages: At, one_at_a_time: dict[str, Any]) -> None:
    world = stages("empty")
    world.deliver(*DAYS)
    world.loops().drain()
    assert told(world) == one_at_a_time


ALL = [(day, what) for day in DAYS for what in ("inputs", "labels")]
ORDERS: dict[str, Sequence[Sequence[Delivery]]] = {
    "labels_first": [[(day, "labels") for day in DAYS], *([(day, "inputs")] for day in DAYS)],
    "in_heaps_and_twice": [ALL[:5], ALL[:5], ALL[:8], ALL],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_any_order_leads_to_the_same(
    stages: At, one_at_a_time: dict[str, Any], order: Sequence[Sequence[Delivery]]
) -> None:
    world = forgotten(stages("lapped"))
    for deliveries in order:
        for day, what in deliveries:
            world.deliver(day, what=(what,))
        world.loops().drain()
    assert told(world) == one_at_a_time


def test_loops_that_wake_in_the_wrong_order_lead_to_the_same(stages: At, one_at_a_time: dict[str, Any]) -> None:
    world = forgotten(stages("lapped"))
    world.deliver(*DAYS)
    for _ in range(12):
        for name in ("cd", "ct", "cm", "ci", "score"):
            getattr(world.loops(), name)()
    assert told(world) == one_at_a_time


def test_a_drained_model_owes_nothing(lapped: World) -> None:
    before = lapped.records()
    lapped.loops().drain()
    assert lapped.told == []
    assert lapped.records() == before


_NOT_IN_A_LAP = {
    "refuse_data",
    "refuse_scoring",
    "rollback",
    "design_ab_test",
    "ab_test",
    "checkout",
    "collect_garbage",
    "resolve_code",
    "test_code",
    "diagnose",
    "tune",
    "tune_trial",
    "snapshot_dataset",
    "validate_dataset",
    "take_labels",
    "sample_for_review",
}


def test_kills_before_and_after_every_step_lead_to_the_same(
    stages: At, one_at_a_time: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = forgotten(stages("lapped"))
    world.deliver(*DAYS)
    loops = world.loops()
    run, killed = loops._run, set[tuple[str, str]]()

    def kill(name: str, when: str) -> None:
        if (name, when) not in killed:
            killed.add((name, when))
            raise Killed

    def killing(name: str, label: str, **arguments: Any) -> Any:
        kill(name, "before")
        found = run(name, label, **arguments)
        kill(name, "after")
        return found

    monkeypatch.setattr(loops, "_run", killing)
    for _ in range(40):
        try:
            loops.drain()
        except Killed:
            continue
        break
    assert len(killed) == 2 * (len(STEPS) - len(_NOT_IN_A_LAP))
    assert told(world) == one_at_a_time


def test_a_refused_day_is_recorded_and_the_others_go_on(champion: World) -> None:
    champion.deliver(*DAYS[3:])
    champion.rewrite(DAYS[3], "inputs", lambda frame: frame.assign(a=99.0))
    champion.loops().drain()
    state = State(champion.job())
    assert list(state.accepted) == [*DAYS[:3], DAYS[4]]
    (refused,) = [r for r in state.records if r.outcome == "refused"]
    assert refused.partition == DAYS[3]
    assert "values_to_be_between (a)" in refused.reason
    assert DAYS[4] in state.scored


def test_a_day_that_the_champion_cannot_score_holds_up_nobody(champion: World) -> None:
    """Quarantine takes the rows of a repeated key away, and what is left is good data; scoring has no use for such inputs."""
    champion.configure(data={"validation": {"mode": "quarantine"}})
    suite = {"name": "raw", "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}]}
    (champion.model / "expectations" / "raw.json").write_text(json.dumps(suite))
    champion.deliver(*DAYS[3:])
    champion.rewrite(DAYS[3], "inputs", lambda frame: frame.assign(id=frame["id"].mask(frame.index < 2, "twice")))
    job = champion.job()
    champion.loops(job).drain()
    state = State(job)
    (record,) = [r for r in state.records if r.kind == "unscored"]
    assert (record.partition, record.version) == (DAYS[3], 1)
    assert "not unique" in record.reason
    assert {DAYS[3], DAYS[4]} <= set(state.accepted)
    assert state.scored == [DAYS[4]]
    assert all(state.settled(day) for day in DAYS)
    champion.loops(job).drain()
    assert State(job).records == state.records


def test_a_day_that_could_not_be_scored_is_scored_once_it_is_delivered_anew(champion: World) -> None:
    champion.deliver(DAYS[3], what=("inputs",))
    content = champion.file(DAYS[3], "inputs").read_bytes()
    champion.rewrite(DAYS[3], "inputs", lambda frame: frame.drop(columns="a"))
    job = champion.job()
    champion.loops(job).score()
    assert not champion.loops(job).score()
    assert not State(job).scored
    (asked,) = plan.score(job, partition=DAYS[3])
    assert asked.partition == DAYS[3], "a person may have it tried again"
    champion.file(DAYS[3], "inputs").write_bytes(content)
    champion.loops(job).score()
    assert State(job).scored == [DAYS[3]]


def test_a_torn_day_is_recorded_and_the_others_go_on(champion: World) -> None:
    champion.deliver(*DAYS[3:])
    file = champion.file(DAYS[3], "inputs")
    file.write_bytes(file.read_bytes()[:1000])
    champion.loops().drain()
    state = State(champion.job())
    assert [r.partition for r in state.records if r.outcome == "refused"] == [DAYS[3]]
    assert DAYS[4] in state.scored


def test_labels_without_inputs_do_not_hold_up_the_days_after_them(empty: World) -> None:
    empty.deliver(*DAYS[:4])
    empty.file(DAYS[0], "inputs").unlink()
    empty.loops().drain()
    assert list(State(empty.job()).accepted) == list(DAYS[1:4])
    empty.deliver(DAYS[0])
    empty.loops().drain()
    assert list(State(empty.job()).accepted) == list(DAYS[:4])


def test_no_model_scores_a_day_that_it_was_fitted_or_judged_on(lapped: World) -> None:
    job = lapped.job()
    versions = {v.version: v for v in lapped.versions()}
    for day in DAYS:
        found = manifest(job, day)
        assert found is None or versions[found.version].seen_until < day


def test_a_replay_delivers_inputs_before_labels(empty: World) -> None:
    seen: list[Delivery] = []
    deliver = feed.deliver
    job = empty.job()
    module = job.model.function("feed.py:deliver").__globals__

    def watched(root: str, day: str, what: str) -> None:
        seen.append((day, what))
        deliver(root, day, what)

    module["deliver"], kept = watched, module["deliver"]
    module["partitions"], days = (lambda: list(DAYS[:1])), module["partitions"]
    try:
        assert list(replay(job, empty.loops(job), str(empty.data))) == list(DAYS[:1])
    finally:
        module["deliver"], module["partitions"] = kept, days
    assert seen == [(DAYS[0], "inputs"), (DAYS[0], "labels")]


def test_without_a_feed_what_lies_there_is_replayed(delivered: World) -> None:
    job = delivered.configure(data={"replay": None})
    list(replay(job, delivered.loops(job), str(delivered.data)))
    assert list(State(delivered.job()).accepted) == list(DAYS[:3])


def test_without_a_feed_and_without_data_there_is_nothing_to_replay(empty: World, tmp_path: Path) -> None:
    job = empty.configure(data={"replay": None})
    with pytest.raises(ConfigError, match="no labelled partition lies under"):
        list(replay(job, empty.loops(job), str(tmp_path)))


def test_a_model_with_tests_is_promoted_by_what_they_say(delivered: World) -> None:
    job = with_tests(delivered)
    delivered.loops(job).drain()
    (record,) = delivered.records("promotion")
    checks = Judged.model_validate(record.facts["judged"]).verdict.checks
    assert [(check.passed, check.value, check.subject) for check in checks if check.name == "code_tests"] == [
        (True, 1, f"code {job.model.ref.sha256[:12]}")
    ]


def test_a_candidate_does_not_wait_for_data_to_have_its_tests_run(registered: World) -> None:
    """Its package was made before the tests were written; they fail, and CI had no reason yet to run."""
    loops = registered.loops(with_tests(registered, BAD))
    assert loops.cd()
    assert [(record.kind, record.outcome) for record in registered.records("promotion", "refusal")] == [
        ("refusal", "tests_failed")
    ]
    assert not loops.cd()
    assert not loops.ci()


def test_new_code_is_tested_although_no_data_is_due(lapped: World) -> None:
    job = with_tests(lapped)
    lapped.loops(job).drain()
    assert [step.step for _, step in lapped.told] == ["test_code"]
    assert verdict_of(job, job.model.ref.sha256) is not None
