"""Data versions, in a real git repository with a real DVC remote."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.exceptions import AccessDenied, ConflictError, DataError, Refused, Transient
from mlops_provider.ledger import Ledger
from mlops_provider.steps import tables
from mlops_provider.steps.data import repository, snapshot
from mlops_provider.steps.data.git import Git
from mlops_provider.steps.data.snapshot import SnapshotResult
from mlops_provider.steps.records import FeatureVersion
from tests.support.tiny import DAYS, Killed, World, call, request
from tests.support.workers import mlops_at_once

DAY = DAYS[0]
GOOD = Verdict(subject="test", checks=(Check(name="test", passed=True),))


def git(world: World, *arguments: str) -> str:
    repository = str(world.data / "repository.git")
    return subprocess.run(["git", "-C", repository, *arguments], check=True, capture_output=True, text=True).stdout


def commits(world: World) -> int:
    return len(git(world, "log", "--oneline", "main").splitlines())


def arguments(world: World, day: str = DAY, *verdicts: Verdict) -> dict[str, Any]:
    built = call(world.job(), "build_features", work=world.work(day))
    return {"work": world.work(day), "table": built.table, "verdicts": verdicts or (GOOD,)}


def versioned(world: World, day: str = DAY, *verdicts: Verdict) -> SnapshotResult:
    result: SnapshotResult = call(world.job(), "snapshot", **arguments(world, day, *verdicts))
    return result


def changed(world: World, day: str = DAY) -> None:
    world.rewrite(day, "inputs", lambda frame: frame.assign(a=frame["a"] + 1))


def data_versions(world: World) -> list[FeatureVersion]:
    return [FeatureVersion.model_validate(r.facts["data"]) for r in world.records("data")]


def stored(world: World, version: FeatureVersion) -> Path:
    return world.data / "dvc" / "files" / "md5" / version.md5[:2] / version.md5[2:]


def test_content_pointer_tag_and_record_agree(accepted: World) -> None:
    for version in data_versions(accepted):
        pointer = git(accepted, "show", f"{version.rev}:{version.path}.dvc")
        assert f"md5: {version.md5}" in pointer
        assert git(accepted, "rev-list", "-n", "1", version.tag).strip() == version.rev
        assert stored(accepted, version).stat().st_size == version.size


def test_a_version_tells_what_it_holds(accepted: World) -> None:
    version = data_versions(accepted)[1]
    frame = snapshot.read(accepted.job(), version).to_pandas()
    assert (version.rows, version.labelled) == (len(frame), frame["label"].notna().sum())
    assert (version.first, version.last) == (frame["at"].min(), frame["at"].max())
    assert (version.files, version.size) == (1, stored(accepted, version).stat().st_size)
    assert version.uri == str(stored(accepted, version))


def test_the_schema_of_a_version_is_told_by_its_hash(accepted: World) -> None:
    (old, same, *_), given = data_versions(accepted), arguments(accepted)
    frame = pd.read_parquet(given["table"].uri)
    wider = tables.write_frame(accepted.job().storage, str(accepted.root / "wider"), frame.assign(more=1))
    new = call(accepted.job(), "snapshot", **given | {"table": wider}).data
    assert (old.schema_hash == same.schema_hash, old.schema_hash == new.schema_hash) == (True, False)


def test_places_that_let_nobody_in_are_found_out_before_anything_is_read(
    delivered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("wrong key")

    given = arguments(delivered)
    (delivered.data / "dvc").mkdir()
    monkeypatch.setattr(LocalFileSystem, "ls", refused)
    monkeypatch.setattr("mlops_provider.storage.Storage.download", lambda *_: pytest.fail("it was read"))
    with pytest.raises(AccessDenied, match="did not list .*wrong key"):
        call(delivered.job(), "snapshot", **given)


def test_what_is_read_is_what_was_built(accepted: World) -> None:
    built = call(accepted.job(), "build_features", work=accepted.work(DAY))
    version = data_versions(accepted)[0]
    read = snapshot.read(accepted.job(), version).to_pandas()
    pd.testing.assert_frame_equal(read, pd.read_parquet(built.table.uri))
    assert snapshot.read(accepted.job(), version, ["id"]).column_names == ["id"]


def test_unchanged_content_keeps_its_version(accepted: World) -> None:
    before = (commits(accepted), git(accepted, "tag"), accepted.records())
    again = versioned(accepted, DAY, GOOD)
    assert again.data == data_versions(accepted)[0]
    assert (commits(accepted), git(accepted, "tag"), accepted.records()) == before


def test_changed_content_makes_a_version_and_the_old_one_stays_readable(accepted: World) -> None:
    (old, *_), before = data_versions(accepted), commits(accepted)
    changed(accepted)
    new = versioned(accepted).data
    assert (new.md5 != old.md5, new.rev != old.rev, commits(accepted)) == (True, True, before + 1)
    means = [snapshot.read(accepted.job(), v).to_pandas()["a"].mean() for v in (old, new)]
    assert means[1] == pytest.approx(means[0] + 1)


def test_content_that_returns_is_a_version_again(accepted: World) -> None:
    (old, *_) = data_versions(accepted)
    changed(accepted)
    versioned(accepted)
    accepted.deliver(DAY)
    again = versioned(accepted).data
    assert (again.md5, again.tag) == (old.md5, old.tag)
    for version in (old, again):
        assert snapshot.read(accepted.job(), version).num_rows == version.rows


@pytest.mark.parametrize(
    "verdicts",
    [
        (Verdict(subject="bad", checks=(Check(name="a", passed=False),)),),
        (GOOD, Verdict(subject="error", checks=(could_not_run("a", "test"),))),
        (GOOD, Verdict(subject="empty", checks=())),
    ],
)
def test_what_did_not_pass_is_not_versioned(delivered: World, verdicts: tuple[Verdict, ...]) -> None:
    with pytest.raises(Refused):
        versioned(delivered, DAY, *verdicts)
    assert git(delivered, "branch", "--all") == ""
    assert delivered.records() == []


def test_nothing_judged_is_not_versioned(delivered: World) -> None:
    with pytest.raises(Refused, match="nothing was checked"):
        call(delivered.job(), "snapshot", **arguments(delivered) | {"verdicts": ()})


def test_warnings_are_kept_in_the_record(delivered: World) -> None:
    versioned(delivered, DAY, GOOD, Verdict(subject="w", checks=(Check(name="odd", passed=False, severity="warn"),)))
    assert delivered.records()[-1].facts["warnings"] == ["odd"]


def test_plain_dvc_and_git_read_a_version(accepted: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.cli import main as dvc

    version, remote = data_versions(accepted)[0], str(accepted.data / "dvc")
    repository = str(accepted.data / "repository.git")
    asked = ["--rev", version.tag, "--remote", "mlops", "--remote-config", f"url={remote}"]
    assert dvc(["get", "-q", repository, version.path, "-o", str(tmp_path / "got.parquet"), *asked]) == 0
    assert (tmp_path / "got.parquet").read_bytes() == stored(accepted, version).read_bytes()
    subprocess.run(["git", "clone", "-q", repository, str(tmp_path / "clone")], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    assert dvc(["remote", "add", "-q", "--local", "-d", "mlops", remote]) == 0
    assert dvc(["pull", "-q"]) == 0
    assert dvc(["status", "-q"]) == 0
    assert sorted(path.name for path in Path("tiny").glob("*.parquet")) == [f"{day}.parquet" for day in DAYS[:3]]


def test_two_writers_at_once_both_land(delivered: World, tmp_path: Path) -> None:
    job = delivered.job()
    requests = {
        day: request(job, "snapshot", tmp_path / f"{day}.json", **arguments(delivered, day)) for day in DAYS[:2]
    }
    found = mlops_at_once(requests, "snapshot")
    for day in DAYS[:2]:
        version = FeatureVersion.model_validate(found[day]["result"]["data"])
        assert snapshot.read(delivered.job(), version).num_rows == version.rows
        assert git(delivered, "show", f"main:tiny/{day}.parquet.dvc")
    assert {r.partition for r in delivered.records("data")} == set(DAYS[:2])


def before_push(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> None:
    """Lets something happen just before each push that sends something."""
    run = Git.__call__

    def late(self: Git, *arguments: str, **given: Any) -> str:
        if arguments[0] == "push" and "--dry-run" not in arguments:
            does()
        return run(self, *arguments, **given)

    monkeypatch.setattr(Git, "__call__", late)


def test_a_push_that_came_second_is_tried_again(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = [DAYS[1]]
    for day in DAYS[:2]:
        changed(accepted, day)
    before = commits(accepted)
    before_push(monkeypatch, lambda: versioned(accepted, rivals.pop()) if rivals else None)
    version = versioned(accepted).data
    assert commits(accepted) == before + 2
    assert f"md5: {version.md5}" in git(accepted, "show", f"main:tiny/{DAY}.parquet.dvc")


def test_the_same_content_at_once_is_one_version(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals, found = [DAY], []
    changed(accepted)
    before = commits(accepted)
    before_push(monkeypatch, lambda: found.append(versioned(accepted, rivals.pop())) if rivals else None)
    mine = versioned(accepted)
    assert (mine, commits(accepted)) == (found[0], before + 1)


def test_losing_every_push_is_a_conflict(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise ConflictError("rejected")

    changed(accepted)
    before_push(monkeypatch, lost)
    monkeypatch.setattr(repository, "_ATTEMPTS", 2)
    before = accepted.records()
    with pytest.raises(ConflictError, match="other writers were first"):
        versioned(accepted)
    assert accepted.records() == before


def test_a_kill_between_push_and_record_is_finished_by_a_rerun(
    delivered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ledger, "append", killed)
        versioned(delivered)
    before = commits(delivered)
    versioned(delivered)
    assert commits(delivered) == before
    assert len(delivered.records("data")) == 1


def test_a_kill_before_the_push_leaves_nothing(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        raise Killed

    changed(accepted)
    before = commits(accepted)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before_push(patch, killed)
        versioned(accepted)
    assert commits(accepted) == before
    assert versioned(accepted).data.rows


def test_damaged_content_names_its_tag(accepted: World) -> None:
    version = data_versions(accepted)[0]
    file = stored(accepted, version)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{version.tag}.*damaged"):
        snapshot.read(accepted.job(), version)


def test_lost_content_names_its_tag(accepted: World) -> None:
    version = data_versions(accepted)[0]
    stored(accepted, version).unlink()
    with pytest.raises(DataError, match=version.tag):
        snapshot.read(accepted.job(), version)


def test_an_unreachable_repository_is_worth_a_retry(delivered: World) -> None:
    given = arguments(delivered)
    shutil.rmtree(delivered.data / "repository.git")
    with pytest.raises(Transient, match=r"git ls-remote failed.*repository\.git"):
        call(delivered.job(), "snapshot", **given)
    assert delivered.records() == []


def test_reading_needs_the_remote_and_not_git(accepted: World) -> None:
    version = data_versions(accepted)[0]
    shutil.move(accepted.data / "repository.git", accepted.data / "away.git")
    assert snapshot.read(accepted.job(), version).num_rows == version.rows


def test_an_unreachable_remote_is_worth_a_retry(delivered: World) -> None:
    given = arguments(delivered)
    (delivered.data / "dvc").write_text("no folder")
    with pytest.raises(Transient, match="DVC remote"):
        call(delivered.job(), "snapshot", **given)
    assert git(delivered, "branch", "--all") == ""


def test_a_refusal_is_recorded_once(delivered: World) -> None:
    for _ in range(2):
        call(delivered.job(), "refuse_data", work=delivered.work(DAY), reason="column b is missing")
    (record,) = delivered.records()
    assert (record.outcome, record.reason) == ("refused", "column b is missing")


def test_a_partition_may_be_accepted_after_it_was_refused(delivered: World) -> None:
    call(delivered.job(), "refuse_data", work=delivered.work(DAY), reason="test")
    changed(delivered)
    versioned(delivered)
    assert [r.outcome for r in delivered.records("data")] == ["refused", "accepted"]
