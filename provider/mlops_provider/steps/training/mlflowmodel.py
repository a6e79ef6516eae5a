"""A package in MLflow's own format, so that MLflow's tools can load, score and serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlops_provider.steps.records import Package
from mlops_provider.steps.step import libraries
from mlops_provider.steps.training.golden import FILE, Golden
from mlops_provider.storage import Storage, canonical_json

_EXAMPLES = 5


def save(storage: Storage, package: Package, folder: Path) -> None:
    """Writes the model's folder: MLflow's files with signature and input example, the LightGBM text, and what travels with
    the package.

    The model goes from storage to disk in pieces, however large it is; MLflow would take it as an object in memory, so it
    is given a stand-in, whose place the real one takes.

    :raises IntegrityError: if a file of the package is gone or damaged.
    """
    import mlflow.onnx
    from mlflow.models import Model

    described = Model()
    pins = [f"{name}=={libraries()[name]}" for name in ("onnxruntime", "numpy")]
    mlflow.onnx.save_model(
        _stand_in(),
        str(folder),
        mlflow_model=described,
        signature=_signature(package),
        input_example=_example(storage, package),
        pip_requirements=pins,
        save_as_external_data=False,
    )
    storage.download(package.onnx, folder / "model.onnx")
    storage.download(package.booster, folder / "model.txt")
    if package.fitted:
        storage.download(package.fitted, folder / "fitted.json")
    for name, file in package.files.items():
        storage.download(file, folder / name)
    folder.joinpath("package.json").write_bytes(canonical_json(package.model_dump(mode="json"), indent=1))
    described.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    described.save(str(folder / "MLmodel"))


def _stand_in() -> Any:
    from onnx import helper

    return helper.make_model(helper.make_graph([], "replaced", [], []))


def _signature(package: Package) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.float64), (-1, len(package.features)), "input")]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, max(1, len(package.classes))), "score")]),
    )


def _example(storage: Storage, package: Package) -> Any:
    """A few rows as the tensor takes them; None for a package of old, which has no golden cases."""
    if FILE not in package.files:
        return None
    return {"input": Golden.model_validate_json(storage.fetch(package.files[FILE])).rows[:_EXAMPLES]}
