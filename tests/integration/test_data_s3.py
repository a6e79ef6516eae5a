"""Data versions with the DVC remote on a real S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, DataError, RequestError, Transient
from mlops_provider.steps.data import garbage, snapshot
from mlops_provider.storage import Storage
from tests.integration.servers import Options
from tests.integration.test_data_faults import DAY, git, given, pointers, versioned
from tests.support.tiny import World, call, registry_of


class S3World(World):
    """An installation with its DVC remote on S3 and everything else on local files."""

    access = DvcAccess()

    def job(self, **changes: Any) -> Any:
        return super().job(**{"dvc": self.access} | changes)

    def reached(self, remote: str, options: Options, **changes: Any) -> None:
        self.access = DvcAccess(remote=remote, storage_options={"s3": options["s3"] | changes})


@pytest.fixture
def world(tmp_path: Path, options: Options, request: pytest.FixtureRequest) -> S3World:
    found = S3World(tmp_path)
    found.create()
    found.reached(f"s3://mlops/{request.node.name.split('[')[0]}/dvc", options)
    return found


def test_a_version_goes_to_s3_and_comes_back(world: S3World, options: Options) -> None:
    version = versioned(world, DAY)
    assert version.uri.startswith(f"{world.access.remote}/files/md5/")
    assert snapshot.read(world.job(), version).num_rows == version.rows
    assert versioned(world, DAY) == version
    target = world.access.remote.replace("/dvc", "/out.parquet")
    done = call(world.job(storage_options=options), "checkout", tag=version.tag, target=target)
    assert Storage(options).describe(done.uri).size == version.size
    assert pointers(world, "main") == {f"{version.path}.dvc": version.md5}


def test_plain_dvc_reads_what_lies_on_s3(world: S3World, options: Options, tmp_path: Path) -> None:
    from dvc.repo import Repo

    version = versioned(world, DAY)
    subprocess.run(["git", "clone", "-q", str(world.data / "repository.git"), str(tmp_path / "clone")], check=True)
    with Repo(str(tmp_path / "clone")) as repo:
        with repo.config.edit("local") as settings:
            keys = {"access_key_id": options["s3"]["key"], "secret_access_key": options["s3"]["secret"]}
            settings["remote"] = {"mlops": keys}  # all the rest stands in the repository
        repo.pull()
        assert repo.status(cloud=True) == {}
    assert (tmp_path / "clone" / version.path).stat().st_size == version.size


def test_a_folder_on_s3_is_versioned_and_comes_back(world: S3World, options: Options, tmp_path: Path) -> None:
    source, storage = world.access.remote.replace("/dvc", "/sites"), Storage(options)
    for year in (2023, 2024):
        frame = pd.DataFrame({"site": ["a", "b"], "height": [1.0, year]})
        storage.write(f"{source}/year={year}/part-0.parquet", frame.to_parquet())
    storage.write(f"{source}/_SUCCESS", b"")
    job = world.job(storage_options=options)
    version = call(job, "snapshot_dataset", dataset=source, name="sites").data
    assert (version.files, version.rows, version.path) == (2, 4, "tiny/sites")
    assert call(job, "snapshot_dataset", dataset=source, name="sites").data == version
    done = call(job, "checkout", version=version, target=str(tmp_path / "out"))
    assert (done.files, done.size) == (2, version.size)
    assert sorted(pd.read_parquet(tmp_path / "out")["year"].astype(int)) == [2023, 2023, 2024, 2024]


def test_a_folder_on_s3_holds_one_version_after_the_other(world: S3World, options: Options) -> None:
    """Also when the remote has moved to another place on the same server in the meantime."""
    base, storage = world.access.remote.removesuffix("/dvc"), Storage(options)
    source, out, job = f"{base}/sites", f"{base}/out", world.job(storage_options=options)
    frame, found = pd.DataFrame({"site": ["a", "b"]}), []
    for name in ("a/1.parquet", "b/2.parquet"):
        storage.write(f"{source}/{name}", frame.assign(name=name).to_parquet())
        found.append(call(job, "snapshot_dataset", dataset=source, name="sites").data)
    world.reached(f"{base}/elsewhere", options)
    job = world.job(storage_options=options)
    for asked in ({"version": found[1]}, {"tag": found[0].tag}, {"version": found[1]}, {"version": found[0]}):
        done = call(job, "checkout", target=out, **asked)
        fs, path = storage.filesystem(out)
        assert (
            sorted(key.removeprefix(f"{path}/") for key in fs.find(path))
            == ["a/1.parquet", "b/2.parquet"][: done.files]
        )
    storage.write(f"{out}/mine", b"mine")
    with pytest.raises(RequestError, match="holds mine, .* no checkout put there"):
        call(job, "checkout", target=out, version=found[0])


def test_credentials_are_nowhere_but_in_the_call(world: S3World, caplog: pytest.LogCaptureFixture) -> None:
    world.access = world.access.model_copy(update={"password": "git-token-hush"})
    before = dict(os.environ)
    caplog.set_level("DEBUG", logger="mlops_provider")
    versioned(world, DAY)
    everything = git(world, "grep", "-I", "-e", "", *git(world, "rev-list", "--all").split())
    for secret in ("secret_access", "access_key", "git-token-hush"):
        assert secret not in everything + caplog.text
    assert dict(os.environ) == before
    assert not any("hush" in path.read_text(errors="ignore") for path in world.artifacts.rglob("*.json"))


@pytest.mark.parametrize("wrong", [{"secret": "hush"}, {"key": "nobody"}])
def test_wrong_credentials_are_told_before_anything_is_read(
    world: S3World,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, str],
) -> None:
    wanted = given(world, DAY)
    world.reached(world.access.remote, options, **wrong)
    monkeypatch.setattr(Storage, "download", lambda *_: pytest.fail("it was read"))
    with pytest.raises(AccessDenied, match=r"DVC remote s3://.* did not list") as caught:
        call(world.job(), "snapshot", **wanted)
    assert "hush" not in str(caught.value)
    assert git(world, "for-each-ref") == ""


def test_a_bucket_that_is_not_there_is_told(world: S3World, options: Options) -> None:
    world.reached("s3://no-such-bucket/dvc", options)
    with pytest.raises(ConfigError, match="there is no bucket 'no-such-bucket'"):
        versioned(world, DAY)


def test_a_server_that_is_not_there_is_worth_a_retry(world: S3World, options: Options) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.reached(world.access.remote, options, endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Transient, match="did not list"):
            versioned(world, DAY)


def test_a_missing_object_is_named(world: S3World) -> None:
    version = versioned(world, DAY)
    fs, path = Storage(world.access.storage_options).filesystem(version.uri)
    fs.rm_file(path)
    with pytest.raises(DataError, match=f"{version.tag}: {version.uri} is missing"):
        snapshot.read(world.job(), version)
    assert versioned(world, DAY) == version
    assert snapshot.read(world.job(), version).num_rows == version.rows


def test_a_damaged_object_is_named_and_mended_by_a_rerun(world: S3World) -> None:
    version, storage = versioned(world, DAY), Storage(world.access.storage_options)
    storage.write(version.uri, storage.read(version.uri)[::-1])
    with pytest.raises(DataError, match=f"{version.tag}.*damaged"):
        snapshot.read(world.job(), version)
    assert versioned(world, DAY) == version
    assert snapshot.read(world.job(), version).num_rows == version.rows


def test_garbage_on_s3_is_collected(world: S3World, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime as dt

    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    monkeypatch.setattr(garbage, "_now", lambda: later)
    registry_of(world).create_registered_model("tiny")
    old, new = (versioned(world, DAY, seed=seed) for seed in (1, 2))
    done = call(world.job(), "collect_garbage", keep=1, delete=True)
    assert [g.tag for g in done.garbage] == [old.tag]
    storage = Storage(world.access.storage_options)
    assert [storage.exists(one.uri) for one in (old, new)] == [False, True]


# The server goes away


class Line:
    """A line to a server that can be cut: after so many bytes towards it, nothing passes any more."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server, self.left = server, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.cut:
                client.close()
                continue
            server = socket.create_connection(self.server)
            for source, target, counts in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, counts), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while (data := source.recv(65536)) and not self.cut:
                if counts:
                    self.left -= len(data)
                    self.cut = self.cut or self.left < 0
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()


@pytest.fixture
def line(options: Options) -> Iterator[Line]:
    host, port = options["s3"]["endpoint_url"].removeprefix("http://").split(":")
    found = Line((host, int(port)))
    yield found
    found.listener.close()


def test_a_remote_that_goes_away_in_a_push_and_comes_back(
    world: S3World,
    options: Options,
    line: Line,
) -> None:
    patience = {"retries": {"max_attempts": 0}, "connect_timeout": 2, "read_timeout": 5}
    place = f"http://127.0.0.1:{line.port}"
    world.reached(world.access.remote, options, endpoint_url=place, config_kwargs=patience)
    line.left = 1 << 20
    with pytest.raises(Transient, match=r"DVC remote .* did not take"):
        versioned(world, DAY, rows=200_000)
    assert line.cut
    assert git(world, "for-each-ref") == ""
    assert world.records("data") == []
    line.cut, line.left = False, 1 << 30
    version = versioned(world, DAY, rows=200_000)
    assert snapshot.read(world.job(), version).num_rows == 200_000
