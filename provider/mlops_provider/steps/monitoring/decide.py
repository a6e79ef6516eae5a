"""The one place that decides to retrain, the first model included."""

from __future__ import annotations

from mlops_provider.checks import Frozen, Verdict
from mlops_provider.ledger import Draft, Record, champion, last
from mlops_provider.steps.data.standard import stands
from mlops_provider.steps.monitoring.records import Estimated
from mlops_provider.steps.records import Decision, Drifted, FeatureVersion, Measured
from mlops_provider.steps.step import Job, step


class DecideArguments(Frozen):
    """:param drift: of this partition's inputs, if a champion scored it; `quality` likewise.
    :param estimate: what that quality was estimated at before the labels came: kept, so that labels judge the estimates, too.
    """

    partition: str
    drift: Drifted | None = None
    quality: Measured | None = None
    estimate: Estimated | None = None


@step("decide", arguments=DecideArguments, result=Decision, cached=False)
def decide(job: Job, arguments: DecideArguments) -> Decision:
    """Decides, on this newly labelled partition, whether to train a candidate, and records why. Drift alone never retrains."""
    records = job.ledger.records()
    retrain, reason = judge(job, arguments, records)
    gone = _unscored(records, arguments.partition)
    facts = {
        "unscored": gone.reason if gone else None,
        "drift": arguments.drift.model_dump(mode="json") if arguments.drift else None,
        "quality": arguments.quality.model_dump(mode="json") if arguments.quality else None,
        "estimate": arguments.estimate.model_dump(mode="json") if arguments.estimate else None,
        "policy": job.config.retrain.model_dump(mode="json"),
    }
    draft = Draft(
        kind="retrain",
        partition=arguments.partition,
        outcome="train" if retrain else "wait",
        reason=reason,
        facts=facts,
    )

    def guard(records: tuple[Record, ...]) -> Record | None:
        return last(records, "retrain", partition=arguments.partition)

    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=guard)
    return Decision(
        partition=record.partition, retrain=record.outcome == "train", reason=record.reason, record=record.number
    )


def judge(job: Job, arguments: DecideArguments, records: tuple[Record, ...]) -> tuple[bool, str]:
    """Whether to train, and the reason."""
    labelled = [name for name in accepted(job, records) if name <= arguments.partition]
    need = job.config.training.window.minimum + 1
    if len(labelled) < need:
        return False, f"not enough data: {len(labelled)} of {need} labelled partitions"
    if champion(records) is None:
        return True, f"there is no champion yet, and {len(labelled)} labelled partitions"
    policy = job.config.retrain.policy
    if policy == "never":
        return False, "policy never: only a person's demand trains"
    if policy == "periodic":
        return _periodic(job, records, labelled)
    return _threshold(job, arguments, records)


def accepted(job: Job, records: tuple[Record, ...]) -> dict[str, FeatureVersion]:
    """The data version of each partition whose newest delivery was accepted, with labels of today's meaning, in order of time."""
    newest = {record.partition: record for record in records if record.kind == "data"}
    return {
        name: FeatureVersion.model_validate(newest[name].facts["data"])
        for name in sorted(newest)
        if newest[name].outcome == "accepted" and stands(job, newest[name])
    }


def _periodic(job: Job, records: tuple[Record, ...], labelled: list[str]) -> tuple[bool, str]:
    every = job.config.retrain.every
    trained = [r.partition for r in records if r.kind == "retrain" and r.outcome == "train"]
    fresh = [name for name in labelled if name > max(trained, default="")]
    return len(fresh) >= every, f"policy periodic: {len(fresh)} of {every} newly labelled partitions"


def _threshold(job: Job, arguments: DecideArguments, records: tuple[Record, ...]) -> tuple[bool, str]:
    rule, present = job.config.retrain, arguments.quality
    gone = _unscored(records, arguments.partition)
    if present is None and gone is None:
        return False, "policy threshold: the champion has no judged predictions yet"
    past = [_failed(job, r) for r in records if r.kind == "retrain" and _looked_at(r)]
    now = _missed(job, present.verdict) if present else True
    failures = [*(past[-(rule.windows - 1) :] if rule.windows > 1 else []), now]
    missed = sum(failures)
    told = f"policy threshold: quality missed in {missed} of the last {len(failures)} partitions, {rule.violations} are needed"
    if now:
        told += f"; {present.verdict.reason() if present else f'{gone.reason} (not scored)' if gone else ''}"
    return now and missed >= rule.violations, told


def _unscored(records: tuple[Record, ...], partition: str) -> Record | None:
    """What says that the champion of this moment could not score the partition: nothing that it predicts is of use then."""
    now = champion(records)
    return last((r for r in records if now and r.version == now.version), "unscored", partition=partition)


def _looked_at(record: Record) -> bool:
    return bool(record.facts.get("quality") or record.facts.get("unscored"))


def _failed(job: Job, record: Record) -> bool:
    """Whether the quality of a partition that was decided before was missed, or could not be had of the champion."""
    quality = record.facts.get("quality")
    return _missed(job, Verdict.model_validate(quality["verdict"])) if quality else True


def _missed(job: Job, verdict: Verdict) -> bool:
    """Whether a metric was measured and missed its threshold: missing labels are no loss of quality."""
    metrics = job.config.monitoring.quality.thresholds
    return any(check.name in metrics and check.state == "fail" for check in verdict.checks)
