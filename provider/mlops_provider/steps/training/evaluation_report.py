"""An evaluation as a page for people, and as the files that the version's MLflow run gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from mlops_provider.steps.data.validation_report import checks_table, document, facts_table
from mlops_provider.steps.records import Evaluation, Interval
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.findings import Findings
from mlops_provider.steps.training.plots import plots
from mlops_provider.storage import Artifact, digest

_OUTCOMES = {
    "error": "Something could not be checked",
    "fail": "Something failed",
    "warn": "Sound, with warnings",
    "pass": "Sound",
}
_STYLE = """
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plot { max-width: 100%; height: auto; }
td.number, th.number { text-align: right; } table.figures { width: auto; } .note { color: var(--faint); max-width: 46rem; }
"""
Cell = str | float | int | None


def write_report(job: Job, evaluation: Evaluation, findings: Findings) -> Artifact:
    """Writes the page of an evaluation under the artifact root, named by its content."""
    content = page(job.config.name, evaluation, findings)
    name = f"evaluation-{evaluation.partition}-{digest(content)[:12]}.html"
    return job.storage.write(job.under("reports", name), content.encode())


def save_evaluation(job: Job, folder: Path, evaluation: Evaluation) -> None:
    """Puts the findings, the page and the plots into a folder, for MLflow; nothing if nothing was found."""
    if evaluation.findings is None or evaluation.report is None:
        return
    folder.mkdir()
    content = job.storage.fetch(evaluation.findings)
    folder.joinpath("findings.json").write_bytes(content)
    folder.joinpath("report.html").write_bytes(job.storage.fetch(evaluation.report))
    for name, plot in plots(Findings.model_validate_json(content)).items():
        folder.joinpath(f"{name}.svg").write_text(plot, encoding="utf-8")


def page(model: str, evaluation: Evaluation, findings: Findings) -> str:
    """The page as HTML; every text in it is escaped, and nothing in it can run."""
    drawn = plots(findings)
    against = f" against version {evaluation.champion_version}" if evaluation.champion_version else ""
    parts = (
        _section("Plots", f'<div class="plots">{"".join(drawn.values())}</div>'),
        _section("Checks", checks_table(evaluation.verdict)),
        _section("Metrics", _metrics(evaluation, findings)),
        _section(
            "Slices", _slices(findings), "Named in model.yaml. The gate judges those with rows and blocks enough."
        ),
        _section(
            "Slices that were found",
            _found(findings),
            "Found on every other time block, confirmed on those between; squared error (or what comes nearest to it) above "
            "the champion's, or above what is expected of it.",
        ),
        _section("Calibration", _calibration(findings)),
        _section(
            "Features",
            _importance(findings),
            f"Loss of {findings.metric} if the feature is permuted, on {findings.sample} rows. Features that say the same "
            "stand in for each other, and seem to matter less.",
        ),
        _section("Worse inputs", _robustness(findings), f"On {findings.sample} rows."),
        _section("Groups", _fairness(findings)),
        _section(
            "Age of past versions",
            _age(findings),
            "Quality on what a version scored, beside its quality when it was evaluated. The change is that of the model and "
            "of the time together.",
        ),
        _section("What was measured", facts_table(_facts(model, evaluation, findings))),
    )
    return document(
        f"{model} evaluated on {evaluation.partition}{against}",
        outcome=evaluation.verdict.outcome,
        told=escape(_told(evaluation)),
        body="\n".join(part for part in parts if part),
        style=_STYLE,
    )


def _told(evaluation: Evaluation) -> str:
    told = _OUTCOMES[evaluation.verdict.outcome]
    if evaluation.interval is None:
        return f"{told}. There was no champion to compare with"
    return f"{told}. {evaluation.metric} {_interval(evaluation.interval)} over the champion"


def _interval(gain: Interval) -> str:
    return f"{gain.gain:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def _section(title: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>\n{told}{content}"


def _facts(model: str, evaluation: Evaluation, findings: Findings) -> dict[str, str]:
    return {
        "model": model,
        "holdout": evaluation.partition,
        "rows": f"{evaluation.rows}, {findings.labels}",
        "primary metric": evaluation.metric,
        "champion": f"version {evaluation.champion_version}" if evaluation.champion_version else "none",
    }


def _metrics(evaluation: Evaluation, findings: Findings) -> str:
    names = list(evaluation.candidate)
    rows: list[list[Cell]] = [["candidate", *evaluation.candidate.values(), ""]]
    if evaluation.champion:
        gain = _interval(evaluation.interval) if evaluation.interval else ""
        rows.append(["champion", *(evaluation.champion.get(name) for name in names), gain])
    for one in findings.baselines:
        rows.append([one.name, *(one.metrics.get(name) for name in names), _interval(one.gain)])
    return _table(["model", *names, f"gain of the candidate in {findings.metric} (above 0 it is better)"], rows)


def _slices(findings: Findings) -> str:
    metric = findings.metric
    return _table(
        [
            "slices",
            "slice",
            "rows",
            "time blocks",
            metric,
            "standard error",
            "gain over the champion",
            "standard error",
        ],
        [
            [
                one.slices,
                one.value,
                one.rows,
                one.blocks,
                one.metrics.get(metric),
                one.errors.get(metric),
                one.gain,
                one.gain_error,
            ]
            for one in findings.slices
        ],
    )


def _found(findings: Findings) -> str:
    return _table(
        ["feature", "slice", "rows", "against", "loss above", "p"],
        [[one.feature, one.value, one.rows, one.against, one.excess, one.p] for one in findings.found],
    )


def _calibration(findings: Findings) -> str:
    found = findings.calibration
    if found is None:
        return ""
    parts = {
        "expected calibration error": found.error,
        "reliability": found.reliability,
        "resolution": found.resolution,
        "uncertainty": found.uncertainty,
        "within the bins": found.within,
    }
    bins = _table(
        ["rows", "mean score", "mean label" if findings.residuals else "share of positives"],
        [[one.rows, one.score, one.observed] for one in found.bins],
    )
    return _table(list(parts), [list(parts.values())]) + bins


def _importance(findings: Findings) -> str:
    return _table(
        ["feature", "effect", "from", "to", "missing", "cost"],
        [[one.feature, one.effect, one.low, one.high, one.missing, one.cost] for one in findings.importance],
    )


def _robustness(findings: Findings) -> str:
    return _table(["inputs", findings.metric, "loss"], [[one.name, one.value, one.loss] for one in findings.robustness])


def _fairness(findings: Findings) -> str:
    told = ""
    for one in findings.fairness:
        differences = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in one.differences.items())
        told += f"<p><code>{escape(one.column)}</code>: {escape(differences or one.problem)}</p>" + _table(
            ["group", "rows", "decided as positive", "true positive rate", "false positive rate"],
            [
                [group.value, group.rows, group.selection_rate, group.true_positive_rate, group.false_positive_rate]
                for group in one.groups
            ],
        )
    return told


def _age(findings: Findings) -> str:
    return _table(
        ["partition", "version", "age in partitions", findings.metric, "change"],
        [[one.partition, one.version, one.age, one.value, one.change] for one in findings.age],
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table; empty if it has no rows. The name of a column of numbers stands over them."""
    cells = [list(row) for row in rows]
    numeric = [any(isinstance(row[place], int | float) for row in cells) for place in range(len(names))]
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in cells)
    head = "".join(
        f"<th scope=col{' class=number' if right else ''}>{escape(name)}</th>"
        for name, right in zip(names, numeric, strict=True)
    )
    if not body:
        return ""
    return f"<div class=scroll><table class=figures><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"


def _cell(value: Cell) -> str:
    if value is None or isinstance(value, str):
        return f"<td>{escape(value or '')}</td>"
    return f'<td class="number">{value if isinstance(value, int) else f"{value:.4g}"}</td>'
