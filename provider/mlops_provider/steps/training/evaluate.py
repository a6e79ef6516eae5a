"""Evaluation: the packaged candidate against the champion, on rows that neither of them has seen."""

from __future__ import annotations

from typing import Any

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps.data.features import build
from mlops_provider.steps.records import Evaluation, ModelVersion, Package, Split, SplitRef
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import metrics, slices
from mlops_provider.steps.training.comparison import Array, Holdout, scorer
from mlops_provider.steps.training.comparison import compare as compare
from mlops_provider.steps.training.diagnose import DiagnoseArguments, diagnose, load_findings, save_findings
from mlops_provider.steps.training.evaluation_report import write_report
from mlops_provider.steps.training.findings import Findings
from mlops_provider.steps.training.split import load_split


class EvaluateArguments(Frozen):
    """:param champion: the version to beat; None if there is none yet."""

    package: Package
    split: SplitRef
    champion: ModelVersion | None = None


@step(
    "evaluate", arguments=EvaluateArguments, result=Evaluation, sections=("data", "features", "evaluation"), code=True
)
def evaluate(job: Job, arguments: EvaluateArguments) -> Evaluation:
    """Measures the package on the holdout, and its gain over the champion with a paired bootstrap over time blocks.

    What it is worth beside that (`diagnose`) and on slices goes into one file, and onto one page for people.
    """
    settings = job.config.evaluation
    holdout = Holdout.of(job, load_split(job, arguments.split))
    labels, champion = holdout.labels, arguments.champion
    checks = [*_unseen(holdout.split, arguments), _labels(holdout)]
    judged = checks[-1].passed
    if judged:
        checks.append(_enough(holdout.blocks, settings.minimum_blocks))
    scores = scorer(job, arguments.package).score(holdout.features(arguments.package))
    evaluation = Evaluation(
        metric=settings.metric,
        partition=holdout.split.holdout.partition,
        rows=len(labels),
        candidate=metrics.measure(settings.metrics, labels, scores) if judged else {},
        champion_version=champion.version if champion else None,
        verdict=Verdict(subject=f"evaluation on {holdout.split.holdout.partition}", checks=tuple(checks)),
    )
    if not evaluation.verdict.passed:
        return evaluation
    return _compared(holdout, arguments, scores, evaluation)


def _compared(holdout: Holdout, arguments: EvaluateArguments, scores: Array, evaluation: Evaluation) -> Evaluation:
    """The evaluation with all that takes a holdout which can be trusted: against the champion, in slices, by itself."""
    job, rival, measured = holdout.job, None, {}
    checks = list(evaluation.verdict.checks)
    if champion := arguments.champion:
        try:
            rival = _champion_scores(job, champion, holdout)
        except (ConfigError, DataError) as error:  # the champion's own code may not fit what is delivered now
            checks.append(could_not_run("champion_scores", str(error), subject=f"version {champion.version}"))
    if rival is not None:
        measured = {
            "champion": metrics.measure(job.config.evaluation.metrics, holdout.labels, rival),
            "interval": compare(job, holdout.labels, scores, rival, holdout.blocks),
        }
    diagnosis = diagnose(job, DiagnoseArguments(package=arguments.package, split=arguments.split))
    findings, further = _sliced(holdout, scores, rival, load_findings(job, diagnosis.findings))
    verdict = Verdict(subject=evaluation.verdict.subject, checks=(*checks, *diagnosis.verdict.checks, *further))
    whole = evaluation.model_copy(
        update={**measured, "verdict": verdict, "findings": save_findings(job, findings)},
    )
    return whole.model_copy(update={"report": write_report(job, whole, findings)})


def _sliced(holdout: Holdout, scores: Array, rival: Array | None, findings: Findings) -> tuple[Findings, list[Check]]:
    """The findings with the slices that depend on the champion, and what is to be said of them."""
    results, checks = slices.named(holdout, scores, rival)
    if rival is None:
        return findings.model_copy(update={"slices": results}), checks
    losses = [holdout.objective.losses(holdout.labels, values) for values in (scores, rival)]
    worse = slices.found(holdout, losses[0] - losses[1], against="champion")
    checks.append(slices.found_checks(worse, "champion", told="loss above the champion's"))
    return findings.model_copy(update={"slices": results, "found": (*findings.found, *worse)}), checks


def _unseen(split: Split, arguments: EvaluateArguments) -> list[Check]:
    """No row of the holdout was seen by either model."""
    holdout = split.holdout
    fitted = {version.partition for version in split.fit}
    late = max(version.last for version in split.fit) >= holdout.first
    clean = holdout.partition not in fitted and not late
    checks = [_seen("candidate", clean, f"fitted on {min(fitted)} to {max(fitted)}")]
    if champion := arguments.champion:
        clean = champion.seen_until < holdout.partition
        checks.append(_seen(f"version {champion.version}", clean, f"has seen data until {champion.seen_until}"))
    return checks


def _seen(subject: str, clean: bool, detail: str) -> Check:
    if clean:
        return Check(name="holdout_unseen", passed=True, subject=subject, detail=detail)
    return could_not_run("holdout_unseen", f"{detail}: no fair comparison on this holdout", subject=subject)


def _labels(holdout: Holdout) -> Check:
    labels = holdout.labels
    if problem := holdout.objective.problem(labels):
        return could_not_run("holdout_labels", f"the holdout has {len(labels)} labelled rows: {problem}")
    return Check(name="holdout_labels", passed=True, value=float(len(labels)), detail=holdout.objective.told(labels))


def _enough(blocks: Any, minimum: int) -> Check:
    count = int(blocks.max()) + 1
    if count >= minimum:
        return Check(name="time_blocks", passed=True, value=float(count), threshold=float(minimum))
    return could_not_run("time_blocks", f"the holdout spans {count} time blocks, at least {minimum} are needed")


def _champion_scores(job: Job, champion: ModelVersion, holdout: Holdout) -> Array:
    """The champion's scores of the holdout rows, with features built by the champion's own code.

    :raises ConfigError: if it predicts something else.
    """
    ours, theirs = job.config.training.objective, champion.package
    if (theirs.objective, theirs.classes) != (ours, holdout.objective.classes):
        told = f"{theirs.objective} {', '.join(theirs.classes)}".strip()
        raise ConfigError(
            f"it predicts something else ({told}): no metric compares the two. Give the model another name"
        )
    own = job.with_code(champion.package.code)
    if own.model.code_hash == job.model.code_hash and _shaping(own) == _shaping(job):
        rows = holdout.rows
    else:
        work = holdout.split.holdout_work
        # What the candidate's features were built from: a window must not hold rows that were put into quarantine.
        inputs = work.accepted or work.inputs
        if inputs is None:
            raise AssertionError("an accepted partition has inputs")
        key = job.config.data.key
        rows = build(own, work.partition, inputs, work.history).set_index(key).loc[holdout.rows[key]]
    return scorer(own, champion.package).score(Holdout(own, holdout.split, rows).features(champion.package))


def _shaping(job: Job) -> tuple[object, ...]:
    """What shapes the features beside the code: what it is handed, as of when."""
    data = job.config.data
    return job.config.features, data.lead, data.columns, data.pii, data.history, data.past, data.label
