"""Folders that hold exactly what was brought, on local files and on an object store; what is not ours stays."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest

from mlops_provider.exceptions import AccessDenied, RequestError, Transient
from mlops_provider.steps.data import delivery
from mlops_provider.storage import Storage, join

STORAGE = Storage({})


@pytest.fixture(params=["local", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out" / "data") if request.param == "local" else f"memory://{uuid.uuid4().hex}/data"


def bring(target: str, tmp_path: Path, files: dict[str, str]) -> None:
    content = tmp_path / uuid.uuid4().hex
    for name, text in files.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text)
    with delivery.translated(target):
        delivery.folder(STORAGE, content, {name: md5(text) for name, text in files.items()}, target)


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def there(target: str) -> dict[str, str]:
    fs, path = STORAGE.filesystem(target)
    root = path.rstrip("/") + "/"
    return {str(name).removeprefix(root): fs.cat_file(name).decode() for name in fs.find(path)}


ONE = {"a": "1", "deep/b": "2", "deep/c": "3"}
TWO = {"a": "1 anew", "other/d": "4"}


def test_each_version_is_there_whole_and_alone(target: str, tmp_path: Path) -> None:
    for files in (ONE, TWO, ONE, {}, TWO):
        bring(target, tmp_path, files)
        assert there(target) == files


def test_a_file_gives_way_to_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    for files in ({"a": "1"}, {"a/b": "2"}, {"a": "3"}):
        bring(str(tmp_path / "out"), tmp_path, files)
        assert there(str(tmp_path / "out")) == files
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a"]


@pytest.mark.parametrize("name", ["mine", "deep/mine", ".hidden"])
def test_a_file_that_no_checkout_put_there_stays_and_nothing_is_written(target: str, name: str, tmp_path: Path) -> None:
    STORAGE.write(join(target, name), b"mine")
    with pytest.raises(RequestError, match=rf"holds {name}, .* no checkout put there: it is not removed"):
        bring(target, tmp_path, ONE)
    assert there(target) == {name: "mine"}
    STORAGE.filesystem(target)[0].rm_file(STORAGE.filesystem(join(target, name))[1])
    bring(target, tmp_path, ONE)
    STORAGE.write(join(target, name), b"mine")
    with pytest.raises(RequestError, match="no checkout put there"):
        bring(target, tmp_path, TWO)
    assert there(target) == ONE | {name: "mine"}


def test_a_file_that_was_changed_since_stays(target: str, tmp_path: Path) -> None:
    bring(target, tmp_path, ONE)
    STORAGE.write(join(target, "deep/b"), b"edited")
    with pytest.raises(RequestError, match="holds deep/b, .* was changed since a checkout put it there"):
        bring(target, tmp_path, TWO)
    assert there(target) == ONE | {"deep/b": "edited"}
    bring(target, tmp_path, ONE)  # of a name that is the version's: it is mended
    assert there(target) == ONE


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "deep").symlink_to(elsewhere)
    with pytest.raises(RequestError, match="holds deep, .* no checkout put there"):
        bring(str(out), tmp_path, ONE)
    assert list(elsewhere.iterdir()) == []
    (out / "deep").unlink()
    (elsewhere / "a").write_text("1")
    (out / "a").symlink_to(elsewhere / "a")
    bring(str(out), tmp_path, ONE)
    assert not (out / "a").is_symlink()


def test_a_checkout_that_was_killed_is_finished_by_the_next(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(target, tmp_path, ONE)
    put = delivery.file

    def killed(storage: Storage, content: Path, uri: str) -> None:
        put(storage, content, uri)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delivery, "file", killed)
        bring(target, tmp_path, TWO)
    bring(target, tmp_path, {"z": "26"})
    assert there(target) == {"z": "26"}


def test_what_a_kill_left_of_a_copy_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = str(tmp_path / "out")

    def killed(source: Path, copy: Path) -> None:
        left = copy.parent.with_name(".mlops-abcd_123") / copy.name  # a kill leaves it; here the folder is cleaned up
        left.parent.mkdir()
        left.write_text("hal")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delivery.shutil, "copyfile", killed)
        bring(target, tmp_path, ONE)
    assert there(target) == {".mlops-abcd_123/file": "hal"}
    bring(target, tmp_path, ONE)
    assert there(target) == ONE


@pytest.mark.parametrize("said", ["{", "[]", '{"deep/b": 3}'])
def test_a_list_that_cannot_be_read_lets_nothing_be_removed(target: str, said: str, tmp_path: Path) -> None:
    bring(target, tmp_path, ONE)
    STORAGE.write(delivery._list_of(STORAGE, target), said.encode())
    with pytest.raises(RequestError, match="no checkout put there"):
        bring(target, tmp_path, TWO)
    assert there(target) == ONE


def test_a_place_beside_which_nothing_can_be_written_takes_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert [delivery._list_of(STORAGE, uri) for uri in ("s3://bucket", "s3://bucket/a", "/", "/a")] == [
        "",
        "s3://bucket/.a.mlops-checkout.json",
        "",
        "/.a.mlops-checkout.json",
    ]

    def denied(*_: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(Storage, "write", denied)
    target = str(tmp_path / "out")
    bring(target, tmp_path, ONE)
    bring(target, tmp_path, ONE)
    assert "will take no other version" in caplog.text
    with pytest.raises(RequestError, match="no checkout put there"):
        bring(target, tmp_path, TWO)


def test_a_file_in_place_of_the_folder_is_told(target: str, tmp_path: Path) -> None:
    STORAGE.write(target, b"a file")
    with pytest.raises(RequestError, match="is a file, and the version is a folder"):
        bring(target, tmp_path, ONE)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError("no"), AccessDenied),
        (OSError(28, "No space left"), Transient),
        (IsADirectoryError(), RequestError),
    ],
)
def test_only_what_may_pass_is_worth_a_retry(error: OSError, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="nothing can be put at x"), delivery.translated("x"):
        raise error
