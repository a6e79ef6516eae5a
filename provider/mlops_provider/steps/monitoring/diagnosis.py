"""Candidates refused in a row: what they have in common, told from the ledger.

One refusal is the gate at work. Three in a row say that training once more will not help: the diagnosis puts side by side
what kept the candidates back and what is known of the data that they were judged on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.ledger import Draft, Record, last

ROW = 3
_FEATURES = 5
_BY_TESTS = {"tests_failed", "untested"}


class RefusedCandidate(Frozen):
    """A candidate that was refused.

    :param failed: the checks of the gate that stood in its way, with their subjects.
    :param label_coverage: share of the rows of its holdout, as it was accepted, that have a label, 0 to 1; None if the
        ledger has no record of that.
    :param champion_missed: metrics that the champion of that time missed on the partition, as the decision to retrain saw it;
        None if it was not judged there. None missed at all may mean that the champion is simply still good.
    """

    version: int
    partition: str
    outcome: str
    reason: str
    failed: tuple[str, ...]
    label_coverage: float | None = None
    champion_missed: tuple[str, ...] | None = None


class DriftedFeature(Frozen):
    """A feature that drifted in the partitions that the candidates were judged on.

    :param partitions: in how many of them.
    :param distance: the largest that was found, of those over their threshold; None if a side had no value at all, which is
        as far as can be.
    """

    name: str
    partitions: int
    distance: float | None = None


class Diagnosis(Frozen):
    """What candidates that were refused in a row have in common.

    :param advice: one sentence: what wants work.
    :param count: how many were refused in a row; `refused` holds the last three of them.
    :param failed_in_all: the checks of the gate that failed in all three; with a subject if that was the same too.
    :param drifted: up to five features, those first that drifted in most partitions and then the farthest.
    :param drift_known: the partitions whose drift was looked at before the decision to retrain; of others nothing is told.
    :param not_compared: features whose drift could not be checked in one of them.
    """

    advice: str
    count: int
    refused: tuple[RefusedCandidate, ...]
    failed_in_all: tuple[str, ...]
    drifted: tuple[DriftedFeature, ...]
    drift_known: tuple[str, ...]
    not_compared: tuple[str, ...] = ()


def drills(records: Iterable[Record]) -> frozenset[int]:
    """The versions that were made to be refused."""
    candidates = (r for r in records if r.kind == "candidate" and r.version is not None)
    return frozenset(r.version for r in candidates if r.version is not None and r.facts["version"].get("drill"))


def missed(quality: dict[str, Any]) -> tuple[Check, ...]:
    """The metrics that were measured and missed their thresholds, from the `quality` of a decision to retrain.

    Missing labels are no loss of quality.
    """
    verdict = Verdict.model_validate(quality["verdict"])
    return tuple(check for check in verdict.checks if check.name in quality["metrics"] and check.state == "fail")


def row(records: Sequence[Record], pending: Draft | None = None) -> tuple[Record | Draft, ...]:
    """The refusals since the last promotion or rollback, the last one of each candidate, oldest first.

    Drills do not count, nor does a champion that a person had judged again. Decisions that lapsed have no candidate.

    :param pending: a refusal that is about to be recorded.
    """
    aside, champion = drills(records), None
    found: dict[int, Record | Draft] = {}
    for entry in (*records, *((pending,) if pending else ())):
        if entry.kind in ("promotion", "rollback"):
            champion = entry.version
            found.clear()
        elif entry.kind == "refusal" and entry.version is not None and entry.version not in (champion, *aside):
            found.pop(entry.version, None)
            found[entry.version] = entry
    return tuple(found.values())


def diagnosis(records: Sequence[Record], pending: Draft | None = None) -> Diagnosis | None:
    """The diagnosis of candidates refused in a row; None if they are fewer than three.

    :param records: the ledger of a model; nothing else is read.
    :param pending: a refusal that is about to be recorded.
    """
    standing = row(records, pending)
    if len(standing) < ROW:
        return None
    three = standing[-ROW:]
    if pending and pending not in three:
        return None  # what is about to be recorded is no part of the row
    drifts = {entry.partition: found for entry in three if (found := _drift(records, entry))}
    return Diagnosis(
        advice=_advice(len(standing), three),
        count=len(standing),
        refused=tuple(_refused(records, entry) for entry in three),
        failed_in_all=_in_all([_problems(entry) for entry in three]),
        drifted=_farthest(drifts.values()),
        drift_known=tuple(drifts),
        not_compared=tuple(sorted({c.subject for checks in drifts.values() for c in checks if c.state == "error"})),
    )


def _advice(count: int, three: Sequence[Record | Draft]) -> str:
    """Tests of the model's code say nothing of its data: where they alone refused, they come first."""
    told = f"{count} candidates in a row were refused"
    if all(entry.outcome in _BY_TESTS for entry in three):
        return f"{told} for the model's own tests: neither data nor model, the code wants work"
    return f"{told}: the data, not the model, wants work"


