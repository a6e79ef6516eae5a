"""Input schema and reference profile: what a model takes, and what it was trained on."""

from __future__ import annotations

import json
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlops_provider.steps.training.inputs import Feature, distribution, reference_profile, schema
from mlops_provider.storage import canonical_json

SETTINGS = {
    "objective": "binary",
    "num_leaves": 8,
    "min_data_in_leaf": 5,
    "num_threads": 1,
    "verbosity": -1,
    "min_data_per_group": 5,
}


@pytest.fixture(scope="module")
def features() -> dict[str, Feature]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 4))
    rows[::3, 1] = np.nan
    rows[:, 2] = 7.0
    rows[:, 3] = rng.integers(0, 4, 500)
    labels = (rows[:, 0] + np.nan_to_num(rows[:, 1]) + (rows[:, 3] == 2) > 0).astype(float)
    text = lightgbm.train(SETTINGS, lightgbm.Dataset(rows, labels, categorical_feature=[3]), 10).model_to_string()
    dtypes = {"number": "float64", "holed": "float64", "constant": "int64", "kind": "int8"}
    found = schema(text, rows[:100], features=dtypes, cut=0.5)
    return {feature.name: feature for feature in found.features}


def test_what_a_missing_value_does_is_read_from_the_trees(features: dict[str, Feature]) -> None:
    assert features["number"].missing == "read_as_zero"
    assert features["holed"].missing == "learned"
    assert features["constant"].missing == "no_effect"
    assert features["kind"].missing == "as_unseen"
    assert [name for name, f in features.items() if not f.missing_allowed] == ["number"]


def test_lightgbm_does_with_missing_values_what_the_schema_says() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 1)) + 3
    booster = lightgbm.train(SETTINGS, lightgbm.Dataset(rows, (rows[:, 0] > 3).astype(float)), 5)
    (feature,) = schema(booster.model_to_string(), rows, features={"x": "float64"}, cut=0.5).features
    assert feature.missing == "read_as_zero"
    assert booster.predict([[np.nan]]) == booster.predict([[0.0]])


def test_ranges_take_in_more_than_the_sample(features: dict[str, Feature]) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 4))[:, 0]
    assert (features["number"].minimum, features["number"].maximum) == (rows.min(), rows.max())
    assert (features["constant"].minimum, features["constant"].maximum) == (7.0, 7.0)


def test_categories_and_types_are_named(features: dict[str, Feature]) -> None:
    kind = features["kind"]
    assert (kind.dtype, kind.categories, kind.minimum) == ("int8", (0, 1, 2, 3), None)


def test_a_profile_describes_features_and_scores() -> None:
    sample = pd.DataFrame({"a": [1, 2, 3, 4], "b": [np.nan, 1.0, 1.0, np.nan]})
    found = reference_profile(sample, np.array([0.1, 0.2, 0.3, 0.4]), rows=99)
    a, b = found.features
    assert (found.rows, found.sampled, [one.name for one in found.scores]) == (99, 4, ["score"])
    assert (a.missing, a.distinct, a.mean, a.quantiles["0"], a.quantiles["0.5"], a.quantiles["1"]) == (
        0,
        4,
        2.5,
        1,
        2,
        4,
    )
    assert (b.missing, b.distinct, b.deviation) == (0.5, 1, 0.0)


@pytest.mark.parametrize("values", [[np.nan, np.nan], [np.inf, 1.0], [-1e308, 1e308], [1e308, 1e308], []])
def test_every_column_can_be_written_as_json(values: Any) -> None:
    found = distribution("x", np.array(values, np.float64))
    assert json.loads(canonical_json(found.model_dump(mode="json")))["name"] == "x"
