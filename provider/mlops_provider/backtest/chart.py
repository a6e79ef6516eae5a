"""The charts of a backtest on one page: quality over trainings, what each policy closes, and the champion of every period."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mlops_provider.backtest import schedules
from mlops_provider.backtest.replay import Board, by_schedule
from mlops_provider.backtest.report import Backtest, Side, render
from mlops_provider.steps.training import plots

Point = plots.Point

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --paper: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ed; --paper: #14171b; }} }}
body {{ font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; margin: 2rem auto; max-width: 1100px;
  padding: 0 1rem; color: var(--ink); background: var(--paper); }}
pre {{ overflow-x: auto; font-size: 12px; }} figure {{ display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }}
</style></head><body><h1>{title}</h1>
{figures}
<pre>{table}</pre></body></html>
"""


def page(found: Backtest, board: Board) -> str:
    """The page, readable offline.

    :param board: the one that the first side was replayed on.
    """
    side = found.sides[0]
    drawn = [_over_trainings(found, side, board), *_bars(found, side)]
    if side.sweep:
        drawn.append(_sweep(side))
    figures = "\n".join(f"<figure>{one}</figure>" for one in drawn)
    return _PAGE.format(title=escape(f"Backtest of {found.model}"), figures=figures, table=escape(render(found)))


def _over_trainings(found: Backtest, side: Side, board: Board) -> str:
    """The best in hindsight for every number of trainings as a line, the policies as points."""
    most = max(side.oracle_retrainings, *(result.retrainings for result in side.results), 1)
    line = [(float(n), by_schedule(board, schedules.best(board, n)).mean) for n in range(most + 1)]
    points = [(float(result.retrainings), result.quality) for result in side.results]
    up = plots.ends([value for _, value in (*line, *points)])
    names = [result.policy for result in side.results]
    return plots.marked(
        f"Mean {found.metric}; line: the best in hindsight",
        line,
        list(zip(names, points, strict=True)),
        ("candidates trained", ""),
        (plots.ends([0.0, float(most)]), up),
    )


def _bars(found: Backtest, side: Side) -> list[str]:
    """Each policy's quality on the span that chance reaches with as many trainings."""
    bars = [
        plots.Bar(
            f"{result.policy} ({result.retrainings})", result.quality, result.peers.random[0], result.peers.random[2]
        )
        for result in side.results
        if result.peers
    ]
    title = f"{found.metric} by policy (trainings); the bar: random schedules, 10 to 90 %"
    return [plots.spans(title, bars, side.oracle)] if bars else []


def _sweep(side: Side) -> str:
    """Trainings of cost_aware over what training costs."""
    points: Sequence[Point] = [(math.log2(one.factor), float(one.retrainings)) for one in side.sweep]
    names = [f"x{one.factor:g}" for one in side.sweep]
    across, up = plots.ends([price for price, _ in points]), plots.ends([0.0, *(value for _, value in points)])
    return plots.marked(
        "cost_aware: candidates trained, by price",
        points,
        list(zip(names, points, strict=True)),
        ("price of training and deployment, doublings", ""),
        (across, up),
    )
