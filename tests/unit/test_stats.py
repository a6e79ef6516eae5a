"""The four DORA figures of a ledger, each with numbers that were worked out by hand."""

from __future__ import annotations

import datetime as dt

import pytest

from mlops_provider.exceptions import RequestError
from mlops_provider.stats import Stats, moment, render, stats
from tests.support.book import BEGIN, Book, measured

HOUR = 3600.0
LATER = BEGIN + dt.timedelta(days=60)


def told(book: Book, since: dt.datetime | None = None, now: dt.datetime = LATER) -> Stats:
    return stats("tiny", book.records, since=since, now=now)


def released(book: Book, version: int, partition: str, begin: float, lead: float) -> None:
    """A version whose data was accepted at an hour, and that was promoted `lead` hours later."""
    book.data(partition, hours=begin)
    book.decide(partition, hours=begin)
    book.candidate(version, partition, hours=begin)
    book.promote(version, partition, hours=begin + lead)


@pytest.fixture
def book() -> Book:
    """Three releases with 2, 4 and 12 hours from data to champion; two candidates refused."""
    book = Book()
    for version, (begin, lead) in enumerate(((0, 2), (100, 4), (200, 12)), start=1):
        released(book, version, f"p{version}", begin, lead)
    for version in (4, 5):
        book.life(version, f"p{version}")
        book.refuse(version, f"p{version}", hours=300)
    return book


def test_release_frequency_is_promotions_over_the_days_looked_at(book: Book) -> None:
    found = told(book)
    assert (found.releases, found.days, found.begin, found.end) == (3, 60.0, BEGIN, LATER)
    assert found.releases_per_30_days == 1.5


def test_lead_time_goes_from_accepted_data_to_promotion(book: Book) -> None:
    lead = told(book).lead_time
    assert (lead.median, lead.longest, lead.longest_of) == (4 * HOUR, 12 * HOUR, "version 3 on p3")
    assert (lead.count, lead.of) == (3, 3)


def test_lead_time_begins_with_the_delivery_that_the_version_was_judged_on() -> None:
    book = Book()
    book.data("p", hours=0)
    book.data("p", hours=10)
    book.candidate(1, "p", hours=11)
    book.data("p", hours=12)
    book.promote(1, "p", hours=15)
    assert told(book).lead_time.longest == 5 * HOUR


def test_a_refused_delivery_is_no_beginning() -> None:
    book = Book()
    book.data("p", hours=0)
    book.write("data", "p", "refused", hours=1)
    book.candidate(1, "p", hours=2)
    book.promote(1, "p", hours=3)
    assert told(book).lead_time.longest == 3 * HOUR


def test_a_second_promotion_of_a_version_is_a_release_without_a_lead_time(book: Book) -> None:
    book.promote(1, "p1", hours=1000)
    found = told(book)
    assert (found.releases, found.lead_time.of, found.lead_time.longest) == (4, 3, 12 * HOUR)


def test_a_release_without_a_record_of_its_data_is_counted_as_such(book: Book) -> None:
    book.promote(9, "nowhere", hours=400)
    lead = told(book).lead_time
    assert (lead.count, lead.of) == (3, 4)


def test_refused_candidates_are_a_share_of_those_decided(book: Book) -> None:
    found = told(book)
    assert (found.refused, found.decided, found.refused_share) == (2, 5, 0.4)


def test_a_candidate_that_was_refused_first_and_promoted_later_is_not_refused(book: Book) -> None:
    book.refuse(4, "p4", hours=301)
    book.promote(4, "p4", hours=310)
    assert (told(book).refused, told(book).decided) == (1, 5)


def test_a_champion_that_is_judged_again_is_not_refused(book: Book) -> None:
    book.refuse(3, "p3", hours=310)
    assert (told(book).refused, told(book).decided) == (2, 5)


def test_a_rolled_back_release_is_a_failed_change(book: Book) -> None:
    book.roll_back(2, left=3, hours=400)
    found = told(book)
    assert found.rolled_back == 1
    assert found.change_failure_rate == pytest.approx(1 / 3)
    assert (found.restore.count, found.restore.median) == (1, (400 - 212) * HOUR)
    assert (found.restore_seen.count, found.restore_seen.of, found.restore_seen.median) == (0, 1, None)


def test_a_rollback_from_a_version_that_a_rollback_brought_back_counts_for_both(book: Book) -> None:
    book.roll_back(2, left=3, hours=400)
    book.roll_back(1, left=2, hours=450)
    found = told(book)
    assert found.rolled_back == 2
    assert found.restore.longest == (400 - 212) * HOUR
    assert found.restore.median == (188 + 50) / 2 * HOUR


def test_a_rollback_that_is_undone_is_no_second_failure(book: Book) -> None:
    book.roll_back(2, left=3, hours=400)
    book.roll_back(3, left=2, hours=401)
    found = told(book)
    assert (found.rolled_back, found.restore.count) == (1, 1)


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({"quality": measured(3, 0.6)}, 100 * HOUR),
        ({"quality": measured(3, 0.8)}, None),
        ({"quality": measured(2, 0.6)}, None),
        ({"quality": measured(3, 0.8, coverage=0.1)}, None),
        ({"quality": measured(3, 0.6, measured=False)}, None),
        ({"unscored": "a column is missing"}, 100 * HOUR),
    ],
    ids=["missed", "held", "of_another_version", "few_labels", "not_measured", "not_scored"],
)
def test_time_to_restore_is_told_from_the_first_missed_quality_too(
    book: Book, facts: dict[str, object], seen: float | None
) -> None:
    book.decide("p6", "wait", hours=300, **facts)
    book.decide("p7", "wait", hours=350, quality=measured(3, 0.8))
    book.roll_back(2, left=3, hours=400)
    assert told(book).restore_seen.median == seen


