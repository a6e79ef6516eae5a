"""Refs of the code repository: which are refused before git sees them, which commit they mean, who may be tested."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import AccessDenied, ConfigError, DataError, RequestError, Transient
from mlops_provider.modelcode import unpack
from mlops_provider.sections import Code
from mlops_provider.steps.data import commits
from mlops_provider.steps.data.commits import ResolvedCode
from mlops_provider.steps.step import Job
from tests.support.tiny import World, call, write_model

FOLDER = "include/models/tiny"


class Repository:
    """A bare repository with the tiny model in it, and a working copy to commit from."""

    def __init__(self, root: Path) -> None:
        self.bare, self.copy = root / "code.git", root / "copy"
        subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(self.bare)], check=True)
        subprocess.run(["git", "clone", "-q", str(self.bare), str(self.copy)], check=True, capture_output=True)
        write_model(self.copy / "include")
        self.main = self.commit("main", "The model")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.copy), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, branch: str, message: str, **files: str) -> str:
        """Commits files in the model's folder and pushes them to a branch."""
        for name, content in files.items():
            path = self.copy / FOLDER / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        self.git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def job(empty: World, repository: Repository) -> Job:
    return empty.configure(data={"code": {"repository": str(repository.bare)}})


def configured(world: World, repository: Repository, **code: Any) -> Job:
    return world.configure(data={"code": {"repository": str(repository.bare), **code}})


def resolved(job: Job, ref: str) -> ResolvedCode:
    found = call(job, "resolve_code", ref=ref)
    assert isinstance(found, ResolvedCode)
    return found


def test_a_branch_is_its_commit_of_now_and_the_model_there(job: Job, repository: Repository) -> None:
    found = resolved(job, "main")
    assert (found.commit.sha, found.commit.ref, found.commit.reviewed) == (repository.main, "main", True)
    later = repository.commit("main", "Change", features_py="CHANGED = True\n")
    again = resolved(job, "main")
    assert again.commit.sha == later
    assert again.code.sha256 != found.code.sha256
    assert unpack(again.code, job.storage).read("features.py") == b"CHANGED = True\n"


def test_the_code_of_a_commit_is_the_code_that_its_deployment_would_have(job: Job, empty: World) -> None:
    """So that the verdict on a commit is found again once the commit is deployed."""
    plain = empty.configure()
    assert resolved(job, "main").code == plain.model.ref


def test_an_earlier_commit_of_a_protected_branch_is_reviewed(job: Job, repository: Repository) -> None:
    repository.commit("main", "Change", features_py="CHANGED = True\n")
    found = resolved(job, repository.main)
    assert (found.commit.sha, found.commit.reviewed) == (repository.main, True)


def test_tags_mean_the_commit_that_they_point_to(job: Job, repository: Repository) -> None:
    repository.git("tag", "light")
    repository.git("tag", "-a", "-m", "annotated", "v1.0")
    repository.git("push", "-q", "--tags")
    assert {resolved(job, tag).commit.sha for tag in ("light", "v1.0")} == {repository.main}


def test_a_branch_that_was_not_merged_is_refused(job: Job, repository: Repository) -> None:
    sha = repository.commit("feature/x", "Mine", features_py="MINE = True\n")
    for ref in ("feature/x", sha):
        with pytest.raises(RequestError, match=f"{sha[:12]}.* is not reachable from main"):
            resolved(job, ref)


def test_a_branch_that_was_not_merged_is_tested_where_model_yaml_says_so(empty: World, repository: Repository) -> None:
    sha = repository.commit("feature/x", "Mine", features_py="MINE = True\n")
    job = configured(empty, repository, allow_untrusted_refs=True)
    for ref in ("feature/x", sha):
        found = resolved(job, ref).commit
        assert (found.sha, found.reviewed) == (sha, False)


def test_a_commit_of_nobody_is_refused(job: Job, empty: World, repository: Repository) -> None:
    with pytest.raises(RequestError, match="is not reachable"):
        resolved(job, "0" * 40)
    job = configured(empty, repository, allow_untrusted_refs=True)
    with pytest.raises(RequestError, match=r"not our ref 1{40}(.|\n)*Ask for a commit that is there"):
        resolved(job, "1" * 40)
    with pytest.raises(RequestError, match="has no branch or tag 'nowhere'"):
        resolved(job, "nowhere")


def test_a_commit_that_a_server_does_not_give_by_its_id_is_refused() -> None:
    """Git servers older than protocol 2 have words of their own for it."""
    said = f"error: Server does not allow request for unadvertised object {'1' * 40}"
    assert isinstance(commits._error("fetch", said), RequestError)


