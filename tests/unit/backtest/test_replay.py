"""Replays on made-up matrices: what is known when, what the gate lets through, and what the schedules beside them are."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.backtest import schedules
from mlops_provider.backtest.chart import page
from mlops_provider.backtest.matrix import Matrix
from mlops_provider.backtest.replay import Board, by_rule, by_schedule
from mlops_provider.backtest.report import Backtest, backtest, dry_run, render, told
from mlops_provider.backtest.timeline import Period, Timeline
from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.modelcode import pack
from mlops_provider.sections import Retrain
from mlops_provider.steps.step import Job
from tests.support.tiny import write_model

PERIODS, MINIMUM, HOLDOUT, LAG = 24, 4, 2, 2
NAMES = tuple(f"2024-W{number:02d}" for number in range(1, PERIODS + 1))
COSTS = {"training": 4, "deployment": 1, "metric_unit": 300}
RULE = Retrain.model_validate({"policy": "cost_aware", "costs": COSTS, "prior": {"share": 0.5, "per_partition": 0.005}})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("board")
    write_model(root, gates={"min_gain": 0.0})
    place = Deployment(artifact_root=str(root / "artifacts"), data_root=str(root / "data"))
    return Job(pack(root / "models" / "tiny", "", place.storage, place.artifact_root), place)


@pytest.fixture
def line(job: Job) -> Timeline:
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    periods = tuple(Period(name, pd.DataFrame({"label": [1.0]}), moment, moment) for name in NAMES)
    return Timeline(job=job, periods=periods, minimum=MINIMUM, size=None, holdout=HOLDOUT, lag=LAG)


def aging(rate: float = 0.005, noise: float = 0.0, spread: float = 0.001, seed: int = 0) -> Matrix:
    """Every candidate loses `rate` with each period that passes; periods differ in difficulty by `noise`."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, noise, PERIODS)
    candidate, at = np.indices((PERIODS, PERIODS))
    values = np.where(at > candidate, 0.75 - rate * (at - candidate) + difficulty, np.nan)
    judged = np.where(at >= candidate + HOLDOUT, values, np.nan)
    drawn = judged[:, :, None] + rng.normal(0, spread, (PERIODS, PERIODS, 100))
    return Matrix(
        names=NAMES,
        values={"auc": values},
        judged={"auc": judged},
        resampled=drawn.astype(np.float32),
        blocks=(48,) * PERIODS,
        rows=(1000,) * PERIODS,
    )


def test_the_first_champion_is_the_first_that_there_can_be(line: Timeline) -> None:
    board = Board(line, aging())
    assert (board.first, board.begin) == (MINIMUM - 1, MINIMUM - 1 + HOLDOUT)
    assert (board.decisions[0], board.decisions[-1]) == (board.begin + 1, PERIODS - LAG - 1)
    assert (board.test[0], board.test[-1]) == (board.begin + LAG, PERIODS - 1)


def test_replays_begin_where_they_are_told_to(line: Timeline) -> None:
    board = Board(line, aging(), since=NAMES[10])
    assert (board.decisions[0], board.first) == (10, 9 - HOLDOUT)
    for name in (NAMES[3], NAMES[-1], "2031-W01"):
        with pytest.raises(RequestError, match="decisions can begin from 2024-W07 to 2024-W22"):
            Board(line, aging(), since=name)


def test_without_a_first_model_that_meets_the_thresholds_nothing_is_replayed(line: Timeline) -> None:
    bad = replace(aging(), judged={"auc": np.full((PERIODS, PERIODS), 0.55)})
    with pytest.raises(DataError, match=r"no candidate meets gates\.thresholds"):
        Board(line, bad)


def test_a_candidate_scores_a_lag_after_it_was_decided_on(line: Timeline) -> None:
    board = Board(line, aging())
    run = by_schedule(board, [10])
    assert run.promoted == [(board.begin, board.first), (10, 10 - HOLDOUT)]
    assert run.scored(10 + LAG - 1) == board.first
    assert run.scored(10 + LAG) == 10 - HOLDOUT
    assert run.scored(board.begin + LAG - 1) is None


