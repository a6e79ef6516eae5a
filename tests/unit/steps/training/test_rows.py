"""What is learned from: what is divided by time, what counts how much, and what is no number to learn from."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps.records import SplitRef
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import rows
from mlops_provider.steps.training.split import load_split, save_split
from tests.support.tiny import DAYS, World, call

FEATURES = "def build(rows, history, as_of):\n    made = rows[['a', 'b', 'c']].assign(height=1.0)\n    return made{}\n"


def built(world: World, expression: str, **changes: Any) -> World:
    """The world with its data accepted, made by other features."""
    world.configure(**changes)
    world.model.joinpath("features.py").write_text(FEATURES.format(expression))
    world.model.joinpath("expectations", "features.json").write_text(
        '{"name": "features", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "a"}}], "meta": {}}'
    )
    world.loops(world.job()).ci()
    return world


def trained(world: World) -> Any:
    job = world.job()
    return call(job, "train", split=world.split(DAYS[2], job))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (".assign(b=float('nan'))", "no row has a value of b"),
        (".assign(c=-1e301)", "the feature 'c' is infinite, or beyond 1e300"),
    ],
)
def test_a_feature_that_nothing_can_be_learned_from_is_named(delivered: World, expression: str, expected: str) -> None:
    world = built(delivered, expression)
    with pytest.raises(DataError, match=expected) as error:
        trained(world)
    assert f"tiny: {DAYS[0]} to {DAYS[1]}" in str(error.value)


def test_huge_values_are_learned_from(delivered: World) -> None:
    world = built(delivered, ".assign(b=made['b'] * 1e290)")
    found = trained(world)
    assert call(world.job(), "package", trained=found).parity.passed


@pytest.mark.parametrize("code", ["-1.0", "0.5", "65536.0"])
def test_a_category_that_is_no_code_is_named(delivered: World, code: str) -> None:
    world = built(delivered, f".assign(height={code})", features={"categorical": ["height"]})
    with pytest.raises(DataError, match="'height' is categorical and no whole number from 0 to 65535"):
        trained(world)


def test_features_that_raise_are_told_by_name(delivered: World) -> None:
    delivered.model.joinpath("features.py").write_text("def build(rows, history, as_of):\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match=r"tiny: features\.py:build raised ZeroDivisionError: division by zero"):
        call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))


def known_at_first(world: World, job: Job, count: int) -> SplitRef:
    """A split with a cutoff at which so many rows have had time to get a label."""
    split = load_split(job, world.split(DAYS[2], job))
    cutoff = split.fit[0].first + dt.timedelta(hours=1, seconds=72 * (count - 1))
    return save_split(job, split.model_copy(update={"cutoff": cutoff}))


def test_one_row_is_nothing_to_learn_from(accepted: World) -> None:
    job = accepted.job()
    with pytest.raises(DataError, match=r"the label is [01] in all 1 rows, nothing to learn"):
        call(job, "train", split=known_at_first(accepted, job, 1))


def test_a_handful_of_rows_is_trained_on_and_packaged(accepted: World) -> None:
    job = accepted.job()
    found = call(job, "train", split=known_at_first(accepted, job, 15))
    assert found.rows <= 15
    assert call(job, "package", trained=found).parity.passed


def test_the_window_comes_after_the_fit_by_the_label_delay(accepted: World) -> None:
    job = accepted.configure(
        training={"early_stopping": {"rounds": 5, "window": "4h"}}, data={"label": {"delay": "3h"}, "lead": "2h"}
    )
    accepted.loops(job).ci()
    split = load_split(job, accepted.split(DAYS[2], job))
    times = rows.known_rows(job, split)["at"]
    fit, later = rows.divided(job, times)
    assert later.any()
    assert times[later].max() - times[later].min() < pd.Timedelta("4h")
    assert times[fit].max() + pd.Timedelta("3h") <= times[later].min() - pd.Timedelta("2h")
    assert not (fit & later).any()
    assert (~(fit | later)).any()


def test_older_rows_count_less(accepted: World) -> None:
    job = accepted.configure(training={"weight": {"half_life": "6h"}})
    split = load_split(job, accepted.split(DAYS[2], job))
    times = pd.Series([pd.Timestamp(split.cutoff) - pd.Timedelta(age) for age in ("0h", "6h", "24h")])
    found = rows.weights(job, split, {}, times)
    assert found is not None
    assert found.tolist() == pytest.approx([1.0, 0.5, 1 / 16])


def test_a_feature_weighs_rows_and_both_multiply(accepted: World) -> None:
    job = accepted.configure(training={"weight": {"column": "height", "half_life": "6h"}})
    split = load_split(job, accepted.split(DAYS[2], job))
    times = pd.Series([pd.Timestamp(split.cutoff) - pd.Timedelta(age) for age in ("0h", "6h")])
    found = rows.weights(job, split, {"height": np.array([3.0, 8.0])}, times)
    assert found is not None
    assert found.tolist() == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf, 0.0])
def test_a_weight_that_is_none_is_refused(accepted: World, value: float) -> None:
    job = accepted.configure(training={"weight": {"column": "height"}})
    split = load_split(job, accepted.split(DAYS[2], job))
    times = pd.Series([pd.Timestamp(split.cutoff)] * 2)
    with pytest.raises(DataError, match="'height' must give every row a finite number from 0"):
        rows.weights(job, split, {"height": np.array([value, value])}, times)


def test_a_feature_that_may_be_empty_is_named_in_model_yaml(accepted: World) -> None:
    job = accepted.configure(features={"optional": ["b"]})
    split = load_split(job, accepted.split(DAYS[2], job))
    block = np.ones((3, 4))
    block[:, 1] = np.nan
    rows.check_features(job, split, block)
    block[:, 2] = np.nan
    with pytest.raises(DataError, match=r"no row has a value of c; .*features\.optional"):
        rows.check_features(job, split, block)
    block[0, 0] = np.inf
    with pytest.raises(DataError, match="the feature 'a' is infinite, or beyond 1e300, in 1 rows"):
        rows.check_features(job, split, block)
