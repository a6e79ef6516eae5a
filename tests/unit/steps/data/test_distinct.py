"""Repeated and distinct values: exact, whatever fits into memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.steps.data.distinct import SEEDS, Keys, contains, number_keys, text_keys


@given(st.lists(st.lists(st.integers(-3, 40), max_size=30), max_size=6), st.sampled_from([1 << 20, 8]))
def test_keys_are_counted_in_memory_and_in_files_alike(batches: list[list[int]], memory: int) -> None:
    keys = Keys(memory)
    for batch in batches:
        keys.add(number_keys(np.array(batch, np.int64)))
    counts = Counter(value for batch in batches for value in batch)
    again = {value: count for value, count in counts.items() if count > 1}
    rows, repeated, whole = keys.repeated()
    assert rows == sum(again.values())
    assert whole == (len(again) <= memory)
    if whole:
        assert sorted(repeated.view(np.int64).tolist()) == sorted(again)
    assert keys.distinct() == len(counts)


@given(st.lists(st.text(max_size=18), min_size=1, max_size=8), st.integers(0, 3))
def test_equal_text_has_equal_keys_wherever_it_stands(texts: list[str], begin: int) -> None:
    whole = text_keys(
        pa.array(["pad"] * begin + texts + ["a much longer text than all of the others"])[begin:-1], SEEDS[0]
    )
    alone = [int(text_keys(pa.array([text]), SEEDS[0])[0]) for text in texts]
    assert whole.tolist() == alone
    assert len(set(alone)) == len(set(texts))


def test_many_texts_that_are_alike_have_keys_of_their_own() -> None:
    texts = pa.array([f"{n:012d}" for n in range(50_000)] + [f"{n}" for n in range(50_000)])
    for seed in SEEDS:
        assert len(np.unique(text_keys(texts, seed))) == 100_000
    high = np.bincount((text_keys(texts, SEEDS[0]) >> np.uint64(58)).astype(np.int64), minlength=64)
    assert high.min() == pytest.approx(high.mean(), rel=0.3)


def test_numbers_that_are_equal_have_equal_keys() -> None:
    keys = number_keys(np.array([0.0, -0.0, 1.5]))
    assert keys[0] == keys[1] != keys[2]


def test_membership_is_exact() -> None:
    known = np.array([2, 5, 2**64 - 1], np.uint64)
    assert contains(known, np.array([0, 2, 3, 5, 2**64 - 1], np.uint64)).tolist() == [False, True, False, True, True]
    assert not contains(known[:0], known).any()
