"""What the gate blocks and what it lets through, over all champion and candidate pairs of the weeks of 2013, and on injected harm.

    python -m benchmarks.gate_study [folder]

A candidate is harmful if it is worse than the champion by more than .005 AUC on the week after it was judged, helpful if it is
better by more than that; likewise over the three weeks after, which chance moves less. The point gate promotes whatever was
better on the holdout at all. Uses the folder of benchmarks/backtest.py. Pairs share weeks and models: the shares say what
happened in 2013, and have no standard error worth the name.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.backtest import weeks
from mlops_provider.backtest.matrix import Matrix, measured
from mlops_provider.backtest.replay import Board
from mlops_provider.backtest.timeline import Period, Timeline

HARM = 0.005
OLDER = 4  # weeks between the champion and a candidate with injected harm
READINGS = [
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
    "pressure_change",
]
SEED = 2013


def pairs(board: Board) -> Iterator[tuple[int, int]]:
    """Every candidate with every earlier champion that it can be compared with, where a week comes after."""
    for candidate in range(board.first + 1, len(board.matrix.names) - board.holdout - 1):
        for champion in range(board.first, candidate - board.holdout + 1):
            yield candidate, champion


def following(board: Board, candidate: int, champion: int, span: int) -> float | None:
    """How much better the candidate is over the weeks after its holdout, in the mean; None if they are not all there."""
    begin = candidate + board.holdout + 1
    if begin + span > len(board.matrix.names):
        return None
    return float(np.mean(board.values[candidate, begin : begin + span] - board.values[champion, begin : begin + span]))


def study(board: Board, span: int) -> None:
    known = [
        (after, board.judge(*pair)) for pair in pairs(board) if (after := following(board, *pair, span)) is not None
    ]
    harmful = [judged for after, judged in known if after < -HARM]
    helpful = [judged for after, judged in known if after > HARM]
    print(
        f"{len(known)} pairs, judged by the {'week' if span == 1 else f'{span} weeks'} after: {len(harmful)} harmful, "
        f"{len(helpful)} helpful"
    )
    for name, passes in GATES.items():
        blocked, passed = sum(not passes(one) for one in harmful), sum(passes(one) for one in helpful)
        print(
            f"  {name:<12} blocks {blocked}/{len(harmful)} ({blocked / max(1, len(harmful)):.0%}) harmful, "
            f"passes {passed}/{len(helpful)} ({passed / max(1, len(helpful)):.0%}) helpful"
        )


GATES: dict[str, Callable[[Any], bool]] = {
    "point gate": lambda judged: judged.gain > 0,
    "this gate": lambda judged: bool(judged.promote),
}


def shuffled(period: Period, rng: np.random.Generator) -> Period:
    """Labels that belong to other rows."""
    return replace(period, rows=period.rows.assign(label=rng.permutation(period.rows["label"].to_numpy())))


def leaked(period: Period, rng: np.random.Generator) -> Period:
    """A feature that was filled in later and gives the outcome away: in the past only, the newest weeks do not have it yet."""
    told = period.rows["label"] + rng.normal(0, 0.3, len(period.rows))
    return replace(period, rows=period.rows.assign(departure_minute=told))


def stale(period: Period, rng: np.random.Generator) -> Period:
    """Weather joined from other times of the week: the readings of rows that were drawn at random, all of a row together."""
    rows = period.rows.copy()
    rows[READINGS] = rows[READINGS].to_numpy()[rng.permutation(len(rows))]
    return replace(period, rows=rows)


def injected(line: Timeline, found: Matrix, board: Board, harm: Callable[..., Period], last: int) -> tuple[Any, float]:
    """What the gate says of a candidate with harm in what it was fitted on, and how much better it was in the week after."""
    rng = np.random.default_rng(SEED)
    fitted = tuple(harm(period, rng) for period in line.periods[: last + 1])
    row = measured(replace(line, periods=(*fitted, *line.periods[last + 1 :])), last)
    changed = replace(
        found,
        values={name: _put(table, last, row[f"values_{name}"]) for name, table in found.values.items()},
        judged={name: _put(table, last, row[f"judged_{name}"]) for name, table in found.judged.items()},
        resampled=_put(found.resampled, last, row["resampled"]),
    )
    other = Board(line, changed)
    return other.judge(last, last - OLDER), float(following(other, last, last - OLDER, 1) or 0.0)


def _put(table: Any, at: int, row: Any) -> Any:
    """The table with another row."""
    changed = table.copy()
    changed[at] = row
    return changed


def main(root: Path) -> None:
    line, found = weeks(root)
    board = Board(line, found)
    study(board, 1)
    study(board, board.holdout)
    places = range(board.first + OLDER + 1, len(line) - board.holdout - 1, 6)
    for harm in (shuffled, leaked, stale):
        judged = [injected(line, found, board, harm, last) for last in places]
        told = ", ".join(
            f"{line.names[last]} {one.outcome} {one.gain:+.3f} (week after {after:+.3f})"
            for last, (one, after) in zip(places, judged, strict=True)
        )
        print(
            f"{harm.__name__}: {sum(not one.promote for one, _ in judged)} of {len(judged)} blocked: {told}", flush=True
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlops-backtest-")))
