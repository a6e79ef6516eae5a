"""Data versions under faults: real processes, real kills, real full disks. A pointer never names content that is not there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import DataError, MlopsError, Transient
from mlops_provider.steps import step, tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.records import DataWork, FeatureVersion
from mlops_provider.steps.step import Request
from tests.support.tiny import DAYS, World, call

GOOD = Verdict(subject="test", checks=(Check(name="test", passed=True),))
PARTITIONS = [f"2024-02-{day:02d}" for day in range(1, 21)]
DAY = DAYS[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.create()
    return found


def given(world: World, partition: str, *, seed: int = 0, rows: int = 50) -> dict[str, Any]:
    """What the snapshot of a partition is asked with."""
    draw = np.random.default_rng([seed, int(partition.replace("-", ""))])
    frame = pd.DataFrame({
        "id": [f"{partition}-{row}" for row in range(rows)],
        "at": pd.date_range(partition, periods=rows, freq="min", tz="UTC"),
        "a": draw.normal(size=rows),
        "label": draw.integers(0, 2, size=rows).astype(float),
    })
    table = tables.write_frame(world.job().storage, str(world.root / "built" / partition), frame)
    return {"work": DataWork(partition=partition, inputs=table), "table": table, "verdicts": (GOOD,)}


def versioned(world: World, partition: str, **how: Any) -> FeatureVersion:
    found: FeatureVersion = call(world.job(), "snapshot", **given(world, partition, **how)).data
    return found


def asked(world: World, partition: str, **how: Any) -> str:
    """The request for a snapshot, as a pod gets it."""
    arguments = step.find("snapshot").arguments(**given(world, partition, **how)).model_dump(mode="json")
    job = world.job()
    return Request(
        step="snapshot", code=job.model.ref, deployment=job.deployment, arguments=arguments
    ).model_dump_json()


def git(world: World, *arguments: str) -> str:
    command = ["git", "-C", str(world.data / "repository.git"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pointers(world: World, ref: str) -> dict[str, str]:
    """md5 by path, as a commit names them."""
    names = git(world, "ls-tree", "-r", "--name-only", ref).splitlines()
    paths = [name for name in names if name.endswith(".dvc")]
    return {path: yaml.safe_load(git(world, "show", f"{ref}:{path}"))["outs"][0]["md5"] for path in paths}


def sound(world: World) -> None:
    """Every pointer of every commit names content that is there, and DVC itself agrees about the head."""
    from dvc.repo import Repo

    commits = git(world, "rev-list", "--all").split()
    named = {md5 for commit in commits for md5 in pointers(world, commit).values()}
    there = {path.parent.name + path.name for path in (world.data / "dvc").rglob("files/md5/??/*")}
    assert named <= there
    if not commits:
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(world.data / "repository.git"), folder], check=True)
        with Repo(folder) as repo:
            with repo.config.edit("local") as settings:
                settings["remote"] = {"r": {"url": str(world.data / "dvc")}}
            repo.pull(remote="r")
            assert repo.status() == repo.status(cloud=True, remote="r") == {}


# In a process of its own


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _patch(point: str) -> None:
    """Lets this process be killed at a point."""
    from mlops_provider.steps.data import remote
    from mlops_provider.steps.data.git import Git

    if point == "hashing":
        from dvc_data.hashfile import hash as hashing

        read = hashing.HashStreamFile.read
        hashing.HashStreamFile.read = lambda self, n=-1: (read(self, 100), _kill())  # type: ignore[assignment]
    elif point == "bringing":

        def half(source: Any, target: Any, size: int) -> None:
            target.write(source.read(1000))
            target.flush()
            _kill()

        remote.shutil.copyfileobj = half  # type: ignore[assignment]
    elif point:
        when, _, command = point.partition(" ")
        run = Git.__call__

        def killed(self: Git, *arguments: str, **how: Any) -> str:
            reached = arguments[0] == command and "--dry-run" not in arguments
            if reached and when == "before":
                _kill()
            said = run(self, *arguments, **how)
            if reached:
                _kill()
            return said

        Git.__call__ = killed  # type: ignore[method-assign]


def worker(request: str, point: str, gate: Any, answers: Any) -> None:
    """Runs a request, from the moment at which all have come to the gate."""
    _patch(point)
    root = Path(Request.model_validate_json(request).deployment.data_root)
    tempfile.tempdir = tempfile.mkdtemp(dir=root.parent)  # what a kill leaves behind goes with the test
    if gate is not None:
        gate.wait(120)
    try:
        answers.put(step.run(Request.model_validate_json(request)).result["data"])
    except MlopsError as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.fixture(scope="session")
def context() -> Any:
    """Processes that start with everything imported."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__, "mlops_provider.steps.data.snapshot", "dvc.repo", "pandas"])
    return found


Run = Callable[..., list[Any]]


