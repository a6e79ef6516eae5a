"""An A/B test in a DAG of one's own: designed, waited for in the triggerer, judged once; by parquet and by SQL."""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, Asset, BaseHook

from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.hooks import sql
from mlops_provider.operators.release import ABTestOperator
from mlops_provider.steps.release import ab_design
from mlops_provider.steps.release import ab_test as ab_tests
from mlops_provider.steps.release.ab_assign import assign_all
from tests.integration.house import House, Run
from tests.support.tiny import write_model

START = dt.datetime(2020, 1, 6, tzinfo=dt.UTC)  # long past for the triggerer, which waits for nothing then
END = START + dt.timedelta(days=5)
DESIGN: dict[str, Any] = {
    "name": "new_model",
    "control": "old",
    "treatment": "{{ 'n' }}ew",
    "entity": "customer",
    "metric": {"name": "spent", "kind": "mean"},
    "baseline": {"mean": 20, "sd": 10},
    "effect": 4,
    "start": START.isoformat(),
    "end": END.isoformat(),
    "per_day": 100,
}
QUERY = "select customer, variant, sum(spent) as spent from orders where day < :until group by customer, variant"


class SqliteHook(DbApiHook):
    """A database in a file, as a provider for one would reach it."""

    conn_name_attr = "sqlite_conn_id"
    file = Path()

    def get_conn(self) -> Any:
        return sqlite3.connect(self.file)


@pytest.fixture
def tiny(house: House) -> House:
    write_model(house.include)
    return house


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[dt.datetime]:
    """What was waited for. The clock of the tests stands a day before the start, and after the wait at its end."""
    waited: list[dt.datetime] = []
    run = DateTimeTrigger.run

    async def noted(self: DateTimeTrigger) -> AsyncIterator[Any]:
        waited.append(self.moment)
        async for event in run(self):
            yield event

    monkeypatch.setattr(DateTimeTrigger, "run", noted)
    for module in (ab_design, ab_tests):
        monkeypatch.setattr(module, "now", lambda: max([START - dt.timedelta(days=1), *waited]))
    return waited


def outcomes(effect: float = 8) -> pd.DataFrame:
    customers = pd.Series([f"c-{n}" for n in range(400)])
    treated = assign_all(customers, "tiny.new_model", 0.5)
    spent = np.random.default_rng(1).normal(20, 10, 400) + effect * treated
    return pd.DataFrame({"customer": customers, "variant": np.where(treated, "new", "old"), "spent": spent})


def deliver(house: House, frame: pd.DataFrame) -> str:
    frame.to_parquet(house.data / "outcomes.parquet")
    return "outcomes.parquet"


def ran(house: House, **given: Any) -> Run:
    with DAG("own_ab_test", schedule=None) as dag:
        announced = Asset(name="tiny.ab_test", uri="x-mlops://local/tiny/ab_test", group="mlops")
        ABTestOperator(task_id="ab_test", model="tiny", outlets=[announced], **{"design": DESIGN, **given})
    return house.tested(dag)


def test_a_test_is_designed_waited_for_and_judged(tiny: House, waits: list[dt.datetime]) -> None:
    run = ran(tiny, outcomes=deliver(tiny, outcomes()))
    assert run.state == "success", run.said()
    assert waits == [END]
    found = run.task("ab_test").result
    assert (found["decision"], found["control"]["version"], found["treatment"]["version"]) == (
        "treatment better",
        "old",
        "new",
    )
    (event,) = run.events
    assert event.extra["decision"] == "treatment better"


def test_the_verdict_stands_in_the_next_run_too(
    tiny: House, waits: list[dt.datetime], caplog: pytest.LogCaptureFixture
) -> None:
    first = ran(tiny, outcomes=deliver(tiny, outcomes())).task("ab_test").result
    with caplog.at_level(logging.WARNING, logger="mlops_provider"):
        again = ran(tiny, outcomes=deliver(tiny, outcomes(-8)), design="new_model", force=True)
    assert again.task("ab_test").result == first
    assert len(waits) == 1
    assert "the outcomes have changed since, the verdict stands" in caplog.text


