"""Sensors in runs of a DAG, triggers as the triggerer runs them."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow.triggers.base import BaseEventTrigger
from airflow.triggers.shared_stream import SharedStreamManager

from mlops_provider.exceptions import ConfigError, Transient
from mlops_provider.sensors.data import DataVersionSensor, LabelsArrivedSensor, NewPartitionSensor
from mlops_provider.triggers import base
from mlops_provider.triggers import data as triggers
from mlops_provider.triggers.data import (
    DataVersionTrigger,
    LabelsArrivedTrigger,
    NewPartitionTrigger,
    PartitionTrigger,
    VersionTrigger,
)
from tests.integration.house import REPOSITORY, dag_test, parsed, stored
from tests.integration.house import _events as events_of
from tests.integration.house import _tasks as tasks_of
from tests.integration.servers import QueueServer
from tests.support.remote_shell import HOST, RemoteShell
from tests.support.tiny import DAYS, feed, write_model

POLL = 0.01


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where data is delivered to."""
    settings = {
        "AIRFLOW__MLOPS__ARTIFACT_ROOT": str(tmp_path / "artifacts"),
        "AIRFLOW__MLOPS__DATA_ROOT": str(tmp_path / "data"),
        "AIRFLOW__MLOPS__INCLUDE_DIR": str(tmp_path / "include"),
    }
    with patch.dict(os.environ, settings):
        yield tmp_path / "data"


def deliver(place: Path, day: str, content: str = "rows", name: str = "rows.parquet") -> Path:
    path = place / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# --- triggers ------------------------------------------------------------------------------------------------------


class Memory:
    """Stands for the state stores of the assets that a trigger is for."""

    def __init__(self, *assets: str) -> None:
        self.stored: dict[str, dict[str, Any]] = {name: {} for name in assets}

    def __getitem__(self, asset: Asset) -> _Store:
        return _Store(self.stored[asset.name])


class _Store:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    async def aget(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values.get(key, json.dumps(default)))

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)


def watching(memory: Memory | None = None, **changes: Any) -> NewPartitionTrigger:
    given = {"asset": "arrivals", "source": "{partition}/rows.parquet", "frequency": "daily", "poll": POLL}
    trigger = NewPartitionTrigger(**{**given, **changes})
    trigger.asset_state_store = memory  # type: ignore[assignment]
    return trigger


async def first(trigger: BaseEventTrigger) -> Any:
    """The next event of a trigger that starts anew and is killed right after it."""
    async with aclosing(trigger.run()) as events:  # type: ignore[type-var]
        return (await asyncio.wait_for(anext(events), 20)).payload


async def told_first(manager: SharedStreamManager, members: list[Any]) -> list[Any]:
    """The first event of each of several triggers that share one look, side by side."""
    streams = [
        member.filter_shared_stream(manager.subscribe(trigger_id=n, trigger=member, key=member.shared_stream_key()))
        for n, member in enumerate(members)
    ]
    found = await asyncio.wait_for(asyncio.gather(*(anext(stream) for stream in streams)), 20)
    await manager.stop_all()
    return [event.payload for event in found]


def days(payload: Any) -> list[str]:
    return list(payload["partitions"])


def test_a_watcher_announces_what_is_there_then_what_comes_and_what_is_delivered_anew(place: Path) -> None:
    async def story() -> list[list[str]]:
        told = []
        for day in DAYS[:2]:
            deliver(place, day)
        async with aclosing(watching().run()) as events:  # type: ignore[type-var]
            told.append(days((await anext(events)).payload))
            deliver(place, DAYS[2])
            told.append(days((await anext(events)).payload))
            deliver(place, DAYS[0], "rows, revised")
            told.append(days((await anext(events)).payload))
        return told

    assert asyncio.run(story()) == [list(DAYS[:2]), [DAYS[2]], [DAYS[0]]]


def test_an_event_says_what_where_and_how_many(place: Path) -> None:
    for day in DAYS[:2]:
        deliver(place, day)
    told = {"what": "inputs", "source": "{partition}/rows.parquet", "partitions": list(DAYS[:2]), "count": 2}
    assert asyncio.run(first(watching())) == told
    given = {"asset": "a", "source": "{partition}/rows.parquet", "frequency": "daily", "poll": POLL}
    assert asyncio.run(first(LabelsArrivedTrigger(**given)))["what"] == "labels"


