"""Files of a model's configuration: read, overlaid key by key, and errors led back to the file and line they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mlops_provider.exceptions import ConfigError
from mlops_provider.sections.objectives import METRICS, STOPPING

Sources = list[tuple[Path, str]]
"""The files of a configuration with their texts, the one that wins first."""
# The loader in C reads a file in 1 ms instead of 20: every parse of a DAG file reads all of them.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_LOADER):  # type: ignore[misc]
    """Refuses a key that is given twice in one place: YAML's readers take the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                known.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def merged(path: Path, environment: str, chain: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Sources]:
    """The content of a model.yaml with what it extends below it and the environment's overlay on top.

    :returns: the content, and the files that it came from, the one that wins first.
    :raises ConfigError: for a file that cannot be read, a circle, or a variant without a name.
    """
    path = path.resolve()
    if path in chain:
        raise ConfigError(f"{path}: extends: goes in a circle: {' -> '.join(str(p) for p in (*chain, path))}")
    values, text = read(path)
    sources: Sources = [(path, text)]
    if (extends := values.pop("extends", None)) is not None:
        base = path.parent / _base(extends, path)
        try:
            inherited, more = merged(base, environment, (*chain, path))
        except ConfigError as error:
            raise ConfigError(f"{path}: extends {extends}, which cannot be used: {error}") from error
        if "name" not in values:
            raise ConfigError(f"{path}: name: a variant needs a name of its own (it extends {extends})")
        values, sources = _overlay(inherited, values), sources + more
    overlay = path.with_name(f"model.{environment}.yaml") if environment else None
    if overlay and overlay.exists():
        changes, text = read(overlay)
        if unsuitable := sorted({"name", "extends"} & set(changes)):
            raise ConfigError(f"{overlay}: {', '.join(unsuitable)}: an environment's overlay must not set this")
        values, sources = _overlay(values, changes), [(overlay, text), *sources]
    return values, sources


def _base(extends: object, path: Path) -> str:
    if not isinstance(extends, str) or not re.fullmatch(r"\.\./[a-z][a-z0-9_]*/model\.yaml", extends):
        raise ConfigError(f"{path}: extends: is {extends!r}, expected ../<other model>/model.yaml")
    return extends


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Content and text of one file.

    :raises ConfigError: if it is missing or no YAML of keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, Loader=_Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise ConfigError(f"{place}: cannot be read as YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values, text


def _overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def with_metrics(values: Any) -> Any:
    """The content with the metrics that go with `training.objective` where it names none; anything else as it is."""
    if not isinstance(values, dict):
        return values
    training, evaluation = values.get("training"), values.get("evaluation", {})
    if not isinstance(training, dict) or not isinstance(evaluation, dict):
        return values
    objective = str(training.get("objective", "binary"))
    if objective not in METRICS or objective == "binary":
        return values
    known = list(METRICS[objective])
    named = evaluation.get("metrics")
    metrics = {"metrics": known, "metric": named[0] if isinstance(named, list | tuple) and named else known[0]}
    filled = {**values, "evaluation": {**metrics, **evaluation}}
    if isinstance(stopping := training.get("early_stopping"), dict):
        filled["training"] = {**training, "early_stopping": {"metric": STOPPING[objective], **stopping}}
    return filled


def explained(place: tuple[int | str, ...], message: str, found: object, sources: Sources, path: Path) -> str:
    """One fault of the content as a line for people: file, line, key, and what was expected there.

    A fault of several keys has the place of the section that they are in; its message then begins with the key.
    """
    message = message.removeprefix("Value error, ")
    if named := re.match(r"([a-z_]+(?:\.[a-z_0-9@]+)*)(?:\[\d+\])?(?:: | \()", message):
        inner = (*place, *named[1].split("."))
        if any(_line(yaml.compose(text, Loader=_LOADER), inner, exact=True) for _, text in sources):
            place, message = inner, message.removeprefix(f"{named[1]}: ")
    key = ".".join(str(part) for part in place) or "(whole file)"
    for exact in (True, False):
        for file, text in sources:
            if line := _line(yaml.compose(text, Loader=_LOADER), place, exact=exact):
                return f"{file}:{line}: {key}: {_plain(message, found)}"
    return f"{path}: {key}: {_plain(message, found)}"


def _plain(message: str, found: object) -> str:
    message = message.removeprefix("Value error, ")
    if message == "Extra inputs are not permitted":
        return "unknown key; see `mlops schema` for the keys that there are"
    if message == "Field required":
        return "is missing"
    return f"{message} (found {found!r})" if isinstance(found, str | int | float | bool) else message


def _line(node: yaml.Node | None, place: tuple[int | str, ...], *, exact: bool) -> int | None:
    """Line of a key, or if it need not be exact of the nearest key above it that is there."""
    if node is None or not place:
        return None
    for key, value, line in _children(node):
        if str(key) == str(place[0]):
            here = line + 1
            return here if len(place) == 1 else _line(value, place[1:], exact=exact) or (None if exact else here)
    return None


def _children(node: yaml.Node) -> Iterator[tuple[object, yaml.Node, int]]:
    """What a node holds: key or number, value, and the line that it begins on, counted from 0."""
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value, key.start_mark.line) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((number, item, item.start_mark.line) for number, item in enumerate(node.value))
