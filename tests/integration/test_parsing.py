"""What importing the operators and parsing dags/ costs and gives."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from mlops_provider.ledger import Draft
from tests.integration.house import REPOSITORY, SLICE, House, parsed, write_slice
from tests.support.tiny import write_model

Houses = Callable[..., House]

DAGS = REPOSITORY / "dags"
PACKAGE = REPOSITORY / "provider" / "mlops_provider"
LOOPS = ("cd", "ci", "cm", "ct", "feedback", "rollback", "score")
HEAVY = {
    "boto3",
    "dvc",
    "evidently",
    "great_expectations",
    "kubernetes",
    "lightgbm",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
}

# Task: (tasks right before it, trigger rule, assets it may announce).
STRUCTURE: dict[str, dict[str, tuple[set[str], str, set[str]]]] = {
    "ci": {
        "plan": (set(), "all_success", set()),
        "test_code": ({"plan"}, "all_success", set()),
        "partition.validate_raw": ({"plan", "test_code"}, "none_failed_min_one_success", set()),
        "partition.build_features": ({"plan", "partition.validate_raw"}, "all_success", set()),
        "partition.validate_features": ({"plan", "partition.build_features"}, "all_success", set()),
        "partition.compare_history": ({"plan", "partition.build_features"}, "all_success", set()),
        "partition.snapshot": (
            {
                "plan",
                "partition.validate_raw",
                "partition.build_features",
                "partition.validate_features",
                "partition.compare_history",
            },
            "all_success",
            {"data"},
        ),
    },
    "score": {
        "plan": (set(), "all_success", set()),
        "score": ({"plan"}, "all_success", {"predictions"}),
    },
    "cm": {
        "plan": (set(), "all_success", set()),
        "drift": ({"plan"}, "all_success", set()),
        "estimate": ({"plan"}, "all_success", set()),
        "quality": ({"plan"}, "all_success", set()),
        "decide": ({"plan", "drift", "estimate", "quality"}, "none_failed_min_one_success", {"decide.outcome"}),
    },
    "ct": {
        "plan": (set(), "all_success", set()),
        "train": ({"plan"}, "all_success", set()),
        "package": ({"plan", "train"}, "all_success", set()),
        "evaluate": ({"plan", "train", "package"}, "all_success", set()),
        "register": ({"plan", "train", "package", "evaluate"}, "all_success", {"candidate"}),
    },
    "cd": {
        "plan": (set(), "all_success", set()),
        "candidate.gate": ({"plan"}, "all_success", {"gate.outcome"}),
        "candidate.promote": ({"plan", "candidate.gate"}, "all_success", {"champion", "decision"}),
    },
    "rollback": {
        "plan": (set(), "all_success", set()),
        "rollback": ({"plan"}, "all_success", {"champion", "decision"}),
    },
    "feedback": {
        "plan": (set(), "all_success", set()),
        "take_labels": ({"plan"}, "all_success", set()),
    },
}
WOKEN_BY = {
    "ci": {"labels"},
    "score": {"inputs", "decision"},
    "cm": {"predictions", "data", "decision"},
    "ct": {"retrain"},
    "cd": {"candidate"},
    "rollback": set(),
    "feedback": set(),
}
CLOCK = {**dict.fromkeys(("ci", "score", "ct", "cd"), "52 * * * *"), "cm": "0 6 * * *"}
PARAMS = {
    "ci": {"partition", "force", "ref"},
    "score": {"partition"},
    "cm": set(),
    "ct": {"partition", "drill", "force"},
    "cd": {"version"},
    "rollback": {"version", "reason"},
    "feedback": {"rows", "file"},
}
MAPPED = {
    "ci": {"partition"},
    "score": {"score"},
    "cd": {"candidate"},
    "cm": set(),
    "ct": set(),
    "rollback": set(),
    "feedback": set(),
}


def bag_of(include: Path, dag_id: str = "") -> Any:
    """The bag of dags/ for an include directory; as in a task's process if a DAG is named."""
    settings = {"AIRFLOW__MLOPS__INCLUDE_DIR": str(include), "_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id}
    with patch.dict(os.environ, settings):
        return parsed(DAGS)


def in_a_fresh_process(script: str, **settings: str) -> Any:
    """What a script prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    """The DAGs of the real model, by loop."""
    bag = bag_of(REPOSITORY / "include")
    assert bag.import_errors == {}
    return {name.split(".")[1]: dag for name, dag in bag.dags.items()}


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """An include directory with one good model, tiny."""
    write_model(tmp_path)
    return tmp_path


# --- weight --------------------------------------------------------------------------------------------------------


def test_importing_the_operators_and_parsing_the_dags_loads_nothing_heavy() -> None:
    script = f"""
import importlib, json, pkgutil, sys
import mlops_provider.operators, mlops_provider.hooks, mlops_provider.sensors, mlops_provider.triggers
import mlops_provider.links, mlops_provider.plugin
for package in (mlops_provider.operators, mlops_provider.hooks, mlops_provider.sensors, mlops_provider.triggers):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder={str(DAGS)!r}, bundle_path=__import__("pathlib").Path({str(DAGS)!r}), bundle_name="dags-folder")
print(json.dumps([bag.import_errors, sorted(bag.dags), sorted({{name.split(".")[0] for name in sys.modules}})]))
"""
    errors, dags, loaded = in_a_fresh_process(script, AIRFLOW__MLOPS__INCLUDE_DIR="")
    assert errors == {}
    assert dags == [f"flight_delays.{loop}" for loop in LOOPS]
    assert HEAVY & set(loaded) == set()


def test_planning_loads_no_heavy_library(tmp_path: Path) -> None:
    """The first task of every run, and of most runs the only one: it looks, and what it looks at are names and records."""
    script = f"""
