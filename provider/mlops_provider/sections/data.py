"""The section `data` of model.yaml: where data comes from, what it must be, how it is kept and noticed."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from mlops_provider.partitions import SLACK, Frequency, beside, parse_duration
from mlops_provider.sections.base import REF, Duration, Function, Inside, Name, Section, Share, Span


class Label(Section):
    """What came true, and when it is known.

    A row whose label is null is unlabelled. What else is needed follows from `training.objective`: nothing for a number
    (``regression``), or for a relevance from 0 to 30 (``lambdarank``).

    :param positive_above: makes a binary label of a number: 1 above it, 0 up to it.
    :param classes: the values of the column that are the classes, in the order of their scores.
    """

    source: str
    column: str
    positive_above: float | None = Field(None, allow_inf_nan=False)
    classes: tuple[str | int, ...] = Field((), max_length=1_000)
    delay: Duration

    @field_validator("classes", mode="before")
    @classmethod
    def _no_truth_values(cls, classes: object) -> object:
        if isinstance(classes, list | tuple) and any(isinstance(name, bool) for name in classes):
            raise ValueError(
                "must be text or whole numbers; YAML reads yes, no, on, off, true and false otherwise: put quotes"
            )
        return classes

    @field_validator("classes")
    @classmethod
    def _of_one_kind(cls, classes: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("names a class twice")
        if len({type(name) for name in classes}) > 1:
            raise ValueError("must be all text or all whole numbers, as the column holds them")
        return classes


class Suites(Section):
    """Great Expectations suites, as JSON or YAML files in the model's directory."""

    raw: Inside
    features: Inside


class Dvc(Section):
    """Where accepted data is versioned: a git repository with a DVC remote. Relative places lie under data_root."""

    repository: str
    remote: str
    path: Name


class Completeness(Section):
    """When a partition that is there is taken for complete.

    :param complete: ``stable``: its files are the same in two looks. ``marker``: a marker file lies there and is not older
        than them. ``rows``: stable, and its parquet files hold at least `rows`.
    :param marker: name of the marker, in the folder of the source; may hold ``{partition}``.
    """

    complete: Literal["stable", "marker", "rows"] = "stable"
    marker: str = Field("_SUCCESS", pattern=r"^[^/*?\[\]]+$")
    rows: int = Field(1, ge=1)

    def marker_of(self, source: str) -> str:
        """URI of the marker of a source.

        :raises ValueError: if all partitions would share it.
        """
        if "{partition}" not in (uri := beside(source, self.marker)):
            raise ValueError(
                f"marker: all partitions of {source} would share {uri}: put {{partition}} into the marker's name, or end the "
                "source with '/' if a partition is a folder"
            )
        return uri


class Watch(Completeness):
    """How partitions are noticed when nobody posts an event.

    :param poll: time between two looks at the source.
    """

    poll: Span = "60s"


class History(Section):
    """A further table that features are built from.

    :param known_at: its column with the moment from which each row was known; a table with timestamps needs one, so that
        it can be checked that no feature looks ahead.
    """

    source: str
    known_at: str | None = None


def _by_source(told: object) -> object:
    """A table without a time needs no more than its source."""
    return {"source": told} if isinstance(told, str) else told


class Past(Section):
    """Earlier partitions with what came true, handed to the features function as ``history["past"]``.

    :param window: how far back it reaches from a partition's first predictions.
    """

    window: Span


PAST, KNOWN_AT = "past", "known_at"


class Limits(Section):
    """What the model's own tests may use. Each process may use that much; `wall` ends all of them.

    :param memory: address space, which is more than what is resident: pandas alone asks for half a gibibyte.
    """

    cpu_seconds: int = Field(300, ge=1, le=86_400)
    memory: str = Field("4GiB", pattern=r"^[1-9]\d{0,5}(MiB|GiB)$")
    wall: Duration = "10m"
    processes: int = Field(64, ge=1, le=4_096)


