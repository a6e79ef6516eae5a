"""One decision to retrain in a paragraph: what it saw, what came of it, what would have turned it."""

from __future__ import annotations

from typing import Any

import pytest

from mlops_provider.exceptions import RequestError
from mlops_provider.why import Why, render, why
from tests.support.book import PERIODIC, Book, drifted, measured

THRESHOLD = {**PERIODIC, "policy": "threshold"}
COST_AWARE = {
    "policy": "cost_aware",
    "costs": {"training": 20.0, "deployment": 5.0, "metric_unit": None},
    "cooldown": 2,
    "prior": None,
}
WEIGHED = {"loss": 0.02, "benefit": 10.0, "cost": 25.0}


@pytest.fixture
def book() -> Book:
    """Version 1 is champion."""
    book = Book()
    book.life(1, "p1")
    book.promote(1, "p1")
    return book


def told(book: Book, partition: str | None = None) -> Why:
    return why("tiny", book.records, partition)


def test_the_last_decision_is_told_or_that_of_a_partition(book: Book) -> None:
    book.decide("p2", "wait", reason="not yet")
    assert (told(book).partition, told(book).outcome, told(book).reason) == ("p2", "wait", "not yet")
    assert told(book, "p1").outcome == "train"
    assert (told(book).actor, told(book).at, told(book).record) == ("test", book.records[-1].at, 5)


def test_without_a_decision_there_is_nothing_to_tell(book: Book) -> None:
    with pytest.raises(RequestError, match=r"tiny\.cm takes one"):
        told(Book())
    with pytest.raises(RequestError, match="decided on are p1 to p1"):
        told(book, "p9")


def test_quality_is_told_with_its_interval_and_what_was_missed(book: Book) -> None:
    book.decide("p2", quality=measured(1, 0.62, coverage=0.5))
    seen = told(book).quality
    assert seen is not None
    assert (seen.metric, seen.metrics, seen.low, seen.high) == ("auc", {"auc": 0.62}, 0.61, 0.63)
    assert seen.missed == ("auc 0.62 against at least 0.7",)
    assert seen.other == ("label_coverage 0.5 against 0.9",)
    text = render(told(book))
    assert "Of the predictions of version 1, 50.0% of them with labels, it saw auc 0.62 [0.61, 0.63]" in text
    assert "missed were auc 0.62 against at least 0.7" in text
    assert "label_coverage 0.5 against 0.9, which is no loss of quality" in text


def test_a_metric_that_could_not_be_measured_was_not_missed(book: Book) -> None:
    book.decide("p2", "wait", quality=measured(1, 0.6, measured=False))
    seen = told(book).quality
    assert seen is not None
    assert (seen.missed, seen.other, seen.metric) == ((), ("auc: was not measured",), None)
    assert "no threshold was missed" in render(told(book))


def test_a_partition_that_was_not_scored_is_told_as_such(book: Book) -> None:
    book.decide("p2", "wait", unscored="a column is missing")
    assert "could not score it: a column is missing" in render(told(book))
    assert "saw no judged predictions" in render(told(book, "p1"))


def test_drift_is_told_and_that_it_alone_never_retrains(book: Book) -> None:
    book.decide("p2", "wait", drift=drifted({"a": 0.5, "b": 0.01}))
    assert "1 of 2 columns had drifted (a); drift alone never retrains" in render(told(book))
    assert "knew of no drift, and drift alone never retrains" in render(told(book, "p1"))


def test_the_policy_is_told_with_the_settings_that_it_goes_by(book: Book) -> None:
    policies: list[tuple[dict[str, Any], str]] = [
        (PERIODIC, "The policy was periodic (every 1)."),
        (THRESHOLD, "The policy was threshold (windows 3, violations 2)."),
        ({**PERIODIC, "policy": "never"}, "The policy was never."),
        ({"policy": "new", "cost": 3}, "The policy was new (cost 3)."),
        (COST_AWARE, "The policy was cost_aware (costs training 20, deployment 5, cooldown 2)."),
    ]
    for policy, words in policies:
        book.decide("p2", policy=policy)
        assert words in render(told(book))
        assert told(book).policy == policy


# What came of it


def test_a_decision_to_wait_leads_to_nothing(book: Book) -> None:
    book.decide("p2", "wait")
    assert [one.state for one in told(book).came_of_it] == ["nothing"]
    assert "nothing was trained on it" in render(told(book))