import json, sys
from pathlib import Path
from mlops_provider.steps import plan
from mlops_provider.deployment import Deployment
from mlops_provider.modelcode import pack
from mlops_provider.steps.step import Job
place = Deployment(artifact_root={str(tmp_path / "artifacts")!r}, data_root={str(tmp_path / "data")!r})
job = Job(pack(Path({str(write_model(tmp_path / "include"))!r}), "local", place.storage, place.artifact_root), place)
folder = Path({str(tmp_path / "data")!r}, "tiny", "2024-01-01")
folder.mkdir(parents=True)
for name in (folder / "inputs.parquet", folder / "labels.parquet", folder.parents[1] / "sites.parquet"):
    name.write_bytes(b"x")
(due,) = plan.ci(job)
found = [due.problem, plan.score(job), plan.cm(job), plan.ct(job), plan.cd(job)]
print(json.dumps([*found, *{{name.split(".")[0] for name in sys.modules}}]))
"""
    found = in_a_fresh_process(script)
    assert found[:5] == ["", [], None, None, []]
    assert HEAVY & set(found[5:]) == set()


def test_the_steps_and_what_they_stand_on_import_no_airflow() -> None:
    script = """
import importlib, json, pkgutil, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "airflow":
            raise ImportError(f"airflow is not to be imported here: {name}")
sys.meta_path.insert(0, Blocked())
import mlops_provider.steps, mlops_provider.loops, mlops_provider.report, mlops_provider.__main__
names = [m.name for m in pkgutil.walk_packages(mlops_provider.steps.__path__, "mlops_provider.steps.")]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""
    names = in_a_fresh_process(script)
    assert {"mlops_provider.steps.plan", "mlops_provider.steps.training.train"} <= set(names)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_no_function_of_the_steps_imports_airflow_or_an_operator_later() -> None:
    below = [*PACKAGE.joinpath("steps").rglob("*.py"), *(PACKAGE / f"{m}.py" for m in ("loops", "ledger", "storage"))]
    guilty = {
        path.name: sorted(name for name in imports(path) if name.startswith(("airflow", "mlops_provider.operators")))
        for path in below
    }
    assert {name: found for name, found in guilty.items() if found} == {}


def test_airflow_is_used_through_its_sdk_only() -> None:
    # Triggers have no home in the SDK.
    allowed = ("airflow.sdk", "airflow.providers.", "airflow.triggers.base")
    guilty = {
        path.relative_to(REPOSITORY).as_posix(): sorted(
            name for name in imports(path) if name.split(".")[0] == "airflow" and not name.startswith(allowed)
        )
        for path in (*PACKAGE.rglob("*.py"), *DAGS.glob("*.py"))
        if PACKAGE / "plugin" not in path.parents  # a page of the UI has no SDK to stand on
    }
    assert {name: found for name, found in guilty.items() if found} == {}


# --- structure -----------------------------------------------------------------------------------------------------


def test_every_model_has_a_dag_for_each_loop(dags: dict[str, Any]) -> None:
    assert sorted(dags) == sorted(LOOPS)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_tasks_of_a_loop_are_wired_as_designed(dags: dict[str, Any], loop: str) -> None:
    assert wiring(dags[loop]) == STRUCTURE[loop]


