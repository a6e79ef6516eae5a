"""The package: a trained model as data, with the proof that it scores the same."""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import IntegrityError
from mlops_provider.steps.records import Package
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call


@pytest.fixture
def given(accepted: World) -> tuple[World, object]:
    return accepted, call(accepted.job(), "train", split=accepted.split(DAYS[2]))


def test_the_package_scores_as_the_trained_model_does(given: tuple[World, object]) -> None:
    world, trained = given
    package = call(world.job(), "package", trained=trained)
    rows = pd.read_parquet(package.reference.uri).to_numpy()
    booster = lightgbm.Booster(model_file=package.booster.uri)
    found = Scorer.of(package, Storage()).score(rows)
    assert np.abs(found - np.asarray(booster.predict(rows))).max() < 1e-6
    assert package.parity.passed
    assert package.features == ("a", "b", "c", "height")


def test_the_package_names_the_code_that_it_was_trained_with(given: tuple[World, object]) -> None:
    world, trained = given
    assert call(world.job(), "package", trained=trained).code == world.job().model.ref


def test_a_changed_booster_is_not_packaged(given: tuple[World, object]) -> None:
    world, trained = given
    file = Path(trained.booster.uri)  # type: ignore[attr-defined]
    file.write_text(file.read_text().replace("leaf_value=", "leaf_value=9 ", 1))
    with pytest.raises(IntegrityError, match=r"model\.txt has changed"):
        call(world.job(), "package", trained=trained)


def test_a_changed_package_does_not_score(given: tuple[World, object]) -> None:
    world, trained = given
    package = call(world.job(), "package", trained=trained)
    Path(package.onnx.uri).write_bytes(Path(package.onnx.uri).read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=r"model\.onnx has changed"):
        Scorer.of(package, Storage())


def test_what_travels_with_the_package_is_written(given: tuple[World, object]) -> None:
    world, trained = given
    package = call(world.job(), "package", trained=trained)
    schema, profile = (json.loads(Storage().fetch(package.files[name])) for name in ("schema.json", "profile.json"))
    assert [feature["name"] for feature in schema["features"]] == list(package.features)
    assert profile["rows"] == trained.rows  # type: ignore[attr-defined]
    assert profile["sampled"] == len(pd.read_parquet(package.reference.uri))
    assert b"onnxruntime==" in Storage().fetch(package.files["environment.txt"])
    assert [x.rows for x in package.latency] == [1, 1_000, 100_000]
    assert all(x.runs and x.median <= x.p95 for x in package.latency)


def test_a_file_that_is_lost_is_written_again(given: tuple[World, object]) -> None:
    world, trained = given
    first = call(world.job(), "package", trained=trained)
    Path(first.files["golden.json"].uri).unlink()
    again = call(world.job(), "package", trained=trained)
    assert again.files == first.files
    Storage().fetch(again.files["golden.json"])


def test_other_limits_leave_the_files_of_a_version_alone(given: tuple[World, object]) -> None:
    world, trained = given
    first = call(world.job(), "package", trained=trained)
    call(world.configure(gates={"parity": 1e-5}, evaluation={"cut": 0.4}), "package", trained=trained)
    for file in first.files.values():
        Storage().fetch(file)


def test_a_record_of_old_can_be_read(given: tuple[World, object]) -> None:
    world, trained = given
    new = ("files", "latency", "checks")
    old = call(world.job(), "package", trained=trained).model_dump(mode="json", exclude=set(new))
    found = Package.model_validate(old)
    assert (found.files, found.latency, found.checks) == ({}, (), ())
