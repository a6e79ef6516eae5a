"""Input drift with Evidently: a scored partition against the training data of the version that scored it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import build
from mlops_provider.steps.records import Drifted, Predictions
from mlops_provider.steps.step import Job, step

_FEW_ROWS = 1_000


class DriftArguments(Frozen):
    """The scored partition to look at."""

    predictions: Predictions


@step("drift", arguments=DriftArguments, result=Drifted, sections=("features", "monitoring"))
def drift(job: Job, arguments: DriftArguments) -> Drifted:
    """One check per feature column, and one on the share of drifted columns. Drift alone alerts, it never retrains.

    Distances are Evidently's for more than 1,000 rows: Wasserstein distance over the standard deviation for numbers with more
    than five values, Jensen-Shannon distance otherwise. With fewer rows Evidently would switch to p-values, under which
    the same threshold means another thing: that is an error here.
    """
    found, settings = arguments.predictions, job.config.monitoring.drift
    reference = tables.read(job.storage, found.reference).to_pandas()
    built = build(job.with_code(found.code), found.partition, found.inputs, found.history)
    current = built[list(reference.columns)]
    current = current.sample(min(settings.sample, len(current)), random_state=0)
    usable, checks = _usable(reference, current)
    report = _report(reference[usable], current[usable], settings.threshold) if usable else None
    checks += _checks(report, usable, settings.threshold) if report else []
    drifted = tuple(check.subject for check in checks if check.name == "drift" and not check.passed)
    compared = sum(check.severity != "error" for check in checks)
    checks.append(_share(drifted, compared, settings.share))
    return Drifted(
        partition=found.partition,
        version=found.version,
        columns=drifted,
        of=len(reference.columns),
        verdict=Verdict(subject=f"{job.config.name} {found.partition} inputs", checks=tuple(checks)),
        report=_written(job, found, report),
    )


def _usable(reference: Any, current: Any) -> tuple[list[str], list[Check]]:
    """The columns that can be compared, and an error for each that cannot: Evidently would raise, or judge nothing."""
    few = min(len(reference), len(current))
    if few <= _FEW_ROWS:
        why = f"{few} rows are too few, more than {_FEW_ROWS} are needed on both sides"
        return [], [could_not_run("drift", why, subject="all columns")]
    checks = [check for c in reference.columns if (check := _emptied(c, reference[c], current[c]))]
    empty = {check.subject for check in checks}
    return [c for c in reference.columns if c not in empty], checks


def _emptied(column: str, reference: Any, current: Any) -> Check | None:
    """What there is to say of a column without any value: gone or newly come, it has drifted as far as can be."""
    gone = [where for where, side in (("training data", reference), ("partition", current)) if side.isna().all()]
    if not gone:
        return None
    detail = f"no value in the {' and the '.join(gone)}"
    return Check(name="drift", passed=len(gone) == 2, severity="warn", subject=column, detail=detail)


def _report(reference: Any, current: Any, threshold: float) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount, ValueDrift

    definition = DataDefinition(numerical_columns=list(reference.columns))
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (current, reference)]
    metrics = [ValueDrift(column=column, threshold=threshold) for column in reference.columns]
    return Report([*metrics, DriftedColumnsCount()]).run(*sides)


def _checks(report: Any, columns: list[str], threshold: float) -> list[Check]:
    found = {m["config"]["column"]: m for m in report.dict()["metrics"] if "column" in m["config"]}
    checks = []
    for column in columns:
        if column not in found:
            checks.append(could_not_run("drift", "Evidently gave no value", subject=column))
            continue
        value, method = float(found[column]["value"]), str(found[column]["config"].get("method") or "")
        passed = value < threshold
        checks.append(
            Check(
                name="drift",
                passed=passed,
                value=value,
                threshold=threshold,
                severity="warn",
                subject=column,
                detail=method,
            )
        )
    return checks


def _share(drifted: tuple[str, ...], columns: int, limit: float) -> Check:
    if not columns:
        return could_not_run("drifted_share", "no column could be compared")
    share = len(drifted) / columns
    detail = f"{len(drifted)} of {columns} columns drifted"
    return Check(
        name="drifted_share", passed=share <= limit, value=share, threshold=limit, severity="warn", detail=detail
    )


def _written(job: Job, found: Predictions, report: Any) -> Any:
    """Evidently's page beside the other reports; where nothing could be compared it says so."""
    uri = job.under("reports", f"drift-{found.partition}-v{found.version}.html")
    if report is None:
        return job.storage.write(uri, b"<!doctype html><title>drift</title><p>Nothing could be compared.</p>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "drift.html")
        report.save_html(str(path))
        return job.storage.upload(path, uri)
