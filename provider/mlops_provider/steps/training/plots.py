"""Plots as SVG: drawn from findings alone, readable offline, in light and in dark, on a page or as a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from mlops_provider.steps.training.findings import Findings

Point = tuple[float, float]

_STYLE = """
.plot { --paper: #ffffff; --ink: #1b1f24; --faint: #59636e; --line: #d5dae0; --mark: #1f5fa8; }
@media (prefers-color-scheme: dark) { .plot { --paper: #14171b; --ink: #e6e9ed; --faint: #9aa4af; --line: #343b44;
  --mark: #7db4f0; } }
.plot .paper { fill: var(--paper); } .plot .grid { stroke: var(--line); stroke-width: 1; }
.plot .reference { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 4 4; }
.plot .curve { fill: none; stroke: var(--mark); stroke-width: 2; stroke-linejoin: round; }
.plot .cell { fill: var(--mark); } .plot .strong { fill: var(--paper); } .plot .point { fill: var(--mark); fill-opacity: 0.5; }
.plot .span { stroke: var(--mark); stroke-width: 2; } .plot .dot { fill: var(--mark); }
.plot text { fill: var(--faint); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.plot .title { fill: var(--ink); font-weight: 600; font-size: 13px; } .plot .name { fill: var(--ink); }
.plot .up { text-anchor: end; } .plot .across { text-anchor: middle; }
"""
_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 300, 52, 36, 46, 20
_ROW, _NAMES, _SPAN = 22, 220, 360
_MOST_ROWS = 40
_MOST_CLASSES = 20
_CHARACTERS = 32


@dataclass(frozen=True)
class Bar:
    """A value with its interval, by name."""

    name: str
    value: float
    low: float
    high: float


def plots(findings: Findings) -> dict[str, str]:
    """Every plot that the findings give, by name: SVG documents."""
    found = {**_curves(findings), **_calibration(findings)}
    if findings.residuals:
        found["residuals"] = _residuals(findings.residuals)
    if findings.confusion:
        found["confusion"] = confusion(findings.classes, findings.confusion)
    if tenths := findings.group_quality:
        bars = [
            Bar(f"{place * 10} % of the groups are below", value, value, value) for place, value in enumerate(tenths)
        ]
        found["groups"] = spans("NDCG of the groups", bars, None)
    if bars := _slices(findings):
        found["slices"] = spans(f"{findings.metric} by slice, ±2 standard errors", bars, None)
    if bars := [Bar(one.feature, one.effect, one.low, one.high) for one in findings.importance]:
        found["importance"] = spans(f"Loss of {findings.metric} if a feature is permuted", bars, 0.0)
    return found


def _curves(findings: Findings) -> dict[str, str]:
    if findings.curves is None:
        return {}
    chance = findings.curves.precision_recall[-1][1]  # with every row taken, precision is the share of positives
    roc, recalled = findings.curves.roc, findings.curves.precision_recall
    return {
        "roc": curve("ROC", roc, ("false positive rate", "true positive rate"), ((0, 0), (1, 1))),
        "precision_recall": curve(
            "Precision and recall", recalled, ("recall", "precision"), ((0, chance), (1, chance))
        ),
    }


def _calibration(findings: Findings) -> dict[str, str]:
    if findings.calibration is None:
        return {}
    bins = [(one.score, one.observed) for one in findings.calibration.bins]
    if findings.residuals:
        low, top = ends([value for point in bins for value in point])
        line, axes = ((low, low), (top, top)), ("mean score", "mean label")
        return {"calibration": curve("Calibration", bins, axes, line, low=low, top=top, dots=True)}
    tops = _round_up(max(value for point in bins for value in point))
    line, axes = ((0.0, 0.0), (tops, tops)), ("mean score", "share of positives")
    return {"calibration": curve("Calibration", bins, axes, line, top=tops, dots=True)}


def _residuals(points: Sequence[Point]) -> str:
    """Label minus score, over the score."""
    (left, right), (low, top) = (ends([point[place] for point in points]) for place in (0, 1))
    return scatter("Residuals", points, ("score", "label minus score"), (left, right), (low, top))


def ends(values: Sequence[float]) -> Point:
    """Ends of an axis that holds the values, with round numbers at each fifth."""
    width = (max(values) - min(values)) or abs(values[0]) or 1.0
    power = 10.0 ** math.floor(math.log10(width / 5))
    for step in (power * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)):
        low = math.floor(min(values) / step) * step
        if low + 5 * step >= max(values):
            break
    return low, low + 5 * step


def _slices(findings: Findings) -> list[Bar]:
    known = [one for one in findings.slices if findings.metric in one.metrics]
    return [
        Bar(f"{one.slices} {one.value}", value, value - 2 * error, value + 2 * error)
        for one in known
        for value, error in [(one.metrics[findings.metric], one.errors[findings.metric])]
    ]


def _round_up(value: float) -> float:
    """The next tenth, so that the grid has round numbers; 1 at most."""
    return min(1.0, max(0.1, math.ceil(value * 10 - 1e-9) / 10))


def curve(
    title: str,
    points: Sequence[Point],
    axes: tuple[str, str],
    reference: tuple[Point, Point],
    *,
    low: float = 0.0,
    top: float = 1.0,
    dots: bool = False,
) -> str:
    """Points joined by a line over `low` to `top` both ways, with a reference line."""
    at = _places((low, top), (low, top))
    drawn = [_line(at(reference[0]), at(reference[1]), "reference")]
    drawn.append(f'<polyline class="curve" points="{" ".join("{:.1f},{:.1f}".format(*at(p)) for p in points)}"/>')
    drawn += [_dot(at(point)) for point in points] if dots else []
    return _square(title, axes, (low, top), (low, top), drawn)


def scatter(title: str, points: Sequence[Point], axes: tuple[str, str], across: Point, up: Point) -> str:
    """Points between the ends of two axes, with a line at 0."""
    at = _places(across, up)
    drawn = [_line(at((across[0], 0.0)), at((across[1], 0.0)), "reference")] if up[0] <= 0 <= up[1] else []
    drawn += [f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in map(at, points)]
    return _square(title, axes, across, up, drawn)


def marked(
    title: str,
    points: Sequence[Point],
    names: Sequence[tuple[str, Point]],
    axes: tuple[str, str],
    sides: tuple[Point, Point],
) -> str:
    """Points joined by a line, and others with a name, in turn below and above them, between the ends of two axes.

    :param sides: the ends of the axis across, and of the one up.
    """
    at = _places(*sides)
    drawn = [f'<polyline class="curve" points="{" ".join("{:.1f},{:.1f}".format(*at(p)) for p in points)}"/>']
    middle = (sides[0][0] + sides[0][1]) / 2
    for number, (name, point) in enumerate(sorted(names, key=lambda named: named[1])):
        (x, y), left = at(point), point[0] > middle
        down = -9 if number % 2 else 17
        drawn += [_dot((x, y)), _text(x - 5 if left else x + 5, y + down, name, "name up" if left else "name")]
    return _square(title, axes, *sides, drawn)


def confusion(classes: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    """How many rows of each class were scored likeliest to be of which, the darker the larger the share of its class."""
    shown = min(len(classes), _MOST_CLASSES)
    side, left = max(34, _SIDE // shown), _NAMES // 2
    body = [_text(12, 20, "Confusion, rows of a class by the class decided on", "title")]
    for down, row in enumerate(rows[:shown]):
        y = _TOP + 24 + side * down
        body.append(_text(left - 8, y + side / 2 + 4, _short(classes[down], 14), "name up"))
        body.append(_text(left + side * (down + 0.5), _TOP + 14, _short(classes[down], max(4, side // 8)), "across"))
        for place, count in enumerate(row[:shown]):
            share = count / (sum(row) or 1)
            x = left + side * place
            box = f'x="{x:g}" y="{y:g}" width="{side - 2:g}" height="{side - 2:g}"'
            body.append(f'<rect class="cell" {box} fill-opacity="{share:.3f}"/>')
            body.append(
                _text(x + side / 2, y + side / 2 + 4, str(count), "across strong" if share > 0.5 else "across name")
            )
    return _document(left + side * shown + _RIGHT, _TOP + 24 + side * shown + 12, "Confusion", body)


def _places(across: Point, up: Point) -> Callable[[Point], Point]:
    """Where a point is drawn, between the ends of both axes."""

    def at(point: Point) -> Point:
        x, y = (point[0] - across[0]) / (across[1] - across[0]), (point[1] - up[0]) / (up[1] - up[0])
        return _LEFT + _SIDE * x, _TOP + _SIDE * (1 - y)

    return at


def _square(title: str, axes: tuple[str, str], across: Point, up: Point, drawn: Sequence[str]) -> str:
    """A square plot with its grid, title and axes."""
    body = [_text(_LEFT, 20, title, "title"), *_grid(across, up), *drawn]
    height = _TOP + _SIDE + _BOTTOM
    body.append(_text(_LEFT + _SIDE / 2, height - 8, axes[0], "across"))
    middle = _TOP + _SIDE / 2
    body.append(f'<text class="across" transform="translate(14 {middle:g}) rotate(-90)">{escape(axes[1])}</text>')
    return _document(_LEFT + _SIDE + _RIGHT, height, title, body)


def _grid(across: Point, up: Point) -> list[str]:
    drawn = []
    for fifth in range(6):
        x, y = _LEFT + _SIDE * fifth / 5, _TOP + _SIDE * (1 - fifth / 5)
        drawn += [_line((x, _TOP), (x, _TOP + _SIDE), "grid"), _line((_LEFT, y), (_LEFT + _SIDE, y), "grid")]
        drawn += [
            _text(x, _TOP + _SIDE + 16, _tick(across, fifth), "across"),
            _text(_LEFT - 6, y + 4, _tick(up, fifth), "up"),
        ]
    return drawn


def _tick(ends: Point, fifth: int) -> str:
    value = ends[0] + (ends[1] - ends[0]) * fifth / 5
    return f"{0.0 if abs(value) < abs(ends[1] - ends[0]) * 1e-9 else value:.4g}"


def spans(title: str, bars: Sequence[Bar], reference: float | None) -> str:
    """Values with their intervals, one a row, in the order given; of very many, the first and the last."""
    shown = list(bars) if len(bars) <= _MOST_ROWS else [*bars[: _MOST_ROWS // 2], *bars[-_MOST_ROWS // 2 :]]
    ends = [end for bar in shown for end in (bar.low, bar.high)] + ([] if reference is None else [reference])
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    step = _step(width)
    first, last = math.floor(low / step) * step, math.ceil((low + width) / step) * step

    def across(value: float) -> float:
        return _NAMES + _SPAN * (value - first) / (last - first)

    bottom = _TOP + _ROW * len(shown)
    body = [_text(12, 20, title, "title")]
    for number in range(round((last - first) / step) + 1):
        value = first + number * step
        body += [_line((across(value), _TOP), (across(value), bottom), "grid")]
        body += [_text(across(value), bottom + 16, f"{round(value, 10):g}", "across")]
    if reference is not None:
        body.append(_line((across(reference), _TOP), (across(reference), bottom), "reference"))
    for number, bar in enumerate(shown):
        y = _TOP + _ROW * (number + 0.5)
        body.append(_text(_NAMES - 10, y + 4, _short(bar.name), "name up"))
        body += [_line((across(bar.low), y), (across(bar.high), y), "span"), _dot((across(bar.value), y))]
    return _document(_NAMES + _SPAN + 2 * _RIGHT, bottom + 26, title, body)


def _step(width: float) -> float:
    """A round distance of grid lines, four to ten of them."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(power * factor for factor in (0.1, 0.2, 0.5, 1.0) if width / (power * factor) <= 8 or factor == 1.0)


def _short(name: str, characters: int = _CHARACTERS) -> str:
    return name if len(name) <= characters else f"{name[: characters - 1]}…"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(start: Point, end: Point, kind: str) -> str:
    return f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def _dot(at: Point) -> str:
    return f'<circle class="dot" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5"/>'


def _document(width: float, height: float, title: str, body: list[str]) -> str:
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect class="paper" width="100%" height="100%"/>\n' + "\n".join(body) + "\n</svg>\n"
    )
