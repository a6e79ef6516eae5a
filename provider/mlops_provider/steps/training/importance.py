"""What single features and sound inputs are worth: permutation importance, and scores under worse inputs.

The primary metric is measured again with one feature permuted (Breiman 2001; Fisher, Rudin and Dominici 2019), on a sample of
the holdout that is spread evenly over its time. Features that say the same can stand in for each other: none of them
seems to matter then, and leaving out all of them is another question (Hooker, Mentch and Zhou 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.sections import Importance
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import metrics
from mlops_provider.steps.training.comparison import Array, Holdout, renumbered, thinned
from mlops_provider.steps.training.findings import FeatureEffect, Perturbed
from mlops_provider.steps.training.objectives import objective

_RESAMPLES = 100
_CODES = 20
_NAMED = 10
_EXTREME = (-np.inf, -1e12, 1e12, np.inf)


@dataclass(frozen=True)
class Sample:
    """Rows of the holdout that are scored again and again.

    :param features: as the package takes them, float64 [n, features]; `names` of them.
    """

    job: Job
    scorer: Scorer
    names: Sequence[str]
    features: Array
    labels: Array
    blocks: Array

    @classmethod
    def of(cls, holdout: Holdout, scorer: Scorer, names: Sequence[str], features: Array) -> Sample | None:
        """Rows spread evenly over the holdout's time; None if their labels tell nothing, or none are asked for."""
        order = np.argsort(holdout.rows[holdout.job.config.data.event_time].to_numpy(), kind="stable")
        chosen = _spread(holdout.labels, order, holdout.job.config.evaluation.importance.rows)
        labels = holdout.labels[chosen]
        if holdout.objective.problem(labels):
            return None
        return cls(holdout.job, scorer, names, features[chosen], labels, renumbered(holdout.blocks[chosen]))

    @property
    def random(self) -> np.random.Generator:
        """The same for everyone who asks: one effect does not depend on another."""
        return np.random.default_rng(self.job.config.training.seed)

    def metric(self, features: Array) -> metrics.Weighted:
        """The primary metric under these features, as a function of row weights."""
        return metrics.metric(self.job.config.evaluation.metric, self.labels, self.scorer.score(features))


