"""Versions of registered models and the end of runs, noticed on a real MLflow server by sensors and triggers."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import aclosing, suppress
from typing import Any
from unittest.mock import patch

import pytest
from airflow.triggers.base import BaseEventTrigger
from airflow.triggers.shared_stream import SharedStreamManager

from mlops_provider.sensors.training import ModelVersionSensor, TrainingRunSensor
from mlops_provider.tracking import Server
from mlops_provider.triggers.training import AwaitModelVersionTrigger, ModelVersionTrigger, RunTrigger
from tests.integration.servers import Doorkeeper, MlflowServer, free_ports
from tests.integration.test_noticing import DEFERRABLE, POLL, Memory, first, run, told_first

SOURCE = "s3://bucket/model"


class Registry:
    """The registered models of one test, under a prefix of its own."""

    def __init__(self, url: str, prefix: str) -> None:
        from mlflow import MlflowClient

        self.mlflow, self.prefix = MlflowClient(url, url), prefix
        self.pattern = f"{prefix}*"

    def version(self, name: str, **tags: str) -> int:
        """Registers one more version of a model."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            self.mlflow.create_registered_model(self.prefix + name)
        return int(self.mlflow.create_model_version(self.prefix + name, SOURCE, tags=tags).version)

    def crown(self, name: str, version: int) -> None:
        self.mlflow.set_registered_model_alias(self.prefix + name, "champion", str(version))

    def started(self) -> str:
        """Id of a run that has been started."""
        return str(self.mlflow.create_run("0").info.run_id)

    def told(self, **versions: int) -> list[dict[str, Any]]:
        return [{"model": self.prefix + name, "version": version} for name, version in sorted(versions.items())]


@pytest.fixture
def registry(mlflow_server: MlflowServer, request: pytest.FixtureRequest) -> Iterator[Registry]:
    """An Airflow whose MLflow connection leads to a real server."""
    settings = {
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server.url}),
        "AIRFLOW__MLOPS__REGISTRY_PREFIX": f"{request.node.name}.".replace("[", ".").replace("]", ""),
    }
    with patch.dict(os.environ, settings):
        yield Registry(mlflow_server.url, settings["AIRFLOW__MLOPS__REGISTRY_PREFIX"])


# --- triggers ------------------------------------------------------------------------------------------------------


def watching(registry: Registry, memory: Memory | None = None, **changes: Any) -> ModelVersionTrigger:
    trigger = ModelVersionTrigger(**{"asset": "versions", "name": registry.pattern, "poll": POLL, **changes})
    trigger.asset_state_store = memory  # type: ignore[assignment]
    return trigger


def test_a_watcher_announces_an_alias_that_moves_of_whatever_model(registry: Registry) -> None:
    for name in ("churn", "fraud"):
        registry.version(name)
    registry.crown("churn", 1)

    async def story() -> list[Any]:
        async with aclosing(watching(registry, alias="champion").run()) as events:  # type: ignore[type-var]
            told = [(await anext(events)).payload]
            registry.crown("fraud", registry.version("fraud"))
            told.append((await anext(events)).payload)
            registry.crown("churn", registry.version("churn"))
            registry.crown("fraud", 1)
            told.append((await anext(events)).payload)
            return told

    one, two, three = asyncio.run(story())
    about = {"what": "model_versions", "alias": "champion", "tag": None}
    assert one == {**about, "versions": registry.told(churn=1), "count": 1}
    assert two["versions"] == registry.told(fraud=2)
    seen = three["versions"]  # both, or first the one that was moved first
    assert seen in (registry.told(churn=2), registry.told(churn=2, fraud=1))


def test_a_watcher_announces_new_versions_and_those_with_a_tag(registry: Registry) -> None:
    registry.version("churn")
    registry.version("churn", approved="yes")
    registry.version("fraud", approved="no")
    newest = asyncio.run(first(watching(registry)))
    assert newest["versions"] == registry.told(churn=2, fraud=1)
    tagged = asyncio.run(first(watching(registry, tag="approved=yes")))
    assert tagged["versions"] == registry.told(churn=2)


