"""Training with rows on disk: the same trees as in memory, from rows put to their places."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_provider.exceptions import DataError, Transient
from mlops_provider.steps.records import Trained
from mlops_provider.steps.training import stream
from mlops_provider.steps.training.stream import Store
from tests.support.tiny import DAYS, World, call

BAGGED = {"bagging_fraction": 0.5, "bagging_freq": 1, "bin_construct_sample_cnt": 300}


def both(world: World, **arguments: Any) -> list[Trained]:
    found = []
    for memory in ("whole", "streamed"):
        job = world.configure(training={"memory": memory})
        found.append(call(world.job(force=True), "train", split=world.split(DAYS[2], job), **arguments))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"params": BAGGED}},
        {"training": {"early_stopping": {"rounds": 5, "window": "6h"}, "rounds": 100}},
        {"training": {"weight": {"half_life": "6h", "column": "height"}}},
        {"features": {"categorical": ["height"]}, "training": {"params": {"min_data_per_group": 5}}},
    ],
    ids=["sampled", "early_stopping", "weighted", "categorical"],
)
def test_the_trees_are_those_of_training_in_memory(
    accepted: World, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BATCH", 97)
    found = []
    for memory in ("whole", "streamed"):
        merged = {**changes, "training": {**changes["training"], "memory": memory}}
        job = accepted.configure(**merged)
        split = accepted.split(DAYS[2], job)
        found.append(call(accepted.job(force=True), "train", split=split))
    whole, streamed = found
    assert streamed.model_hash == whole.model_hash
    assert streamed == whole  # reference, rows, validation and fingerprint too


def test_a_drill_shuffles_alike(accepted: World) -> None:
    whole, streamed = both(accepted, drill="shuffled_labels")
    assert streamed == whole


def test_rows_that_come_in_another_order_are_put_to_their_places(accepted: World) -> None:
    before = both(accepted)[1]
    for day in DAYS[:2]:
        accepted.rewrite(day, "inputs", lambda frame: frame.sample(frac=1, random_state=1).reset_index(drop=True))
    accepted.loops().ci()
    whole, streamed = both(accepted)
    assert streamed.model_hash == whole.model_hash == before.model_hash
    assert streamed.fingerprint != before.fingerprint


def test_how_much_memory_it_takes_makes_no_other_version(accepted: World) -> None:
    assert len({found.fingerprint for found in both(accepted)}) == 1


def test_one_class_is_an_error(accepted: World) -> None:
    for day in DAYS[:2]:
        accepted.rewrite(day, "labels", lambda frame: frame.assign(outcome=1.0))
    accepted.loops().ci()
    job = accepted.configure(training={"memory": "streamed"})
    with pytest.raises(DataError, match="nothing to learn"):
        call(job, "train", split=accepted.split(DAYS[2], job))


def test_a_full_disk_is_retried(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stream.os, "pwrite", full)
    job = accepted.configure(training={"memory": "streamed"})
    with pytest.raises(Transient, match="could not be kept on disk: .*No space left"):
        call(job, "train", split=accepted.split(DAYS[2], job))


def test_rows_are_read_back_from_where_they_were_put(tmp_path: Path) -> None:
    rows, rng = np.random.default_rng(0).normal(size=(500, 3)), np.random.default_rng(1)
    store = Store(tmp_path / "rows", 500, 3)
    order = rng.permutation(500)
    for places in np.array_split(order, 7):
        store.put(places, rows[places])
    assert (store.read(0, 500) == rows).all()
    assert (store.take(order[:20]) == rows[order[:20]]).all()
    assert list(tmp_path.iterdir()) == []
    sequence = store.sequence()
    assert len(sequence) == 500
    assert (sequence[3:9] == rows[3:9]).all()
    assert (sequence[5] == rows[5]).all()
