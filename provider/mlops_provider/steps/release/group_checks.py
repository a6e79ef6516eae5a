"""What the gate makes of slices and of groups: limits of today on what the evaluation measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.config import ModelConfig
from mlops_provider.sections import SliceGate, SliceQuality
from mlops_provider.steps.records import Evaluation
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.findings import Findings, SliceResult


@dataclass(frozen=True)
class Test:
    """One thing that may be proved of a slice: that a value lies above a limit.

    :param shown: what people know it by: value and limit as they stand in the check.
    """

    result: SliceResult
    name: str
    value: float
    limit: float
    error: float
    shown: tuple[float, str]


def group_checks(job: Job, evaluation: Evaluation) -> list[Check]:
    """The gate's checks of slices and of groups; none where model.yaml asks for none."""
    config = job.config
    if not (config.evaluation.slices or config.gates.fairness):
        return []
    if evaluation.findings is None:
        return [could_not_run("slices", "the evaluation measured no slices and no groups")]
    findings = Findings.model_validate_json(job.storage.fetch(evaluation.findings))
    return [*slice_checks(config, slice_gates(config), findings.slices), *fairness_checks(config, findings)]


def slice_gates(config: ModelConfig) -> dict[str, SliceGate]:
    """What the gate asks of all slices, by name."""
    return {name: config.gates.slices.get(name, SliceGate()) for name in config.evaluation.slices}


def slice_checks(
    config: ModelConfig, limits: Mapping[str, SliceGate | SliceQuality], found: Iterable[SliceResult]
) -> list[Check]:
    """One check for each name of slices, and one for each slice that was proved bad.

    All limits of all slices are tested at once, at the level of the evaluation's interval, corrected by Holm (1979): with
    fifty slices some look bad by chance.
    """
    measured, tests, checks = list(found), [], []
    for name, limit in limits.items():
        results = [one for one in measured if one.slices == name]
        large = [one for one in results if _enough(config, one)]
        checks.append(_summary(config, name, results, large))
        checks += [_undefined(one, metric) for one in large for metric in _unmeasured(config, limit, one)]
        tests += [test for one in large for test in _tests(limit, one)]
    values = np.array([metrics.exceeds(test.value, test.limit, test.error) for test in tests])
    bad = metrics.holm(values, (1 - config.evaluation.confidence) / 2)
    checks += [
        _proved(limits[test.result.slices].severity, test) for test, proved in zip(tests, bad, strict=True) if proved
    ]
    return checks


def _enough(config: ModelConfig, one: SliceResult) -> bool:
    return one.rows >= config.evaluation.minimum_rows and one.blocks >= config.evaluation.minimum_blocks


def _tests(limits: SliceGate | SliceQuality, one: SliceResult) -> Iterator[Test]:
    if isinstance(limits, SliceGate) and one.gain is not None and one.gain_error is not None:
        asked = f"no loss of more than {limits.max_loss:g}"
        yield Test(one, "slice_loss", -one.gain, limits.max_loss, one.gain_error, (one.gain, asked))
    for metric, limit in limits.thresholds.items():
        if metric not in one.metrics:
            continue
        value, error = one.metrics[metric], one.errors[metric]
        if limit.min is not None:
            yield Test(one, f"slice_{metric}", -value, -limit.min, error, (value, f"at least {limit.min:g}"))
        if limit.max is not None:
            yield Test(one, f"slice_{metric}", value, limit.max, error, (value, f"at most {limit.max:g}"))


def _summary(config: ModelConfig, name: str, results: list[SliceResult], large: list[SliceResult]) -> Check:
    if not large:
        why = f"none of its {len(results)} slices has {config.evaluation.minimum_rows} rows and "
        return could_not_run("slices", f"{why}{config.evaluation.minimum_blocks} time blocks", subject=name)
    small = ", ".join(f"{one.value} ({one.rows} rows, {one.blocks} blocks)" for one in results if one not in large)
    return Check(
        name="slices",
        passed=not small,
        value=float(len(large)),
        severity="warn",
        subject=name,
        detail=f"too small to be judged: {small}" if small else f"{len(large)} slices were judged",
    )


def _unmeasured(config: ModelConfig, limits: SliceGate | SliceQuality, one: SliceResult) -> list[str]:
    """What is asked of a slice that has rows enough, and is not defined on it."""
    missing: list[str] = [metric for metric in limits.thresholds if metric not in one.metrics]
    return missing or ([config.evaluation.metric] if config.evaluation.metric not in one.metrics else [])


def _undefined(one: SliceResult, metric: str) -> Check:
    return could_not_run(f"slice_{metric}", f"not defined on the {one.rows} rows", subject=f"{one.slices} {one.value}")


def _proved(severity: Literal["fail", "warn"], test: Test) -> Check:
    value, asked = test.shown
    return Check(
        name=test.name,
        passed=False,
        value=value,
        threshold=asked,
        severity=severity,
        subject=f"{test.result.slices} {test.result.value}",
        detail=f"{test.result.rows} rows, standard error {test.error:.4f}; proved after the correction for all slices",
    )


def fairness_checks(config: ModelConfig, findings: Findings) -> list[Check]:
    """The limits of `gates.fairness`, for each column whose groups are compared."""
    known = {one.column: one for one in findings.fairness}
    checks = []
    for column in config.evaluation.fairness:
        for name, gate in config.gates.fairness.items():
            value = known[column].differences.get(name) if column in known else None
            if value is None:
                checks.append(could_not_run(name, "was not measured", subject=column))
                continue
            passed = value <= gate.max
            asked = f"at most {gate.max:g}"
            checks.append(
                Check(name=name, passed=passed, value=value, threshold=asked, severity=gate.severity, subject=column)
            )
    return checks
