"""The model's own tests (pytest), run on its code as it was packed, in a process that has nothing of the worker's.

What is tested is an archive: the one that is deployed, or that of a commit (`commits.py`). Its sha256 covers code, tests
and configuration, and the verdict is kept under it: the tests of one archive say nothing about another.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import platform
import re
import signal
from collections.abc import Iterator
from xml.etree import ElementTree

from pydantic import Field

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.exceptions import IntegrityError, MissingLibraryError, RequestError
from mlops_provider.modelcode import CodeRef
from mlops_provider.partitions import parse_duration
from mlops_provider.sections import Limits
from mlops_provider.steps.data.commits import Commit
from mlops_provider.steps.data.sandbox import Bounds, Ended, other_user, run_tests
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

log = logging.getLogger("mlops_provider")

_ROOM = "code_tests"
_TOLD = 50
_UNITS = {"MiB": 2**20, "GiB": 2**30}
# What pytest says by its exit status, where that is no result.
_STATUS = {
    2: "pytest was interrupted, or could not collect the tests",
    3: "pytest had an internal error",
    4: "pytest was called in a wrong way; look at the model's pytest configuration",
    5: "no tests were collected: the folder tests/ holds none",
}


def _environment() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("numpy", "pandas", "pyarrow")}
    return found | {"python": platform.python_version()}


class CodeTestsArguments(Frozen):
    """What to test.

    :param code: the archive.
    :param commit: where it comes from, if from a commit.
    :param environment: versions of the libraries: other ones may give another result.
    """

    code: CodeRef
    commit: Commit | None = None
    environment: dict[str, str] = Field(default_factory=_environment)


class CodeTested(Frozen):
    """What came of the model's own tests.

    :param verdict: one check for each test that failed and one for all that passed; None if the model has no tests.
    :param report: the JUnit file, if pytest came to write it.
    """

    code: CodeRef
    commit: Commit | None = None
    report: Artifact | None = None
    verdict: Verdict | None = None


def _publish(job: Job, result: CodeTested) -> CodeTested:
    """Keeps the verdict where the gate looks it up, whether it was computed or reused."""
    if result.verdict is not None:
        job.storage.write_json(_record(job, result.code.sha256), result.model_dump(mode="json"))
    return result


def _final(result: CodeTested) -> bool:
    """Tests that could not be run are run again when they are asked for again."""
    return result.verdict is not None and result.verdict.outcome != "error"


@step(
    "test_code",
    arguments=CodeTestsArguments,
    result=CodeTested,
    sections=("data",),
    publish=_publish,
    keep=_final,
)
def test_code(job: Job, arguments: CodeTestsArguments) -> CodeTested:
    """Runs the model's own tests and judges them.

    Limits come from the model as it is deployed, never from what is tested.

    :raises RequestError: if the archive is that of another model, or its tests must not run on this worker.
    :raises ConfigError: if the tests cannot be confined here.
    """
    tested = job.with_code(arguments.code).model
    code = job.config.data.code
    if tested.config.name != job.config.name:
        raise RequestError(f"{arguments.code.uri} is the model {tested.config.name}, not {job.config.name}")
    known = {"code": arguments.code, "commit": arguments.commit}
    if not tested.tests and code is None:
        log.warning("%s has no tests (no folder tests/): nothing was tested, no verdict is kept", job.config.name)
        return CodeTested(**known)
    subject = f"{job.config.name} code {_named(arguments)}"
    if not tested.tests:
        return CodeTested(**known, verdict=Verdict(subject=subject, checks=(could_not_run("tests", _STATUS[5]),)))
    if importlib.util.find_spec("pytest") is None:
        raise MissingLibraryError("test_code needs pytest: pip install 'airflow-provider-mlops[code-tests]'")
    _require_other_user(arguments.commit)
    ended = run_tests(tested.files, _bounds(code.limits if code else Limits()))
    log.info("the tests took %.1f s and said:\n%s", ended.seconds, ended.output)
    report = None
    if ended.report is not None:
        report = job.storage.write(job.under(_ROOM, f"{arguments.code.sha256}.xml"), ended.report)
    return CodeTested(**known, report=report, verdict=Verdict(subject=subject, checks=tuple(judged(ended))))


def verdict_of(job: Job, code_hash: str) -> Verdict | None:
    """The verdict on an archive of the model, None if its tests were never run.

    :param code_hash: sha256 of the archive (`CodeRef.sha256`). It covers the tests and the configuration, so that neither
        another commit nor other tests on the same code can vouch for it.
    :raises IntegrityError: if what is kept there is about another archive.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", code_hash):
        raise RequestError(f"{code_hash!r} is no sha256 of a code archive")
    uri = _record(job, code_hash)
    if not job.storage.exists(uri):
        return None
    found = CodeTested.model_validate(job.storage.read_json(uri))
    if found.code.sha256 != code_hash:
        raise IntegrityError(f"{uri} is the verdict on {found.code.sha256[:12]}: it was copied or replaced")
    return found.verdict