def wiring(dag: Any) -> dict[str, tuple[set[str], str, set[str]]]:
    """The tasks of a DAG in the shape of `STRUCTURE`."""
    return {
        name: (set(task.upstream_task_ids), getattr(task.trigger_rule, "value", task.trigger_rule), outlets(task))
        for name, task in dag.task_dict.items()
    }


def outlets(task: Any) -> set[str]:
    """Names of what a task announces, without the model's name."""
    given = task.partial_kwargs.get("outlets", []) if task.is_mapped else task.outlets
    names = [outlet["__var"]["name"] if isinstance(outlet, dict) else outlet.name for outlet in given]
    return {name.split(".", 1)[1] for name in names}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_is_mapped_over_what_is_due(dags: dict[str, Any], loop: str) -> None:
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.sdk.definitions.taskgroup import MappedTaskGroup

    dag = dags[loop]
    groups = {
        name for name, group in dag.task_group.get_task_group_dict().items() if isinstance(group, MappedTaskGroup)
    }
    assert groups | {name for name, task in dag.task_dict.items() if isinstance(task, MappedOperator)} == MAPPED[loop]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_is_woken_by_its_events_and_by_a_slow_clock(dags: dict[str, Any], loop: str) -> None:
    condition = getattr(round_trip(dags[loop]).timetable, "asset_condition", None)
    woken_by = {asset.name.split(".", 1)[1] for _, asset in condition.iter_assets()} if condition else set()
    assert woken_by == WOKEN_BY[loop]
    assert clock(dags[loop]) == CLOCK.get(loop)


def test_any_one_event_wakes_a_loop(dags: dict[str, Any]) -> None:
    from airflow.serialization.definitions.assets import SerializedAssetAny

    for loop in ("score", "cm"):
        serialized = round_trip(dags[loop]).timetable.asset_condition
        assert isinstance(serialized, SerializedAssetAny)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_runs_once_at_a_time_and_makes_up_for_nothing(dags: dict[str, Any], loop: str) -> None:
    assert dags[loop].max_active_runs == 1
    assert dags[loop].catchup is False


@pytest.mark.parametrize("loop", LOOPS)
def test_every_task_is_retried(dags: dict[str, Any], loop: str) -> None:
    assert {task.retries for task in dags[loop].task_dict.values()} == {2}


@pytest.mark.parametrize("loop", LOOPS)
def test_every_param_may_be_null_and_has_a_default(dags: dict[str, Any], loop: str) -> None:
    params = dags[loop].params
    assert set(params) == PARAMS[loop]
    params.validate()
    refused = [name for name in params if "null" not in params.get_param(name).schema["type"]]
    assert refused == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_dag_survives_serialization(dags: dict[str, Any], loop: str) -> None:
    dag, back = dags[loop], round_trip(dags[loop])
    assert wiring(back) == STRUCTURE[loop]
    assert back.params.dump() == dag.params.dump()
    assert (back.dag_id, back.tags, back.description) == (dag.dag_id, dag.tags, dag.description)


def clock(dag: Any) -> str | None:
    """The cron expression that wakes a DAG beside its assets."""
    timetable = getattr(round_trip(dag).timetable, "timetable", None)
    return None if timetable is None else str(timetable.serialize()["expression"])


