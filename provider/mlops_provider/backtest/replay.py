"""Replays of policies on a matrix: one decision after the other, with what was known then, through the gate's own rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mlops_provider.backtest.matrix import Matrix
from mlops_provider.backtest.timeline import Timeline
from mlops_provider.checks import Frozen
from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.sections import Bounds, Retrain
from mlops_provider.steps.monitoring import policies
from mlops_provider.steps.monitoring.policies import Champion, Choice, History, Outcome, Window, measured_loss
from mlops_provider.steps.release.gate import bounded
from mlops_provider.steps.training import metrics

Array = np.ndarray[Any, Any]


class Judgement(Frozen):
    """What the gate says of a candidate.

    :param outcome: promote, harmful, no_proven_gain, below_threshold or not_comparable.
    :param gain: over the champion, positive is better, with its bounds; None if they were not compared.
    """

    outcome: str
    gain: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def promote(self) -> bool:
        return self.outcome == "promote"


class Step(Frozen):
    """A decision, and what came of it.

    :param outcome: of the gate; empty if nothing was trained.
    :param champion: the last period that the champion after this was fitted on.
    :param value: of the primary metric on this period, of the champion that scored it; None if none did.
    """

    partition: str
    retrain: bool
    reason: str
    outcome: str = ""
    gain: float | None = None
    champion: str
    value: float | None = None


class Board:
    """What every replay on a matrix has in common: the rules, the first champion, the span of the decisions and of the test.

    A candidate is named by the number of the last period that it was fitted on, a decision by that of the period whose labels
    have just become known.

    :param gated: whether candidates go through the gate; without it every one is promoted.
    :param since: the first period to decide on; the first model is that of the period before it. None begins with the first
        model that there can be.
    :raises DataError: if no candidate meets the thresholds for a first model.
    """

    def __init__(self, line: Timeline, matrix: Matrix, *, gated: bool = True, since: str | None = None) -> None:
        self.config: ModelConfig = line.job.config
        self.matrix, self.holdout, self.lag, self.minimum = matrix, line.holdout, line.lag, line.minimum
        self.gated, self.metric = gated, self.config.evaluation.metric
        self.sign = metrics.sign(self.metric)
        self.values: Array = matrix.values[self.metric]
        self._judgements: dict[tuple[int, int], Judgement] = {}
        self.begin = self._first(first_decision(line, since))

    def _first(self, earliest: int) -> int:
        """The decision that brought the first champion: there is none to beat, the thresholds decide."""
        for at in range(earliest, len(self.matrix.names) - self.lag):
            if self._within_limits(at - self.holdout, at):
                return at
        raise DataError(
            f"{self.config.name}: no candidate meets gates.thresholds: there is no first model to begin with"
        )

    @property
    def decisions(self) -> range:
        """Those whose candidate could still score a period of the test."""
        return range(self.begin + 1, len(self.matrix.names) - self.lag)

    @property
    def test(self) -> range:
        """The periods that are scored, by the first champion or one that replaced it."""
        return range(self.begin + self.lag, len(self.matrix.names))

    @property
    def first(self) -> int:
        """The first champion."""
        return self.begin - self.holdout

    def candidate(self, at: int) -> int:
        return at - self.holdout

    @cached_property
    def worth(self) -> Array:
        """Sums of the primary metric over the periods before each, larger is better, float [candidates, periods + 1]."""
        known = np.nan_to_num(self.sign * self.values)
        return np.concatenate([np.zeros((len(known), 1)), np.cumsum(known, axis=1)], axis=1)

    def judge(self, candidate: int, champion: int) -> Judgement:
        """What the gate says: the bootstrap and the limits of the loops (steps/release/gate.py), on the candidate's holdout."""
        if not self.gated:
            return Judgement(outcome="promote", gain=self._gain(candidate, champion, candidate + self.holdout))
        if (candidate, champion) not in self._judgements:
            self._judgements[candidate, champion] = self._judged(candidate, champion)
        return self._judgements[candidate, champion]

    def _judged(self, candidate: int, champion: int) -> Judgement:
        at, seen = candidate + self.holdout, champion + self.holdout
        if candidate + 1 <= seen or self.matrix.blocks[at] < self.config.evaluation.minimum_blocks:
            return Judgement(outcome="not_comparable")  # the champion was judged on a part of this holdout
        differences = self.sign * (self.matrix.resampled[candidate, at] - self.matrix.resampled[champion, at])
        low, high = metrics.bounds(differences.astype(float), self.config.evaluation.confidence)
        outcome = "no_proven_gain"
        if high < 0:
            outcome = "harmful"
        elif not self._within_limits(candidate, at):
            outcome = "below_threshold"
        elif low > self.config.gates.min_gain:
            outcome = "promote"
        return Judgement(outcome=outcome, gain=self._gain(candidate, champion, at), low=low, high=high)

    def _gain(self, candidate: int, champion: int, at: int) -> float:
        judged = self.matrix.judged[self.metric]
        return float(self.sign * (judged[candidate, at] - judged[champion, at]))

    def _within_limits(self, candidate: int, at: int) -> bool:
        limits = self.config.gates.thresholds
        return not self.gated or not _missed(
            limits, {name: float(self.matrix.judged[name][candidate, at]) for name in limits}
        )


