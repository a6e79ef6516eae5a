"""Code tests in a real Airflow: asked for as git platforms ask for them, and against a test file that wants its secrets."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_provider.steps.data.code_tests import CodeTested
from tests.support.tiny import write_model
from tests.system.conftest import CODED, Site
from tools.demo.environment import load_secrets
from tools.demo.services import REPOSITORY

DOCS = REPOSITORY / "docs" / "code-ci.md"
HOSTILE = REPOSITORY / "tests" / "support" / "hostile.py"
PLATFORMS = ("GitHub Actions", "GitLab CI", "Jenkins", "Tekton")
PATIENCE = 240
FENCED = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6  # Landlock, with TCP and signals


@dataclass(frozen=True)
class Commits:
    """What the code repository holds: a commit that tries everything to get at secrets, and one whose test fails."""

    hostile: str
    failing: str


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


@pytest.fixture(scope="module")
def commits(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Commits:
    site.api.unpause(f"{CODED}.ci")
    copy = tmp_path_factory.mktemp("copy")
    bare = site.services.data / "code.git"
    git(copy, "init", "-q", "--bare", "--initial-branch=main", str(bare))
    git(copy, "clone", "-q", str(bare), "work")
    tests = write_model(copy / "work" / "include", name=CODED) / "tests"
    work = copy / "work"
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
    """The platform's script at work."""
    keys = load_secrets(site.services.home)
    given = {
        "PATH": os.environ["PATH"],
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


def test_every_snippet_of_the_docs_tests_a_commit_and_a_hostile_one_finds_nothing(site: Site, commits: Commits) -> None:
    # One after the other: SQLite takes one writer at a time, and four at once wait for each other.
    ends = {}
    for number, name in enumerate(PLATFORMS):
        process = started(site, name, commits.hostile, f"good-{number}")
        ends[name] = (process.communicate(timeout=PATIENCE)[0], process.returncode)
    assert {name: status for name, (_, status) in ends.items()} == dict.fromkeys(PLATFORMS, 0), ends
    assert {name: output.rsplit(" ", 1)[1] for name, (output, _) in ends.items()} == dict.fromkeys(
        PLATFORMS, "success\n"
    )
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


def test_a_snippet_fails_for_a_failing_commit_an_unknown_one_and_a_wrong_password(site: Site, commits: Commits) -> None:
    asked = {
        "failing": ("GitLab CI", commits.failing, "bad-1", {}),
        "no_ref": ("Jenkins", "--upload-pack=x", "bad-2", {}),
        "password": ("Tekton", commits.hostile, "bad-3", {"AIRFLOW_PASSWORD": "wrong"}),
    }
    said = {}
    for name, (platform, sha, run, environment) in asked.items():
        process = started(site, platform, sha, run, **environment)
        said[name] = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode, said
    assert said["failing"].endswith(f"{CODED}.ci bad-1: failed\n")
    assert "400" in said["no_ref"]
    assert "401" in said["password"]
    assert [run["dag_run_id"] for run in site.api.runs(f"{CODED}.ci") if run["dag_run_id"][:4] == "bad-"] == ["bad-1"]
