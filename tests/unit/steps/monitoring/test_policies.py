"""The policies as pure functions: what they weigh, and what they make of it."""

from __future__ import annotations

from typing import Any

import pytest

from mlops_provider.sections import Retrain
from mlops_provider.steps.monitoring.policies import (
    Champion,
    Choice,
    History,
    Outcome,
    Window,
    decide,
    expect,
    measured_loss,
)

COSTS = {"training": 20, "deployment": 5, "metric_unit": 1000}


def rule(**changes: Any) -> Retrain:
    return Retrain.model_validate({"policy": "cost_aware", "costs": COSTS, **changes})


def history(*values: float | None, shown: float | None = 0.75, **changes: Any) -> History:
    """A champion that showed .75 on its holdout, and what it showed on the partitions since; the last is the present one."""
    windows = [Window(partition=f"p{place}", version=1, value=value) for place, value in enumerate(values, start=1)]
    known: dict[str, Any] = {
        "partition": windows[-1].partition if windows else "p0",
        "metric": "auc",
        "labelled": {f"p{place}": 1000 for place in range(len(values) + 1)},
        "needed": 1,
        "champion": Champion(version=1, value=shown),
        "trained": ("p0",),
        "windows": tuple(windows[:-1]),
        "present": windows[-1] if windows else None,
    }
    return History(**{**known, **changes})


def test_a_loss_that_stays_adds_up_until_it_pays() -> None:
    """A loss of .02, half of it expected back, is worth 10 a partition: three of them outweigh 25."""
    assert [decide(rule(), history(*[0.73] * n)).retrain for n in (1, 2, 3)] == [False, False, True]


def test_what_is_estimated_counts_as_what_is_measured_and_is_told() -> None:
    """Three partitions outweigh the costs, and two of them have no labels yet; those of another version say nothing."""

    def later(version: int) -> tuple[Window, ...]:
        return tuple(Window(partition=name, version=version, value=0.73) for name in ("p8", "p9"))

    choice = decide(rule(), history(0.73, estimated=later(1)))
    assert choice.retrain
    assert "in the mean of 3 partitions, 2 of them estimated" in choice.reason
    other = decide(rule(), history(0.73, estimated=later(9)))
    assert (other.retrain, "estimated" in other.reason) == (False, False)


def test_one_bad_partition_weighs_little() -> None:
    assert not decide(rule(), history(0.76, 0.76, 0.76, 0.71)).retrain


def test_what_was_not_lost_cannot_be_won_back() -> None:
    choice = decide(rule(), history(*[0.76] * 50))
    assert not choice.retrain
    assert choice.facts["benefit"] == 0


@pytest.mark.parametrize("factor", [2, 10, 100])
def test_dearer_training_trains_later(factor: int) -> None:
    def first(costs: dict[str, Any]) -> int:
        asked = rule(costs=costs, horizon=1000)
        return next(n for n in range(1, 1000) if decide(asked, history(*[0.73] * n)).retrain)

    assert first({**COSTS, "training": 20 * factor}) > first(COSTS)


def test_no_more_partitions_count_than_the_horizon_has() -> None:
    """Two partitions at 10 each never pay for 25, however long the loss lasts."""
    assert not any(decide(rule(horizon=2), history(*[0.73] * n)).retrain for n in range(1, 50))


def test_a_metric_that_should_be_small_loses_by_growing() -> None:
    grown = history(0.77, metric="rmse")
    assert measured_loss(grown) == pytest.approx(0.02)
    assert measured_loss(history(0.77)) == pytest.approx(-0.02)


def test_a_wrong_answer_costs_by_the_row() -> None:
    """A loss of .02 in accuracy is 20 wrong answers in 1000 rows; half of them back, at 3 each, is 30 against 25."""
    asked = rule(costs={"training": 20, "deployment": 5, "wrong_answer": 3})
    assert decide(asked, history(0.73, metric="accuracy")).facts["benefit"] == pytest.approx(30)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cooldown": 3}, "3 partitions since the last training, the cooldown is 3"),
        ({"min_partitions": 4}, "3 of 4 newly labelled partitions"),
        ({"min_rows": 3001}, "3000 of 3001 newly labelled rows"),
    ],
)
def test_what_is_not_enough_is_not_weighed(changes: dict[str, Any], told: str) -> None:
    bad = history(*[0.5] * 3)
    choice = decide(rule(**changes), bad)
    assert decide(rule(), bad).retrain
    assert not choice.retrain
    assert told in choice.reason


