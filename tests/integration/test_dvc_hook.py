"""The connection type `dvc`: its fields, its Test button, and git with a password."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError
from mlops_provider.get_provider_info import get_provider_info
from mlops_provider.hooks.dvc import _FIELDS, DvcHook
from mlops_provider.steps.data.remote import Remote
from mlops_provider.steps.data.repository import Repository
from tests.integration.servers import Options

TOKEN = "token-hush"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a connection into the environment, as Airflow's Test button does; returns its hook."""

    def put(name: str = "data", **given: Any) -> DvcHook:
        extra = given.pop("extra", {})
        made = Connection(conn_id=name, conn_type=given.pop("conn_type", "dvc"), extra=json.dumps(extra), **given)
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", made.get_uri())
        return DvcHook(name)

    return put


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "repository.git"
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(path)], check=True)
    return path


def test_a_connection_becomes_places_and_credentials(connection: Any) -> None:
    extra = {"repository": "https://git.example.com/data.git", "remote": "/srv/dvc", "private_key": "KEY\nLINE"}
    access = connection(login="ann", password=TOKEN, extra=extra).get_conn()
    assert access == DvcAccess(**extra, username="ann", password=TOKEN)
    assert TOKEN not in repr(access)


@pytest.mark.parametrize("lost", [" ", "", "\\n"], ids=["spaces", "nothing", "letters"])
def test_a_key_pasted_into_one_line_is_whole_again(connection: Any, tmp_path: Path, lost: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    key = (tmp_path / "key").read_text()
    access = connection(extra={"private_key": lost.join(key.splitlines())}).get_conn()
    assert access.private_key.strip() == key.strip()


def test_empty_fields_leave_the_places_of_the_model(connection: Any) -> None:
    assert connection(extra={"repository": "", "remote": None}).get_conn() == DvcAccess()


def test_the_credentials_for_s3_are_those_of_the_aws_connection(connection: Any, options: Options) -> None:
    s3 = options["s3"]
    connection(
        "store", conn_type="aws", login=s3["key"], password=s3["secret"], extra={"endpoint_url": s3["endpoint_url"]}
    )
    access = connection(extra={"remote": "s3://mlops/hook/dvc", "aws_conn_id": "store"}).get_conn()
    assert (access.storage_options["s3"]["key"], access.storage_options["s3"]["secret"]) == (s3["key"], s3["secret"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"extra": {"tokn": "x"}}, "has tokn in its extra; known are repository"), ({"login": "ann"}, "no password")],
)
def test_what_is_not_known_is_refused(connection: Any, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        connection(**given).get_conn()


def test_the_fields_of_the_form_are_those_that_the_hook_reads() -> None:
    (described,) = [one for one in get_provider_info()["connection-types"] if one["connection-type"] == "dvc"]
    assert described["hook-class-name"] == f"{DvcHook.__module__}.{DvcHook.__qualname__}"
    assert (described["connection-type"], described["hook-name"]) == (DvcHook.conn_type, DvcHook.hook_name)
    assert set(described["conn-fields"]) == set(_FIELDS)
    assert described["conn-fields"]["private_key"]["schema"]["format"] == "password"


def test_airflow_masks_the_key_and_the_password() -> None:
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

    assert [should_hide_value_for_key(name) for name in ("private_key", "password", "repository")] == [
        True,
        True,
        False,
    ]


# The Test button


def test_good_places_answer(connection: Any, bare: Path, tmp_path: Path) -> None:
    extra = {"repository": str(bare), "remote": str(tmp_path / "dvc")}
    assert connection(extra=extra).test_connection() == (True, f"{bare} and {tmp_path / 'dvc'} answer.")


def test_the_button_of_airflow_finds_the_hook(
    monkeypatch: pytest.MonkeyPatch, bare: Path, tmp_path: Path, airflow_home: Path
) -> None:
    from airflow.models.connection import Connection as Stored

    extra = {"repository": str(bare), "remote": str(tmp_path / "dvc")}
    stored = Stored(conn_id="transient", conn_type="dvc", extra=json.dumps(extra))
    monkeypatch.setenv("AIRFLOW_CONN_TRANSIENT", stored.get_uri())
    assert stored.test_connection()[0] is True


@pytest.mark.parametrize(
    ("repository", "remote", "expected"),
    [
        ("", "/srv/dvc", "Name the repository and the remote"),
        ("/nowhere.git", "/srv/dvc", "git ls-remote failed"),
        ("https://ann:hush@git.example.com/x.git", "/srv/dvc", "credentials go into a connection"),
        ("ext::sh -c id", "/srv/dvc", "ext"),
    ],
)
def test_bad_places_do_not(connection: Any, repository: str, remote: str, expected: str) -> None:
    good, said = connection(extra={"repository": repository, "remote": remote}).test_connection()
    assert good is False
    assert expected in said
    assert "hush" not in said


def test_wrong_keys_for_s3_do_not(connection: Any, bare: Path, options: Options) -> None:
    extra = {"repository": str(bare), "remote": "s3://mlops/hook/dvc", "aws_conn_id": "store"}
    endpoint = {"endpoint_url": options["s3"]["endpoint_url"]}
    for password, expected in ((options["s3"]["secret"], True), ("wrong", False)):
        connection("store", conn_type="aws", login=options["s3"]["key"], password=password, extra=endpoint)
        assert connection(extra=extra).test_connection()[0] is expected


# Git over http, with a password


class Backend(BaseHTTPRequestHandler):
    """git's own CGI program behind a password."""

    root = ""
    read_only = False

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        expected = base64.b64encode(f"ann:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        if self.read_only and "git-receive-pack" in self.path:
            self.send_error(403)
            return
        environ = os.environ | {
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "ann",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environ, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the repository behind a password."""
    subprocess.run(["git", "-C", str(bare), "config", "http.receivepack", "true"], check=True)
    monkeypatch.setattr(Backend, "root", str(bare.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/repository.git"
    server.shutdown()
    server.server_close()


def reached(url: str, tmp_path: Path, **access: str) -> Repository:
    return Repository(url, Remote(str(tmp_path / "dvc"), {}), DvcAccess(**access))  # type: ignore[arg-type]


def test_a_version_goes_through_git_with_a_password(served: str, bare: Path, tmp_path: Path) -> None:
    repository = reached(served, tmp_path, username="ann", password=TOKEN)
    repository.probe()
    for text in ("one", "two"):
        (tmp_path / "source").write_text(text)
        stored = repository.add(tmp_path / "source", "tables/a.csv", "test")
        assert repository.find("tables/a.csv", tag=stored.tag)[1:3] == (stored.rev, stored.pointer)
        assert repository.find("tables/a.csv", rev=stored.rev)[1:3] == (stored.rev, stored.pointer)
    shown = subprocess.run(["git", "-C", str(bare), "log", "-p", "--all"], capture_output=True, text=True, check=True)
    assert TOKEN not in shown.stdout


@pytest.mark.parametrize(
    "access", [{}, {"username": "ann", "password": "hush"}, {"username": "bob", "password": TOKEN}]
)
def test_a_wrong_password_is_told_at_once_and_not_shown(served: str, tmp_path: Path, access: dict[str, str]) -> None:
    with pytest.raises(AccessDenied, match="Check the credentials") as caught:
        reached(served, tmp_path, **access).probe()
    assert not any(secret in str(caught.value) for secret in ("hush", TOKEN))


def test_a_password_that_may_only_read_is_found_out_before_any_work(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = reached(served, tmp_path, username="ann", password=TOKEN)
    repository.probe(write=True)
    monkeypatch.setattr(Backend, "read_only", True)
    repository.probe()
    with pytest.raises(AccessDenied, match=r"git push failed for .*403.*Check the credentials"):
        repository.probe(write=True)


# The operator


def test_a_dag_versions_and_checks_out_through_the_connection(
    house: Any, connection: Any, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import DAG

    from mlops_provider.operators.data import CheckoutDataOperator
    from tests.integration.house import deliver_tiny
    from tests.support.tiny import DAYS, write_model

    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    extra = {"repository": served, "remote": str(tmp_path / "elsewhere")}
    connection("dvc_data", login="ann", password=TOKEN, extra=extra)
    monkeypatch.setenv("AIRFLOW__MLOPS__DVC_CONN_ID", "dvc_data")
    run = house.run("tiny", "ci")
    assert run.state == "success", run.said()
    (record,) = house.ledger("tiny", "data")
    version = record.facts["data"]
    assert version["uri"].startswith(str(tmp_path / "elsewhere"))
    with DAG("own_checkout", schedule=None) as dag:
        CheckoutDataOperator(task_id="out", model="tiny", tag=version["tag"], target=str(tmp_path / "out.parquet"))
    run = house.tested(dag)
    assert run.state == "success", run.said()
    assert run.task("out").result["md5"] == version["md5"]
    assert (tmp_path / "out.parquet").stat().st_size == version["size"]


def test_a_wrong_password_fails_the_task_at_once(
    house: Any, connection: Any, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.house import deliver_tiny
    from tests.support.tiny import DAYS, write_model

    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    connection("dvc_data", login="ann", password="hush", extra={"repository": served, "remote": str(tmp_path / "x")})
    monkeypatch.setenv("AIRFLOW__MLOPS__DVC_CONN_ID", "dvc_data")
    run = house.run("tiny", "ci", retries=2)
    assert run.task("partition.snapshot", 0).tries == 1
    assert "AccessDenied" in str(run.errors)
    assert house.ledger("tiny", "data") == []
