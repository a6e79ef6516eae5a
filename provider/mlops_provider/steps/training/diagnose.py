"""What a candidate is worth by itself, whoever is champion: measured once for a package and its holdout.

It is a step of its own so that the gate, which compares a candidate again when the champion has changed, finds it done.
"""

from __future__ import annotations

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.steps.records import Package, SplitRef
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training.age import aged
from mlops_provider.steps.training.baselines import baseline_checks, baselines
from mlops_provider.steps.training.calibration import calibration, calibration_checks
from mlops_provider.steps.training.comparison import Holdout, scorer
from mlops_provider.steps.training.curves import drawn
from mlops_provider.steps.training.fairness import fairness, fairness_checks
from mlops_provider.steps.training.findings import Findings
from mlops_provider.steps.training.importance import (
    Sample,
    importance,
    importance_checks,
    not_sampled,
    robustness,
    robustness_checks,
)
from mlops_provider.steps.training.slices import found, found_checks
from mlops_provider.steps.training.split import load_split
from mlops_provider.storage import Artifact, digest


class DiagnoseArguments(Frozen):
    """The package, and the split whose holdout it is measured on."""

    package: Package
    split: SplitRef


class Diagnosis(Frozen):
    """The findings by reference, and what is to be said of them."""

    verdict: Verdict
    findings: Artifact


@step("diagnose", arguments=DiagnoseArguments, result=Diagnosis, sections=("data", "features", "evaluation"), code=True)
def diagnose(job: Job, arguments: DiagnoseArguments) -> Diagnosis:
    """Simple models, calibration, importance, robustness, groups, slices that were found, and the age of past versions.

    The holdout must have labelled rows that tell something, and time blocks enough for the bootstrap: `evaluate` asks for it.
    """
    package, settings = arguments.package, job.config.evaluation
    holdout = Holdout.of(job, load_split(job, arguments.split))
    session, features = scorer(job, package), holdout.features(package)
    scores, labels, kind = session.score(features), holdout.labels, holdout.objective
    simple = baselines(holdout, package, features, scores)
    calibrated = calibration(labels, scores, settings.calibration.bins) if labels.ndim == 1 else None
    # How far a loss is above the one that the score itself expects, in a slice more than in the whole.
    excess = kind.losses(labels, scores) - kind.expected(scores)
    unexpected = found(holdout, excess - excess.mean(), against="own")
    groups = fairness(holdout, scores)
    findings = Findings(
        metric=settings.metric,
        rows=len(labels),
        labels=kind.told(labels),
        classes=kind.classes,
        calibration=calibrated,
        **drawn(kind, labels, scores),
        baselines=simple,
        found=unexpected,
        fairness=groups,
        age=aged(job.ledger.records(), settings.metric, arguments.split.holdout),
    )
    findings, checks = _sampled(job, findings, Sample.of(holdout, session, package.features, features))
    checks += [
        *baseline_checks(job, simple),
        *calibration_checks(calibrated, settings.calibration.max_error),
        *fairness_checks(groups),
        found_checks(unexpected, "own expectation", told="loss above what is expected of it"),
    ]
    return Diagnosis(
        verdict=Verdict(subject=f"diagnosis on {arguments.split.holdout}", checks=tuple(checks)),
        findings=save_findings(job, findings),
    )


def _sampled(job: Job, findings: Findings, sample: Sample | None) -> tuple[Findings, list[Check]]:
    """What is scored again and again, unless model.yaml leaves it out."""
    settings = job.config.evaluation
    if not settings.importance.rows:
        return findings, []
    if sample is None:
        return findings, [not_sampled(min(settings.importance.rows, findings.rows))]
    effects, worse = importance(sample), robustness(sample)
    rows = len(sample.labels)
    added = {"importance": effects, "robustness": worse, "sample": rows}
    checks = [*importance_checks(effects, settings.importance, rows), *robustness_checks(sample, worse)]
    return findings.model_copy(update=added), checks


def save_findings(job: Job, findings: Findings) -> Artifact:
    """Stores findings under their hash."""
    value = findings.model_dump(mode="json")
    return job.storage.write_json(job.under("evaluations", f"{digest(value)[:32]}.json"), value)


def load_findings(job: Job, file: Artifact) -> Findings:
    """The findings in a file, verified."""
    return Findings.model_validate_json(job.storage.fetch(file))
