"""Garbage collection: what nothing needs goes, and nothing else ever does."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import AccessDenied, ConfigError, ConflictError, MlopsError, Transient
from mlops_provider.ledger import Draft
from mlops_provider.steps import registry
from mlops_provider.steps.data import garbage, snapshot, versions
from mlops_provider.steps.data.garbage import Collected
from mlops_provider.steps.data.repository import Repository
from mlops_provider.steps.records import FeatureVersion
from tests.support.tiny import DAYS, World, call, registry_of, tracking
from tests.unit.steps.data.test_snapshot import changed, data_versions, git, stored, versioned

DAY = DAYS[0]
Collect = Callable[..., Collected]


@pytest.fixture(autouse=True)
def in_a_month(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens in the test counts as old."""
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    monkeypatch.setattr(garbage, "_now", lambda: later)


@pytest.fixture
def accepted(accepted: World) -> World:
    """With a model in MLflow, by which it is known for the right one."""
    registry_of(accepted).create_registered_model("tiny")
    return accepted


def collect(world: World, **given: Any) -> Collected:
    found: Collected = call(world.job(), "collect_garbage", **{"keep": 1, "delete": True} | given)
    return found


def revised(world: World, times: int = 1) -> list[FeatureVersion]:
    """All versions of the first day after it was revised."""
    for _ in range(times):
        changed(world)
        versioned(world)
    return [one for one in data_versions(world) if one.partition == DAY]


def there(world: World, found: list[FeatureVersion]) -> list[bool]:
    return [stored(world, one).exists() for one in found]


def test_a_registration_that_was_cut_off_keeps_everything(accepted: World) -> None:
    """Killed between MLflow and the ledger: a version may be registered that the ledger does not know."""
    found = revised(accepted)
    job = accepted.job()
    claim = job.under("claims", "abc123.json")
    job.storage.write(claim, b"{}")
    with pytest.raises(ConflictError, match="the registration of abc123 was begun"):
        collect(accepted)
    assert there(accepted, found) == [True, True]


def test_a_superseded_version_goes_with_its_tag_and_the_accepted_one_stays(accepted: World) -> None:
    found = revised(accepted)
    done = collect(accepted)
    assert ([g.tag for g in done.garbage], done.size) == ([found[0].tag], found[0].size)
    assert there(accepted, found) == [False, True]
    tags = git(accepted, "tag").split()
    assert (found[0].tag in tags, found[1].tag in tags) == (False, True)
    for version in data_versions(accepted)[1:]:
        assert snapshot.read(accepted.job(), version).num_rows == version.rows


def test_a_second_collection_finds_nothing(accepted: World) -> None:
    revised(accepted)
    assert [len(collect(accepted).garbage) for _ in range(2)] == [1, 0]


def test_without_delete_it_only_tells(accepted: World) -> None:
    found, tags = revised(accepted), git(accepted, "tag")
    done = call(accepted.job(), "collect_garbage", keep=1)
    assert (done.deleted, [g.md5 for g in done.garbage]) == (False, [found[0].md5])
    assert (there(accepted, found), git(accepted, "tag")) == ([True, True], tags)


def test_the_newest_versions_of_a_partition_stay(accepted: World) -> None:
    found = revised(accepted, 3)
    collect(accepted, keep=2)
    assert there(accepted, found) == [False, False, True, True]


def test_what_a_registered_model_saw_stays(registered: World) -> None:
    (fitted, *_), holdout = data_versions(registered)[:2], data_versions(registered)[2]
    for day in (fitted.partition, holdout.partition):
        changed(registered, day)
        versioned(registered, day)
    used = {one.data.md5: one.used for one in versions.known(registered.job(), tuple(registered.records()))}
    assert used[fitted.md5] == used[holdout.md5] == (1,)
    assert collect(registered).garbage == ()
    assert there(registered, [fitted, holdout]) == [True, True]


def test_what_a_registered_model_saw_cannot_be_told_without_its_split(registered: World) -> None:
    found = revised(registered)
    (version,) = registered.versions()
    Path(version.split.file.uri).unlink()
    with pytest.raises(MlopsError, match="does not exist"):
        collect(registered)
    assert there(registered, found) == [True, True]


