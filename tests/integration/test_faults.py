"""Bad input and broken surroundings: each gives a clear error that names file or field, and loses nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest

from mlops_provider.deployment import MlflowAccess
from mlops_provider.exceptions import ConfigError
from mlops_provider.hooks.mlflow import MlflowHook
from mlops_provider.ledger import Record
from tests.integration.house import REPOSITORY, House, Run, deliver_tiny, parsed, stored
from tests.integration.servers import MlflowServer, free_ports
from tests.support.tiny import DAYS, write_model

Houses = Callable[..., House]
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def tiny(house: House) -> House:
    """An installation with the tiny model and three delivered days."""
    write_model(house.include)
    deliver_tiny(house, *DAYS[:3])
    return house


def decided(house: House) -> House:
    """Goes, without Airflow, to where the first candidate is wanted."""
    loops = house.loops("tiny")
    loops.ci()
    while loops.cm():
        pass
    return house


def registered(house: House) -> House:
    """Goes to where the first candidate waits for its gate."""
    decided(house).loops("tiny").ct()
    return house


def dead_url() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ("ci", "knows partition, force"),
        ("score", "knows partition"),
        ("cm", "takes none"),
        ("ct", "knows partition, drill, force"),
        ("cd", "knows version"),
        ("rollback", "knows version, reason"),
        ("feedback", "knows rows, file"),
    ],
)
def test_plan_refuses_a_key_that_the_loop_does_not_know(house: House, loop: str, told: str) -> None:
    write_model(house.include)
    run = house.run("tiny", loop, retries=1, partitoin="2024-01-01")
    assert run.state == "failed"
    assert f"RequestError: conf: unknown key partitoin; tiny.{loop} {told}" in run.said()
    assert run.task("plan").tries == 1
    assert {task for task, state in run.states().items() if state == "success"} == set()
    assert run.events == []


@pytest.fixture(scope="module")
def rest(houses: Houses) -> Iterator[Any]:
    """Airflow's REST API over the DAGs of the tiny model."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    house = houses("rest")
    write_model(house.include)
    with house.lived_in():
        stored(*parsed(REPOSITORY / "dags").dags.values())
    with TestClient(create_app(apps="core")) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        yield client


def triggered(rest: Any, loop: str, conf: dict[str, Any]) -> Any:
    return rest.post(f"/api/v2/dags/tiny.{loop}/dagRuns", json={"logical_date": None, "conf": conf})


@pytest.mark.parametrize(
    ("loop", "conf", "told"),
    [
        ("ci", {"partition": "January"}, "January"),
        ("ci", {"partition": 20240101}, "20240101"),
        ("ci", {"partition": "2024-01"}, "2024-01"),
        ("ci", {"force": "perhaps"}, "perhaps"),
        ("score", {"partition": "../../etc/passwd"}, "passwd"),
        ("ct", {"drill": "real_labels"}, "real_labels"),
        ("ct", {"partition": "2024-13-01"}, "2024-13-01"),
        ("cd", {"version": 0}, "minimum"),
        ("cd", {"version": "one"}, "one"),
        ("cd", {"version": 1.5}, "1.5"),
        ("rollback", {"reason": "x" * 501}, "too long"),
        ("feedback", {"rows": [{}] * 1001}, "too long"),
        ("feedback", {"rows": ["x"]}, "object"),
        ("feedback", {"file": "../secrets.csv"}, "secrets.csv"),
        ("feedback", {"file": "/etc/hosts.csv"}, "hosts.csv"),
        ("feedback", {"file": "s3://elsewhere/x.parquet"}, "elsewhere"),
        ("feedback", {"file": "a/../../x.parquet"}, "x.parquet"),
    ],
)
def test_the_rest_api_refuses_a_param_that_does_not_fit(rest: Any, loop: str, conf: dict[str, Any], told: str) -> None:
    answer = triggered(rest, loop, conf)
    assert answer.status_code == 400
    assert told in answer.text


