"""The gate: does the evidence let this candidate replace the champion of this moment?"""

from __future__ import annotations

import logging

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import ConflictError
from mlops_provider.ledger import Draft, Record, champion, decision_on
from mlops_provider.sections import Bounds
from mlops_provider.steps.monitoring import diagnosis
from mlops_provider.steps.records import Evaluation, Judged, ModelVersion
from mlops_provider.steps.release.code_checks import code_checks, run_tests
from mlops_provider.steps.release.group_checks import group_checks
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training.evaluate import EvaluateArguments, evaluate
from mlops_provider.steps.training.golden import replay_golden
from mlops_provider.steps.training.latency import limits
from mlops_provider.steps.training.metrics import change

log = logging.getLogger("mlops_provider")


class GateArguments(Frozen):
    """:param again: judge a candidate again that was decided before."""

    version: ModelVersion
    again: bool = False


@step("gate", arguments=GateArguments, result=Judged, cached=False)
def gate(job: Job, arguments: GateArguments) -> Judged:
    """Judges a candidate against the champion of this moment. A refusal is recorded here; a promotion is only proposed.

    From the third refusal in a row on, the record holds the diagnosis (steps/monitoring/diagnosis.py), and the log warns.

    The first model ever has no champion to beat: it must meet the absolute thresholds and package exactly. Its own tests
    are run here if nobody ran them before.
    """
    run_tests(job, arguments.version)
    for _ in range(10):
        found = _no_drill(arguments.version, judge(job, arguments.version))
        if found.promote or _refused(job, found, again=arguments.again):
            return found
    raise ConflictError(f"version {arguments.version.version}: the champion changed ten times while it was judged")


def _no_drill(version: ModelVersion, found: Judged) -> Judged:
    """A drill is never promoted: if the gate would let it through, the gate is too weak, and that is what is recorded."""
    if not (version.drill and found.promote):
        return found
    reason = f"drill {version.drill} passed the gate, which is too weak to notice it: {found.reason}"
    return found.model_copy(update={"outcome": "drill_passed", "reason": reason})


def judge(job: Job, version: ModelVersion) -> Judged:
    """What the gate would decide now; records nothing, and runs no tests of the model's."""
    rival = present_champion(job)
    owner = job.with_code(version.package.code)
    arguments = EvaluateArguments(package=version.package, split=version.split, champion=rival)
    evaluation = evaluate(owner, arguments)
    code = code_checks(job, version)
    checks = (
        *code.checks,
        *version.package.parity.checks,
        *version.package.checks,
        *replay_golden(version.package, job.storage).checks,
        *limits(job.config.gates, version.package),
        *evaluation.verdict.checks,
        *(bounded(name, limit, evaluation.candidate.get(name)) for name, limit in job.config.gates.thresholds.items()),
        *group_checks(job, evaluation),
        *([_gain(evaluation, job.config.gates.min_gain)] if rival else [_first()]),
    )
    verdict = Verdict(subject=f"{version.model} version {version.version}", checks=checks)
    outcome = code.outcome or _outcome(verdict, evaluation)
    return Judged(
        version=version.version,
        outcome=outcome,
        reason=code.reason or _reason(outcome, verdict, evaluation),
        verdict=verdict,
        evaluation=evaluation,
    )


def present_champion(job: Job) -> ModelVersion | None:
    """The version that the ledger names as champion."""
    record = champion(job.ledger.records())
    return ModelVersion.model_validate(record.facts["version"]) if record else None


def bounded(name: str, limit: Bounds, value: float | None) -> Check:
    """An absolute limit of a metric as a check."""
    asked = " and ".join(
        f"{word} {x:g}" for word, x in (("at least", limit.min), ("at most", limit.max)) if x is not None
    )
    if value is None:
        return could_not_run(name, f"was not measured, {asked} is asked for")
    passed = (limit.min is None or value >= limit.min) and (limit.max is None or value <= limit.max)
    return Check(name=name, passed=passed, value=value, threshold=asked)


def _gain(evaluation: Evaluation, minimum: float) -> Check:
    name, interval = f"{evaluation.metric}_gain", evaluation.interval
    if interval is None:
        return could_not_run(name, "the candidate could not be compared with the champion")
    detail = (
        f"{change(evaluation.metric, interval)} against version {evaluation.champion_version}: {interval.confidence:.0%} "
        f"interval over {interval.blocks} time blocks"
    )
    passed = interval.low > minimum
    return Check(
        name=name, passed=passed, value=interval.low, threshold=f"lower bound above {minimum:g}", detail=detail
    )


def _first() -> Check:
    return Check(name="first_model", passed=True, detail="there is no champion yet: the absolute thresholds decide")


def _outcome(verdict: Verdict, evaluation: Evaluation) -> str:
    if any(check.severity == "error" for check in verdict.problems):
        return "not_comparable"
    if evaluation.interval and evaluation.interval.high < 0:
        return "harmful"
    failed = {check.name for check in verdict.problems}
    if not failed:
        return "promote"
    return "no_proven_gain" if failed == {f"{evaluation.metric}_gain"} else "below_threshold"


def _reason(outcome: str, verdict: Verdict, evaluation: Evaluation) -> str:
    interval = evaluation.interval
    gain = ""
    if interval:
        gain = f"{change(evaluation.metric, interval)} against version {evaluation.champion_version}"
    words = {
        "promote": f"proven gain: {gain}" if interval else "first model, meets the thresholds",
        "harmful": f"harmful: {gain}",
        "no_proven_gain": f"no proven gain: {gain}",
        "below_threshold": f"below threshold: {verdict.reason()}",
        "not_comparable": f"not comparable: {verdict.reason()}",
    }
    return words[outcome]


def _refused(job: Job, found: Judged, *, again: bool) -> bool:
    """Records a refusal; False if the champion is no longer the one that the candidate was compared with.

    If other candidates are refused meanwhile, the record is drawn up anew: what it says of those in a row must be true of the
    place that it takes.
    """
    against = found.evaluation.champion_version
    for _ in range(10):
        before = job.ledger.records()
        if _champion(before) != against:
            return False

        def guard(records: tuple[Record, ...], before: tuple[Record, ...] = before) -> Record | None:
            decided = decision_on(records, found.version)
            if decided and not again:
                return decided
            if _champion(records) != against or diagnosis.row(records) != diagnosis.row(before):
                raise ConflictError("the champion changed, or another candidate was refused")
            return None

        try:
            record, _ = job.ledger.append(_refusal(found, before), actor=job.deployment.actor, guard=guard)
        except ConflictError:
            continue
        if told := record.facts.get("diagnosis"):
            log.warning("%s", diagnosis.render(diagnosis.Diagnosis.model_validate(told)))
        return True
    return False


def _champion(records: tuple[Record, ...]) -> int | None:
    now = champion(records)
    return now.version if now else None


def _refusal(found: Judged, records: tuple[Record, ...]) -> Draft:
    """The refusal; with the diagnosis, if it is at least the third in a row."""
    draft = Draft(
        kind="refusal",
        partition=found.evaluation.partition,
        version=found.version,
        outcome=found.outcome,
        reason=found.reason,
        facts={"champion": found.evaluation.champion_version, "judged": found.model_dump(mode="json")},
    )
    told = diagnosis.diagnosis(records, draft)
    return (
        draft.model_copy(update={"facts": draft.facts | {"diagnosis": told.model_dump(mode="json")}}) if told else draft
    )