def test_a_watcher_that_is_killed_right_after_an_event_says_it_again_and_no_earlier_one(place: Path) -> None:
    memory = Memory("arrivals")

    async def two_events() -> list[list[str]]:
        async with aclosing(watching(memory).run()) as events:  # type: ignore[type-var]
            told = [days((await anext(events)).payload)]
            deliver(place, DAYS[1])
            return [*told, days((await anext(events)).payload)]

    deliver(place, DAYS[0])
    assert days(asyncio.run(first(watching(memory)))) == [DAYS[0]]
    assert memory.stored["arrivals"] == {}
    assert asyncio.run(two_events()) == [[DAYS[0]], [DAYS[1]]]
    deliver(place, DAYS[2])
    assert days(asyncio.run(first(watching(memory)))) == [DAYS[1], DAYS[2]]


def test_the_cursor_stays_when_only_the_way_of_looking_changes(place: Path) -> None:
    memory = Memory("arrivals")

    async def two_events(trigger: NewPartitionTrigger, day: str) -> list[list[str]]:
        async with aclosing(trigger.run()) as events:  # type: ignore[type-var]
            told = [days((await anext(events)).payload)]
            deliver(place, day)
            return [*told, days((await anext(events)).payload)]

    deliver(place, DAYS[0])
    asyncio.run(two_events(watching(memory), DAYS[1]))
    deliver(place, DAYS[2], name="_SUCCESS")
    for day in DAYS[:2]:
        deliver(place, day, name="_SUCCESS")
    deliver(place, DAYS[2])
    os.utime(place / DAYS[2] / "rows.parquet", (1, 1))
    marked = watching(memory, complete="marker", poll=2 * POLL)
    assert days(asyncio.run(first(marked))) == [DAYS[1], DAYS[2]]
    assert marked.cursor_key != watching(source="other/{partition}.parquet").cursor_key


def test_a_trigger_in_the_watcher_of_another_asset_is_told(place: Path) -> None:
    deliver(place, DAYS[0])
    with pytest.raises(ConfigError, match="asset='arrivals' and stands in the watcher of another asset"):
        asyncio.run(first(watching(Memory("departures"))))


def test_watchers_and_sensors_of_one_source_share_their_looks(place: Path) -> None:
    looks: list[int] = []
    slept: list[float] = []
    real = triggers.look_out

    async def sleep(seconds: float) -> None:
        """Lets the second look begin, and never a third."""
        slept.append(seconds)
        await asyncio.sleep(0 if len(slept) == 1 else 3600)

    async def story() -> list[Any]:
        manager = SharedStreamManager()
        given = {"source": str(place / "{partition}/rows.parquet"), "frequency": "daily", "poll": POLL}
        members = [
            watching(asset="one"),
            watching(asset="two"),
            LabelsArrivedTrigger(asset="three", **given),
            PartitionTrigger(**given, after=DAYS[0]),
        ]
        assert len({member.shared_stream_key() for member in members}) == 1
        return await told_first(manager, members)

    for day in DAYS[:2]:
        deliver(place, day)
    paced = SimpleNamespace(to_thread=asyncio.to_thread, sleep=sleep)
    with (
        patch.object(base, "asyncio", paced),
        patch.object(triggers, "look_out", lambda *given: looks.append(1) or real(*given)),
    ):
        told = asyncio.run(story())
    assert [days(payload) for payload in told[:3]] == [list(DAYS[:2])] * 3
    assert told[3] == {"found": DAYS[1]}
    assert (len(looks), slept[0]) == (2, POLL)  # what one alone needs to see that a file no longer grows


def test_other_ways_of_looking_are_not_shared(place: Path) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"complete": "rows"},
        {"poll": 1.0},
        {"aws_conn_id": "other"},
        {"frequency": "monthly"},
    ]
    assert len({watching(**way).shared_stream_key() for way in ways}) == len(ways)