@pytest.mark.parametrize(
    ("loop", "conf"),
    [
        ("ci", {}),
        ("ci", {"partition": "2024-01-01", "force": True}),
        ("ct", {"partition": None, "drill": None}),
        ("cd", {"version": 3}),
        ("rollback", {"version": None, "reason": "because"}),
        ("feedback", {"rows": [{"id": "a", "outcome": 1.5}]}),
        ("feedback", {"file": "feedback/2024-01/day=3/x.v2.parquet"}),
    ],
)
def test_the_rest_api_takes_params_that_fit(rest: Any, loop: str, conf: dict[str, Any]) -> None:
    answer = triggered(rest, loop, conf)
    assert answer.status_code == 200, answer.text
    assert answer.json()["conf"] == conf


@pytest.mark.parametrize(
    ("loop", "conf", "told"),
    [
        ("score", {"partition": DAYS[4]}, f"partition {DAYS[4]} has no inputs"),
        ("score", {"partition": DAYS[0]}, "no champion"),
        ("ct", {"partition": DAYS[0]}, f"partition {DAYS[0]} has no accepted data"),
        ("cd", {"version": 9}, "version 9 is no candidate"),
        ("rollback", {}, "there has been no champion yet"),
        ("ci", {"partition": "2024-02-31"}, "'2024-02-31' is no daily partition"),
    ],
)
def test_what_is_asked_for_and_cannot_be_done_is_refused(
    tiny: House, loop: str, conf: dict[str, Any], told: str
) -> None:
    run = tiny.run("tiny", loop, retries=1, **conf)
    assert run.state == "failed"
    assert told in run.said()
    assert {task.tries for task in run.tasks.values() if task.state == "failed"} == {1}
    assert tiny.ledger("tiny") == []


# --- data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoilt:
    """A delivery that is not right, and what has to be said about it."""

    file: str
    change: Change | bytes | None
    told: tuple[str, ...]
    task: str


def without(column: str) -> Change:
    return lambda frame: frame.drop(columns=column)


def as_text(column: str) -> Change:
    return lambda frame: frame.assign(**{column: frame[column].astype(str)})


SPOILT = {
    "inputs_missing": Spoilt("inputs", None, ("inputs.parquet does not exist",), "validate_raw"),
    "inputs_empty": Spoilt("inputs", b"", ("inputs.parquet is empty (0 bytes)",), "validate_raw"),
    "inputs_truncated": Spoilt("inputs", b"PAR1", ("inputs.parquet is no readable parquet file",), "validate_raw"),
    "inputs_without_rows": Spoilt("inputs", lambda f: f.head(0), ("inputs.parquet has no rows",), "validate_raw"),
    "checked_column_missing": Spoilt("inputs", without("a"), ("raw data refused", "(a)"), "validate_raw"),
    "checked_column_of_text": Spoilt("inputs", as_text("a"), ("raw data refused", "(a)"), "validate_raw"),
    "used_column_missing": Spoilt("inputs", without("c"), ("inputs.parquet lacks the column 'c'",), "build_features"),
    "used_column_of_text": Spoilt("inputs", as_text("c"), ("features must be numeric", "c"), "build_features"),
    "time_of_text": Spoilt(
        "inputs", as_text("at"), ("inputs.parquet: 'at' must be a timestamp with a time zone",), "build_features"
    ),
    "key_twice": Spoilt(
        "inputs",
        lambda frame: pd.concat([frame, frame.head(5)]),
        ("inputs.parquet: the key 'id' is not unique, 5 rows repeat one",),
        "build_features",
    ),
    "labels_empty": Spoilt("labels", b"", ("labels.parquet is empty (0 bytes)",), "build_features"),
    "label_missing": Spoilt(
        "labels", without("outcome"), ("labels.parquet lacks the column 'outcome'",), "build_features"
    ),
    "label_of_text": Spoilt(
        "labels", as_text("outcome"), ("labels.parquet: the label 'outcome' must be a number",), "build_features"
    ),
    "label_all_null": Spoilt(
        "labels",
        lambda frame: frame.assign(outcome=float("nan")),
        ("labels.parquet: the label 'outcome' is null or missing for every row",),
        "build_features",
    ),
}
GOOD = ("2024-03-01", "2024-03-31")
DAY_OF = {name: f"2024-03-{number:02d}" for number, name in enumerate(SPOILT, start=2)}
MENDED = ("inputs_missing", "inputs_truncated", "used_column_of_text", "label_all_null")
UNJUDGED = ("inputs_missing", "used_column_of_text")


