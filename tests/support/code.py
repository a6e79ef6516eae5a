"""Models with tests of their own, and a stand-in for the process that runs them."""

from __future__ import annotations

import xml.sax.saxutils
from typing import Any

import pytest

from mlops_provider.steps.data import code_tests
from mlops_provider.steps.data.sandbox import Bounds, Ended
from mlops_provider.steps.step import Job
from tests.support.tiny import World, write_model

GOOD = "from features import build\n\ndef test_it():\n    assert callable(build)\n"
BAD = "def test_it():\n    assert 1 == 2, 'one is not two'\n"


def with_tests(world: World, text: str | None = GOOD, **changes: Any) -> Job:
    """The tiny model with tests of its own."""
    write_model(world.include, **changes)
    folder = world.model / "tests"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    if text is not None:
        (folder / "test_it.py").write_text(text)
    return world.job()


def pretended(monkeypatch: pytest.MonkeyPatch) -> list[Bounds]:
    """Stands for the process; returns what it is given, from call to call."""
    given: list[Bounds] = []

    def run(files: dict[str, bytes], bounds: Bounds) -> Ended:
        given.append(bounds)
        failed = b"1 == 2" in files["tests/test_it.py"]
        return ended(int(failed), "failure" if failed else None)

    monkeypatch.setattr(code_tests, "run_tests", run)
    return given


def ended(status: int | None, *outcomes: str | None, report: bytes | None = None) -> Ended:
    """A process that ended so, with a report of tests that came out so (None: passed)."""
    nodes = [
        f'<testcase classname="tests.test_it" name="test_{number}">{_node(what)}</testcase>'
        for number, what in enumerate(outcomes)
    ]
    text = f"<testsuites><testsuite>{''.join(nodes)}</testsuite></testsuites>".encode()
    return Ended(status, "the last words", text if report is None else report, 0.1)


def _node(what: str | None) -> str:
    return f"<{what} message={xml.sax.saxutils.quoteattr('why <it>')}>text</{what}>" if what else ""