def first_decision(line: Timeline, since: str | None) -> int:
    """The earliest decision that can bring a first model.

    :raises RequestError: if `since` is no period, or there is too little before it.
    """
    least = line.minimum - 1 + line.holdout
    if since is None:
        return least
    at = next((place for place, name in enumerate(line.names) if name >= since), len(line)) - 1
    if at < least or at >= len(line) - line.lag - 1:
        span = f"from {line.names[least + 1]} to {line.names[-line.lag - 1]}"
        raise RequestError(f"{line.job.config.name}: decisions can begin {span}, not at {since}")
    return at


@dataclass
class Run:
    """One replay, as far as it has come.

    :param promoted: decisions that made a champion, with that champion, in order; the first one made the first.
    """

    board: Board
    promoted: list[tuple[int, int]]
    trained: list[int] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def champion(self) -> int:
        return self.promoted[-1][1]

    def scored(self, at: int) -> int | None:
        """The champion that scored a period: the last that was promoted a lag before it; None before there was one."""
        return next((champion for when, champion in reversed(self.promoted) if when + self.board.lag <= at), None)

    @property
    def serving(self) -> list[int]:
        """Which champion scored each period of the test."""
        return [champion for at in self.board.test if (champion := self.scored(at)) is not None]

    @property
    def mean(self) -> float:
        """Mean of the primary metric over the periods of the test."""
        board = self.board
        return float(
            np.mean([board.values[champion, at] for champion, at in zip(self.serving, board.test, strict=True)])
        )

    @property
    def promotions(self) -> int:
        return len(self.promoted) - 1

    def history(self, at: int) -> History:
        """What was known when a period was decided on."""
        board, names = self.board, self.board.matrix.names
        shown = board.matrix.judged[board.metric][self.champion, self.champion + board.holdout]
        return History(
            partition=names[at],
            metric=board.metric,
            labelled=dict(zip(names[: at + 1], board.matrix.rows, strict=False)),
            needed=board.minimum + board.holdout,
            champion=Champion(version=self.champion, value=float(shown)),
            trained=tuple(names[place] for place in (board.begin, *self.trained)),
            windows=tuple(self.windows),
            present=self.window(at),
            outcomes=tuple(self.outcomes),
        )

    def window(self, at: int) -> Window | None:
        """What the quality of a period's predictions looked like once its labels were there."""
        board, champion = self.board, self.scored(at)
        if champion is None:
            return None
        found = {name: float(table[champion, at]) for name, table in board.matrix.values.items()}
        missed = _missed(board.config.monitoring.quality.thresholds, found)
        return Window(
            partition=board.matrix.names[at],
            version=champion,
            value=found[board.metric],
            missed=bool(missed),
            told="; ".join(missed),
        )

    def decided(self, at: int, choice: Choice, known: History | None = None) -> None:
        """Takes a decision, and trains, judges and promotes as the loops would."""
        judged = self.board.judge(self.board.candidate(at), self.champion) if choice.retrain else None
        if judged:
            self.trained.append(at)
            if known:
                self._learn(known, judged)
            if judged.promote:
                self.promoted.append((at, self.board.candidate(at)))
        if known:
            self._note(at, choice, judged, known)

    def _learn(self, known: History, judged: Judgement) -> None:
        loss = measured_loss(known)
        if loss is not None and judged.gain is not None:
            gain = judged.gain if judged.promote else 0.0
            self.outcomes.append(Outcome(partition=known.partition, loss=loss, fresh=len(known.fresh), gain=gain))

    def _note(self, at: int, choice: Choice, judged: Judgement | None, known: History) -> None:
        if known.present:
            self.windows.append(known.present)
        step = Step(
            partition=known.partition,
            retrain=choice.retrain,
            reason=choice.reason,
            outcome=judged.outcome if judged else "",
            gain=judged.gain if judged else None,
            champion=self.board.matrix.names[self.champion],
            value=known.present.value if known.present else None,
        )
        self.steps.append(step)


def by_rule(board: Board, rule: Retrain, *, newest: bool = False) -> Run:
    """A policy's own decisions.

    :param newest: also on the last periods, whose candidates have nothing to score yet.
    """
    decisions = range(board.begin + 1, len(board.matrix.names)) if newest else board.decisions
    return _played(board, decisions, lambda run, at: policies.decide(rule, run.history(at)), told=True)


def by_schedule(board: Board, schedule: Iterable[int]) -> Run:
    """Decisions that were fixed beforehand: train on these periods and on no others."""
    chosen = frozenset(schedule)
    return _played(board, board.decisions, lambda _, at: Choice(retrain=at in chosen, reason="schedule"))


def _played(board: Board, decisions: range, decide: Callable[[Run, int], Choice], *, told: bool = False) -> Run:
    run = Run(board, [(board.begin, board.first)])
    for at in decisions:
        run.decided(at, decide(run, at), run.history(at) if told else None)
    return run


def _missed(limits: dict[Any, Bounds], found: dict[str, float]) -> list[str]:
    """Which absolute limits are missed, in words."""
    checks = [bounded(name, limit, found.get(name)) for name, limit in limits.items()]
    return [f"{check.name} {check.value:.4g} against {check.threshold}" for check in checks if not check.passed]
