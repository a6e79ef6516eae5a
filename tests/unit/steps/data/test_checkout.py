"""Checkout: an exact version at a place, or an error that names the object, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.checkout import CheckedOut
from mlops_provider.steps.data.remote import Pointer, Remote
from mlops_provider.steps.records import FeatureVersion
from tests.support.tiny import World, call
from tests.unit.steps.data.test_snapshot import changed, data_versions, stored, versioned


def checkout(world: World, **asked: Any) -> CheckedOut:
    found: CheckedOut = call(world.job(), "checkout", **{"target": str(world.root / "out.parquet")} | asked)
    return found


def asked_by(version: FeatureVersion, how: str) -> dict[str, Any]:
    ways: dict[str, dict[str, Any]] = {
        "version": {"version": version},
        "tag": {"tag": version.tag},
        "rev": {"rev": version.rev, "partition": version.partition},
        "path": {"rev": version.rev, "path": version.path},
    }
    return ways[how]


@pytest.mark.parametrize("how", ["version", "tag", "rev", "path"])
def test_an_exact_version_is_brought(accepted: World, how: str) -> None:
    version = data_versions(accepted)[0]
    changed(accepted)
    versioned(accepted)
    done = checkout(accepted, **asked_by(version, how))
    assert Path(done.uri).read_bytes() == stored(accepted, version).read_bytes()
    assert (done.rev, done.md5, done.size, done.files) == (version.rev, version.md5, version.size, 1)


def test_a_checkout_again_leaves_the_file_alone(accepted: World) -> None:
    version = data_versions(accepted)[0]
    path = Path(checkout(accepted, version=version).uri)
    before = path.stat()
    assert checkout(accepted, version=version).uri == str(path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(b"spoiled")
    checkout(accepted, version=version)
    assert path.read_bytes() == stored(accepted, version).read_bytes()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".mlops")] == []


def test_a_relative_target_lies_under_the_data_root(accepted: World) -> None:
    done = checkout(accepted, version=data_versions(accepted)[0], target="exports/a.parquet")
    assert done.uri == str(accepted.data / "exports" / "a.parquet")
    assert Path(done.uri).exists()


@pytest.mark.parametrize("how", ["version", "tag", "rev"])
def test_a_missing_object_is_named_and_nothing_is_written(accepted: World, how: str) -> None:
    version = data_versions(accepted)[0]
    stored(accepted, version).unlink()
    with pytest.raises(DataError, match=rf"{version.path} at {version.rev[:12]}.*{version.md5[2:]}.*is missing"):
        checkout(accepted, **asked_by(version, how))
    assert not (accepted.root / "out.parquet").exists()


def test_a_damaged_object_is_named_and_what_lies_there_stays(accepted: World) -> None:
    version, out = data_versions(accepted)[0], accepted.root / "out.parquet"
    out.write_bytes(b"of before")
    file = stored(accepted, version)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=rf"{version.md5[2:]} does not have the content.*damaged"):
        checkout(accepted, version=version)
    assert out.read_bytes() == b"of before"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "one of version, tag and rev"),
        ({"tag": "a/b", "rev": "0" * 40}, "one of version, tag and rev"),
        ({"rev": "0" * 40}, "give the partition, or the path"),
        ({"tag": "release-1"}, "give the partition, or the path"),
        ({"tag": "tiny/../x/aaa"}, "is no name"),
        ({"rev": "main~1", "path": "a"}, "is no name"),
    ],
)
def test_what_is_not_clear_is_refused(accepted: World, asked: dict[str, Any], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        checkout(accepted, **asked)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("", "name the target"),
        ("file/out.parquet", "a file is where a folder is"),
        ("folder", "is a folder"),
        ("x/", "is a"),
    ],
)
def test_a_target_that_cannot_take_a_file_is_refused_at_once(accepted: World, target: str, expected: str) -> None:
    (accepted.data / "file").write_text("in the way")
    (accepted.data / "folder").mkdir(exist_ok=True)
    with pytest.raises(RequestError, match=expected):
        checkout(accepted, version=data_versions(accepted)[0], target=target)


def test_a_folder_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    """A listing is data from outside: it must not choose where files go."""
    import hashlib
    import json

    remote = Remote(str(tmp_path / "dvc"), {})
    listing = json.dumps([{"md5": "0" * 32, "relpath": "../../evil"}]).encode()
    md5 = f"{hashlib.md5(listing).hexdigest()}.dir"
    file = Path(remote.uri(md5))
    file.parent.mkdir(parents=True)
    file.write_bytes(listing)
    with pytest.raises(DataError, match="outside"):
        remote.fetch(Pointer(md5=md5), tmp_path / "out", "folder")


@pytest.mark.parametrize("md5", ["", "../x", "a" * 31, "A" * 32, "a" * 32 + ".exe"])
def test_what_is_no_hash_is_no_address(tmp_path: Path, md5: str) -> None:
    with pytest.raises(DataError, match="is no md5"):
        Remote(str(tmp_path), {}).uri(md5)


def test_versions_of_old_records_are_read(accepted: World) -> None:
    """Records of earlier releases tell neither files, schema nor URI."""
    version = data_versions(accepted)[0]
    told = version.model_dump(mode="json", exclude={"files", "schema_hash", "uri"})
    old = FeatureVersion.model_validate(told)
    assert snapshot.read(accepted.job(), old).num_rows == version.rows
    assert checkout(accepted, version=old).md5 == version.md5
