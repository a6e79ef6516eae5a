"""Which versions are looked for, and what an MLflow server that does not behave comes to."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from mlops_provider.deployment import MlflowAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, MlopsError, RequestError, Transient
from mlops_provider.tracking import Server, Wanted

EVERY = {
    "staging.churn/": "4",
    "staging.churn/champion": "3",
    "fraud/": "2",
    "fraud/champion": "2",
    "fraud/shadow": "1",
}


def server(*answers: httpx.Response, asked: list[Any] | None = None, **access: str) -> Any:
    """A server that gives these answers, one after the other."""
    left = iter(answers)

    def get(url: str, **given: Any) -> httpx.Response:
        if asked is not None:
            asked.append((url, given))
        return next(left)

    return patch.object(httpx, "get", get), Server(MlflowAccess(uri="http://mlflow", **access))


def said(status: int, content: Any) -> httpx.Response:
    return httpx.Response(status, text=content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"alias": "champion"}, [("fraud", 2), ("staging.churn", 3)]),
        ({"alias": "champion", "name": "staging.*"}, [("staging.churn", 3)]),
        ({"name": "fraud"}, [("fraud", 2)]),
        ({"alias": "nobody"}, []),
    ],
)
def test_what_is_looked_for_is_picked_out_of_the_look(wanted: dict[str, str], told: list[tuple[str, int]]) -> None:
    found = Wanted(**wanted).among(EVERY)
    assert Wanted(**wanted).told(found) == [{"model": model, "version": version} for model, version in told]
    assert Wanted(**wanted).back(Wanted(**wanted).told(found)) == found


def test_versions_with_a_tag_are_told_one_by_one_and_found_again() -> None:
    wanted = Wanted(tag="approved=yes")
    found = wanted.among({"fraud/2": "yes", "fraud/10": "yes"})
    assert wanted.told(found) == [{"model": "fraud", "version": 10}, {"model": "fraud", "version": 2}]
    assert wanted.back(wanted.told(found)) == found


@pytest.mark.parametrize(
    "given", [{"alias": "a", "tag": "b=c"}, {"tag": "approved"}, {"tag": "=yes"}, {"tag": "a='x' OR name"}, {"tag": ""}]
)
def test_what_cannot_be_looked_for_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give an alias or a tag|is no tag"):
        Wanted(**given)


def test_one_look_finds_the_newest_versions_and_the_aliases_of_all_models_over_all_pages() -> None:
    asked: list[Any] = []
    one = {
        "name": "a",
        "latest_versions": [{"version": "9"}, {"version": "10"}],
        "aliases": [{"alias": "x", "version": "2"}],
    }
    pages = [{"registered_models": [one], "next_page_token": "n"}, {"registered_models": [{"name": "empty"}]}]
    patched, mlflow = server(*(said(200, page) for page in pages), asked=asked, token="t")
    with patched:
        assert mlflow.registered() == {"a/": "10", "a/x": "2"}
    assert [given["params"].get("page_token") for _, given in asked] == [None, "n"]
    assert all(given["headers"] == {"Authorization": "Bearer t"} for _, given in asked)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (said(401, "who are you"), AccessDenied),
        (said(403, "not you"), AccessDenied),
        (said(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}), RequestError),
        (said(404, "<html>"), MlopsError),
        (said(200, "<html>"), MlopsError),
        (said(302, ""), MlopsError),
        (said(429, ""), Transient),
        (said(503, ""), Transient),
    ],
)
def test_an_answer_that_is_none_says_whether_waiting_helps(answer: httpx.Response, error: type[Exception]) -> None:
    patched, mlflow = server(answer, token="s3cret")
    with patched, pytest.raises(error) as caught:
        mlflow.ended("run")
    assert type(caught.value) is error
    assert "http://mlflow" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_waited_for_and_an_address_that_is_none_is_not() -> None:
    with pytest.raises(ConfigError, match="no address"):
        Server(MlflowAccess(uri="http://ml flow:port")).ended("run")
    with (
        patch.object(httpx, "get", side_effect=httpx.ConnectError("refused")),
        pytest.raises(Transient, match="refused"),
    ):
        Server(MlflowAccess(uri="http://mlflow")).ended("run")


@pytest.mark.parametrize(
    ("status", "ended"), [("RUNNING", None), ("SCHEDULED", None), ("FINISHED", "FINISHED"), ("KILLED", "KILLED")]
)
def test_a_run_has_ended_when_it_is_said_to(status: str, ended: str | None) -> None:
    patched, mlflow = server(said(200, {"run": {"info": {"status": status}}}))
    with patched:
        assert mlflow.ended("run") == ended
