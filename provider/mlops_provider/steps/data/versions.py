"""Which data versions there are, and which model versions saw them: told from the ledger."""

from __future__ import annotations

import datetime as dt
from typing import Any

from mlops_provider.checks import Frozen
from mlops_provider.ledger import Record
from mlops_provider.steps.records import FeatureVersion, ModelVersion
from mlops_provider.steps.step import Job


class Known(Frozen):
    """A data version of a partition.

    :param accepted: when it was accepted first, UTC.
    :param superseded: when another version took its place, UTC; None if it is the partition's accepted one.
    :param fitted: model versions that were fitted on it; `judged` those that were judged on it.
    """

    data: FeatureVersion
    accepted: dt.datetime
    superseded: dt.datetime | None = None
    fitted: tuple[int, ...] = ()
    judged: tuple[int, ...] = ()

    @property
    def used(self) -> tuple[int, ...]:
        return tuple(sorted({*self.fitted, *self.judged}))


def known(job: Job, records: tuple[Record, ...]) -> tuple[Known, ...]:
    """Every data version that was ever accepted, by partition, oldest first. Content that came back is one version.

    :raises DataError: if the split of a registered model version cannot be read: nothing is known of its data then.
    """
    users = _users(job, records)
    found = []
    for partition in sorted({r.partition for r in records if r.kind == "data"}):
        lives = [r for r in records if r.kind == "data" and r.partition == partition and r.outcome == "accepted"]
        versions = {r.facts["data"]["md5"]: r for r in lives}
        for md5 in sorted(versions, key=lambda md5: versions[md5].number):
            found.append(_one(md5, lives, users))
    return tuple(found)


def _one(md5: str, lives: list[Record], users: dict[str, list[tuple[int, str]]]) -> Known:
    """One version: its last acceptance counts for what came after it."""
    mine = [r for r in lives if r.facts["data"]["md5"] == md5]
    later = [r for r in lives if r.number > mine[-1].number]
    roles = users.get(f"{mine[-1].partition} {md5}", [])
    return Known(
        data=FeatureVersion.model_validate(mine[-1].facts["data"]),
        accepted=mine[0].at,
        superseded=later[0].at if later else None,
        fitted=tuple(version for version, role in roles if role == "fitted"),
        judged=tuple(version for version, role in roles if role == "judged"),
    )


def _users(job: Job, records: tuple[Record, ...]) -> dict[str, list[tuple[int, str]]]:
    """Model versions and how they used it, by partition and md5."""
    from mlops_provider.steps.training.split import load_split

    found: dict[str, list[tuple[int, str]]] = {}
    for record in records:
        if record.kind != "candidate":
            continue
        version = ModelVersion.model_validate(record.facts["version"])
        split = load_split(job, version.split)
        for data, role in [*((fit, "fitted") for fit in split.fit), (split.holdout, "judged")]:
            found.setdefault(f"{data.partition} {data.md5}", []).append((version.version, role))
    return found


def render(found: tuple[Known, ...]) -> str:
    """A table for a terminal."""
    lines = ["partition   md5           rows        accepted          state       model versions"]
    for one in found:
        state = "superseded" if one.superseded else "accepted"
        users = ", ".join(f"v{n}" for n in one.used) or "none"
        data = one.data
        lines.append(
            f"{data.partition:<10}  {data.md5[:12]}  {data.rows:>10,}  {one.accepted:%Y-%m-%d %H:%M}  {state:<10}  {users}"
        )
    revised = {one.data.partition: one.used for one in found if one.superseded and one.used}
    for partition, used in revised.items():
        lines.append(f"{partition} was revised after {', '.join(f'version {n}' for n in used)} had used it")
    return "\n".join(lines)


def as_json(found: tuple[Known, ...]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [one.model_dump(mode="json") for one in found]
