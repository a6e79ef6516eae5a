"""The design of an A/B test: what is asked, how many entities that needs, and when it ends; frozen before the test begins.

It is created once under ``ab_tests/<model>/<name>/design.json``. What is not in it cannot be chosen after the outcomes are known.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Annotated, Any

from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConflictError, DataError, IntegrityError, RequestError
from mlops_provider.partitions import parse_duration
from mlops_provider.sections.base import NAME, Duration, Name
from mlops_provider.steps.release.ab_assign import SALT
from mlops_provider.steps.release.ab_outcomes import Metric, keys, numbers, per_entity, read, value_checks
from mlops_provider.steps.release.ab_statistics import Question, Sizes, assured, detectable, needed, total_for
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, canonical_json, digest

# A test that takes longer than a year compares two versions that nobody wants any more.
_LONGEST = 366

_Free = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,62}$")]
_Version = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Chance = Annotated[float, Field(gt=0, lt=1)]


def _numbered(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be the number of a version or a name")
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


Variant = Annotated[_Version | _Free, BeforeValidator(_numbered)]


class Baseline(Frozen):
    """The metric without the treatment: mean and standard deviation over entities, or the rate of a proportion.

    :param entities: of how many it was measured; None if it was given.
    """

    mean: float | None = Field(None, allow_inf_nan=False)
    sd: Positive | None = None
    rate: Chance | None = None
    entities: int | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Baseline:
        given = (self.mean is not None, self.sd is not None, self.rate is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("give mean and sd for a mean, or rate for a proportion")
        return self


class DesignABTestArguments(Frozen):
    """What is asked of an A/B test.

    :param name: of the test, one of this model's.
    :param control: a version of the model, or a free name; `treatment` likewise. The outcomes name them so.
    :param share: of the entities that get the treatment.
    :param salt: of the assignment; ``<model>.<name>`` if empty, so that tests assign independently of each other.
    :param entity: column with the key of the entity that is randomized: a customer, not an order.
    :param arm: column with the version or name that the entity was served with.
    :param time: column with the time of an outcome, UTC where it does not say; empty if the outcomes have none.
    :param baseline: the metric without treatment; measured on `past` if None.
    :param past: URI of past data with the columns of entity and metric: parquet, a folder of parquet, or CSV.
    :param effect: the smallest one worth knowing, absolute, in the unit of the metric (0.01 is a percentage point).
    :param alpha: chance of showing a difference where there is none, both directions together.
    :param power: chance of showing the smallest effect worth knowing, where there is one.
    :param start: when the first entity may be served, with its time zone.
    :param per_day: entities expected a day that were not in the test before.
    :param end: when the test ends; as soon as enough entities are expected, in whole days, if None.
    :param delay: how long after the end the last outcome is known.
    """

    name: Name
    control: Variant
    treatment: Variant
    share: Chance = 0.5
    salt: str = Field("", pattern=rf"^({SALT})?$")
    entity: str = Field(min_length=1)
    arm: str = Field("variant", min_length=1)
    time: str = ""
    metric: Metric
    baseline: Baseline | None = None
    past: str = ""
    effect: Positive
    alpha: Chance = 0.05
    power: Chance = 0.8
    start: AwareDatetime
    per_day: Positive
    end: AwareDatetime | None = None
    delay: Duration = "0d"

    @field_validator("start", "end")
    @classmethod
    def _utc(cls, moment: dt.datetime | None) -> dt.datetime | None:
        return moment.astimezone(dt.UTC) if moment else None

    @model_validator(mode="after")
    def _fits(self) -> DesignABTestArguments:
        if str(self.control) == str(self.treatment):
            raise ValueError(f"control and treatment are both {self.control}: there is nothing to compare")
        if self.power <= self.alpha:
            raise ValueError(f"power {self.power:g} must be above alpha {self.alpha:g}: chance alone reaches that")
        if (self.baseline is None) != bool(self.past):
            raise ValueError("give baseline, or past to measure it on, and not both")
        if self.baseline and (self.baseline.rate is not None) != (self.metric.kind == "proportion"):
            raise ValueError(
                f"baseline: mean and sd go with a mean, rate with a proportion; this is a {self.metric.kind}"
            )
        if self.end and self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%d %H:%M} is not after start {self.start:%Y-%m-%d %H:%M}")
        if self.end and self.end - self.start > dt.timedelta(days=_LONGEST):
            raise ValueError(f"end {self.end:%Y-%m-%d %H:%M} is more than {_LONGEST} days after start")
        columns = [name for name in (self.entity, self.arm, self.time, self.metric.name) if name]
        if len(set(columns)) < len(columns):
            raise ValueError(f"entity, arm, time and metric are columns of their own, found {', '.join(columns)}")
        return self


class Design(Frozen):
    """A frozen design.

    :param asked: what was asked, with the salt that counts.
    :param past: what the baseline was measured on, by hash.
    :param needed: entities an arm.
    :param total: entities that have to come, so that chance gives both arms what they need.
    :param detectable: the effect that so many as are expected by the end show, in the unit of the metric.
    :param due: when the verdict may be asked for: the end and the delay of the outcomes.
    """

    model: str
    asked: DesignABTestArguments
    baseline: Baseline
    past: Artifact | None = None
    needed: Sizes
    total: int
    detectable: float
    end: dt.datetime
    due: dt.datetime
    actor: str
    at: dt.datetime

    @property
    def hash(self) -> str:
        return digest(self.model_dump(mode="json"))


@step("design_ab_test", arguments=DesignABTestArguments, result=Design, cached=False)
def design_ab_test(job: Job, arguments: DesignABTestArguments) -> Design:
    """Freezes the design of a test, or finds it frozen.

    :raises ConflictError: if there is a test of this name that asks something else.
    :raises RequestError: if the test would have begun already, a version is not registered, or the entities that it needs do
        not come by its end; with the effect that it could show.
    :raises DataError: if the baseline cannot be measured on the past data.
    """
    asked = arguments.model_copy(update={"salt": arguments.salt or f"{job.config.name}.{arguments.name}"})
    if found := _stored(job, asked.name):
        return _same(found, asked)
    if asked.start <= now():
        raise RequestError(
            f"the test {asked.name} would have begun at {asked.start:%Y-%m-%d %H:%M} UTC, which is past: a design is made before "
            "the first outcome can be known; give a later start"
        )
    _require_registered(job, asked)
    design = _planned(job, asked)
    content = canonical_json(design.model_dump(mode="json"), indent=1)
    if job.storage.create(_uri(job, asked.name), content):
        return design
    return _same(frozen(job, asked.name), asked)


def frozen(job: Job, name: str) -> Design:
    """The design of a test.

    :raises RequestError: if there is none, or the name is none.
    :raises IntegrityError: if the file is no design.
    """
    if not re.fullmatch(NAME, name):
        raise RequestError(f"{name!r} is no name of an A/B test ({NAME})")
    if found := _stored(job, name):
        return found
    raise RequestError(f"the model {job.config.name} has no A/B test {name!r}: it is designed before it begins")


def question(design: Design) -> Question:
    """What the test is to find out, in numbers."""
    return _question(design.asked, design.baseline)


def now() -> dt.datetime:
    """The clock that designs and verdicts go by."""
    return dt.datetime.now(dt.UTC)


def _stored(job: Job, name: str) -> Design | None:
    uri = _uri(job, name)
    if not job.storage.exists(uri):
        return None
    try:
        return Design.model_validate_json(job.storage.read(uri))
    except ValidationError as error:
        raise IntegrityError(f"{uri} is no design of an A/B test, it was damaged or replaced") from error


def _uri(job: Job, name: str) -> str:
    return job.under("ab_tests", name, "design.json")


def _same(found: Design, asked: DesignABTestArguments) -> Design:
    before, after = (one.model_dump(mode="json") for one in (found.asked, asked))
    if changed := [key for key in after if after[key] != before[key]]:
        told = "; ".join(f"{key} {before[key]} and now {after[key]}" for key in changed)
        raise ConflictError(
            f"the A/B test {asked.name} was designed at {found.at:%Y-%m-%d %H:%M} UTC with {told}. A design is frozen: give the "
            "other test a name of its own"
        )
    return found


def _require_registered(job: Job, asked: DesignABTestArguments) -> None:
    """:raises RequestError: for the number of a version that the ledger does not know."""
    numbered = [version for version in (asked.control, asked.treatment) if isinstance(version, int)]
    known = {r.version for r in job.ledger.records() if r.kind == "candidate"} if numbered else set()
    for version in numbered:
        if version not in known:
            raise RequestError(
                f"version {version} of {job.config.name} was never registered; the versions are {sorted(map(str, known))}"
            )


def _planned(job: Job, asked: DesignABTestArguments) -> Design:
    past, baseline = (None, asked.baseline) if asked.baseline else _measured(job, asked)
    assert baseline is not None
    asking = _question(asked, baseline)
    try:
        sizes = needed(asking, asked.effect)
    except ValueError as error:
        raise RequestError(f"effect: {error}; give an effect that can be") from error
    total = total_for(sizes, asked.share)
    end = _end(asked, asking, total)
    come = _come(asked, end)
    found = detectable(asking, assured(come, asked.share))
    assert found is not None
    return Design(
        model=job.config.name,
        asked=asked,
        baseline=baseline,
        past=past,
        needed=sizes,
        total=total,
        detectable=found,
        end=end,
        due=end + parse_duration(asked.delay),
        actor=job.deployment.actor,
        at=now(),
    )


def _question(asked: DesignABTestArguments, baseline: Baseline) -> Question:
    mean = baseline.mean if baseline.rate is None else baseline.rate
    sd = baseline.sd or math.sqrt((baseline.rate or 0) * (1 - (baseline.rate or 0)))
    assert mean is not None
    return Question(kind=asked.metric.kind, mean=mean, sd=sd, share=asked.share, alpha=asked.alpha, power=asked.power)


def _measured(job: Job, asked: DesignABTestArguments) -> tuple[Artifact, Baseline]:
    """The baseline on past data, by entity as the outcomes will be."""
    content, table = read(job, asked.past, [asked.entity, asked.metric.name])
    entities, values = keys(table[asked.entity], asked.entity), numbers(table[asked.metric.name], asked.metric.name)
    problems = [check.detail for check in value_checks(values, asked.metric) if not check.passed]
    if missing := int(entities.isna().sum()):
        problems.append(f"{missing} rows have no {asked.entity}")
    if problems:
        raise DataError(f"{content.uri}, column {asked.metric.name!r}: {'; '.join(problems)}")
    found = per_entity(entities, values, asked.metric)
    if len(found) < 2 or found.min() == found.max():
        raise DataError(
            f"{content.uri}: {asked.metric.name!r} is the same for all of {len(found)} entities: nothing can be planned on that"
        )
    if asked.metric.kind == "proportion":
        return content, Baseline(rate=float(found.mean()), entities=len(found))
    return content, Baseline(mean=float(found.mean()), sd=float(found.std()), entities=len(found))


def _come(asked: DesignABTestArguments, end: dt.datetime) -> int:
    """The entities expected by a moment; a hair is forgiven, as days times entities a day are not exact."""
    return math.floor(asked.per_day * ((end - asked.start) / dt.timedelta(days=1)) + 1e-6)


def _end(asked: DesignABTestArguments, asking: Question, total: int) -> dt.datetime:
    """When the test ends.

    :raises RequestError: if too few entities are expected by then.
    """
    days = math.ceil(total / asked.per_day)
    end = asked.end or (asked.start + dt.timedelta(days=min(days, _LONGEST)))
    come = _come(asked, end)
    if come >= total:
        return end
    reach = detectable(asking, assured(come, asked.share)) if come else None
    shown = f"They would show an effect of {reach:.4g} or more" if reach else "They would show no effect, however large"
    limit = f"by {end:%Y-%m-%d %H:%M} UTC" if asked.end else f"in {_LONGEST} days, the longest that a test may take"
    raise RequestError(
        f"an effect of {asked.effect:g} needs {total:,} entities, which is {days:,} days at {asked.per_day:g} a day; {come:,} are "
        f"expected {limit}. {shown}: give a larger effect, more entities or a later end"
    )