class Code(Section):
    """Where the model's code and its tests are looked up when a run asks for a commit. Never taken from `conf`.

    :param repository: git repository; None if only the code as deployed is tested.
    :param path: the model's directory in it; ``include/models/<name>`` if not given.
    :param refs: regular expression that the whole of an asked ref must match.
    :param protected: branches that only reviewed code gets into; a commit must be reachable from one of them.
    :param allow_untrusted_refs: test commits that are not, for instance those of a merge request.
    """

    repository: str | None = Field(None, pattern=r"^[A-Za-z0-9._/~]")
    path: Inside | None = None
    refs: str = r"[A-Za-z0-9].*"
    protected: tuple[Annotated[str, StringConstraints(pattern=REF)], ...] = Field(("main",), min_length=1)
    allow_untrusted_refs: bool = False
    limits: Limits = Limits()

    @field_validator("repository")
    @classmethod
    def _no_secret(cls, repository: str | None) -> str | None:
        scheme = (repository or "").partition("://")[0]
        if "::" in scheme or ("://" in (repository or "") and scheme not in ("https", "http", "ssh", "git", "file")):
            raise ValueError("must be a path or an address with https://, http://, ssh://, git:// or file://")
        if re.match(r"[a-z]+://[^/@]*:[^/@]*@", repository or ""):
            raise ValueError("must hold no password: git's credential helpers bring it")
        return repository

    @field_validator("refs")
    @classmethod
    def _expression(cls, refs: str) -> str:
        try:
            re.compile(refs)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return refs


class Changes(Section):
    """How far a partition may differ from the accepted ones before it, and from what is plausible.

    :param row_count: relative: rows more or fewer, as a share of the last accepted partition's rows.
    :param null_share: absolute: a column's share of nulls may differ by this much from the last accepted partition's.
    :param columns: what a column of the inputs that was added, removed or retyped means; `jumps` likewise.
    :param duplicates: what a key means that was accepted before; ``allow`` where keys name what returns, a customer say.
    :param leakage: a feature whose AUC against the label, alone and in either direction, is above this is a leak.
    :param partitions: how many accepted partitions may not share a key with this one.
    :param slack: how far outside of its partition in UTC an event time may lie, for partitions of a local calendar; the
        length of a partition, but no more than a day, if it is not given.
    """

    row_count: float = Field(0.5, gt=0, allow_inf_nan=False)
    null_share: Share = 0.2
    jumps: Literal["fail", "warn"] = "warn"
    columns: Literal["fail", "warn"] = "fail"
    duplicates: Literal["fail", "warn", "allow"] = "fail"
    leakage: float = Field(0.98, gt=0.5, le=1)
    partitions: int = Field(12, ge=1, le=1_000)
    slack: Duration | None = None

    @field_validator("slack")
    @classmethod
    def _at_most_a_day(cls, slack: str | None) -> str | None:
        # Who reads partitions by event time looks no further than that.
        if slack is not None and parse_duration(slack) > SLACK:
            raise ValueError("must not be more than 24h")
        return slack


class Validation(Section):
    """What a failed critical expectation means.

    ``fail`` refuses the partition, ``warn`` lets it through with a warning, ``quarantine`` puts the rows that break it aside
    and lets the rest through, unless they are more than `max_share` of all rows.

    :param engine: ``auto`` streams on one machine and leaves the rest to Great Expectations on pandas; ``spark`` leaves all
        of it to Great Expectations on Spark.
    """

    mode: Literal["fail", "warn", "quarantine"] = "fail"
    max_share: Share = 0.05
    engine: Literal["auto", "spark"] = "auto"

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Validation:
        if self.engine == "spark" and self.mode == "quarantine":
            raise ValueError("engine spark does not put rows aside: choose mode fail or warn")
        return self


