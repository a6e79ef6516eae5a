"""The operators as a DAG author uses them, in DAGs of one's own."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

import mlops_provider.operators
from mlops_provider.operators.base import StepOperator
from mlops_provider.operators.data import BuildFeaturesOperator, ValidateDataOperator
from mlops_provider.operators.plan import PlanOperator
from tests.integration.house import House, deliver_tiny
from tests.support.tiny import DAYS, write_model

XCOM_BYTES = 8 * 1024


def operators() -> list[type[StepOperator]]:
    """Every operator of the provider."""
    found = {StepOperator}
    for module in pkgutil.iter_modules(mlops_provider.operators.__path__, "mlops_provider.operators."):
        members = vars(importlib.import_module(module.name)).values()
        found |= {m for m in members if inspect.isclass(m) and issubclass(m, StepOperator) and m.__name__[0] != "_"}
    return sorted(found, key=lambda operator: operator.__name__)


OPERATORS = operators()
EACH = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)


def parameters(operator: type) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor that are the provider's own."""
    classes = [base for base in operator.__mro__ if base.__module__.startswith("mlops_provider.")]
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(classes):
        constructor = vars(base).get("__init__")
        if constructor is not None:
            found |= inspect.signature(inspect.unwrap(constructor)).parameters
    return {name: p for name, p in found.items() if name not in ("self", "kwargs")}


def made(operator: type[StepOperator], **given: Any) -> Any:
    """An operator with something in each of its parameters."""
    values = {name: "given" for name, p in parameters(operator).items() if p.default is inspect.Parameter.empty}
    return operator(task_id="made", **{**values, **given})


def test_all_operators_are_looked_at() -> None:
    names = {operator.__name__ for operator in OPERATORS}
    assert {"PlanOperator", "BatchScoreOperator", "RollbackModelOperator", "StepOperator"} <= names
    assert {"CheckoutDataOperator", "SnapshotDataOperator"} <= names
    assert len(names) == 24


@EACH
def test_every_template_field_is_a_parameter_and_an_attribute(operator: type[StepOperator]) -> None:
    task = made(operator)
    assert set(operator.template_fields) <= set(parameters(operator))
    assert [name for name in operator.template_fields if not hasattr(task, name)] == []
    assert len(set(operator.template_fields)) == len(operator.template_fields)


@EACH
def test_every_template_field_is_rendered(operator: type[StepOperator]) -> None:
    task = made(operator, **dict.fromkeys(operator.template_fields, "{{ word }}"))
    task.render_template_fields({"word": "rendered"})
    assert {name: getattr(task, name) for name in operator.template_fields} == dict.fromkeys(
        operator.template_fields, "rendered"
    )


@EACH
def test_what_a_template_field_holds_is_rendered_at_any_depth(operator: type[StepOperator]) -> None:
    for name in operator.template_fields:
        task = made(operator, **{name: {"a": ["{{ word }}"]}})
        task.render_template_fields({"word": "rendered"})
        assert getattr(task, name) == {"a": ["rendered"]}


