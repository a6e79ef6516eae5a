"""The model's own tests at the gate: what passes, what stands in the way, whose verdict counts, and the way on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops_provider.checks import Check
from mlops_provider.exceptions import IntegrityError, MissingLibraryError, Refused
from mlops_provider.ledger import Record
from mlops_provider.steps import plan
from mlops_provider.steps.data import code_tests
from mlops_provider.steps.data.sandbox import Bounds, Ended
from mlops_provider.steps.records import Judged, ModelVersion
from mlops_provider.steps.release.gate import judge
from mlops_provider.steps.step import Job
from tests.support.code import BAD, GOOD, ended, pretended, with_tests
from tests.support.tiny import DAYS, World, call

MORE = GOOD + "\n\ndef test_more():\n    assert build\n"
Ending = Callable[[Ended], None]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Bounds]:
    return pretended(monkeypatch)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Ending:
    """Decides how the process that runs the tests ends from now on."""
    return lambda end: monkeypatch.setattr(code_tests, "run_tests", lambda files, bounds: end)


def packed_with(world: World, job: Job) -> ModelVersion:
    """The registered candidate, as if it had been trained with this archive."""
    version = world.versions()[-1]
    return version.model_copy(update={"package": version.package.model_copy(update={"code": job.model.ref})})


def with_other_code(world: World, tests: str) -> Job:
    """The model with these tests and a changed features.py."""
    with_tests(world, tests)
    features = world.model / "features.py"
    features.write_text(features.read_text() + "\nCHANGED = True\n")
    return world.job()


def ran(job: Job, tested: Job | None = None) -> None:
    call(job, "test_code", code=(tested or job).model.ref)


def gated(job: Job, version: ModelVersion, *, again: bool = False) -> Judged:
    found = call(job, "gate", version=version, again=again)
    assert isinstance(found, Judged)
    return found


def shown(found: Judged) -> list[Check]:
    return [check for check in found.verdict.checks if check.name == "code_tests"]


def refusals(world: World) -> list[Record]:
    return world.records("refusal")


def archive(job: Job) -> str:
    return f"code {job.model.ref.sha256[:12]}"


def test_passed_tests_are_one_passed_check(registered: World, runs: list[Bounds]) -> None:
    job = with_tests(registered)
    ran(job)
    found = gated(job, packed_with(registered, job))
    assert found.promote
    (check,) = shown(found)
    assert (check.passed, check.value, check.subject) == (True, 1, archive(job))
    assert check.detail == f"tiny {archive(job)}"
    assert len(runs) == 1


def test_failed_tests_are_refused_whatever_the_model_is_worth(registered: World, runs: list[Bounds]) -> None:
    job = with_tests(registered, BAD)
    ran(job)
    version = packed_with(registered, job)
    found = gated(job, version)
    assert (found.outcome, found.promote) == ("tests_failed", False)
    (check,) = shown(found)
    assert (check.state, check.subject) == ("fail", archive(job))
    (record,) = refusals(registered)
    assert (record.version, record.outcome, record.reason) == (1, "tests_failed", found.reason)
    assert found.reason == (
        f"code tests failed: tests.test_it.test_0: why <it> ({archive(job)}); "
        f'mend it and start tiny.ct with {{"partition": "{DAYS[2]}", "force": true}}'
    )
    with pytest.raises(Refused, match="code tests failed"):
        call(job, "promote", version=version, judged=found, again=True)


def test_failed_tests_come_before_every_other_reason(champion: World, runs: list[Bounds]) -> None:
    """What broken code measured is no news."""
    job = with_tests(champion, BAD)
    version = packed_with(champion, job)
    assert judge(job, version).outcome == "untested"
    ran(job)
    assert judge(job, version).outcome == "tests_failed"
    assert judge(with_tests(champion, None), champion.versions()[0]).outcome == "not_comparable"


def test_tests_that_were_never_run_are_an_error(registered: World, runs: list[Bounds]) -> None:
    job = with_tests(registered)
    found = judge(job, packed_with(registered, job))
    assert (found.outcome, found.promote) == ("untested", False)
    (check,) = shown(found)
    assert (check.state, check.detail) == ("error", "its tests were never run (tiny.cd runs them)")
    assert found.reason.endswith('start tiny.cd with {"version": 1}, which runs them again')
    assert runs == []


def test_the_gate_runs_tests_that_nobody_ran(registered: World, runs: list[Bounds]) -> None:
    job = with_tests(registered)
    version = packed_with(registered, job)
    assert gated(job, version).promote
    assert gated(job, version).promote
    assert len(runs) == 1
    assert refusals(registered) == []


def test_the_gate_refuses_a_candidate_whose_tests_nobody_ran_and_that_fail(
    registered: World, runs: list[Bounds]
) -> None:
    job = with_tests(registered, BAD)
    assert gated(job, packed_with(registered, job)).outcome == "tests_failed"
    assert len(runs) == 1


def test_the_verdict_on_one_archive_vouches_for_no_other(registered: World, runs: list[Bounds]) -> None:
    """Neither with other tests, nor with another configuration, nor with other code."""
    job = with_tests(registered)
    version = packed_with(registered, job)
    others = [with_tests(registered, MORE), with_tests(registered, GOOD, description="another")]
    others.append(with_other_code(registered, GOOD))
    for other in others:
        ran(other)
    assert judge(job, version).outcome == "untested"
    assert {judge(other, version).outcome for other in others} == {"untested"}


def test_a_copied_verdict_is_no_verdict(registered: World, runs: list[Bounds]) -> None:
    good, bad = with_tests(registered, GOOD), with_tests(registered, BAD)
    ran(good)
    folder = registered.artifacts / "code_tests" / "tiny"
    (folder / f"{bad.model.ref.sha256}.json").write_bytes((folder / f"{good.model.ref.sha256}.json").read_bytes())
    with pytest.raises(IntegrityError, match="copied or replaced"):
        gated(bad, packed_with(registered, bad))
    assert refusals(registered) == []


def test_tests_that_could_not_be_run_are_refused_and_may_be_judged_again(registered: World, ending: Ending) -> None:
    job = with_tests(registered)
    version = packed_with(registered, job)
    ending(ended(None))
    found = gated(job, version)
    assert found.outcome == "untested"
    assert "code tests could not be run: tests: they were still running" in found.reason
    assert [record.outcome for record in refusals(registered)] == ["untested"]
    assert plan.cd(job) == []  # other candidates, and the partitions after this one, do not wait for it
    (asked,) = plan.cd(job, version=1)
    assert asked.version == 1
    ending(ended(0, None))
    assert gated(job, version, again=True).promote


def test_without_pytest_nothing_is_decided(registered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_tests(registered)
    monkeypatch.setattr(code_tests.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="code-tests"):
        gated(job, packed_with(registered, job))
    assert [version.version for version in plan.cd(job)] == [1]


def test_a_model_without_tests_has_no_check(registered: World, runs: list[Bounds]) -> None:
    found = gated(registered.job(), registered.versions()[0])
    assert found.promote
    assert shown(found) == runs == []


def test_a_model_that_declares_tests_and_has_none_is_refused(registered: World, runs: list[Bounds]) -> None:
    job = with_tests(registered, None, data={"code": {}})
    found = gated(job, packed_with(registered, job))
    assert found.outcome == "untested"
    assert "no tests were collected" in found.reason


def test_a_test_that_was_added_later_and_fails_stands_in_the_way(registered: World, runs: list[Bounds]) -> None:
    """Training reuses a package for unchanged code: without this, tests added since would never be heard."""
    (version,) = registered.versions()
    job = with_tests(registered, BAD)
    found = gated(job, version)
    assert found.outcome == "tests_failed"
    assert [check.subject for check in shown(found)] == [archive(job)]
    assert found.reason.endswith('start tiny.cd with {"version": 1}, which runs them again')
    assert gated(with_tests(registered, GOOD), version, again=True).promote


def test_later_tests_that_pass_do_not_make_up_for_earlier_ones_that_fail(registered: World, runs: list[Bounds]) -> None:
    old = with_tests(registered, BAD)
    version = packed_with(registered, old)
    found = gated(with_tests(registered, GOOD), version)
    assert found.outcome == "tests_failed"
    assert [check.state for check in shown(found)] == ["fail", "pass"]
    assert "tiny.ct" in found.reason


def test_tests_of_other_code_have_no_say(registered: World, runs: list[Bounds]) -> None:
    old = with_tests(registered, GOOD)
    version = packed_with(registered, old)
    new = with_other_code(registered, BAD)
    assert new.model.code_hash != old.model.code_hash
    found = gated(new, version)
    assert found.promote
    assert [check.subject for check in shown(found)] == [archive(old)]


def test_many_failures_are_counted_in_the_reason_and_all_in_the_verdict(registered: World, ending: Ending) -> None:
    job = with_tests(registered)
    ending(ended(1, *["failure"] * 7, None))
    found = gated(job, packed_with(registered, job))
    assert len(shown(found)) == 7
    assert "test_2: why <it>" in found.reason
    assert "test_3" not in found.reason
    assert " and 4 more; " in found.reason


def test_skipped_tests_are_told_and_refuse_nothing(registered: World, ending: Ending) -> None:
    job = with_tests(registered)
    ending(ended(0, None, "skipped"))
    found = gated(job, packed_with(registered, job))
    assert found.promote
    assert [check.state for check in shown(found)] == ["pass", "warn"]
