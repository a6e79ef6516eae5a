"""The ONNX export scores as LightGBM does, wherever a value lies; what it could not score so is refused."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.steps.training.package import parity, parity_rows

Array = np.ndarray[Any, Any]
EDGES = (0.0, -0.0, 1e-35, -1e-35, 1.1e-35, -1.1e-35, 9e-36, -9e-36, 5e-324, 1e300, -1e300, np.inf, -np.inf, np.nan)


def plain(rng: np.random.Generator, rows: int) -> Array:
    return rng.normal(size=(rows, 4))


def sparse(rng: np.random.Generator, rows: int) -> Array:
    return plain(rng, rows) * (rng.random((rows, 4)) < 0.3)


def holed(rng: np.random.Generator, rows: int) -> Array:
    return np.where(rng.random((rows, 4)) < 0.3, np.nan, plain(rng, rows))


def tiny(rng: np.random.Generator, rows: int) -> Array:
    return plain(rng, rows) * 10.0 ** rng.integers(-36, -33, (rows, 4))


def huge(rng: np.random.Generator, rows: int) -> Array:
    return plain(rng, rows) * 10.0 ** rng.integers(20, 300, (rows, 4))


def whole(rng: np.random.Generator, rows: int) -> Array:
    return rng.integers(2**24, 2**24 + 50, (rows, 4)).astype(float)


def decimal(rng: np.random.Generator, rows: int) -> Array:
    return np.round(plain(rng, rows), 1)


def missing_or_not(rng: np.random.Generator, rows: int) -> Array:
    return np.where(rng.random((rows, 4)) < 0.5, np.nan, 1.0)


def constant(rng: np.random.Generator, rows: int) -> Array:
    return np.ones((rows, 4))


KINDS = (plain, sparse, holed, tiny, huge, whole, decimal, missing_or_not, constant)


def fitted(features: Array, rounds: int = 15, **params: Any) -> lightgbm.Booster:
    rng = np.random.default_rng(5)
    filled = np.nan_to_num(features, nan=-1.0)
    signal = filled[:, 0] > np.median(filled[:, 0])
    labels = (signal ^ (rng.random(len(features)) < 0.2)).astype(float)
    labels[:2] = 0, 1
    settings = {
        "objective": "binary",
        "num_leaves": 15,
        "min_data_in_leaf": 5,
        "num_threads": 1,
        "verbosity": -1,
        "seed": 1,
        **params,
    }
    return lightgbm.train(settings, lightgbm.Dataset(features, labels), rounds)


def probes(booster: lightgbm.Booster, sample: Array) -> Array:
    """Rows of the sample, rows on and beside thresholds, and rows with a value on each edge of the numbers."""
    edges = [sample[:20].copy() for _ in range(sample.shape[1] * len(EDGES))]
    for place, rows in enumerate(edges):
        rows[:, place % sample.shape[1]] = EDGES[place // sample.shape[1]]
    return np.vstack([parity_rows(booster, sample), *edges, np.array([[edge] * sample.shape[1] for edge in EDGES])])


def difference(booster: lightgbm.Booster, rows: Array) -> float:
    expected = np.asarray(booster.predict(rows, num_threads=1))
    found = Scorer(export(booster.model_to_string())).score(rows)
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("use_missing", [True, False])
def test_every_kind_of_data_scores_alike(kind: Any, use_missing: bool) -> None:
    sample = kind(np.random.default_rng(0), 600)
    booster = fitted(sample, use_missing=use_missing)
    assert difference(booster, probes(booster, sample)) <= 1e-6


@pytest.mark.parametrize(
    "params",
    [
        {"sigmoid": 0.3},
        {"sigmoid": 3.0},
        {"learning_rate": 1.0},
        {"learning_rate": 1e-4},
        {"max_bin": 3},
        {"max_bin": 1000, "min_data_in_bin": 1},
        {"num_leaves": 400, "min_data_in_leaf": 1, "max_depth": -1},
        {"num_leaves": 31, "max_depth": 30, "min_data_in_leaf": 1, "feature_fraction": 0.3},
        {"monotone_constraints": "1,-1,0,0"},
        {"monotone_constraints": "1,0,0,0", "monotone_constraints_method": "advanced"},
        {"extra_trees": True},
        {"bagging_fraction": 0.5, "bagging_freq": 1},
        {"data_sample_strategy": "goss"},
        {"is_unbalance": True},
        {"scale_pos_weight": 9.0},
        {"boost_from_average": False},
        {"path_smooth": 3.0},
        {"lambda_l1": 50.0},
        {"boosting": "dart", "drop_rate": 0.5},
        {"min_data_in_leaf": 10_000},
        {"min_gain_to_split": 1e9},
        {"max_delta_step": 0.1},
        {"zero_as_missing": False, "use_missing": False},
        {"feature_pre_filter": False, "force_row_wise": True},
    ],
    ids=lambda params: ",".join(f"{key}={value}" for key, value in params.items()),
)
@pytest.mark.parametrize("kind", [holed, sparse], ids=lambda kind: kind.__name__)
def test_every_kind_of_tree_scores_alike(params: dict[str, Any], kind: Any) -> None:
    sample = kind(np.random.default_rng(1), 500)
    booster = fitted(sample, **params)
    assert difference(booster, probes(booster, sample)) <= 1e-6


def test_many_trees_score_alike() -> None:
    sample = holed(np.random.default_rng(2), 800)
    booster = fitted(sample, rounds=300)
    assert difference(booster, probes(booster, sample)) <= 1e-6


def test_a_tree_deeper_than_python_recurses_is_exported() -> None:
    rows = np.zeros((1, 1))
    leaf, depth = {"leaf_value": 1.0}, 3_000
    tree: dict[str, Any] = leaf
    for threshold in range(depth):
        tree = {
            "split_index": threshold,
            "split_feature": 0,
            "threshold": float(threshold + 1),
            "decision_type": "<=",
            "missing_type": "None",
            "default_left": True,
            "left_child": tree,
            "right_child": leaf,
        }
    from mlops_provider.steps.training import onnx_export

    nodes = onnx_export._Nodes()
    onnx_export._walk(nodes, 0, tree)
    assert len(nodes.ids) == 2 * depth + 1
    assert rows.shape == (1, 1)


@pytest.mark.parametrize("use_missing", [True, False])
@pytest.mark.parametrize(
    "threshold", [0.0, -0.0, 5e-36, -5e-36, 5e-324, -5e-324, 1e-35, -1e-35, 1.1e-35, -1.1e-35, 9e299, -9e299, np.inf]
)
def test_thresholds_near_zero_and_beyond_all_values_divide_alike(threshold: float, use_missing: bool) -> None:
    sample = holed(np.random.default_rng(11), 300)
    text = fitted(sample, rounds=1, num_leaves=2, use_missing=use_missing).model_to_string()
    line = next(line for line in text.splitlines() if line.startswith("threshold="))
    booster = lightgbm.Booster(model_str=text.replace(line, f"threshold={float(threshold)!r}"))
    assert difference(booster, probes(booster, sample)) <= 1e-6


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "regression", "reg_sqrt": True},
        {"objective": "poisson"},
        {"objective": "cross_entropy"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"zero_as_missing": True},
        {"linear_tree": True},
    ],
    ids=lambda params: next(iter(params)),
)
def test_what_could_not_score_alike_is_refused(params: dict[str, Any]) -> None:
    sample = np.abs(decimal(np.random.default_rng(3), 600)) * 10
    text = fitted(sample, **params).model_to_string()
    with pytest.raises(ConfigError):
        export(text)


def test_several_classes_each_by_itself_are_refused() -> None:
    sample = plain(np.random.default_rng(4), 300)
    labels = np.arange(300) % 3
    params = {"objective": "multiclassova", "num_class": 3, "verbosity": -1, "num_threads": 1}
    text = lightgbm.train(params, lightgbm.Dataset(sample, labels), 3).model_to_string()
    with pytest.raises(ConfigError, match="multiclassova"):
        export(text)


def test_a_row_is_scored_alike_alone_and_in_a_batch() -> None:
    sample = holed(np.random.default_rng(6), 300)
    scorer = Scorer(export(fitted(sample).model_to_string()))
    alone = np.concatenate([scorer.score(row[None, :]) for row in sample])
    assert (alone == scorer.score(sample)).all()


def test_parity_passes_for_the_model_itself() -> None:
    sample = plain(np.random.default_rng(7), 300)
    booster = fitted(sample)
    text = booster.model_to_string()
    assert parity(text, export(text), sample, tolerance=1e-6, cut=0.5).passed


def test_parity_fails_for_another_model() -> None:
    sample = plain(np.random.default_rng(8), 300)
    one, other = (fitted(sample, learning_rate=rate).model_to_string() for rate in (0.1, 0.5))
    verdict = parity(one, export(other), sample, tolerance=1e-6, cut=0.5)
    assert [(c.name, c.passed) for c in verdict.checks] == [("parity", False), ("parity_flips", False)]


def test_parity_fails_for_a_threshold_that_is_off_by_its_last_bit() -> None:
    sample = decimal(np.random.default_rng(9), 600)
    booster = fitted(sample, rounds=1)
    text = booster.model_to_string()
    line = next(line for line in text.splitlines() if line.startswith("threshold="))
    values = [float(value) for value in line.removeprefix("threshold=").split()]
    rounded = "threshold=" + " ".join(repr(float(np.nextafter(value, -np.inf))) for value in values)
    assert not parity(text, export(text.replace(line, rounded)), sample, tolerance=1e-6, cut=0.5).passed


def test_parity_looks_at_both_sides_of_thresholds_and_at_missing_values() -> None:
    sample = plain(np.random.default_rng(10), 300)
    booster = fitted(sample)
    rows = parity_rows(booster, sample)
    thresholds = booster.trees_to_dataframe().dropna(subset=["threshold"])["threshold"].astype(float)
    made = rows[len(sample) :]
    assert np.isin(thresholds.iloc[:5], made).any()
    assert np.isnan(made).any()
    assert not np.isnan(sample).any()