def test_outcomes_come_from_a_query_with_bound_values(
    tiny: House, waits: list[dt.datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteHook, "file", tiny.root / "orders.db")
    parts = pd.concat([part.assign(spent=part["spent"] / 2, day=day) for day in (1, 2) for part in [outcomes()]])
    noise = outcomes(-900).assign(day=9)
    with sqlite3.connect(SqliteHook.file) as database:
        pd.concat([parts, noise]).to_sql("orders", database, index=False)
    asked: list[str] = []

    def get_hook(conn_id: str, **_: Any) -> SqliteHook:
        asked.append(conn_id)
        return SqliteHook()

    monkeypatch.setattr(BaseHook, "get_hook", get_hook)
    given = {"sql": QUERY, "conn_id": "{{ 'ware' }}house", "parameters": {"until": "{{ 9 }}"}}
    for _ in range(2):
        run = ran(tiny, **given)
        assert run.state == "success", run.said()
        assert run.task("ab_test").result["decision"] == "treatment better"
    assert asked == ["warehouse"], "there is a verdict: nobody asks the database again"
    table = run.task("ab_test").result["outcomes"]["uri"]
    assert table.startswith(str(tiny.artifacts / "ab_tests" / "tiny" / "new_model" / "outcomes"))
    assert list(pd.read_parquet(table)) == ["customer", "variant", "spent"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("select 1 as customer, 'old' as variant", "lacks the column 'spent'"),
        ("select 1 as customer, 2 as customer, 'old' as variant, 1 as spent", "has more than one column 'customer'"),
        ("select 1 as customer, 'old' as variant, 1 as spent where false", "gave no rows"),
        (
            "select column1 as customer, 'old' as variant, 1 as spent from (values (1), ('a'))",
            "column 'customer' has values that Arrow has no type for",
        ),
        (
            "select column1 as customer, 'old' as variant, 1 as spent from (values (1), (2), ('a'))",
            "has a column of several types: cast it in the query",
        ),
    ],
)
def test_a_query_that_gives_no_outcomes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, told: str
) -> None:
    monkeypatch.setattr(BaseHook, "get_hook", lambda *_, **__: SqliteHook())
    monkeypatch.setattr(SqliteHook, "file", tmp_path / "orders.db")
    monkeypatch.setattr(sql, "_CHUNK", 2)
    with pytest.raises(DataError, match=f"the query on connection 'warehouse':? {told}"):
        sql.queried("warehouse", rows, None, ["customer", "variant", "spent"])


def test_a_long_result_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHook, "get_hook", lambda *_, **__: SqliteHook())
    monkeypatch.setattr(SqliteHook, "file", tmp_path / "orders.db")
    monkeypatch.setattr(sql, "_CHUNK", 2)
    rows = "select column1 as a, column1 * 1.5 as b, 7 as c from (values (1), (2), (3), (4), (5)) where column1 > ?"
    found = sql.queried("warehouse", rows, [1], ["b", "a"])
    assert found.to_pydict() == {"b": [3.0, 4.5, 6.0, 7.5], "a": [2, 3, 4, 5]}


def test_a_connection_to_no_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHook, "get_hook", lambda *_, **__: BaseHook())
    with pytest.raises(ConfigError, match="connection 'mail' is no SQL connection: its hook BaseHook is no DbApiHook"):
        sql.queried("mail", QUERY, None, [])


def test_personal_data_is_not_written_under_the_artifact_root(tiny: House, waits: list[dt.datetime]) -> None:
    write_model(tiny.include, data={"pii": ["customer"]})
    assert "data.pii names customer" in ran(tiny, sql=QUERY, conn_id="warehouse").said()


def test_what_has_no_verdict_fails_at_once_and_says_why(tiny: House, waits: list[dt.datetime]) -> None:
    run = ran(tiny, outcomes=deliver(tiny, outcomes().head(100)))
    assert run.state == "failed"
    assert "Refused: A/B test new_model: no verdict" in run.said()
    assert "the horizon is not reached" in run.said()
    assert run.events == []


@pytest.mark.parametrize("given", [{"outcomes": "x", "sql": QUERY, "conn_id": "y"}, {"sql": QUERY}])
def test_one_source_of_outcomes_is_asked_for(tiny: House, given: dict[str, Any]) -> None:
    assert "RequestError: ab_test: give outcomes, or sql and conn_id, and not both" in ran(tiny, **given).said()


def test_a_design_that_cannot_reach_its_horizon_fails_before_it_begins(tiny: House, waits: list[dt.datetime]) -> None:
    run = ran(tiny, outcomes="nowhere.parquet", design={**DESIGN, "per_day": 10})
    assert "They would show an effect of" in run.said()
    assert waits == []


def test_nothing_of_the_query_is_templated(tiny: House) -> None:
    task = ABTestOperator(task_id="made", model="tiny", design="x", sql="select {{ word }}", conn_id="c")
    task.render_template_fields({"word": "rendered"})
    assert task.sql == "select {{ word }}"
