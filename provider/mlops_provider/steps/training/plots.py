"""Plots as SVG: drawn from findings alone, readable offline, in light and in dark, on a page or as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
.plot .span { stroke: var(--mark); stroke-width: 2; } .plot .dot { fill: var(--mark); }
.plot text { fill: var(--faint); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.plot .title { fill: var(--ink); font-weight: 600; font-size: 13px; } .plot .name { fill: var(--ink); }
.plot .up { text-anchor: end; } .plot .across { text-anchor: middle; }
"""
_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 300, 52, 36, 46, 20
_ROW, _NAMES, _SPAN = 22, 220, 360
_MOST_ROWS = 40
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
    rate, tops = findings.prevalence, _round_up(_largest(findings))
    bins = [(one.score, one.observed) for one in findings.calibration.bins]
    found = {
        "roc": curve("ROC", findings.curves.roc, ("false positive rate", "true positive rate"), ((0, 0), (1, 1))),
        "precision_recall": curve(
            "Precision and recall", findings.curves.precision_recall, ("recall", "precision"), ((0, rate), (1, rate))
        ),
        "calibration": curve(
            "Calibration", bins, ("mean score", "share of positives"), ((0, 0), (tops, tops)), top=tops, dots=True
        ),
    }
    if bars := _slices(findings):
        found["slices"] = spans(f"{findings.metric} by slice, ±2 standard errors", bars, None)
    if bars := [Bar(one.feature, one.effect, one.low, one.high) for one in findings.importance]:
        found["importance"] = spans(f"Loss of {findings.metric} if a feature is permuted", bars, 0.0)
    return found


def _largest(findings: Findings) -> float:
    return max(max(one.score, one.observed) for one in findings.calibration.bins)


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
    top: float = 1.0,
    dots: bool = False,
) -> str:
    """Points joined by a line over 0 to `top` both ways, with a reference line."""

    def at(point: Point) -> Point:
        return _LEFT + _SIDE * point[0] / top, _TOP + _SIDE * (1 - point[1] / top)

    body = [_text(_LEFT, 20, title, "title"), *_grid(top)]
    body.append(_line(at(reference[0]), at(reference[1]), "reference"))
    body.append(f'<polyline class="curve" points="{" ".join("{:.1f},{:.1f}".format(*at(p)) for p in points)}"/>')
    body += [_dot(at(point)) for point in points] if dots else []
    height = _TOP + _SIDE + _BOTTOM
    body.append(_text(_LEFT + _SIDE / 2, height - 8, axes[0], "across"))
    middle = _TOP + _SIDE / 2
    body.append(f'<text class="across" transform="translate(14 {middle:g}) rotate(-90)">{escape(axes[1])}</text>')
    return _document(_LEFT + _SIDE + _RIGHT, height, title, body)


def _grid(top: float) -> list[str]:
    drawn = []
    for fifth in range(6):
        x, y = _LEFT + _SIDE * fifth / 5, _TOP + _SIDE * (1 - fifth / 5)
        drawn += [_line((x, _TOP), (x, _TOP + _SIDE), "grid"), _line((_LEFT, y), (_LEFT + _SIDE, y), "grid")]
        drawn += [
            _text(x, _TOP + _SIDE + 16, f"{top * fifth / 5:g}", "across"),
            _text(_LEFT - 6, y + 4, f"{top * fifth / 5:g}", "up"),
        ]
    return drawn


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


def _short(name: str) -> str:
    return name if len(name) <= _CHARACTERS else f"{name[: _CHARACTERS - 1]}…"


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
