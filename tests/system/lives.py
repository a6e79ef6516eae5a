"""What models live through in the installation, side by side: a loop mostly waits, for a scheduler, a clock or a retry."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx

from mlops_provider import report
from mlops_provider.ledger import Record
from tests.support.tiny import DAYS
from tests.system.site import Follower, Site


@dataclass(frozen=True)
class Flown:
    """What was found after three months of flights.

    :param alias: the champion, as the registry names it.
    """

    told: report.Story
    alias: int


@dataclass(frozen=True)
class Turned:
    """What was found after a rollback, and after the drill that followed it.

    :param champions: before the rollback, after it by the ledger, after it by the registry, after the drill.
    """

    states: tuple[str, str]
    champions: tuple[int | None, ...]
    drilled: Record


def three_months(site: Site, lives: Lives) -> Flown:
    flights = site.model("flights_short")
    for month in ("2013-01", "2013-02", "2013-03"):
        flights.live(month)
    told = report.story(flights.job)
    champion = told.lines[-1].champion
    flights.until(lambda: registry_champion(site, "flights_short") == champion, "the alias follows the ledger")
    return Flown(told, registry_champion(site, "flights_short"))


def turned_back(site: Site, lives: Lives) -> Turned:
    lives.over(three_months)
    flights = site.model("flights_short")
    before = champion(flights)
    rolled = flights.trigger("rollback", reason="a test")["state"]
    after = (champion(flights), registry_champion(site, "flights_short"))
    run = flights.trigger("ct", partition="2013-03", drill="shuffled_labels")["state"]
    drilled = flights.until(lambda: _drill(flights), "the drill decided")
    return Turned((rolled, run), (before, *after, champion(flights)), drilled)


def one_by_one(site: Site, lives: Lives) -> None:
    waits = site.model("waits")
    for day in DAYS:
        waits.live(day)


def at_once(site: Site, lives: Lives) -> None:
    """All partitions are there, and five events of each kind come within a second or so."""
    burst = site.model("burst")
    for day in DAYS:
        for what in ("inputs", "labels"):
            burst.put(day, what)
    for _ in DAYS:
        burst.event("inputs")
        burst.event("labels")
    burst.settle(DAYS[-1])


def while_at_work(site: Site, lives: Lives) -> None:
    """The first partition starts a run; the others arrive, with an event each, while it is at work."""
    busy = site.model("busy")
    busy.put(DAYS[0], "inputs")
    busy.put(DAYS[0], "labels")
    busy.event("labels")
    busy.until(lambda: busy.runs("ci", state=["running"]), "a run at work")
    for day in DAYS[1:]:
        for what in ("inputs", "labels"):
            busy.put(day, what)
            busy.event(what)
    assert busy.runs("ci", state=["running"]), "the first run ended before the last event"
    busy.settle(DAYS[-1])


def killed_in_training(site: Site, lives: Lives) -> None:
    """The model watches its data: nobody announces the files that wake its loops."""
    slow = site.model("slow")
    site.api.parse_again("slow.ci", "slow.score")  # Airflow watches from the next time on that it reads a DAG's file
    for day in DAYS[:2]:
        for what in ("inputs", "labels"):
            slow.put(day, what)
    task = slow.until(lambda: slow.task("ct", "train", "running"), "training")
    os.kill(int(slow.until(lambda: _pid(slow, task), "training under way")), signal.SIGKILL)
    slow.settle(DAYS[1])


Life = Callable[[Site, "Lives"], Any]
LIVES: dict[str, tuple[Life, ...]] = {
    "test_a_month_goes_through_all_loops": (three_months,),
    "test_rollback_goes_back_and_the_drill_is_refused_as_harmful": (three_months, turned_back),
    "test_many_events_lead_to_the_same_as_events_one_by_one": (one_by_one, at_once, while_at_work),
    "test_a_killed_training_completes_and_makes_one_version": (killed_in_training,),
    "test_mlflow_down_is_retried_and_registers_once": (one_by_one,),
}


class Lives:
    """What these tests look at, under way."""

    def __init__(self, site: Site, tests: list[str]) -> None:
        self.site = site
        self._wanted = dict.fromkeys(life for name, lives in LIVES.items() if name in tests for life in lives)
        self._futures: dict[Life, Future[Any]] = {}

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(max(1, len(self._wanted)))
        for life in self._wanted:
            self._futures[life] = self._pool.submit(life, self.site, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def over(self, life: Life) -> Any:
        """Waits for the end of a life, and returns what it found."""
        return self._futures[life].result()

    def all_over(self) -> None:
        for life in self._futures:
            self.over(life)


def champion(model: Follower) -> int | None:
    found = model.state().champion
    return found.version if found else None


def registry_champion(site: Site, model: str) -> int:
    answer = httpx.get(
        f"{site.services.mlflow_url}/api/2.0/mlflow/registered-models/alias",
        params={"name": model, "alias": "champion"},
        trust_env=False,
    )
    return int(answer.raise_for_status().json()["model_version"]["version"])


def candidates(model: Follower) -> list[Record]:
    return [r for r in model.state().records if r.kind == "candidate"]


def _drill(model: Follower) -> Record | None:
    state = model.state()
    drills = {v.version for v in map(state.version, candidates(model)) if v.drill}
    return next((r for r in state.records if r.version in drills and r.kind in ("refusal", "promotion")), None)


def _pid(model: Follower, task: dict[str, Any]) -> int | None:
    """Process of a task, once it has one."""
    path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
    found = model.site.api.request("GET", path)["pid"]
    return int(found) if found else None
