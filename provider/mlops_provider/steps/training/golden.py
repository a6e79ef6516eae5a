"""Golden cases: inputs with the scores that LightGBM gives them, chosen where a package that scores otherwise would show.

They travel with the package. Whoever holds it (the gate, a server, a device, a worker with other libraries) can replay
them: the score of every case must be the one in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import IntegrityError
from mlops_provider.steps.records import Package
from mlops_provider.steps.scoring.decisions import distance, turned
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training.trees import Split, splits
from mlops_provider.storage import Storage

FILE = "golden.json"
Array = np.ndarray[Any, Any]
Score = Callable[[Array], Array]
Chosen = tuple[str, Array]
_ROWS, _FEATURES, _VALUES, _SPLITS, _BASES = 2_000, 40, 8, 32, 8
_HUGE = 1e300


class Case(Frozen):
    """One row.

    :param why: what the row stands for.
    :param inputs: as the tensor takes them, after the version's own statistics; None is a missing value (NaN).
    :param score: LightGBM's; one for each class, if there are several.
    """

    why: str
    inputs: tuple[float | None, ...]
    score: float | tuple[float, ...]


class Golden(Frozen):
    """The golden cases of a version.

    :param tolerance: largest accepted |a - b| / max(1, |b|).
    :param cut: a score from here on is decided as positive; None if nothing is decided by one.
    """

    fingerprint: str
    features: tuple[str, ...]
    cut: float | None
    tolerance: float
    cases: tuple[Case, ...]

    @property
    def rows(self) -> Array:
        """The inputs, float64 [cases, features]."""
        return np.array([case.inputs for case in self.cases], np.float64).reshape(-1, len(self.features))

    @property
    def scores(self) -> Array:
        """What LightGBM made of them, float64 [cases], or [cases, classes]."""
        return np.array([case.score for case in self.cases], np.float64)


def golden(
    text: str, sample: Array, *, fingerprint: str, features: tuple[str, ...], cut: float | None, tolerance: float
) -> Golden:
    """The golden cases of a model.

    :param text: of the LightGBM model.
    :param sample: rows of its training data as its tensor takes them, float64 [n, features].
    """
    import lightgbm

    booster = lightgbm.Booster(model_str=text)

    def score(rows: Array) -> Array:
        return np.asarray(booster.predict(rows, num_threads=1), np.float64)

    chosen = _chosen(score, _finite(sample)[:_ROWS], splits(text), features, cut)
    scores = score(np.array([row for _, row in chosen]))
    return Golden(
        fingerprint=fingerprint,
        features=features,
        cut=cut,
        tolerance=tolerance,
        cases=tuple(
            Case(why=why, inputs=tuple(None if math.isnan(x) else float(x) for x in row), score=scored)
            for (why, row), scored in zip(chosen, scores.tolist(), strict=True)
        ),
    )


def replay_golden(package: Package, storage: Storage, *, score: Score | None = None, where: str = "") -> Verdict:
    """Scores the golden cases of a package and compares with what is written in them.

    :param score: float64 [n, features] to scores, for instance those of a server; the package's own ONNX file if None.
    :param where: what was asked, for people.
    :raises IntegrityError: if a file of the package is gone or damaged.
    """
    subject = f"golden cases{f' at {where}' if where else ''}"
    file = package.files.get(FILE)
    if file is None:
        why = "the package has no golden cases, it is older than they are; start ct with force to package it anew"
        return Verdict(subject=subject, checks=(could_not_run("golden_scores", why),))
    known = _read(storage.fetch(file), file.uri)
    found = np.asarray((score or Scorer.of(package, storage).score)(known.rows), np.float64)
    if found.shape != known.scores.shape or not len(found):
        why = f"{len(known.cases)} cases gave scores of the shape {found.shape}"
        return Verdict(subject=subject, checks=(could_not_run("golden_scores", why),))
    return Verdict(subject=subject, checks=_compared(known, found))


def _read(content: bytes, uri: str) -> Golden:
    try:
        return Golden.model_validate_json(content)
    except ValueError as error:
        raise IntegrityError(f"{uri} holds no golden cases: {error}") from error


def _compared(known: Golden, found: Array) -> tuple[Check, ...]:
    expected, tolerance = known.scores, known.tolerance
    difference = distance(found, expected)
    at = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
    worst = float(difference[at])
    wrong = int((~(difference <= tolerance)).sum())
    detail = f"{len(expected)} cases, {wrong} scored otherwise"
    if wrong:
        detail += f"; worst: {known.cases[at].why}, {_shown(found[at])} instead of {_shown(expected[at])}"
    flipped = int(turned(found, expected, cut=known.cut, tolerance=tolerance).sum())
    return (
        Check(name="golden_scores", passed=not wrong, value=worst, threshold=tolerance, detail=detail),
        Check(name="golden_decisions", passed=not flipped, value=float(flipped), threshold=0.0),
    )


def _shown(score: Any) -> str:
    return ", ".join(f"{value:.9g}" for value in np.atleast_1d(score))


def _finite(sample: Array) -> Array:
    """Rows without infinities, which JSON does not know; a row of zeros if there is none."""
    rows = sample[~np.isinf(sample).any(axis=1)]
    return rows if len(rows) else np.zeros((1, sample.shape[1]))


def _chosen(score: Score, rows: Array, found: list[Split], names: tuple[str, ...], cut: float | None) -> list[Chosen]:
    scores = score(rows)
    gains = np.zeros(len(names))
    for split in found:
        gains[split.feature] += split.gain
    features = [int(i) for i in np.argsort(-gains, kind="stable")[:_FEATURES]]
    middle = rows[np.argsort(scores if scores.ndim == 1 else scores[:, 0], kind="stable")[len(rows) // 2]]
    made = [
        *(_by_score(rows, scores, cut) if scores.ndim == 1 else _by_class(rows, scores)),
        *(case for i in features for case in _by_feature(rows, i, names[i], middle)),
        *_on_thresholds(score, rows, found, names),
        *_extremes(rows.shape[1]),
    ]
    once: dict[bytes, Chosen] = {}
    for why, row in made:
        once.setdefault(row.tobytes(), (why, row))
    return list(once.values())


def _by_class(rows: Array, scores: Array) -> Iterator[Chosen]:
    """For each class rows from the least to the most sure to be of it, and the least sure that is decided so."""
    likeliest = scores.argmax(axis=1)
    for place in range(scores.shape[1]):
        column = scores[:, place]
        order = np.argsort(column, kind="stable")
        for fifth in range(6):
            yield f"class {place} at {fifth * 20} % of the training rows", rows[order[fifth * (len(rows) - 1) // 5]]
        if (chosen := likeliest == place).any():
            yield f"class {place}, the least sure", rows[np.argmin(np.where(chosen, column, np.inf))]


def _by_score(rows: Array, scores: Array, cut: float | None) -> Iterator[Chosen]:
    order = np.argsort(scores, kind="stable")
    for tenth in range(11):
        yield f"score at {tenth * 10} % of the training rows", rows[order[tenth * (len(rows) - 1) // 10]]
    if cut is None:
        return
    below, above = scores < cut, scores >= cut
    if below.any():
        yield "the highest score below the cut", rows[np.argmax(np.where(below, scores, -np.inf))]
    if above.any():
        yield "the lowest score from the cut on", rows[np.argmin(np.where(above, scores, np.inf))]


def _by_feature(rows: Array, feature: int, name: str, middle: Array) -> Iterator[Chosen]:
    """The smallest, the largest and a missing value; every value of a feature that has few, as slices are cut by them."""
    column = rows[:, feature]
    known = np.unique(column[~np.isnan(column)])
    for value in known if len(known) <= _VALUES else known[[0, -1]]:
        yield f"{name} is {value:g}", rows[np.argmax(column == value)]
    lacking = np.flatnonzero(np.isnan(column))
    yield f"{name} is missing", rows[lacking[0]] if len(lacking) else _with(middle, feature, np.nan)


def _on_thresholds(score: Score, rows: Array, found: list[Split], names: tuple[str, ...]) -> Iterator[Chosen]:
    """Rows on both sides of the splits that gain most, where crossing them changes the score most."""
    best = {(s.feature, str(s.threshold), s.categories): s for s in sorted(found, key=lambda s: s.gain)}
    chosen = [s for s in sorted(best.values(), key=lambda s: -s.gain) if not abs(s.threshold) >= _HUGE][:_SPLITS]
    if not chosen:
        return
    bases = rows[np.linspace(0, len(rows) - 1, _BASES).astype(int)]
    pairs = np.array([[[_with(base, s.feature, x) for _, x in _sides(s)] for base in bases] for s in chosen])
    scores = score(pairs.reshape(-1, rows.shape[1])).reshape(len(chosen), len(bases), 2, -1)
    for split, sides, scored in zip(chosen, pairs, scores, strict=True):
        widest = sides[np.argmax(np.abs(scored[:, 0] - scored[:, 1]).max(axis=1))]
        for (why, _), row in zip(_sides(split), widest, strict=True):
            yield f"{names[split.feature]} {why}", row


def _sides(split: Split) -> tuple[tuple[str, float], tuple[str, float]]:
    """A value on each side of a split."""
    if split.categories:
        return ("is of a known category", float(split.categories[0])), ("is unseen", max(split.categories) + 1_000.0)
    at = split.threshold
    return (f"on the threshold {at:g}", at), (f"just above the threshold {at:g}", float(np.nextafter(at, np.inf)))


def _extremes(features: int) -> Iterator[Chosen]:
    for why, value in (("missing", np.nan), ("zero", 0.0), ("huge", _HUGE), ("hugely negative", -_HUGE)):
        yield f"every value is {why}", np.full(features, value)


def _with(row: Array, feature: int, value: float) -> Array:
    changed = row.copy()
    changed[feature] = value
    return changed
