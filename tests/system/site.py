"""The installation that the system tests share, its models, and how a test follows one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from mlops_provider.deployment import Deployment
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job
from tests.support.tiny import feed, write_model
from tools.demo.environment import REPOSITORY
from tools.demo.rest import AirflowApi
from tools.demo.services import Services

CLOCKED = ("ci", "ct", "cd", "cm", "score")
LOOPS = (*CLOCKED, "rollback")
SAME = ("waits", "burst", "busy")  # models of one content
TINY = (*SAME, "slow")
CODED = "coded"  # a model whose code lies in a repository of its own
PATIENCE = 480.0


@dataclass
class Site:
    """The running installation."""

    services: Services
    api: AirflowApi
    waking: Lock = field(default_factory=Lock)

    def model(self, name: str) -> Follower:
        """A model whose loops are at work. One model wakes after the other: SQLite takes one writer at a time."""
        found = Follower(self, name)
        with self.waking:
            if not found.awake():
                self.api.unpause(f"{name}.%")
                found.until(found.awake, "awake")
        return found


@dataclass
class Follower:
    """One model of the installation: delivers its data, wakes its loops by REST, waits for what state says."""

    site: Site
    name: str

    @cached_property
    def job(self) -> Job:
        services = self.site.services
        place = Deployment(
            artifact_root=str(services.artifacts),
            data_root=str(services.data),
            environment="demo",
            tracking_uri=services.mlflow_url,
        )
        directory = services.folders["include"] / "models" / self.name
        return Job(pack(directory, place.environment, place.storage, place.artifact_root), place)

    def state(self) -> plan.State:
        return plan.State(self.job)

    def awake(self) -> bool:
        """Whether each loop has made up for the last tick of its clock, as it does when it is first put to work."""
        done = {run["dag_id"] for run in self.site.api.runs(dag_id_prefix_pattern=f"{self.name}.", state=["success"])}
        return done >= {f"{self.name}.{loop}" for loop in CLOCKED}

    def put(self, partition: str, what: str) -> None:
        """The files alone, without an event."""
        data = self.site.services.data
        if self.name in TINY:
            feed.deliver(str(data / self.name), partition, what)
        else:
            self.job.model.function("feed.py:deliver")(str(data), partition, what)

    def event(self, what: str) -> None:
        self.site.api.post_asset_event(f"{self.name}.{what}")

    def live(self, partition: str) -> None:
        """One partition as it comes in life, each stage waited for."""
        self.put(partition, "inputs")
        self.event("inputs")
        if self.state().scorable(partition):
            self.until(lambda: manifest(self.job, partition) is not None, f"{partition} scored")
        self.put(partition, "labels")
        self.event("labels")
        self.settle(partition)

    def settle(self, partition: str) -> None:
        self.until(lambda: self.state().settled_before(partition), f"{partition} settled")

    def until(self, reached: Callable[[], Any], what: str) -> Any:
        """Waits for a state; fails soon if a run of the model fails."""
        deadline = time.monotonic() + PATIENCE
        for look in count():
            if found := reached():
                break
            assert time.monotonic() < deadline, f"{self.name}: {what} was not reached in {PATIENCE:.0f} s"
            if look % 10 == 9:
                self.none_failed(what)
            time.sleep(1)
        return found

    def none_failed(self, what: str) -> None:
        failed = self.site.api.runs(dag_id_prefix_pattern=f"{self.name}.", state=["failed"])
        assert not failed, f"{self.name}: {what}: {self.log(failed[0])[-3_000:]}"

    def runs(self, loop: str, **filters: Any) -> list[dict[str, Any]]:
        return self.site.api.runs(f"{self.name}.{loop}", **filters)

    def task(self, loop: str, task_id: str, state: str) -> dict[str, Any] | None:
        """A task instance of the model in this state, if there is one."""
        found = self.site.api.task_instances(f"{self.name}.{loop}", "~", state=[state])
        return next((task for task in found if task["task_id"] == task_id), None)

    def log(self, run: dict[str, Any]) -> str:
        tasks = self.site.api.task_instances(run["dag_id"], run["dag_run_id"])
        failed = next(task for task in tasks if task["state"] == "failed")
        return self.site.api.task_log(
            run["dag_id"],
            run["dag_run_id"],
            failed["task_id"],
            try_number=failed["try_number"],
            map_index=failed["map_index"],
        )

    def trigger(self, loop: str, **conf: Any) -> dict[str, Any]:
        """Starts a run and waits for its end."""
        dag = f"{self.name}.{loop}"
        return self.site.api.wait_run(dag, self.site.api.trigger(dag, conf), timeout=PATIENCE, poll=1)


def write_models(include: Path) -> Path:
    """The models: tiny ones with places of their own, and a variant of the real flights that trains after one month."""
    for name in TINY:
        changes: dict[str, Any] = {
            "data": {
                "source": f"{name}/tiny/{{partition}}/inputs.parquet",
                "history": {"sites": f"{name}/sites.parquet"},
                "label": {"source": f"{name}/tiny/{{partition}}/labels.parquet"},
                "dvc": {"path": name},
            }
        }
        if name in SAME:
            changes["training"] = {"window": {"minimum": 3}}
        if name == "slow":
            changes["data"]["watch"] = {"poll": "1s"}
            changes["training"] = {"rounds": 12_000, "window": {"minimum": 1}}
        write_model(include, name=name, **changes)
    coded = write_model(
        include,
        name=CODED,
        data={"dvc": {"path": CODED}, "code": {"repository": "code.git", "refs": "main|[0-9a-f]{40}"}},
    )
    coded.joinpath("tests").mkdir()
    coded.joinpath("tests", "test_it.py").write_text("def test_it(): pass\n")
    shutil.copytree(REPOSITORY / "include" / "models" / "flight_delays", include / "models" / "flight_delays")
    variant = {
        "extends": "../flight_delays/model.yaml",
        "name": "flights_short",
        "features": {"optional": ["carrier_late_7d"]},  # in the first month, which it is trained on, there is no past
        "training": {"rounds": 60, "window": {"minimum": 1}},
    }
    include.joinpath("models", "flights_short").mkdir()
    include.joinpath("models", "flights_short", "model.yaml").write_text(yaml.safe_dump(variant))
    return include
