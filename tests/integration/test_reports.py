"""The page of a verdict in the UI: who may read it, what is served, and the link that leads to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from mlops_provider.links import ValidationReportLink, report_address
from tests.integration.house import House, deliver_tiny
from tests.support.tiny import DAYS, write_model

FILE = f"validation-{DAYS[0]}-history-0123456789ab.html"
PAGE = b"<!DOCTYPE html><title>a report</title>"


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tiny model's reports, with one in it and secrets beside it."""
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    folder = tmp_path / "artifacts" / "reports" / "tiny"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(PAGE)
    (folder.parent / FILE).write_bytes(b"secret")
    (tmp_path / "artifacts" / "ledger.html").write_bytes(b"secret")
    return folder


class Browser:
    """Asks the API server, as somebody or as nobody."""

    def __init__(self, app: Any) -> None:
        from fastapi.testclient import TestClient

        self._client = TestClient(app, base_url="http://testserver")

    def __call__(self, path: str, user: str | None = "admin", *, model: str = "tiny") -> Any:
        headers = {"Authorization": f"Bearer {_token(user)}"} if user else {}
        return self._client.get(f"/mlops-reports/{model}/{path}", headers=headers)


def _token(role: str) -> str:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return str(get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=role, role=role.upper())))


@pytest.fixture(scope="module")
def browser(airflow_home: Path) -> Iterator[Browser]:
    """The API server of an Airflow in which users have roles."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    purge_cached_app()
    with patch.dict(os.environ, {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False"}):
        yield Browser(create_app(apps="core"))
    purge_cached_app()


def test_a_user_reads_a_report_and_nothing_in_it_may_run(browser: Browser, reports: Path) -> None:
    answer = browser(FILE, "viewer")
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "sandbox" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [FILE, "validation-nothing.html", "", "x/y", "openapi.json"])
def test_nobody_gets_nothing(browser: Browser, reports: Path, path: str) -> None:
    answer = browser(path, None)
    assert answer.status_code in (401, 404)
    assert b"report</title>" not in answer.content


def test_anonymous_is_401(browser: Browser, reports: Path) -> None:
    assert browser(FILE, None).status_code == 401


def test_who_may_not_read_the_models_dag_may_not_read_its_reports(
    browser: Browser, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    asked = []

    def refuse(self: Any, *, method: str, details: Any = None, **others: Any) -> bool:
        asked.append((method, details.id))
        return False

    monkeypatch.setattr(type(get_auth_manager()), "is_authorized_dag", refuse)
    assert browser(FILE).status_code == 403
    assert asked == [("GET", "tiny.ci")]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("tiny", "..%2f" + FILE),
        ("tiny", "../" + FILE),
        ("tiny", "%2e%2e/" + FILE),
        ("..", FILE),
        ("%2e%2e", "ledger.html"),
        ("tiny", "..%2f..%2fledger.html"),
        ("tiny", "validation-..%2f..%2f..%2fledger.html"),
        ("tiny", "validation-%00.html"),
        ("tiny", "drift-2024.html"),
        ("tiny", ".html"),
        ("Tiny", FILE),
        ("other", FILE),
        ("tiny", "validation-gone.html"),
    ],
)
def test_only_reports_of_the_model_are_served(browser: Browser, reports: Path, model: str, path: str) -> None:
    (reports / "drift-2024.html").write_bytes(b"secret")
    answer = browser(path, model=model)
    # A client takes ".." out of an address by itself; then the UI's own page answers, with status 200.
    assert answer.status_code == 404 or b'<div id="root"' in answer.content
    assert b"secret" not in answer.content
    assert PAGE not in answer.content


def test_a_link_out_of_the_folder_is_not_followed(browser: Browser, reports: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_bytes(b"secret")
    (reports / "validation-link.html").symlink_to(tmp_path / "secret.html")
    answer = browser("validation-link.html")
    assert (answer.status_code, b"secret" in answer.content) == (404, False)


def test_loading_the_plugin_does_not_load_fastapi() -> None:
    script = "import mlops_provider.plugin, sys; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# the link


def test_a_report_has_an_address_in_the_ui() -> None:
    assert report_address("tiny", f"s3://bucket/reports/tiny/{FILE}").endswith(f"/mlops-reports/tiny/{FILE}")


@pytest.mark.parametrize("bad", [False, True])
def test_the_task_links_to_its_report_whether_it_passed_or_failed(house: House, bad: bool) -> None:
    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    assert house.loops("tiny").ci()
    deliver_tiny(house, DAYS[1])
    if bad:
        import pandas as pd

        file = house.data / "tiny" / DAYS[1] / "inputs.parquet"
        pd.read_parquet(file).assign(extra=1).to_parquet(file)
    run = house.run("tiny", "ci", partition=DAYS[1])
    assert run.task("partition.compare_history", 0).state == ("failed" if bad else "success")
    assert run.task("partition.snapshot", 0).state == ("upstream_failed" if bad else "success")
    address = _pushed(run, ValidationReportLink().xcom_key)
    file = house.artifacts / "reports" / "tiny" / str(address).rsplit("/", 1)[-1]
    told = file.read_text().replace("<wbr>", "")
    assert ("columns_added" in told, "failed" in told) == (True, bad)
    if bad:
        assert "columns_added" in run.said()
        assert house.ledger("tiny", "data")[-1].outcome == "refused"


def _pushed(run: Any, key: str) -> Any:
    """What the comparison of the newest run of tiny.ci pushed."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(XComModel).where(
            XComModel.dag_id == "tiny.ci", XComModel.task_id == "partition.compare_history", XComModel.key == key
        )
        row = session.scalars(query.order_by(XComModel.timestamp.desc())).first()
        return None if row is None else XComModel.deserialize_value(row)
