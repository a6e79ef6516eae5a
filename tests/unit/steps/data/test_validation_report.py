"""The page of a verdict: whole, escaped, self-contained."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.steps.data.validation_report import page, write_report
from tests.support.tiny import DAYS, World

EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&{0}{style}"
CHECKS = (
    Check(name="fine", passed=True, value=0.123456789, threshold=1.0, subject="a"),
    Check(name="odd", passed=False, severity="warn", value="seven", detail="for instance 'x'"),
    Check(name="bad", passed=False, value=3.0, threshold=2.0),
    could_not_run("broken", "no such column", subject="b"),
)


class Read(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(*checks: Check, **facts: str) -> Read:
    return Read(page(Verdict(subject="tiny 2024-01-01 raw data", checks=checks), facts))


def test_the_worst_comes_first_and_everything_is_told() -> None:
    found = read(*CHECKS, rows="1200")
    places = [found.text.index(name) for name in ("broken", "bad", "odd", "fine")]
    assert places == sorted(places)
    for told in ("0.123457", "seven", "for instance 'x'", "no such column", "1200", "tiny 2024-01-01 raw data"):
        assert told in found.text
    assert "1 could not be checked, 1 failed, 1 warned, 1 passed" in found.text


@pytest.mark.parametrize(
    ("checks", "told"),
    [
        (CHECKS[:1], "Passed (1 passed)"),
        (CHECKS[:2], "Passed, with warnings (1 warned, 1 passed)"),
        (CHECKS[:3], "Failed (1 failed, 1 warned, 1 passed)"),
        (CHECKS, "Failed: something could not be checked"),
        ((), "Failed: something could not be checked (nothing was checked)"),
    ],
)
def test_the_summary_says_what_came_of_it(checks: tuple[Check, ...], told: str) -> None:
    assert told in read(*checks).text


def test_every_text_is_escaped() -> None:
    check = Check(name=EVIL, passed=False, value=EVIL, threshold=EVIL, subject=EVIL, detail=EVIL)
    found = Read(page(Verdict(subject=EVIL, checks=(check,)), {EVIL: EVIL}))
    assert {tag for tag, _ in found.tags} & {"script", "img", "iframe"} == set()
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count(EVIL) == 9


def test_a_page_needs_nothing_from_elsewhere() -> None:
    content = page(Verdict(subject="s", checks=CHECKS), {})
    found = Read(content)
    assert {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found.tags} == set()
    assert not [name for _, attributes in found.tags for name in attributes if name in ("src", "href")]
    assert not re.search(r"url\(|@import|https?:", content)
    assert "prefers-color-scheme: dark" in content


def test_a_report_lies_under_the_artifact_root_and_an_equal_one_has_the_same_name(delivered: World) -> None:
    job, work = delivered.job(), delivered.work(DAYS[0])
    verdict = Verdict(subject="s", checks=CHECKS)

    def written(verdict: Verdict) -> str:
        return write_report(job, verdict, partition=DAYS[0], suite="raw", data={"inputs": work.inputs}).uri

    first = written(verdict)
    folder = delivered.artifacts / "reports" / "tiny"
    assert re.fullmatch(rf"{folder}/validation-{DAYS[0]}-raw-[0-9a-f]{{12}}\.html", first)
    assert written(verdict) == first
    assert written(Verdict(subject="s", checks=CHECKS[:2])) != first
    text = Read(Path(first).read_text()).text
    for told in (str(delivered.file(DAYS[0], "inputs")), "tiny", DAYS[0], job.model.ref.uri):
        assert told in text
