"""Evaluation: the packaged candidate against the champion, on rows that neither of them has seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL, build
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Evaluation, Interval, ModelVersion, Package, Split, SplitRef
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import metrics
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
    """Measures the package on the holdout, and its gain over the champion with a paired bootstrap over time blocks."""
    split, settings = load_split(job, arguments.split), job.config.evaluation
    holdout = snapshot.read(job, split.holdout).to_pandas()
    rows = holdout[holdout[LABEL].notna()]
    labels = rows[LABEL].to_numpy()
    checks = [*_unseen(split, arguments), _classes(labels)]
    scores = _scores(job, arguments.package, rows[list(arguments.package.features)])
    found: dict[str, Any] = {}
    if arguments.champion and all(check.passed for check in checks):
        found = _against(job, arguments.champion, split, rows, scores, checks)
    return Evaluation(
        metric=settings.metric,
        partition=split.holdout.partition,
        rows=len(rows),
        candidate=metrics.measure(settings.metrics, labels, scores) if checks[-1].severity != "error" else {},
        champion_version=arguments.champion.version if arguments.champion else None,
        verdict=Verdict(subject=f"evaluation on {split.holdout.partition}", checks=tuple(checks)),
        **found,
    )


def _against(
    job: Job, champion: ModelVersion, split: Split, rows: Any, scores: Any, checks: list[Check]
) -> dict[str, Any]:
    """What the champion makes of the labelled rows, and the gain over it; adds what was checked to `checks`."""
    settings = job.config.evaluation
    try:
        rival = _champion_scores(job, champion, split, rows)
    except (ConfigError, DataError) as error:  # the champion's own code may not fit what is delivered now
        checks.append(could_not_run("champion_scores", str(error), subject=f"version {champion.version}"))
        return {}
    labels = rows[LABEL].to_numpy()
    blocks = metrics.time_blocks(rows[job.config.data.event_time], parse_duration(settings.block))
    checks.append(_enough(blocks, settings.minimum_blocks))
    measured = {"champion": metrics.measure(settings.metrics, labels, rival)}
    return measured | ({"interval": compare(job, labels, scores, rival, blocks)} if checks[-1].passed else {})


def compare(job: Job, labels: Any, scores: Any, rival: Any, blocks: Any) -> Interval:
    """The gain in the primary metric, positive is better, and its interval."""
    settings = job.config.evaluation
    functions = [metrics.metric(settings.metric, labels, values) for values in (scores, rival)]
    sign = 1 if metrics.LARGER_IS_BETTER[settings.metric] else -1
    every = np.ones(len(labels))
    seed = job.config.training.seed
    values = metrics.resampled(functions, blocks, resamples=settings.resamples, seed=seed)
    low, high = metrics.bounds(sign * (values[:, 0] - values[:, 1]), settings.confidence)
    gain = sign * (functions[0](every) - functions[1](every))
    count = int(blocks.max()) + 1
    return Interval(gain=gain, low=low, high=high, blocks=count, confidence=settings.confidence)


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


def _classes(labels: Any) -> Check:
    if len(labels) and 0 < labels.mean() < 1:
        return Check(name="holdout_classes", passed=True, value=float(labels.mean()), detail="share of positives")
    return could_not_run("holdout_classes", f"the holdout has {len(labels)} labelled rows, all of one class")


def _enough(blocks: Any, minimum: int) -> Check:
    count = int(blocks.max()) + 1
    if count >= minimum:
        return Check(name="time_blocks", passed=True, value=float(count), threshold=float(minimum))
    return could_not_run("time_blocks", f"the holdout spans {count} time blocks, at least {minimum} are needed")


def _scores(job: Job, package: Package, features: Any) -> Any:
    scorer = Scorer.of(package, job.storage, threads=job.config.scoring.resources.cpu)
    return scorer.score(applied(job, package.fitted, features[list(package.features)]).to_numpy())


def _champion_scores(job: Job, champion: ModelVersion, split: Split, rows: Any) -> Any:
    """The champion's scores of the holdout rows, with features built by the champion's own code."""
    own = job.with_code(champion.package.code)
    if own.model.code_hash == job.model.code_hash and _shaping(own) == _shaping(job):
        return _scores(own, champion.package, rows)
    work = split.holdout_work
    # What the candidate's features were built from: a window must not hold rows that were put into quarantine.
    inputs = work.accepted or work.inputs
    if inputs is None:
        raise AssertionError("an accepted partition has inputs")
    key = job.config.data.key
    built = build(own, work.partition, inputs, work.history).set_index(key).loc[rows[key]]
    return _scores(own, champion.package, built)


def _shaping(job: Job) -> tuple[object, ...]:
    """What shapes the features beside the code: what it is handed, as of when."""
    data = job.config.data
    return job.config.features, data.lead, data.columns, data.pii, data.history, data.past, data.label
