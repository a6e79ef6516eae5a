"""The environment lock names what is installed, in a form that pip takes."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from mlops_provider.steps.step import libraries
from mlops_provider.steps.training.environment import lock


def test_every_installed_library_is_pinned() -> None:
    lines = [line for line in lock({}).splitlines() if not line.startswith("#")]
    pinned = {r.name: str(r.specifier) for r in map(Requirement, lines)}
    for name in ("lightgbm", "onnxruntime", "numpy", "apache-airflow"):
        assert pinned[name] == f"=={importlib.metadata.version(name)}"
    assert "airflow-provider-mlops" not in pinned
    assert len(pinned) == len(lines)


def test_what_the_model_was_fitted_with_is_named() -> None:
    head = lock(libraries() | {"lightgbm": "1.0"})
    assert "# fitted with" in head
    assert "lightgbm 1.0" in head
    assert "# packaged with another version of lightgbm than it was fitted with" in head
    assert "another version of numpy" not in head
