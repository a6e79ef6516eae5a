"""Credentials of the MLflow connection reach a real server through a proxy that asks for them, and get nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from mlflow.tracking._tracking_service import utils

from mlops_provider.deployment import MlflowAccess
from mlops_provider.exceptions import AccessDenied
from mlops_provider.hooks.mlflow import MlflowHook
from mlops_provider.operators.base import mlflow_access
from mlops_provider.steps import registry
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.step import Job
from tests.integration.conftest import Houses
from tests.integration.house import House
from tests.integration.servers import Doorkeeper, MlflowServer
from tests.support.tiny import DAYS, World, call, candidate

WAYS = {
    "basic": ({"login": "ann", "password": "s3cret"}, "Basic YW5uOnMzY3JldA=="),
    "token": ({"extra": {"token": "s3cret"}}, "Bearer s3cret"),
}


@pytest.fixture(scope="module")
def house(houses: Houses) -> House:
    return houses("guarded")


@pytest.fixture(scope="module")
def world(house: House) -> World:
    """The tiny model with a candidate to register."""
    world = World(house.root / "world")
    world.create()
    world.deliver(*DAYS[:3])
    world.loops().ci()
    return world


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def door(mlflow_server: MlflowServer, way: str) -> Iterator[Doorkeeper]:
    door = Doorkeeper(mlflow_server.url, WAYS[way][1])
    yield door
    door.stop()
    # MLflow remembers by the run where a process found its artifacts: behind a door that is closed now.
    utils._artifact_repos_cache.clear()


def connected(door: Doorkeeper, **fields: object) -> MlflowAccess:
    """What a connection with these fields gives a task."""
    with patch.dict(
        os.environ, {"AIRFLOW_CONN_GUARDED": json.dumps({"conn_type": "mlflow", "host": door.url, **fields})}
    ):
        return mlflow_access("guarded")


def behind(world: World, access: MlflowAccess, prefix: str) -> Job:
    """The job of a task with this access."""
    job = world.job()
    changed = {"tracking_uri": access.uri, "mlflow": access, "registry_prefix": prefix}
    return Job(job.model, job.deployment.model_copy(update=changed))


def test_a_version_is_registered_and_fetched_again(world: World, house: House, door: Doorkeeper, way: str) -> None:
    job = behind(world, connected(door, **WAYS[way][0]), f"{house.prefix}{way}.")
    before = dict(os.environ)
    version: ModelVersion = call(job, "register", **candidate(world)).version
    with registry.client(job) as mlflow:
        found = mlflow.get_model_version(f"{house.prefix}{way}.tiny", str(version.version))
        place = mlflow.download_artifacts(version.run_id, "model", str(world.root))
    assert found.tags[registry.FINGERPRINT] == version.fingerprint
    assert {"MLmodel", "model.onnx", "model.txt"} <= set(os.listdir(place))
    assert {status for *_, status in door.calls} <= {200, 404}
    assert any("/mlflow-artifacts/" in path and method == "PUT" for method, path, _ in door.calls)
    left = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert "s3cret" not in json.dumps(left)
    assert "s3cret" not in version.model_dump_json()


def test_the_button_tests_the_credentials_and_not_the_health_page(door: Doorkeeper, way: str) -> None:
    for fields, good in ((WAYS[way][0], True), ({}, False), ({"login": "ann", "password": "wr0ng"}, False)):
        given = json.dumps({"conn_type": "mlflow", "host": door.url, **fields})
        with patch.dict(os.environ, {"AIRFLOW_CONN_GUARDED": given}):
            passed, told = MlflowHook("guarded").test_connection()
        assert passed is good
        assert "s3cret" not in told + str(door.url)
        assert ("lets us in" if good else "refused us with status 401") in told


def test_wrong_credentials_fail_at_once_and_say_where(world: World, door: Doorkeeper) -> None:
    job = behind(world, connected(door, login="ann", password="wr0ng"), "refused.")
    made = candidate(world)
    with pytest.raises(AccessDenied, match="refused us with status 401") as caught:
        call(job, "register", **made)
    assert door.url in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    assert [status for *_, status in door.calls] == [401]
