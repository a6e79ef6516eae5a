"""Ledgers written by hand, in memory: a record a line, with the facts that the loops would put there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.ledger import Kind, Record

BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PERIODIC = {"policy": "periodic", "every": 1, "windows": 3, "violations": 2}


def measured(version: int, auc: float, *, coverage: float = 0.95, measured: bool = True) -> dict[str, Any]:
    """What `quality` found: at least .7 is asked for of the auc, and labels for 90 %."""
    checks = [
        Check(name="auc", passed=auc >= 0.7, value=auc, threshold="at least 0.7")
        if measured
        else could_not_run("auc", "was not measured"),
        Check(name="label_coverage", passed=coverage >= 0.9, value=coverage, threshold=0.9),
    ]
    return {
        "version": version,
        "metrics": {"auc": auc} if measured else {},
        "low": auc - 0.01,
        "high": auc + 0.01,
        "coverage": coverage,
        "verdict": Verdict(subject="quality", checks=tuple(checks)).model_dump(mode="json"),
    }


def drifted(distances: Mapping[str, float | None]) -> dict[str, Any]:
    """What `drift` found, by column; a distance from .1 on is drift, None is a column without any value."""
    checks = [
        Check(name="drift", passed=value is not None and value < 0.1, value=value, severity="warn", subject=name)
        for name, value in distances.items()
    ]
    columns = [check.subject for check in checks if not check.passed]
    share = Check(name="drifted_share", passed=not columns, severity="warn")
    verdict = Verdict(subject="inputs", checks=(*checks, share))
    return {"columns": columns, "of": len(distances), "verdict": verdict.model_dump(mode="json")}


class Book:
    """Takes records down; each is an hour after the one before it, unless `hours` since the beginning are given."""

    def __init__(self) -> None:
        self.records: tuple[Record, ...] = ()

    def write(
        self,
        kind: Kind,
        partition: str,
        outcome: str,
        *,
        version: int | None = None,
        reason: str = "as it is",
        hours: float | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Record:
        at = BEGIN + dt.timedelta(hours=len(self.records) if hours is None else hours)
        record = Record(
            number=len(self.records) + 1,
            previous=self.records[-1].hash if self.records else "",
            kind=kind,
            partition=partition,
            version=version,
            outcome=outcome,
            reason=reason,
            facts=facts or {},
            actor="test",
            at=at,
        )
        self.records += (record,)
        return record

    def data(self, partition: str, *, rows: int = 100, labelled: int = 90, **given: Any) -> Record:
        facts = {"data": {"rows": rows, "labelled": labelled}}
        return self.write("data", partition, "accepted", facts=facts, **given)

    def decide(
        self,
        partition: str,
        outcome: str = "train",
        *,
        reason: str = "asked for",
        hours: float | None = None,
        **given: Any,
    ) -> Record:
        """:param given: policy, drift, quality or unscored, where they are not the usual ones."""
        facts = {"policy": PERIODIC, "drift": None, "quality": None, "unscored": None} | given
        return self.write("retrain", partition, outcome, reason=reason, hours=hours, facts=facts)

    def candidate(self, version: int, partition: str, *, drill: str | None = None, **given: Any) -> Record:
        facts = {"version": {"version": version, "drill": drill}, "evaluation": {"metric": "auc"}}
        return self.write("candidate", partition, "registered", version=version, facts=facts, **given)

    def promote(self, version: int, partition: str, **given: Any) -> Record:
        return self.write("promotion", partition, "promoted", version=version, **given)

    def roll_back(self, version: int, *, left: int, **given: Any) -> Record:
        return self.write("rollback", "p", "rolled_back", version=version, facts={"champion": left}, **given)

    def refuse(
        self,
        version: int,
        partition: str,
        *,
        outcome: str = "no_proven_gain",
        failed: tuple[str, ...] = ("auc_gain",),
        **given: Any,
    ) -> Record:
        """:param failed: names of the checks that failed, ``name`` or ``name/subject``."""
        checks = [Check(name="parity", passed=True), Check(name="useless_features", passed=False, severity="warn")]
        parts = [name.partition("/") for name in failed]
        checks += [Check(name=name, passed=False, subject=subject) for name, _, subject in parts]
        verdict = Verdict(subject="tiny", checks=tuple(checks)).model_dump(mode="json")
        return self.write(
            "refusal", partition, outcome, version=version, facts={"judged": {"verdict": verdict}}, **given
        )

    def life(self, version: int, partition: str, **given: Any) -> None:
        """A partition is accepted, decided on, and has its candidate registered; the verdict on it is still to come."""
        self.data(partition)
        self.decide(partition, **given)
        self.candidate(version, partition)
