"""Code tests in CI and at the gate: what they hold up, what they let through, what a run for a commit does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.steps import plan
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


# --- at the gate -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def candidate(houses: Any) -> House:
    """A house with a candidate whose tests passed in CI."""
    house: House = houses("gate")
    write(house.include, GOOD)
    deliver_tiny(house, *DAYS[:3])
    loops = house.loops("tiny")
    loops.ci()
    while loops.cm():
        pass
    assert loops.ct()
    return house


def tested(house: House) -> set[str]:
    """The archives that have a verdict."""
    return {path.stem for path in (house.artifacts / "code_tests" / "tiny").glob("*.json")}


def test_a_candidate_is_not_promoted_if_a_test_that_was_added_since_fails(candidate: House) -> None:
    before = tested(candidate)
    write(candidate.include, BAD)
    run = candidate.run("tiny", "cd")
    assert run.states() == {"plan": "success", "candidate.gate[0]": "success", "candidate.promote[0]": "skipped"}
    assert run.announced() == ["tiny.decision"]
    (record,) = candidate.ledger("tiny", "refusal", "promotion")
    assert (record.outcome, record.version) == ("tests_failed", 1)
    assert "tests.test_it.test_it: AssertionError: one is not two" in record.reason
    assert tested(candidate) == before | {candidate.job("tiny").model.ref.sha256}
    assert candidate.alias("tiny") is None


def test_once_its_tests_pass_it_is_judged_again_on_demand_and_promoted(candidate: House) -> None:
    write(candidate.include, GOOD)
    run = candidate.run("tiny", "cd", version=1)
    assert set(run.states().values()) == {"success"}, run.said()
    (check,) = [c for c in run.task("candidate.gate", 0).result["verdict"]["checks"] if c["name"] == "code_tests"]
    assert (check["passed"], check["value"]) == (True, 1)
    assert candidate.alias("tiny") == 1


def test_a_candidate_of_code_that_ci_never_saw_is_tested_by_cd(candidate: House) -> None:
    """The folder changes, a person trains, and it changes again before any run of CI."""
    write(candidate.include, BAD, training={"rounds": 7})
    candidate.loops("tiny").train(plan_of(candidate))
    own = candidate.job("tiny").model.ref.sha256
    write(candidate.include, GOOD, training={"rounds": 8})
    assert own not in tested(candidate)
    run = candidate.run("tiny", "cd")
    assert run.state == "success", run.said()
    record = candidate.ledger("tiny", "refusal", "promotion")[-1]
    assert (record.outcome, record.version) == ("tests_failed", 2)
    assert 'start tiny.ct with {"partition": "' in record.reason
    assert own in tested(candidate)


def plan_of(house: House) -> plan.TrainWork:
    work = plan.ct(house.job("tiny"), partition=DAYS[2])
    assert work is not None
    return work
