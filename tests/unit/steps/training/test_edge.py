"""Variants for small devices: exact where they can be, and measured where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.records import Package
from mlops_provider.steps.release.gate import judge
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training import edge
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.steps.training.trees import splits
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, call, train


def model(rounds: int = 20) -> tuple[str, Any]:
    rng = np.random.default_rng(0)
    rows = np.round(rng.normal(size=(800, 3)), 1)
    rows[::5, 1] = np.nan
    labels = (rows[:, 0] + np.nan_to_num(rows[:, 1]) + rng.normal(size=800) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 16, "min_data_in_leaf": 5, "num_threads": 1, "verbosity": -1}
    return str(lightgbm.train(settings, lightgbm.Dataset(rows, labels), rounds).model_to_string()), rows


def packaged(world: World, **settings: Any) -> Package:
    job = world.configure(package={"edge": settings})
    trained = call(job, "train", split=world.split(DAYS[2], job))
    found: Package = call(job, "package", trained=trained)
    return found


def report(package: Package) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Storage().fetch(package.files[edge.REPORT]))
    return found


def test_the_ort_format_scores_the_same() -> None:
    text, rows = model()
    content = export(text)
    assert (edge.scorer(edge.ort_format(content))(rows) == Scorer(content).score(rows)).all()


def test_single_precision_scores_every_single_precision_input_as_the_trees_do() -> None:
    text, rows = model()
    thresholds = np.array([[s.feature, s.threshold] for s in splits(text)])
    near = thresholds[:, 1].astype(np.float32)
    made = []
    for feature, value in zip(thresholds[:, 0].astype(int), near, strict=True):
        for x in (value, np.nextafter(value, np.float32(np.inf)), np.nextafter(value, np.float32(-np.inf)), np.nan):
            row = rows[len(made) % len(rows)].astype(np.float32)
            row[feature] = x
            made.append(row)
    given = np.vstack([rows.astype(np.float32), made]).astype(np.float64)
    expected = np.asarray(lightgbm.Booster(model_str=text).predict(given, num_threads=1))
    single = edge.scorer(edge.single_precision(export(text)))
    assert np.abs(single(given) - expected).max() <= 1e-6


def test_the_first_trees_are_kept() -> None:
    text, rows = model()
    expected = np.asarray(lightgbm.Booster(model_str=text).predict(rows, num_iteration=5, num_threads=1))
    assert np.abs(edge.scorer(edge.smaller(text, keep=5, precision="float64"))(rows) - expected).max() <= 1e-6


def test_what_cannot_be_converted_is_told() -> None:
    with pytest.raises(ConfigError, match=r"package\.edge: onnxruntime cannot convert"):
        edge.ort_format(b"no model")


def test_without_the_key_there_are_no_variants(accepted: World) -> None:
    job = accepted.job()
    package = call(job, "package", trained=call(job, "train", split=accepted.split(DAYS[2])))
    assert set(package.files) == {"golden.json", "schema.json", "profile.json", "environment.txt"}
    assert package.checks == ()


def test_variants_are_measured_on_the_holdout(accepted: World) -> None:
    package = packaged(accepted, keep=0.25)
    found = report(package)
    whole, small = found["variants"]
    assert found["partition"] == DAYS[2]
    assert (found["package"]["trees"], whole["trees"], small["trees"]) == (20, 20, 5)
    assert (whole["precision"], small["precision"]) == ("float64", "float32")
    assert whole["largest"] == 0.0
    assert small["largest"] > small["mean"] > 0
    assert small["size"] == package.files[edge.SMALL].size < whole["size"]
    assert found["package"]["metrics"].keys() == small["metrics"].keys() == {"auc", "log_loss", "brier"}
    assert found["package"]["metrics"] == whole["metrics"] != small["metrics"]
    assert [x["rows"] for x in small["latency"]] == [1, 1_000, 100_000]
    assert [(c.name, c.passed) for c in package.checks] == [("edge_parity", True)]


def test_a_loss_above_the_limit_is_refused_by_the_gate(accepted: World) -> None:
    job = accepted.configure(package={"edge": {"keep": 0.05, "max_loss": 0.0}}, evaluation={"metric": "log_loss"})
    version = train(accepted, job)
    check = version.package.checks[1]
    assert (check.name, check.state, check.subject) == ("edge_loss", "fail", "edge.ort")
    assert "log_loss on" in check.detail
    found = judge(job, version)
    assert not found.promote
    assert "edge_loss" in found.reason


def test_a_loss_within_the_limit_passes(accepted: World) -> None:
    package = packaged(accepted, keep=0.5, max_loss=0.9)
    assert [(c.name, c.passed) for c in package.checks] == [("edge_parity", True), ("edge_loss", True)]


def test_a_loss_that_cannot_be_measured_is_an_error() -> None:
    one = edge.Variant(
        file="edge.ort", trees=1, precision="float32", size=1, latency=(), largest=0, mean=0, decided_otherwise=0,
        metrics={},
    )  # fmt: skip
    job = type("Job", (), {})()
    job.config = type("Config", (), {})()
    job.config.package = type("P", (), {"edge": type("E", (), {"max_loss": 0.1})()})()
    job.config.evaluation = type("V", (), {"metric": "auc"})()
    checks = edge._checks(job, edge.EdgeReport(partition="p", rows=1, package=one, variants=(one, one)))
    assert [check.state for check in checks] == ["pass", "error"]


def test_a_device_can_load_the_file_itself(accepted: World) -> None:
    import onnxruntime

    package = packaged(accepted, keep=0.5)
    session = onnxruntime.InferenceSession(str(Path(package.files[edge.SMALL].uri)))
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1]) == ("tensor(float)", 4)
