"""`training.tune` of model.yaml: what can be searched, and why something cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops_provider.config import load
from mlops_provider.exceptions import ConfigError
from mlops_provider.sections import Dimension
from tests.support.tiny import write_model

LEAVES = {"num_leaves": {"low": 2, "high": 16}}


def written(folder: Path, window: int = 3, **tune: Any) -> Path:
    training = {"window": {"minimum": window}, "tune": {"space": LEAVES, **tune}}
    return write_model(folder, training=training)


def test_a_search_needs_a_space_and_no_more(tmp_path: Path) -> None:
    tune = load(written(tmp_path)).training.tune
    assert tune is not None
    assert (tune.trials, tune.parallel, tune.folds, tune.timeout) == (20, 4, 1, None)


def test_the_last_wave_may_be_smaller(tmp_path: Path) -> None:
    tune = load(written(tmp_path, trials=5, parallel=2)).training.tune
    assert tune is not None
    assert [list(wave) for wave in tune.waves] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("tune", "told"),
    [
        ({"space": {}}, "at least 1 item"),
        ({"space": {"leaves": LEAVES["num_leaves"]}}, "tune.space: leaves: not among LightGBM's parameters"),
        ({"space": {"objective": {"choices": ["l1", "l2"]}}}, "tune.space must not set objective"),
        ({"space": {"linear_tree": {"choices": [True, False]}}}, "tune.space must not set linear_tree"),
        ({"space": {"n_estimators": {"low": 1, "high": 9}}}, "use training.rounds"),
        ({"space": {"bagging_seed": {"low": 1, "high": 9}}}, "a seed is luck and is not searched"),
        ({"space": {"num_leaves": {"low": 2.5, "high": 16}}}, "space.num_leaves: must be a whole number"),
        ({"space": {"num_leaves": {"choices": [4, 8.5]}}}, "space.num_leaves: must be a whole number"),
        ({"space": {"max_cat_to_onehot": {"low": 1.5, "high": 8}}}, "space.max_cat_to_onehot: must be a whole number"),
        ({"space": {"learning_rate": {"choices": [0.1, "much"]}}}, "space.learning_rate: is a number"),
        ({"space": {"learning_rate": {"choices": [0.1, True]}}}, "space.learning_rate: is a number"),
        ({"space": {"extra_trees": {"low": 0, "high": 1}}}, "give choices [true, false]"),
        ({"space": {"num_leaves": {"low": 16, "high": 2}}}, "low (16) must be below high (2)"),
        ({"space": {"learning_rate": {"low": 0.1, "high": float("inf")}}}, "both finite"),
        ({"space": {"learning_rate": {"low": float("-inf"), "high": 0.1}}}, "both finite"),
        ({"space": {"learning_rate": {"low": float("nan"), "high": 0.1}}}, "both finite"),
        ({"space": {"lambda_l1": {"low": 0, "high": 9, "log": True}}}, "0 has no logarithm"),
        ({"space": {"num_leaves": {"low": 2}}}, "give low and high, or choices"),
        ({"space": {"num_leaves": {"low": 2, "high": 9, "choices": [4, 8]}}}, "choices stand alone"),
        ({"space": {"num_leaves": {"choices": [4, 4]}}}, "more than once"),
        ({"space": {"num_leaves": {"choices": [4]}}}, "at least 2 items"),
        ({"space": {"num_leaves": {"low": "2", "high": 16}}}, "must be a number"),
        ({"space": {"num_leaves": {"low": 2, "high": 16, "step": 2}}}, "unknown key"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"trials": 51, "parallel": 1}, "51 waves: each is a task of its own, and at most 50 are allowed"),
        ({"parallel": 65}, "less than or equal to 64"),
        ({"timeout": "0s"}, "must be longer than nothing"),
        ({"timeout": 30}, "valid string"),
        ({"folds": 2}, "window.minimum of at least 4"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, tune: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written_raw(tmp_path, tune))
    assert told in str(caught.value)
    assert "model.yaml" in str(caught.value)


def written_raw(folder: Path, tune: dict[str, Any]) -> Path:
    """With the space as it is given, not merged into another."""
    return write_model(folder, training={"window": {"minimum": 3}, "tune": {"space": LEAVES} | tune})


@pytest.mark.parametrize(
    ("dimension", "value", "held"),
    [
        ({"low": 0, "high": 1}, 0.5, True),
        ({"low": 0, "high": 1}, 1, True),
        ({"low": 0, "high": 1}, 1.5, False),
        ({"low": 0, "high": 1}, True, False),
        ({"choices": [1, 2]}, 2, True),
        ({"choices": [1, 2]}, True, False),
        ({"choices": [1, 2]}, 3, False),
    ],
)
def test_a_value_lies_in_a_dimension_or_not(dimension: dict[str, Any], value: Any, held: bool) -> None:
    assert Dimension.model_validate(dimension).holds(value) is held
