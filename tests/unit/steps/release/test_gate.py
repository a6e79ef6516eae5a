"""The gate: every outcome, and that an error is never a pass."""

from __future__ import annotations

from typing import Any

import pytest

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.ledger import Draft, Ledger, Record
from mlops_provider.sections import Bounds
from mlops_provider.steps import plan
from mlops_provider.steps.monitoring.diagnosis import Diagnosis
from mlops_provider.steps.records import Evaluation, Interval, Judged, ModelVersion
from mlops_provider.steps.release import gate as gates
from mlops_provider.steps.release.gate import bounded, judge, present_champion
from mlops_provider.steps.training.split import load_split, save_split
from tests.support.tiny import DAYS, World, call, crown, train, with_block


def gated(world: World, version: ModelVersion, **configuration: Any) -> Judged:
    job = world.configure(**configuration) if configuration else world.job()
    found: Judged = call(job, "gate", version=version)
    return found


def refusals(world: World) -> list[Record]:
    return world.records("refusal")


def test_the_first_model_is_promoted_if_it_meets_the_thresholds(registered: World) -> None:
    found = gated(registered, registered.versions()[0])
    assert (found.outcome, found.promote) == ("promote", True)
    assert found.reason == "first model, meets the thresholds"
    assert {"parity", "parity_flips", "auc", "first_model"} <= {c.name for c in found.verdict.checks}
    assert refusals(registered) == []


def test_a_proven_gain_is_promoted(challenger: World) -> None:
    found = gated(challenger, challenger.versions()[1])
    assert found.promote
    assert found.reason.startswith("proven gain: auc +0.0")
    assert "against version 1" in found.reason
    assert refusals(challenger) == []


def test_a_gain_that_is_not_proven_is_refused(challenger: World) -> None:
    found = gated(challenger, challenger.versions()[1], gates={"min_gain": 0.2})
    assert found.outcome == "no_proven_gain"
    (record,) = refusals(challenger)
    assert (record.version, record.outcome, record.facts["champion"]) == (2, "no_proven_gain", 1)
    assert record.reason == found.reason


def test_an_equal_model_has_no_proven_gain(challenger: World) -> None:
    champion, candidate = challenger.versions()
    twin = candidate.model_copy(update={"package": champion.package})
    assert judge(challenger.configure(gates={"min_gain": 0}), twin).outcome == "no_proven_gain"


def test_a_candidate_trained_on_shuffled_labels_is_harmful(challenger: World) -> None:
    drill = train(challenger, challenger.job(), DAYS[3], drill="shuffled_labels")
    found = gated(challenger, drill, gates={"thresholds": {"auc": {"min": 0.1}}})
    assert found.outcome == "harmful"
    assert refusals(challenger)[-1].outcome == "harmful"


@pytest.mark.parametrize("limit", [{"auc": {"min": 0.999}}, {"auc": {"min": 0.6}, "brier": {"max": 0.01}}])
def test_a_candidate_below_a_threshold_is_refused(registered: World, limit: dict[str, Any]) -> None:
    found = gated(registered, registered.versions()[0], gates={"thresholds": limit})
    assert found.outcome == "below_threshold"
    assert refusals(registered)[0].outcome == "below_threshold"


def test_a_gain_does_not_make_up_for_a_threshold(challenger: World) -> None:
    found = gated(challenger, challenger.versions()[1], gates={"thresholds": {"auc": {"min": 0.999}}})
    assert found.outcome == "below_threshold"


def test_a_threshold_that_was_not_measured_is_no_pass(registered: World) -> None:
    (version,) = registered.versions()
    job = registered.configure(evaluation={"metrics": ["auc"]})
    narrow = version.model_copy(update={"package": version.package.model_copy(update={"code": job.model.ref})})
    found = judge(registered.configure(gates={"thresholds": {"brier": {"max": 0.9}}}), narrow)
    assert found.outcome == "not_comparable"


