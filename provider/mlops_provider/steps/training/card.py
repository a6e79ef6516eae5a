"""The model card: what a version is, written from the records of its making (Mitchell et al. 2019, Model Cards).

Nothing is in it that no record says. What nobody measured is named as such; what only people know, such as the intended
use, comes from ``card.md`` in the model's directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mlops_provider.sections import Bounds
from mlops_provider.steps.records import Evaluation, Package, Split, Trained
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.edge import REPORT, EdgeReport
from mlops_provider.steps.training.golden import FILE
from mlops_provider.steps.training.inputs import ReferenceProfile, Schema
from mlops_provider.steps.training.parameters import with_params

OWN = "card.md"


def card(job: Job, trained: Trained, package: Package, evaluation: Evaluation, split: Split) -> str:
    """The card in Markdown. The same records give the same text."""
    job = with_params(job, trained.params)
    parts = [
        _head(job, trained, package),
        _own(job),
        _data(trained, split),
        _quality(job, evaluation),
        *([_inputs(job, package)] if "schema.json" in package.files else []),
        _speed(package),
        *([_edge(job, package)] if REPORT in package.files else []),
        evaluation.verdict.markdown(),
        package.parity.markdown(),
        _limits(job, trained, package, evaluation),
        _lineage(job, trained, package),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def _head(job: Job, trained: Trained, package: Package) -> str:
    training, lines = job.config.training, [f"# Model card: {job.config.name}", ""]
    if trained.drill:
        lines += [f"**A drill ({trained.drill}): made wrong on purpose, never to be used.**", ""]
    lines += [job.config.description, ""] if job.config.description else []
    lines += [
        f"- owner: {job.config.owner}",
        f"- kind: {training.engine}, objective {training.objective}, {len(package.features)} features",
        f"- parameters: rounds {training.rounds}, seed {training.seed}, {_listed(training.params)}; {trained.trees} trees",
        *_shaped(job, trained),
        f"- answers: {_answers(package)}",
        f"- fingerprint: `{trained.fingerprint}`",
    ]
    return "\n".join(lines)


def _shaped(job: Job, trained: Trained) -> list[str]:
    """What else shaped the model, as far as it did."""
    training, lines = job.config.training, []
    if (stopping := training.early_stopping) and trained.validation:
        found = trained.validation
        lines.append(
            f"- early stopping: {stopping.metric} {found.value:.4g} on {found.rows} rows of the last {stopping.window}, "
            f"{stopping.rounds} rounds without gain end it"
        )
    if weight := training.weight:
        told = {"by the column": weight.column, "halved every": weight.half_life}
        lines.append(f"- weights: {', '.join(f'{name} {value}' for name, value in told.items() if value)}")
    if job.config.features.categorical:
        lines.append(f"- categories: {', '.join(job.config.features.categorical)}")
    if trained.start is not None:
        lines.append(f"- goes on from the trees of version {trained.start}")
    if training.fit:
        lines.append(f"- fitted by the model's own {training.fit}")
    return lines


def _answers(package: Package) -> str:
    match package.objective:
        case "multiclass":
            return f"a score for each class ({', '.join(package.classes)}); the likeliest is decided on"
        case "lambdarank":
            return "a score that orders the rows of a group and means nothing beside that"
        case "regression":
            return "a number in the unit of the label"
    return f"a score; from {package.cut:g} on it is decided as positive"


def _own(job: Job) -> str:
    """What the team says, if it says something."""
    found = job.model.files.get(OWN)
    return f"## From the team\n\n{found.decode(errors='replace').strip()}" if found else ""


def _data(trained: Trained, split: Split) -> str:
    rows = [(v.partition, v.rows, v.labelled, f"`{v.tag or v.rev}`", f"`{v.md5}`") for v in split.fit]
    held = split.holdout
    return "\n".join([
        "## Training data",
        "",
        f"{trained.rows} labelled rows of {len(split.fit)} partitions, as they were known at {split.cutoff.isoformat()}.",
        "",
        _table(("partition", "rows", "with label", "version", "md5"), rows),
        f"Judged on {held.partition} ({held.rows} rows, {held.labelled} with label, version `{held.tag or held.rev}`).",
    ])


def _quality(job: Job, evaluation: Evaluation) -> str:
    asked: dict[str, Bounds] = {str(name): limit for name, limit in job.config.gates.thresholds.items()}
    rival = evaluation.champion or {}
    rows = [
        (name, _number(value), _number(rival.get(name)), _limit(asked.get(name)))
        for name, value in sorted(evaluation.candidate.items())
    ]
    head = (
        "metric",
        "this model",
        f"champion (version {evaluation.champion_version})" if rival else "champion",
        "limit",
    )
    lines = ["## Quality", "", f"On {evaluation.rows} labelled rows of {evaluation.partition}.", "", _table(head, rows)]
    if found := evaluation.interval:
        lines.append(
            f"Gain in {evaluation.metric} (above 0 this model is better): {found.gain:+.4f}, {found.confidence:.0%} interval "
            f"[{found.low:+.4f}, {found.high:+.4f}] over {found.blocks} time blocks; the gate asks for a lower bound above "
            f"{job.config.gates.min_gain:g}."
        )
    elif evaluation.champion_version is None:
        lines.append("There was no champion to compare with.")
    return "\n".join(lines)


def _limit(bounds: Bounds | None) -> str:
    if bounds is None:
        return ""
    ends = (("at least", bounds.min), ("at most", bounds.max))
    return ", ".join(f"{word} {end:g}" for word, end in ends if end is not None)


def _inputs(job: Job, package: Package) -> str:
    """The features, and how they were distributed in training."""
    schema = Schema.model_validate_json(job.storage.fetch(package.files["schema.json"]))
    profile = ReferenceProfile.model_validate_json(job.storage.fetch(package.files["profile.json"]))
    shares = {d.name: d.missing for d in profile.features}
    rows = [
        (
            f.name,
            f.dtype,
            f"{len(f.categories)} categories" if f.categories else f"{_number(f.minimum)} to {_number(f.maximum)}",
            f"{shares.get(f.name, 0.0):.1%}",
            f.missing.replace("_", " "),
        )
        for f in schema.features
    ]
    return "\n".join([
        "## Inputs",
        "",
        f"Shares of missing values are those of {profile.sampled} rows drawn from the {profile.rows} fitted on.",
        "",
        _table(("feature", "type", "range in training", "missing", "a missing value is"), rows),
    ])


def _speed(package: Package) -> str:
    lines = ["## Size and speed", "", f"The ONNX file has {package.onnx.size} bytes."]
    if package.latency:
        rows = [
            (x.rows, _number(x.median), _number(x.p95), x.runs or f"not measured: {x.why}") for x in package.latency
        ]
        lines += ["", _table(("rows", "median ms", "95th percentile ms", "runs"), rows)]
    return "\n".join(lines)


def _edge(job: Job, package: Package) -> str:
    report = EdgeReport.model_validate_json(job.storage.fetch(package.files[REPORT]))
    names = tuple(report.package.metrics)
    rows = [
        (
            v.file, v.trees, v.precision, v.size, _number(v.latency[0].median), _number(v.largest),
            "" if v.decided_otherwise is None else f"{v.decided_otherwise:.2%}", *(_number(v.metrics.get(name)) for name in names),
        )
        for v in (report.package, *report.variants)
    ]  # fmt: skip
    head = ("file", "trees", "precision", "bytes", "ms for 1 row", "largest difference", "decided otherwise", *names)
    return f"## Variants for small devices\n\nOn {report.rows} rows of {report.partition}.\n\n{_table(head, rows)}"


def _limits(job: Job, trained: Trained, package: Package, evaluation: Evaluation) -> str:
    """What the records say the version cannot do, or that nobody has looked at."""
    data, lines = job.config.data, [
        f"- It has seen data up to {trained.split.holdout} and must not score it or what lies before it.",
        f"- A prediction is made {job.config.data.lead} before the event, with what was known then.",
    ]  # fmt: skip
    if "schema.json" in package.files:
        schema = Schema.model_validate_json(job.storage.fetch(package.files["schema.json"]))
        zero = [f.name for f in schema.features if not f.missing_allowed]
        if zero:
            lines.append(f"- Training had no missing values in {', '.join(zero)}: one there is read as 0.")
    if data.pii:
        lines.append(f"- Columns marked as personal are no features: {', '.join(data.pii)}.")
    if evaluation.interval is None and evaluation.champion_version is not None:
        lines.append("- The comparison with the champion could not be made; the checks above say why.")
    if FILE not in package.files:
        lines.append("- It has no golden cases.")
    if OWN not in job.model.files:
        lines.append(f"- The team has written nothing on its intended use ({OWN} in the model's directory).")
    return "\n".join(["## Limits", "", *lines])


def _lineage(job: Job, trained: Trained, package: Package) -> str:
    rows = [
        ("code", f"`{package.code.sha256}`"),
        ("code without model.yaml", f"`{job.model.code_hash}`"),
        ("trees", f"`{trained.model_hash}`"),
        ("ONNX file", f"`{package.onnx.hash}`"),
        ("LightGBM text", f"`{package.booster.hash}`"),
        *((name, version) for name, version in sorted(trained.environment.items()) if version),
    ]
    return "## Lineage\n\n" + _table(("what", "sha256 or version"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"

    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(line(row) for row in rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _listed(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(params.items())) or "LightGBM's defaults"