def _refused(records: Sequence[Record], entry: Record | Draft) -> RefusedCandidate:
    assert entry.version is not None
    quality = _decision(records, entry).get("quality")
    return RefusedCandidate(
        version=entry.version,
        partition=entry.partition,
        outcome=entry.outcome,
        reason=entry.reason,
        failed=tuple(_label(check.name, check.subject) for check in _problems(entry)),
        label_coverage=_coverage(records, entry),
        champion_missed=tuple(check.name for check in missed(quality)) if quality else None,
    )


def _problems(entry: Record | Draft) -> tuple[Check, ...]:
    return Verdict.model_validate(entry.facts["judged"]["verdict"]).problems


def _label(name: str, subject: str) -> str:
    return f"{name} ({subject})" if subject else name


def _in_all(found: Sequence[tuple[Check, ...]]) -> tuple[str, ...]:
    """What failed each time, in the order of the last: the same check of the same subject, or at least the same check."""
    every = [{(check.name, check.subject) for check in checks} for checks in found]
    both = set.intersection(*every)
    names = set.intersection(*({name for name, _ in pairs} for pairs in every)) - {name for name, _ in both}
    told = (
        _label(name, subject) if (name, subject) in both else name
        for name, subject in ((check.name, check.subject) for check in found[-1])
        if (name, subject) in both or name in names
    )
    return tuple(dict.fromkeys(told))


def _before(records: Sequence[Record], entry: Record | Draft) -> Iterator[Record]:
    """What stood in the ledger when a candidate was refused."""
    return (r for r in records if not isinstance(entry, Record) or r.number < entry.number)


def _coverage(records: Sequence[Record], entry: Record | Draft) -> float | None:
    accepted = (r for r in _before(records, entry) if r.outcome == "accepted")
    record = last(accepted, "data", partition=entry.partition)
    if record is None or not record.facts["data"]["rows"]:
        return None
    return float(record.facts["data"]["labelled"] / record.facts["data"]["rows"])


def _decision(records: Sequence[Record], entry: Record | Draft) -> dict[str, Any]:
    """What the decision to retrain on the holdout stood on; nothing if there was none."""
    record = last(_before(records, entry), "retrain", partition=entry.partition)
    return record.facts if record else {}


def _drift(records: Sequence[Record], entry: Record | Draft) -> tuple[Check, ...]:
    """The checks of single features that the decision to retrain on the holdout stood on; none if it knew of no drift."""
    found = _decision(records, entry).get("drift")
    if not found:
        return ()
    return tuple(check for check in Verdict.model_validate(found["verdict"]).checks if check.name == "drift")


def _farthest(drifts: Iterable[tuple[Check, ...]]) -> tuple[DriftedFeature, ...]:
    by: dict[str, list[float]] = {}
    for checks in drifts:
        for check in checks:
            if check.state == "warn":
                by.setdefault(check.subject, []).append(_distance(check))
    order = sorted(by, key=lambda name: (-len(by[name]), -max(by[name]), name))
    return tuple(
        DriftedFeature(name=name, partitions=len(by[name]), distance=_finite(max(by[name])))
        for name in order[:_FEATURES]
    )


def _distance(check: Check) -> float:
    return check.value if isinstance(check.value, float) else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def render(found: Diagnosis) -> str:
    """The diagnosis for a log or a terminal, several lines."""
    lines = [f"{found.advice}."]
    for one in found.refused:
        lines.append(f"  version {one.version} on {one.partition}: {one.outcome} - {one.reason}")
        lines.append(
            f"    rows with a label: {_share(one.label_coverage)}; the champion there: {_held(one.champion_missed)}"
        )
    lines.append(f"  failed in all of them: {', '.join(found.failed_in_all) or 'no check of the gate'}")
    if not found.drift_known:
        return "\n".join([*lines, "  drift: not looked at before these were decided"])
    told = ", ".join(_shown(one) for one in found.drifted) or "no feature"
    lines.append(f"  drifted most in {', '.join(found.drift_known)}: {told}")
    if found.not_compared:
        lines.append(f"  drift could not be checked of: {', '.join(found.not_compared)}")
    return "\n".join(lines)


def _share(coverage: float | None) -> str:
    return "not known" if coverage is None else f"{coverage:.1%}"


def _held(names: tuple[str, ...] | None) -> str:
    if names is None:
        return "not judged"
    return f"missed {', '.join(names)}" if names else "missed no threshold"


def _shown(one: DriftedFeature) -> str:
    distance = "no value on one side" if one.distance is None else f"up to {one.distance:.3g}"
    return f"{one.name} ({one.partitions} x, {distance})"
