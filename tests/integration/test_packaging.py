"""The distribution as Airflow and pip see it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from mlops_provider.get_provider_info import get_provider_info
from tests.integration.house import REPOSITORY

BIN = Path(sys.executable).parent
NAMED_MODULES = [
    module
    for kind in ("operators", "sensors", "triggers", "hooks")
    for entry in get_provider_info()[kind]
    for module in entry["python-modules"]
]


def airflow(home: Path, *arguments: str) -> str:
    """Output of the airflow command in a home of its own."""
    settings = {"AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}"}
    done = subprocess.run(
        [str(BIN / "airflow"), *arguments], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_airflow_shows_the_provider(tmp_path: Path) -> None:
    (shown,) = json.loads(airflow(tmp_path, "providers", "get", "airflow-provider-mlops", "--output", "json"))
    assert "airflow-provider-mlops" in str(shown)
    assert "0.1.0" in str(shown)


def test_airflow_shows_the_connection_type(tmp_path: Path) -> None:
    shown = json.loads(airflow(tmp_path, "providers", "hooks", "--output", "json"))
    (mine,) = [row for row in shown if row["connection_type"] == "mlflow"]
    assert mine["class"] == "mlops_provider.hooks.mlflow.MlflowHook"
    assert mine["package_name"] == "airflow-provider-mlops"
    assert mine["hook_name"] == "MLflow"
    (data,) = [row for row in shown if row["connection_type"] == "dvc"]
    assert data["class"] == "mlops_provider.hooks.dvc.DvcHook"


def test_the_provider_info_fits_airflows_schema() -> None:
    import airflow

    schema = json.loads(Path(airflow.__path__[0], "provider_info.schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(get_provider_info())] == []


def test_the_provider_info_names_this_distribution_and_its_version() -> None:
    from importlib.metadata import entry_points, version

    (entry,) = [e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("mlops_provider.")]
    found = entry.load()()
    assert found["package-name"] == "airflow-provider-mlops"
    assert found["versions"][0] == version("airflow-provider-mlops")


def test_airflow_looks_for_example_dags_without_a_traceback_and_takes_none_for_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from airflow.dag_processing.bundles.manager import _add_provider_example_dags_to_bundle

    found: list[Any] = []
    _add_provider_example_dags_to_bundle(found)
    assert "mlops" not in caplog.text
    assert not any("mlops" in bundle.name for bundle in found)


def test_the_provider_info_imports_nothing_heavy() -> None:
    script = """
import json, sys
before = set(sys.modules)
from mlops_provider.get_provider_info import get_provider_info
get_provider_info()
roots = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["mlops_provider"]


@pytest.mark.parametrize("name", NAMED_MODULES)
def test_every_module_that_the_provider_info_names_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def test_the_connection_type_is_described_as_its_hook_has_it() -> None:
    from mlops_provider.hooks.mlflow import MlflowHook

    (described,) = [one for one in get_provider_info()["connection-types"] if one["connection-type"] == "mlflow"]
    assert described["hook-class-name"] == f"{MlflowHook.__module__}.{MlflowHook.__qualname__}"
    assert (described["connection-type"], described["hook-name"]) == (MlflowHook.conn_type, MlflowHook.hook_name)


def test_every_operator_sensor_trigger_and_hook_module_is_named() -> None:
    package = REPOSITORY / "provider" / "mlops_provider"
    there = {
        f"mlops_provider.{folder}.{path.stem}"
        for folder in ("operators", "sensors", "triggers", "hooks")
        for path in (package / folder).glob("*.py")
        if path.stem not in ("__init__", "base")
    }
    assert set(NAMED_MODULES) == there


def test_the_options_of_the_configuration_have_their_defaults(airflow_home: Path) -> None:
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager

    ProvidersManager().initialize_providers_configuration()
    assert conf.get("mlops", "mlflow_conn_id") == "mlflow_default"
    assert conf.get("mlops", "environment") == "local"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the tracked files."""
    source, target = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY / "provider", source / "provider")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(REPOSITORY / name, source)
    done = subprocess.run(_builder(target), cwd=source, capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr and "error sending request" in done.stderr:
        pytest.skip("the build back end cannot be fetched and is not in the cache")
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def _builder(target: Path) -> list[str]:
    return [str(BIN / "uv"), "build", "--wheel", "--no-config", "--out-dir", str(target)]


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    folder = REPOSITORY / "provider"
    sources = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources | {"mlops_provider/py.typed"}


def test_the_wheel_brings_license_console_script_and_entry_point(wheel: zipfile.ZipFile) -> None:
    info = "airflow_provider_mlops-0.1.0.dist-info"
    names = {name for name in wheel.namelist() if name.startswith(info)}
    wanted = {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}
    assert names == {f"{info}/{name}" for name in wanted}
    assert wheel.read(f"{info}/licenses/LICENSE") == (REPOSITORY / "LICENSE").read_bytes()
    entries = ConfigParser()
    entries.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(entries["console_scripts"]) == {"mlops": "mlops_provider.__main__:process"}
    assert "provider_info" in entries["apache_airflow_provider"]


def test_the_wheel_states_what_it_needs(wheel: zipfile.ZipFile) -> None:
    from email.parser import Parser

    found: Any = Parser().parsestr(wheel.read("airflow_provider_mlops-0.1.0.dist-info/METADATA").decode())
    assert found["License-Expression"] == "Apache-2.0"
    assert set(found["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert "apache-airflow>=3.3" in found.get_all("Requires-Dist")


def test_the_console_script_runs() -> None:
    done = subprocess.run([str(BIN / "mlops"), "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0.1.0")
