"""The guard before training: which decision to train is carried out now, on what, and why others are not.

A decision to retrain is taken by monitoring alone. What the guard adds is whether it still stands when its turn comes. One
that does not is recorded as lapsed, so that nothing waits for its candidate; the next decision goes by newer data.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import RequestError
from mlops_provider.ledger import Draft, Record, last
from mlops_provider.partitions import parse_duration
from mlops_provider.steps.records import DataWork, Split, SplitRef
from mlops_provider.steps.training.identity import TrainArguments, version_fingerprint
from mlops_provider.steps.training.split import save_split

if TYPE_CHECKING:
    from mlops_provider.steps.plan import State

log = logging.getLogger("mlops_provider")


class TrainWork(Frozen):
    """What to train a candidate on, and why."""

    split: SplitRef
    why: str


def asked(state: State, holdout: str) -> TrainWork:
    """What a person asks for, which always counts.

    :raises RequestError: if there is too little data for it, or some of it is to be made anew first.
    """
    if state.hindrance:
        raise RequestError(f"nothing is trained on {holdout} now: {state.hindrance}")
    found = split(state, holdout)
    work = TrainWork(split=save_split(state.job, found), why="a person asked for it")
    if known := _trained(state, found, work.split):
        log.info("version %d has this very fingerprint: it is what comes out, unless `force` makes another", known)
    return work


def decided(state: State) -> TrainWork | None:
    """The oldest decision to train that still stands and waits for its candidate. Those that do not stand lapse."""
    for decision in state.records:
        if decision.kind != "retrain" or decision.outcome != "train" or state.lapsed(decision.partition):
            continue
        if work := _carried_out(state, decision):
            return work
    return None


def _carried_out(state: State, decision: Record) -> TrainWork | None:
    partition = decision.partition
    if found := state.candidates(partition):
        log.debug("%s is not trained on: version %d was trained for it", partition, found[-1].version)
        return None
    if state.hindrance:
        log.warning("%s is not trained on yet: %s", partition, state.hindrance)
        return None
    if partition not in state.accepted:
        log.warning("%s is not trained on: its data was refused after that was decided; it waits for other", partition)
        return None
    if why := _overtaken(state, decision):
        _lapse(state, decision, why)
        return None
    try:
        return TrainWork(split=save_split(state.job, split(state, partition)), why=decision.reason)
    except RequestError as error:
        _lapse(state, decision, f"too little data: {error}")
        return None


def _overtaken(state: State, decision: Record) -> str:
    """Why a decision is no longer of use; empty if it is."""
    if state.decided > decision.partition:
        return f"the decision on {state.decided} came after it"
    champion = state.champion
    if champion and champion.seen_until >= decision.partition:
        return f"the champion, version {champion.version}, has seen data until {champion.seen_until}: nothing fair to compare on"
    return ""


def _lapse(state: State, decision: Record, why: str) -> None:
    log.warning("%s is not trained on: %s", decision.partition, why)
    draft = Draft(
        kind="lapse",
        partition=decision.partition,
        outcome="lapsed",
        reason=why,
        facts={"decision": decision.number, "decided_because": decision.reason},
    )

    def guard(records: tuple[Record, ...]) -> Record | None:
        return last((r for r in records if r.facts.get("decision") == decision.number), "lapse")

    state.job.ledger.append(draft, actor=state.job.deployment.actor, guard=guard)


def _trained(state: State, found: Split, ref: SplitRef) -> int | None:
    """The version that has the fingerprint of what is asked for, if there is one."""
    fingerprint = version_fingerprint(state.job, found, TrainArguments(split=ref))
    return next((v.version for v in state.candidates(ref.holdout) if v.fingerprint == fingerprint), None)


def split(state: State, holdout: str) -> Split:
    """Everything before the holdout to fit on (within the window), the holdout to judge on, and the label delay between.

    :raises RequestError: if the holdout was not accepted, or too little comes before it.
    """
    window, data = state.job.config.training.window, state.job.config.data
    if holdout not in state.accepted:
        raise RequestError(f"partition {holdout} has no accepted data, it cannot be the holdout")
    fit = [version for name, version in state.accepted.items() if name < holdout][-(window.size or 0) :]
    if len(fit) < window.minimum:
        raise RequestError(f"{len(fit)} labelled partitions before {holdout}, {window.minimum} are needed to fit on")
    judged = state.accepted[holdout]
    record = last(state.records, "data", partition=holdout)
    assert record is not None
    return Split(
        fit=tuple(fit),
        holdout=judged,
        holdout_work=DataWork.model_validate(record.facts["work"]),
        cutoff=judged.first - parse_duration(data.lead),
    )
