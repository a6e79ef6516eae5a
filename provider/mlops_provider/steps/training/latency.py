"""How fast a package scores, where it was made: enough to hold it against a limit, in a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.sections import Gates
from mlops_provider.steps.records import Latency, Package

Array = np.ndarray[Any, Any]
BATCHES = (1, 1_000, 100_000)
_SECONDS = 0.05  # a batch is scored again until so much time has passed
_RUNS = 500
_PATIENCE = 2.0  # seconds: a batch that would take longer is scored only if a limit asks for it
_BYTES = 1 << 28


def profile(score: Callable[[Array], Array], sample: Array, *, asked: Collection[int] = ()) -> tuple[Latency, ...]:
    """The latency of each batch size.

    :param score: float64 [n, features] to scores; on as many threads as the model is scored with.
    :param sample: rows to make batches of, repeated as often as needed, float64 [n, features].
    :param asked: batches that a limit asks for.
    """
    found: list[Latency] = []
    for rows in BATCHES:
        expected = (found[-1].median or 0.0) * rows / found[-1].rows / 1000 if found else 0.0
        if rows * sample.shape[1] * 8 > _BYTES:
            found.append(Latency(rows=rows, runs=0, why=f"the batch would take more than {_BYTES >> 20} MiB"))
        elif expected > _PATIENCE and rows not in asked:
            found.append(Latency(rows=rows, runs=0, why=f"would take about {expected:.1f} s, and no limit asks for it"))
        else:
            found.append(_measured(score, sample[np.arange(rows) % len(sample)]))
    return tuple(found)


def _measured(score: Callable[[Array], Array], batch: Array) -> Latency:
    taken: list[float] = []
    # The first run of a small batch pays for what is set up once; a large one is slow enough not to notice.
    if len(batch) <= BATCHES[1]:
        score(batch)
    while not taken or (sum(taken) < _SECONDS and len(taken) < _RUNS):
        began = time.perf_counter()
        score(batch)
        taken.append(time.perf_counter() - began)
    median, p95 = (round(float(np.quantile(taken, share)) * 1000, 4) for share in (0.5, 0.95))
    return Latency(rows=len(batch), runs=len(taken), median=median, p95=p95)


def limits(gates: Gates, package: Package) -> tuple[Check, ...]:
    """The limits of model.yaml on latency and size as checks; none if there are none."""
    known = {found.rows: found for found in package.latency}
    checks = [_fast_enough(rows, limit, known.get(rows)) for rows, limit in gates.latency.by_rows.items()]
    if (largest := gates.size_bytes) is not None:
        size, detail = package.onnx.size, f"the ONNX file, in bytes; gates.size is {gates.size}"
        checks.append(
            Check(name="size", passed=size <= largest, value=float(size), threshold=float(largest), detail=detail)
        )
    return tuple(checks)


def _fast_enough(rows: int, limit: float, found: Latency | None) -> Check:
    subject = f"{rows} row{'s' if rows > 1 else ''}"
    if found is None or found.median is None:
        why = found.why if found else "the package is older than this limit"
        why += "; was not measured. Start ct with force to package it anew"
        return could_not_run("latency", why, subject=subject)
    detail = f"median of {found.runs} runs in milliseconds, 95th percentile {found.p95:g}"
    return Check(
        name="latency",
        passed=found.median <= limit,
        value=found.median,
        threshold=limit,
        subject=subject,
        detail=detail,
    )
