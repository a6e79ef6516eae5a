"""Models in a notebook: loaded by number or alias, scored, explained, compared, trained again to the same trees."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlops_provider
from mlops_provider.diff import Difference, difference, render
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.explain import explained
from mlops_provider.steps import plan
from mlops_provider.steps.data import snapshot
from tests.support.tiny import DAYS, World, alias, registry_of, train

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "same_model.ipynb"


@pytest.fixture
def environment(lapped: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A model that has lived; a notebook finds its deployment in the environment."""
    for name, value in (
        ("ARTIFACT_ROOT", lapped.artifacts),
        ("DATA_ROOT", lapped.data),
        ("INCLUDE_DIR", lapped.include),
    ):
        monkeypatch.setenv(f"AIRFLOW__MLOPS__{name}", str(value))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lapped.deployment.tracking_uri)
    return lapped


def features(world: World) -> pd.DataFrame:
    job = world.job()
    return snapshot.read(job, plan.State(job).accepted[DAYS[0]]).to_pandas()


# --- load ----------------------------------------------------------------------------------------------------------


def test_a_version_is_loaded_by_number_and_by_alias(environment: World) -> None:
    champion = mlops_provider.load("tiny")
    assert champion.version.version == alias(environment)
    assert mlops_provider.load("tiny", 1).version.version == mlops_provider.load("tiny", "1").version.version == 1
    registry_of(environment).set_registered_model_alias("tiny", "shadow", "1")
    assert mlops_provider.load("tiny", "shadow").version.version == 1
    assert "version 1, fitted on" in repr(mlops_provider.load("tiny", 1))


@pytest.mark.parametrize("version", [99, "99", "nobody"])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(environment: World, version: Any) -> None:
    with pytest.raises(RequestError, match=f"there is no version {version}; there are 1, 2"):
        mlops_provider.load("tiny", version)


def test_without_any_version_that_is_said(delivered: World) -> None:
    with pytest.raises(RequestError, match="no version is registered"):
        mlops_provider.load("tiny", deployment=delivered.deployment)


def test_a_loaded_version_scores_as_its_trees_do_and_names_its_lineage(environment: World) -> None:
    import lightgbm

    model, frame = mlops_provider.load("tiny"), features(environment)
    booster = lightgbm.Booster(model_str=environment.job().storage.fetch(model.version.package.booster).decode())
    expected = booster.predict(frame[list(model.features)].to_numpy())
    assert np.abs(model.score(frame) - expected).max() < 1e-6
    assert model.lineage["fingerprint"] == model.version.fingerprint
    assert {"data", "code", "configuration", "environment"} <= set(model.lineage)


def test_a_missing_column_and_more_than_one_row_are_told(environment: World) -> None:
    model, frame = mlops_provider.load("tiny"), features(environment)
    with pytest.raises(DataError, match="takes the columns b, which the frame does not have"):
        model.score(frame.drop(columns="b"))
    with pytest.raises(DataError, match="one row is explained at a time, 2 were given"):
        model.explain(frame.head(2))


def test_the_package_is_light_until_it_is_asked(environment: World) -> None:
    script = "import sys, mlops_provider; print(sorted({'numpy', 'pandas', 'mlflow', 'lightgbm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        mlops_provider.lod  # noqa: B018


# --- explain -------------------------------------------------------------------------------------------------------


def test_contributions_and_paths_both_add_up_to_the_raw_score(environment: World) -> None:
    model, frame = mlops_provider.load("tiny"), features(environment)
    for place in range(5):
        told = model.explain(frame.iloc[[place]])
        assert told.base + sum(told.contributions.values()) == pytest.approx(told.raw)
        assert sum(path.adds for path in told.paths) == pytest.approx(told.raw)
        assert 1 / (1 + np.exp(-told.raw)) == pytest.approx(told.score, abs=1e-6)
        assert list(told.contributions) == sorted(told.contributions, key=lambda name: -abs(told.contributions[name]))
        assert str(told).startswith(f"score {told.score:.6g}")


@pytest.mark.parametrize("zero_as_missing", [False, True])
def test_the_path_is_lightgbms_also_for_missing_zero_and_categories(zero_as_missing: bool) -> None:
    import lightgbm

    rng = np.random.default_rng(1)
    rows = rng.normal(size=(800, 3)).round(1)
    rows[:, 2] = rng.integers(0, 6, 800)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[rng.random(800) < 0.2, 0] = 0.0
    labels = np.nan_to_num(rows[:, 0]) + np.isin(rows[:, 2], (1, 4)) + np.isnan(rows[:, 1]) > 0.5
    settings = {"objective": "binary", "min_data_in_leaf": 5, "verbosity": -1, "zero_as_missing": zero_as_missing}
    data = lightgbm.Dataset(rows, label=labels.astype(float), categorical_feature=[2])
    booster = lightgbm.train({**settings, "num_threads": 1}, data, num_boost_round=15)
    odd = np.array([[0.0, np.nan, -1.0], [np.nan, 1e-36, 77.0], [np.inf, -np.inf, 1.9], [-0.0, 0.0, np.nan]])
    rules = set()
    for row in np.vstack([rows[:60], odd]):
        told = explained(booster, ("x", "y", "kind"), row, 0.0)  # raises if a leaf is not LightGBM's
        assert sum(path.adds for path in told.paths) == pytest.approx(told.raw)
        rules |= {decision.rule.split()[0] for path in told.paths for decision in path.decisions}
    assert rules == {"<=", "in"}


