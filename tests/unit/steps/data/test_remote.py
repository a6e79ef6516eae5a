"""The DVC remote: when an object counts as whole, and errors in our words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import AccessDenied, ConfigError, DataError, MlopsError, Transient
from mlops_provider.steps.data.remote import Remote

CONTENT = b"content"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    found = Remote(str(tmp_path / "dvc"), {})
    (tmp_path / "source").write_bytes(CONTENT)
    found.put(tmp_path / "source", MD5)
    return found


@pytest.mark.parametrize(
    ("etag", "reads", "whole"),
    [(MD5, False, True), (f"{MD5}-3", False, True), ("0" * 32, True, True), ("", True, True)],
    ids=["its md5", "in parts", "encrypted", "none"],
)
def test_an_object_is_whole(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, etag: str, reads: bool, whole: bool
) -> None:
    opened: list[str] = []
    open_ = remote.storage.open
    monkeypatch.setattr(remote.storage, "open", lambda uri: (opened.append(uri), open_(uri))[1])
    monkeypatch.setattr(remote, "_info", lambda md5: {"size": len(CONTENT), "ETag": f'"{etag}"'})
    assert (remote.intact(MD5, len(CONTENT)), bool(opened)) == (whole, reads)


def test_an_object_is_not_whole(remote: Remote) -> None:
    file = Path(remote.uri(MD5))
    file.chmod(0o644)
    assert not remote.intact(MD5, len(CONTENT) + 1)
    file.write_bytes(CONTENT[::-1])
    assert not remote.intact(MD5, len(CONTENT))
    file.unlink()
    assert not remote.intact(MD5, len(CONTENT))


class NoCredentialsError(Exception):
    """As botocore has it."""


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (PermissionError("x"), AccessDenied),
        (NoCredentialsError("x"), AccessDenied),
        (FileNotFoundError("x"), DataError),
        (OSError(28, "No space left on device"), Transient),
        (TimeoutError("x"), Transient),
        (ConfigError("x"), ConfigError),
    ],
)
def test_errors_say_whether_a_retry_is_of_use(remote: Remote, error: Exception, ours: type[MlopsError]) -> None:
    with pytest.raises(ours), remote._translated("take", remote.uri(MD5)):
        raise error


def test_an_error_of_our_own_making_stays_what_it_is(remote: Remote) -> None:
    with pytest.raises(ZeroDivisionError), remote._translated("take", remote.uri(MD5)):
        _ = 1 / 0


def test_a_remote_of_another_kind_of_store_names_its_endpoint_for_dvc_and_no_secret() -> None:
    options: dict[str, dict[str, Any]] = {"s3": {"key": "k", "secret": "hush", "client_kwargs": {"endpoint_url": "e"}}}
    assert Remote("s3://bucket/dvc/", options).for_dvc == {"url": "s3://bucket/dvc", "endpointurl": "e"}
    assert Remote("file:///srv/dvc", {}).for_dvc == {"url": "/srv/dvc"}


def test_a_partial_upload_is_never_seen(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.data import remote as module

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    other = hashlib.md5(b"other").hexdigest()
    (tmp_path / "source").write_bytes(b"other")
    with pytest.raises(Transient, match="No space left"):
        remote.put(tmp_path / "source", other)
    assert remote.size(other) is None
    assert [path.name for path in (tmp_path / "dvc").rglob("*") if path.is_file()] == [MD5[2:]]