def test_missed_quality_before_the_release_is_not_of_it(book: Book) -> None:
    early = Book()
    early.decide("p0", "wait", hours=0, quality=measured(2, 0.5))
    early.promote(1, "p1", hours=1)
    early.promote(2, "p2", hours=2)
    early.roll_back(1, left=2, hours=9)
    assert (told(early).restore.median, told(early).restore_seen.median) == (7 * HOUR, None)


def test_drills_do_not_count(book: Book) -> None:
    before = told(book)
    book.candidate(6, "p6", drill="shuffled_labels", hours=320)
    book.refuse(6, "p6", outcome="harmful", hours=321)
    assert told(book) == before


def test_since_looks_at_what_was_decided_from_then_on(book: Book) -> None:
    since = BEGIN + dt.timedelta(hours=150)
    found = told(book, since)
    assert (found.begin, found.releases, found.refused, found.decided) == (since, 1, 2, 3)
    assert found.lead_time.longest == 12 * HOUR
    assert found.lead_time.of == 1


def test_a_release_that_is_rolled_back_after_the_span_has_failed(book: Book) -> None:
    book.roll_back(2, left=3, hours=400)
    assert told(book, BEGIN + dt.timedelta(hours=390)).change_failure_rate is None
    assert told(book, BEGIN + dt.timedelta(hours=150)).change_failure_rate == 1.0


def test_a_rollback_before_the_span_has_no_time_to_restore_in_it(book: Book) -> None:
    book.roll_back(2, left=3, hours=250)
    assert told(book, BEGIN + dt.timedelta(hours=240)).restore.of == 1
    assert told(book, BEGIN + dt.timedelta(hours=260)).restore.of == 0


def test_since_before_the_ledger_began_adds_no_days(book: Book) -> None:
    assert told(book, BEGIN - dt.timedelta(days=900)).days == 60.0


def test_too_little_to_tell_is_none_and_said_in_words() -> None:
    found = told(Book())
    for name in ("releases_per_30_days", "refused_share", "change_failure_rate", "begin", "days"):
        assert getattr(found, name) is None
    for durations in (found.lead_time, found.restore, found.restore_seen):
        assert (durations.count, durations.median, durations.longest) == (0, None, None)
    for words in (
        "nothing has been decided yet",
        "no version was promoted",
        "no candidate",
        "no release was rolled back",
    ):
        assert words in render(found)
    assert "0%" not in render(found)


def test_a_rate_needs_thirty_days_and_none_in_thirty_days_is_a_rate(book: Book) -> None:
    young = told(book, now=BEGIN + dt.timedelta(days=29))
    assert young.releases_per_30_days is None
    assert "29.0 days are too few" in render(young)
    assert told(book, now=BEGIN + dt.timedelta(days=30)).releases_per_30_days == 3.0
    assert told(book, BEGIN + dt.timedelta(days=20)).releases_per_30_days == 0.0


def test_spans_that_the_clock_made_impossible_are_left_out_and_told() -> None:
    book = Book()
    released(book, 1, "p1", 10, -5)
    released(book, 2, "p2", 20, 1)
    found = told(book)
    assert (found.lead_time.count, found.lead_time.of, found.lead_time.longest) == (1, 2, HOUR)
    assert "by the clock, record 4 came before record 1" in render(found)
    assert found.releases == 2, "they were promoted all the same"


def test_a_clock_behind_the_ledger_does_not_end_it_early(book: Book) -> None:
    assert told(book, now=BEGIN - dt.timedelta(days=1)).end == book.records[-1].at


def test_the_future_has_no_decisions(book: Book) -> None:
    with pytest.raises(RequestError, match="lies in the future"):
        told(book, LATER + dt.timedelta(days=1))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "31.01.2026"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no date"):
        moment(text)


def test_a_date_is_utc_unless_it_says_otherwise() -> None:
    assert moment("2026-01-01") == BEGIN
    assert moment("2026-01-01T02:00+02:00") == BEGIN
    assert moment(None) is None


def test_the_figures_for_a_terminal(book: Book) -> None:
    book.roll_back(2, left=3, hours=400)
    lines = render(told(book)).splitlines()
    assert lines[0] == "tiny: 2026-01-01 00:00 to 2026-03-02 00:00 UTC, 60.0 days"
    assert lines[1].endswith("3 promotions, 1.5 in 30 days")
    assert lines[2].endswith("median 4.0 hours, longest 12.0 hours (version 3 on p3), of 3 of 3 first promotions")
    assert lines[3].endswith("1 of 3 releases rolled back (33%)")
    assert lines[4].endswith("2 of 5 candidates (40%)")
    assert lines[5].endswith("median 7.8 days, longest 7.8 days (version 3), of 1 of 1 rollbacks")
    assert lines[6].endswith("known of none of 1 rollbacks")
