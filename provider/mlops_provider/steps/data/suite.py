"""Suites in Great Expectations' own format, closed against the ways in which a suite passes without having checked anything.

Great Expectations takes three seconds to import, drops an expectation that it does not know, and lets an empty suite
pass. So a suite is read here, strictly; only what streaming.py does not evaluate needs the library at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data.limits import accepts_anything

_SEVERITIES = ("critical", "warning", "info")
_KEYS = {"type", "kwargs", "meta", "severity", "id", "notes", "description", "rendered_content"}
_COLUMNS = ("column", "column_A", "column_B")


@dataclass(frozen=True, eq=False)
class Expectation:
    """One expectation as it stands in the suite.

    :ivar place: its number in the suite, from 0.
    :ivar kwargs: its arguments without those that are null.
    """

    place: int
    type: str
    kwargs: dict[str, Any]
    severity: str

    @property
    def name(self) -> str:
        return self.type.removeprefix("expect_")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that its arguments name."""
        named = [self.kwargs[key] for key in _COLUMNS if isinstance(self.kwargs.get(key), str)]
        listed = self.kwargs.get("column_list") if not self.type.startswith("expect_table_") else None
        return (*named, *(c for c in listed or () if isinstance(c, str)))

    @property
    def about_columns(self) -> bool:
        """Whether it is about which columns there are."""
        return self.type.startswith("expect_table_column") or self.type == "expect_column_to_exist"

    @property
    def subject(self) -> str:
        return ", ".join(self.columns) or "table"

    def reads(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns of a table that are needed for it; all of them if its arguments do not tell."""
        condition = str(self.kwargs.get("row_condition") or "")
        if not self.columns:
            return tuple(names)
        return (*self.columns, *(name for name in names if name in condition and name not in self.columns))

    def stored(self) -> dict[str, Any]:
        """As Great Expectations writes it."""
        return {"type": self.type, "kwargs": self.kwargs, "severity": self.severity, "meta": {"place": self.place}}


@dataclass(frozen=True)
class Suite:
    """A suite that holds at least one expectation.

    :ivar where: what to call it in messages.
    """

    name: str
    where: str
    expectations: tuple[Expectation, ...]


def load(content: bytes, where: str) -> Suite:
    """A suite from the bytes of a JSON or YAML file, as Great Expectations' tools write both.

    :raises ConfigError: if it is none, holds no expectation, or holds one that is incomplete.
    """
    stored = _parsed(content, where)
    if not isinstance(stored, dict) or not isinstance(stored.get("name"), str):
        hint = ": 'expectation_suite_name' was written by a version before 1.0" if _is_old(stored) else ""
        raise ConfigError(f"{where} is no Great Expectations suite: it must have a name and expectations{hint}")
    found = stored.get("expectations")
    if not isinstance(found, list):
        raise ConfigError(f"{where} is no Great Expectations suite: its expectations must be a list")
    if not found:
        raise ConfigError(f"{where} holds no expectation: an empty suite would accept anything")
    return Suite(stored["name"], where, tuple(_expectation(n, item, where) for n, item in enumerate(found)))


def _parsed(content: bytes, where: str) -> Any:
    try:
        text = content.decode()
        return json.loads(text) if text.lstrip().startswith(("{", "[")) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{where} is no Great Expectations suite: {type(error).__name__}: {error}") from error


def _is_old(stored: Any) -> bool:
    return isinstance(stored, dict) and "expectation_suite_name" in stored


def _expectation(place: int, item: Any, where: str) -> Expectation:
    at = f"{where}, expectation {place + 1}"
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise ConfigError(f"{at} is no expectation: it must have a type, such as expect_column_values_to_not_be_null")
    if unknown := sorted(set(map(str, item)) - _KEYS):
        raise ConfigError(f"{at} ({item['type']}) has an unknown key: {', '.join(unknown)}; known are {sorted(_KEYS)}")
    kwargs = item.get("kwargs") or {}
    if not isinstance(kwargs, dict):
        raise ConfigError(f"{at} ({item['type']}): kwargs must be a mapping")
    severity = item.get("severity") or "critical"
    if severity not in _SEVERITIES:
        raise ConfigError(f"{at} ({item['type']}): severity {severity!r}, expected one of {', '.join(_SEVERITIES)}")
    given = {k: v for k, v in kwargs.items() if v is not None}
    if amiss := accepts_anything(item["type"], given):
        raise ConfigError(f"{at} ({item['type']}) {amiss}: it would accept anything")
    return Expectation(place, item["type"], given, severity)
