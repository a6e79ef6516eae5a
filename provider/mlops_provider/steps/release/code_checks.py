"""What the model's own tests say about a version: their verdict is looked up by the sha256 of a code archive.

Two archives have a say. The version's own, and the code as deployed if it is the same code with other tests: a test that was
written after the training and fails stands in the way as well. It can only condemn; for a version vouch the tests that it
was packed with, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlops_provider.checks import Check, Frozen, Verdict, could_not_run
from mlops_provider.modelcode import Model
from mlops_provider.steps.data.code_tests import CodeTestsArguments, test_code, verdict_of
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.step import Job

_NAMED = 3


class CodeChecks(Frozen):
    """The tests as checks of the gate; none for a model without tests.

    :param outcome: ``tests_failed``, ``untested`` (they could not be run, or never were), or empty if nothing is in the way.
    :param reason: why, and what to do; empty if nothing is in the way.
    """

    checks: tuple[Check, ...] = ()
    outcome: str = ""
    reason: str = ""


def run_tests(job: Job, version: ModelVersion) -> None:
    """Runs the tests that have a say and left no verdict.

    CI tests the code as deployed, whenever it finds it untested. What was trained may be another archive: the model's
    folder can change between two runs, and nobody but the gate would ever ask for the tests of the one in between.
    """
    for model in _heard(job, version):
        known = verdict_of(job, model.ref.sha256)
        if known is None or known.outcome == "error":
            test_code(job, CodeTestsArguments(code=model.ref))


def code_checks(job: Job, version: ModelVersion) -> CodeChecks:
    """What the verdicts on the tests amount to; runs nothing."""
    verdicts = [(model, verdict_of(job, model.ref.sha256)) for model in _heard(job, version)]
    checks = tuple(check for model, verdict in verdicts for check in _checks(model, verdict))
    problems = Verdict(subject="", checks=checks).problems
    if not problems:
        return CodeChecks(checks=checks)
    failed = tuple(check for check in problems if check.severity == "fail")
    outcome = "tests_failed" if failed else "untested"
    return CodeChecks(checks=checks, outcome=outcome, reason=_reason(version, failed or problems, outcome))


def _heard(job: Job, version: ModelVersion) -> list[Model]:
    """The archives whose tests have a say, the version's own first."""
    own, deployed = job.with_code(version.package.code).model, job.model
    found = [own] if own.tests or job.config.data.code is not None else []
    if deployed.tests and deployed.code_hash == own.code_hash and _tests(deployed) != _tests(own):
        found.append(deployed)
    return found


def _tests(model: Model) -> dict[str, bytes]:
    return {name: model.read(name) for name in model.tests}


def _checks(model: Model, verdict: Verdict | None) -> Iterator[Check]:
    """One check if the tests passed; one for each test that did not."""
    if verdict is None:
        yield could_not_run(
            "code_tests", f"its tests were never run ({model.config.name}.cd runs them)", subject=_archive(model)
        )
        return
    if verdict.passed:
        passed = next((check.value for check in verdict.checks if check.name == "tests_passed"), None)
        yield Check(name="code_tests", passed=True, value=passed, subject=_archive(model), detail=verdict.subject)
    for check in verdict.checks:
        if not check.passed:
            told = f"{check.name}: {check.detail}" if check.detail else check.name
            yield check.model_copy(update={"name": "code_tests", "subject": _archive(model), "detail": told})


def _archive(model: Model) -> str:
    return f"code {model.ref.sha256[:12]}"


def _reason(version: ModelVersion, problems: tuple[Check, ...], outcome: str) -> str:
    told = "; ".join(f"{check.detail} ({check.subject})" for check in problems[:_NAMED])
    more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    head = "code tests failed" if outcome == "tests_failed" else "code tests could not be run"
    return f"{head}: {told}{more}; {_way_on(version, problems, outcome)}"


def _way_on(version: ModelVersion, problems: tuple[Check, ...], outcome: str) -> str:
    """A failure of the version's own archive is final, as the archive is; all else may come out otherwise next time."""
    own = f"code {version.package.code.sha256[:12]}"
    if outcome == "tests_failed" and any(check.subject == own for check in problems):
        return f'mend it and start {version.model}.ct with {{"partition": "{version.split.holdout}", "force": true}}'
    return f'mend it and start {version.model}.cd with {{"version": {version.version}}}, which runs them again'
