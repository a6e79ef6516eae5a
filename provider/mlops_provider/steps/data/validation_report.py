"""A verdict as a page for people: one file, readable offline, in light and in dark, with nothing in it that can run."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from mlops_provider.checks import Check, Verdict
from mlops_provider.steps.step import Job
from mlops_provider.storage import Artifact, digest

_ORDER = ("error", "fail", "warn", "pass")
_WORDS = {
    "error": "could not be checked",
    "fail": "failed",
    "warn": "warned",
    "pass": "passed",
}
_OUTCOMES = {
    "error": "Failed: something could not be checked",
    "fail": "Failed",
    "warn": "Passed, with warnings",
    "pass": "Passed",
}
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --faint: #59636e; --line: #d5dae0; --band: #f4f6f8;
  --error: #8a2ca8; --fail: #b3261e; --warn: #8a5300; --pass: #1a6b34; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --faint: #9aa4af; --line: #343b44;
  --band: #1d2127; --error: #d49be8; --fail: #ff9a90; --warn: #f0b860; --pass: #77d497; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.outcome { border-left: .35rem solid; padding: .5rem .9rem; margin: 1rem 0; background: var(--band); font-weight: 600; }
.counts { color: var(--faint); font-weight: 400; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .8rem; font-weight: 600; color: var(--faint); }
th, td { padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: break-word; min-width: 4rem; max-width: 22rem; }
td.detail { min-width: 14rem; max-width: 30rem; }
.facts th { width: 10rem; padding-right: 1rem; }
.facts td { max-width: none; overflow-wrap: anywhere; }
.state { font-weight: 600; min-width: 5.5rem; }
.error { color: var(--error); } .fail { color: var(--fail); } .warn { color: var(--warn); } .pass { color: var(--pass); }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print { body { max-width: none; padding: 0; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<div class="outcome {outcome}">{told}</div>
{body}
</body>
</html>
"""


def write_report(
    job: Job,
    verdict: Verdict,
    *,
    partition: str,
    suite: str,
    data: Mapping[str, Artifact | None] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Artifact:
    """Writes the page of a verdict under the artifact root, named by its content: an equal verdict has one page.

    :param suite: what judged: ``raw``, ``features``, ``history``; part of the file's name.
    :param data: the tables that were judged, by what they are.
    :param facts: what else a reader should know, by name.
    """
    told = {
        "model": job.config.name,
        "partition": partition,
        "judged by": suite,
        **{name: _table(artifact) for name, artifact in (data or {}).items() if artifact},
        **(facts or {}),
        "code": f"{job.model.ref.uri} (sha256 {job.model.ref.sha256[:12]})",
        "environment": job.deployment.environment,
    }
    content = page(verdict, told).encode()
    name = f"validation-{partition}-{suite}-{digest(content.decode())[:12]}.html"
    return job.storage.write(job.under("reports", name), content)


def page(verdict: Verdict, facts: Mapping[str, str]) -> str:
    """The page of a verdict as HTML; every text in it is escaped."""
    states = [check.state for check in verdict.checks]
    counts = [f"{states.count(state)} {_WORDS[state]}" for state in _ORDER if state in states]
    told = ", ".join(counts) or "nothing was checked"
    return document(
        verdict.subject,
        outcome=verdict.outcome,
        told=f'{_OUTCOMES[verdict.outcome]} <span class="counts">({told})</span>',
        body=f"<h2>Checks</h2>\n{checks_table(verdict)}\n<h2>What was judged</h2>\n{facts_table(facts)}",
    )


def document(title: str, *, outcome: str, told: str, body: str, style: str = "") -> str:
    """A report as an HTML page that needs nothing from elsewhere.

    :param title: plain text; `told` says the outcome, and is HTML as `body` is.
    :param style: what the page has beside the style of all reports.
    """
    return _PAGE.format(title=escape(title), style=_STYLE + style, outcome=outcome, told=told, body=body)


def _table(artifact: Artifact) -> str:
    rows = f"{artifact.rows} rows, " if artifact.rows is not None else ""
    return f"{artifact.uri} ({rows}{artifact.size} bytes, {_hash(artifact.hash)})"


def _hash(value: str) -> str:
    return value if value.startswith(("etag:", "files:")) else f"sha256 {value[:12]}"


def checks_table(verdict: Verdict) -> str:
    """The checks of a verdict as HTML, the worst first."""
    if not verdict.checks:
        return "<p>There is no check: what was judged by nothing is not let through.</p>"
    rows = sorted(verdict.checks, key=lambda check: _ORDER.index(check.state))
    head = "".join(f"<th scope=col>{name}</th>" for name in ("state", "check", "about", "found", "asked for", "detail"))
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>\n{''.join(map(_row, rows))}</tbody></table></div>"


def _row(check: Check) -> str:
    cells = (
        ("name", _code(check.name)),
        ("", _code(check.subject)),
        _value(check.value),
        _value(check.threshold),
        ("detail", escape(check.detail)),
    )
    state = f'<td class="state {check.state}">{_WORDS[check.state]}</td>'
    return f"<tr>{state}{''.join(_cell(*cell) for cell in cells)}</tr>\n"


def _cell(kind: str, content: str) -> str:
    return f'<td class="{kind}">{content}</td>'


def _code(name: str) -> str:
    """A name that may break into lines at its underscores, and nowhere else."""
    return f"<code>{escape(name).replace('_', '_<wbr>')}</code>"


def _value(value: float | str | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    return ("number", f"{value:.6g}") if isinstance(value, int | float) else ("", escape(value))


def facts_table(facts: Mapping[str, str]) -> str:
    """Names and texts as HTML."""
    rows = (
        f"<tr><th scope=row>{escape(name)}</th><td><code>{escape(text)}</code></td></tr>"
        for name, text in facts.items()
    )
    return f"<div class=scroll><table class=facts><tbody>\n{''.join(rows)}</tbody></table></div>"
