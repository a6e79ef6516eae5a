"""The ML Test Score of a model: 28 tests of production readiness, and which of our checks answer them with which evidence.

Breck, Cai, Nielsen, Salib, Sculley 2017, "The ML Test Score: A Rubric for ML Production Readiness and Technical Debt Reduction".
Its arithmetic: a test that runs by itself again and again is worth 1, one that a person ran and documented 0.5; each of
the four sections is summed, and the score is the least of the sums.

Here a row counts as automated only if a check that answers it ran for this model and left its record, and a fault injection among
our own tests turns that check red. Whatever else we do about a row is told and counts nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from mlops_provider.checks import Check, Frozen
from mlops_provider.exceptions import ConfigError
from mlops_provider.ledger import Record
from mlops_provider.steps.step import Job

Room = Literal["validate", "compare_history", "gate", "drift", "quality"]
Standing = Literal["automated", "manual", "not covered"]
SECTIONS = ("data", "model", "infra", "monitor")
MANUAL = "scorecard.yaml"
# A fault for each automated row is injected by this test of ours.
INJECTION = "tests/unit/test_scorecard.py::test_a_fault_turns_its_check_red"
_POINTS = {"automated": 1.0, "manual": 0.5, "not covered": 0.0}


class Row(Frozen):
    """A test of the rubric, and what of ours answers it.

    :param id: section and number, as in the paper: data-1 to monitor-7.
    :param room: where its check is made; None if none is.
    :param checks: patterns of the names of the checks; ``{metrics}`` stands for the metrics that model.yaml sets limits for.
    :param injected: whether a fault injection turns it red, see `INJECTION`.
    :param missing: why no check answers it.
    """

    id: str
    title: str
    room: Room | None = None
    checks: tuple[str, ...] = ()
    injected: bool = False
    missing: str = ""


class Line(Frozen):
    """How a model stands with a test of the rubric.

    :param check: the check that answers it; `evidence` where it was recorded, and whether it passed.
    :param injection: our test that turns the check red.
    :param reason: why the row is not covered.
    """

    id: str
    title: str
    standing: Standing
    check: str = ""
    evidence: str = ""
    injection: str = ""
    reason: str = ""


class Scorecard(Frozen):
    """All 28 lines.

    :param sections: points of each section; `score` is the least of them.
    """

    model: str
    lines: tuple[Line, ...]
    sections: dict[str, float]
    score: float


class Manual(Frozen):
    """A test of the rubric that a person ran and documented, in ``scorecard.yaml`` of the model's directory.

    :param by: who, on which `date`, with which `result`; `report` says where it can be read.
    """

    by: str
    date: str
    result: str
    report: str


_RUNS_NOTHING = "no check records it"
ROWS = (
    Row(
        id="data-1", title="Feature expectations are captured in a schema", room="validate",
        checks=("table_*", "column_*", "multicolumn_*", "select_*"), injected=True,
    ),
    Row(id="data-2", title="All features are beneficial", room="gate", checks=("useless_features",), injected=True),
    Row(id="data-3", title="No feature's cost is too much", room="gate", checks=("costly_features",), injected=True),
    Row(
        id="data-4", title="Features adhere to meta-level requirements", room="compare_history",
        checks=("leakage",), injected=True,
    ),
    Row(
        id="data-5", title="The data pipeline has appropriate privacy controls",
        missing="columns marked in data.pii are kept away by construction; no check records it for a model",
    ),
    Row(id="data-6", title="New features can be added quickly", missing="a matter of the team's practice; not measured"),
    Row(id="data-7", title="All input feature code is tested", room="gate", checks=("code_tests",), injected=True),
    Row(id="model-1", title="Model specs are reviewed and submitted", missing=f"code comes from named refs; {_RUNS_NOTHING}"),
    Row(id="model-2", title="Offline and online metrics correlate", missing="online metrics are not known here"),
    Row(
        id="model-3", title="All hyperparameters have been tuned",
        missing="training.tune searches those of its space; no check says that these are all",
    ),
    Row(
        id="model-4", title="The impact of model staleness is known",
        missing="the evaluation shows quality by age of past versions; no check holds it against a limit",
    ),
    Row(
        id="model-5", title="A simpler model is not better", room="gate",
        checks=("simpler_model_is_not_better",), injected=True,
    ),
    Row(
        id="model-6", title="Model quality is sufficient on important data slices", room="gate",
        checks=("slices", "slice_*"), injected=True,
    ),
    Row(
        id="model-7", title="The model is tested for considerations of inclusion", room="gate",
        checks=("demographic_parity_difference", "equalized_odds_difference"), injected=True,
    ),
    Row(
        id="infra-1", title="Training is reproducible",
        missing="equal fingerprints give equal trees, which our own tests prove; no check repeats it for a model",
    ),
    Row(
        id="infra-2", title="Model specs are unit tested",
        missing="the model's own tests run (data-7); whether they test its specification nobody checks",
    ),
    Row(
        id="infra-3", title="The ML pipeline is integration tested",
        missing="our own tests run all loops; no check runs them for a model",
    ),
    Row(
        id="infra-4", title="Model quality is validated before serving", room="gate",
        checks=("{metrics}", "*_gain"), injected=True,
    ),
    Row(
        id="infra-5", title="The model is debuggable",
        missing="mlops_provider.load(...).explain shows one row's way through the trees; no check runs it",
    ),
    Row(id="infra-6", title="Models are canaried before serving", missing="there is no canary"),
    Row(
        id="infra-7", title="Serving models can be rolled back",
        missing="the DAG <model>.rollback does it, and our own tests prove it; no check rehearses it for a model",
    ),
    Row(id="monitor-1", title="Dependency changes result in notification", missing=_RUNS_NOTHING),
    Row(
        id="monitor-2", title="Data invariants hold for inputs", room="compare_history",
        checks=("columns_*", "row_count_jump", "null_share_jump"), injected=True,
    ),
    Row(
        id="monitor-3", title="Training and serving are not skewed", room="drift",
        checks=("drift",), injected=True,
    ),
    Row(id="monitor-4", title="Models are not too stale", missing="no check limits the age of the champion"),
    Row(id="monitor-5", title="Models are numerically stable", room="gate", checks=("extreme_inputs",), injected=True),
    Row(
        id="monitor-6", title="Computing performance has not regressed", room="gate",
        checks=("latency", "size"), injected=True,
    ),
    Row(
        id="monitor-7", title="Prediction quality has not regressed", room="quality",
        checks=("{metrics}",), injected=True,
    ),
)  # fmt: skip


class Seen(Frozen):
    """A check as it was recorded, and where."""

    check: Check
    where: str


def scorecard(job: Job) -> Scorecard:
    """The scorecard of a model, from what its loops have recorded.

    :raises ConfigError: if the model's scorecard.yaml cannot be used.
    """
    manual, records = _manual(job), _recorded(job)
    lines = tuple(_line(job, row, manual.get(row.id), records) for row in ROWS)
    sections = {name: _points(line for line in lines if line.id.startswith(name)) for name in SECTIONS}
    return Scorecard(model=job.config.name, lines=lines, sections=sections, score=min(sections.values()))


def _points(lines: Iterable[Line]) -> float:
    return sum(_POINTS[line.standing] for line in lines)


def _line(job: Job, row: Row, manual: Manual | None, records: list[tuple[str, str, dict[str, Any]]]) -> Line:
    about = {"id": row.id, "title": row.title}
    reason = row.missing
    if row.room is not None:
        seen = _evidence(job, row, records)
        if seen is not None and row.injected:
            check = seen.check
            told = f"{seen.where}: {check.state}{f' ({check.subject})' if check.subject else ''}"
            injection = f"{INJECTION}[{row.id}]"
            return Line(**about, standing="automated", check=check.name, evidence=told, injection=injection)
        reason = (
            f"its check ({', '.join(row.checks)}) has not run for this model"
            if seen is None
            else "no fault turns it red"
        )
    if manual is not None:
        told = f"{manual.by} on {manual.date}: {manual.result}; {manual.report}"
        return Line(**about, standing="manual", evidence=told, reason=reason)
    return Line(**about, standing="not covered", reason=reason)


def _evidence(job: Job, row: Row, records: list[tuple[str, str, dict[str, Any]]]) -> Seen | None:
    """A check that answers a row, the newest of those in the ledger. One that carries the row's id counts whatever its name is."""
    limits = job.config.gates.thresholds if row.room == "gate" else job.config.monitoring.quality.thresholds
    names = [name for check in row.checks for name in (limits if check == "{metrics}" else (check,))]
    for room, where, value in records:
        for check in _checks(value) if room == row.room else ():
            named = any(fnmatch.fnmatchcase(check.name, name) for name in names)
            if (check.severity != "error" or check.passed) and (named or check.rubric == row.id):
                return Seen(check=check, where=where)
    return None