@pytest.mark.parametrize("policy", ["periodic", "threshold", "cost_aware"])
def test_nothing_that_comes_later_changes_a_decision(line: Timeline, policy: str) -> None:
    rule = RULE.model_copy(update={"policy": policy, "every": 3})
    whole = aging(noise=0.02)
    steps = by_rule(Board(line, whole), rule).steps
    for at in range(MINIMUM + HOLDOUT + 1, PERIODS - LAG):
        other = aging(noise=0.02, seed=9)
        mixed = replace(
            whole,
            values={"auc": _until(at, whole.values["auc"], other.values["auc"])},
            judged={"auc": _until(at, whole.judged["auc"], other.judged["auc"])},
            resampled=_until(at, whole.resampled, other.resampled),
        )
        count = at - (MINIMUM + HOLDOUT) + 1
        assert by_rule(Board(line, mixed), rule).steps[:count] == steps[:count]


def _until(at: int, known: Any, later: Any) -> Any:
    """What was measured up to a period, and other numbers after it."""
    return np.concatenate([known[:, : at + 1], later[:, at + 1 :]], axis=1)


def test_a_champion_that_was_judged_on_a_part_of_the_holdout_is_no_rival(line: Timeline) -> None:
    board = Board(line, aging())
    assert board.judge(10, 9).outcome == "not_comparable"
    assert board.judge(10, 8).outcome == "promote"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "promote"),
        ({"spread": 0.1}, "no_proven_gain"),
        ({"rate": -0.005}, "harmful"),
        ({"rate": 0.03}, "below_threshold"),
    ],
)
def test_the_gate_wants_a_proven_gain(line: Timeline, changes: dict[str, float], outcome: str) -> None:
    board = Board(line, aging())
    board.matrix = aging(**changes)
    if outcome == "below_threshold":
        board.matrix = replace(board.matrix, judged={"auc": board.matrix.judged["auc"] - 0.15})
    assert board.judge(10, 4).outcome == outcome


def test_too_few_blocks_are_no_evidence(line: Timeline) -> None:
    board = Board(line, replace(aging(), blocks=(19,) * PERIODS))
    assert board.judge(10, 4).outcome == "not_comparable"


def test_without_the_gate_every_candidate_is_promoted(line: Timeline) -> None:
    board = Board(line, aging(spread=0.1), gated=False)
    assert by_schedule(board, [9, 10, 11]).promotions == 3


def test_refused_candidates_cost_a_training_and_teach_that_nothing_was_won(line: Timeline) -> None:
    run = by_rule(Board(line, aging(spread=0.1)), RULE)
    assert run.trained
    assert run.promotions == 0
    assert {outcome.gain for outcome in run.outcomes} == {0.0}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_no_schedule_is_better_than_the_best_in_hindsight(line: Timeline, gated: bool, most: int) -> None:
    board = Board(line, aging(noise=0.01, spread=0.01, seed=3), gated=gated)
    every = (c for count in range(most + 1) for c in itertools.combinations(board.decisions, count))
    best = by_schedule(board, schedules.best(board, most))
    assert best.mean == pytest.approx(max(by_schedule(board, one).mean for one in every))
    assert len(best.trained) == best.promotions <= most


def test_the_best_in_hindsight_trains_at_every_decision_if_that_is_what_is_best(line: Timeline) -> None:
    board = Board(line, aging(), gated=False)
    assert schedules.best(board) == tuple(board.decisions)


def test_schedules_beside_a_policy_train_as_often(line: Timeline) -> None:
    board = Board(line, aging())
    for trainings in (1, 3, 5, len(board.decisions)):
        for found in (schedules.periodic(board, trainings), schedules.at_random(board, trainings, 20)):
            assert found
            assert all(len(set(one)) == trainings and set(one) <= set(board.decisions) for one in found)
    assert schedules.at_random(board, 3) == schedules.at_random(board, 3)