@dataclass(frozen=True)
class Deliveries:
    """Good and spoilt days in one run, then some of them mended."""

    house: House
    first: Run
    second: Run

    def place(self, day: str) -> int:
        return [work["partition"] for work in self.first.task("plan").result].index(day)

    def records(self, name: str) -> list[Record]:
        return [record for record in self.house.ledger("tiny") if record.partition == DAY_OF[name]]


@pytest.fixture(scope="module")
def deliveries(houses: Houses) -> Deliveries:
    house = houses("spoilt")
    write_model(house.include)
    deliver_tiny(house, *GOOD, *DAY_OF.values())
    for name, spoilt in SPOILT.items():
        spoil(house.data / "tiny" / DAY_OF[name] / f"{spoilt.file}.parquet", spoilt.change)
    first = house.run("tiny", "ci")
    deliver_tiny(house, *(DAY_OF[name] for name in MENDED))
    return Deliveries(house, first, house.run("tiny", "ci"))


def spoil(path: Path, change: Change | bytes | None) -> None:
    if change is None:
        path.unlink()
    elif callable(change):
        change(pd.read_parquet(path)).to_parquet(path)
    else:
        path.write_bytes(path.read_bytes()[:-2000] if change else b"")


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_delivery_fails_with_the_file_or_the_field(deliveries: Deliveries, name: str) -> None:
    place, spoilt = deliveries.place(DAY_OF[name]), SPOILT[name]
    said = deliveries.first.said(place)
    assert DAY_OF[name] in said or "features.py:build" in said
    assert [words for words in spoilt.told if words not in said] == []
    assert deliveries.first.task(f"partition.{spoilt.task}", place).state == "failed"
    assert deliveries.first.task("partition.snapshot", place).state == "upstream_failed"


@pytest.mark.parametrize("name", [name for name in SPOILT if name not in UNJUDGED])
def test_the_refusal_of_a_spoilt_delivery_is_in_the_ledger(deliveries: Deliveries, name: str) -> None:
    record = deliveries.records(name)[0]
    assert (record.kind, record.outcome) == ("data", "refused")
    assert [words for words in SPOILT[name].told if words not in record.reason] == []


@pytest.mark.parametrize("name", UNJUDGED)
def test_a_missing_file_is_no_refusal_nor_is_what_the_code_makes_of_a_column(deliveries: Deliveries, name: str) -> None:
    assert [record.outcome for record in deliveries.records(name)] == ["accepted"]


def test_a_spoilt_delivery_is_not_tried_again_as_it_is(deliveries: Deliveries) -> None:
    assert {deliveries.first.task(*where).tries for where in deliveries.first.errors} == {1}


def test_the_good_days_go_on_beside_the_spoilt_ones(deliveries: Deliveries) -> None:
    assert deliveries.first.state == "failed"
    for day in GOOD:
        assert deliveries.first.task("partition.snapshot", deliveries.place(day)).state == "success"
    assert sorted(event.extra["partition"] for event in deliveries.first.events) == list(GOOD)


def test_what_is_delivered_anew_is_judged_anew_and_nothing_else(deliveries: Deliveries) -> None:
    judged = [work["partition"] for work in deliveries.second.task("plan").result]
    assert judged == [DAY_OF[name] for name in SPOILT if name in MENDED]
    assert deliveries.second.state == "success"
    assert sorted(event.extra["partition"] for event in deliveries.second.events) == judged


@pytest.mark.parametrize("name", MENDED)
def test_a_mended_delivery_is_accepted(deliveries: Deliveries, name: str) -> None:
    assert deliveries.records(name)[-1].outcome == "accepted"


