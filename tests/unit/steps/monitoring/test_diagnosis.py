"""Candidates refused in a row: what counts as a row, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from mlops_provider.checks import Check, Verdict, could_not_run
from mlops_provider.ledger import Draft
from mlops_provider.steps.monitoring.diagnosis import Diagnosis, diagnosis, render, row
from tests.support.book import Book, drifted, measured

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")


@pytest.fixture
def book() -> Book:
    """Version 1 is champion, and the next three are refused."""
    book = Book()
    book.life(1, "2025-12-31")
    book.promote(1, "2025-12-31")
    for version, day in enumerate(DAYS[:3], start=2):
        book.life(version, day)
        book.refuse(version, day)
    return book


def found(book: Book) -> Diagnosis:
    told = diagnosis(book.records)
    assert told is not None
    return told


def test_three_in_a_row_are_diagnosed_and_two_are_not(book: Book) -> None:
    told = found(book)
    assert (told.count, [one.version for one in told.refused]) == (3, [2, 3, 4])
    assert [one.partition for one in told.refused] == list(DAYS[:3])
    assert "the data, not the model, wants work" in told.advice
    assert diagnosis(book.records[:-1]) is None
    assert diagnosis(()) is None


def test_a_promotion_ends_the_row(book: Book) -> None:
    book.promote(5, DAYS[3])
    assert row(book.records) == ()
    book.refuse(6, DAYS[3])
    assert [entry.version for entry in row(book.records)] == [6]


def test_a_rollback_ends_the_row(book: Book) -> None:
    book.roll_back(0, left=1)
    assert row(book.records) == ()


def test_drills_and_lapsed_decisions_are_no_part_of_the_row(book: Book) -> None:
    before = row(book.records)
    book.candidate(5, DAYS[3], drill="shuffled_labels")
    book.refuse(5, DAYS[3], outcome="harmful")
    book.write("lapse", DAYS[3], "lapsed", facts={"decision": 7})
    assert row(book.records) == before


def test_a_candidate_that_is_judged_again_counts_once(book: Book) -> None:
    again = Book()
    for _ in range(3):
        again.refuse(2, DAYS[0])
    assert len(row(again.records)) == 1
    book.refuse(2, DAYS[0], outcome="harmful")
    assert [(one.version, one.outcome) for one in found(book).refused][-1] == (2, "harmful")
    assert found(book).count == 3


def test_a_champion_that_a_person_has_judged_again_is_no_refused_candidate(book: Book) -> None:
    book.refuse(1, DAYS[3], outcome="not_comparable")
    assert [entry.version for entry in row(book.records)] == [2, 3, 4]


def test_of_a_longer_row_the_last_three_are_told(book: Book) -> None:
    book.refuse(5, DAYS[3])
    told = found(book)
    assert (told.count, [one.version for one in told.refused]) == (4, [3, 4, 5])
    assert told.advice.startswith("4 candidates in a row")


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ([("auc_gain",), ("auc_gain",), ("auc_gain",)], ("auc_gain",)),
        ([("auc_gain", "brier"), ("auc_gain",), ("brier", "auc_gain")], ("auc_gain",)),
        (
            [("slice_auc/site a",), ("slice_auc/site a",), ("slice_auc/site b", "slice_auc/site a")],
            ("slice_auc (site a)",),
        ),
        ([("slice_auc/site a",), ("slice_auc/site b",), ("slice_auc/site c",)], ("slice_auc",)),
        ([("auc",), ("brier",), ("auc",)], ()),
    ],
)
def test_what_failed_in_all_of_them(failed: list[tuple[str, ...]], expected: tuple[str, ...]) -> None:
    book = Book()
    for version, names in enumerate(failed):
        book.refuse(version, DAYS[version], failed=names)
    assert found(book).failed_in_all == expected


def test_warnings_of_the_gate_kept_nobody_back(book: Book) -> None:
    assert {one.failed for one in found(book).refused} == {("auc_gain",)}


def test_features_that_drifted_in_most_partitions_come_first_and_then_the_farthest() -> None:
    book = Book()
    drifts: list[dict[str, float | None]] = [
        {"often": 0.2, "far": 0.9, "gone": None, "still": 0.01},
        {"often": 0.3, "far": 0.05, "gone": 0.02, "still": 0.02},
        {"often": 0.12, "far": 0.05, "gone": 0.02, "still": 0.09},
    ]
    for version, distances in enumerate(drifts):
        book.life(version, DAYS[version], drift=drifted(distances))
        book.refuse(version, DAYS[version])
    told = found(book)
    assert [(one.name, one.partitions, one.distance) for one in told.drifted] == [
        ("often", 3, 0.3),
        ("gone", 1, None),
        ("far", 1, 0.9),
    ]
    assert told.drift_known == DAYS[:3]
    assert "gone (1 x, no value on one side)" in render(told)


def test_at_most_five_features_are_named() -> None:
    book = Book()
    for version, day in enumerate(DAYS[:3]):
        book.life(version, day, drift=drifted({f"f{n}": 0.2 + n / 100 for n in range(9)}))
        book.refuse(version, day)
    assert [one.name for one in found(book).drifted] == ["f8", "f7", "f6", "f5", "f4"]


def test_drift_that_was_not_looked_at_or_not_computed_is_no_absence_of_drift(book: Book) -> None:
    told = found(book)
    assert (told.drift_known, told.drifted) == ((), ())
    assert "drift: not looked at" in render(told)
    erred = Verdict(subject="inputs", checks=(could_not_run("drift", "gave no value", subject="a"),))
    book.life(5, DAYS[3], drift={"columns": [], "of": 1, "verdict": erred.model_dump(mode="json")})
    book.refuse(5, DAYS[3])
    told = found(book)
    assert (told.drift_known, told.not_compared) == ((DAYS[3],), ("a",))
    assert "could not be checked of: a" in render(told)


def test_label_coverage_is_that_of_the_data_at_the_time_of_the_refusal(book: Book) -> None:
    assert [one.label_coverage for one in found(book).refused] == [0.9, 0.9, 0.9]
    book.data(DAYS[2], rows=100, labelled=10)
    book.refuse(5, DAYS[3])
    assert [one.label_coverage for one in found(book).refused] == [0.9, 0.9, None]
    assert "rows with a label: not known" in render(found(book))


def test_whether_the_champion_missed_its_thresholds_there_is_told() -> None:
    book = Book()
    for version, quality in enumerate((measured(9, 0.6), measured(9, 0.8, coverage=0.1), None)):
        book.life(version, DAYS[version], quality=quality)
        book.refuse(version, DAYS[version])
    assert [one.champion_missed for one in found(book).refused] == [("auc",), (), None]
    for words in ("missed auc", "missed no threshold", "not judged"):
        assert f"the champion there: {words}" in render(found(book))


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (("tests_failed", "untested", "tests_failed"), "the code wants work"),
        (("tests_failed", "harmful", "tests_failed"), "the data, not the model"),
    ],
)
def test_tests_of_the_code_say_nothing_of_the_data(outcomes: tuple[str, ...], words: str) -> None:
    book = Book()
    for version, outcome in enumerate(outcomes):
        book.refuse(version, DAYS[version], outcome=outcome, failed=(f"code_tests/code {version}",))
    assert words in found(book).advice
    assert found(book).failed_in_all == ("code_tests",)


def test_a_pending_refusal_is_diagnosed_as_it_will_be_read(book: Book) -> None:
    *before, final = book.records
    fields: dict[str, Any] = {name: getattr(final, name) for name in Draft.model_fields}
    assert diagnosis(before, Draft(**fields)) == found(book)


def test_a_check_that_is_no_feature_is_no_drift() -> None:
    book = Book()
    for version, day in enumerate(DAYS[:3]):
        drift = drifted({"a": 0.5})
        verdict = Verdict.model_validate(drift["verdict"])
        share = Check(name="drifted_share", passed=False, value=1.0, severity="warn")
        drift["verdict"] = Verdict(subject="x", checks=(*verdict.checks, share)).model_dump(mode="json")
        book.life(version, day, drift=drift)
        book.refuse(version, day)
    assert [one.name for one in found(book).drifted] == ["a"]