def _spread(labels: Array, order: Array, rows: int) -> Array:
    """Numbers of about `rows` rows, spread evenly over an order; of a ranking whole groups, as half a group ranks otherwise."""
    if labels.ndim == 1:
        return np.asarray(order[thinned(len(order), rows)])
    _, first, groups = np.unique(labels[order, 1], return_index=True, return_inverse=True)
    in_time = np.argsort(first, kind="stable")
    kept = in_time[thinned(len(in_time), max(1, len(in_time) * rows // len(order)))]
    return np.asarray(order[np.isin(groups, kept)])


def importance(sample: Sample) -> tuple[FeatureEffect, ...]:
    """The effect of each feature, the largest first."""
    settings = sample.job.config.evaluation
    order = sample.random.permutation(len(sample.labels))
    functions = [sample.metric(sample.features)]
    for column in range(len(sample.names)):
        permuted = sample.features.copy()
        permuted[:, column] = permuted[order, column]
        functions.append(sample.metric(permuted))
    seed = sample.job.config.training.seed
    drawn = metrics.resampled(functions, sample.blocks, resamples=_RESAMPLES, seed=seed)
    every, sign = np.ones(len(sample.labels)), metrics.sign(settings.metric)
    whole = functions[0](every)
    effects = []
    for column, name in enumerate(sample.names):
        low, high = metrics.bounds(sign * (drawn[:, 0] - drawn[:, column + 1]), settings.confidence)
        effects.append(
            FeatureEffect(
                feature=name,
                effect=sign * (whole - functions[column + 1](every)),
                low=low,
                high=high,
                missing=float(np.isnan(sample.features[:, column]).mean()),
                cost=settings.importance.costs.get(name),
            )
        )
    return tuple(sorted(effects, key=lambda one: -one.effect))


def importance_checks(effects: tuple[FeatureEffect, ...], settings: Importance, rows: int) -> list[Check]:
    """Features without a proved effect, and features that do not bring what they cost."""
    useless = [one.feature for one in effects if one.low <= 0]
    checks = [_named("useless_features", useless, f"no effect was proved on {rows} rows")]
    if settings.worth is not None:
        worth = settings.worth
        costly = [one.feature for one in effects if one.cost and one.effect < one.cost * worth]
        checks.append(_named("costly_features", costly, f"the effect is below {worth:g} for a unit of cost"))
    return checks


def _named(name: str, features: list[str], detail: str) -> Check:
    return Check(
        name=name,
        passed=not features,
        value=float(len(features)),
        threshold=0.0,
        severity="warn",
        subject=", ".join(features[:_NAMED]),
        detail=f"{detail}; {len(features) - _NAMED} more" if len(features) > _NAMED else detail,
    )


def robustness(sample: Sample) -> tuple[Perturbed, ...]:
    """The primary metric with noise on the numbers, and with values taken away."""
    settings = sample.job.config.evaluation
    every, sign = np.ones(len(sample.labels)), metrics.sign(settings.metric)
    whole = sample.metric(sample.features)(every)
    worse = {
        f"noise of {settings.robustness.noise:g} standard deviations": _noisy(sample, settings.robustness.noise),
        f"{settings.robustness.missing:.0%} of the values missing": _thinned_out(sample, settings.robustness.missing),
    }
    found = {name: sample.metric(features)(every) for name, features in worse.items()}
    return tuple(Perturbed(name=name, value=value, loss=sign * (whole - value)) for name, value in found.items())


def _noisy(sample: Sample, noise: float) -> Array:
    """Normal noise on features of more than 20 values; those of whole numbers stay whole."""
    rng, features = sample.random, sample.features.copy()
    for column in range(features.shape[1]):
        values = features[:, column]
        known = values[np.isfinite(values)]
        if len(np.unique(known)) <= _CODES:
            continue
        moved = values + rng.normal(0, noise * known.std(), len(values))
        features[:, column] = np.round(moved) if (known == np.round(known)).all() else moved
    return features


def _thinned_out(sample: Sample, share: float) -> Array:
    features = sample.features.copy()
    features[sample.random.random(features.shape) < share] = np.nan
    return features


def robustness_checks(sample: Sample, found: tuple[Perturbed, ...]) -> list[Check]:
    """Scores stay what they can be (probabilities, or finite) under any number; and the limit of the loss, if there is one."""
    limit = sample.job.config.evaluation.robustness.max_loss
    checks = [_extreme(sample)]
    if limit is not None:
        checks += [
            Check(
                name="robustness",
                passed=one.loss <= limit,
                value=one.loss,
                threshold=limit,
                severity="warn",
                subject=one.name,
            )
            for one in found
        ]
    return checks


def _extreme(sample: Sample) -> Check:
    """Every feature infinite, huge, or missing, at once and alone."""
    row, width = sample.features[:1], len(sample.names)
    rows = [np.full((1, width), value) for value in (*_EXTREME, np.nan)]
    for value in (*_EXTREME, np.nan):
        alone = np.repeat(row, width, axis=0)
        np.fill_diagonal(alone, value)
        rows.append(alone)
    scores = sample.scorer.score(np.vstack(rows))
    bad = int((~objective(sample.job.config).possible(scores)).sum())
    detail = f"{len(scores)} rows with infinite, huge and missing values, {bad} scores are none that the model can give"
    return Check(name="extreme_inputs", passed=not bad, value=float(bad), threshold=0.0, detail=detail)


def not_sampled(rows: int) -> Check:
    """That importance and robustness were asked for and could not be had."""
    return could_not_run("importance", f"the labels of the sample of {rows} rows of the holdout tell nothing")
