"""The verdict on an A/B test: once, after its end, on all outcomes together.

Who looks at a test before its end and stops when it pleases finds differences where there are none (Johari et al. 2017, "Peeking
at A/B Tests", KDD). So outcomes are not read before, the effect is computed only if nothing stands against it, and what was
found is stored once and stands.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import DataError, IntegrityError, RequestError
from mlops_provider.sections.base import Name
from mlops_provider.steps.release.ab_assign import assign_all, texts
from mlops_provider.steps.release.ab_design import Design, frozen, now
from mlops_provider.steps.release.ab_outcomes import (
    described,
    keys,
    none_wrong,
    numbers,
    per_entity,
    read,
    value_checks,
)
from mlops_provider.steps.release.ab_statistics import Estimate, Sizes, newcombe, ratio_p, welch
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, canonical_json, digest

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mlops_provider")

# Rarer than any other test of ours: a mismatch ends a test, and tests are many.
_RATIO_P = 0.001

Decision = Literal["treatment better", "treatment worse", "no difference shown", "no verdict"]


class ABTestArguments(Frozen):
    """Which test, and where its outcomes are.

    :param outcomes: URI of a parquet or CSV file or a folder of parquet files, or a recorded table; None asks for the verdict
        that stands.
    """

    name: Name
    outcomes: str | Artifact | None = None


class Arm(Frozen):
    """An arm as it came out: entities, and mean and standard deviation of the metric over them."""

    version: int | str
    entities: int
    mean: float
    sd: float


class ABTested(Frozen):
    """What came of an A/B test.

    :param decision: ``treatment better``, ``treatment worse`` or ``no difference shown``; ``no verdict`` if a check erred, and
        then the effect was not looked at.
    :param estimate: treatment minus control, with its interval at 1 - alpha; None without a verdict.
    :param verdict: passed only if the treatment is better.
    :param design: hash of the design that was judged by.
    :param outcomes: what was read.
    :param refused: how often outcomes were read before without a verdict; the effect was never looked at.
    """

    name: str
    metric: str
    decision: Decision
    reason: str
    control: Arm | None = None
    treatment: Arm | None = None
    estimate: Estimate | None = None
    verdict: Verdict
    design: str
    outcomes: Artifact
    refused: int = 0
    actor: str
    at: dt.datetime


@dataclass(frozen=True)
class _Rows:
    """Rows of outcomes. `arms` are as they were served, `values` float64 [n]; all of one length."""

    entities: pd.Series[str]
    arms: pd.Series[str]
    values: Any
    times: pd.Series[Any] | None


@step("ab_test", arguments=ABTestArguments, result=ABTested, cached=False)
def ab_test(job: Job, arguments: ABTestArguments) -> ABTested:
    """Judges a test whose end has come. Asked again, it returns the verdict that stands, whatever became of the data.

    :raises RequestError: before the end, and if there is no such test.
    :raises DataError: if the outcomes cannot be read.
    """
    design = frozen(job, arguments.name)
    if found := standing(job, arguments.name):
        _tell_changed(job, found, arguments.outcomes)
        return found
    _require_due(design)
    if arguments.outcomes is None:
        raise RequestError(f"the A/B test {arguments.name} has no verdict yet: give outcomes")
    found = _judged(job, design, arguments.outcomes)
    content = canonical_json(found.model_dump(mode="json"), indent=1)
    if found.decision == "no verdict":
        job.storage.create(
            job.under("ab_tests", arguments.name, "refused", f"{digest(content.decode())[:16]}.json"), content
        )
        return found
    if job.storage.create(_uri(job, arguments.name), content):
        return found
    other = standing(job, arguments.name)
    assert other is not None
    return other


def standing(job: Job, name: str) -> ABTested | None:
    """The verdict on a test; None if there is none yet.

    :raises IntegrityError: if the file is no verdict, or one on another design.
    """
    uri = _uri(job, name)
    if not job.storage.exists(uri):
        return None
    try:
        found = ABTested.model_validate_json(job.storage.read(uri))
    except ValidationError as error:
        raise IntegrityError(f"{uri} is no verdict on an A/B test, it was damaged or replaced") from error
    if found.design != frozen(job, name).hash:
        raise IntegrityError(
            f"{uri} is the verdict on another design than design.json beside it: one of them was replaced"
        )
    return found


def columns(design: Design) -> list[str]:
    """The columns that outcomes must have."""
    asked = design.asked
    return [asked.entity, asked.arm, asked.metric.name, *([asked.time] if asked.time else [])]


def _uri(job: Job, name: str) -> str:
    return job.under("ab_tests", name, "verdict.json")


def _require_due(design: Design) -> None:
    if now() < design.due:
        raise RequestError(
            f"the A/B test {design.asked.name} runs until {design.end:%Y-%m-%d %H:%M} UTC and is judged from "
            f"{design.due:%Y-%m-%d %H:%M} UTC on: no outcome is read before. Ask again then"
        )


def _tell_changed(job: Job, found: ABTested, given: str | Artifact | None) -> None:
    told = f"the A/B test {found.name} was judged at {found.at:%Y-%m-%d %H:%M} UTC: {found.decision}"
    if given is None:
        log.info("%s", told)
        return
    try:
        changed = described(job, given).hash != found.outcomes.hash
    except DataError as error:
        log.warning("%s; its outcomes cannot be read any more (%s), the verdict stands", told, error)
        return
    if changed:
        log.warning("%s; the outcomes have changed since, the verdict stands", told)
    else:
        log.info("%s", told)


def _judged(job: Job, design: Design, given: str | Artifact) -> ABTested:
    asked = design.asked
    content, table = read(job, given, columns(design))
    rows = _rows(design, table)
    checks = _row_checks(design, rows)
    frame = _per_entity(design, rows)
    checks += _entity_checks(design, frame)
    found: dict[str, Any] = {"decision": "no verdict"}
    if all(check.passed for check in checks):
        found, effect = _effect(design, frame)
        checks.append(effect)
    verdict = Verdict(subject=f"{design.model} A/B test {asked.name}", checks=tuple(checks))
    return ABTested(
        name=asked.name,
        metric=asked.metric.name,
        reason=_reason(design, verdict, found),
        verdict=verdict,
        design=design.hash,
        outcomes=content,
        refused=len(job.storage.names(job.under("ab_tests", asked.name, "refused"))),
        actor=job.deployment.actor,
        at=now(),
        **found,
    )


def _rows(design: Design, table: Any) -> _Rows:
    asked = design.asked
    return _Rows(
        entities=keys(table[asked.entity], asked.entity),
        arms=texts(table[asked.arm], f"the column {asked.arm!r}").to_pandas(),
        values=numbers(table[asked.metric.name], asked.metric.name),
        times=_times(table[asked.time], asked.time) if asked.time else None,
    )


def _times(column: Any, name: str) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        raise DataError(f"the column {name!r} is {column.type}: it must hold timestamps")
    found: pd.Series[Any] = pd.to_datetime(column.to_pandas(), utc=True)
    return found


def _row_checks(design: Design, rows: _Rows) -> list[Check]:
    """What can be told row by row: keys, arms, times and values."""
    asked = design.asked
    names = [str(asked.control), str(asked.treatment)]
    foreign = int((~rows.arms.isin(names)).sum())
    checks = [
        none_wrong("entities_present", int(rows.entities.isna().sum()), asked.entity, "rows have no key of an entity"),
        none_wrong("arms_known", foreign, asked.arm, f"rows were served with neither {names[0]} nor {names[1]}"),
    ]
    if rows.times is not None:
        inside = (rows.times >= design.asked.start) & (rows.times < design.due)
        limits = f"{asked.start:%Y-%m-%d %H:%M} to {design.due:%Y-%m-%d %H:%M} UTC"
        checks.append(none_wrong("times_inside", int((~inside).sum()), asked.time, f"rows are not of {limits}"))
    return [*checks, *value_checks(rows.values, asked.metric)]


def _per_entity(design: Design, rows: _Rows) -> pd.DataFrame:
    """One row an entity, by its key: value, treatment (bool), crossed (bool: it was served with both). Rows that other checks
    speak of are left out."""
    import pandas as pd

    treated = rows.arms == str(design.asked.treatment)
    usable = (rows.entities.notna() & (treated | (rows.arms == str(design.asked.control)))).to_numpy()
    entities = rows.entities[usable]
    arms = treated[usable].groupby(entities.to_numpy(), sort=False).agg(["min", "max"])
    value = per_entity(entities, rows.values[usable], design.asked.metric)
    return pd.DataFrame({"value": value, "treatment": arms["max"], "crossed": arms["min"] != arms["max"]})


def _entity_checks(design: Design, frame: pd.DataFrame) -> list[Check]:
    """What can be told entity by entity, without a look at the effect."""
    asked = design.asked
    crossed = int(frame["crossed"].sum())
    due = assign_all(frame.index.to_series(), asked.salt, asked.share)
    other = int((due != frame["treatment"].to_numpy()).sum())
    treatment = int(frame["treatment"].sum())
    sizes = Sizes(control=len(frame) - treatment, treatment=treatment)
    return [
        none_wrong("one_arm_each", crossed, asked.entity, "entities were served with both arms"),
        none_wrong(
            "as_assigned", other, asked.entity, f"entities were not served as the salt {asked.salt} assigns them"
        ),
        _ratio(sizes, asked.share),
        _enough("control", asked.control, sizes.control, design.needed.control),
        _enough("treatment", asked.treatment, sizes.treatment, design.needed.treatment),
    ]


def _ratio(sizes: Sizes, share: float) -> Check:
    total = sizes.control + sizes.treatment
    if not total:
        return could_not_run("sample_ratio", "there are no entities to compare")
    p = ratio_p(sizes, share)
    detail = f"{sizes.treatment:,} of {total:,} entities had the treatment, {share:.4g} was the share: p {p:.2g}"
    if p < _RATIO_P:
        detail += ". Entities went missing from one arm, or came into it: find out where before anything is compared"
    return Check(
        name="sample_ratio", passed=p >= _RATIO_P, value=p, threshold=_RATIO_P, severity="error", detail=detail
    )


def _enough(arm: str, version: int | str, found: int, need: int) -> Check:
    detail = "" if found >= need else f"the horizon is not reached: {found:,} of {need:,} entities"
    return Check(
        name=f"enough_{arm}",
        passed=found >= need,
        value=found,
        threshold=need,
        severity="error",
        subject=str(version),
        detail=detail,
    )


def _effect(design: Design, frame: pd.DataFrame) -> tuple[dict[str, Any], Check]:
    """The effect, its check, and what goes with it into the result."""
    arms = [frame.loc[frame["treatment"] == treated, "value"] for treated in (False, True)]
    asked = design.asked
    if flat := _flat(design, arms):
        return {"decision": "no verdict"}, could_not_run("variance", flat, subject=asked.metric.name)
    sizes, means = [len(arm) for arm in arms], [float(arm.mean()) for arm in arms]
    if asked.metric.kind == "proportion":
        bounds = newcombe(means, sizes, asked.alpha)
    else:
        bounds = welch(means, [float(arm.var()) for arm in arms], sizes, asked.alpha)
    estimate = Estimate(**dict(zip(("effect", "low", "high"), map(float, bounds), strict=True)))
    decision = _decision(estimate, larger_is_better=asked.metric.larger_is_better)
    found = {
        "decision": decision,
        "estimate": estimate,
        "control": Arm(version=asked.control, entities=sizes[0], mean=means[0], sd=float(arms[0].std())),
        "treatment": Arm(version=asked.treatment, entities=sizes[1], mean=means[1], sd=float(arms[1].std())),
    }
    return found, _effect_check(design, estimate, decision)


def _flat(design: Design, arms: list[pd.Series[float]]) -> str:
    """Why there is nothing to reckon with; empty if there is."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        finite = all(np.isfinite(arm.var()) for arm in arms)
    if not finite:
        return "the values are too large to add up"
    constant = [arm.min() == arm.max() for arm in arms]
    if all(constant) or (any(constant) and design.asked.metric.kind == "mean"):
        which = "both arms" if all(constant) else "the control" if constant[0] else "the treatment"
        return f"all entities of {which} have the same value: without variance there is no interval"
    return ""


