"""Assignment to the arms of an A/B test: even, sticky, independent between tests, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.steps.release.ab_assign import assign, assign_all

MANY = np.arange(40_000)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_share_is_kept_over_many_entities(share: float) -> None:
    treated = int(assign_all(MANY, "one", share).sum())
    assert stats.binomtest(treated, len(MANY), share).pvalue > 0.001


def test_the_fractions_are_uniform_whatever_the_keys_look_like() -> None:
    shares = np.arange(1, 20) / 20
    for keys in (MANY[:10_000], [f"customer-{n:08d}" for n in range(10_000)]):
        below = np.array([assign_all(keys, "uniform", share).sum() for share in shares])
        counts = np.diff([0, *below, 10_000])
        assert stats.chisquare(counts).pvalue > 0.001


def test_tests_with_different_salts_assign_independently() -> None:
    first, second = assign_all(MANY, "flights.one", 0.5), assign_all(MANY, "flights.two", 0.5)
    table = np.histogram2d(first, second, bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_who_has_the_treatment_keeps_it_when_the_share_grows() -> None:
    small, large = assign_all(MANY, "grow", 0.1), assign_all(MANY, "grow", 0.4)
    assert not (small & ~large).any()


@given(st.one_of(st.text(st.characters(codec="utf-8"), min_size=1), st.integers()), st.floats(0.01, 0.99))
def test_the_arm_is_what_the_documentation_says(entity: Any, share: float) -> None:
    fraction = int(hashlib.sha256(f"salt:{entity}".encode()).hexdigest()[:13], 16) / 16**13
    assert assign(entity, "salt", share) == ("treatment" if fraction < share else "control")


def test_the_arms_are_those_that_others_were_told() -> None:
    """Written down once: services in other languages check themselves against these."""
    arms = [assign(entity, "order_returns.new_model", 0.5) for entity in ("c-1", "c-2", "c-3", "c-4", 17, "é")]
    assert arms == ["control", "control", "control", "treatment", "control", "treatment"]


def test_an_entity_gets_the_treatment_from_its_own_fraction_on() -> None:
    fraction = 0.2971482418252187  # of c-4, by sha256sum
    assert assign("c-4", "order_returns.new_model", fraction) == "control"
    assert assign("c-4", "order_returns.new_model", np.nextafter(fraction, 1)) == "treatment"


def test_another_process_assigns_the_same() -> None:
    script = """
import json, sys
from mlops_provider.steps.release.ab_assign import assign
print(json.dumps([[assign(n, "sticky", 0.3) for n in range(200)], "numpy" in sys.modules or "airflow" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    arms, heavy = json.loads(done.stdout)
    assert arms == [assign(n, "sticky", 0.3) for n in range(200)]
    assert not heavy, "whoever serves loads nothing for it"


@pytest.mark.parametrize(
    "keys",
    [
        [1, 2, 3],
        ["1", "2", "3"],
        np.array([1, 2, 3], dtype="uint16"),
        pd.Series([1, 2, 3]),
        pd.Series(["1", "2", "3"]),
        pd.Series(["1", "2", "3"], dtype="category"),
        pd.Series(["1", "2", "3"], dtype="string"),
        pd.Series([1, 2, 3], dtype="Int64"),
        pa.array([1, 2, 3]),
        pa.array(["1", "2", "3"], pa.large_string()),
        pa.chunked_array([["1"], ["2", "3"]]),
        pa.array(["1", "2", "3"]).dictionary_encode(),
    ],
    ids=lambda keys: f"{type(keys).__name__} {getattr(keys, 'dtype', getattr(keys, 'type', ''))}",
)
def test_many_are_assigned_as_one_by_one(keys: Any) -> None:
    assert list(assign_all(keys, "s", 0.5)) == [assign(n, "s", 0.5) == "treatment" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "keys", [[1.0, 2.0], [True], [b"x"], [1, None], ["a", None], ["a", ""], [None], [1, "a"], ["\ud800"]]
)
def test_what_is_no_key_is_refused(keys: list[Any]) -> None:
    with pytest.raises(DataError, match="entit"):
        assign_all(keys, "s", 0.5)


@pytest.mark.parametrize("entity", [1.0, True, None, "", b"x", "\ud800"])
def test_what_is_no_key_of_one_entity_is_refused(entity: Any) -> None:
    with pytest.raises(RequestError, match="is no key of an entity"):
        assign(entity, "s", 0.5)


@pytest.mark.parametrize(("salt", "share"), [("", 0.5), ("a:b", 0.5), ("a", 0.0), ("a", 1.0), ("a", float("nan"))])
def test_impossible_settings_are_refused(salt: str, share: float) -> None:
    with pytest.raises(RequestError, match="is no"):
        assign("x", salt, share)
    with pytest.raises(RequestError, match="is no"):
        assign_all(["x"], salt, share)
