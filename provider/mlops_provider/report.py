"""What happened to a model, told from the ledger, the predictions and the lineage: the closing table and its assertions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlops_provider.checks import Frozen
from mlops_provider.ledger import Record, champion, last
from mlops_provider.loops import known_drift
from mlops_provider.steps import plan
from mlops_provider.steps.monitoring import diagnosis
from mlops_provider.steps.monitoring.diagnosis import Diagnosis
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job


class Line(Frozen):
    """One partition.

    :param rows: rows scored, cancelled and unlabelled ones included; None if it was not scored.
    :param fitted: partitions that the version which scored it was fitted on.
    :param quality: primary metric of the predictions made, once the labels arrived; `low` and `high` bound it.
    :param outcome: promoted, refused for one of the gate's reasons, or why nothing was trained.
    :param champion: champion after the partition was decided.
    """

    partition: str
    rows: int | None = None
    scored_by: int | None = None
    fitted: tuple[str, ...] = ()
    drifted: str = ""
    quality: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: str = ""
    reason: str = ""
    champion: int | None = None


class Story(Frozen):
    """The lines of a model and its drills.

    :param drills: outcome of each drill by version.
    :param champion: the version that is champion now; `rollback` says why, if it is so by a rollback.
    :param diagnosis: of three and more candidates refused in a row by now.
    """

    model: str
    metric: str
    lines: tuple[Line, ...]
    drills: dict[int, str] = {}
    champion: int | None = None
    rollback: str = ""
    diagnosis: Diagnosis | None = None


def story(job: Job) -> Story:
    """Everything that the loops decided about the model so far."""
    state = plan.State(job)
    versions = {v.version: v for v in (state.version(r) for r in state.records if r.kind == "candidate")}
    lines = tuple(_line(job, state, versions, name) for name in sorted({*state.inputs, *state.labels, *state.accepted}))
    decisions = (r for r in state.records if r.kind in ("refusal", "promotion"))
    drills = {r.version: r.outcome for r in decisions if r.version and versions[r.version].drill}
    now = champion(state.records)
    return Story(
        model=job.config.name,
        metric=job.config.evaluation.metric,
        lines=lines,
        drills=drills,
        champion=now.version if now else None,
        rollback=now.reason if now and now.kind == "rollback" else "",
        diagnosis=diagnosis.diagnosis(state.records),
    )


def _line(job: Job, state: plan.State, versions: dict[int, ModelVersion], partition: str) -> Line:
    records = [r for r in state.records if r.partition == partition and not _drill(r, versions)]
    found, drift = manifest(job, partition), known_drift(job, partition)
    decision = last(records, "retrain")
    quality = decision.facts.get("quality") if decision else None
    release = last(records, "promotion", "refusal") or decision or last(records, "data")
    fitted: tuple[str, ...] = ()
    if found:
        lineage = job.storage.read_json(versions[found.version].lineage.uri)
        fitted = tuple(data["partition"] for data in lineage["data"]["fit"])
    return Line(
        partition=partition,
        rows=found.rows if found else None,
        scored_by=found.version if found else None,
        fitted=fitted,
        drifted=f"{len(drift['columns'])}/{drift['of']}" if drift else "",
        quality=quality["metrics"].get(job.config.evaluation.metric) if quality else None,
        low=quality["low"] if quality else None,
        high=quality["high"] if quality else None,
        outcome=release.outcome if release else "delivered",
        reason=release.reason if release else _awaited(state, partition),
        champion=_champion_after(state.records, release),
    )


def _drill(record: Record, versions: dict[int, ModelVersion]) -> bool:
    version = versions.get(record.version) if record.version is not None else None
    return bool(version and version.drill)


def _awaited(state: plan.State, partition: str) -> str:
    """What a partition that nothing is known of waits for."""
    if partition not in state.labels:
        return "waits for its labels"
    return state.work(partition).problem


def _champion_after(records: tuple[Record, ...], record: Record | None) -> int | None:
    """The champion once a partition was decided; that of now if it is not decided yet."""
    until = [r for r in records if record is None or r.number <= record.number]
    promoted = last(until, "promotion", "rollback")
    return promoted.version if promoted else None


def broken(told: Story, *, promotion: bool = True) -> list[str]:
    """What must hold of every story, and does not.

    :param promotion: whether a candidate must have been promoted by now.
    """
    faults = []
    for line in told.lines:
        if line.rows is not None and (not line.fitted or line.partition <= max(line.fitted)):
            faults.append(f"{line.partition} was scored by version {line.scored_by}, which was fitted on {line.fitted}")
    promoted = {line.partition for line in told.lines if line.outcome == "promoted"}
    if promotion and told.lines and not promoted:
        faults.append("no candidate was promoted")
    return faults


def render(told: Story) -> str:
    """The table for a terminal."""
    head = ("month", "rows", "drifted", f"{told.metric} [interval]", "decision", "champion", "why")
    rows = [_cells(line) for line in told.lines]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
    table = "\n".join(_aligned(row, widths) for row in [head, tuple("-" * w for w in (*widths, 3)), *rows])
    below = [f"Champion now: v{told.champion}, by a rollback {told.rollback}"] if told.rollback else []
    below += [diagnosis.render(told.diagnosis)] if told.diagnosis else []
    return "\n\n".join([table, *below])


def _cells(line: Line) -> tuple[str, ...]:
    quality = ""
    if line.quality is not None:
        quality = f"{line.quality:.3f}"
        if line.low is not None and line.high is not None:
            quality += f" [{line.low:.3f}, {line.high:.3f}]"
    champion = f"v{line.champion}" if line.champion is not None else "none"
    rows = f"{line.rows:,}" if line.rows is not None else "not scored"
    return (line.partition, rows, line.drifted, quality, line.outcome, champion, line.reason)


def _aligned(row: Iterable[str], widths: list[int]) -> str:
    cells = list(row)
    return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]).rstrip()


def as_json(told: Story, faults: list[str]) -> dict[str, Any]:
    """The story and what was found broken in it, as JSON."""
    return told.model_dump(mode="json") | {"broken": faults}
