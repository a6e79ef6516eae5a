"""Every parameter of LightGBM that model.yaml accepts gives trees that the package scores as LightGBM does."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlops_provider.sections import loops
from mlops_provider.sections.objectives import METRICS
from mlops_provider.sections.objectives import PARAMS as ONLY_FOR
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training.golden import golden
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.steps.training.package import parity

SHARE = st.floats(0.1, 1.0)
SMALL = st.integers(0, 99)
PARAMS: dict[str, st.SearchStrategy[Any]] = {
    "learning_rate": st.floats(1e-3, 2.0),
    "num_leaves": st.integers(2, 64),
    "max_depth": st.integers(-1, 12),
    "min_data_in_leaf": st.integers(0, 60),
    "min_sum_hessian_in_leaf": st.floats(0, 5.0),
    "bagging_fraction": SHARE,
    "pos_bagging_fraction": SHARE,
    "neg_bagging_fraction": SHARE,
    "bagging_freq": st.integers(0, 3),
    "bagging_seed": SMALL,
    "feature_fraction": SHARE,
    "feature_fraction_bynode": SHARE,
    "feature_fraction_seed": SMALL,
    "extra_trees": st.booleans(),
    "extra_seed": SMALL,
    "max_delta_step": st.floats(0, 2.0),
    "lambda_l1": st.floats(0, 10.0),
    "lambda_l2": st.floats(0, 100.0),
    "min_gain_to_split": st.floats(0, 5.0),
    "path_smooth": st.floats(0, 10.0),
    "max_bin": st.integers(2, 400),
    "min_data_in_bin": st.integers(1, 50),
    "bin_construct_sample_cnt": st.integers(20, 1000),
    "data_random_seed": SMALL,
    "is_unbalance": st.booleans(),
    "scale_pos_weight": st.floats(0.1, 50.0),
    "sigmoid": st.floats(0.1, 5.0),
    "boost_from_average": st.booleans(),
    "use_missing": st.booleans(),
    "feature_pre_filter": st.booleans(),
    "enable_bundle": st.booleans(),
    "cat_smooth": st.floats(0, 50.0),
    "cat_l2": st.floats(0, 50.0),
    "max_cat_threshold": st.integers(1, 64),
    "max_cat_to_onehot": st.integers(1, 16),
    "min_data_per_group": st.integers(1, 200),
    "lambdarank_truncation_level": st.integers(1, 40),
    "lambdarank_norm": st.booleans(),
}
ACCEPTED = set(loops._PARAMS.split())
KINDS = ("plain", "holed", "sparse", "decimal", "whole", "huge")


def data(kind: str) -> Any:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(250, 4))
    return {
        "plain": rows,
        "holed": np.where(rng.random(rows.shape) < 0.3, np.nan, rows),
        "sparse": rows * (rng.random(rows.shape) < 0.2),
        "decimal": np.round(rows, 1),
        "whole": rng.integers(2**24, 2**24 + 40, rows.shape).astype(float),
        "huge": rows * 10.0 ** rng.integers(20, 300, rows.shape),
    }[kind]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    objective = draw(st.sampled_from(sorted(METRICS)))
    known = [name for name in sorted(ACCEPTED & set(PARAMS)) if objective in ONLY_FOR.get(name, (objective,))]
    names = draw(st.lists(st.sampled_from(known), min_size=1, max_size=8, unique=True))
    found = {name: draw(PARAMS[name]) for name in names}
    if found.get("is_unbalance"):
        found.pop("scale_pos_weight", None)  # LightGBM takes one of the two
    return {"objective": objective, **found}


def dataset(objective: str, rows: Any) -> Any:
    """Rows with labels of this kind, which the first feature tells for the most part."""
    filled = np.nan_to_num(rows[:, 0])
    place = np.argsort(np.argsort(filled, kind="stable"), kind="stable") / len(rows)
    if objective == "binary":
        labels = (place > 0.5).astype(float)
        labels[:20:3] = 1 - labels[:20:3]
        labels[:2] = 0, 1
        return lightgbm.Dataset(rows, labels)
    if objective == "regression":
        return lightgbm.Dataset(rows, 1e5 * place + np.random.default_rng(5).normal(size=len(rows)))
    labels = np.floor(place * 3)
    labels[:30:4] = (labels[:30:4] + 1) % 3
    return lightgbm.Dataset(rows, labels, group=[25] * 10 if objective == "lambdarank" else None)


def test_every_accepted_parameter_is_tried() -> None:
    assert set(PARAMS) >= ACCEPTED


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(params=configurations(), kind=st.sampled_from(KINDS))
@example(params={"sigmoid": 0.1, "learning_rate": 2.0, "lambda_l2": 0.0}, kind="plain")
@example(params={"sigmoid": 5.0, "learning_rate": 2.0}, kind="holed")
@example(params={"scale_pos_weight": 50.0, "boost_from_average": False}, kind="decimal")
@example(params={"max_bin": 2}, kind="sparse")
@example(params={"use_missing": False}, kind="holed")
@example(params={"objective": "multiclass", "learning_rate": 2.0}, kind="holed")
@example(params={"objective": "regression", "boost_from_average": False}, kind="huge")
@example(params={"objective": "lambdarank", "sigmoid": 5.0}, kind="decimal")
def test_every_accepted_configuration_is_packaged_exactly(params: dict[str, Any], kind: str) -> None:
    rows, params = data(kind), dict(params)
    objective = params.pop("objective", "binary")
    loops.Training(objective=objective, params=params)
    given = {"objective": objective, "num_threads": 1, "verbosity": -1, "deterministic": True, **params}
    if objective == "multiclass":
        given["num_class"] = 3
    text = lightgbm.train(given, dataset(objective, rows), 8).model_to_string()
    content, cut = export(text), 0.5 if objective == "binary" else None
    verdict = parity(text, content, rows, tolerance=1e-6, cut=cut)
    assert verdict.passed, verdict.reason()
    cases = golden(text, rows, fingerprint="f", features=tuple("abcd"), cut=cut, tolerance=1e-6)
    found = Scorer(content).score(cases.rows)
    assert (np.abs(found - cases.scores) <= 1e-6 * np.maximum(1, np.abs(cases.scores))).all()
