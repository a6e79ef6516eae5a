"""What is there and complete, what has been announced, and what versions a repository has."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlops_provider.arrivals import Cursor, Lookout, Repository, Source
from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, RequestError, Transient
from mlops_provider.sections import Completeness
from mlops_provider.storage import Storage

DAY = "2024-01-01"


class Watched:
    """A source in a folder, and somebody who looks at it."""

    def __init__(self, root: Path, name: str = "{partition}/rows.parquet", **when: Any) -> None:
        self.root, self.name = root, name
        self.source = Source(uri=f"{root}/{name}", frequency="daily", when=Completeness(**when))
        self.lookout = Lookout(self.source)

    def file(self, day: str = DAY, name: str | None = None) -> Path:
        path = Path(self.root, (name or self.name).replace("{partition}", day))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, content: bytes = b"rows", day: str = DAY, name: str | None = None) -> Path:
        path = self.file(day, name)
        path.write_bytes(content)
        return path

    def table(self, rows: int, day: str = DAY, name: str | None = None) -> Path:
        pq.write_table(pa.table({"id": list(range(rows))}), path := self.file(day, name))
        return path

    def look(self) -> list[str]:
        return sorted(self.lookout.look(Storage()))


# --- complete ------------------------------------------------------------------------------------------------------


def test_a_file_is_complete_once_two_looks_find_it_the_same(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert watched.look() == []
    watched.put()
    assert watched.look() == []
    assert watched.lookout.waits == {DAY: "its files may still change"}
    assert watched.look() == [DAY]
    assert watched.lookout.waits == {}


def test_a_file_that_grows_is_never_complete(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for size in range(1, 5):
        watched.put(b"x" * size)
        assert watched.look() == []
    assert watched.look() == [DAY]


def test_a_file_that_is_replaced_by_one_of_its_size_and_age_has_changed(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    first = watched.put(b"one")
    watched.look()
    before = watched.lookout.look(Storage())[DAY]
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    other.replace(first)
    assert watched.look() == []
    assert watched.lookout.look(Storage())[DAY] != before


def test_an_empty_file_is_not_there(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.put(b"")
    assert [watched.look(), watched.look(), watched.lookout.before] == [[], [], {}]


def test_a_lookout_goes_on_from_what_another_saw(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.put()
    watched.look()
    assert list(Lookout(watched.source, watched.lookout.before).look(Storage())) == [DAY]


def test_a_marker_makes_a_partition_complete_at_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path, complete="marker")
    watched.put()
    assert watched.look() == []
    assert watched.lookout.waits == {DAY: "its marker is not there"}
    watched.file().with_name("_SUCCESS").touch()
    assert watched.look() == [DAY]


def test_a_marker_that_is_older_than_the_files_does_not_count(tmp_path: Path) -> None:
    watched = Watched(tmp_path, complete="marker")
    file, marker = watched.put(), watched.file().with_name("_SUCCESS")
    marker.touch()
    os.utime(marker, (1, 1))
    assert watched.look() == []
    assert watched.lookout.waits == {DAY: "its marker is older than its files"}
    os.utime(file, (1, 1))
    assert watched.look() == [DAY]


def test_a_marker_may_carry_the_partition_in_its_name(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "{partition}.parquet", complete="marker", marker="{partition}.done")
    watched.put()
    tmp_path.joinpath("2024-01-02.done").touch()
    assert watched.look() == []
    tmp_path.joinpath(f"{DAY}.done").touch()
    assert watched.look() == [DAY]


def test_a_marker_for_all_partitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="all partitions of .* would share .*_SUCCESS: put {partition}"):
        Watched(tmp_path, "{partition}.parquet", complete="marker")


@pytest.mark.parametrize(("rows", "found"), [(9, []), (10, [DAY])])
def test_rows_are_counted(tmp_path: Path, rows: int, found: list[str]) -> None:
    watched = Watched(tmp_path, complete="rows", rows=10)
    watched.table(rows)
    assert [watched.look(), watched.look()] == [[], found]
    assert watched.lookout.waits == ({} if found else {DAY: "9 rows, 10 are asked for"})


def test_half_a_parquet_file_has_no_rows_even_if_it_stays_as_it_is(tmp_path: Path) -> None:
    watched = Watched(tmp_path, complete="rows")
    path = watched.table(100)
    path.write_bytes(path.read_bytes()[:-20])
    assert [watched.look(), watched.look()] == [[], []]
    assert watched.lookout.waits == {DAY: "it is not readable as parquet"}


def test_a_folder_is_complete_once_no_file_in_it_changes(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "{partition}/", complete="rows", rows=5)
    watched.table(3, name="{partition}/a.parquet")
    assert [watched.look(), watched.look()] == [[], []]
    watched.table(2, name="{partition}/part=1/b.parquet")
    assert [watched.look(), watched.look()] == [[], [DAY]]
    watched.put(b"half", name="{partition}/.c.parquet.tmp")
    watched.put(b"", name="{partition}/_SUCCESS")
    assert watched.look() == [DAY]


def test_a_folder_has_its_marker_in_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "{partition}/", complete="marker")
    watched.put(name="{partition}/a.parquet")
    assert watched.look() == []
    watched.put(b"", name="{partition}/_SUCCESS")
    assert watched.look() == [DAY]


def test_only_partitions_are_found(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "{partition}/{partition}.parquet")
    for name in (DAY, "2024-01-32", "2024-02", "latest"):
        watched.put(day=name)
    watched.put(name="2024-01-03/2024-01-04.parquet")
    assert [watched.look(), watched.look()] == [[], [DAY]]


def test_one_partition_may_be_asked_for(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for day in (DAY, "2024-01-02"):
        watched.put(day=day)
    lookout = Lookout(watched.source.model_copy(update={"partition": "2024-01-02"}))
    assert [list(lookout.look(Storage())) for _ in range(2)] == [[], ["2024-01-02"]]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("/data/rows.parquet", "must hold {partition}"),
        ("/data/*/{partition}.parquet", r"must not hold \*"),
        ("http://me:secret@host/{partition}", "must not hold credentials"),
    ],
)
def test_a_source_that_cannot_be_watched_is_refused(uri: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Source(uri=uri, frequency="daily")


def test_a_partition_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="'yesterday' is no daily partition"):
        Source(uri="/data/{partition}", frequency="daily", partition="yesterday")


# --- announced -----------------------------------------------------------------------------------------------------

LOOKS = st.lists(
    st.dictionaries(st.sampled_from([f"2024-01-{day:02}" for day in range(1, 13)]), st.sampled_from("abc")), max_size=12
)


@given(looks=LOOKS)
def test_each_change_is_announced_once_whenever_the_cursor_is_stored_and_read(looks: list[dict[str, str]]) -> None:
    cursor, last = Cursor(), dict[str, str]()
    for look in looks:
        assert cursor.news(look) == sorted(name for name, token in look.items() if last.get(name) != token)
        cursor = Cursor.model_validate_json(cursor.after(look).model_dump_json())
        assert cursor.news(look) == []
        last |= look


@given(looks=st.lists(st.sets(st.sampled_from([f"2024-01-{day:02}" for day in range(1, 13)])), max_size=12))
def test_a_short_memory_forgets_the_oldest_and_announces_nothing_twice(looks: list[set[str]]) -> None:
    cursor = Cursor()
    announced: list[str] = []
    for look in (dict.fromkeys(days, "same") for days in looks):
        announced += cursor.news(look)
        cursor = cursor.after(look, remembered=3)
        assert len(cursor.seen) <= 3
        assert all(name > cursor.floor for name in cursor.seen)
    assert len(announced) == len(set(announced))


# --- versions ------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q", "--template=")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    git(folder, "tag", "flights/2013-01/abc")
    git(folder, "commit", "-q", "--allow-empty", "-m", "second")
    git(folder, "tag", "-a", "-m", "annotated", "flights/2013-02/def")
    git(folder, "tag", "trains/2013-01/abc")
    return folder


def test_versions_are_the_tags_that_fit(repository: Path) -> None:
    versions = Repository(uri=str(repository), tags="flights/*").versions()
    assert versions == {
        "flights/2013-01/abc": git(repository, "rev-parse", "HEAD~1"),
        "flights/2013-02/def": git(repository, "rev-parse", "HEAD"),
    }


def test_versions_are_the_commits_of_a_branch(repository: Path) -> None:
    assert Repository(uri=str(repository), branch="main").versions() == {"main": git(repository, "rev-parse", "HEAD")}
    assert Repository(uri=str(repository), branch="other").versions() == {}


def test_a_repository_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="nowhere"):
        Repository(uri=str(tmp_path / "nowhere")).versions()


@pytest.mark.parametrize("uri", ["--upload-pack=touch /tmp/x", "ext::sh -c id", "https://me:secret@host/repository"])
def test_a_repository_that_would_run_or_tell_something_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected a path|credentials go into a connection"):
        Repository(uri=uri)


class _Refusing(BaseHTTPRequestHandler):
    asked: list[str | None] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/repository.git"
    server.shutdown()
    thread.join()
    server.server_close()


def test_credentials_reach_the_server_and_nothing_that_is_said(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(AccessDenied, match="Check the credentials in the connection") as refused:
        Repository(uri=refusing).versions(DvcAccess(username="me", password="secret"))
    assert f"Basic {base64.b64encode(b'me:secret').decode()}" in _Refusing.asked
    assert "secret" not in str(refused.value)