def test_a_look_that_fails_stops_no_watcher_and_is_told_with_its_place(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real, failed = triggers.look_out, iter([OSError("the disk is away"), PermissionError("not you")])

    def failing(*given: Any) -> dict[str, str]:
        if error := next(failed, None):
            raise error
        return real(*given)

    deliver(place, DAYS[0])
    with patch.object(triggers, "look_out", failing):
        assert days(asyncio.run(first(watching()))) == [DAYS[0]]
    assert "{partition}/rows.parquet: OSError: the disk is away" in caplog.text
    assert "PermissionError: not you" in caplog.text


@pytest.mark.parametrize(
    ("error", "looks", "hopeless"),
    [(OSError("away"), base.PATIENCE, False), (PermissionError("not you"), 1, True), (ConfigError("no"), 1, True)],
)
def test_a_sensors_trigger_gives_up_when_there_is_no_hope(
    place: Path, error: Exception, looks: int, hopeless: bool
) -> None:
    with patch.object(triggers, "look_out", side_effect=error) as looked:
        told = asyncio.run(first(PartitionTrigger(source="{partition}/rows.parquet", poll=POLL)))
    assert told == {"problem": f"{{partition}}/rows.parquet: {type(error).__name__}: {error}", "hopeless": hopeless}
    assert looked.call_count == looks


TRIGGERS: list[BaseEventTrigger] = [
    NewPartitionTrigger(asset="a", source="s3://bucket/{partition}/x.parquet", aws_conn_id="secretive"),
    LabelsArrivedTrigger(asset="a", source="s3://bucket/{partition}/", complete="marker", aws_conn_id="secretive"),
    PartitionTrigger(source="s3://bucket/{partition}/x.parquet", partition="2024-01", aws_conn_id="secretive"),
    DataVersionTrigger(asset="a", repository="https://host/data.git", tags="flights/*", conn_id="secretive"),
    VersionTrigger(repository="https://host/data.git", seen={"a": "b"}, conn_id="secretive"),
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: type(trigger).__name__)
def test_a_trigger_is_stored_without_secrets_and_comes_back_the_same(trigger: BaseEventTrigger) -> None:
    from airflow.serialization.encoders import encode_trigger

    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    assert again.shared_stream_key() == trigger.shared_stream_key()
    assert BaseEventTrigger.hash(path, kwargs) == BaseEventTrigger.hash(*again.serialize())
    secret = json.dumps({"conn_type": "aws", "login": "key", "password": "a secret"})
    with patch.dict(os.environ, {"AIRFLOW_CONN_SECRETIVE": secret}):
        assert "a secret" not in json.dumps(encode_trigger(trigger), default=str)


def test_a_mistake_in_a_watcher_is_told_where_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="must hold {partition}"):
        watching(source="rows.parquet")
    with pytest.raises(ConfigError, match="credentials go into a connection"):
        DataVersionTrigger(asset="a", repository="https://me:secret@host/data.git")


def git(*arguments: str, folder: Path) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(place: Path) -> Path:
    folder = place / "repository"
    folder.mkdir(parents=True)
    git("init", "-q", "--template=", folder=folder)
    tagged(folder, "tiny/2024-01-01/abc")
    return folder


