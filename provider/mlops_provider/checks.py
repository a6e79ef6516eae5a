"""`Check` and `Verdict`: the one currency of every judgement in the house.

A Great Expectations result, a gate, a drifted column, a parity comparison: all are the same record, so that one table
shows them, one rule decides, and nothing fails open: a check that could not run is an `error`, and a verdict without
checks is no pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from mlops_provider.exceptions import Refused

Severity = Literal["error", "fail", "warn"]


class Frozen(BaseModel):
    """A small immutable record that travels as JSON; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Scalar = float | int | str | None


class Unexpected(Frozen):
    """The rows that break an expectation.

    :param count: how many.
    :param share: of the rows that have a value, 0 to 1; None if no row has one.
    :param missing: rows without a value; they break nothing.
    :param examples: up to 20 rows: number of the row, its key, and the value where it may be shown.
    """

    rows: int
    count: int
    share: float | None = None
    missing: int = 0
    examples: tuple[dict[str, Scalar], ...] = ()


class Check(Frozen):
    """One thing that was looked at.

    :param name: what was checked, for instance ``auc_gain``.
    :param passed: whether it holds.
    :param value: what was observed; None where it could not be observed.
    :param threshold: what was asked for, in words or as a number.
    :param severity: what a failed check means: ``error`` (could not be checked), ``fail`` or ``warn``.
    :param subject: what it is about: a column, a slice, a model version.
    :param detail: one sentence for a person.
    :param rubric: id of the test of the ML Test Score (Breck et al. 2017) that the check answers, if any.
    :param unexpected: the rows that break it, for a check of every row.
    """

    name: str
    passed: bool
    value: float | str | None = None
    threshold: float | str | None = None
    severity: Severity = "fail"
    subject: str = ""
    detail: str = ""
    rubric: str | None = None
    unexpected: Unexpected | None = None

    @field_validator("value", "threshold")
    @classmethod
    def _json_has_no_nan(cls, value: float | str | None) -> float | str | None:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    @property
    def state(self) -> str:
        """``pass``, or the severity of the failure."""
        return "pass" if self.passed else self.severity


def could_not_run(name: str, why: str, *, subject: str = "") -> Check:
    """The check of something that could not be checked: an error, never a pass."""
    return Check(name=name, passed=False, severity="error", subject=subject, detail=why)


class Verdict(Frozen):
    """Several checks on one subject, judged together: passed only if there are checks and none failed or erred."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that stand in the way: failures and errors, not warnings."""
        return tuple(c for c in self.checks if not c.passed and c.severity != "warn")

    @property
    def passed(self) -> bool:
        return bool(self.checks) and not self.problems

    @property
    def outcome(self) -> str:
        """``pass``, ``warn``, ``fail`` or ``error``: the worst that was found."""
        if not self.checks:
            return "error"
        states = {c.state for c in self.checks}
        return next(s for s in ("error", "fail", "warn", "pass") if s in states)

    def reason(self) -> str:
        """One line: what stands in the way, or that nothing does."""
        if not self.checks:
            return f"{self.subject}: nothing was checked"
        if self.passed:
            return f"{self.subject}: {len(self.checks)} checks passed"
        return "; ".join(f"{c.name}{f' ({c.subject})' if c.subject else ''}: {_told(c)}" for c in self.problems)

    def require(self) -> Verdict:
        """Returns itself if it passed.

        :raises Refused: with the reason, if not.
        """
        if not self.passed:
            raise Refused(f"{self.subject} refused: {self.reason()}")
        return self

    def markdown(self) -> str:
        """A table for the task log and for reports, worst first."""
        order = ("error", "fail", "warn", "pass")
        rows = sorted(self.checks, key=lambda c: order.index(c.state))
        head = f"**{self.subject}: {self.outcome}**\n\n| state | check | subject | value | threshold | detail |\n"
        return head + "|---|---|---|---|---|---|\n" + "".join(_row(c) for c in rows)


def merge(subject: str, verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict over the checks of several. An empty one among them stays visible as an error."""
    checks: list[Check] = []
    for verdict in verdicts:
        checks += verdict.checks or (could_not_run("empty_verdict", "nothing was checked", subject=verdict.subject),)
    return Verdict(subject=subject, checks=tuple(checks))


def _told(check: Check) -> str:
    seen = "" if check.value is None else f"{_short(check.value)} against {_short(check.threshold)}"
    return " - ".join(part for part in (seen, check.detail) if part) or check.severity


def _row(c: Check) -> str:
    cells = (c.state, c.name, c.subject, _short(c.value), _short(c.threshold), c.detail)
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _short(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
