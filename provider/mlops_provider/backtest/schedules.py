"""Schedules to hold a policy against: the best in hindsight, every so many periods, and at random."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from mlops_provider.backtest.replay import Board

RANDOM = 500
_SEED = 20_131  # of the random schedules: the same ones in every run


def best(board: Board, most: int | None = None) -> tuple[int, ...]:
    """The schedule with the best mean quality over the test that trains at most so often; of equals one that trains less.

    By dynamic programming from the last decision backwards, over the decision that made the champion and the trainings left: a
    champion serves from a lag after its own promotion to a lag after the next one. It knows what no policy knows, and never
    trains a candidate that the gate refuses (Mahadevan and Mathioudakis 2024 hold Cara against such an oracle).

    :param most: trainings; None for as many as there are decisions.
    """
    places, last = [board.begin, *board.decisions], len(board.matrix.names)
    segments = np.array([[_served(board, at, then) for then in places] for at in places])
    worth = np.array([board.worth[board.candidate(at)][[at + board.lag, last]] for at in places])
    worth = worth[:, 1] - worth[:, 0]  # of what each decision's champion is worth if it stays to the end
    following = []
    for _ in range(len(board.decisions) if most is None else most):
        found = segments + worth
        then = found.argmax(axis=1)
        better = found.max(axis=1) > worth + 1e-12
        if not better.any():
            break
        following.append(np.where(better, then, -1))
        worth = np.where(better, found.max(axis=1), worth)
    return _followed(places, following)


def _followed(places: list[int], following: list[Any]) -> tuple[int, ...]:
    """The schedule, read off from the table of each number of trainings left, the largest first."""
    found, at = [], 0
    for table in reversed(following):
        if table[at] >= 0:
            at = int(table[at])
            found.append(places[at])
    return tuple(found)


def _served(board: Board, at: int, then: int) -> float:
    """What the champion made by one decision is worth until that of a later one serves; minus infinity if that is not to be."""
    if then <= at or not board.judge(board.candidate(then), board.candidate(at)).promote:
        return float("-inf")
    made = board.worth[board.candidate(at)]
    return float(made[then + board.lag] - made[at + board.lag])


def periodic(board: Board, trainings: int) -> list[tuple[int, ...]]:
    """So many trainings at even distances, begun at each decision from which they all fit in: a schedule a phase."""
    every = len(board.decisions) / trainings if trainings else 1.0
    phases = range(max(1, int(np.ceil(every))))
    found = [tuple(int(phase + number * every) for number in range(trainings)) for phase in phases]
    return [
        tuple(board.decisions[place] for place in places)
        for places in found
        if all(place < len(board.decisions) for place in places)
    ]


def at_random(board: Board, trainings: int, count: int = RANDOM) -> list[tuple[int, ...]]:
    """Schedules of so many trainings, each set of decisions as likely as any other; the same ones in every run."""
    rng = np.random.default_rng(_SEED)
    drawn: Any = (
        rng.choice(len(board.decisions), size=trainings, replace=False) for _ in itertools.repeat(None, count)
    )
    return [tuple(sorted(board.decisions[int(place)] for place in places)) for places in drawn]
