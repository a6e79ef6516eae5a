"""Code tests in a real Airflow: asked for as git platforms ask for them, and against a test file that wants its secrets."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_provider.steps.data.code_tests import CodeTested
from tests.support.tiny import write_model
from tests.system.site import CODED, Follower, Site
from tools.demo.environment import REPOSITORY, load_secrets

DOCS = REPOSITORY / "docs" / "code-ci.md"
HOSTILE = REPOSITORY / "tests" / "support" / "hostile.py"
PLATFORMS = ("GitHub Actions", "GitLab CI", "Jenkins", "Tekton")
PATIENCE = 240
FENCED = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6  # Landlock, with TCP and signals


def snippet(platform: str) -> str:
    """The code block below a heading of the docs."""
    found = re.search(rf"^### {re.escape(platform)}\n+```\w+\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert found, platform
    return found[1]


def script(platform: str) -> str:
    """What the platform's shell would run."""
    text = snippet(platform)
    if platform == "Jenkins":
        found = re.search(r"sh '''\n(.*?)'''", text, re.DOTALL)
        assert found
        assert "\\" not in found[1], "Groovy would take it for an escape"
        return found[1]
    content: dict[Any, Any] = yaml.safe_load(text)
    places = {
        "GitHub Actions": lambda: content["jobs"]["model"]["steps"][0]["run"],
        "GitLab CI": lambda: content["model"]["script"][0],
        "Tekton": lambda: content["spec"]["steps"][0]["script"],
    }
    return str(places[platform]())


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Commits:
    """What the code repository holds: a commit that tries everything to get at secrets, and one whose test fails."""

    hostile: str
    failing: str


@pytest.fixture(scope="module")
def commits(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Commits:
    site.api.unpause(f"{CODED}.ci")
    copy = tmp_path_factory.mktemp("copy")
    bare = site.services.data / "code.git"
    git(copy, "init", "-q", "--bare", "--initial-branch=main", str(bare))
    git(copy, "clone", "-q", str(bare), "work")
    work = copy / "work"
    tests = write_model(work / "include", name=CODED) / "tests"
    tests.mkdir()
    (tests / "test_hostile.py").write_text(HOSTILE.read_text())
    (tests / "loot.json").write_text(json.dumps(_loot(site)))
    found = []
    for message in ("hostile", "failing"):
        git(work, "add", "--all")
        git(work, "commit", "-q", "-m", message)
        found.append(git(work, "rev-parse", "HEAD"))
        (tests / "test_hostile.py").write_text("def test_it(): assert 1 == 2\n")
    git(work, "push", "-q", "origin", "HEAD:main")
    return Commits(*found)


def _loot(site: Site) -> dict[str, Any]:
    """The secrets of this Airflow, and the files that hold them."""
    home = site.services.home
    keys = load_secrets(home)
    assert keys.jwt_secret in site.services.env["AIRFLOW__API_AUTH__JWT_SECRET"]
    files = [keys.passwords_file, home / "secrets" / "jwt.secret", home / "airflow" / "airflow.db"]
    assert all(path.exists() for path in files)
    port = int(site.services.airflow_url.rsplit(":", 1)[1])
    secrets = [keys.jwt_secret, keys.fernet_key, keys.password]
    return {
        "secrets": secrets,
        "files": [str(path) for path in files],
        "same_user": os.geteuid() != 0,
        "fenced": FENCED,
        "port": port,
    }


def started(site: Site, platform: str, sha: str, run: str, **environment: str) -> subprocess.Popen[str]:
    """The platform's script at work. Its `sleep` is a short one: what is waited for here takes no minutes."""
    keys = load_secrets(site.services.home)
    shims = site.services.home / "shims"
    shims.mkdir(exist_ok=True)
    shims.joinpath("sleep").write_text("#!/bin/sh\nexec /bin/sleep 1\n")
    shims.joinpath("sleep").chmod(0o755)
    given = {
        "PATH": f"{shims}:{os.environ['PATH']}",
        "AIRFLOW_URL": site.services.airflow_url,
        "AIRFLOW_USER": "admin",
        "AIRFLOW_PASSWORD": keys.password,
        "MODEL": CODED,
        "SHA": sha,
        "RUN": run,
        **environment,
    }
    command = ["sh", "-c", script(platform)]
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[str, int]:
    """What a script said, and its exit status."""
    return process.communicate(timeout=PATIENCE)[0], process.returncode


def test_all_platforms_send_the_same_requests() -> None:
    """So that what one of them shows below holds for the others."""
    assert len({textwrap.dedent(script(platform).removeprefix("#!/bin/sh\n")).strip() for platform in PLATFORMS}) == 1


def test_a_commit_is_tested_for_a_platform_and_a_hostile_one_finds_nothing(site: Site, commits: Commits) -> None:
    said, status = ended(started(site, "GitHub Actions", commits.hostile, "good-1"))
    assert status == 0, said
    assert said.endswith(f"{CODED}.ci good-1: success\n")
    kept = [
        CodeTested.model_validate_json(path.read_text())
        for path in (site.services.artifacts / "code_tests" / CODED).glob("*.json")
    ]
    (found,) = [tested for tested in kept if tested.commit and tested.commit.sha == commits.hostile]
    assert found.verdict is not None
    assert found.verdict.passed
    assert found.report is not None
    report = Path(found.report.uri).read_text()
    assert report.count('name="test_nothing_is_found[') == 10
    assert next((check.name, check.value) for check in found.verdict.checks) == (
        "tests_passed",
        12 if FENCED else 11 if os.geteuid() == 0 else 7,
    )


def test_a_failing_commit_one_of_nobody_and_a_ref_that_no_pattern_allows_fail_and_the_log_says_why(
    site: Site, commits: Commits
) -> None:
    coded, dag = Follower(site, CODED), f"{CODED}.ci"
    other = site.api.trigger(dag, {"ref": "release/1"})
    failing = site.api.trigger(dag, {"ref": commits.failing})
    said, status = ended(started(site, "GitLab CI", "0" * 40, "bad-1"))
    assert (said.endswith(f"{dag} bad-1: failed\n"), status) == (True, 1), said
    runs = [site.api.wait_run(dag, run, timeout=PATIENCE) for run in ("bad-1", other, failing)]
    assert [run["state"] for run in runs] == ["failed"] * 3
    logs = [coded.log(run) for run in runs]
    assert f"RequestError: {'0' * 40} ({'0' * 12}) is not reachable from main" in logs[0]
    assert "RequestError: 'release/1' does not match data.code.refs (main|[0-9a-f]{40})" in logs[1]
    assert "test_it" in logs[2]
    tries = [task["try_number"] for run in runs for task in site.api.task_instances(dag, run["dag_run_id"])]
    assert max(tries) == 1


def _there(site: Site, run: str) -> bool:
    return run in {found["dag_run_id"] for found in site.api.runs(f"{CODED}.ci")}


def test_a_script_fails_where_the_api_refuses_it_and_starts_nothing(site: Site, commits: Commits) -> None:
    said, status = ended(started(site, "Jenkins", "--upload-pack=x", "refused-1"))
    assert status
    assert "400" in said
    said, status = ended(started(site, "Tekton", commits.hostile, "refused-2", AIRFLOW_PASSWORD="wrong"))
    assert status
    assert "401" in said
    assert not _there(site, "refused-1")
    assert not _there(site, "refused-2")
