"""The keys of model.yaml on packaging and its limits: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mlops_provider.config import validate
from mlops_provider.exceptions import ConfigError
from mlops_provider.sections import Edge, Gates
from tests.support.tiny import values


def gates(**asked: Any) -> Gates:
    return Gates.model_validate({"thresholds": {"auc": {"min": 0.6}}, **asked})


@pytest.mark.parametrize(("size", "found"), [("3KiB", 3072), ("20MiB", 20 << 20), ("1GiB", 1 << 30), (None, None)])
def test_sizes_are_bytes(size: str | None, found: int | None) -> None:
    assert gates(size=size).size_bytes == found


def test_limits_are_by_rows_of_the_batch() -> None:
    assert gates().latency.by_rows == {}
    assert gates(latency={"rows_1": 5, "rows_100000": 800.5}).latency.by_rows == {1: 5.0, 100_000: 800.5}


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("gates", {"size": "20MB"}, "gates.size"),
        ("gates", {"size": 20}, "gates.size"),
        ("gates", {"latency": {"rows_1": 0}}, "gates.latency.rows_1"),
        ("gates", {"latency": {"rows_1": "5"}}, "gates.latency.rows_1: must be a number"),
        ("gates", {"latency": {"rows_10": 5}}, "gates.latency.rows_10: unknown key"),
        ("gates", {"latency": {"rows_1": float("inf")}}, "gates.latency.rows_1"),
        ("package", {"edge": {"keep": 0}}, "package.edge.keep"),
        ("package", {"edge": {"keep": 1.5}}, "package.edge.keep"),
        ("package", {"edge": {"precision": "int8"}}, "package.edge.precision"),
        ("package", {"edge": {"max_loss": -0.1}}, "package.edge.max_loss"),
        ("package", {"edges": {}}, "package.edges: unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused(section: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(values(**{section: change}), "model.yaml")
    assert told in str(refused.value)


def test_edge_takes_its_defaults() -> None:
    assert validate(values(package={"edge": {}}), "model.yaml").package.edge == Edge(keep=1.0, precision="float32")
    assert validate(values(), "model.yaml").package.edge is None
    with pytest.raises(ValidationError):
        Edge.model_validate({"keep": True})