def test_a_day_that_arrives_while_it_is_judged_is_not_mixed(tiny: House) -> None:
    """The work names its files by hash; a file that was replaced meanwhile is an error, not another input."""
    from mlops_provider.exceptions import IntegrityError
    from mlops_provider.steps import plan
    from tests.support.tiny import call

    job = tiny.job("tiny")
    work = plan.ci(job)[0]
    spoil(tiny.data / "tiny" / DAYS[0] / "inputs.parquet", lambda frame: frame.head(600))
    with pytest.raises(IntegrityError, match=r"inputs\.parquet has changed"):
        call(job, "build_features", work=work)
    assert tiny.run("tiny", "ci").state == "success"


def test_a_suite_with_an_unknown_expectation_stops_the_day_and_is_no_verdict_on_the_data(tiny: House) -> None:
    path = tiny.include / "models" / "tiny" / "expectations" / "raw.json"
    path.write_text(path.read_text().replace("expect_column_values_to_not_be_null", "expect_column_values_to_be_nice"))
    run = tiny.run("tiny", "ci")
    assert run.state == "failed"
    assert "expectations/raw.json" in run.said()
    assert "expect_column_values_to_be_nice" in run.said()
    assert tiny.ledger("tiny") == []


def test_a_features_function_that_breaks_names_the_file(tiny: House) -> None:
    tiny.include.joinpath("models", "tiny", "features.py").write_text("import no_such_library\n")
    run = tiny.run("tiny", "ci")
    assert run.state == "failed"
    assert "tiny: features.py cannot be imported: ModuleNotFoundError: No module named 'no_such_library'" in run.said()
    assert tiny.ledger("tiny") == []


def test_a_data_repository_that_is_gone_is_worth_a_retry_and_refuses_nothing(tiny: House) -> None:
    tiny.repository.rename(tiny.repository.with_name("elsewhere.git"))
    run = tiny.run("tiny", "ci", retries=1)
    assert run.state == "failed"
    assert {task for task, _ in run.errors} == {"partition.snapshot"}
    assert "Transient: git ls-remote failed for the data repository" in run.said()
    assert run.task("partition.snapshot", 0).tries == 2
    assert tiny.ledger("tiny") == []


# --- MLflow --------------------------------------------------------------------------------------------------------


def test_with_mlflow_down_registration_is_retried_and_nothing_is_half_registered(tiny: House) -> None:
    live, tiny.mlflow = decided(tiny).mlflow, dead_url()
    run = tiny.run("tiny", "ct", retries=1)
    assert run.states() == {**dict.fromkeys(("plan", "train", "package", "evaluate"), "success"), "register": "failed"}
    assert run.task("register").tries == 2
    errors = run.errors["register", -1]
    assert [error.split(" did not answer")[0] for error in errors] == [f"Transient: MLflow at {tiny.mlflow}"] * 2
    tiny.mlflow = live
    assert tiny.registered("tiny") == {}
    assert tiny.ledger("tiny", "candidate") == []
    assert run.events == []


def test_once_mlflow_is_back_a_rerun_registers_exactly_one_version(tiny: House) -> None:
    live, tiny.mlflow = decided(tiny).mlflow, dead_url()
    tiny.run("tiny", "ct")
    tiny.mlflow = live
    for _ in range(2):
        run = tiny.run("tiny", "ct", partition=DAYS[2])
        assert run.state == "success"
    assert list(tiny.registered("tiny")) == [1]
    assert len(tiny.ledger("tiny", "candidate")) == 1
    assert tiny.run("tiny", "ct").states()["plan"] == "skipped"


def test_a_promotion_cut_off_before_the_alias_is_finished_by_the_next_run(tiny: House) -> None:
    live, tiny.mlflow = registered(tiny).mlflow, dead_url()
    run = tiny.run("tiny", "cd", retries=1)
    assert run.task("candidate.promote", 0).state == "failed"
    assert run.task("candidate.promote", 0).tries == 2
    assert [record.version for record in tiny.ledger("tiny", "promotion")] == [1]
    tiny.mlflow = live
    assert tiny.alias("tiny") is None
    assert tiny.run("tiny", "cd").state == "success"
    assert tiny.alias("tiny") == 1
    assert len(tiny.ledger("tiny", "promotion")) == 1


