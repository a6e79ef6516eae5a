"""Training under faults: real processes and real kills at each stage, a disk that is full, an MLflow server that goes away.
What was done before is not lost, and a rerun comes to the one version that nobody disturbed would have come to."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from mlops_provider.exceptions import Transient
from mlops_provider.steps.step import Job, Step
from tests.integration.servers import MlflowServer
from tests.support.tiny import DAYS, World

TRAINING = {
    "window": {"minimum": 3},
    "rounds": 10,
    "tune": {"trials": 2, "space": {"learning_rate": {"low": 0.05, "high": 0.5}}},
}
# Which call of what is a stage reached at.
STAGES = {
    "in the second trial": ("lightgbm", "train", 2),
    "before a trial counts": ("mlops_provider.steps.training.tune_runs", "Runs.done", 1),
    "trees grown and not stored": ("mlops_provider.steps.training.train", "model_hash", 1),
    "half of the package stored": ("mlops_provider.steps.training.package", "_kept", 3),
    "evaluated and not stored": ("mlops_provider.steps.training.evaluate", "save_findings", 1),
    "half of the artifacts uploaded": (
        "mlflow.store.artifact.http_artifact_repo",
        "HttpArtifactRepository.log_artifact",
        4,
    ),
    "before the version": ("mlflow", "MlflowClient.create_model_version", 1),
    "version there and not recorded": ("mlflow", "MlflowClient.set_terminated", 1),
}


def lived_in(folder: Path, server: MlflowServer) -> tuple[World, dict[str, str]]:
    """Four accepted days and the decision to train; and what makes a deployment of it that has names of its own in MLflow."""
    world = World(folder)
    world.create()
    world.configure(training=TRAINING)
    world.deliver(*DAYS[:4])
    there = {"tracking_uri": server.url, "registry_prefix": f"{folder.parent.name}-{folder.name}."}
    loops = world.loops(world.job(**there))
    loops.ci()
    while loops.cm():
        pass
    return world, there


@pytest.fixture
def place(tmp_path: Path, mlflow_server: MlflowServer) -> tuple[World, dict[str, str]]:
    return lived_in(tmp_path / "place", mlflow_server)


def _ct(root: Path, there: dict[str, str], stage: str, answers: Any) -> None:
    """In a process of its own: CT, which is killed at a stage."""
    if stage:
        module, name, number = STAGES[stage]
        owner: Any = importlib.import_module(module)
        *path, name = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        call, calls = getattr(owner, name), []

        def killed(*arguments: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        setattr(owner, name, killed)
    world = World(root)
    answers.put(world.loops(world.job(**there)).ct())


@pytest.fixture(scope="module")
def ct() -> Callable[..., int]:
    """Runs CT in a process of its own, which starts with everything imported; how it ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        __name__,
        "mlops_provider.loops",
        "lightgbm",
        "mlflow",
        "onnx",
        "pandas",
        "sklearn",
    ])

    def run(world: World, there: dict[str, str], stage: str = "") -> int:
        answers = context.Queue()
        process = context.Process(target=_ct, args=(world.root, there, stage, answers))
        process.start()
        process.join(120)
        return int(process.exitcode if process.exitcode is not None else 1)

    return run


def only_version(job: Job) -> Any:
    """The one version that MLflow has of a model, whose run is finished and has no other beside it."""
    mlflow = MlflowClient(job.deployment.tracking_uri, job.deployment.tracking_uri)
    name = job.deployment.registered_name(job.config)
    (version,) = mlflow.search_model_versions(f"name='{name}'")
    experiment = mlflow.get_experiment_by_name(name)
    runs = mlflow.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    tops = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) - len(tops) == TRAINING["tune"]["trials"]  # type: ignore[index]
    assert len(tops) == 2  # the search and the version
    paths = {file.path for file in mlflow.list_artifacts(version.run_id)}
    assert {"model", "evaluation", "lineage.json", "card.md", "scorecard.json"} <= paths
    return version


def test_kills_at_each_stage_are_mended_by_reruns(
    place: tuple[World, dict[str, str]], tmp_path: Path, mlflow_server: MlflowServer, ct: Callable[..., int]
) -> None:
    world, there = place
    for stage in STAGES:
        assert ct(world, there, stage) == -signal.SIGKILL, stage
        assert world.records("candidate") == []
    assert ct(world, there) == 0
    (record,) = world.records("candidate")
    version = only_version(world.job(**there))
    assert record.version == int(version.version) == 1
    undisturbed, elsewhere = lived_in(tmp_path / "undisturbed", mlflow_server)
    assert ct(undisturbed, elsewhere) == 0
    assert only_version(undisturbed.job(**elsewhere)).tags["mlops.model_hash"] == version.tags["mlops.model_hash"]


def test_an_mlflow_that_goes_away_in_the_middle_is_worth_a_retry_that_goes_on(
    place: tuple[World, dict[str, str]], mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, there = place
    upload, calls = HttpArtifactRepository.log_artifact, []

    def gone(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            mlflow_server.stop()
        return upload(*arguments, **more)

    monkeypatch.setattr(HttpArtifactRepository, "log_artifact", gone)
    try:
        with pytest.raises(Transient, match=f"MLflow at {mlflow_server.url} did not answer"):
            world.loops(world.job(**there)).ct()
    finally:
        mlflow_server.start()
        mlflow_server.wait()
    assert world.records("candidate") == []
    world.loops(world.job(**there)).ct()
    assert [record.version for record in world.records("candidate")] == [int(only_version(world.job(**there)).version)]


def test_a_full_disk_at_any_stage_is_worth_a_retry_and_leaves_nothing_half_written(
    place: tuple[World, dict[str, str]], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, there = place
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    shutil.copytree(world.artifacts, small / "artifacts")
    shutil.rmtree(world.artifacts)
    world.artifacts.symlink_to(small / "artifacts")
    loops, run = world.loops(world.job(**there)), Step.run
    for stage in ("tune", "train", "package", "evaluate", "register"):

        def full(self: Any, job: Job, arguments: Any, stage: str = stage) -> Any:
            if self.name == stage:
                filled(small)
            return run(self, job, arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Step, "run", full)
            with pytest.raises(
                Transient, match=f"{world.artifacts}.* was not written: No space left on device. Make room"
            ):
                loops.ct()
        (small / "filler").unlink()
        assert [path for path in small.rglob("*") if path.name.startswith(".")] == []
        assert world.records("candidate") == []
    loops.ct()
    assert [record.version for record in world.records("candidate")] == [int(only_version(world.job(**there)).version)]


def filled(disk: Path) -> None:
    """Fills a disk to the last page."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