def untested(job: Job) -> bool:
    """Whether the code as deployed has tests and no verdict yet."""
    wanted = bool(job.model.tests) or job.config.data.code is not None
    return wanted and verdict_of(job, job.model.ref.sha256) is None


def judged(ended: Ended) -> Iterator[Check]:
    """The checks that the end of pytest and its JUnit file amount to; what does not fit together is an error."""
    if ended.status is None:
        yield could_not_run("tests", "they were still running when their time (data.code.limits.wall) was up")
        return
    if ended.status < 0:
        yield could_not_run("tests", f"the process was ended by {_signal(-ended.status)}")
        return
    cases = _cases(ended.report)
    if cases is None:
        yield could_not_run("tests", f"pytest left no readable report (exit status {ended.status}): {_last(ended)}")
        return
    failed = [case for case in cases if case[1] in ("failure", "error")]
    yield from (_failed(case) for case in failed[:_TOLD])
    if len(failed) > _TOLD:
        more = len(failed) - _TOLD
        yield Check(name="further_failures", passed=False, value=more, threshold=0, detail="see the JUnit file")
    yield from _summed_up(cases, failed)
    if ended.status != (1 if failed else 0):
        told = _STATUS.get(
            ended.status, f"pytest ended with exit status {ended.status}, which its report does not tell"
        )
        yield could_not_run("tests", told)


Case = tuple[str, str, str]
"""Name of a test, what came of it (``passed``, ``failure``, ``error``, ``skipped``), and the message."""


def _summed_up(cases: list[Case], failed: list[Case]) -> Iterator[Check]:
    skipped = sum(1 for case in cases if case[1] == "skipped")
    passed = len(cases) - len(failed) - skipped
    if passed:
        yield Check(name="tests_passed", passed=True, value=passed, threshold=f"of {len(cases)}")
    elif not failed:
        yield could_not_run("tests", f"no test ran: {skipped} skipped of {len(cases)}")
    if skipped:
        yield Check(name="tests_skipped", passed=False, severity="warn", value=skipped, threshold=0)


def _failed(case: Case) -> Check:
    name, outcome, message = case
    detail = " ".join(message.split())[:300]
    severity = "error" if outcome == "error" else "fail"
    return Check(name=name[:200], passed=False, severity=severity, detail=detail)


def _cases(report: bytes | None) -> list[Case] | None:
    """The tests in a JUnit file; None if it cannot be read. The tested code may have written it: no entities, no DTD."""
    if report is None or b"<!DOCTYPE" in report or b"<!ENTITY" in report:
        return None
    try:
        root = ElementTree.fromstring(report.decode())
    except (ElementTree.ParseError, ValueError):
        return None
    return [_case(node) for node in root.iter("testcase")]


def _case(node: ElementTree.Element) -> Case:
    name = f"{node.get('classname', '')}.{node.get('name', '')}".strip(".")
    for outcome in ("error", "failure", "skipped"):
        if (found := node.find(outcome)) is not None:
            return name, outcome, found.get("message") or found.text or ""
    return name, "passed", ""


def _require_other_user(commit: Commit | None) -> None:
    """Reviewed code is trusted as much as features.py, which runs in the worker itself. Other code is not, and must have
    another user: to its own user the worker's files are open."""
    if commit is not None and not commit.reviewed and other_user() is None:
        raise RequestError(
            f"{commit.ref} is not reviewed, and this worker cannot test it as another user: let the worker run as root, "
            "or set data.code.allow_untrusted_refs to false"
        )


def _named(arguments: CodeTestsArguments) -> str:
    commit = arguments.commit
    return f"{arguments.code.sha256[:12]}{f' ({commit.ref}, {commit.sha[:12]})' if commit else ''}"


def _bounds(limits: Limits) -> Bounds:
    size, unit = limits.memory[:-3], limits.memory[-3:]
    wall = parse_duration(limits.wall).total_seconds()
    return Bounds(limits.cpu_seconds, int(size) * _UNITS[unit], limits.processes, wall)


def _record(job: Job, code_hash: str) -> str:
    return job.under(_ROOM, f"{code_hash}.json")


def _last(ended: Ended) -> str:
    return " ".join(ended.output.split())[-300:]


def _signal(number: int) -> str:
    known = {signal.SIGXCPU: "limits.cpu_seconds", signal.SIGXFSZ: "the limit of a file's size"}
    try:
        found = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return f"{found.name}{f' ({known[found]})' if found in known else ''}"