def test_a_package_that_is_not_exact_is_refused(registered: World) -> None:
    (version,) = registered.versions()
    worse = tuple(c.model_copy(update={"passed": False}) for c in version.package.parity.checks)
    parity = version.package.parity.model_copy(update={"checks": worse})
    inexact = version.model_copy(update={"package": version.package.model_copy(update={"parity": parity})})
    assert judge(registered.job(), inexact).outcome == "below_threshold"


def test_a_holdout_that_the_champion_has_seen_is_not_comparable(champion: World) -> None:
    found = judge(champion.job(), champion.versions()[0])
    assert (found.outcome, found.promote) == ("not_comparable", False)


def test_too_few_time_blocks_are_not_comparable(challenger: World) -> None:
    _, candidate = challenger.versions()
    found = call(with_block(challenger.job(), "4h"), "gate", version=candidate)
    assert found.outcome == "not_comparable"
    assert "time blocks" in found.reason
    assert refusals(challenger)[0].outcome == "not_comparable"


def test_a_holdout_of_one_class_is_not_comparable(challenger: World) -> None:
    challenger.rewrite(DAYS[3], "labels", lambda frame: frame.assign(outcome=1.0))
    challenger.loops().ci()
    _, candidate = challenger.versions()
    judged = judge(challenger.job(), candidate.model_copy(update={"split": challenger.split(DAYS[3])}))
    assert judged.outcome == "not_comparable"


def test_a_candidate_fitted_on_its_holdout_is_not_comparable(challenger: World) -> None:
    _, candidate = challenger.versions()
    job = challenger.job()
    split = load_split(job, candidate.split)
    leaky = save_split(job, split.model_copy(update={"fit": (*split.fit, split.holdout)}))
    assert judge(job, candidate.model_copy(update={"split": leaky})).outcome == "not_comparable"


def evaluation(interval: Interval | None, *checks: Any) -> Evaluation:
    return Evaluation(
        metric="auc",
        partition=DAYS[3],
        rows=1,
        candidate={"auc": 0.9},
        champion_version=1,
        interval=interval,
        verdict=Verdict(subject="test", checks=checks),
    )


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.03, 0.05, "promote"),
        (0.02, 0.05, "no_proven_gain"),
        (-0.01, 0.05, "no_proven_gain"),
        (-0.05, -0.01, "harmful"),
        (float("nan"), float("nan"), "no_proven_gain"),
    ],
)
def test_the_lower_bound_decides(
    challenger: World, monkeypatch: pytest.MonkeyPatch, low: float, high: float, outcome: str
) -> None:
    interval = Interval(gain=(low + high) / 2, low=low, high=high, blocks=24, confidence=0.9)
    monkeypatch.setattr(gates, "evaluate", lambda *_: evaluation(interval))
    assert judge(challenger.job(), challenger.versions()[1]).outcome == outcome


