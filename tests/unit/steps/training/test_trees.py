"""What the text of a LightGBM model says is what LightGBM itself says of it."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from mlops_provider.steps.training.trees import Range, ranges, splits, tree_count, used_features

SETTINGS = {"objective": "binary", "num_leaves": 9, "min_data_in_leaf": 5, "num_threads": 1, "verbosity": -1}
CATEGORIES = {"min_data_per_group": 5, "cat_smooth": 1}


def booster(**params: Any) -> lightgbm.Booster:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 5))
    rows[::3, 1] = np.nan
    rows[:, 2] = 1.0
    rows[:, 3] = rng.integers(0, 6, 400)
    labels = (rows[:, 0] + np.nan_to_num(rows[:, 1]) + (rows[:, 3] == 2) > 0).astype(float)
    return lightgbm.train(SETTINGS | CATEGORIES | params, lightgbm.Dataset(rows, labels, categorical_feature=[3]), 12)


@pytest.fixture
def model() -> lightgbm.Booster:
    return booster()


def test_splits_are_those_of_lightgbm(model: lightgbm.Booster) -> None:
    frame, names = model.trees_to_dataframe(), model.feature_name()
    frame = frame[frame["decision_type"].notna()]
    assert {"<=", "=="} == set(frame["decision_type"])
    expected = sorted(zip(map(names.index, frame["split_feature"]), map(str, frame["threshold"]), strict=True))
    found = splits(model.model_to_string())
    told = [(s.feature, "||".join(map(str, s.categories)) or str(s.threshold)) for s in found]
    assert sorted(told) == expected
    missing = sorted(zip(map(names.index, frame["split_feature"]), frame["missing_type"], strict=True))
    assert sorted((s.feature, s.missing) for s in found) == missing
    assert sum(s.gain for s in found) == pytest.approx(frame["split_gain"].sum(), rel=1e-4)


def test_categories_beyond_one_word_are_read() -> None:
    rows = np.arange(400)[:, None] % 100.0
    data = lightgbm.Dataset(rows, np.isin(rows[:, 0], [3, 40, 70, 95]).astype(float), categorical_feature=[0])
    params = SETTINGS | {"min_data_in_leaf": 1, "min_data_per_group": 1, "cat_smooth": 0, "max_bin": 200}
    text = lightgbm.train(params, data, 1).model_to_string()
    assert {3, 40, 70, 95} in [set(split.categories) for split in splits(text)]


def test_used_features_are_those_with_splits(model: lightgbm.Booster) -> None:
    counts = model.feature_importance("split")
    assert used_features(model.model_to_string()) == {i for i, n in enumerate(counts) if n}
    assert 2 not in used_features(model.model_to_string())


def test_ranges_and_categories_are_those_of_training(model: lightgbm.Booster) -> None:
    a, b, constant, category, _ = ranges(model.model_to_string())
    assert a.low is not None
    assert a.high is not None
    assert a.low < 0 < a.high
    assert b.categories == ()
    assert constant == Range(None, None, ())
    assert category.categories == (0, 1, 2, 3, 4, 5)


def test_trees_are_counted(model: lightgbm.Booster) -> None:
    assert tree_count(model.model_to_string()) == model.num_trees()


def test_a_model_without_splits_has_none() -> None:
    text = booster(min_data_in_leaf=1000).model_to_string()
    assert splits(text) == []
    assert used_features(text) == set()