def test_without_a_connection_to_mlflow_the_error_names_it(tiny: House) -> None:
    tiny.changed["AIRFLOW__MLOPS__MLFLOW_CONN_ID"] = "mlflow_elsewhere"
    run = tiny.run("tiny", "ci")
    assert run.state == "failed"
    assert "mlflow_elsewhere" in run.said()


def test_what_needs_no_mlflow_does_without_a_connection_that_nobody_named(
    tiny: House,
) -> None:
    tiny.changed["AIRFLOW_CONN_MLFLOW_DEFAULT"] = None
    assert tiny.run("tiny", "ci").state == "success"


# --- the gate ------------------------------------------------------------------------------------------------------


def test_a_refusal_is_a_green_gate_a_skipped_promotion_and_one_decision(tiny: House) -> None:
    write_model(tiny.include, gates={"thresholds": {"auc": {"min": 0.999}}})
    run = registered(tiny).run("tiny", "cd")
    assert run.states() == {"plan": "success", "candidate.gate[0]": "success", "candidate.promote[0]": "skipped"}
    assert run.announced() == ["tiny.decision"]
    (record,) = tiny.ledger("tiny", "refusal", "promotion")
    assert (record.outcome, record.version) == ("below_threshold", 1)
    assert "auc" in record.reason
    assert tiny.alias("tiny") is None


def test_a_refused_candidate_is_judged_again_only_if_a_person_asks(tiny: House) -> None:
    write_model(tiny.include, gates={"thresholds": {"auc": {"min": 0.999}}})
    registered(tiny).run("tiny", "cd")
    write_model(tiny.include)
    assert tiny.run("tiny", "cd").states()["plan"] == "skipped"
    assert tiny.run("tiny", "cd", version=1).announced() == ["tiny.champion", "tiny.decision"]
    assert tiny.alias("tiny") == 1


def drilled(tiny: House) -> House:
    """A drill that the gate alone would let through: there is no champion, and any score will do."""
    write_model(tiny.include, gates={"thresholds": {"auc": {"min": 0.0}}})
    run = decided(tiny).run("tiny", "ct", partition=DAYS[2], drill="shuffled_labels")
    assert run.state == "success", run.said()
    return tiny


def test_a_drill_is_never_promoted_whatever_the_gate_says(tiny: House) -> None:
    run = drilled(tiny).run("tiny", "cd")
    assert run.state == "success"
    assert run.states()["candidate.promote[0]"] == "skipped"
    assert "tiny.champion" not in run.announced()
    assert tiny.ledger("tiny", "promotion") == []
    assert tiny.alias("tiny") is None


def test_a_drill_is_decided_once(tiny: House) -> None:
    drilled(tiny).run("tiny", "cd")
    assert [record.version for record in tiny.ledger("tiny", "refusal")] == [1]
    assert tiny.run("tiny", "cd").states()["plan"] == "skipped"


# --- the deployment ------------------------------------------------------------------------------------------------


def own_dag(**arguments: Any) -> Any:
    """A DAG of somebody's own with one step in it."""
    from airflow.sdk import DAG

    from mlops_provider.operators.base import StepOperator

    with DAG("own", schedule=None) as dag:
        StepOperator(task_id="step", model="tiny", step="refuse_data", arguments={}, **arguments)
    return dag


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("ARTIFACT_ROOT", "[mlops] artifact_root is not set"),
        ("INCLUDE_DIR", "[mlops] include_dir is not set"),
    ],
)
def test_an_operator_without_a_needed_setting_names_it_at_once(house: House, setting: str, told: str) -> None:
    house.changed[f"AIRFLOW__MLOPS__{setting}"] = ""
    run = house.tested(own_dag(), retries=1)
    assert run.task("step").tries == 1
    assert told in run.said()


def test_an_operator_with_arguments_that_do_not_fit_names_the_missing_field(tiny: House) -> None:
    run = tiny.tested(own_dag(), retries=1)
    assert run.task("step").tries == 1
    assert "RequestError: arguments of refuse_data" in run.said()
    assert "reason" in run.said()


