"""Decisions about groups of people, compared with fairlearn (extra `fairness`; only where model.yaml asks for it)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.checks import Check, could_not_run
from mlops_provider.steps.training.comparison import Array, Holdout
from mlops_provider.steps.training.findings import Fairness, Group
from mlops_provider.steps.training.slices import MISSING

_MOST_GROUPS = 50


def fairness(holdout: Holdout, scores: Array) -> tuple[Fairness, ...]:
    """The groups of each column of `evaluation.fairness`, decided at the model's cut.

    Demographic parity (Dwork et al. 2012) compares how often groups are decided as positive, equalized odds (Hardt, Price
    and Srebro 2016) how often rightly and wrongly so. Groups of fewer than `minimum_rows` rows are told and not compared:
    the largest difference would be theirs by chance.
    """
    settings = holdout.job.config.evaluation
    if not settings.fairness:
        return ()
    columns = holdout.columns(set(settings.fairness))
    decided = (scores >= settings.cut).astype(int)
    labels = holdout.labels.astype(int)
    return tuple(_compared(name, columns[name], labels, decided, settings.minimum_rows) for name in settings.fairness)


def _compared(name: str, values: Any, labels: Array, decided: Array, least: int) -> Fairness:
    groups = np.where(values.isna(), MISSING, values.astype(str))
    if (count := len(np.unique(groups))) > _MOST_GROUPS:
        return Fairness(column=name, groups=(), problem=f"has {count} values, at most {_MOST_GROUPS} make groups")
    found = _groups(groups, labels, decided)
    large = {group.value for group in found if group.rows >= least}
    if len(large) < 2:
        return Fairness(column=name, groups=found, problem=f"fewer than two groups have {least} rows")
    where = np.isin(groups, sorted(large))
    return _differing(name, found, groups[where], labels[where], decided[where])


def _groups(groups: Array, labels: Array, decided: Array) -> tuple[Group, ...]:
    from fairlearn.metrics import MetricFrame, count, false_positive_rate, selection_rate, true_positive_rate

    measures = {
        "rows": count,
        "selection_rate": selection_rate,
        "true_positive_rate": true_positive_rate,
        "false_positive_rate": false_positive_rate,
    }
    frame = MetricFrame(metrics=measures, y_true=labels, y_pred=decided, sensitive_features=groups).by_group
    return tuple(_group(str(value), row, labels[groups == value]) for value, row in frame.to_dict("index").items())


def _group(value: str, rates: dict[str, float], labels: Array) -> Group:
    """A rate of rows that there are none of has no value; fairlearn gives 0 for it."""
    right = rates["true_positive_rate"] if labels.any() else None
    wrong = rates["false_positive_rate"] if not labels.all() else None
    return Group(
        value=value,
        rows=int(rates["rows"]),
        selection_rate=rates["selection_rate"],
        true_positive_rate=right,
        false_positive_rate=wrong,
    )


def _differing(name: str, found: tuple[Group, ...], groups: Array, labels: Array, decided: Array) -> Fairness:
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    of_one_class = [
        value for value in np.unique(groups) if labels[groups == value].min() == labels[groups == value].max()
    ]
    given = {"y_true": labels, "y_pred": decided, "sensitive_features": groups}
    differences = {"demographic_parity_difference": float(demographic_parity_difference(**given))}
    # Of a group of one class there is no rate of right or of wrong decisions; fairlearn would call it 0.
    if not of_one_class:
        differences["equalized_odds_difference"] = float(equalized_odds_difference(**given))
    return Fairness(column=name, groups=found, differences=differences)


def fairness_checks(found: tuple[Fairness, ...]) -> list[Check]:
    """An error for every column whose groups could not be compared; limits are the gate's."""
    return [could_not_run("fairness", one.problem, subject=one.column) for one in found if one.problem]