def test_what_a_training_under_way_reads_stays(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = revised(accepted)
    changed(accepted)
    accepted.split(DAYS[2])
    newer = versioned(accepted).data
    monkeypatch.undo()
    before = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    planned = garbage._planned(accepted.job(), before)
    assert found[1].md5 in planned
    assert newer.md5 not in planned
    assert garbage._planned(accepted.job(), before + dt.timedelta(days=1)) == set()


def by_hand(world: World, *, tags: dict[str, str] | None = None, params: dict[str, str] | None = None) -> None:
    """A version that somebody registers by MLflow's own means."""
    mlflow, name = registry_of(world), world.deployment.registered_name(world.job().config)
    run = mlflow.create_run(mlflow.create_experiment("by hand", artifact_location=str(world.root / "by-hand")))
    for key, value in (params or {}).items():
        mlflow.log_param(run.info.run_id, key, value)
    mlflow.create_model_version(name, "file:///nowhere", run_id=run.info.run_id, tags=tags)


@pytest.mark.parametrize(("named", "where"), [("tag", "tags"), ("md5", "params"), ("uri", "tags"), ("rev", "params")])
def test_what_a_version_that_was_made_by_hand_names_stays(accepted: World, named: str, where: str) -> None:
    found = revised(accepted, 2)
    by_hand(accepted, **{where: {"data": getattr(found[0], named)}})
    kept = there(accepted, found) if collect(accepted) else []
    # Both were accepted within the hour in which git and the ledger may differ; a commit names all that was there.
    assert kept == [True, named == "rev", True]


def test_a_version_that_was_made_by_hand_names_data_by_its_lineage(registered: World) -> None:
    """As MLflow copies it from another environment, whose ledger is not ours."""
    mlflow = registry_of(registered)
    name = registered.deployment.registered_name(registered.job().config)
    (version,) = registered.versions()
    used = data_versions(registered)[0]
    changed(registered, used.partition)
    versioned(registered, used.partition)
    said = registry.said_of_versions(registered.job(), {version.fingerprint})
    assert used.md5 not in said
    mlflow.create_model_version(name, "file:///nowhere", run_id=version.run_id, tags={"mlops.fingerprint": "theirs"})
    said = registry.said_of_versions(registered.job(), {version.fingerprint})
    assert used.md5 in said


def test_a_version_whose_run_was_purged_stops_nothing(accepted: World) -> None:
    revised(accepted)
    mlflow, name = registry_of(accepted), accepted.deployment.registered_name(accepted.job().config)
    mlflow.create_model_version(name, "file:///nowhere", run_id="0" * 32)
    assert len(collect(accepted).garbage) == 1


def test_another_mlflow_is_not_asked_for_what_it_cannot_know(registered: World) -> None:
    """A mistyped database is created empty, and names nothing."""
    found, job = revised(registered, 2), registered.job(tracking_uri=tracking(registered.root / "typo.db"))
    with pytest.raises(ConflictError, match="neither version 1 of tiny, which the ledger registered, nor its run"):
        call(job, "collect_garbage", keep=1, delete=True)
    registry_of(registered).set_registered_model_tag("tiny", "mlops.environment", "staging")
    with pytest.raises(ConflictError, match="belongs to the environment 'staging'"):
        collect(registered)
    assert there(registered, found) == [True, True, True]


def test_a_mlflow_without_the_model_is_not_known_for_the_right_one(accepted: World) -> None:
    registry_of(accepted).delete_registered_model("tiny")
    assert collect(accepted).garbage == ()  # nothing would go, and nothing is asked for
    found = revised(accepted)
    with pytest.raises(ConflictError, match="knows no model tiny.*create the registered model"):
        collect(accepted)
    assert there(accepted, found) == [True, True]


def test_a_version_that_was_deleted_in_mlflow_stops_nothing(registered: World) -> None:
    found = revised(registered, 2)
    registry_of(registered).delete_model_version("tiny", "1")
    assert [g.md5 for g in collect(registered, delete=False).garbage] == [found[1].md5]
    (version,) = registered.versions()
    registry_of(registered).delete_run(version.run_id)
    registry_of(registered).delete_registered_model("tiny")
    assert [g.md5 for g in collect(registered, delete=False).garbage] == [found[1].md5]


def test_a_version_that_was_purged_is_told_by_a_person(registered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = revised(registered, 2)
    registry_of(registered).delete_model_version("tiny", "1")
    monkeypatch.setattr(registry, "_has_run", lambda *_: False)
    with pytest.raises(ConflictError, match="say so: mlops gc --purged 1"):
        collect(registered)
    assert [g.md5 for g in collect(registered, purged=(1,)).garbage] == [found[1].md5]


def test_without_an_answer_of_mlflow_nothing_is_deleted(accepted: World) -> None:
    found = revised(accepted)
    for uri, error in (("", ConfigError), ("http://127.0.0.1:9", Transient)):
        with pytest.raises(error):
            call(accepted.job(tracking_uri=uri), "collect_garbage", keep=1, delete=True)
    assert there(accepted, found) == [True, True]


def test_what_was_superseded_just_now_stays(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    revised(accepted)
    monkeypatch.setattr(garbage, "_now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(minutes=50))
    assert collect(accepted, grace=1).garbage == ()
    monkeypatch.setattr(garbage, "_now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(minutes=70))
    assert len(collect(accepted, grace=1).garbage) == 1


def test_what_a_branch_names_stays(accepted: World) -> None:
    git(accepted, "branch", "paper", "main")
    found = revised(accepted)
    assert collect(accepted).garbage == ()
    assert there(accepted, found) == [True, True]


def test_what_a_persons_tag_names_stays(accepted: World) -> None:
    git(accepted, "tag", "signed-off", "main")
    found = revised(accepted)
    assert collect(accepted).garbage == ()
    assert there(accepted, found) == [True, True]


def test_what_the_head_names_stays_although_the_ledger_says_otherwise(accepted: World) -> None:
    """A snapshot was killed between its push and its record: the head names content that the ledger does not."""
    found = revised(accepted)
    accepted.deliver(DAY)
    brought(accepted, found[0])
    assert collect(accepted).garbage == ()
    assert there(accepted, found) == [True, True]


def brought(world: World, version: FeatureVersion) -> None:
    from mlops_provider.steps.data.repository import repository

    copy = world.root / "copy.parquet"
    copy.write_bytes(stored(world, version).read_bytes())
    repository(world.job()).add(copy, version.path, "test")


def test_what_another_model_accepted_stays(accepted: World) -> None:
    found = revised(accepted)
    facts = {"data": found[0].model_dump(mode="json"), "identity": "x"}
    draft = Draft(kind="data", partition=DAY, outcome="accepted", reason="test", facts=facts)
    accepted.deployment.ledger("other").append(draft, actor="test")
    assert collect(accepted).garbage == ()


def test_what_a_killed_writer_left_behind_goes(accepted: World) -> None:
    left = accepted.data / "dvc" / ".mlops-tmp" / "left"
    left.write_text("half")
    call(accepted.job(), "collect_garbage")
    assert left.exists()
    collect(accepted, grace=24 * 365)
    assert left.exists()
    collect(accepted)
    assert not left.exists()


def test_content_of_others_in_the_remote_is_not_touched(accepted: World) -> None:
    revised(accepted)
    other = accepted.data / "dvc" / "files" / "md5" / "00" / ("1" * 30)
    other.parent.mkdir(exist_ok=True)
    other.write_text("not ours")
    collect(accepted)
    assert other.exists()


def test_content_that_returns_while_garbage_is_collected_stays(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = revised(accepted)
    accepted.deliver(DAY)
    forget = Repository.forget

    def late(self: Repository, tags: dict[str, str]) -> None:
        if len(versions_of(accepted)) == 2:
            versioned(accepted)
        forget(self, tags)

    monkeypatch.setattr(Repository, "forget", late)
    with pytest.raises(ConflictError):
        collect(accepted)
    assert there(accepted, found) == [True, True]
    assert snapshot.read(accepted.job(), found[0]).num_rows == found[0].rows


def versions_of(world: World) -> list[FeatureVersion]:
    return [one for one in data_versions(world) if one.partition == DAY]


def test_content_that_is_written_anew_before_it_is_removed_stays(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pointer is still on its way, but it is young."""
    found = revised(accepted)
    now = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=70)
    monkeypatch.setattr(garbage, "_now", lambda: now)
    forget = Repository.forget

    def late(self: Repository, tags: dict[str, str]) -> None:
        import os

        forget(self, tags)
        os.utime(stored(accepted, found[0]), (now.timestamp(), now.timestamp()))

    monkeypatch.setattr(Repository, "forget", late)
    assert collect(accepted, grace=1).garbage == ()
    assert there(accepted, found) == [True, True]


def test_a_collection_that_was_killed_is_finished_by_the_next(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.data.remote import Remote

    found = revised(accepted)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Remote, "remove", killed)
        collect(accepted)
    assert there(accepted, found) == [True, True]
    assert len(collect(accepted).garbage) == 1
    assert there(accepted, found) == [False, True]


def test_a_remote_that_refuses_is_told(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    def refused(*_: object) -> None:
        raise PermissionError("read only")

    revised(accepted)
    monkeypatch.setattr(LocalFileSystem, "rm_file", refused)
    with pytest.raises(AccessDenied, match=r"did not remove .*read only"):
        collect(accepted)


def test_a_removed_version_is_named_when_it_is_asked_for(accepted: World) -> None:
    found = revised(accepted)
    collect(accepted)
    with pytest.raises(MlopsError, match=f"{found[0].tag}.*is missing"):
        snapshot.read(accepted.job(), found[0])


def test_after_a_collection_plain_git_and_dvc_are_content(accepted: World, tmp_path: Path) -> None:
    from dvc.repo import Repo

    revised(accepted)
    collect(accepted)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(accepted.data / "repository.git"), str(clone)], check=True)
    with Repo(str(clone)) as repo:
        with repo.config.edit("local") as settings:
            settings["remote"] = {"r": {"url": str(accepted.data / "dvc")}}
        repo.pull(remote="r")
        assert repo.status(cloud=True, remote="r") == {}
