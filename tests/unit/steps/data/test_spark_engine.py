"""The same suite on Spark, in a local session: the same verdict as in one pass on one machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.config import load
from mlops_provider.exceptions import ConfigError, DataError, IntegrityError
from mlops_provider.steps.data import judge
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.suite import Suite
from mlops_provider.steps.data.suite import load as load_suite
from mlops_provider.storage import Storage
from tests.support.tiny import World, call, write_model

FRAME = pd.DataFrame({"id": range(40), "age": [10.0, None] * 20, "name": ["ann", "bob", None, "eve"] * 10})


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="Spark is not tried: the extra spark is not installed")
    if not shutil.which("java"):
        pytest.skip("Spark is not tried: there is no Java")
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")


def suite(*expectations: tuple[str, dict[str, Any]]) -> Suite:
    listed = [{"type": f"expect_{name}", "kwargs": kwargs} for name, kwargs in expectations]
    return load_suite(json.dumps({"name": "test", "expectations": listed}).encode(), "test.json")


SUITE = suite(
    ("table_row_count_to_be_between", {"min_value": 1, "max_value": 39}),
    ("column_values_to_not_be_null", {"column": "age", "mostly": 0.4}),
    ("column_values_to_be_in_set", {"column": "name", "value_set": ["ann", "bob"]}),
    ("column_values_to_be_between", {"column": "age", "min_value": 0, "max_value": 20}),
    ("column_mean_to_be_between", {"column": "age", "min_value": 9, "max_value": 11}),
    ("column_values_to_be_unique", {"column": "id"}),
    ("column_values_to_not_be_null", {"column": "absent"}),
)


def on_spark(found: Suite, dataset: Dataset) -> judge.Judged:
    from mlops_provider.steps.data import spark_engine

    return spark_engine.evaluate(found, dataset, "id")


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_verdict_is_the_one_of_one_machine(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    FRAME.to_parquet(path) if kind == "parquet" else FRAME.to_csv(path, index=False)
    dataset = Dataset(Storage(), str(path))
    there = on_spark(SUITE, dataset).verdict("test", "id", frozenset()).checks
    here = judge.evaluate(SUITE, dataset, "id").verdict("test", "id", frozenset()).checks
    assert [(c.name, c.state, c.value) for c in there[:-1]] == [(c.name, c.state, c.value) for c in here[:-1]]
    assert there[-1].state == here[-1].state == "error"
    of_names = next(c for c in there if c.name == "column_values_to_be_in_set")
    assert of_names.unexpected is not None
    assert of_names.unexpected.count == 10
    assert {row["name"] for row in of_names.unexpected.examples} == {"eve"}
    assert {row["id"] for row in of_names.unexpected.examples} == set(range(3, 40, 4))


@pytest.mark.usefixtures("spark")
def test_a_nan_is_a_missing_value(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "age": [1.0, float("nan"), None, 2.0]}), tmp_path / "x.parquet")
    asked = suite(
        ("column_values_to_not_be_null", {"column": "age"}),
        ("column_max_to_be_between", {"column": "age", "max_value": 3}),
        ("column_values_to_be_between", {"column": "age", "max_value": 3}),
    )
    dataset = Dataset(Storage(), str(tmp_path / "x.parquet"))
    there = on_spark(asked, dataset).verdict("test", "id", frozenset()).checks
    here = judge.evaluate(asked, dataset, "id").verdict("test", "id", frozenset()).checks
    assert [(c.name, c.state, c.value) for c in there] == [(c.name, c.state, c.value) for c in here]
    assert [c.state for c in there] == ["fail", "pass", "pass"]


@pytest.mark.usefixtures("spark")
def test_a_sum_under_a_condition_that_no_row_fits_is_an_error(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "rows.parquet")
    asked = suite(
        *(
            (
                "column_sum_to_be_between",
                {"column": "age", "max_value": 300, "row_condition": rows, "condition_parser": how},
            )
            for rows, how in (("age > 5", "spark"), ("age > 99", "spark"))
        )
    )
    checks = on_spark(asked, Dataset(Storage(), str(tmp_path / "rows.parquet"))).verdict("x", "id", frozenset()).checks
    assert [check.state for check in checks] == ["pass", "error"]


@pytest.mark.usefixtures("spark")
def test_hidden_values_are_not_shown(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "rows.parquet")
    judged = on_spark(SUITE, Dataset(Storage(), str(tmp_path / "rows.parquet")))
    shown, hidden = (judged.verdict("test", "id", frozenset(names)).model_dump_json() for names in ((), ("name",)))
    assert '"eve"' in shown
    assert '"eve"' not in hidden
    assert "'eve'" not in hidden


@pytest.mark.usefixtures("spark")
def test_what_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.parquet"):
        on_spark(SUITE, Dataset(Storage(), str(tmp_path / "absent.parquet")))
    FRAME.head(0).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="has no rows"):
        on_spark(SUITE, Dataset(Storage(), str(tmp_path / "empty.parquet")))
    FRAME.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ConfigError, match="expect_nothing_at_all"):
        on_spark(suite(("nothing_at_all", {})), Dataset(Storage(), str(tmp_path / "rows.parquet")))


@pytest.mark.usefixtures("spark")
def test_the_engine_is_chosen_in_model_yaml(delivered: World) -> None:
    delivered.configure(data={"validation": {"engine": "spark"}})
    job = delivered.job()
    verdict = call(job, "validate", work=delivered.work("2024-01-01", job), suite="raw").verdict
    assert verdict.passed


def test_rows_are_not_put_aside_on_spark(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine spark does not put rows aside"):
        load(write_model(tmp_path, data={"validation": {"engine": "spark", "mode": "quarantine"}}))


def test_a_file_that_was_replaced_is_not_read(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "rows.parquet")
    dataset = Dataset.of(Storage(), Storage().describe(str(tmp_path / "rows.parquet")))
    dataset.verify()
    FRAME.head(3).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(IntegrityError, match=r"rows\.parquet"):
        dataset.verify()
