"""What changed between two versions of a model: data, code, configuration, environment, metrics, slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlops_provider.api import find
from mlops_provider.checks import Frozen
from mlops_provider.deployment import Deployment
from mlops_provider.modelcode import unpack
from mlops_provider.steps.records import ModelVersion
from mlops_provider.storage import Artifact

Value = str | float | int | bool | None
SECTIONS = ("model", "data", "code", "configuration", "environment", "metrics", "slices")
# What the evaluation says of the champion of its time, and its checks, are not about the version.
_NOT_OURS = ("verdict", "champion", "champion_version", "interval", "findings", "report")


class Change(Frozen):
    """One thing that is not the same.

    :param section: model, data, code, configuration, environment, metrics or slices.
    :param before: None if it was not there.
    """

    section: str
    name: str
    before: Value
    after: Value


class Difference(Frozen):
    """All that is not the same between two versions.

    :param notes: what to keep in mind, such as that metrics are of different holdouts.
    """

    model: str
    first: int
    second: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


def difference(model: str, first: str | int, second: str | int, place: Deployment) -> Difference:
    """Compares two versions by their lineage and their code.

    :param first: number or alias; `second` likewise.
    :raises RequestError: if there is no such version.
    """
    versions = [find(model, version, place) for version in (first, second)]
    before, after = (_told(version, place) for version in versions)
    changes = tuple(change for section in SECTIONS for change in _changes(section, before[section], after[section]))
    holdouts = [version.split.holdout for version in versions]
    notes = (f"metrics are of different holdouts: {holdouts[0]} and {holdouts[1]}",) if len(set(holdouts)) > 1 else ()
    return Difference(model=model, first=versions[0].version, second=versions[1].version, changes=changes, notes=notes)


def _told(version: ModelVersion, place: Deployment) -> dict[str, dict[str, Value]]:
    """What a version is, by section and name."""
    lineage = place.storage.read_json(version.lineage.uri)
    data, evaluation = lineage["data"], lineage["evaluation"]
    ours = {name: value for name, value in evaluation.items() if name not in _NOT_OURS}
    return {
        "model": {"trees": lineage["model_hash"], "fitted statistics": (lineage["fitted"] or {}).get("hash")},
        "data": _data(data),
        "code": {name: _short(content) for name, content in unpack(version.package.code, place.storage).files.items()},
        "configuration": dict(_flat(lineage["configuration"])),
        "environment": dict(_flat(lineage["environment"])),
        "metrics": dict(_flat(ours)),
        "slices": _slices(evaluation.get("findings"), place),
    }


def _slices(file: dict[str, Any] | None, place: Deployment) -> dict[str, Value]:
    """The metrics of each slice that model.yaml names, from the findings of the evaluation."""
    if file is None:
        return {}
    from mlops_provider.steps.training.findings import Findings

    found = Findings.model_validate_json(place.storage.fetch(Artifact.model_validate(file)))
    return {f"{s.slices} {s.value}: {name}": value for s in found.slices for name, value in s.metrics.items()}


def _data(data: Mapping[str, Any]) -> dict[str, Value]:
    fitted = {f"fitted on {one['partition']}": one["md5"] for one in data["fit"]}
    holdout = data["holdout"]
    about = {"rows fitted": data["rows"], "cutoff": data["cutoff"]}
    return {**fitted, f"judged on {holdout['partition']}": holdout["md5"], **about}


def _short(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()[:12]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Value]]:
    """Every leaf of nested records, under its path; what lists hold goes by its name where it has one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value):
            label = item.get("name", number) if isinstance(item, Mapping) else number
            yield from _flat(item, f"{name}[{label}]")
    elif isinstance(value, list):
        yield name, ", ".join(str(item) for item in value)
    else:
        yield name, value


def _changes(section: str, before: Mapping[str, Value], after: Mapping[str, Value]) -> Iterator[Change]:
    for name in (*before, *(name for name in after if name not in before)):
        # The configuration is compared key by key.
        if (section, name) != ("code", "model.yaml") and before.get(name) != after.get(name):
            yield Change(section=section, name=name, before=before.get(name), after=after.get(name))


def render(found: Difference) -> str:
    """The table for a terminal."""
    head = f"{found.model}: version {found.first} against version {found.second}"
    if not found.changes:
        return f"{head}\nnothing differs"
    rows = [(change.name, _cell(change.before), _cell(change.after)) for change in found.changes]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    lines, section = [head], ""
    for change, row in zip(found.changes, rows, strict=True):
        if change.section != section:
            lines += ["", (section := change.section)]
        lines.append(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}")
    return "\n".join([*lines, *(f"\n{note}" for note in found.notes)])


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    told = f"{value:.6g}" if isinstance(value, float) else str(value)
    return told if len(told) <= 40 else f"{told[:37]}..."