@pytest.fixture
def together(context: Any) -> Run:
    """Runs requests at once, each in a process; what they answered."""

    def run(*requests: str, point: str = "") -> list[Any]:
        answers, gate = context.Queue(), context.Barrier(len(requests)) if len(requests) > 1 else None
        processes = [context.Process(target=worker, args=(one, point, gate, answers)) for one in requests]
        for process in processes:
            process.start()
        if point:
            processes[0].join(60)
            assert processes[0].exitcode == -signal.SIGKILL
            return []
        found = [answers.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(60)
        return found

    return run


def test_twenty_snapshots_at_once_are_all_there(world: World, together: Run) -> None:
    found = together(*(asked(world, partition) for partition in PARTITIONS))
    versions = {one.partition: one for one in map(FeatureVersion.model_validate, found)}
    assert sorted(versions) == PARTITIONS
    assert git(world, "rev-list", "--count", "main") == "20"
    assert git(world, "rev-list", "--min-parents=2", "--all") == ""
    assert {f"{one.path}.dvc": one.md5 for one in versions.values()} == pointers(world, "main")
    assert {one.tag: one.rev for one in versions.values()} == tags(world)
    assert {record.partition for record in world.records("data")} == set(PARTITIONS)
    assert snapshot.read(world.job(), versions[PARTITIONS[7]]).num_rows == 50
    sound(world)


def tags(world: World) -> dict[str, str]:
    lines = git(world, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags").splitlines()
    return dict(line.split() for line in lines)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["same content", "other content"])
def test_two_runs_for_one_partition_at_once(world: World, together: Run, seeds: tuple[int, int]) -> None:
    versioned(world, DAY)
    found = [FeatureVersion.model_validate(one) for one in together(*(asked(world, DAY, seed=seed) for seed in seeds))]
    different = len(set(seeds))
    assert len({one.rev for one in found}) == different
    assert git(world, "rev-list", "--count", "main") == str(1 + different)
    assert len(world.records("data")) == 1 + different
    for one in found:
        assert snapshot.read(world.job(), one).num_rows == 50
    sound(world)


@pytest.mark.parametrize(
    ("point", "commits"),
    [
        ("hashing", 1),
        ("bringing", 1),
        ("after commit", 1),
        ("after push", 2),
    ],
)
def test_a_kill_at_any_point_is_finished_by_a_rerun(world: World, together: Run, point: str, commits: int) -> None:
    old = versioned(world, DAY)
    request = asked(world, DAY, seed=1)
    together(request, point=point)
    assert git(world, "rev-list", "--count", "main") == str(commits)
    assert len(world.records("data")) == 1
    sound(world)
    (told,) = together(request)
    new = FeatureVersion.model_validate(told)
    assert new.md5 != old.md5
    assert git(world, "rev-list", "--count", "main") == "2"
    assert [r.facts["data"]["md5"] for r in world.records("data")] == [old.md5, new.md5]
    sound(world)


def test_a_damaged_object_is_named_and_mended_by_a_rerun(world: World) -> None:
    version = versioned(world, DAY)
    damaged = Path(version.uri)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[::-1])
    with pytest.raises(DataError, match=f"{version.tag}.*damaged"):
        snapshot.read(world.job(), version)
    assert versioned(world, DAY) == version
    assert snapshot.read(world.job(), version).num_rows == version.rows
    sound(world)


# A disk that is full


def test_a_full_remote_is_worth_a_retry_and_leaves_nothing_behind(world: World, small: Path) -> None:
    os.symlink(small, world.data / "dvc")
    with pytest.raises(Transient, match="did not take .*No space left"):
        versioned(world, DAY, rows=200_000)
    assert git(world, "for-each-ref") == ""
    assert [path for path in small.rglob("*") if path.is_file()] == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
    version = versioned(world, DAY, rows=200_000)
    assert snapshot.read(world.job(), version).num_rows == 200_000
    sound(world)


def test_a_full_worker_is_worth_a_retry_and_leaves_nothing_behind(
    world: World, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = given(world, DAY, rows=200_000)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(small))
        with pytest.raises(Transient, match="No space left"):
            call(world.job(), "snapshot", **wanted)
    assert list(small.iterdir()) == []
    assert git(world, "for-each-ref") == ""
    assert call(world.job(), "snapshot", **wanted).data.rows == 200_000


def test_a_full_git_repository_is_worth_a_retry_and_stays_sound(world: World, small: Path) -> None:
    repository = world.data / "repository.git"
    first = versioned(world, DAY)
    shutil.copytree(repository, small / "repository.git")
    shutil.rmtree(repository)
    os.symlink(small / "repository.git", repository)
    filler = small / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"x" * (1 << 20))
    with pytest.raises(Transient, match="git push failed"):
        versioned(world, DAY, seed=1)
    assert git(world, "rev-parse", "main") == first.rev
    filler.unlink()
    versioned(world, DAY, seed=1)
    assert git(world, "rev-list", "--count", "main") == "2"
    sound(world)