def test_a_watcher_that_is_killed_goes_on_where_it_was(registry: Registry) -> None:
    memory = Memory("versions")

    async def two_events() -> list[Any]:
        async with aclosing(watching(registry, memory).run()) as events:  # type: ignore[type-var]
            told = [(await anext(events)).payload["versions"]]
            registry.version("fraud")
            return [*told, (await anext(events)).payload["versions"]]

    registry.version("churn")
    assert asyncio.run(two_events()) == [registry.told(churn=1), registry.told(fraud=1)]
    registry.version("churn")
    assert asyncio.run(first(watching(registry, memory)))["versions"] == registry.told(churn=2, fraud=1)
    others = {watching(registry, **way).cursor_key for way in ({}, {"alias": "a"}, {"tag": "a=b"}, {"name": "x"})}
    assert len(others) == 4


def test_watchers_and_sensors_of_many_models_share_one_look(registry: Registry) -> None:
    for name in ("churn", "fraud"):
        registry.version(name)
    registry.crown("fraud", 1)
    looks: list[int] = []
    real = Server.registered

    def counted(server: Server) -> dict[str, str]:
        looks.append(1)
        return real(server)

    async def story() -> list[Any]:
        manager, poll = SharedStreamManager(), 3600.0
        members: list[Any] = [
            watching(registry, poll=poll),
            watching(registry, poll=poll, alias="champion"),
            AwaitModelVersionTrigger(name=f"{registry.prefix}churn", poll=poll),
        ]
        assert len({member.shared_stream_key() for member in members}) == 1
        return await told_first(manager, members)

    with patch.object(Server, "registered", counted):
        newest, champions, awaited = asyncio.run(story())
    assert newest["versions"] == registry.told(churn=1, fraud=1)
    assert champions["versions"] == registry.told(fraud=1)
    assert awaited == {"found": registry.told(churn=1)}
    assert len(looks) == 1
    assert watching(registry, tag="a=b").shared_stream_key() != watching(registry).shared_stream_key()
    assert watching(registry, conn_id="other").shared_stream_key() != watching(registry).shared_stream_key()


TRIGGERS: list[BaseEventTrigger] = [
    ModelVersionTrigger(asset="a", name="staging.*", alias="champion", conn_id="secretive"),
    AwaitModelVersionTrigger(name="churn", tag="approved=yes", seen={"churn/1": "yes"}, conn_id="secretive"),
    RunTrigger(run_id="abc", conn_id="secretive"),
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: type(trigger).__name__)
def test_a_trigger_is_stored_without_secrets_and_comes_back_the_same(trigger: BaseEventTrigger) -> None:
    from airflow.serialization.encoders import encode_trigger

    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert (again.serialize(), again.shared_stream_key()) == ((path, kwargs), trigger.shared_stream_key())
    secret = json.dumps({"conn_type": "mlflow", "host": "mlflow", "login": "ann", "password": "a secret"})
    with patch.dict(os.environ, {"AIRFLOW_CONN_SECRETIVE": secret}):
        assert "a secret" not in json.dumps(encode_trigger(trigger), default=str)


def test_a_mistake_in_a_watcher_is_told_where_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="is no tag: give key=value"):
        ModelVersionTrigger(asset="a", tag="approved")


# --- sensors -------------------------------------------------------------------------------------------------------


@DEFERRABLE
def test_a_sensor_finds_what_no_earlier_run_found(registry: Registry, deferrable: bool) -> None:
    given = {"dag_id": f"champion_{deferrable}", "deferrable": deferrable, "model": "tiny", "alias": "champion"}
    registry.version("tiny")
    registry.crown("tiny", 1)
    assert run(ModelVersionSensor, **given).result == registry.told(tiny=1)
    late = {**given, "timeout": 0.1, "deferrable": False}
    assert run(ModelVersionSensor, **late).state == "failed"
    registry.crown("tiny", registry.version("tiny"))
    assert run(ModelVersionSensor, **given).result == registry.told(tiny=2)


