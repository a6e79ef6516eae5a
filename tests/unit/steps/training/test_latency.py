"""Latency and size: measured in a bounded time, and held against the limits of model.yaml."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlops_provider.sections import Gates
from mlops_provider.steps.records import Latency, Package
from mlops_provider.steps.release.gate import judge
from mlops_provider.steps.training import latency
from mlops_provider.steps.training.latency import limits, profile
from tests.support.tiny import World

SAMPLE = np.zeros((7, 3))


class Clock:
    """A scorer that takes as long as it is told to, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_row: float) -> None:
        self.now, self.per_row, self.batches = 0.0, per_row, list[int]()
        monkeypatch.setattr(latency, "_SECONDS", 0.05)  # the tests of packages do without
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def score(self, rows: Any) -> Any:
        self.now += self.per_row * len(rows)
        self.batches.append(len(rows))
        return rows[:, 0]


def test_every_batch_is_measured_and_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1e-5)
    one, thousand, many = profile(clock.score, SAMPLE)
    assert (one.rows, one.median, one.p95, one.runs) == (1, 0.01, 0.01, 500)
    assert (thousand.rows, thousand.median) == (1000, 10.0)
    assert (many.rows, many.median, many.runs) == (100_000, 1000.0, 1)
    assert clock.now < 1.2


def test_a_batch_that_takes_too_long_is_measured_only_if_a_limit_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1e-3)
    slow = profile(clock.score, SAMPLE)[-1]
    assert (slow.runs, slow.median) == (0, None)
    assert "would take about 100.0 s" in slow.why
    assert 100_000 not in clock.batches
    assert profile(clock.score, SAMPLE, asked={100_000})[-1].median == 100_000.0


def test_a_batch_that_needs_too_much_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = profile(Clock(monkeypatch, 1e-6).score, np.zeros((1, 1000)), asked={100_000})[-1]
    assert wide.median is None
    assert "MiB" in wide.why


def gates(**asked: Any) -> Gates:
    return Gates.model_validate({"thresholds": {"auc": {"min": 0.6}}, **asked})


@pytest.fixture
def package(registered: World) -> Package:
    found: Package = registered.versions()[0].package
    times = (Latency(rows=1, runs=9, median=2.0, p95=3.0), Latency(rows=100_000, runs=0, why="too slow"))
    return found.model_copy(update={"latency": times})


def test_without_limits_there_are_no_checks(package: Package) -> None:
    assert limits(gates(), package) == ()


@pytest.mark.parametrize(("limit", "state"), [(2.0, "pass"), (1.9, "fail")])
def test_the_median_is_held_against_the_limit(package: Package, limit: float, state: str) -> None:
    (check,) = limits(gates(latency={"rows_1": limit}), package)
    assert (check.name, check.state, check.value, check.threshold) == ("latency", state, 2.0, limit)


def test_what_was_not_measured_is_an_error(package: Package) -> None:
    checks = limits(gates(latency={"rows_1000": 5, "rows_100000": 5}), package)
    assert [check.state for check in checks] == ["error", "error"]
    assert "too slow; was not measured" in checks[1].detail


def test_the_size_is_held_against_the_limit(package: Package) -> None:
    size = package.onnx.size
    assert [check.state for check in limits(gates(size="1GiB"), package)] == ["pass"]
    (check,) = limits(gates(size="1KiB"), package)
    assert (check.state, check.value, check.threshold) == ("fail", float(size), 1024.0)


def test_the_gate_refuses_a_model_that_is_too_slow_or_too_large(registered: World) -> None:
    (version,) = registered.versions()
    assert judge(registered.job(), version).promote
    slow = judge(registered.configure(gates={"latency": {"rows_1": 1e-9}}), version)
    assert (slow.outcome, "latency (1 row)" in slow.reason) == ("below_threshold", True)
    large = judge(registered.configure(gates={"size": "1KiB"}), version)
    assert (large.outcome, "size: " in large.reason) == ("below_threshold", True)
