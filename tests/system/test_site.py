"""The loops in a real Airflow, driven by its REST API alone."""

from __future__ import annotations

from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from mlops_provider import report
from mlops_provider.steps.scoring.predictions import manifest
from tests.support.tiny import DAYS
from tests.system.lives import (
    Flown,
    Lives,
    Turned,
    at_once,
    candidates,
    killed_in_training,
    one_by_one,
    three_months,
    turned_back,
    while_at_work,
)
from tests.system.site import PATIENCE, SAME, Follower, Site
from tools.demo.rest import ApiError


def test_a_month_goes_through_all_loops(site: Site, lives: Lives) -> None:
    flown: Flown = lives.over(three_months)
    flights = site.model("flights_short")
    assert [line.outcome for line in flown.told.lines][:2] == ["wait", "promoted"]
    march = flown.told.lines[2]
    assert march.rows == 28_834
    assert march.scored_by == 1
    assert march.fitted == ("2013-01",)
    assert march.drifted
    assert march.quality is not None
    assert 0.6 < march.quality < 0.9
    assert march.outcome == "promoted"
    assert report.broken(flown.told) == []
    assert flown.alias == march.champion
    table = pq.read_table(flights.job.deployment.under("predictions", "flights_short", "2013-03"))
    assert set(table.column("version").to_pylist()) == {1}
    assert table.column("flight_id").null_count == 0


def test_rollback_goes_back_and_the_drill_is_refused_as_harmful(lives: Lives) -> None:
    turned: Turned = lives.over(turned_back)
    assert turned.states == ("success", "success")
    assert turned.champions == (2, 1, 1, 1)
    assert (turned.drilled.kind, turned.drilled.outcome) == ("refusal", "harmful")


def test_many_events_lead_to_the_same_as_events_one_by_one(site: Site, lives: Lives) -> None:
    for life in (one_by_one, at_once, while_at_work):
        lives.over(life)
    waits, burst, busy = (site.model(name) for name in SAME)
    expected = _outcome(waits)
    assert len(burst.runs("ci", run_type=["asset_triggered"])) < len(DAYS), (
        "Airflow merged no events: nothing was shown"
    )
    assert [step for step in expected["decisions"] if step[0] == "promotion"]
    assert [day for day, found in expected["predictions"].items() if found]
    assert _outcome(burst) == expected
    assert _outcome(busy) == expected


def test_a_killed_training_completes_and_makes_one_version(site: Site, lives: Lives) -> None:
    lives.over(killed_in_training)
    again = site.model("slow").task("ct", "train", "success")
    assert again is not None
    assert again["try_number"] > 1
    assert len(_registered(site, "slow")) == 1


def test_mlflow_down_is_retried_and_registers_once(site: Site, lives: Lives) -> None:
    lives.all_over()
    waits = site.model("waits")
    before = candidates(waits)
    assert len(_registered(site, "waits")) == len(before)
    site.services.stop_mlflow()
    try:
        run = site.api.trigger("waits.ct", {"partition": DAYS[-1], "drill": "shuffled_labels"})
        waits.until(lambda: waits.task("ct", "register", "up_for_retry"), "registration waiting for MLflow")
        assert candidates(waits) == before
    finally:
        site.services.restart_mlflow()
    assert site.api.wait_run("waits.ct", run, timeout=PATIENCE)["state"] == "success"
    made = candidates(waits)[len(before) :]
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


def _outcome(model: Follower) -> dict[str, Any]:
    """Predictions, decisions and versions, without times, places and the name of the model."""
    state = model.state()
    decided = [r for r in state.records if r.kind != "candidate"]
    return {
        "decisions": sorted(
            (r.kind, r.partition, r.version, r.outcome, r.reason.replace(model.name, "")) for r in decided
        ),
        "versions": [
            (v.version, v.split.first, v.split.last, v.split.holdout) for v in map(state.version, candidates(model))
        ],
        "predictions": {day: _scores(model, day) for day in DAYS},
    }


def _scores(model: Follower, day: str) -> list[tuple[Any, ...]]:
    found = manifest(model.job, day)
    if found is None:
        return []
    table = pq.read_table(found.table.uri, columns=["id", "score", "label", "version"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _registered(site: Site, model: str) -> list[Any]:
    answer = httpx.get(
        f"{site.services.mlflow_url}/api/2.0/mlflow/model-versions/search",
        params={"filter": f"name='{model}'"},
        trust_env=False,
    )
    return list(answer.raise_for_status().json().get("model_versions", []))
