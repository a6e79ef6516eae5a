"""Promotion and rollback: the ledger decides, the registry's alias follows it, a rerun finishes what a kill cut off."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import ConflictError, Refused, RequestError, Transient
from mlops_provider.ledger import Ledger
from mlops_provider.steps import plan, registry
from mlops_provider.steps.records import Judged, ModelVersion, Released
from mlops_provider.steps.release.promote import repair
from tests.support.tiny import DAYS, Killed, World, alias, call, crown, registry_of, train


def judged(world: World, version: ModelVersion) -> Judged:
    found: Judged = call(world.job(), "gate", version=version)
    return found


def promote(world: World, version: ModelVersion, verdict: Judged | None = None) -> Released:
    found: Released = call(world.job(), "promote", version=version, judged=verdict or judged(world, version))
    return found


def rollback(world: World, **arguments: Any) -> Released:
    found: Released = call(world.job(), "rollback", **arguments)
    return found


def champion(world: World) -> int | None:
    state = plan.State(world.job())
    return state.champion.version if state.champion else None


def kill(*_: object, **__: object) -> None:
    raise Killed


def test_the_first_champion(registered: World) -> None:
    (version,) = registered.versions()
    released = promote(registered, version)
    assert (released.version, released.previous) == (1, None)
    assert (champion(registered), alias(registered)) == (1, 1)
    (record,) = registered.records("promotion")
    assert record.facts["version"] == version.model_dump(mode="json")
    assert record.facts["judged"]["outcome"] == "promote"


def test_a_challenger_replaces_the_champion(challenger: World) -> None:
    released = promote(challenger, challenger.versions()[1])
    assert (released.version, released.previous) == (2, 1)
    assert (champion(challenger), alias(challenger)) == (2, 2)


def test_promoting_again_changes_nothing(challenger: World) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    assert promote(challenger, version, verdict) == promote(challenger, version, verdict)
    assert len(challenger.records("promotion")) == 2


def test_what_the_gate_refused_is_not_promoted(challenger: World) -> None:
    challenger.configure(gates={"min_gain": 0.2})
    with pytest.raises(Refused, match="no proven gain"):
        promote(challenger, challenger.versions()[1])
    assert (champion(challenger), alias(challenger)) == (1, 1)


def test_a_verdict_that_a_refusal_overtook_promotes_nobody(challenger: World) -> None:
    version = challenger.versions()[1]
    early = judged(challenger, version)
    challenger.configure(gates={"min_gain": 0.2})
    assert not judged(challenger, version).promote
    with pytest.raises(Refused, match="version 2 was refused in the meantime: no proven gain"):
        promote(challenger, version, early)
    assert (champion(challenger), alias(challenger)) == (1, 1)


def test_the_verdict_on_another_version_promotes_nobody(challenger: World) -> None:
    first, second = challenger.versions()
    verdict = judged(challenger, second).model_copy(update={"version": first.version})
    with pytest.raises(RequestError, match="the verdict is about version 1: it cannot promote version 2"):
        promote(challenger, second, verdict)
    assert champion(challenger) == 1


def test_a_verdict_that_says_promote_over_a_failed_check_promotes_nobody(challenger: World) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    failed = Check(name="parity", passed=False, detail="made to fail")
    broken = verdict.model_copy(update={"verdict": Verdict(subject="test", checks=(failed,))})
    with pytest.raises(RequestError, match="did not pass: parity: made to fail"):
        promote(challenger, version, broken)
    assert champion(challenger) == 1


def test_a_kill_between_record_and_alias_is_repaired(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry, "point_champion", kill)
        promote(challenger, challenger.versions()[1])
    assert (champion(challenger), alias(challenger)) == (2, 1)
    assert [repair(challenger.job()), repair(challenger.job())] == [True, False]
    assert alias(challenger) == 2


def test_a_kill_between_record_and_alias_is_finished_by_a_rerun(
    challenger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry, "point_champion", kill)
        promote(challenger, version, verdict)
    promote(challenger, version, verdict)
    assert alias(challenger) == 2
    assert len(challenger.records("promotion")) == 2


def test_a_kill_between_record_and_alias_is_repaired_by_the_loops(
    challenger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry, "point_champion", kill)
        challenger.loops().cd()
    challenger.loops().drain()
    assert alias(challenger) == 2


def test_a_kill_before_the_record_leaves_the_champion(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ledger, "append", kill)
        promote(challenger, version, verdict)
    assert (champion(challenger), alias(challenger)) == (1, 1)


def test_an_alias_that_another_moved_is_put_back(challenger: World) -> None:
    registry_of(challenger).set_registered_model_alias("tiny", "champion", "2")
    assert repair(challenger.job())
    assert alias(challenger) == 1


def test_without_a_champion_there_is_nothing_to_repair(registered: World) -> None:
    assert not repair(registered.job())
    assert alias(registered) is None


def test_an_alias_that_does_not_stay_is_worth_a_retry(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", lambda *_: None)
    with pytest.raises(Transient, match="is at version 1, was set to 2"):
        promote(challenger, challenger.versions()[1])


def test_an_unreachable_mlflow_is_worth_a_retry_after_which_the_alias_follows(
    challenger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def down(*_: object) -> None:
        raise ConnectionError("refused")

    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    with monkeypatch.context() as patch, pytest.raises(Transient):
        patch.setattr(MlflowClient, "get_registered_model", down)
        promote(challenger, version, verdict)
    promote(challenger, version, verdict)
    assert (champion(challenger), alias(challenger)) == (2, 2)


def rival(world: World, holdout: str) -> ModelVersion:
    """A version that another writer makes champion."""
    version = train(world, world.job(), holdout, repeat="rival")
    crown(world, version)
    return version


def test_a_champion_that_changed_after_the_gate_is_judged_against_and_may_win(challenger: World) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    other = rival(challenger, DAYS[2])
    released = promote(challenger, version, verdict)
    assert released.previous == other.version
    record = challenger.records("promotion")[-1]
    assert record.facts["judged"]["evaluation"]["champion_version"] == other.version


def test_a_champion_that_changed_after_the_gate_is_judged_against_and_may_stand(challenger: World) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    other = rival(challenger, DAYS[3])
    with pytest.raises(Refused, match="not comparable"):
        promote(challenger, version, verdict)
    assert champion(challenger) == other.version
    assert challenger.records("refusal")[-1].version == version.version


def test_a_champion_that_changes_while_the_record_is_written_is_judged_against(
    challenger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, version = challenger.versions()
    verdict = judged(challenger, version)
    append, rivals = Ledger.append, [first.model_copy(update={"version": 7})]

    def late(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if rivals:
            crown(challenger, rivals.pop())
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", late)
    assert promote(challenger, version, verdict).previous == 7


def test_a_champion_that_never_stays_is_a_conflict(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)

    def changed(*_: object, **__: object) -> None:
        raise ConflictError("changed")

    monkeypatch.setattr(Ledger, "append", changed)
    with pytest.raises(ConflictError, match="changed ten times"):
        promote(challenger, version, verdict)


def drilled(world: World) -> tuple[ModelVersion, Judged]:
    """A drill that the gate would promote."""
    version = train(world, world.job(), DAYS[2], drill="shuffled_labels")
    world.configure(gates={"thresholds": {"auc": {"min": 0.01}}})
    return version, judged(world, version)


def test_a_drill_is_never_promoted(trained: World) -> None:
    version, verdict = drilled(trained)
    forged = verdict.model_copy(update={"outcome": "promote"})
    with pytest.raises(Refused, match="is a drill"):
        promote(trained, version, forged)
    assert (champion(trained), alias(trained)) == (None, None)


def test_a_drill_is_decided_even_if_the_gate_would_promote_it(trained: World) -> None:
    drilled(trained)
    with contextlib.suppress(Refused):
        trained.loops().cd()
    assert plan.cd(trained.job()) == []
    assert champion(trained) is None


def test_rollback_goes_to_the_champion_before(lapped: World) -> None:
    assert champion(lapped) == 2
    released = rollback(lapped, reason="complaints")
    assert (released.version, released.previous) == (1, 2)
    assert (champion(lapped), alias(lapped)) == (1, 1)
    assert lapped.records("rollback")[0].reason == "from version 2 to 1: complaints"


def test_rollback_goes_to_the_version_that_is_asked_for(lapped: World) -> None:
    rollback(lapped, version=1)
    rollback(lapped, version=2)
    assert (champion(lapped), alias(lapped)) == (2, 2)


@pytest.mark.parametrize(("version", "expected"), [(99, "version 99 was never champion"), (3, "version 3 was never")])
def test_rollback_to_what_was_never_champion_is_refused(lapped: World, version: int, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        rollback(lapped, version=version)
    assert lapped.records("rollback") == []


def test_without_a_champion_there_is_nothing_to_roll_back_to(empty: World) -> None:
    with pytest.raises(RequestError, match="no champion yet"):
        rollback(empty)


def test_the_only_champion_cannot_be_rolled_back(champion: World) -> None:
    with pytest.raises(RequestError, match="the only champion there ever was"):
        rollback(champion)


def test_rollback_to_the_present_champion_changes_nothing(lapped: World) -> None:
    before = lapped.records()
    assert rollback(lapped, version=2).version == 2
    assert lapped.records() == before


def test_a_killed_rollback_to_a_version_is_finished_by_a_rerun(lapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry, "point_champion", kill)
        rollback(lapped, version=1)
    rollback(lapped, version=1)
    assert (champion(lapped), alias(lapped)) == (1, 1)
    assert len(lapped.records("rollback")) == 1


def test_a_killed_rollback_to_the_champion_before_is_finished_by_a_rerun(
    lapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry, "point_champion", kill)
        rollback(lapped)
    rollback(lapped)
    assert (champion(lapped), alias(lapped)) == (1, 1)


def test_a_rerun_of_a_promotion_does_not_undo_a_rollback(challenger: World) -> None:
    version = challenger.versions()[1]
    verdict = judged(challenger, version)
    promote(challenger, version, verdict)
    rollback(challenger)
    with contextlib.suppress(Refused, ConflictError):
        promote(challenger, version, verdict)
    assert champion(challenger) == 1


def test_a_rolled_back_version_may_be_promoted_again_on_demand(challenger: World) -> None:
    version = challenger.versions()[1]
    promote(challenger, version)
    rollback(challenger)
    verdict = call(challenger.job(), "gate", version=version, again=True)
    call(challenger.job(), "promote", version=version, judged=verdict, again=True)
    assert champion(challenger) == 2


def test_a_champion_that_changes_during_a_rollback_is_seen(lapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append, rivals = Ledger.append, [lapped.versions()[2]]

    def late(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if rivals:
            crown(lapped, rivals.pop())
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", late)
    released = rollback(lapped, version=1)
    assert (released.version, released.previous) == (1, 3)


def test_a_rolled_back_champion_scores_the_next_partition(lapped: World) -> None:
    rollback(lapped, version=1)
    state = plan.State(lapped.job())
    assert state.champion is not None
    assert state.champion.version == 1
    assert state.scorable("2024-01-06")
