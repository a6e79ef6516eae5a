"""The ledger: write-once records of every decision about a model, each naming its predecessor.

Creating record n+1 *is* the decision, and the only compare-and-set there is. Aliases and tags in the registry are a
projection of the ledger, written after it and repaired from it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import ValidationError

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConflictError, IntegrityError
from mlops_provider.storage import Storage, canonical_json, digest, join

Kind = Literal["data", "retrain", "lapse", "candidate", "promotion", "refusal", "rollback", "unscored"]
_ATTEMPTS = 100


class Record(Frozen):
    """One decision.

    :param number: 1, 2, 3, ...: its place in the ledger.
    :param previous: hash of the record before it; empty for the first.
    :param kind: data (a partition was accepted or refused), retrain (whether to train), lapse (of a decision to train that
        no longer stood), candidate (a version was registered), promotion, refusal (of a candidate), rollback, unscored (the
        champion cannot score a partition).
    :param partition: the data partition that the decision is about.
    :param version: the model version that the decision is about, where there is one.
    :param reason: one sentence for a person.
    :param facts: what the decision stood on, as JSON.
    :param actor: who decided: a DAG run, a terminal, a person.
    :param at: time of the decision, UTC.
    """

    number: int
    previous: str
    kind: Kind
    partition: str
    version: int | None = None
    outcome: str
    reason: str
    facts: dict[str, Any] = {}
    actor: str
    at: dt.datetime

    @property
    def hash(self) -> str:
        return digest(self.model_dump(mode="json"))


class Draft(Frozen):
    """A record that is not yet in the ledger."""

    kind: Kind
    partition: str
    version: int | None = None
    outcome: str
    reason: str
    facts: dict[str, Any] = {}


Guard = Callable[[tuple[Record, ...]], Record | None]
"""Looks at the ledger before each attempt to append. Returns the record that makes a new one superfluous, or None;
raises ConflictError if the decision no longer stands."""


class Ledger:
    """The ledger of one model.

    :param root: artifact root of the deployment.
    :param model: name of the model.
    """

    def __init__(self, storage: Storage, root: str, model: str) -> None:
        self._storage, self._folder, self.model = storage, join(root, "ledger", model), model
        self._known: dict[int, Record] = {}

    def records(self) -> tuple[Record, ...]:
        """All records, oldest first. Records never change, so each is read once.

        :raises IntegrityError: if a record is missing, or does not follow from the one before it.
        """
        names = [name for name in self._storage.names(self._folder) if not name.startswith(".")]
        if foreign := [name for name in names if not re.fullmatch(r"\d{8}\.json", name)]:
            raise IntegrityError(f"{self._folder}/{foreign[0]} does not belong into a ledger")
        numbers = [int(name[:-5]) for name in names]
        for place, number in enumerate(numbers, start=1):
            if number != place:
                raise IntegrityError(f"{self._folder}: record {place} is missing")
            if number not in self._known:
                self._known[number] = self._read(number)
        return tuple(self._known[n] for n in numbers)

    def append(self, draft: Draft, *, actor: str, guard: Guard | None = None) -> tuple[Record, bool]:
        """Appends a decision, or finds that it was taken before.

        :param guard: asked about the records that stand at this moment, again after each lost race.
        :returns: the record, and whether this call created it.
        :raises ConflictError: from the guard, or when others win the race a hundred times.
        """
        for _ in range(_ATTEMPTS):
            records = self.records()
            if guard and (taken := guard(records)):
                return taken, False
            record = self._next(draft, records, actor)
            content = canonical_json(record.model_dump(mode="json"), indent=1)
            if self._storage.create(self._uri(record.number), content):
                self._known[record.number] = record
                return record, True
        raise ConflictError(f"{self._folder}: other writers were first {_ATTEMPTS} times in a row")

    def _next(self, draft: Draft, records: tuple[Record, ...], actor: str) -> Record:
        return Record(
            number=len(records) + 1,
            previous=records[-1].hash if records else "",
            actor=actor,
            at=dt.datetime.now(dt.UTC),
            **draft.model_dump(),
        )

    def _read(self, number: int) -> Record:
        try:
            record = Record.model_validate_json(self._storage.read(self._uri(number)))
        except ValidationError as error:
            raise IntegrityError(f"{self._uri(number)} is no record of a ledger, it was damaged or replaced") from error
        before = self._known.get(number - 1)
        if record.number != number or (before and record.previous != before.hash):
            raise IntegrityError(
                f"{self._uri(number)} does not follow record {number - 1}: the ledger was tampered with"
            )
        return record

    def _uri(self, number: int) -> str:
        return join(self._folder, f"{number:08d}.json")


def champion(records: Iterable[Record]) -> Record | None:
    """The record that made the present champion: the last promotion or rollback."""
    return last(records, "promotion", "rollback")


def last(records: Iterable[Record], *kinds: Kind, partition: str | None = None) -> Record | None:
    """The newest record of these kinds, optionally about one partition."""
    found = [r for r in records if r.kind in kinds and partition in (None, r.partition)]
    return found[-1] if found else None


def decision_on(records: Iterable[Record], version: int) -> Record | None:
    """The last promotion or refusal of a version."""
    return last((r for r in records if r.version == version), "promotion", "refusal")
