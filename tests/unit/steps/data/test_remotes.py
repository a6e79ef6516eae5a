"""A data repository with DVC remotes of its own: what they hold is read there, and needs nothing of ours."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import ConfigError, DataError, IntegrityError
from mlops_provider.steps.data import remotes, snapshot
from mlops_provider.steps.data.pointers import remotes_of
from mlops_provider.steps.data.remote import Pointer, Remote
from mlops_provider.steps.data.repository import repository
from tests.support.tiny import World, call
from tests.unit.steps.data.test_repository import Place, dvc, published
from tests.unit.steps.data.test_snapshot import data_versions

OURS = Remote(
    "s3://bucket/dvc", {"s3": {"key": "k", "client_kwargs": {"endpoint_url": "http://ours", "region_name": "r"}}}
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def theirs(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a team's, with a file and a folder in a remote of theirs."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(place.bare), str(clone)], check=True, capture_output=True)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    dvc("init", "-q")
    dvc("remote", "add", "-q", "-d", "team", str(tmp_path / "team"))
    (clone / "raw" / "deep").mkdir(parents=True)
    (clone / "raw" / "one").write_text("1")
    (clone / "raw" / "deep" / "two").write_text("2")
    (clone / "solo.csv").write_text("solo")
    dvc("add", "-q", "raw", "solo.csv")
    published("theirs")
    return clone


def got(place: Place, path: str, target: Path) -> str:
    found = place.repository.find(path, rev="main")
    found.remote.fetch(found.pointer, target, path)
    return found.remote.root


def test_what_plain_dvc_put_into_another_remote_is_read_there(place: Place, theirs: Path, tmp_path: Path) -> None:
    place.add("ours")
    assert got(place, "solo.csv", tmp_path / "out.csv") == str(tmp_path / "team")
    assert got(place, "raw", tmp_path / "out") == str(tmp_path / "team")
    assert (tmp_path / "out.csv").read_text() == "solo"
    assert {p.name: p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file()} == {"one": "1", "two": "2"}
    assert got(place, "tables/a.csv", tmp_path / "a.csv") == str(place.remote)


def test_a_folder_in_another_remote_is_no_obstacle_to_a_collection(place: Place, theirs: Path) -> None:
    folder = place.repository.find("raw", rev="main").pointer.md5
    place.add("ours")
    assert folder in place.repository.refs().named


def test_a_folder_that_lies_in_both_needs_its_files_in_ours(place: Place, theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "team", place.remote)
    assert hashlib.md5(b"1").hexdigest() in place.repository.refs().named


@pytest.mark.parametrize("default", ["", "[core]\n    remote = gone\n"])
def test_a_lost_listing_that_may_be_ours_stops_a_collection(place: Place, theirs: Path, default: str) -> None:
    (theirs / ".dvc" / "config").write_text(default)
    subprocess.run(["git", "-c", "user.name=p", "-c", "user.email=p@q", "commit", "-qam", "lost"], check=True)
    subprocess.run(["git", "push", "-q", "origin", "HEAD:main"], check=True)
    with pytest.raises(DataError, match=r"raw\.dvc names, is missing in the DVC remote.*dvc push"):
        place.repository.refs()


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "", "s3://bucket/dvc"),
        ("[core]\nremote = a\n['remote \"a\"']\nurl = s3://bucket/dvc/\n", "", "s3://bucket/dvc"),
        ("[core]\nremote = a\n['remote \"a\"']\nurl = s3://other/x\n", "", "s3://other/x"),
        ("[core]\nremote = a\n['remote \"a\"']\nurl = /a\n['remote \"b\"']\nurl = file:///b\n", "b", "file:///b"),
    ],
)
def test_the_pointer_says_which_remote_and_else_the_default_holds(text: str, name: str, expected: str) -> None:
    found = remotes.named(remotes.settings(text, "config"), name, OURS, "x")
    assert found.root == expected
    assert (found is OURS) == (expected == OURS.root)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("url = ../../team", "relative to somebody's clone"),
        ("url = ~/team", "relative to somebody's clone"),
        ("version_aware = true\nurl = s3://other/x", "cloud versioning"),
        ("url = ssh://host/x", "only local files, S3 and"),
        ("url = s3://a::file:///b", "only local files, S3 and"),
    ],
)
def test_a_remote_that_cannot_be_read_is_named(said: str, expected: str) -> None:
    known = remotes.settings(f"['remote \"a\"']\n{said}\n", "config")
    with pytest.raises(ConfigError, match=f"raw at main lies in the DVC remote 'a'.*{expected}"):
        remotes.named(known, "a", OURS, "raw at main")
    with pytest.raises(ConfigError, match=r"the DVC remote 'b', which \.dvc/config does not have"):
        remotes.named(known, "b", OURS, "raw at main")


def test_settings_that_cannot_be_read_are_told() -> None:
    with pytest.raises(IntegrityError, match="is not as DVC wants it"):
        remotes.settings("[core", ".dvc/config at x")


def test_another_endpoint_gets_our_keys_and_the_rest_stays() -> None:
    text = "['remote \"a\"']\nurl = s3://bucket/dvc\nendpointurl = http://theirs\n"
    found = remotes.named(remotes.settings(text, "config"), "a", OURS, "x")
    assert found.for_dvc == {"url": "s3://bucket/dvc", "endpointurl": "http://theirs"}
    assert found._options["s3"] == {"key": "k", "client_kwargs": {"region_name": "r"}, "endpoint_url": "http://theirs"}
    assert OURS.for_dvc["endpointurl"] == "http://ours"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outs:\n- {md5: a}\n- {md5: b, remote: r}", {"r"}),
        ("outs:\n- {md5: b}", {""}),
        ("stages: {}", {""}),
        ("{", {""}),
    ],
)
def test_the_remotes_that_a_pointer_names(text: str, expected: set[str]) -> None:
    assert remotes_of(text, "b") == expected


def test_a_place_that_is_recorded_is_read_unless_ours_has_the_content(tmp_path: Path) -> None:
    ours, pointer = Remote(str(tmp_path / "new"), {}), Pointer(md5="0" * 32)
    old = Remote(str(tmp_path / "old"), {}).uri(pointer.md5)
    assert remotes.recorded(old, pointer, ours, "v").root == str(tmp_path / "old")
    assert remotes.recorded("", pointer, ours, "v") is ours
    assert remotes.recorded(str(tmp_path / "old" / "else"), pointer, ours, "v") is ours
    Path(ours.uri(pointer.md5)).parent.mkdir(parents=True)
    Path(ours.uri(pointer.md5)).touch()
    assert remotes.recorded(old, pointer, ours, "v") is ours


# The remote in model.yaml changes


@pytest.fixture
def moved(accepted: World, tmp_path: Path) -> Any:
    """A job whose remote is new and empty, and a folder's version in the old one."""
    import pandas as pd

    (tmp_path / "sites").mkdir()
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "sites" / "1.parquet")
    version = call(accepted.job(), "snapshot_dataset", dataset=str(tmp_path / "sites"), name="sites").data
    return accepted.configure(data={"dvc": {"remote": str(tmp_path / "new")}}), version


def test_old_versions_are_read_where_they_were_put(accepted: World, moved: Any, tmp_path: Path) -> None:
    job, folder = moved
    version = data_versions(accepted)[0]
    assert snapshot.read(job, version).num_rows == version.rows
    out = str(tmp_path / "out")
    ways: list[dict[str, Any]] = [{"version": folder}, {"rev": folder.rev, "path": folder.path}, {"tag": folder.tag}]
    for way in ways:
        assert call(job, "checkout", target=out, **way).md5 == folder.md5
    assert folder.tag in repository(job).refs().tags