def test_without_predictions_there_is_nothing_to_weigh() -> None:
    assert "no judged predictions" in decide(rule(), history(0.5, present=None)).reason


@pytest.mark.parametrize(
    "found", [history(0.5, shown=None), history(None), history(0.5, champion=Champion(version=2, value=0.7))]
)
def test_a_loss_that_cannot_be_measured_waits_and_says_so(found: History) -> None:
    choice = decide(rule(), found)
    assert not choice.retrain
    assert "no loss is measured" in choice.reason


def test_a_champion_that_cannot_score_is_replaced() -> None:
    gone = Window(partition="p1", missed=True, told="no column a (not scored)")
    choice = decide(rule(), history(0.75, present=gone))
    assert choice.retrain
    assert "no column a" in choice.reason


def outcomes(count: int, gain: float, loss: float = 0.02, fresh: int = 4) -> tuple[Outcome, ...]:
    return tuple(Outcome(partition=f"q{place}", loss=loss, fresh=fresh, gain=gain) for place in range(count))


def test_below_five_outcomes_the_prior_is_used_and_named() -> None:
    choice = decide(
        rule(prior={"share": 0.25, "per_partition": 0.001}), history(*[0.73] * 3, outcomes=outcomes(4, 0.0))
    )
    assert choice.facts["gain"] == pytest.approx(0.25 * 0.02 + 0.001 * 3)
    assert "the prior, with 4 of 5 outcomes" in choice.reason


def test_from_five_outcomes_on_they_are_believed() -> None:
    """Losses that differ and partitions that do not: what is won back is .3 of the loss, whatever the prior says."""
    losses = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    known = tuple(Outcome(partition=f"q{loss}", loss=loss, fresh=4, gain=0.3 * loss) for loss in losses)
    found = expect(rule(prior={"share": 0.3}), history(0.73, outcomes=known), 0.02)
    assert found.share == pytest.approx(0.3)
    assert found.per_partition == pytest.approx(0.0, abs=1e-9)
    assert found.source == "learned from 6 outcomes of this model"
    other = expect(rule(prior={"share": 0.9}), history(0.73, outcomes=known), 0.02)
    assert 0.3 < other.share < 0.45


def test_gains_that_follow_the_new_data_are_learned_as_such() -> None:
    known = tuple(Outcome(partition=f"q{n}", loss=-0.01, fresh=n, gain=0.002 * n) for n in (2, 3, 4, 5, 6))
    found = expect(rule(prior={"per_partition": 0.002}), history(0.73, 0.73, outcomes=known), -0.01)
    assert found.per_partition == pytest.approx(0.002)
    assert found.gain == pytest.approx(0.002 * 2)
    assert found.share == 0.5, "no loss was measured before: nothing was learned of the share"


def test_only_the_newest_ten_outcomes_count() -> None:
    old = (*outcomes(30, 0.5), *outcomes(10, 0.01))
    assert expect(rule(), history(0.73, outcomes=old), 0.02) == expect(
        rule(), history(0.73, outcomes=outcomes(10, 0.01)), 0.02
    )


def test_harmful_outcomes_do_not_make_a_loss_look_like_a_gain() -> None:
    found = expect(rule(prior={"share": 0.1}), history(0.73, outcomes=outcomes(5, -0.05)), 0.02)
    assert (found.share, found.per_partition) == (0.0, 0.0)


def test_refused_candidates_make_it_wait_longer_but_not_for_ever() -> None:
    asked = rule(horizon=1000)
    first = [
        next(n for n in range(1, 1000) if decide(asked, history(*[0.73] * n, outcomes=past)).retrain)
        for past in (outcomes(5, 0.01), outcomes(5, 0.0))
    ]
    assert first[0] < first[1] < 100


@pytest.mark.parametrize("policy", ["never", "periodic", "threshold", "cost_aware"])
def test_a_decision_is_a_function_of_what_was_known(policy: str) -> None:
    asked, found = rule(policy=policy), history(*[0.73] * 3)
    assert isinstance(decide(asked, found), Choice)
    assert decide(asked, found) == decide(asked, found)