def test_an_operator_for_a_step_that_does_not_exist_names_those_that_do(tiny: House) -> None:
    dag = own_dag()
    dag.task_dict["step"].step = "trian"
    said = tiny.tested(dag).said()
    assert "there is no step 'trian'" in said
    assert "train" in said


def test_an_environment_with_an_odd_name_is_refused(tiny: House) -> None:
    tiny.changed["AIRFLOW__MLOPS__ENVIRONMENT"] = "../prod"
    run = tiny.tested(own_dag())
    assert "is no name of an environment" in run.said()


# --- the connection ------------------------------------------------------------------------------------------------


@contextmanager
def connected(**fields: Any) -> Iterator[MlflowHook]:
    """The hook of a connection with these fields."""
    with patch.dict(os.environ, {"AIRFLOW_CONN_MLFLOW_TESTED": json.dumps({"conn_type": "mlflow", **fields})}):
        yield MlflowHook("mlflow_tested")


@pytest.mark.parametrize(
    ("fields", "uri"),
    [
        ({"host": "http://mlflow.example.com"}, "http://mlflow.example.com"),
        ({"host": "mlflow.example.com", "port": 5000}, "http://mlflow.example.com:5000"),
        ({"host": "mlflow.example.com", "schema": "https"}, "https://mlflow.example.com"),
        ({"host": "https://mlflow.example.com", "port": 8443}, "https://mlflow.example.com:8443"),
        ({"host": "http://mlflow.example.com/", "port": 5000}, "http://mlflow.example.com:5000"),
    ],
)
def test_the_hook_gives_the_address_of_the_server(airflow_home: Path, fields: dict[str, Any], uri: str) -> None:
    with connected(**fields) as hook:
        assert hook.get_conn() == MlflowAccess(uri=uri)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"host": "mlflow", "password": "s3cret"}, "password without a login"),
        ({"host": "mlflow", "login": "ann"}, "login without a password"),
        ({"host": "mlflow", "login": "ann", "password": "s3cret", "extra": {"token": "s3cret"}}, "one or the other"),
        ({"host": "http://ann:s3cret@mlflow"}, "credentials in its host"),
        ({"host": "mlflow", "extra": {"tokn": "s3cret"}}, "has tokn in its extra; known is token"),
        ({"port": 5000}, "names no host"),
        ({"host": "mlflow", "extra": {"token": "s3cret\n"}}, "is there a space or a line end in it"),
        ({"host": "mlflow", "extra": {"token": "s3crét"}}, "characters that no header may have"),
        ({"host": "mlflow", "extra": ["s3cret"]}, "has an extra that is no JSON object"),
    ],
)
def test_the_hook_refuses_a_connection_that_it_cannot_use(
    airflow_home: Path, fields: dict[str, Any], told: str
) -> None:
    with connected(**fields) as hook:
        with pytest.raises(ConfigError, match=told) as raised:
            hook.get_conn()
        assert "s3cret" not in str(raised.value)
        assert hook.test_connection()[0] is False


def test_the_hook_tells_that_a_server_is_healthy(airflow_home: Path, mlflow_server: MlflowServer) -> None:
    with connected(host=mlflow_server.url) as hook:
        assert hook.test_connection() == (True, f"MLflow at {mlflow_server.url} answers and lets us in.")


def test_the_hook_tells_that_a_server_is_down(airflow_home: Path) -> None:
    with connected(host=dead_url()) as hook:
        healthy, told = hook.test_connection()
    assert not healthy
    assert "refused" in told


@contextmanager
def babbling() -> Iterator[str]:
    """A server that speaks, but not HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


def test_the_hook_tells_that_something_else_answers(airflow_home: Path) -> None:
    with babbling() as url, connected(host=url) as hook:
        assert hook.test_connection()[0] is False


def test_the_hook_tells_that_an_address_is_none(airflow_home: Path) -> None:
    with connected(host="http://ml flow") as hook:
        assert hook.test_connection()[0] is False