@DEFERRABLE
def test_a_sensor_finds_versions_with_a_tag(registry: Registry, deferrable: bool) -> None:
    given = {
        "dag_id": f"tagged_{deferrable}",
        "deferrable": deferrable,
        "name": registry.pattern,
        "tag": "approved=yes",
    }
    registry.version("churn", approved="yes")
    assert run(ModelVersionSensor, **given).result == registry.told(churn=1)
    registry.version("churn", approved="no")
    registry.version("churn", approved="yes")
    assert run(ModelVersionSensor, **given).result == registry.told(churn=3)


@DEFERRABLE
def test_a_sensor_waits_until_a_run_has_ended(registry: Registry, deferrable: bool) -> None:
    ended, failed, running = registry.started(), registry.started(), registry.started()
    registry.mlflow.set_terminated(ended, "FINISHED")
    registry.mlflow.set_terminated(failed, "FAILED")
    given = {"dag_id": f"ended_{deferrable}", "deferrable": deferrable}
    assert run(TrainingRunSensor, **given, run_id=ended).result == {"run_id": ended, "status": "FINISHED"}
    task = run(TrainingRunSensor, **given, run_id=failed, retries=2)
    assert (task.state, task.tries) == ("failed", 1)
    assert run(TrainingRunSensor, dag_id="running", run_id=running, timeout=0.1).state == "failed"


def test_a_deferred_wait_for_a_run_ends_with_it(registry: Registry) -> None:
    run_id = registry.started()

    async def story() -> Any:
        waiting = asyncio.create_task(first(RunTrigger(run_id=run_id, poll=POLL)))
        await asyncio.sleep(5 * POLL)
        assert not waiting.done()
        registry.mlflow.set_terminated(run_id, "KILLED")
        return await waiting

    assert asyncio.run(story()) == {"found": {"run_id": run_id, "status": "KILLED"}}


def test_a_run_that_is_not_there_fails_at_once(registry: Registry) -> None:
    task = run(TrainingRunSensor, dag_id="nobody", run_id="0" * 32, retries=2)
    assert (task.state, task.tries) == ("failed", 1)
    told = asyncio.run(first(RunTrigger(run_id="0" * 32, poll=POLL)))
    assert told["hopeless"] is True
    assert "0" * 32 in told["problem"]


def test_a_server_that_refuses_us_fails_at_once_and_one_that_is_away_does_not(registry: Registry) -> None:
    door = Doorkeeper("http://127.0.0.1:1", "Bearer t0ken")
    try:
        wrong = {"conn_type": "mlflow", "host": door.url, "extra": {"token": "wr0ng"}}
        away = {"conn_type": "mlflow", "host": f"http://127.0.0.1:{free_ports(1)[0]}"}
        settings = {"AIRFLOW_CONN_WRONG": json.dumps(wrong), "AIRFLOW_CONN_AWAY": json.dumps(away)}
        with patch.dict(os.environ, settings):
            task = run(ModelVersionSensor, dag_id="refused", name="*", conn_id="wrong", retries=2)
            refused = asyncio.run(first(AwaitModelVersionTrigger(conn_id="wrong", poll=POLL)))
            lost = asyncio.run(first(AwaitModelVersionTrigger(conn_id="away", poll=POLL)))
    finally:
        door.stop()
    assert (task.state, task.tries) == ("failed", 1)
    assert (refused["hopeless"], lost["hopeless"]) == (True, False)
    assert "AccessDenied" in refused["problem"]
    assert "wr0ng" not in refused["problem"]
    assert len(door.calls) == 2


def test_a_sensor_wants_a_model_or_a_name() -> None:
    for given in ({}, {"model": "tiny", "name": "*"}):
        with pytest.raises(ValueError, match="wait: give model or name, and not both"):
            ModelVersionSensor(task_id="wait", **given)  # type: ignore[arg-type]