def test_an_error_is_never_a_pass_however_large_the_gain(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    interval = Interval(gain=0.5, low=0.4, high=0.6, blocks=24, confidence=0.9)
    found = evaluation(interval, could_not_run("anything", "test"))
    monkeypatch.setattr(gates, "evaluate", lambda *_: found)
    assert judge(challenger.job(), challenger.versions()[1]).outcome == "not_comparable"


def test_a_comparison_without_an_interval_is_never_a_pass(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "evaluate", lambda *_: evaluation(None))
    assert judge(challenger.job(), challenger.versions()[1]).outcome == "not_comparable"


def test_a_refusal_is_recorded_once(challenger: World) -> None:
    for _ in range(2):
        gated(challenger, challenger.versions()[1], gates={"min_gain": 0.2})
    assert len(refusals(challenger)) == 1
    assert plan.cd(challenger.job()) == []


def test_a_refused_candidate_may_be_judged_again_on_demand(challenger: World) -> None:
    _, candidate = challenger.versions()
    gated(challenger, candidate, gates={"min_gain": 0.2})
    assert call(challenger.configure(), "gate", version=candidate, again=True).promote


def test_a_champion_that_changes_while_it_is_judged_is_compared_with(
    challenger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, candidate = challenger.versions()
    append, rivals = Ledger.append, [champion.model_copy(update={"version": 7})]

    def late(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if rivals:
            crown(challenger, rivals.pop())
        return append(self, *args, **kwargs)

    job = challenger.configure(gates={"min_gain": 0.2})
    monkeypatch.setattr(Ledger, "append", late)
    assert call(job, "gate", version=candidate).evaluation.champion_version == 7
    assert refusals(challenger)[-1].facts["champion"] == 7


def refused_before(world: World, *versions: int) -> None:
    """Other candidates that the gate refused for want of a proven gain, in the ledger alone."""
    checks = (Check(name="auc_gain", passed=False), Check(name="auc", passed=True))
    verdict = Verdict(subject="another", checks=checks).model_dump(mode="json")
    for version in versions:
        draft = Draft(
            kind="refusal",
            partition=DAYS[3],
            version=version,
            outcome="no_proven_gain",
            reason="by hand",
            facts={"judged": {"verdict": verdict}},
        )
        world.job().ledger.append(draft, actor="another")


def test_the_third_refusal_in_a_row_says_that_the_data_wants_work(
    challenger: World, caplog: pytest.LogCaptureFixture
) -> None:
    refused_before(challenger, 90, 91)
    candidate = challenger.versions()[1]
    gated(challenger, candidate, gates={"min_gain": 0.2})
    told = Diagnosis.model_validate(refusals(challenger)[-1].facts["diagnosis"])
    assert [one.version for one in told.refused] == [90, 91, candidate.version]
    assert told.failed_in_all == ("auc_gain",)
    assert told.refused[-1].label_coverage == 0.97
    assert told.refused[-1].champion_missed == ()
    assert told.drift_known == (DAYS[3],)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("the data, not the model, wants work" in message for message in warned)


def test_the_second_refusal_in_a_row_says_nothing_of_the_kind(challenger: World) -> None:
    refused_before(challenger, 90)
    gated(challenger, challenger.versions()[1], gates={"min_gain": 0.2})
    assert "diagnosis" not in refusals(challenger)[-1].facts


def test_a_drill_is_no_third_refusal(challenger: World) -> None:
    refused_before(challenger, 90, 91)
    drill = train(challenger, challenger.job(), DAYS[3], drill="shuffled_labels")
    assert not gated(challenger, drill).promote
    assert "diagnosis" not in refusals(challenger)[-1].facts


def test_a_refusal_of_another_meanwhile_is_counted_in(challenger: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refused_before(challenger, 90)
    append, others = Ledger.append, [91]

    def late(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if others:
            refused_before(challenger, others.pop())
        return append(self, *args, **kwargs)

    job = challenger.configure(gates={"min_gain": 0.2})
    monkeypatch.setattr(Ledger, "append", late)
    call(job, "gate", version=challenger.versions()[1])
    assert [record.version for record in refusals(challenger)] == [90, 91, 2]
    assert [one["version"] for one in refusals(challenger)[-1].facts["diagnosis"]["refused"]] == [90, 91, 2]


def test_the_champion_is_the_ledgers(champion: World) -> None:
    found = present_champion(champion.job())
    assert found is not None
    assert found == champion.versions()[0]


@pytest.mark.parametrize(
    ("limit", "value", "passed"),
    [
        (Bounds(min=0.6), 0.6, True),
        (Bounds(min=0.6), 0.59, False),
        (Bounds(max=0.2), 0.2, True),
        (Bounds(max=0.2), 0.21, False),
        (Bounds(min=0.1, max=0.2), 0.3, False),
        (Bounds(min=0.6), None, False),
        (Bounds(min=0.6), float("nan"), False),
        (Bounds(max=0.6), float("nan"), False),
    ],
)
def test_limits(limit: Bounds, value: float | None, passed: bool) -> None:
    check = bounded("auc", limit, value)
    assert check.passed is passed
    assert check.severity == ("error" if value is None else "fail")
