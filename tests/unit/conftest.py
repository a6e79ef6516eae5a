"""Fixtures of the unit tests: the tiny model's installation, put back to a stage of its life before each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

from mlops_provider.steps.training import latency
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

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "mlops-hypothesis"))
settings.register_profile("unit", database=None, deadline=None, max_examples=40, derandomize=True)
settings.load_profile("unit")

# How fast a package scores is measured once, not again and again: hundreds are made here, and none is held to it.
latency._SECONDS = 0.0

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
    """Makes the target like the source, touching only what differs."""
    target.mkdir(parents=True, exist_ok=True)
    there = {entry.name: entry for entry in os.scandir(target)}
    for entry in os.scandir(source):
        other, copy = there.pop(entry.name, None), target / entry.name
        if other and (_kind(other) != _kind(entry)):
            _remove(other)
            other = None
        if entry.is_dir():
            _restore(Path(entry.path), copy)
        elif other is None:
            shutil.copy2(entry.path, copy)
    for entry in there.values():
        _remove(entry)


def _kind(entry: os.DirEntry[str]) -> tuple[int, ...]:
    found = entry.stat()
    return (found.st_mode,) if entry.is_dir() else (found.st_mode, found.st_size, found.st_mtime_ns)


def _remove(entry: os.DirEntry[str]) -> None:
    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)


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
def trained(stages: At) -> World:
    return stages("trained")


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
def challenger(stages: At) -> World:
    return stages("challenger")


@pytest.fixture
def lapped(stages: At) -> World:
    return stages("lapped")
