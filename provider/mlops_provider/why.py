"""Why a model was trained again, or was not: one decision to retrain, told for a person from the ledger alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.exceptions import RequestError
from mlops_provider.ledger import Record, champion, decision_on, last
from mlops_provider.steps.monitoring import diagnosis
from mlops_provider.steps.monitoring.diagnosis import Diagnosis

# The settings that a policy goes by; of a policy that is not named here, all are told.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "never": (),
    "periodic": ("every",),
    "threshold": ("windows", "violations"),
    "cost_aware": ("costs", "cooldown", "horizon", "prior", "min_partitions", "min_rows"),
}
_NAMES = 8


class QualitySeen(Frozen):
    """The quality that the decision saw, of predictions made by `version`.

    :param metric: the primary one, which `low` and `high` bound; None if no record names it.
    :param coverage: share of the scored rows that had a label, 0 to 1.
    :param missed: metrics that missed their thresholds, in words.
    :param other: what else stood against it: too few labels, or a metric that could not be measured. That is no loss of quality.
    """

    version: int
    metrics: dict[str, float]
    metric: str | None
    low: float | None
    high: float | None
    coverage: float
    missed: tuple[str, ...]
    other: tuple[str, ...]


class DriftSeen(Frozen):
    """The drift that the decision knew of: `columns` drifted, of `of`."""

    columns: tuple[str, ...]
    of: int


class Outcome(Frozen):
    """What came of the decision.

    :param state: ``nothing`` (it was to wait, and nobody asked for a candidate), ``waiting`` (the candidate is not there yet),
        ``lapsed``, ``candidate`` (registered, not yet judged), ``promoted`` or ``refused``.
    :param reason: why, as the ledger has it; `record` is the number of that record.
    :param rolled_back: why the promoted version was rolled back since; empty if it was not.
    """

    state: Literal["nothing", "waiting", "lapsed", "candidate", "promoted", "refused"]
    version: int | None = None
    outcome: str = ""
    reason: str = ""
    record: int | None = None
    rolled_back: str = ""


class Why(Frozen):
    """A decision to retrain, and what became of it.

    :param record: its number in the ledger; `at` and `actor` say when and by whom.
    :param outcome: ``train`` or ``wait``.
    :param policy: the section `retrain` of model.yaml as it was then.
    :param unscored: why the champion could not score the partition; empty if it could.
    :param came_of_it: one entry, or one for each candidate with this partition as its holdout, drills aside.
    :param otherwise: what would have made it decide otherwise, as far as the record tells.
    :param diagnosis: of three and more candidates refused in a row by now.
    """

    model: str
    partition: str
    record: int
    at: dt.datetime
    actor: str
    outcome: str
    reason: str
    policy: dict[str, Any]
    quality: QualitySeen | None
    unscored: str
    drift: DriftSeen | None
    came_of_it: tuple[Outcome, ...]
    otherwise: str
    diagnosis: Diagnosis | None = None


def why(model: str, records: Sequence[Record], partition: str | None = None) -> Why:
    """The last decision to retrain, or the last one on a partition. Nothing is computed anew.

    :param records: the ledger of the model.
    :raises RequestError: if there was no such decision.
    """
    decision = last(records, "retrain", partition=partition)
    if decision is None:
        raise RequestError(_none(model, records, partition))
    facts, before = decision.facts, records[: decision.number - 1]
    seen = _Seen(decision, champion(before) is not None, _quality(facts.get("quality"), before))
    drift = facts.get("drift")
    return Why(
        model=model,
        partition=decision.partition,
        record=decision.number,
        at=decision.at,
        actor=decision.actor,
        outcome=decision.outcome,
        reason=decision.reason,
        policy=facts["policy"],
        quality=seen.quality,
        unscored=seen.unscored,
        drift=DriftSeen(columns=drift["columns"], of=drift["of"]) if drift else None,
        came_of_it=tuple(_came_of_it(records, decision)),
        otherwise=_otherwise(seen),
        diagnosis=diagnosis.diagnosis(records),
    )


def _none(model: str, records: Sequence[Record], partition: str | None) -> str:
    decided = sorted({r.partition for r in records if r.kind == "retrain"})
    if partition is None or not decided:
        return f"{model}: no decision to retrain was taken yet; {model}.cm takes one for each partition with accepted labels"
    return f"{model}: no decision to retrain was taken on {partition}; the partitions decided on are {decided[0]} to {decided[-1]}"


def _quality(found: dict[str, Any] | None, before: Sequence[Record]) -> QualitySeen | None:
    if not found:
        return None
    missed = diagnosis.missed(found)
    problems = Verdict.model_validate(found["verdict"]).problems
    primary = last(before, "candidate")
    metric = primary.facts["evaluation"]["metric"] if primary else None
    return QualitySeen(
        version=found["version"],
        metrics=found["metrics"],
        metric=metric if metric in found["metrics"] else None,
        low=found["low"],
        high=found["high"],
        coverage=found["coverage"],
        missed=tuple(_words(check) for check in missed),
        other=tuple(_words(check) for check in problems if check not in missed),
    )


def _words(check: Check) -> str:
    if check.value is None:
        return f"{check.name}: {check.detail}"
    asked = f"{check.threshold:.4g}" if isinstance(check.threshold, float) else check.threshold
    return f"{check.name} {_number(check.value)} against {asked}"


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


def _came_of_it(records: Sequence[Record], decision: Record) -> Iterator[Outcome]:
    lapse = last((r for r in records if r.facts.get("decision") == decision.number), "lapse")
    if lapse:
        yield Outcome(state="lapsed", outcome=lapse.outcome, reason=lapse.reason, record=lapse.number)
    drills = diagnosis.drills(records)
    candidates = [r for r in records if r.kind == "candidate" and r.partition == decision.partition]
    real = [r for r in candidates if r.version not in drills]
    yield from (_fate(records, candidate) for candidate in real)
    if not lapse and not real:
        yield Outcome(state="waiting" if decision.outcome == "train" else "nothing")


def _fate(records: Sequence[Record], candidate: Record) -> Outcome:
    assert candidate.version is not None
    found = decision_on(records, candidate.version)
    if found is None:
        return Outcome(state="candidate", version=candidate.version, reason=candidate.reason, record=candidate.number)
    left = (r for r in records if r.number > found.number and r.facts.get("champion") == candidate.version)
    undone = last(left, "rollback") if found.kind == "promotion" else None
    return Outcome(
        state="promoted" if found.kind == "promotion" else "refused",
        version=candidate.version,
        outcome=found.outcome,
        reason=found.reason,
        record=found.number,
        rolled_back=undone.reason if undone else "",
    )


class _Seen(NamedTuple):
    """A decision and what it stood on."""

    decision: Record
    had_champion: bool
    quality: QualitySeen | None

    @property
    def train(self) -> bool:
        return self.decision.outcome == "train"

    @property
    def unscored(self) -> str:
        return self.decision.facts.get("unscored") or ""


def _otherwise(seen: _Seen) -> str:
    """What would have turned the decision, as far as the record tells: by the rules that `decide` applies, in their order."""
    policy = seen.decision.facts["policy"]
    if seen.decision.reason.startswith("not enough data"):
        return "more labelled partitions, as many as the reason asks for, would have been needed before anything else counts"
    if not seen.had_champion:
        return "nothing but a champion: as long as there is none, enough labelled data is always trained on"
    rule = _RULES.get(policy["policy"])
    return rule(seen, policy) if rule else "the record does not tell more than its reason"


def _never(seen: _Seen, policy: dict[str, Any]) -> str:
    return "nothing: under this policy only a person's demand trains"


def _periodic(seen: _Seen, policy: dict[str, Any]) -> str:
    every = policy["every"]
    if not seen.train:
        return f"{every} newly labelled partitions since the last decision to train, whatever the quality"
    if every == 1:
        return "nothing: every newly labelled partition is trained on, whatever the quality"
    return f"fewer than {every} newly labelled partitions since the last decision to train; quality is not asked"


def _threshold(seen: _Seen, policy: dict[str, Any]) -> str:
    partition, needed = seen.decision.partition, f"{policy['violations']} of the last {policy['windows']}"
    bad = ", ".join(seen.quality.missed) if seen.quality else "scoring, which failed" if seen.unscored else ""
    if seen.train:
        return f"quality on {partition} within its thresholds ({bad}): the newest partition must miss one"
    if seen.quality is None and not seen.unscored:
        return "judged predictions of the champion: this policy trains on missed quality alone"
    if not bad:
        return f"a metric that misses its threshold on {partition}, and so in {needed} judged partitions, this one among them"
    return f"a miss like that of {partition} in {needed} judged partitions"


def _cost_aware(seen: _Seen, policy: dict[str, Any]) -> str:
    weighed = seen.decision.facts.get("weighed")
    if not weighed:
        return "the record does not tell more than its reason"
    expected = f"{weighed['benefit']:.4g} was expected, with {weighed['loss']:.4g} lost"
    asked = "of no more than" if seen.train else "above"
    return f"a benefit {asked} {weighed['cost']:g}, which training and deployment cost; {expected}"


_RULES: dict[str, Callable[[_Seen, dict[str, Any]], str]] = {
    "never": _never,
    "periodic": _periodic,
    "threshold": _threshold,
    "cost_aware": _cost_aware,
}


def render(found: Why) -> str:
    """One paragraph for a person; the diagnosis of refusals in a row, if there is one, stands below it."""
    told = "; ".join(_outcome(one) for one in found.came_of_it)
    sentences = (
        f"{found.model}: on {found.at:%Y-%m-%d %H:%M} UTC {found.actor} decided "
        f"{_DECIDED[found.outcome]} on partition {found.partition} (record {found.record}): {found.reason}.",
        f"The policy was {_policy(found.policy)}.",
        _quality_told(found),
        _drift_told(found.drift),
        f"What came of it: {told}.",
        f"What would have made it decide otherwise: {found.otherwise}.",
    )
    below = f"\n\n{diagnosis.render(found.diagnosis)}" if found.diagnosis else ""
    return " ".join(sentences) + below


_DECIDED = {"train": "to train a candidate", "wait": "to train nothing"}


def _policy(policy: dict[str, Any]) -> str:
    names = _SETTINGS.get(policy["policy"], tuple(name for name in policy if name != "policy"))
    settings = ", ".join(_setting(name, policy[name]) for name in names if policy.get(name) is not None)
    return f"{policy['policy']} ({settings})" if settings else str(policy["policy"])


def _setting(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name} {', '.join(f'{key} {one:g}' for key, one in value.items() if one is not None)}"
    return f"{name} {value}"


def _quality_told(found: Why) -> str:
    seen = found.quality
    if seen is None:
        return (
            f"The champion could not score it: {found.unscored}." if found.unscored else "It saw no judged predictions."
        )
    metrics = ", ".join(_metric(name, value, seen) for name, value in seen.metrics.items()) or "no metric"
    missed = f"missed were {', '.join(seen.missed)}" if seen.missed else "no threshold was missed"
    other = f"; besides, {', '.join(seen.other)}, which is no loss of quality" if seen.other else ""
    made = f"the predictions of version {seen.version}, {seen.coverage:.1%} of them with labels"
    return f"Of {made}, it saw {metrics}; {missed}{other}."


def _metric(name: str, value: float, seen: QualitySeen) -> str:
    bounds = seen.low is not None and seen.high is not None and name == seen.metric
    return f"{name} {value:.4g}" + (f" [{seen.low:.4g}, {seen.high:.4g}]" if bounds else "")


def _drift_told(seen: DriftSeen | None) -> str:
    alone = "drift alone never retrains"
    if seen is None:
        return f"It knew of no drift, and {alone}."
    names = ", ".join(seen.columns[:_NAMES]) + (", ..." if len(seen.columns) > _NAMES else "")
    return f"{len(seen.columns)} of {seen.of} columns had drifted{f' ({names})' if names else ''}; {alone}."


def _outcome(one: Outcome) -> str:
    if one.state == "nothing":
        return "nothing was trained on it"
    if one.state == "waiting":
        return "its candidate is still to be trained"
    if one.state == "lapsed":
        return f"it lapsed (record {one.record}): {one.reason}"
    if one.state == "candidate":
        return f"version {one.version}, which is not judged yet"
    undone = f", and was rolled back since: {one.rolled_back}" if one.rolled_back else ""
    return f"version {one.version} was {one.state} (record {one.record}): {one.reason}{undone}"
