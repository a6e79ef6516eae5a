"""The main job: a year of flights, month by month, through the loops of a running Airflow, by its REST API alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops_provider.deployment import Deployment
from mlops_provider.ledger import Record, decision_on, last
from mlops_provider.loops import known_drift
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Job
from tools.demo.rest import AirflowApi
from tools.demo.services import Services

LOOPS = ("ci", "ct", "cd", "cm", "score", "rollback")
_PATIENCE = 600.0
_POLL = 0.3


class DemoError(Exception):
    """The replay came to an end that it must not come to; the message says where to look."""


class Replay:
    """Delivers what the outside world would, wakes the loops by asset events, and waits for what state says."""

    def __init__(self, services: Services, api: AirflowApi, model: str) -> None:
        self.services, self.api, self.model = services, api, model
        place = Deployment(
            artifact_root=str(services.artifacts),
            data_root=str(services.data),
            environment="demo",
            tracking_uri=services.mlflow_url,
        )
        include = Path(services.folders["include"], "models", model)
        self.job = Job(pack(include, place.environment, place.storage, place.artifact_root), place)
        self._deliver = self.job.model.function(self.job.config.data.replay or "")
        self._failed: set[str] = set()

    def run(self, partitions: list[str]) -> None:
        """Replays the partitions in their order, then the drill.

        :raises DemoError: if a run failed, or nothing happened for ten minutes.
        """
        self.api.wait_for_dags([f"{self.model}.{loop}" for loop in LOOPS])
        self._failed = {str(run["dag_run_id"]) for run in self._failures()}
        for partition in partitions:
            self._partition(partition)
            self._drill(partition)
        self._quiet()

    def _partition(self, partition: str) -> None:
        if plan.State(self.job).settled_before(partition):
            print(f"{partition}  decided in an earlier run", flush=True)
            return
        began = time.monotonic()
        self.deliver(partition, "inputs")
        if plan.State(self.job).scorable(partition):
            self._until(f"{partition} scored", lambda: manifest(self.job, partition) is not None)
        self.deliver(partition, "labels")
        self._until(f"{partition} decided", lambda: plan.State(self.job).settled(partition))
        print(f"{partition}  {self._told(partition):<70} {time.monotonic() - began:5.1f} s", flush=True)

    def deliver(self, partition: str, what: str) -> None:
        """Files first, then the event."""
        self._deliver(str(self.services.data), partition, what)
        self.api.post_asset_event(f"{self.model}.{what}", {"partition": partition})

    def _told(self, partition: str) -> str:
        records = plan.State(self.job).records
        scored, drift = manifest(self.job, partition), known_drift(self.job, partition)
        found = last(records, "promotion", "refusal", partition=partition) or last(
            records, "retrain", "data", partition=partition
        )
        parts = [f"{scored.rows:,} rows scored by v{scored.version}" if scored else "not scored"]
        parts += [f"{len(drift['columns'])} columns drifted"] if drift else []
        parts += [found.outcome.replace("_", " ") + (f" v{found.version}" if found.version else "")] if found else []
        return ", ".join(parts)

    def _drill(self, partition: str) -> None:
        """Once: a candidate trained on shuffled labels, which the gate must refuse as harmful.

        It needs a holdout that the champion has not seen, so it comes after the first month whose candidate was refused.
        """
        champion = plan.State(self.job).champion
        if self._drilled() or champion is None or champion.seen_until >= partition:
            return
        began = time.monotonic()
        self.api.trigger(f"{self.model}.ct", {"partition": partition, "drill": "shuffled_labels"})
        self._until("drill decided", lambda: self._drilled() is not None)
        found = self._drilled()
        assert found is not None
        told = f"drill: shuffled labels, v{found.version} refused as {found.outcome.replace('_', ' ')}"
        print(f"{partition}  {told:<70} {time.monotonic() - began:5.1f} s", flush=True)

    def _drilled(self) -> Record | None:
        """The decision on a drill, once there is one."""
        state = plan.State(self.job)
        versions = (state.version(r) for r in state.records if r.kind == "candidate")
        decisions = (decision_on(state.records, v.version) for v in versions if v.drill)
        return next((found for found in decisions if found), None)

    def _quiet(self) -> None:
        """Waits until no run is queued or running: what was decided is also written through."""
        self._until("all runs ended", lambda: not self.api.runs(state=["queued", "running"], limit=1))
        self._no_failure("at the end")

    def _until(self, what: str, reached: Callable[[], bool]) -> None:
        """Waits for a state; a failed run, a dead service or ten minutes end the wait."""
        began = time.monotonic()
        with _status_line() as show:
            while not reached():
                self.services.check()
                self._no_failure(what)
                if time.monotonic() - began > _PATIENCE:
                    raise DemoError(f"{what}: not reached after {_PATIENCE:.0f} s; logs are under {self.services.logs}")
                show(lambda: f"{what.split()[0]}  {self._now()}")
                time.sleep(_POLL)

    def _no_failure(self, what: str) -> None:
        if bad := [run for run in self._failures() if run["dag_run_id"] not in self._failed]:
            raise DemoError(f"{what}: {self._post_mortem(bad[0])}")

    def _now(self) -> str:
        """The tasks that run at this moment."""
        found = self.api.task_instances("~", "~", state=["running"], limit=6)
        return " ".join(f"{task['dag_id'].split('.')[-1]}.{task['task_id'].split('.')[-1]}" for task in found)

    def _failures(self) -> list[dict[str, object]]:
        return list(self.api.runs(state=["failed"], limit=20))

    def _post_mortem(self, run: dict[str, object]) -> str:
        """Which task failed, and the end of its log."""
        dag, run_id = str(run["dag_id"]), str(run["dag_run_id"])
        failed = [task for task in self.api.task_instances(dag, run_id) if task["state"] == "failed"]
        if not failed:
            return f"run {run_id} of {dag} failed without a failed task"
        task = failed[0]
        log = self.api.task_log(
            dag, run_id, task["task_id"], try_number=task["try_number"], map_index=task["map_index"]
        )
        return f"{dag}, task {task['task_id']}, run {run_id} failed:\n{log[-3000:]}"


@contextmanager
def _status_line() -> Iterator[Callable[[Callable[[], str]], None]]:
    """A line that says what is going on, on a terminal; nothing in a log file."""
    shown = [0]

    def show(text: Callable[[], str]) -> None:
        if sys.stdout.isatty():
            line = text()[:100]
            print(f"\r{line:<{shown[0]}}", end="", flush=True)
            shown[0] = len(line)

    try:
        yield show
    finally:
        if shown[0]:
            print(f"\r{'':<{shown[0]}}\r", end="", flush=True)
