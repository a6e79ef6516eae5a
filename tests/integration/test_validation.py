"""Validation as a DAG author uses it: any dataset in a DAG of one's own, and quarantine through the CI DAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG, ObjectStoragePath

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import ConfigError
from mlops_provider.operators import base as operators
from mlops_provider.operators.base import apart, with_access
from mlops_provider.operators.data import (
    BuildFeaturesOperator,
    CheckoutDataOperator,
    SnapshotDataOperator,
    ValidateDataOperator,
)
from mlops_provider.storage import Storage
from tests.integration.house import House, deliver_tiny
from tests.integration.servers import Options
from tests.integration.test_operators import tiny_work
from tests.support.tiny import DAYS, write_model

SMALL = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "a", "max_value": 50},
    "severity": "critical",
}


@pytest.fixture
def tiny(house: House) -> House:
    quarantine = {"mode": "quarantine", "max_share": 0.05}
    folder = write_model(house.include, data={"validation": quarantine})
    (folder / "expectations" / "raw.json").write_text(json.dumps({"name": "raw", "expectations": [SMALL]}))
    deliver_tiny(house, *DAYS[:3])
    return house


def spoil(house: House, rows: int) -> Path:
    """Makes `a` too large in the first rows of the first day."""
    path = house.data / "tiny" / DAYS[0] / "inputs.parquet"
    frame = pd.read_parquet(path)
    frame.assign(a=frame["a"].mask(frame.index < rows, 99.0)).to_parquet(path)
    return path


def judged(house: House, **given: Any) -> Any:
    with DAG("own_validation", schedule=None) as dag:
        ValidateDataOperator(task_id="validate", model="tiny", **given)
    return house.tested(dag)


def test_a_dataset_of_ones_own_is_judged_by_a_suite_of_ones_own(tiny: House, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: own\nexpectations:\n- {type: expect_table_row_count_to_equal, kwargs: {value: 2400}}\n")
    for day in DAYS[:2]:
        target = tmp_path / "days" / f"day={day}" / "part.parquet"
        target.parent.mkdir(parents=True)
        pq.write_table(pq.read_table(tiny.data / "tiny" / day / "inputs.parquet"), target)
    run = judged(tiny, suite=str(suite), dataset=f"file://{tmp_path}/days")
    assert run.state == "success", run.said()
    (check,) = run.task("validate").result["verdict"]["checks"]
    assert (check["value"], check["passed"]) == (2400.0, True)
    assert tiny.ledger("tiny") == []


def test_a_dataset_that_fails_fails_the_task_and_leaves_the_ledger_alone(tiny: House) -> None:
    path = spoil(tiny, rows=200)
    run = judged(tiny, suite="raw", dataset=str(path))
    assert run.state == "failed"
    assert "quarantined_rows: 200 against at most 0.05" in run.said()
    assert tiny.ledger("tiny") == []


def test_a_dataset_is_judged_versioned_and_brought_back(tiny: House, tmp_path: Path) -> None:
    pd.DataFrame({"site": ["s1", "s2"], "a": [1, 2]}).to_csv(tmp_path / "sites.csv", index=False)
    uri, name = str(tmp_path / "sites.csv"), "{{ params.name }}"
    with DAG("own_version", schedule=None, params={"name": "sites"}) as dag:
        judge = ValidateDataOperator(task_id="judge", model="tiny", suite="raw", dataset=uri)
        kept = SnapshotDataOperator(task_id="keep", model="tiny", dataset=uri, name=name, validated=[judge.output])
        CheckoutDataOperator(task_id="bring", model="tiny", version=kept.output, target=str(tmp_path / "out.csv"))
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    found = run.task("keep").result["data"]
    assert (found["rows"], found["path"]) == (2, "tiny/sites.csv")
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "sites.csv").read_text()
    assert tiny.ledger("tiny") == []


@pytest.mark.parametrize("bad", [0, 20])
def test_one_dag_serves_days_with_and_without_rows_in_quarantine(tiny: House, bad: int) -> None:
    path = spoil(tiny, rows=bad)
    with DAG("own_version", schedule=None) as dag:
        first = ValidateDataOperator(task_id="first", model="tiny", suite="raw", dataset=str(path))
        again = ValidateDataOperator(task_id="again", model="tiny", suite="raw", dataset=first.output)
        validated = [first.output, again.output]
        SnapshotDataOperator(task_id="keep", model="tiny", dataset=first.output, name="days", validated=validated)
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    assert run.task("keep").result["data"]["rows"] == 1200 - bad


def test_credentials_are_those_for_what_a_result_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(operators, "reaching", lambda uri, conn_id: asked.append(uri) or {})
    place = Deployment(artifact_root="/artifacts", data_root="/data", tracking_uri="", actor="")
    result = {"verdict": {}, "accepted": None, "dataset": {"uri": "s3://shop/orders"}}
    with_access(place, result, "s3://shop/suite.json", None)
    assert asked == ["s3://shop/orders", "s3://shop/suite.json"]


def test_the_whole_is_not_versioned_on_a_verdict_about_the_rows_that_are_left(tiny: House) -> None:
    path = str(spoil(tiny, rows=20))
    with DAG("own_version", schedule=None) as dag:
        first = ValidateDataOperator(task_id="first", model="tiny", suite="raw", dataset=path)
        SnapshotDataOperator(task_id="keep", model="tiny", dataset=path, name="days", validated=[first.output])
    run = tiny.tested(dag)
    assert run.state == "failed"
    assert "validation put rows of it into quarantine" in run.said()


def test_a_dataset_is_reached_by_the_connection_in_its_uri(
    tiny: House, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = options["s3"]
    known = {"conn_type": "aws", "login": s3["key"], "password": s3["secret"]}
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({**known, "extra": {"endpoint_url": s3["endpoint_url"]}}))
    frame = pd.DataFrame({"site": ["s1", "s2"], "a": [1, 2]})
    Storage(options).write("s3://mlops/by-connection/sites.parquet", frame.to_parquet())
    source, target = "s3://store@mlops/by-connection/sites.parquet", "s3://store@mlops/by-connection/out.parquet"
    with DAG("own_connection", schedule=None) as dag:
        ValidateDataOperator(task_id="judge", model="tiny", suite="raw", dataset=ObjectStoragePath(source))
        kept = SnapshotDataOperator(task_id="keep", model="tiny", dataset=source, name="sites")
        CheckoutDataOperator(task_id="bring", model="tiny", version=kept.output, target=target)
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    assert run.task("judge").result["dataset"]["uri"] == "s3://mlops/by-connection/sites.parquet"
    assert (
        Storage(options).describe("s3://mlops/by-connection/out.parquet").size
        == run.task("keep").result["data"]["size"]
    )


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://store@bucket/key", ("s3://bucket/key", "store")),
        ("gs://g@bucket/a@b", ("gs://bucket/a@b", "g")),
        ("s3://bucket/a@b", ("s3://bucket/a@b", "")),
        ("abfs://container@account/key", ("abfs://container@account/key", "")),
        ("/local/a@b", ("/local/a@b", "")),
        ({"uri": "s3://store@bucket/key"}, ({"uri": "s3://store@bucket/key"}, "")),
        (ObjectStoragePath("s3://store@bucket/key"), ("s3://bucket/key", "store")),
        (ObjectStoragePath("file:///local/a@b"), ("file:///local/a@b", "")),
        (ObjectStoragePath("file://disk@/local/a"), ("file:///local/a", "disk")),
    ],
)
def test_the_connection_in_a_uri_is_told_apart(uri: Any, expected: tuple[Any, str]) -> None:
    assert apart(uri) == expected


def test_two_connections_to_one_kind_of_storage_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv(
            f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "aws", "login": name, "password": "x"})
        )
    with pytest.raises(ConfigError, match=r"another connection than 'two' is in use for s3://"):
        with_access(Deployment(artifact_root="/a", data_root="/d"), "s3://one@bucket/a.csv", "s3://two@bucket/b.csv")


@pytest.mark.parametrize(
    ("more", "said"), [({}, "validated takes results of ValidateDataOperator only"), ({"dataset": None}, "Refused")]
)
def test_a_dataset_that_did_not_pass_is_not_versioned(tiny: House, more: dict[str, Any], said: str) -> None:
    path = spoil(tiny, rows=200)
    verdict = {"subject": "x", "checks": [{"name": "rows", "passed": False}]}
    about = {key: Storage().describe(str(path)).model_dump() for key in more}
    result = {"partition": "", "suite": "raw", "verdict": verdict, **about}
    with DAG("own_version", schedule=None) as dag:
        SnapshotDataOperator(task_id="keep", model="tiny", dataset=str(path), name="inputs", validated=[result])
    run = tiny.tested(dag)
    assert run.state == "failed"
    assert said in run.said()


@pytest.mark.parametrize("given", [{}, {"dataset": "x"}, {"work": {"a": 1}, "built": {"a": 1}, "dataset": "x"}])
def test_what_to_version_is_said_once(tiny: House, given: dict[str, Any]) -> None:
    with DAG("own_version", schedule=None) as dag:
        SnapshotDataOperator(task_id="keep", model="tiny", **given)
    run = tiny.tested(dag)
    assert run.state == "failed"
    assert "give work and built for a partition, or dataset and name" in run.said()


def test_neither_a_partition_nor_a_dataset_is_an_error(tiny: House) -> None:
    run = judged(tiny, suite="raw")
    assert run.state == "failed"
    assert "give work or dataset" in run.said()


def test_the_accepted_rows_are_handed_on_by_result(tiny: House) -> None:
    spoil(tiny, rows=20)
    work = tiny_work(tiny)
    with DAG("own_quarantine", schedule=None) as dag:
        first = ValidateDataOperator(task_id="first", model="tiny", suite="raw", work=work)
        ValidateDataOperator(task_id="again", model="tiny", suite="raw", dataset=first.output)
        BuildFeaturesOperator(task_id="build", model="tiny", work=work, validated=first.output)
    run = tiny.tested(dag)
    assert run.state == "success", run.said()
    assert run.task("first").result["quarantined"]["rows"] == 20
    assert [check["passed"] for check in run.task("again").result["verdict"]["checks"]] == [True]
    assert run.task("build").result["table"]["rows"] == 1180


def test_ci_versions_what_is_left(tiny: House) -> None:
    spoil(tiny, rows=20)
    run = tiny.run("tiny", "ci", partition=DAYS[0])
    assert run.state == "success", run.said()
    (record,) = tiny.ledger("tiny")
    assert record.facts["data"]["rows"] == 1180
    assert (record.facts["work"]["accepted"]["rows"], record.facts["work"]["quarantined"]) == (1180, None)
    (aside,) = (tiny.artifacts / "quarantine" / "tiny" / DAYS[0]).iterdir()
    assert set(pd.read_parquet(aside)["reason"]) == {"column_values_to_be_between (a)"}


def test_ci_records_which_rows_of_the_feature_table_were_put_aside(tiny: House) -> None:
    suite = tiny.include / "models" / "tiny" / "expectations" / "features.json"
    small = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "max_value": 2}}
    suite.write_text(json.dumps({"name": "features", "expectations": [small]}))
    run = tiny.run("tiny", "ci", partition=DAYS[0])
    assert run.state == "success", run.said()
    (record,) = tiny.ledger("tiny")
    aside = record.facts["work"]["quarantined"]["rows"]
    assert (record.facts["data"]["rows"], record.facts["work"]["accepted"]) == (1200 - aside, None)
    assert aside > 0
