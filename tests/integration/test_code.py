"""Code tests in the CI DAG: what they hold up, what they let through, what a run for a commit does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.steps.data.code_tests import verdict_of
from tests.integration.house import House, deliver_tiny
from tests.support.tiny import DAYS, write_model

GOOD = "from features import build\n\ndef test_it():\n    assert callable(build)\n"
BAD = "def test_it():\n    assert 1 == 2, 'one is not two'\n"
PARTITION = ("validate_raw", "build_features", "validate_features", "compare_history", "snapshot")


def write(include: Path, test: str, **changes: Any) -> None:
    folder = write_model(include, **changes) / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(test)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(house: House) -> tuple[str, str]:
    """A code repository: main with good tests, and a branch that was not merged, with bad ones. Their commits."""
    copy = house.root / "copy"
    git(house.root, "init", "-q", "--bare", "--initial-branch=main", str(house.data / "code.git"))
    git(house.root, "clone", "-q", str(house.data / "code.git"), str(copy))
    found = []
    for branch, test in (("main", GOOD), ("feature/x", BAD)):
        write(copy / "include", test)
        git(copy, "add", "--all")
        git(copy, "commit", "-q", "-m", branch)
        git(copy, "push", "-q", "origin", f"HEAD:{branch}")
        found.append(git(copy, "rev-parse", "HEAD"))
    return found[0], found[1]


@pytest.fixture(scope="module")
def tiny(houses: Any) -> House:
    house: House = houses("code")
    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    return house


def test_a_failing_test_lets_no_data_in(tiny: House) -> None:
    write(tiny.include, BAD)
    run = tiny.run("tiny", "ci", retries=1)
    assert run.state == "failed"
    assert run.task("test_code").state == "failed"
    assert run.task("test_code").tries == 1
    assert "tests.test_it.test_it: AssertionError: one is not two" in run.said()
    assert {state for name, state in run.states().items() if name.startswith("partition")} == {"upstream_failed"}
    assert tiny.ledger("tiny") == []
    verdict = verdict_of(tiny.job("tiny"), tiny.job("tiny").model.ref.sha256)
    assert verdict is not None
    assert verdict.outcome == "fail"


def test_a_run_for_a_commit_tests_it_and_does_nothing_else(tiny: House) -> None:
    main, other = repository(tiny)
    write(tiny.include, GOOD, data={"code": {"repository": "code.git", "refs": "main|[0-9a-f]{40}"}})
    run = tiny.run("tiny", "ci", ref="main")
    assert run.state == "success", run.said()
    result = run.task("test_code").result
    assert (result["commit"]["sha"], result["commit"]["reviewed"]) == (main, True)
    assert json.loads(Path(tiny.artifacts, "code_tests", "tiny", f"{result['code']['sha256']}.json").read_text())
    assert {state for name, state in run.states().items() if name.startswith("partition")} == {"skipped"}
    assert verdict_of(tiny.job("tiny"), tiny.job("tiny").model.ref.sha256) is None  # the deployed code is another
    assert tiny.ledger("tiny") == []
    refused = tiny.run("tiny", "ci", ref=other)
    assert refused.state == "failed"
    assert "is not reachable from main" in refused.said()


def test_passed_tests_let_data_in(tiny: House) -> None:
    write(tiny.include, GOOD)
    run = tiny.run("tiny", "ci")
    assert run.states() == {
        "plan": "success",
        "test_code": "success",
        **{f"partition.{name}[0]": "success" for name in PARTITION},
    }


def test_changed_tests_are_run_although_no_data_is_due(tiny: House) -> None:
    write(tiny.include, GOOD + "\n\ndef test_more(): pass\n")
    run = tiny.run("tiny", "ci")
    assert run.state == "success", run.said()
    assert run.task("test_code").result["verdict"]["checks"][0]["value"] == 2
    assert {name: state for name, state in run.states().items() if name[:9] == "partition"}.keys() <= {
        f"partition.{name}" for name in PARTITION
    }


def test_a_model_without_tests_lets_data_in_and_has_no_verdict(house: House) -> None:
    write_model(house.include)
    deliver_tiny(house, DAYS[0])
    run = house.run("tiny", "ci")
    assert run.states() == {
        "plan": "success",
        "test_code": "skipped",
        **{f"partition.{name}[0]": "success" for name in PARTITION},
    }
    assert not (house.artifacts / "code_tests").exists()
    assert len(house.ledger("tiny")) == 1