@pytest.fixture
def found(line: Timeline) -> Backtest:
    matrix = aging(noise=0.01)
    return backtest([Board(line, matrix), Board(line, matrix, gated=False)], RULE, "week")


def test_dearer_training_trains_less(found: Backtest) -> None:
    for side in found.sides:
        trained = [one.retrainings for one in side.sweep]
        assert trained == sorted(trained, reverse=True)
        assert trained[0] > trained[-1]


def test_never_closes_nothing_and_nothing_closes_more_than_the_best(found: Backtest) -> None:
    for side in found.sides:
        by_name = {result.policy: result for result in side.results}
        assert by_name["never"].gap_closed == 0
        assert by_name["never"].retrainings == 0
        for result in side.results:
            assert result.gap_closed is not None
            assert result.gap_closed <= 1 + 1e-9
            if result.peers:
                assert result.peers.oracle >= result.quality - 1e-12
                assert result.peers.oracle >= result.peers.random[2]
    assert found.per_period == pytest.approx(0.005)


def test_costs_are_told_in_the_units_of_model_yaml(line: Timeline) -> None:
    """Against the best in hindsight, .01 of the metric lost in a period costs 3."""
    board = Board(line, aging(), gated=False)
    side = backtest([board], RULE, "week").sides[0]
    by_name = {result.policy: result for result in side.results}
    lost = (side.oracle - by_name["never"].quality) * len(board.test)
    assert by_name["never"].cost == pytest.approx(lost * 300)
    assert by_name["always"].cost == pytest.approx(len(board.decisions) * 5)


def test_without_costs_the_other_policies_are_replayed(line: Timeline) -> None:
    found = backtest([Board(line, aging())], Retrain(), "partition")
    assert "cost_aware" not in {result.policy for result in found.sides[0].results}
    assert "retrain.costs is not set" in render(found)


def test_the_tables_and_the_page_tell_every_policy(found: Backtest, line: Timeline) -> None:
    text = render(found)
    drawn = page(found, Board(line, aging(noise=0.01)))
    for name in ("never", "always", "threshold", "cost_aware"):
        assert name in text
        assert name in drawn
    assert drawn.count("<svg") == 3
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_a_dry_run_tells_each_decision(line: Timeline) -> None:
    board = Board(line, aging(), since=NAMES[10])
    run = dry_run(board, RULE)
    assert [step.partition for step in run.steps] == list(NAMES[10:]), (
        "the newest too, whose candidates score nothing yet"
    )
    assert run.quality > run.never
    assert "train: promote" in told(run)
    assert run.promotions == len({step.champion for step in run.steps if step.outcome == "promote"})


def test_a_metric_that_should_be_small_is_replayed_alike(tmp_path: Path, line: Timeline) -> None:
    write_model(tmp_path, evaluation={"metric": "log_loss"}, gates={"min_gain": 0.0})
    place = Deployment(artifact_root=str(tmp_path / "artifacts"), data_root=str(tmp_path / "data"))
    job = Job(pack(tmp_path / "models" / "tiny", "", place.storage, place.artifact_root), place)
    known = aging()
    small = {"log_loss": 1 - known.values["auc"], "auc": known.values["auc"]}
    judged = {"log_loss": 1 - known.judged["auc"], "auc": known.judged["auc"]}
    turned = replace(known, values=small, judged=judged, resampled=1 - known.resampled)
    board, other = Board(replace(line, job=job), turned), Board(line, known)
    assert by_rule(board, RULE).trained == by_rule(other, RULE).trained
    assert schedules.best(board, 3) == schedules.best(other, 3)
    gaps = [backtest([one], RULE, "week").sides[0].results[-1].gap_closed for one in (board, other)]
    assert gaps[0] == pytest.approx(gaps[1])
