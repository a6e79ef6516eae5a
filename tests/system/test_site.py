"""The loops in a real Airflow, driven by its REST API alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from mlops_provider import report
from mlops_provider.ledger import Record
from mlops_provider.steps.scoring.predictions import manifest
from tests.support.tiny import DAYS
from tests.system.conftest import PATIENCE, SAME, Follower, Site
from tools.demo.rest import ApiError


def three_months(site: Site) -> None:
    flights = site.model("flights_short")
    for month in ("2013-01", "2013-02", "2013-03"):
        flights.live(month)


def five_days_three_times(site: Site) -> None:
    """One model gets its days one by one, one all at once, one while it is at work."""
    waits, burst, busy = (site.model(name) for name in SAME)
    _post_at_once(burst)
    _post_while_running(busy)
    for day in DAYS:
        waits.live(day)
    for model in (burst, busy):
        model.settle(DAYS[-1])


def killed_in_training(site: Site) -> None:
    """The model watches its data: nobody announces the files that wake its loops."""
    slow = site.model("slow")
    site.api.parse_again("slow.ci", "slow.score")  # Airflow watches from the next time on that it reads a DAG's file
    for day in DAYS[:2]:
        for what in ("inputs", "labels"):
            slow.put(day, what)
    task = slow.until(lambda: slow.task("ct", "train", "running"), "training")
    os.kill(int(slow.until(lambda: _pid(slow, task), "training under way")), signal.SIGKILL)
    slow.settle(DAYS[1])


LIVES: dict[str, Callable[[Site], None]] = {
    "test_a_month_goes_through_all_loops": three_months,
    "test_many_events_lead_to_the_same_as_events_one_by_one": five_days_three_times,
    "test_a_killed_training_completes_and_makes_one_version": killed_in_training,
}


@pytest.fixture(scope="module")
def lives(request: pytest.FixtureRequest, site: Site) -> Iterator[dict[str, Future[None]]]:
    """What the tests look at goes on side by side: a loop mostly waits, for a scheduler, a clock or a retry."""
    asked = {item.name for item in request.session.items}
    with ThreadPoolExecutor(2) as pool:  # more would only wait for the one writer that SQLite takes
        yield {name: pool.submit(life, site) for name, life in LIVES.items() if name in asked}


@pytest.fixture
def lived(request: pytest.FixtureRequest, lives: dict[str, Future[None]]) -> None:
    """What the test looks at is over."""
    lives[request.node.name].result()


@pytest.mark.usefixtures("lived")
def test_a_month_goes_through_all_loops(site: Site) -> None:
    flights = site.model("flights_short")
    told = report.story(flights.job)
    assert [line.outcome for line in told.lines][:2] == ["wait", "promoted"]
    march = told.lines[2]
    assert march.rows == 28_834
    assert march.scored_by == 1
    assert march.fitted == ("2013-01",)
    assert march.drifted
    assert march.quality is not None
    assert 0.6 < march.quality < 0.9
    assert march.outcome == "promoted"
    assert report.broken(told) == []
    flights.until(lambda: _registry_champion(site, "flights_short") == march.champion, "the alias follows the ledger")
    table = pq.read_table(flights.job.deployment.under("predictions", "flights_short", "2013-03"))
    assert set(table.column("version").to_pylist()) == {1}
    assert table.column("flight_id").null_count == 0


def test_rollback_goes_back_and_the_drill_is_refused_as_harmful(site: Site) -> None:
    flights = site.model("flights_short")
    before = flights.state().champion
    assert before is not None
    assert before.version == 2
    assert flights.trigger("rollback", reason="a test")["state"] == "success"
    assert _champion(flights) == _registry_champion(site, "flights_short") == 1
    run = flights.trigger("ct", partition="2013-03", drill="shuffled_labels")
    assert run["state"] == "success"
    drilled = flights.until(lambda: _drill(flights), "the drill decided")
    assert (drilled.kind, drilled.outcome) == ("refusal", "harmful")
    assert _champion(flights) == 1


@pytest.mark.usefixtures("lived")
def test_many_events_lead_to_the_same_as_events_one_by_one(site: Site) -> None:
    waits, burst, busy = (site.model(name) for name in SAME)
    expected = _outcome(waits)
    assert len(burst.runs("ci", run_type=["asset_triggered"])) < len(DAYS), (
        "Airflow merged no events: nothing was shown"
    )
    assert [step for step in expected["decisions"] if step[0] == "promotion"]
    assert [day for day, found in expected["predictions"].items() if found]
    assert _outcome(burst) == expected
    assert _outcome(busy) == expected


@pytest.mark.usefixtures("lived")
def test_a_killed_training_completes_and_makes_one_version(site: Site) -> None:
    slow = site.model("slow")
    again = slow.task("ct", "train", "success")
    assert again is not None
    assert again["try_number"] > 1
    assert len(_registered(site, "slow")) == 1


def test_mlflow_down_is_retried_and_registers_once(site: Site) -> None:
    waits = site.model("waits")
    before = _candidates(waits.state())
    assert len(_registered(site, "waits")) == len(before)
    site.services.stop_mlflow()
    try:
        run = site.api.trigger("waits.ct", {"partition": DAYS[-1], "drill": "shuffled_labels"})
        waits.until(lambda: waits.task("ct", "register", "up_for_retry"), "registration waiting for MLflow")
        assert _candidates(waits.state()) == before
    finally:
        site.services.restart_mlflow()
    assert site.api.wait_run("waits.ct", run, timeout=PATIENCE)["state"] == "success"
    made = _candidates(waits.state())[len(before) :]
    assert [waits.state().version(record).drill for record in made] == ["shuffled_labels"]
    assert len(_registered(site, "waits")) == len(before) + 1


def test_bad_conf_is_refused_by_the_api_and_unknown_conf_by_plan(site: Site) -> None:
    waits = site.model("waits")
    with pytest.raises(ApiError) as refused:
        waits.trigger("ci", partition="yesterday")
    assert refused.value.status == 400
    assert "yesterday" in str(refused.value)
    run = waits.trigger("ci", partitoin="2024-01-01")
    assert run["state"] == "failed"
    assert "unknown key partitoin" in waits.log(run)


def test_nothing_is_broken_in_the_installation(site: Site) -> None:
    assert site.api.import_errors() == []
    assert site.api.request("GET", "/plugins/importErrors")["import_errors"] == []


def _post_at_once(model: Follower) -> None:
    """All partitions are there, and five events of each kind come within a second or so."""
    for day in DAYS:
        for what in ("inputs", "labels"):
            model.put(day, what)
    for _ in DAYS:
        model.event("inputs")
        model.event("labels")


def _post_while_running(model: Follower) -> None:
    """The first partition starts a run; the others arrive, with an event each, while it is at work."""
    model.put(DAYS[0], "inputs")
    model.put(DAYS[0], "labels")
    model.event("labels")
    model.until(lambda: model.runs("ci", state=["running"]), "a run at work")
    for day in DAYS[1:]:
        for what in ("inputs", "labels"):
            model.put(day, what)
            model.event(what)
    assert model.runs("ci", state=["running"]), "the first run ended before the last event"


def _outcome(model: Follower) -> dict[str, Any]:
    """Predictions, decisions and versions, without times, places and the name of the model."""
    state = model.state()
    decided = [r for r in state.records if r.kind != "candidate"]
    return {
        "decisions": sorted(
            (r.kind, r.partition, r.version, r.outcome, r.reason.replace(model.name, "")) for r in decided
        ),
        "versions": [
            (v.version, v.split.first, v.split.last, v.split.holdout) for v in map(state.version, _candidates(state))
        ],
        "predictions": {day: _scores(model, day) for day in DAYS},
    }


def _champion(model: Follower) -> int | None:
    champion = model.state().champion
    return champion.version if champion else None


def _candidates(state: Any) -> list[Record]:
    return [r for r in state.records if r.kind == "candidate"]


def _scores(model: Follower, day: str) -> list[tuple[Any, ...]]:
    found = manifest(model.job, day)
    if found is None:
        return []
    table = pq.read_table(found.table.uri, columns=["id", "score", "label", "version"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _drill(model: Follower) -> Record | None:
    state = model.state()
    drills = {v.version for v in map(state.version, _candidates(state)) if v.drill}
    return next((r for r in state.records if r.version in drills and r.kind in ("refusal", "promotion")), None)


def _pid(model: Follower, task: dict[str, Any]) -> int | None:
    """Process of a task, once it has one."""
    path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
    found = model.site.api.request("GET", path)["pid"]
    return int(found) if found else None


def _registry_champion(site: Site, model: str) -> int:
    answer = httpx.get(
        f"{site.services.mlflow_url}/api/2.0/mlflow/registered-models/alias",
        params={"name": model, "alias": "champion"},
        trust_env=False,
    )
    return int(answer.raise_for_status().json()["model_version"]["version"])


def _registered(site: Site, model: str) -> list[Any]:
    answer = httpx.get(
        f"{site.services.mlflow_url}/api/2.0/mlflow/model-versions/search",
        params={"filter": f"name='{model}'"},
        trust_env=False,
    )
    return list(answer.raise_for_status().json().get("model_versions", []))
