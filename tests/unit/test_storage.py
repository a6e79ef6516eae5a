"""Files by URI: created once, replaced whole, verified by hash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_provider.exceptions import DataError, IntegrityError, Transient
from mlops_provider.storage import Artifact, Storage, canonical_json, digest, join
from tests.support.workers import content, create_many, together


@pytest.fixture
def storage() -> Storage:
    return Storage()


def test_a_file_is_created_once(storage: Storage, tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "down" / "file")
    assert [storage.create(uri, b"first"), storage.create(uri, b"second")] == [True, False]
    assert storage.read(uri) == b"first"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_local_files_go_by_path_or_uri(storage: Storage, tmp_path: Path, scheme: str) -> None:
    uri = f"{scheme}{tmp_path}/file"
    written = storage.write(uri, b"content")
    assert storage.fetch(written) == b"content"
    assert storage.describe(uri) == written
    assert (tmp_path / "file").read_bytes() == b"content"


def test_one_of_many_threads_creates_a_file(storage: Storage, tmp_path: Path) -> None:
    uris = [str(tmp_path / f"{number}.bin") for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        for uri in uris:
            won = list(pool.map(lambda writer, uri=uri: storage.create(uri, content(writer)), range(8)))
            assert won.count(True) == 1
            assert storage.read(uri) == content(won.index(True))


def test_one_of_many_processes_creates_a_file(storage: Storage, tmp_path: Path) -> None:
    won = together(4, create_many, {}, str(tmp_path), 50)
    for number in range(50):
        winners = [writer for writer in range(4) if won[writer][number]]
        assert len(winners) == 1
        assert storage.read(f"{tmp_path}/{number}.bin") == content(winners[0])


def test_a_reader_never_sees_a_part(storage: Storage, tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    storage.write(uri, content(0))
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [storage.write(uri, content(n % 2)) for n in range(100)])
        while not writing.done():
            assert storage.read(uri) in (content(0), content(1))


@pytest.mark.parametrize("how", ["create", "write", "upload"])
def test_nothing_is_left_beside_a_file(storage: Storage, tmp_path: Path, how: str) -> None:
    uri = str(tmp_path / "folder" / "file")
    source = tmp_path / "source"
    source.write_bytes(b"content")
    for _ in range(2):
        storage.upload(source, uri) if how == "upload" else getattr(storage, how)(uri, b"content")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o444 == 0o444


def test_an_upload_says_what_was_uploaded(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    found = storage.upload(source, str(tmp_path / "target"), rows=3)
    assert found == storage.describe(found.uri).model_copy(update={"rows": 3})


def test_a_replaced_file_is_found_out(storage: Storage, tmp_path: Path) -> None:
    written = storage.write(str(tmp_path / "file"), b"content")
    storage.write(written.uri, b"CONTENT")
    with pytest.raises(IntegrityError, match="file has changed"):
        storage.fetch(written)


@pytest.mark.parametrize("method", ["read", "describe", "read_json"])
def test_a_missing_file_is_named(storage: Storage, tmp_path: Path, method: str) -> None:
    with pytest.raises(DataError, match="nowhere.json does not exist"):
        getattr(storage, method)(str(tmp_path / "nowhere.json"))


def test_what_is_no_json_is_named(storage: Storage, tmp_path: Path) -> None:
    storage.write(str(tmp_path / "torn.json"), b'{"a": ')
    with pytest.raises(DataError, match="torn.json is not valid JSON"):
        storage.read_json(str(tmp_path / "torn.json"))


def test_names_are_sorted_and_none_in_a_folder_that_is_not_there(storage: Storage, tmp_path: Path) -> None:
    for name in ("b", "a", "c/d"):
        storage.write(str(tmp_path / name), b"")
    assert storage.names(str(tmp_path)) == ["a", "b", "c"]
    assert storage.names(str(tmp_path / "nowhere")) == []


def test_a_file_written_a_moment_ago_is_listed(storage: Storage, tmp_path: Path) -> None:
    for number in range(3):
        storage.write(str(tmp_path / str(number)), b"")
        assert len(storage.names(str(tmp_path))) == number + 1
        assert len(storage.names(str(tmp_path))) == number + 1


class BusyStore:
    """Answers puts as S3 does while another put of the same name is under way."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def pipe_file(self, path: str, content: bytes, mode: str) -> None:
        if self.answers and (code := self.answers.pop(0)):
            cause = RuntimeError()
            cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
            raise OSError(code) from cause


@pytest.mark.parametrize(
    ("answers", "created"),
    [(["ConditionalRequestConflict", "PreconditionFailed"], False), (["ConditionalRequestConflict", ""], True)],
)
def test_a_put_under_way_is_looked_at_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, answers: list[str], created: bool
) -> None:
    busy = BusyStore(*answers)
    monkeypatch.setattr(Storage, "filesystem", lambda *_: (busy, "bucket/name"))
    assert storage.create("s3://bucket/name", b"") is created
    assert not busy.answers


def test_a_put_that_stays_under_way_is_worth_a_retry(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_provider.storage.time.sleep", lambda _: None)
    busy = BusyStore(*["ConditionalRequestConflict"] * 9)
    monkeypatch.setattr(Storage, "filesystem", lambda *_: (busy, "bucket/name"))
    with pytest.raises(Transient, match="s3://bucket/name"):
        storage.create("s3://bucket/name", b"")


def test_options_go_by_protocol(tmp_path: Path) -> None:
    fs, _ = Storage({"file": {"auto_mkdir": True}}).filesystem(str(tmp_path))
    assert fs.auto_mkdir is True
    assert Storage().filesystem(str(tmp_path))[0].auto_mkdir is False


def test_equal_values_have_equal_bytes() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_joined_uris_have_single_slashes() -> None:
    assert join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"


def test_an_artifact_knows_its_fields() -> None:
    with pytest.raises(ValueError, match="extra"):
        Artifact(uri="a", hash="b", size=1, etag="c")  # type: ignore[call-arg]


@pytest.mark.parametrize("folder", ["plain", "a[1]", "b*", "c?d", "{partition}", "x#1 y%20z", "josé"])
@pytest.mark.parametrize("source", ["x/{}/file", "x/{}/", "{}.csv", "x/{}/of-{}.csv"])
def test_nothing_but_the_blank_is_a_pattern(storage: Storage, tmp_path: Path, folder: str, source: str) -> None:
    for name in ("one", "two"):
        place = tmp_path / folder / source.format(*2 * [name])
        place = place / "part" if source.endswith("/") else place
        storage.write(str(place), b"content")
    storage.write(str(tmp_path / folder / "x" / "other" / "of-one.csv.bak"), b"content")
    found = storage.filled(str(tmp_path / folder / source.replace("{}", "<>")), "<>")
    assert [name for name in found if name != "other"] == ["one", "two"]
    assert storage.filled(str(tmp_path / "absent" / "<>"), "<>") == []
