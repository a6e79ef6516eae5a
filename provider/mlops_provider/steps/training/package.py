"""Packaging: the trained model as data that scores without its training library, proved to score the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict
from mlops_provider.steps import tables
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Package, Trained
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training.onnx_export import export

_PARITY_ROWS = 4_000


class PackageArguments(Frozen):
    """The fitted model to package."""

    trained: Trained


@step("package", arguments=PackageArguments, result=Package, sections=("features", "evaluation", "gates"), code=True)
def package(job: Job, arguments: PackageArguments) -> Package:
    """Exports the model to ONNX and compares it with LightGBM, on rows of the training data and on rows made to lie on
    both sides of tree thresholds, with and without missing values."""
    trained = arguments.trained
    text = job.storage.fetch(trained.booster).decode()
    content = export(text)
    sample = tables.read(job.storage, trained.reference, job.config.features.columns).to_pandas()
    rows = applied(job, trained.fitted, sample).to_numpy()
    return Package(
        onnx=job.storage.write(job.under("models", trained.fingerprint, "model.onnx"), content),
        booster=trained.booster,
        reference=trained.reference,
        code=job.model.ref,
        features=job.config.features.columns,
        fitted=trained.fitted,
        cut=job.config.evaluation.cut,
        parity=parity(text, content, rows, tolerance=job.config.gates.parity, cut=job.config.evaluation.cut),
    )


def parity(text: str, content: bytes, sample: np.ndarray[Any, Any], *, tolerance: float, cut: float) -> Verdict:
    """How far the package's scores are from LightGBM's.

    :param sample: rows of training data, float64 [n, features].
    :param tolerance: largest accepted |a - b| / max(1, |b|).
    """
    import lightgbm

    booster = lightgbm.Booster(model_str=text)
    rows = parity_rows(booster, sample)
    expected = np.asarray(booster.predict(rows, num_threads=1))
    found = Scorer(content).score(rows)
    difference = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    flips = ((found >= cut) != (expected >= cut)) & (np.abs(expected - cut) > tolerance)
    worst, flipped = float(difference.max()), int(flips.sum())
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
    splits = booster.trees_to_dataframe().dropna(subset=["threshold"])
    splits = splits[["split_feature", "threshold", "decision_type"]].drop_duplicates()
    if splits.empty:
        return rows
    names = booster.feature_name()
    chosen = splits.iloc[rng.permutation(len(splits))[: max(1, _PARITY_ROWS // 4)]]
    made = []
    for feature, threshold, kind in chosen.itertuples(index=False):
        for value in _edges(rng, kind, threshold):
            row = rows[rng.integers(len(rows))].copy()
            row[names.index(feature)] = value
            made.append(row)
    return np.vstack([rows, made])


def _edges(rng: np.random.Generator, kind: str, threshold: Any) -> tuple[float, ...]:
    """Values on both sides of a split, and what is missing; for categories also what is unseen and no whole number."""
    if kind != "==":
        at = float(threshold)
        return at, np.nextafter(at, -np.inf), np.nextafter(at, np.inf), np.nan
    codes = [float(code) for code in str(threshold).split("||")]
    code = codes[rng.integers(len(codes))]
    return code, code + 0.5, code - 0.5, code + 1, max(codes) + 1_000, -1.0, np.nan