def test_the_stages_of_a_candidate(book: Book) -> None:
    book.decide("p2")
    assert [one.state for one in told(book).came_of_it] == ["waiting"]
    book.candidate(2, "p2")
    assert [(one.state, one.version) for one in told(book).came_of_it] == [("candidate", 2)]
    book.refuse(2, "p2", reason="no proven gain")
    assert [(one.state, one.outcome) for one in told(book).came_of_it] == [("refused", "no_proven_gain")]
    assert "version 2 was refused (record 7): no proven gain" in render(told(book))


def test_a_promotion_is_told_and_that_it_was_rolled_back_since(book: Book) -> None:
    book.decide("p2")
    book.candidate(2, "p2")
    book.promote(2, "p2", reason="proven gain")
    assert "version 2 was promoted (record 7): proven gain." in render(told(book))
    book.roll_back(1, left=2, reason="complaints")
    assert "rolled back since: complaints" in render(told(book))
    assert "rolled back" not in render(told(book, "p1"))


def test_a_lapsed_decision_says_why_and_that_of_another_partition_does_not_count(book: Book) -> None:
    decision = book.decide("p2")
    book.write("lapse", "p1", "lapsed", facts={"decision": 1})
    assert [one.state for one in told(book).came_of_it] == ["waiting"]
    book.write("lapse", "p2", "lapsed", reason="overtaken", facts={"decision": decision.number})
    assert [(one.state, one.reason) for one in told(book).came_of_it] == [("lapsed", "overtaken")]
    assert "it lapsed (record 7): overtaken" in render(told(book))


def test_a_drill_did_not_come_of_it(book: Book) -> None:
    book.decide("p2", "wait")
    book.candidate(2, "p2", drill="shuffled_labels")
    book.refuse(2, "p2")
    assert [one.state for one in told(book).came_of_it] == ["nothing"]


def test_what_a_person_had_trained_although_it_said_wait_is_told(book: Book) -> None:
    book.decide("p2", "wait")
    for version in (2, 3):
        book.candidate(version, "p2")
        book.refuse(version, "p2")
    assert [one.version for one in told(book).came_of_it] == [2, 3]


# What would have turned it


@pytest.mark.parametrize(
    ("outcome", "facts", "words"),
    [
        ("wait", {"policy": {**PERIODIC, "policy": "never"}}, "only a person's demand"),
        ("train", {}, "every newly labelled partition is trained on"),
        ("train", {"policy": {**PERIODIC, "every": 3}}, "fewer than 3 newly labelled"),
        ("wait", {"policy": {**PERIODIC, "every": 3}}, "3 newly labelled partitions since"),
        ("wait", {"policy": THRESHOLD}, "judged predictions of the champion"),
        (
            "wait",
            {"policy": THRESHOLD, "quality": measured(1, 0.8)},
            "misses its threshold on p2, and so in 2 of the last 3",
        ),
        ("wait", {"policy": THRESHOLD, "quality": measured(1, 0.6)}, "a miss like that of p2 in 2 of the last 3"),
        ("wait", {"policy": THRESHOLD, "unscored": "broken"}, "a miss like that of p2 in 2 of the last 3"),
        (
            "train",
            {"policy": THRESHOLD, "quality": measured(1, 0.6)},
            "within its thresholds (auc 0.6 against at least 0.7)",
        ),
        ("train", {"policy": THRESHOLD, "unscored": "broken"}, "within its thresholds (scoring, which failed)"),
        ("wait", {"policy": {"policy": "new"}}, "the record does not tell more"),
        ("wait", {"policy": COST_AWARE}, "the record does not tell more"),
        (
            "wait",
            {"policy": COST_AWARE, "weighed": WEIGHED},
            "a benefit above 25, which training and",
        ),
        ("train", {"policy": COST_AWARE, "weighed": {**WEIGHED, "benefit": 30.0}}, "a benefit of no more than 25"),
    ],
)
def test_what_would_have_turned_the_decision(book: Book, outcome: str, facts: dict[str, Any], words: str) -> None:
    book.decide("p2", outcome, **facts)
    assert words in told(book).otherwise


def test_what_comes_before_any_policy() -> None:
    book = Book()
    book.decide("p1", "wait", reason="not enough data: 1 of 4 labelled partitions")
    assert "more labelled partitions" in told(book).otherwise
    book.decide("p2")
    book.candidate(1, "p2")
    book.promote(1, "p2")
    assert "nothing but a champion" in told(book).otherwise, "there was none when it was decided"


def test_refusals_in_a_row_are_diagnosed_below(book: Book) -> None:
    for version in (2, 3, 4):
        assert told(book).diagnosis is None
        book.life(version, f"p{version}")
        book.refuse(version, f"p{version}")
    assert told(book).diagnosis is not None
    paragraph, below = render(told(book)).split("\n\n")
    assert "\n" not in paragraph
    assert below.startswith("3 candidates in a row were refused")
