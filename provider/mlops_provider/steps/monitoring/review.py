"""The rows of a scored partition that are worth a person's look: uncertain, contradicted by their label, far from training data.

One reason at a time names its strongest row that nobody has named, until there are enough: so reasons share the places, and no
row comes twice. Rows that are equally strong come in an order drawn by the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import DataError
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import build
from mlops_provider.steps.data.rows import LABEL
from mlops_provider.steps.data.rows import labels as labels_of
from mlops_provider.steps.records import ModelVersion, Package, Predictions
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training.inputs import ReferenceProfile, Schema
from mlops_provider.storage import Artifact

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]
REASONS = ("contradicting", "uncertain", "far")
# An error of a regression is worth a look from twice the usual one on.
_USUAL = 2.0


class SampleForReviewArguments(Frozen):
    """The scored partition, and the version that scored it.

    :param labels: file with the labels that have come, as ``data.label.source`` delivers them; without it nothing contradicts.
    :param rows: at most so many.
    """

    predictions: Predictions
    version: ModelVersion
    labels: Artifact | None = None
    rows: int = Field(50, ge=1, le=10_000)
    seed: int = Field(0, ge=0)


class ReviewSample(Frozen):
    """The sample.

    :param table: key, event time, what was predicted, ``reason``, ``why`` in words, ``features_outside`` (how many lie outside of
        what training saw), ``label_known``, and the declared columns of the inputs.
    :param reasons: rows by reason; `candidates` is how many there were to choose from.
    """

    partition: str
    version: int
    rows: int
    of: int
    reasons: dict[str, int]
    candidates: dict[str, int]
    table: Artifact


@dataclass(frozen=True)
class _Reason:
    """A reason for looking at rows.

    :ivar strength: float [n], larger is stronger; NaN for rows without this reason.
    :ivar why: object [n], in words.
    """

    strength: Array
    why: Array


@step("sample_for_review", arguments=SampleForReviewArguments, result=ReviewSample, sections=("data", "evaluation"))
def sample_for_review(job: Job, arguments: SampleForReviewArguments) -> ReviewSample:
    """Draws the sample. Columns that `data.pii` marks are in no declared column, and so in none of the table.

    :raises DataError: if the version did not score the partition, or its package has no profile of the training data.
    """
    found, version = arguments.predictions, arguments.version
    if found.version != version.version:
        raise DataError(f"{found.partition} was scored by version {found.version}, not by version {version.version}")
    scored = tables.read(job.storage, found.table).to_pandas()
    outside, far = _far(job, arguments)
    labels = labels_of(job, arguments.labels, scored[job.config.data.key]) if arguments.labels else None
    reasons = {
        "contradicting": _contradicting(version.package, scored, labels),
        "uncertain": _uncertain(version.package, scored),
        "far": far,
    }
    chosen = _spread([reasons[name].strength for name in REASONS], arguments.rows, arguments.seed)
    places = np.array([place for place, _ in chosen], int)
    names = [REASONS[number] for _, number in chosen]
    told = {
        "reason": names,
        "why": [reasons[name].why[place] for place, name in zip(places, names, strict=True)],
        "features_outside": outside[places].astype(np.int32),
        "label_known": labels.to_numpy()[places] if labels is not None else np.full(len(places), np.nan),
    }
    return ReviewSample(
        partition=found.partition,
        version=found.version,
        rows=len(places),
        of=len(scored),
        reasons={name: names.count(name) for name in REASONS},
        candidates={name: int((~np.isnan(reasons[name].strength)).sum()) for name in REASONS},
        table=_written(job, found, scored, places, told),
    )


def _uncertain(package: Package, scored: pd.DataFrame) -> _Reason:
    """Scores near the cut, or with two classes close to each other. Those of a regression or a ranking say nothing of doubt."""
    rows = len(scored)
    if package.classes:
        second, first = np.partition(_each(scored), -2, axis=1)[:, -2:].T
        return _Reason(
            second - first, np.array([f"the two likeliest classes are {gap:.3g} apart" for gap in first - second])
        )
    if package.cut is None:
        return _none(rows)
    scores = scored["score"].to_numpy()
    return _Reason(
        -np.abs(scores - package.cut), np.array([f"score {s:.3g}, the cut is {package.cut:g}" for s in scores])
    )


def _each(scored: Any) -> Array:
    """The scores of all classes, float [n, classes]."""
    return np.stack(scored["scores"].to_numpy())


def _contradicting(package: Package, scored: pd.DataFrame, labels: Any) -> _Reason:
    """Rows whose label has come and lies far from the score: another class, the other side of the cut, or for a number an error of
    at least twice the root mean square of all of them. Ranks are not judged row by row."""
    if labels is None or package.objective == "lambdarank":
        return _none(len(scored))
    told, scores = labels.to_numpy(np.float64), scored["score"].to_numpy()
    if package.classes:
        each = _each(scored)
        place = np.nan_to_num(told).astype(int)
        apart, wrong = 1 - each[np.arange(len(each)), place], each.argmax(axis=1) != place
        names: list[str] = [package.classes[at] for at in place]
    else:
        apart = np.abs(told - scores)
        names = [f"{label:g}" for label in told]
        limit = _USUAL * float(np.sqrt(np.nanmean(apart**2)))
        wrong = apart >= limit if package.cut is None else (scores >= package.cut) != (told == 1)
    strength = np.where(wrong & ~np.isnan(told), apart, np.nan)
    return _Reason(
        strength, np.array([f"label {name}, score {score:.3g}" for name, score in zip(names, scores, strict=True)])
    )


def _far(job: Job, arguments: SampleForReviewArguments) -> tuple[Array, _Reason]:
    """How many features of each row lie outside of what training saw, int [n], and the rows that have one, strongest first by that
    number and then by how far: the distance to the nearest value seen, in spans from the 1 % to the 99 % quantile, summed."""
    package, found = arguments.version.package, arguments.predictions
    profile, schema = _described(job, package)
    own = job.with_code(found.code)
    features = build(own, found.partition, found.inputs, found.history)
    count, distance = np.zeros(len(features), int), np.zeros(len(features))
    why: list[list[str]] = [[] for _ in range(len(features))]
    known = {one.name: one for one in profile.features}
    for feature in schema.features:
        values = features[feature.name].to_numpy(np.float64)
        seen = known[feature.name]
        far = _beyond(values, feature.categories, seen.quantiles)
        far = np.where(np.isnan(values), 0.0 if seen.missing else 1.0, far)
        for place in np.flatnonzero(far > 0):
            why[place].append(f"{feature.name} {values[place]:.4g}")
        count += far > 0
        distance += far
    strength = np.where(
        count > 0, count + distance / (1 + distance), np.nan
    )  # the number decides, the distance among equals
    told = np.array([f"training saw no such {', '.join(names)}" if names else "" for names in why], dtype=object)
    return count, _Reason(strength, told)


def _described(job: Job, package: Package) -> tuple[ReferenceProfile, Schema]:
    if missing := [name for name in ("profile.json", "schema.json") if name not in package.files]:
        raise DataError(
            f"{job.config.name}: the package has no {missing[0]}, it was made by a provider of old: train a version anew"
        )
    profile, schema = (job.storage.fetch(package.files[name]) for name in ("profile.json", "schema.json"))
    return ReferenceProfile.model_validate_json(profile), Schema.model_validate_json(schema)


def _beyond(values: Array, categories: tuple[int, ...], quantiles: dict[str, float]) -> Array:
    """How far values lie from the nearest that was seen, float [n]: 0 inside; 1 for a category that was not seen."""
    if categories:
        return np.where(np.isin(values, categories), 0.0, 1.0)
    if not quantiles:
        return np.ones(len(values))
    by_share = {float(share): value for share, value in quantiles.items()}
    low, high, span = by_share[0.0], by_share[1.0], by_share[0.99] - by_share[0.01]
    return np.maximum(np.maximum(low - values, values - high), 0.0) / (span or 1.0)


def _none(rows: int) -> _Reason:
    return _Reason(np.full(rows, np.nan), np.full(rows, "", dtype=object))


def _spread(strengths: list[Array], rows: int, seed: int) -> list[tuple[int, int]]:
    """Places of rows and numbers of their reasons, in the order of choice."""
    drawn = np.random.default_rng(seed).permutation(len(strengths[0]))
    queues = []
    for strength in strengths:
        order = drawn[np.argsort(-strength[drawn], kind="stable")]  # NaN comes last
        queues.append(iter(order[: int((~np.isnan(strength)).sum())].tolist()))
    taken: dict[int, int] = {}
    left = dict(enumerate(queues))
    while left and len(taken) < rows:
        for number in list(left):
            place = next((at for at in left[number] if at not in taken), None)
            if place is None:
                del left[number]
            elif len(taken) < rows:
                taken[place] = number
    return list(taken.items())


def _written(job: Job, found: Predictions, scored: pd.DataFrame, places: Array, told: dict[str, Any]) -> Artifact:
    data = job.config.data
    first = [name for name in (data.key, data.event_time, "group", "score", LABEL, "scores", "rank") if name in scored]
    table = pa.Table.from_pandas(scored[first].iloc[places], preserve_index=False)
    for name, values in told.items():
        table = table.append_column(name, pa.array(values))
    inputs = tables.read(job.storage, found.inputs, [n for n in data.columns if n not in data.pii]).take(
        pa.array(places)
    )
    for name in inputs.column_names:
        if name not in (data.key, data.event_time):
            table = table.append_column(f"input_{name}", inputs[name])
    return tables.create(job.storage, job.under("review", found.partition), table.replace_schema_metadata())[0]
