"""The model's own tests: what their end amounts to, where their verdict is kept, and for whom it speaks."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.checks import Verdict
from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import IntegrityError, MissingLibraryError, RequestError
from mlops_provider.modelcode import pack
from mlops_provider.steps import plan
from mlops_provider.steps.data import code_tests
from mlops_provider.steps.data.code_tests import CodeTested, judged, untested, verdict_of
from mlops_provider.steps.data.commits import Commit
from mlops_provider.steps.data.sandbox import Bounds, Ended
from mlops_provider.steps.step import Job, Outcome
from tests.support.code import BAD, GOOD, ended, pretended, with_tests
from tests.support.tiny import DAYS, World, outcome, write_model

FLIGHTS = Path(__file__).resolve().parents[4] / "include" / "models" / "flight_delays"


def came_of(job: Job, **arguments: Any) -> Outcome:
    return outcome(job, "test_code", **{"code": job.model.ref, **arguments})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Bounds]:
    """The tests below that ask for it look at what is around the process."""
    return pretended(monkeypatch)


def verdict(found: Ended) -> Verdict:
    return Verdict(subject="code", checks=tuple(judged(found)))


# --- what the end of the process amounts to --------------------------------------------------------------------------


def test_passed_tests_are_one_check() -> None:
    (check,) = verdict(ended(0, None, None)).checks
    assert (check.name, check.passed, check.value) == ("tests_passed", True, 2)


def test_each_failed_test_is_a_check_with_its_message() -> None:
    failed, broken, passed = verdict(ended(1, "failure", "error", None)).checks
    assert (failed.name, failed.state, failed.detail) == ("tests.test_it.test_0", "fail", "why <it>")
    assert (broken.name, broken.state) == ("tests.test_it.test_1", "error")
    assert (passed.name, passed.value, passed.threshold) == ("tests_passed", 1, "of 3")


def test_the_first_fifty_failures_are_told_and_the_others_counted() -> None:
    checks = verdict(ended(1, *["failure"] * 53)).checks
    assert len(checks) == 51
    assert (checks[50].name, checks[50].value, checks[50].state) == ("further_failures", 3, "fail")


def test_skipped_tests_are_a_warning() -> None:
    found = verdict(ended(0, None, "skipped"))
    assert found.passed
    assert [(c.name, c.state, c.value) for c in found.checks][1:] == [("tests_skipped", "warn", 1)]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (ended(None), "time (data.code.limits.wall) was up"),
        (ended(-signal.SIGKILL, None), "ended by SIGKILL"),
        (ended(-signal.SIGXCPU, None), "ended by SIGXCPU (limits.cpu_seconds)"),
        (ended(-63, None), "ended by signal 63"),
        (ended(5), "no tests were collected"),
        (ended(0), "no test ran: 0 skipped of 0"),
        (ended(0, "skipped", "skipped"), "no test ran: 2 skipped of 2"),
        (ended(2, None, "error"), "could not collect the tests"),
        (ended(3, None), "internal error"),
        (ended(4, None), "called in a wrong way"),
        (ended(0, None, "failure"), "exit status 0, which its report does not tell"),
        (ended(1, None, None), "exit status 1, which its report does not tell"),
        (ended(77, None), "exit status 77, which its report does not tell"),
        (Ended(0, "the last words", None, 0.1), "no readable report (exit status 0): the last words"),
        (ended(0, None, report=b""), "no readable report"),
        (ended(0, None, report=b"<testsuites><testsuite><testcase"), "no readable report"),
        (ended(0, None, report=b"\xff\xfe"), "no readable report"),
        (ended(0, None, report=b"<!DOCTYPE x [<!ENTITY a 'b'>]><testsuites><testcase/></testsuites>"), "no readable"),
    ],
)
def test_what_does_not_fit_together_is_an_error_and_no_pass(found: Ended, told: str) -> None:
    judgement = verdict(found)
    assert judgement.outcome == "error"
    assert not judgement.passed
    assert told in judgement.reason()


# --- in a process --------------------------------------------------------------------------------------------------


def test_the_tests_run_on_the_archive_and_leave_a_verdict_and_a_report(empty: World) -> None:
    job = with_tests(empty)
    first, second = came_of(job), came_of(job)
    assert (first.reused, second.reused) == (False, True)
    result = CodeTested.model_validate(first.result)
    assert result.verdict is not None
    assert result.verdict.passed
    assert [(check.name, check.value) for check in result.verdict.checks] == [("tests_passed", 1)]
    assert verdict_of(job, job.model.ref.sha256) == result.verdict
    assert result.report is not None
    assert Path(result.report.uri) == empty.artifacts / "code_tests" / "tiny" / f"{job.model.ref.sha256}.xml"
    assert b'name="test_it"' in job.storage.fetch(result.report)


def test_a_test_that_ends_the_process_does_not_pass(empty: World) -> None:
    job = with_tests(empty, "import os\ndef test_it(): pass\ndef test_out(): os._exit(0)\n")
    came_of(job)
    found = verdict_of(job, job.model.ref.sha256)
    assert found is not None
    assert found.outcome == "error"
    assert "no readable report (exit status 0)" in found.reason()


# --- around the process ----------------------------------------------------------------------------------------------


def test_the_tests_of_one_commit_never_vouch_for_another(empty: World, runs: list[Bounds]) -> None:
    """Neither other code, nor other tests on the same code, nor another configuration."""
    jobs = [
        with_tests(empty, GOOD),
        with_tests(empty, BAD),
        with_tests(empty, GOOD, features={"columns": ["a", "b"]}),
    ]
    (empty.model / "features.py").write_text("def build(rows, history, as_of): return rows\n")
    (empty.model / "tests" / "test_it.py").write_text(GOOD)
    jobs.append(empty.job())
    hashes = [job.model.ref.sha256 for job in jobs]
    assert len(set(hashes)) == 4
    for number, job in enumerate(jobs):
        assert [verdict_of(job, sha256) is not None for sha256 in hashes] == [n < number for n in range(4)]
        assert not came_of(job).reused
    assert [found.passed for sha256 in hashes if (found := verdict_of(jobs[0], sha256))] == [True, False, True, True]


def test_a_verdict_that_was_copied_to_another_archive_is_no_verdict(empty: World, runs: list[Bounds]) -> None:
    good, bad = with_tests(empty, GOOD), with_tests(empty, BAD)
    came_of(good)
    folder = empty.artifacts / "code_tests" / "tiny"
    (folder / f"{bad.model.ref.sha256}.json").write_bytes((folder / f"{good.model.ref.sha256}.json").read_bytes())
    with pytest.raises(IntegrityError, match="it was copied or replaced"):
        verdict_of(bad, bad.model.ref.sha256)


@pytest.mark.parametrize("odd", ["", "../x", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_hash_that_is_none_never_becomes_a_path(empty: World, odd: str) -> None:
    with pytest.raises(RequestError, match="is no sha256"):
        verdict_of(empty.job(), odd)


def test_a_model_without_tests_has_no_verdict(empty: World, runs: list[Bounds]) -> None:
    job = with_tests(empty, None)
    assert not untested(job)
    found = CodeTested.model_validate(came_of(job).result)
    assert (found.verdict, found.report, runs) == (None, None, [])
    assert verdict_of(job, job.model.ref.sha256) is None
    assert not (empty.artifacts / "code_tests").exists()


def test_a_model_that_declares_tests_and_has_none_is_an_error(empty: World, runs: list[Bounds]) -> None:
    job = with_tests(empty, None, data={"code": {}})
    assert untested(job)
    came_of(job)
    found = verdict_of(job, job.model.ref.sha256)
    assert found is not None
    assert found.outcome == "error"
    assert not untested(job)


def test_a_failure_is_reused_and_an_error_is_tried_again(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_tests(empty)
    for end, reused in ((ended(None), False), (ended(1, "failure"), False), (ended(0, None), True)):
        monkeypatch.setattr(code_tests, "run_tests", lambda files, bounds, end=end: end)
        assert came_of(job).reused is reused
    found = verdict_of(job, job.model.ref.sha256)
    assert found is not None
    assert found.outcome == "fail"


def test_other_libraries_test_again(empty: World, runs: list[Bounds]) -> None:
    job = with_tests(empty)
    came_of(job)
    assert not came_of(job, environment={"pandas": "0.1"}).reused


def test_limits_are_those_of_the_deployed_model_whatever_is_tested(empty: World, runs: list[Bounds]) -> None:
    greedy = with_tests(empty, data={"code": {"limits": {"memory": "999GiB", "cpu_seconds": 9_999}}})
    frugal = {"memory": "512MiB", "cpu_seconds": 7, "wall": "1m", "processes": 3}
    job = with_tests(empty, data={"code": {"limits": frugal}})
    came_of(job, code=greedy.model.ref)
    assert runs == [Bounds(cpu_seconds=7, memory=512 * 2**20, processes=3, wall=60.0)]


def test_the_archive_of_another_model_is_refused(empty: World, runs: list[Bounds]) -> None:
    other = write_model(empty.include, name="other")
    job = with_tests(empty)
    ref = pack(other, "local", job.storage, str(empty.artifacts)).ref
    with pytest.raises(RequestError, match="is the model other, not tiny"):
        came_of(job, code=ref)


@pytest.mark.parametrize(("reviewed", "user", "runs_it"), [(True, None, True), (False, None, False), (False, 9, True)])
def test_code_that_nobody_reviewed_never_runs_as_the_workers_own_user(
    empty: World, runs: list[Bounds], monkeypatch: pytest.MonkeyPatch, reviewed: bool, user: int | None, runs_it: bool
) -> None:
    job = with_tests(empty)
    monkeypatch.setattr(code_tests, "other_user", lambda: user)
    commit = Commit(repository="code.git", ref="feature", sha="0" * 40, reviewed=reviewed)
    if runs_it:
        assert came_of(job, commit=commit).result["commit"]["sha"] == "0" * 40
    else:
        with pytest.raises(RequestError, match="cannot test it as another user"):
            came_of(job, commit=commit)
    assert bool(runs) is runs_it


def test_pytest_that_is_missing_is_named_with_its_extra(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_tests(empty)
    monkeypatch.setattr(code_tests.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"airflow-provider-mlops\[code-tests\]"):
        came_of(job)


def test_the_verdict_names_what_was_tested(empty: World, runs: list[Bounds]) -> None:
    job = with_tests(empty)
    commit = Commit(repository="code.git", ref="main", sha="ab" * 20, reviewed=True)
    came_of(job, commit=commit)
    kept = json.loads((empty.artifacts / "code_tests" / "tiny" / f"{job.model.ref.sha256}.json").read_text())
    assert kept["commit"] == commit.model_dump()
    assert kept["verdict"]["subject"] == f"tiny code {job.model.ref.sha256[:12]} (main, {'ab' * 6})"


# --- in the loops ----------------------------------------------------------------------------------------------------


def test_failing_tests_let_no_data_in(delivered: World, runs: list[Bounds]) -> None:
    job = with_tests(delivered, BAD)
    loops = delivered.loops(job)
    assert loops.ci() is False
    assert loops.ci() is False
    assert [step.step for _, step in delivered.told] == ["test_code", "test_code"]
    assert len(runs) == 1
    assert delivered.records() == []


def test_a_run_for_a_ref_takes_no_data_unless_a_partition_is_asked_for(delivered: World) -> None:
    job = delivered.job()
    assert plan.ci(job, ref="main") == []
    with pytest.raises(RequestError, match="ref and partition"):
        plan.ci(job, ref="main", partition=DAYS[1])
    assert plan.code_due(job, "main")
    assert not plan.code_due(job, None)


def test_code_that_was_never_tested_is_due(delivered: World, runs: list[Bounds]) -> None:
    job = with_tests(delivered)
    assert plan.code_due(job, None)
    came_of(job)
    assert not plan.code_due(job, None)


def test_the_example_models_own_tests_pass(tmp_path: Path) -> None:
    """As CI runs them: a change of its features that its tests do not follow would let no data in."""
    place = Deployment(artifact_root=str(tmp_path), data_root=str(tmp_path))
    model = pack(FLIGHTS, "local", place.storage, place.artifact_root)
    found = CodeTested.model_validate(came_of(Job(model, place)).result)
    assert found.verdict is not None
    assert found.verdict.outcome == "pass", found.verdict.reason()