@EACH
def test_the_constructor_takes_keywords_only(operator: type[StepOperator]) -> None:
    kinds = {parameter.kind for parameter in parameters(operator).values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@EACH
def test_what_the_steps_hand_on_can_be_templated(operator: type[StepOperator]) -> None:
    """Everything that a constructor takes is templated but what decides the shape of the DAG, is no text, or must hold none
    from outside."""
    fixed = {"step", "include", "suite", "on_train", "on_wait", "on_refusal", "sql"}
    if operator is PlanOperator:  # it passes no arguments on, and `force` reaches it as a Param
        fixed |= {"arguments", "force"}
    assert set(parameters(operator)) - fixed == set(operator.template_fields)


@pytest.fixture
def tiny(house: House) -> House:
    write_model(house.include)
    deliver_tiny(house, *DAYS[:3])
    return house


def test_an_operator_works_in_a_dag_of_ones_own_without_a_plan(tiny: House) -> None:
    work = tiny_work(tiny)
    with DAG("own_features", schedule=None) as dag:
        BuildFeaturesOperator(task_id="build", model="{{ 'ti' ~ 'ny' }}", work=work)
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    built = run.task("build").result
    assert built["partition"] == DAYS[0]
    assert Path(built["table"]["uri"]).exists()
    assert [path.suffix for path in (tiny.artifacts / "code" / "tiny").iterdir()] == [".zip"]


def tiny_work(house: House) -> dict[str, Any]:
    """The first delivered day as `plan` would describe it."""
    from mlops_provider.steps import plan

    return plan.ci(house.job("tiny"))[0].model_dump(mode="json")


def test_any_step_runs_by_name_and_says_when_it_was_reused(tiny: House) -> None:
    work = tiny_work(tiny)
    with DAG("own_steps", schedule=None) as dag:
        first = StepOperator(task_id="first", model="tiny", step="build_features", arguments={"work": work})
        second = StepOperator(
            task_id="second",
            model="tiny",
            step="validate",
            arguments={
                "work": work,
                "suite": "features",
                "dataset": "{{ ti.xcom_pull('first')['table'] | tojson }}",
            },
        )
        first >> second
    run = tiny.tested(dag)
    assert run.task("first").state == "success", run.said()
    assert "RequestError: arguments of validate" in run.said()  # text is no table: results are passed on as XComs


def test_results_are_passed_on_as_xcoms(tiny: House) -> None:
    with DAG("own_chain", schedule=None) as dag:
        built = BuildFeaturesOperator(task_id="build", model="tiny", work=tiny_work(tiny))
        ValidateDataOperator(
            task_id="validate", model="tiny", work=tiny_work(tiny), suite="features", built=built.output
        )
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    assert run.task("validate").result["verdict"]["subject"] == f"tiny {DAYS[0]} features data"


def test_a_folder_for_the_models_can_be_given_to_an_operator(tiny: House) -> None:
    tiny.changed["AIRFLOW__MLOPS__INCLUDE_DIR"] = ""
    with DAG("own_include", schedule=None) as dag:
        BuildFeaturesOperator(task_id="build", model="tiny", work=tiny_work(tiny), include=str(tiny.include))
    assert tiny.tested(dag).state == "success"


def test_force_computes_again_what_would_be_reused(tiny: House) -> None:
    work, table = tiny_work(tiny), []
    for force in ("false", "false", "true"):
        with DAG("own_force", schedule=None) as dag:
            BuildFeaturesOperator(task_id="build", model="tiny", work=work, force="{{ '" + force + "' }}")
        built = tiny.tested(dag).task("build").result
        table.append(Path(built["table"]["uri"]).stat().st_mtime_ns)
    assert table[0] == table[1] < table[2]


@pytest.mark.parametrize("model", ["../tiny", "tiny/../tiny", "/tiny", "TINY", ""])
def test_an_odd_name_of_a_model_never_becomes_a_path(tiny: House, model: str) -> None:
    with DAG("own_odd", schedule=None) as dag:
        BuildFeaturesOperator(task_id="build", model="{{ params.model }}", work=tiny_work(tiny))
    dag.params["model"] = model
    run = tiny.tested(dag, retries=1)
    assert run.task("build").tries == 1
    assert "RequestError" in run.said()
    assert "is no name of a model" in run.said()


def test_an_odd_name_is_refused_even_beside_a_code_archive(tiny: House) -> None:
    swell(tiny)
    code = tiny.job("tiny").model.ref.model_dump(mode="json")
    with DAG("own_outside", schedule=None) as dag:
        ValidateDataOperator(
            task_id="validate", model="../../outside", work=tiny_work(tiny), suite="raw", code=code, retries=0
        )
    run = tiny.tested(dag)
    assert not tiny.root.joinpath("outside").exists()
    assert run.state == "failed"


# --- the size of results -------------------------------------------------------------------------------------------


def swell(house: House) -> None:
    """Gives the tiny model a suite whose verdict is far larger than an XCom may be."""
    path = house.include / "models" / "tiny" / "expectations" / "raw.json"
    suite = json.loads(path.read_text())
    between = {"type": "expect_column_values_to_be_between", "severity": "critical"}
    suite["expectations"] += [
        {**between, "kwargs": {"column": column, "min_value": -9 - step, "max_value": 9}}
        for column in "abc"
        for step in range(20)
    ]
    path.write_text(json.dumps(suite))


def sizes(run: Any) -> dict[str, int]:
    """Bytes of each result as JSON."""
    return {task: len(json.dumps(found.result)) for (task, _), found in run.tasks.items()}


def test_a_result_that_is_too_large_travels_as_a_file_and_arrives_whole(tiny: House) -> None:
    swell(tiny)
    run = tiny.run("tiny", "ci", partition=DAYS[0])
    assert run.state == "success", run.said()
    (reference,) = run.task("partition.validate_raw", 0).result.values()
    assert reference["size"] > XCOM_BYTES
    verdict = json.loads(Path(reference["uri"]).read_text())["verdict"]
    assert len(verdict["checks"]) == 64
    assert max(sizes(run).values()) <= XCOM_BYTES
    (record,) = tiny.ledger("tiny")
    assert record.outcome == "accepted"


def planned(house: House, loop: str) -> Any:
    """What `plan` alone finds due."""
    with DAG("own_plan", schedule=None) as dag:
        PlanOperator(task_id="plan", model="tiny", loop=loop)
    run = house.tested(dag)
    assert run.state == "success", run.said()
    return run.task("plan").result


def test_each_work_of_a_long_backlog_fits_into_an_xcom(tiny: House) -> None:
    """A list to map over is read item by item."""
    deliver_tiny(tiny, *(f"2024-04-{day:02d}" for day in range(1, 31)))
    works = planned(tiny, "ci")
    assert len(works) == 33
    assert max(len(json.dumps(work)) for work in works) <= XCOM_BYTES


def test_what_monitoring_owes_after_a_long_pause_fits_into_an_xcom(tiny: House) -> None:
    tiny.loops("tiny").drain()
    deliver_tiny(tiny, *(f"2024-04-{day:02d}" for day in range(1, 16)), what=("inputs",))
    assert tiny.loops("tiny").score()
    work = planned(tiny, "cm")
    assert len(json.dumps(work)) <= XCOM_BYTES


def test_a_backlog_longer_than_airflow_maps_over_is_worked_off_in_portions(tiny: House) -> None:
    tiny.changed["AIRFLOW__CORE__MAX_MAP_LENGTH"] = "2"
    for accepted in (2, 3):
        run = tiny.run("tiny", "ci")
        assert run.state == "success", run.said()
        assert len(tiny.ledger("tiny")) == accepted


def test_a_scored_partition_with_a_large_manifest_is_announced(tiny: House) -> None:
    write_model(tiny.include, data={"history": {f"table_{number}": "sites.parquet" for number in range(60)}})
    loops = tiny.loops("tiny")
    loops.drain()
    assert tiny.alias("tiny") == 1
    deliver_tiny(tiny, DAYS[3], what=("inputs",))
    run = tiny.run("tiny", "score")
    assert run.state == "success", run.said()
    assert run.events[0].extra == {"partition": DAYS[3], "version": 1, "rows": 1200}
    assert sizes(run)["score"] <= XCOM_BYTES
