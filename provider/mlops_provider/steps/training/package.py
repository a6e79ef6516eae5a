"""Packaging: the trained model as data that scores without its training library, proved to score the same."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.steps import tables
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Package, Trained
from mlops_provider.steps.scoring.decisions import distance, turned
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import edge, environment, golden, inputs, latency
from mlops_provider.steps.training.objectives import objective
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.steps.training.trees import Split, splits
from mlops_provider.storage import Artifact, canonical_json

_PARITY_ROWS = 4_000


class PackageArguments(Frozen):
    """The fitted model to package."""

    trained: Trained


@step(
    "package",
    arguments=PackageArguments,
    result=Package,
    sections=("data", "features", "training", "evaluation", "gates", "package", "scoring"),
    code=True,
)
def package(job: Job, arguments: PackageArguments) -> Package:
    """Exports the model to ONNX and compares it with LightGBM, on rows of the training data and on rows made to lie on
    both sides of tree thresholds, with and without missing values. Puts golden cases, input schema, profile of the
    training data and environment beside it, and measures how fast it scores."""
    trained, settings, kind = arguments.trained, job.config, objective(job.config)
    text = job.storage.fetch(trained.booster).decode()
    content = export(text)
    sample = tables.read(job.storage, trained.reference, settings.features.columns).to_pandas()
    rows = applied(job, trained.fitted, sample).to_numpy(np.float64)
    scorer = Scorer(content, threads=settings.scoring.resources.cpu)
    files = _described(job, trained, text, sample, rows, scorer)
    checks: tuple[Check, ...] = ()
    if settings.package.edge:
        made, report, checks = edge.variants(job, trained, text=text, content=content, score=scorer.score)
        files |= made | {edge.REPORT: _json(report)}
    return Package(
        onnx=job.storage.write(job.under("models", trained.fingerprint, "model.onnx"), content),
        booster=trained.booster,
        reference=trained.reference,
        code=job.model.ref,
        features=settings.features.columns,
        fitted=trained.fitted,
        objective=settings.training.objective,
        classes=kind.classes,
        cut=kind.cut,
        parity=parity(text, content, rows, tolerance=settings.gates.parity, cut=kind.cut),
        files={name: _kept(job, trained, name, content) for name, content in files.items()},
        latency=latency.profile(scorer.score, rows, asked=settings.gates.latency.by_rows),
        checks=checks,
    )


def _described(job: Job, trained: Trained, text: str, sample: Any, rows: Any, scorer: Scorer) -> dict[str, bytes]:
    """The files that say what the model takes, what it gives, and where it comes from."""
    columns, kind = job.config.features.columns, objective(job.config)
    dtypes = {name: str(sample[name].dtype) for name in columns}
    cases = golden.golden(
        text, rows, fingerprint=trained.fingerprint, features=columns, cut=kind.cut, tolerance=job.config.gates.parity
    )
    profile = inputs.reference_profile(
        sample[list(columns)], scorer.score(rows), rows=trained.rows, classes=kind.classes
    )
    return {
        golden.FILE: _json(cases),
        "schema.json": _json(inputs.schema(text, rows, features=dtypes, cut=kind.cut, classes=kind.classes)),
        "profile.json": _json(profile),
        "environment.txt": environment.lock(trained.environment).encode(),
    }


def _json(record: Frozen) -> bytes:
    return canonical_json(record.model_dump(mode="json"), indent=1)


def _kept(job: Job, trained: Trained, name: str, content: bytes) -> Artifact:
    """Writes a file of the package under its content, as two workers may package one model with other limits."""
    folder = hashlib.sha256(content).hexdigest()[:16]
    return job.storage.write(job.under("models", trained.fingerprint, "package", folder, name), content)


def parity(text: str, content: bytes, sample: np.ndarray[Any, Any], *, tolerance: float, cut: float | None) -> Verdict:
    """How far the package's scores are from LightGBM's.

    :param sample: rows of training data, float64 [n, features].
    :param tolerance: largest accepted |a - b| / max(1, |b|).
    """
    import lightgbm

    booster = lightgbm.Booster(model_str=text)
    rows = parity_rows(booster, sample)
    expected = np.asarray(booster.predict(rows, num_threads=1))
    found = Scorer(content).score(rows)
    worst = float(distance(found, expected).max())
    flipped = int(turned(found, expected, cut=cut, tolerance=tolerance).sum())
    detail = f"{len(rows)} rows, {flipped} decided otherwise"
    return Verdict(
        subject="package",
        checks=(
            Check(name="parity", passed=worst <= tolerance, value=worst, threshold=tolerance, detail=detail),
            Check(name="parity_flips", passed=not flipped, value=float(flipped), threshold=0.0),
        ),
    )


def parity_rows(booster: Any, sample: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of the sample, and copies of them with one value put on a tree's threshold, just beside it, or missing."""
    rng = np.random.default_rng(0)
    rows = sample[rng.permutation(len(sample))[:_PARITY_ROWS]]
    found = sorted({split._replace(gain=0.0, missing="") for split in splits(booster.model_to_string())}, key=str)
    if not found:
        return rows
    made = []
    for at in rng.permutation(len(found))[: max(1, _PARITY_ROWS // 4)]:
        for value in _edges(rng, found[at]):
            row = rows[rng.integers(len(rows))].copy()
            row[found[at].feature] = value
            made.append(row)
    return np.vstack([rows, made])


def _edges(rng: np.random.Generator, split: Split) -> tuple[float, ...]:
    """Values on both sides of a split, and what is missing; for categories also what is unseen and no whole number."""
    at = split.threshold
    if not split.categories:
        return at, float(np.nextafter(at, -np.inf)), float(np.nextafter(at, np.inf)), np.nan
    code = float(split.categories[rng.integers(len(split.categories))])
    return code, code + 0.5, code - 0.5, code + 1, max(split.categories) + 1_000.0, -1.0, np.nan