class Data(Section):
    """Where the data comes from. Relative URIs lie under the deployment's data_root.

    :param source: inputs of a partition, labels not needed; holds ``{partition}``.
    :param columns: the columns of the inputs that features may be built from. Nothing else is read.
    :param pii: columns of the inputs, labels or history that tell who a person is: their values are written nowhere.
    :param history: further tables handed to the features function by name.
    :param past: hands it the outcomes of earlier partitions, too.
    :param lead: how long before `event_time` the prediction is made: nothing known later may be used.
    :param code: repository and limits of the model's own tests.
    :param replay: function that delivers partitions for demos and tests, as ``feed.py:deliver``.
    :param watch: look for new inputs and labels, instead of being told. It shapes no model, so that it is no part of the
        code archive and of fingerprints.
    :param changes: what a partition is held against beside its suites.
    :param group: column of the inputs that says which rows are ranked against each other, a query or a session say.
    """

    source: str
    partition: Frequency
    key: str
    event_time: str
    group: str | None = None
    lead: Duration = "0h"
    columns: tuple[str, ...] = Field(min_length=1)
    pii: tuple[str, ...] = ()
    history: dict[str, Annotated[History, BeforeValidator(_by_source, json_schema_input_type=str | History)]] = {}
    past: Past | None = None
    label: Label
    suites: Suites
    validation: Validation = Validation()
    dvc: Dvc
    code: Code | None = None
    replay: Function | None = None
    watch: Watch | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _private(self) -> Data:
        needed = {self.key: "key", self.event_time: "event_time", self.label.column: "label.column"}
        needed |= {t.known_at: f"history.{name}.known_at" for name, t in self.history.items() if t.known_at}
        for name in self.pii:
            if name in needed:
                raise ValueError(
                    f"pii must not name {name!r} ({needed[name]}): tables and reports hold it. Have a pseudonym delivered"
                )
            if name in self.columns:
                raise ValueError(f"columns must not name {name!r}: it is marked pii, and features would see it")
        return self

    changes: Changes = Changes()

    @model_validator(mode="after")
    def _told_apart(self) -> Data:
        if self.source == self.label.source:
            raise ValueError("label.source must not be source: inputs arrive first and are scored, labels come later")
        if self.key == self.event_time:
            raise ValueError(f"key and event_time must be two columns, both are {self.key!r}")
        if self.label.column == self.key:
            raise ValueError(f"label.column must not be the key {self.key!r}: labels are found by it")
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise ValueError(f"columns names {', '.join(twice)} more than once")
        return self

    @model_validator(mode="after")
    def _places(self) -> Data:
        sources = {"source": self.source, "label.source": self.label.source}
        sources |= {f"history.{name}.source": table.source for name, table in self.history.items()}
        for name, uri in sources.items():
            if odd := sorted(set(uri.replace("{partition}", "")) & set("*?[]{}")):
                raise ValueError(
                    f"{name} must not hold {' '.join(odd)}: it names one file, and only {{partition}} stands for something"
                )
        return self

    @model_validator(mode="after")
    def _grouped(self) -> Data:
        if self.group and self.group not in self.columns:
            raise ValueError(f"columns must name {self.group!r} (group)")
        if self.group in (self.key, self.event_time):
            raise ValueError(f"group must be a column of its own, {self.group!r} is key or event_time")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        for name, uri in (("source", self.source), ("label.source", self.label.source)):
            if "{partition}" not in uri:
                raise ValueError(f"{name} must hold {{partition}}: each partition has files of its own")
        for name in (self.key, self.event_time):
            if name not in self.columns:
                raise ValueError(f"columns must name {name!r} (key and event_time)")
        if self.label.column in self.columns:
            raise ValueError(f"columns must not name the label {self.label.column!r}: features would see it")
        if self.watch and self.watch.complete == "marker":
            for source in (self.source, self.label.source):
                self.watch.marker_of(source)
        if PAST in self.history:
            raise ValueError(f"history must not name a table {PAST!r}: data.past brings the one of that name")
        if self.past and (taken := sorted({KNOWN_AT, "label"} & set(self.columns))):
            raise ValueError(f"columns must not name {', '.join(taken)}: data.past adds it to the rows of the past")
        return self