def tagged(folder: Path, tag: str) -> str:
    git("commit", "-q", "--allow-empty", "-m", tag, folder=folder)
    git("tag", tag, folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


def test_a_watcher_announces_data_versions(repository: Path) -> None:
    async def story() -> list[Any]:
        trigger = DataVersionTrigger(asset="a", repository="repository", tags="tiny/*", poll=POLL)
        async with aclosing(trigger.run()) as events:  # type: ignore[type-var]
            told = [(await anext(events)).payload]
            tagged(repository, "other/2024-01-01/abc")
            revision = tagged(repository, "tiny/2024-01-02/abc")
            told.append((await anext(events)).payload)
        return [told[0]["versions"], told[1]["versions"], revision]

    one, two, revision = asyncio.run(story())
    assert list(one) == ["tiny/2024-01-01/abc"]
    assert two == {"tiny/2024-01-02/abc": revision}


# --- sensors -------------------------------------------------------------------------------------------------------


def run(sensor: type, *, dag_id: str, before: Any = None, **given: Any) -> Any:
    """A run of a DAG that consists of a sensor; how its task ended."""
    with DAG(dag_id, schedule=None, start_date=dt.datetime(2024, 1, 1, tzinfo=dt.UTC)) as dag:
        sensor(**{"task_id": "wait", "poke_interval": POLL, "timeout": 30, **given})
    return tasks_of(dag_test(dag, {}))["wait", -1]


SOURCE: dict[str, Any] = {"source": "{partition}/rows.parquet", "frequency": "daily"}
DEFERRABLE = pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferred"])


@pytest.mark.usefixtures("airflow_home")
@DEFERRABLE
def test_a_sensor_finds_the_next_partition_in_each_run(place: Path, deferrable: bool) -> None:
    given = {"dag_id": f"next_{deferrable}", "deferrable": deferrable, **SOURCE}
    for day in DAYS[:2]:
        deliver(place, day)
    assert [run(NewPartitionSensor, **given).result for _ in range(2)] == list(DAYS[:2])
    deliver(place, DAYS[2])
    assert run(NewPartitionSensor, **given).result == DAYS[2]


@pytest.mark.usefixtures("airflow_home")
@DEFERRABLE
def test_a_sensor_waits_for_the_partition_it_is_given(place: Path, deferrable: bool) -> None:
    for day in DAYS[:2]:
        deliver(place, day)
    given = {"dag_id": f"given_{deferrable}", "deferrable": deferrable, **SOURCE}
    found = [run(NewPartitionSensor, **given, partition=DAYS[1]).result for _ in range(2)]
    assert found == [DAYS[1], DAYS[1]]


@pytest.mark.usefixtures("airflow_home", "place")
def test_a_sensor_for_which_nothing_comes_fails_or_is_skipped() -> None:
    given = {"timeout": 0.1, **SOURCE}
    assert run(NewPartitionSensor, dag_id="late", **given).state == "failed"
    assert run(NewPartitionSensor, dag_id="soft", **given, soft_fail=True).state == "skipped"


@pytest.mark.parametrize(("soft_fail", "raised"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_a_deferred_sensor_whose_time_is_over_fails_or_is_skipped(soft_fail: bool, raised: type[Exception]) -> None:
    sensor = NewPartitionSensor(task_id="wait", soft_fail=soft_fail, **SOURCE)
    over = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    with pytest.raises(raised):
        sensor.resume_execution("__fail__", over, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(("hopeless", "raised"), [(False, Transient), (True, AirflowFailException)])
def test_a_deferred_sensor_tells_why_its_trigger_gave_up(hopeless: bool, raised: type[Exception]) -> None:
    sensor = NewPartitionSensor(task_id="wait", **SOURCE)
    with pytest.raises(raised, match="the disk is away"):
        sensor.execute_complete({}, {"problem": "the disk is away", "hopeless": hopeless})  # type: ignore[arg-type]


class Kept(dict[str, Any]):
    """Stands for the state store of a task or an asset, as a task sees it."""

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


def context(assets: dict[str, Kept], task: Kept) -> Any:
    """What a sensor needs of the context of a task."""

    class Stores:
        def __getitem__(self, asset: Asset) -> Kept:
            return assets.setdefault(asset.name, Kept())

    return {"asset_state_store": Stores(), "task_state_store": task, "dag": SimpleNamespace(dag_id="waits")}


def test_a_run_that_is_repeated_finds_the_same_again(place: Path) -> None:
    for day in DAYS[:2]:
        deliver(place, day)
    assets: dict[str, Kept] = {}
    one, two = Kept(), Kept()

    def found(run: Kept) -> Any:
        sensor = NewPartitionSensor(task_id="wait", poke_interval=0, **SOURCE)
        return sensor.execute(context(assets, run))

    assert [found(one), found(one), found(two), found(one), found(two)] == [DAYS[0], DAYS[0], DAYS[1], DAYS[0], DAYS[1]]


def test_a_sensor_that_is_rescheduled_remembers_its_last_look(place: Path) -> None:
    run, assets = Kept(), dict[str, Kept]()

    def poked() -> Any:
        return NewPartitionSensor(task_id="wait", mode="reschedule", **SOURCE).poke(context(assets, run))

    file = deliver(place, DAYS[0])
    assert not poked()
    file.write_text("rows, and more")
    assert not poked()
    assert poked().xcom_value == DAYS[0]


@pytest.mark.usefixtures("airflow_home")
def test_the_sensors_of_a_model_look_where_its_configuration_says(place: Path) -> None:
    write_model(place.parent / "include", data={"watch": {"complete": "rows", "rows": 100}})
    feed.deliver(str(place), DAYS[0], "inputs")
    given = {"model": "tiny", "timeout": 5}
    assert run(NewPartitionSensor, dag_id="of_model", **given).result == DAYS[0]
    late = {**given, "timeout": 0.1}
    assert run(LabelsArrivedSensor, dag_id="labels_of_model", **late, partition=DAYS[0]).state == "failed"
    feed.deliver(str(place), DAYS[0], "labels")
    assert run(LabelsArrivedSensor, dag_id="labels_of_model", **given, partition=DAYS[0]).result == DAYS[0]


@pytest.mark.usefixtures("airflow_home")
@DEFERRABLE
def test_a_sensor_finds_data_versions_that_no_run_found_before(repository: Path, deferrable: bool) -> None:
    given = {"dag_id": f"versions_{deferrable}", "deferrable": deferrable, "repository": "repository"}
    assert list(run(DataVersionSensor, **given, tags="tiny/*").result) == ["tiny/2024-01-01/abc"]
    tagged(repository, "other/abc")
    revision = tagged(repository, "tiny/2024-01-02/def")
    assert run(DataVersionSensor, **given, tags="tiny/*").result == {"tiny/2024-01-02/def": revision}


@pytest.fixture
def shell(repository: Path, tmp_path: Path) -> Iterator[RemoteShell]:
    """The repository behind ssh, and in [mlops] dvc_conn_id the connection that leads to it."""
    made = RemoteShell(repository.parent, tmp_path / "ssh")
    connection = {"conn_type": "dvc", "extra": {"repository": f"{HOST}:repository", "private_key": "KEY"}}
    settings = {
        "PATH": made.path,
        "AIRFLOW_CONN_TEAM_DATA": json.dumps(connection),
        "AIRFLOW__MLOPS__DVC_CONN_ID": "team_data",
    }
    with patch.dict(os.environ, settings):
        yield made


@pytest.mark.usefixtures("airflow_home")
def test_a_sensor_of_a_model_looks_where_its_snapshots_go_with_their_credentials(
    shell: RemoteShell, place: Path, repository: Path
) -> None:
    write_model(place.parent / "include", data={"dvc": {"repository": "/nowhere.git", "path": "tiny"}})
    assert list(run(DataVersionSensor, dag_id="team", model="tiny").result) == ["tiny/2024-01-01/abc"]
    assert all("IdentitiesOnly=yes" in call for call in shell.calls())
    sensor = DataVersionSensor(task_id="wait", model="tiny")
    asked = asyncio.run(first(sensor.trigger(context({}, Kept()))))
    assert list(asked["found"]) == ["tiny/2024-01-01/abc"]
    assert "IdentitiesOnly=yes" in shell.calls()[-1]


def test_a_watcher_looks_where_the_connection_says(shell: RemoteShell, repository: Path) -> None:
    trigger = DataVersionTrigger(asset="a", tags="tiny/*", poll=POLL)
    told = asyncio.run(first(trigger))
    assert list(told["versions"]) == ["tiny/2024-01-01/abc"]
    assert "IdentitiesOnly=yes" in shell.calls()[0]
    keys = {DataVersionTrigger(asset="a", **way).shared_stream_key() for way in ({}, {"conn_id": "b"}, {"tags": "b"})}
    assert len(keys) == 3


def test_another_repository_does_not_get_the_credentials_of_the_deployments_own(
    shell: RemoteShell, repository: Path
) -> None:
    url = f"ssh://{HOST}{repository}"
    for conn_id, given in ((None, False), ("team_data", True)):
        asyncio.run(first(DataVersionTrigger(asset="a", repository=url, conn_id=conn_id, poll=POLL)))
        assert ("IdentitiesOnly=yes" in shell.calls()[-1]) is given
    asyncio.run(first(DataVersionTrigger(asset="a", repository=f"{HOST}:repository", poll=POLL)))
    assert "IdentitiesOnly=yes" in shell.calls()[-1]


def test_a_trigger_without_any_repository_says_what_is_missing(place: Path) -> None:
    told = asyncio.run(first(VersionTrigger(poll=POLL)))
    assert "no data repository is given" in told["problem"]
    assert told["hopeless"] is True


@pytest.mark.usefixtures("airflow_home", "place")
@pytest.mark.parametrize("given", [{"source": "rows.parquet"}, {"model": "nobody"}, {"model": "../etc"}])
def test_what_no_waiting_can_mend_fails_at_once(given: dict[str, Any]) -> None:
    ended = run(NewPartitionSensor, dag_id="hopeless", **given, retries=3)
    assert (ended.state, ended.tries) == ("failed", 1)


def test_a_sensor_wants_a_model_or_a_source() -> None:
    for given in ({}, {"model": "tiny", "source": "{partition}"}):
        with pytest.raises(ValueError, match="wait: give model or source, and not both"):
            NewPartitionSensor(task_id="wait", **given)


# --- the ready-made DAGs -------------------------------------------------------------------------------------------


def watchers(dag: Any) -> dict[str, Any]:
    """Triggers of the watchers by asset, as the scheduler reads them from the serialized DAG."""
    from airflow.serialization.serialized_objects import DagSerialization

    back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    return {
        asset.name: [watcher.trigger for watcher in asset.watchers]
        for _, asset in back.timetable.asset_condition.iter_assets()
    }


def test_a_model_is_watched_if_its_configuration_says_so(place: Path) -> None:
    include = place.parent / "include"
    write_model(include, data={"watch": {"poll": "30s", "complete": "marker"}})
    write_model(include, name="told")
    bags = {loop: parsed(REPOSITORY / "dags" / f"{loop}.py") for loop in ("ci", "score")}
    assert {**bags["ci"].import_errors, **bags["score"].import_errors} == {}
    labels = watchers(bags["ci"].dags["tiny.ci"])["tiny.labels"]
    inputs = watchers(bags["score"].dags["tiny.score"])
    assert inputs["tiny.decision"] == []
    about = {"frequency": "daily", "complete": "marker", "marker": "_SUCCESS", "rows": 1, "poll": 30.0}
    assert labels[0]["kwargs"] == {
        **about, "asset": "tiny.labels", "source": "tiny/{partition}/labels.parquet", "aws_conn_id": None,
    }  # fmt: skip
    assert inputs["tiny.inputs"][0]["classpath"] == "mlops_provider.triggers.data.NewPartitionTrigger"
    assert watchers(bags["ci"].dags["told.ci"]) == {"told.labels": []}


# --- examples ------------------------------------------------------------------------------------------------------

EXAMPLES = REPOSITORY / "provider" / "mlops_provider" / "example_dags"


@pytest.mark.usefixtures("place")
def test_the_examples_are_parsed_and_survive_serialization() -> None:
    bag = parsed(EXAMPLES)
    assert bag.import_errors == {}
    found = {name: {asset: bool(triggers) for asset, triggers in watchers(dag).items()} for name, dag in _woken(bag)}
    assert found == {
        "example_woken_by_data": {"example_sales": True, "example_versions": True},
        "example_message_queue": {"labels_message": True},
    }


def _woken(bag: Any) -> list[tuple[str, Any]]:
    return [(name, dag) for name, dag in bag.dags.items() if getattr(dag.timetable, "asset_condition", None)]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A client and the URL of an empty queue; Airflow's connection leads to it."""
    import boto3

    server = QueueServer(tmp_path)
    try:
        server.wait()
        where = {"endpoint_url": server.url, "region_name": "eu-central-1"}
        client = boto3.client("sqs", **where, aws_access_key_id="key", aws_secret_access_key="secret")
        url = client.create_queue(QueueName="labels")["QueueUrl"]
        aws = {"conn_type": "aws", "login": "key", "password": "secret", "extra": where}
        settings = {"AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws), "AIRFLOW__MLOPS__EXAMPLE_QUEUE": url}
        with patch.dict(os.environ, settings):
            yield client, url
    finally:
        server.stop()


@pytest.mark.usefixtures("airflow_home")
def test_a_message_in_a_queue_becomes_an_event_of_the_model(queue: tuple[Any, str], place: Path) -> None:
    client, url = queue
    write_model(place.parent / "include", name="flight_delays")
    bag = parsed(EXAMPLES / "example_message_queue.py")
    assert bag.import_errors == {}
    dag = bag.dags["example_message_queue"]
    (encoded,) = watchers(dag)["labels_message"]
    module, _, name = encoded["classpath"].rpartition(".")
    client.send_message(QueueUrl=url, MessageBody="2024-01 is there")
    told = asyncio.run(first(getattr(importlib.import_module(module), name)(**encoded["kwargs"])))
    assert [message["Body"] for message in told["message_batch"]] == ["2024-01 is there"]
    stored(parsed(REPOSITORY / "dags" / "ci.py").dags["flight_delays.ci"])
    done = dag_test(dag, {})
    assert tasks_of(done)["labels", -1].state == "success"
    assert [event.asset for event in events_of(done)] == ["flight_delays.labels"]
