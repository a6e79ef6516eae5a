"""The package in MLflow's own format: complete, with signature and example, and never whole in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from mlflow.models import Model

from mlops_provider.exceptions import IntegrityError
from mlops_provider.steps.records import Package
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training.mlflowmodel import save
from mlops_provider.storage import Storage, file_hash
from tests.support.tiny import World, registry_of


@pytest.fixture
def package(registered: World) -> Package:
    return registered.versions()[0].package


def test_the_version_holds_the_whole_package(registered: World, package: Package) -> None:
    (version,) = registered.versions()
    names = {Path(f.path).name for f in registry_of(registered).list_artifacts(version.run_id, "model")}
    assert {"model.onnx", "model.txt", "package.json", "MLmodel", "requirements.txt"} <= names
    assert {"golden.json", "schema.json", "profile.json", "environment.txt"} <= names


def test_signature_and_input_example_are_those_of_the_tensor(package: Package, tmp_path: Path) -> None:
    save(Storage(), package, tmp_path / "model")
    found = Model.load(tmp_path / "model")
    assert found.signature.inputs.inputs[0].shape == (-1, len(package.features))
    example = found.load_input_example(tmp_path / "model")
    scores = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(example)["score"][:, 0]
    expected = Scorer.of(package, Storage()).score(np.asarray(example["input"]))
    assert np.allclose(scores, expected)
    assert len(expected) == 5


def test_the_files_are_those_of_the_package(package: Package, tmp_path: Path) -> None:
    save(Storage(), package, tmp_path / "model")
    assert file_hash(tmp_path / "model" / "model.onnx") == package.onnx.hash
    assert file_hash(tmp_path / "model" / "model.txt") == package.booster.hash
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert Model.load(tmp_path / "model").model_size_bytes == pytest.approx(sum(sizes), rel=0.05)


def test_a_large_model_is_never_whole_in_memory(package: Package, tmp_path: Path) -> None:
    large, megabyte = tmp_path / "large.onnx", 1 << 20
    with large.open("wb") as file:
        for _ in range(64):
            file.write(bytes(megabyte))
    given = package.model_copy(
        update={"onnx": Storage().describe(str(large)), "booster": Storage().describe(str(large))}
    )
    save(Storage(), package, tmp_path / "imports")
    tracemalloc.start()
    try:
        save(Storage(), given, tmp_path / "model")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * megabyte
    assert file_hash(tmp_path / "model" / "model.onnx") == given.onnx.hash


def test_a_damaged_file_is_not_logged(package: Package, tmp_path: Path) -> None:
    file = Path(package.files["schema.json"].uri)
    file.write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"schema\.json has changed"):
        save(Storage(), package, tmp_path / "model")


def test_a_package_of_old_is_saved_without_example(package: Package, tmp_path: Path) -> None:
    save(Storage(), package.model_copy(update={"files": {}}), tmp_path / "model")
    assert Model.load(tmp_path / "model").saved_input_example_info is None