class Answer(BaseHTTPRequestHandler):
    """A git server that answers with the status that its address names."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AccessDenied, "terminal prompts disabled(.|\n)*a credential helper"),
        (403, AccessDenied, "error: 403"),
        (503, Transient, "error: 503"),
    ],
)
def test_a_refused_login_fails_at_once_and_a_server_in_trouble_is_asked_again(
    empty: World, server: str, status: int, error: type[Exception], said: str
) -> None:
    job = empty.configure(data={"code": {"repository": f"{server}/{status}/code.git"}})
    with pytest.raises(error, match=said):
        resolved(job, "main")


def test_a_wrong_password_fails_at_once_and_is_not_told(
    empty: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = "!echo username=ann; echo password=hush; :"
    for name, value in {"COUNT": "1", "KEY_0": "credential.helper", "VALUE_0": helper}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    job = empty.configure(data={"code": {"repository": f"{server}/401/code.git"}})
    with pytest.raises(AccessDenied, match="Authentication failed") as caught:
        resolved(job, "main")
    assert "hush" not in str(caught.value)


def test_a_server_that_is_down_is_asked_again(empty: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    job = empty.configure(data={"code": {"repository": f"http://127.0.0.1:{port}/code.git"}})
    with pytest.raises(Transient, match="git ls-remote failed"):
        resolved(job, "main")


@pytest.mark.parametrize(
    "ref",
    [
        "-main",
        "--upload-pack=touch /tmp/x",
        "",
        "main branch",
        "main\n",
        "a..b",
        "main@{1}",
        "main^",
        "main~1",
        ":main",
        "refs/*",
        "a//b",
        "main/",
        "main.lock",
        "ma\x00in",
        "$(id)",
        "+main:main",
        "m" * 300,
    ],
)
def test_what_is_no_ref_is_refused(ref: str) -> None:
    with pytest.raises(RequestError, match="is no ref"):
        commits.allowed(Code(refs="(?s).*"), ref)


@pytest.mark.parametrize("ref", ["feature", "xmain", "mainx", "release/x", "0" * 40])
def test_a_ref_that_the_pattern_does_not_match_is_refused(ref: str) -> None:
    with pytest.raises(RequestError, match=r"does not match data.code.refs"):
        commits.allowed(Code(refs=r"main|release/[0-9.]+"), ref)


@pytest.mark.parametrize("ref", ["main", "release/1.0"])
def test_a_ref_that_the_pattern_matches_is_looked_up(ref: str) -> None:
    commits.allowed(Code(refs=r"main|release/[0-9.]+"), ref)


@pytest.mark.parametrize("ref", ["-main", "feature"])
def test_what_is_refused_git_never_sees(empty: World, monkeypatch: pytest.MonkeyPatch, ref: str) -> None:
    job = empty.configure(data={"code": {"repository": "code.git", "refs": "main"}})
    monkeypatch.setattr(commits, "_git", None)
    with pytest.raises(RequestError, match="is no ref|does not match"):
        resolved(job, ref)


def test_a_name_of_both_a_branch_and_a_tag_is_refused(job: Job, repository: Repository) -> None:
    repository.git("tag", "main")
    repository.git("push", "-q", "origin", "refs/tags/main")
    with pytest.raises(RequestError, match="both a branch and a tag"):
        resolved(job, "main")


def test_without_a_repository_in_model_yaml_no_ref_is_taken(empty: World) -> None:
    with pytest.raises(RequestError, match=r"model.yaml names no data.code.repository"):
        resolved(empty.job(), "main")


def test_a_protected_branch_that_is_not_there_is_an_error(empty: World, repository: Repository) -> None:
    with pytest.raises(ConfigError, match="has no refs/heads/trunk"):
        resolved(configured(empty, repository, protected=["trunk"]), "main")


def test_a_repository_that_is_away_is_tried_again(empty: World) -> None:
    job = empty.configure(data={"code": {"repository": "away.git"}})
    with pytest.raises(Transient, match="git ls-remote failed for the code repository"):
        resolved(job, "main")


def test_a_link_in_the_repository_brings_nothing_of_the_worker(job: Job, repository: Repository) -> None:
    (repository.copy / FOLDER / "stolen").symlink_to("/etc/passwd")
    repository.commit("main", "A link")
    archive = unpack(resolved(job, "main").code, job.storage)
    assert "stolen" not in archive.files


def test_a_file_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../out", "/out", "a/../../out"):
        with pytest.raises(DataError, match="leads out of its folder"):
            commits._put(tmp_path / "tree", name, b"")


def test_a_commit_with_a_bad_model_yaml_is_refused_with_the_place(job: Job, repository: Repository) -> None:
    (repository.copy / FOLDER / "model.yaml").write_text("name: tiny\n")
    repository.commit("main", "Broken")
    with pytest.raises(ConfigError, match=r"model.yaml: owner: is missing"):
        resolved(job, "main")


def test_too_much_is_refused(job: Job, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_FILES", 3)
    with pytest.raises(DataError, match="holds more than 3 files"):
        resolved(job, "main")