def round_trip(dag: Any) -> Any:
    """The DAG as the scheduler sees it: written to JSON and read back."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_training_takes_the_pool_slots_of_its_threads(include: Path) -> None:
    write_model(include, training={"resources": {"cpu": 2}})
    assert bag_of(include).dags["tiny.ct"].task_dict["train"].pool_slots == 2


TUNED = {
    "window": {"minimum": 3},
    "tune": {"trials": 5, "parallel": 2, "space": {"num_leaves": {"low": 2, "high": 16}}},
}


def test_a_model_that_is_tuned_has_a_task_a_wave_before_training(include: Path) -> None:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    write_model(include, training={**TUNED, "resources": {"cpu": 2}})
    dag = bag_of(include).dags["tiny.ct"]
    tuning: dict[str, tuple[set[str], str, set[str]]] = {
        "trials_1": ({"plan"}, "all_success", set()),
        "trials_2": ({"plan", "trials_1"}, "all_success", set()),
        "trials_3": ({"plan", "trials_2"}, "all_success", set()),
        "tune": ({"plan", "trials_3"}, "all_success", set()),
        "train": ({"plan", "tune"}, "all_success", set()),
    }
    assert wiring(dag) == STRUCTURE["ct"] | tuning
    assert wiring(round_trip(dag)) == wiring(dag)
    waves = {name: task for name, task in dag.task_dict.items() if isinstance(task, MappedOperator)}
    assert {name: task.expand_input.value["number"] for name, task in waves.items()} == {
        "trials_1": [0, 1],
        "trials_2": [2, 3],
        "trials_3": [4],
    }
    assert {task.partial_kwargs["pool_slots"] for task in waves.values()} == {2}


def test_monitoring_follows_the_models_own_clock(include: Path) -> None:
    write_model(include, monitoring={"schedule": "5 4 * * 1"})
    assert clock(bag_of(include).dags["tiny.cm"]) == "5 4 * * 1"


# --- which models --------------------------------------------------------------------------------------------------


def test_a_tasks_process_builds_only_the_model_that_it_works_for(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_slice(tmp_path)
    assert {name.split(".")[0] for name in bag_of(tmp_path).dags} == {"tiny", "flight_delays", SLICE}
    assert sorted(bag_of(tmp_path, "tiny.ct").dags) == [f"tiny.{loop}" for loop in LOOPS]
    assert sorted(bag_of(tmp_path, f"{SLICE}.ct").dags) == [f"{SLICE}.{loop}" for loop in LOOPS]


@pytest.mark.parametrize("dag_id", ["../tiny.ct", "tiny/../tiny.ct", "somebody_elses", "*.ct", "..", ".ct."])
def test_a_tasks_process_for_another_dag_builds_nothing(include: Path, dag_id: str) -> None:
    bag = bag_of(include, dag_id)
    expected = {} if dag_id.split(".")[0] else {f"tiny.{loop}" for loop in LOOPS}
    assert set(bag.dags) == set(expected)
    assert bag.import_errors == {}


def test_a_tasks_process_reads_no_other_model(include: Path) -> None:
    include.joinpath("models", "broken").mkdir()
    include.joinpath("models", "broken", "model.yaml").write_text("name: [")
    bag = bag_of(include, "tiny.ct")
    assert sorted(bag.dags) == [f"tiny.{loop}" for loop in LOOPS]


def test_a_bad_model_takes_down_only_itself_and_is_named(include: Path) -> None:
    path = write_model(include, name="broken") / "model.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.2", "learning_rate: 0.2\n  rouns: 7"))
    line = path.read_text().splitlines().index("  rouns: 7") + 1
    bag = bag_of(include)
    assert {name.split(".")[0] for name in bag.dags} == {"tiny"}
    assert set(bag.import_errors) == {"config_errors.py"}
    (message,) = bag.import_errors.values()
    assert f"{path}:{line}: training.rouns: unknown key" in message


def test_every_bad_model_is_named_at_once(include: Path) -> None:
    for name in ("first", "second"):
        write_model(include, name=name, evaluation={"confidence": 7})
    (message,) = bag_of(include).import_errors.values()
    assert "models/first/model.yaml" in message
    assert "models/second/model.yaml" in message
    assert message.count("evaluation.confidence") == 2


def test_the_errors_of_a_task_process_are_those_of_its_own_loop(include: Path) -> None:
    """config_errors.py is not run for a task: Airflow gives a process one file."""
    write_model(include, name="broken", evaluation={"confidence": 7})
    with patch.dict(os.environ, {"AIRFLOW__MLOPS__INCLUDE_DIR": str(include)}):
        assert parsed(DAGS / "ct.py").import_errors == {}


@pytest.mark.parametrize(
    "name", ["../outside", "Tiny", "a b", "x;rm -rf", "ti.ny", "", "${HOME}", "{{ ds }}", "a" * 64]
)
def test_a_model_cannot_take_an_odd_name(include: Path, name: str) -> None:
    path = write_model(include, name="odd") / "model.yaml"
    path.write_text(path.read_text().replace("name: odd", f"name: {json.dumps(name)}"))
    before = sorted(include.rglob("*"))
    bag = bag_of(include)
    assert {dag_id.split(".")[0] for dag_id in bag.dags} == {"tiny"}
    assert "models/odd/model.yaml:1: name:" in str(bag.import_errors)
    assert sorted(include.rglob("*")) == before


@pytest.mark.parametrize("name", ["..tiny", "ti ny", "tiny;ls", "tiny.bak", "Tiny", "-tiny", "ti{{ny}}"])
def test_a_models_directory_with_an_odd_name_does_no_harm(include: Path, name: str) -> None:
    write_model(include, name="odd").rename(include / "models" / name)
    bag = bag_of(include)
    assert {dag_id.split(".")[0] for dag_id in bag.dags} == {"tiny"}
    assert f"models/{name}/model.yaml" in str(bag.import_errors)


def test_a_base_outside_the_models_is_refused(include: Path) -> None:
    directory = include / "models" / "thief"
    directory.mkdir()
    directory.joinpath("model.yaml").write_text("name: thief\nextends: ../../../secret/model.yaml\n")
    (message,) = bag_of(include).import_errors.values()
    assert "extends: is '../../../secret/model.yaml'" in message


def test_without_a_setting_the_models_lie_beside_the_dags_folder(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(DAGS, tmp_path / "bundle" / "dags")
    write_model(tmp_path / "bundle" / "include")
    with patch.dict(os.environ, {"AIRFLOW__MLOPS__INCLUDE_DIR": ""}):
        bag = parsed(tmp_path / "bundle" / "dags")
    assert {name.split(".")[0] for name in bag.dags} == {"tiny"}


def test_the_environment_is_part_of_an_assets_address(include: Path) -> None:
    with patch.dict(os.environ, {"AIRFLOW__MLOPS__ENVIRONMENT": "staging"}):
        dag = bag_of(include).dags["tiny.ct"]
    (asset,) = dag.task_dict["register"].outlets
    assert (asset.name, asset.uri) == ("tiny.candidate", "x-mlops://staging/tiny/candidate")


# --- plugins -------------------------------------------------------------------------------------------------------


def test_no_plugin_has_an_import_error(airflow_home: Path) -> None:
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    assert plugins_manager.get_import_errors() == {}
    assert {"mlops", "mlops_reports"} <= {plugin["name"] for plugin in plugins_manager.get_plugin_info()}


def champion_record(house: House, version: int) -> None:
    draft = Draft(kind="promotion", partition="2013-05", version=version, outcome="promoted", reason="test")
    house.deployment().ledger("flight_delays").append(draft, actor="test")


def rendered(house: House, template: str) -> Any:
    """What a template gives in a real task."""
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.sdk import DAG

    with DAG("macros", schedule=None) as dag:
        BashOperator(task_id="tell", bash_command=f"echo 'said: {template}'")
    run = house.tested(dag)
    assert run.state == "success", run.said()
    return run.task("tell").result


def test_the_champion_macro_reads_the_ledger_when_the_task_runs(house: House) -> None:
    write_model(house.include, name="flight_delays")
    template = '{{ macros.mlops.champion("flight_delays") }}'
    assert rendered(house, template) == "said: None"
    champion_record(house, 4)
    champion_record(house, 7)
    assert rendered(house, template) == "said: 7"


def test_the_partition_macros_reckon(house: House) -> None:
    template = (
        '{{ macros.mlops.partition_before("2013-01") }} {{ macros.mlops.partition_after("2013-12") }} '
        '{{ macros.mlops.partition_after("2016-02-28", "daily") }}'
    )
    assert rendered(house, template) == "said: 2012-12 2014-01 2016-02-29"


def test_the_champion_macro_refuses_a_model_that_is_not_there(house: House) -> None:
    from mlops_provider.exceptions import RequestError
    from plugins.mlops_macros import champion

    write_model(house.include, name="flight_delays")
    with (
        house.lived_in(),
        pytest.raises(RequestError, match=r"no model 'flight_delay': .*/models holds .*flight_delays"),
    ):
        champion("flight_delay")


@pytest.mark.parametrize("model", ["../../etc", "flight delays", "", None])
def test_the_champion_macro_refuses_an_odd_name(house: House, model: Any) -> None:
    from mlops_provider.exceptions import RequestError
    from plugins.mlops_macros import champion

    with house.lived_in(), pytest.raises(RequestError, match="is no name of a model"):
        champion(model)


def test_all_modules_of_the_package_are_covered_by_the_weight_test() -> None:
    """A new folder beside operators and hooks would have to be added above."""
    rooms = {module.name for module in pkgutil.iter_modules([str(PACKAGE)]) if module.ispkg}
    assert rooms == {
        "backtest",
        "example_dags",
        "hooks",
        "operators",
        "plugin",
        "sections",
        "sensors",
        "steps",
        "triggers",
    }