def _recorded(job: Job) -> list[tuple[str, str, dict[str, Any]]]:
    """What the ledger has in which checks may stand, newest first: room, place, content."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for record in reversed(job.ledger.records()):
        where = f"ledger record {record.number} ({record.kind} {record.partition})"
        if record.kind == "data":
            found += [(room, where, _named_only(record)) for room in ("validate", "compare_history")]
        if record.kind in ("promotion", "refusal"):
            found.append(("gate", where, record.facts.get("judged") or {}))
        if record.kind == "retrain":
            found += [(room, where, record.facts.get(room) or {}) for room in ("drift", "quality")]
    return found


def _named_only(record: Record) -> dict[str, Any]:
    """The checks that let a partition in, of which its record keeps name and state."""
    checked = record.facts.get("checked") or {}
    checks = [
        Check(name=name, passed=state == "pass", severity="fail" if state == "pass" else state).model_dump()
        for name, state in checked.items()
    ]
    return {"subject": record.partition, "checks": checks}


def _checks(value: Any) -> Iterator[Check]:
    """Every check in a record, however deep it lies."""
    if isinstance(value, dict) and {"subject", "checks"} <= set(value):
        yield from (Check.model_validate(check) for check in value["checks"])
    elif isinstance(value, dict):
        for item in value.values():
            yield from _checks(item)
    elif isinstance(value, list):
        for item in value:
            yield from _checks(item)


def _manual(job: Job) -> dict[str, Manual]:
    """What people have documented, by row."""
    text = job.model.files.get(MANUAL)
    if text is None:
        return {}
    where = f"{job.config.name}: {MANUAL}"
    try:
        given = yaml.safe_load(text) or {}
        found = {str(row): Manual.model_validate(told) for row, told in given.items()}
    except (AttributeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{where}: each row holds by, date, result and report, as text: {error}") from error
    if unknown := sorted(set(found) - {row.id for row in ROWS}):
        raise ConfigError(f"{where}: there is no row {', '.join(unknown)}; they are data-1 to monitor-7")
    return found


def render(card: Scorecard) -> str:
    """The table for a terminal."""
    lines = [f"ML Test Score of {card.model}: {card.score:g} (the least of the four sections)"]
    for section in SECTIONS:
        lines += ["", f"{section}: {card.sections[section]:g} of 7"]
        for line in (line for line in card.lines if line.id.startswith(section)):
            why = f"{line.check}, {line.evidence}" if line.standing == "automated" else line.evidence or line.reason
            lines.append(f"  {line.id:<10} {line.standing:<12} {line.title}\n{'':<26}{why}")
    return "\n".join(lines)