# --- diff ----------------------------------------------------------------------------------------------------------


def compared(world: World, first: str | int = 1, second: str | int = 2) -> Difference:
    return difference("tiny", first, second, world.deployment)


def names(found: Difference, section: str) -> set[str]:
    return {change.name for change in found.changes if change.section == section}


def test_two_versions_differ_in_data_and_metrics_and_nothing_else(lapped: World) -> None:
    found = compared(lapped)
    assert {change.section for change in found.changes} == {"model", "data", "metrics"}
    assert {f"fitted on {DAYS[2]}", f"judged on {DAYS[3]}", "rows fitted", "cutoff"} <= names(found, "data")
    assert "candidate.auc" in names(found, "metrics")
    assert names(found, "model") == {"trees"}
    assert found.notes == (f"metrics are of different holdouts: {DAYS[2]} and {DAYS[3]}",)
    told = render(found)
    assert "tiny: version 1 against version 2" in told
    assert found.notes[0] in told


def test_changed_code_and_configuration_are_named(registered: World) -> None:
    registered.configure(training={"rounds": 21})
    features = registered.model / "features.py"
    features.write_text(features.read_text() + "\nCHANGED = True\n")
    registered.loops().ci()
    version = train(registered, registered.job())
    found = compared(registered, 1, version.version)
    assert names(found, "code") == {"features.py"}
    (change,) = [change for change in found.changes if change.section == "configuration"]
    assert (change.name, change.before, change.after) == ("training.rounds", 20, 21)
    assert found.notes == ()


def test_slices_that_are_measured_otherwise_are_named(accepted: World) -> None:
    asked = {"slices": {"site": {"column": "site"}}, "minimum_rows": 100}
    for rounds in (20, 25):
        train(accepted, accepted.configure(evaluation=asked, training={"rounds": rounds}))
    found = names(compared(accepted, 1, 2), "slices")
    assert found
    assert all(name.startswith("site ") for name in found)


def test_a_version_does_not_differ_from_itself(lapped: World) -> None:
    found = compared(lapped, 2, "champion") if alias(lapped) == 2 else compared(lapped, 1, "champion")
    assert found.changes == ()
    assert "nothing differs" in render(found)


def test_the_commands_tell_it_in_json_too(environment: World, capsys: pytest.CaptureFixture[str]) -> None:
    from mlops_provider.__main__ import main

    assert main(["diff", "--model", "tiny", "1", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["second"] == 2
    assert main(["diff", "--model", "tiny", "1", "7"]) == 2
    capsys.readouterr()
    assert main(["scorecard", "--model", "tiny", "--include", str(environment.include), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 28
    assert main(["scorecard", "--model", "tiny", "--include", str(environment.include)]) == 0
    assert "monitor-7" in capsys.readouterr().out


# --- train ---------------------------------------------------------------------------------------------------------


def test_the_same_model_is_trained_in_a_notebook(environment: World) -> None:
    from mlops_provider.steps.training import train
    from mlops_provider.steps.training.train import TrainArguments

    version = mlops_provider.load("tiny", 1)
    job = mlops_provider.job("tiny", force=True)
    trained = train(job, TrainArguments(split=version.version.split))  # type: ignore[operator]
    assert trained.model_hash == version.lineage["model_hash"]
    assert trained.fingerprint == version.version.fingerprint


# Runs the cells in one namespace and tells, as JSON, what the last line of each is.
_RUN = """
import ast, contextlib, io, json, sys
scope, told = {}, []
for source in json.load(sys.stdin):
    body = ast.parse(source)
    last = ast.Expression(body.body.pop().value) if isinstance(body.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(body, "cell", "exec"), scope)
        told.append(repr(eval(compile(last, "cell", "eval"), scope)) if last else None)
print(json.dumps(told))
"""


def test_the_notebook_runs_and_shows_what_it_says() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    given = json.dumps(["".join(cell["source"]) for cell in cells])
    done = subprocess.run(
        [sys.executable, "-c", _RUN], input=given, capture_output=True, text=True, cwd=NOTEBOOK.parent
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told[2] == "True"
    for cell, value in zip(cells, told, strict=True):
        assert cell["execution_count"], "a cell of the notebook was not run"
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
        shown = ["".join(output["data"]["text/plain"]) for output in cell["outputs"] if "data" in output]
        assert shown == ([value] if value not in (None, "None") else [])


@pytest.mark.parametrize("name", ["train", "package", "evaluate", "register"])
def test_a_step_is_called_by_the_name_of_its_module(name: str) -> None:
    module: Any = importlib.import_module(f"mlops_provider.steps.training.{name}")
    room = importlib.import_module("mlops_provider.steps.training")
    assert getattr(room, name) is module
    assert callable(module)