def _decision(estimate: Estimate, *, larger_is_better: bool) -> Decision:
    if estimate.low <= 0 <= estimate.high:
        return "no difference shown"
    return "treatment better" if (estimate.low > 0) == larger_is_better else "treatment worse"


def _effect_check(design: Design, estimate: Estimate, decision: Decision) -> Check:
    name, above = design.asked.metric.name, design.asked.metric.larger_is_better
    return Check(
        name=f"{name}_effect",
        passed=decision == "treatment better",
        value=estimate.effect,
        threshold=f"interval {'above' if above else 'below'} 0",
        subject=str(design.asked.treatment),
        detail=f"{decision}: {_told(design, estimate)}",
    )


def _told(design: Design, estimate: Estimate) -> str:
    return (
        f"{estimate.effect:+.6g}, {1 - design.asked.alpha:.4g} interval [{estimate.low:+.6g}, {estimate.high:+.6g}], against "
        f"{design.asked.control}"
    )


def _reason(design: Design, verdict: Verdict, found: dict[str, Any]) -> str:
    if found["decision"] == "no verdict":
        return f"no verdict: {verdict.reason()}"
    told = f"{found['decision']}: {design.asked.metric.name} {_told(design, found['estimate'])}"
    if found["decision"] == "no difference shown":
        told += (
            f". An effect of {design.asked.effect:g} would have been shown with a chance of {design.asked.power:.0%}"
        )
    return told
