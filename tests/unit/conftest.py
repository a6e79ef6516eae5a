"""Fixtures of the unit tests: the tiny model's installation, put back to a stage of its life before each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny import World, lived

os.environ |= {
    "GX_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # MLflow keeps its stores: a connection that outlives a test would see a file that is gone.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}

At = Callable[[str], World]


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """Puts the one installation of this session back to a stage of its life. Its place never changes, as records name it."""
    root = tmp_path_factory.mktemp("tiny")
    live, kept = root / "live", root / "kept"
    life, past = lived(World(live)), []

    def at(stage: str) -> World:
        if past:
            _restore(kept / past[-1], live)
        while stage not in past:
            past.append(next(life))
            _restore(live, kept / past[-1])
        _restore(kept / stage, live)
        return World(live)

    return at


def _restore(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


@pytest.fixture
def at(stages: At) -> At:
    return stages


@pytest.fixture
def empty(stages: At) -> World:
    return stages("empty")


@pytest.fixture
def delivered(stages: At) -> World:
    return stages("delivered")


@pytest.fixture
def accepted(stages: At) -> World:
    return stages("accepted")


@pytest.fixture
def registered(stages: At) -> World:
    return stages("registered")


@pytest.fixture
def champion(stages: At) -> World:
    return stages("champion")


@pytest.fixture
def scored(stages: At) -> World:
    return stages("scored")


@pytest.fixture
def lapped(stages: At) -> World:
    return stages("lapped")
