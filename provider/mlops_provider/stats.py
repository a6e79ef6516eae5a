"""Statistics of the loops: the four DORA figures, for the releases of a model, from its ledger alone.

Forsgren, Humble and Kim 2018, "Accelerate", and the DORA reports after it measure software delivery by deployment frequency,
lead time for changes, change failure rate and time to restore service. Here a change is a new partition of labelled data,
a deployment is a promotion, and a failed deployment is a promotion that was rolled back. Drills do not count.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import RequestError
from mlops_provider.ledger import Record, champion, last
from mlops_provider.steps.monitoring.diagnosis import drills, missed

_PERIOD = 30.0


class Durations(Frozen):
    """Several spans of time, in seconds.

    :param count: how many there are, `of` so many that there could be.
    :param median: None if there are none; `longest` likewise.
    :param longest_of: which one was the longest.
    """

    count: int
    of: int
    median: float | None = None
    longest: float | None = None
    longest_of: str = ""


class Stats(Frozen):
    """The four figures. What cannot be told is None, and `notes` says why.

    :param begin: of the span that is looked at: the first record of the ledger or, if that is later, the moment that was asked
        for. `end` is the present, or the last record if the clock is behind that.
    :param releases: promotions in the span; `releases_per_30_days` is None if the span is shorter than that.
    :param lead_time: from data to champion, of each version promoted for the first time in the span. It begins with the last
        record ``data: accepted`` of the partition that the version was judged on, its holdout, before the version was
        registered, and ends with the record of its promotion.
    :param refused: candidates in the span that were refused and never promoted, of `decided` that were promoted or refused.
    :param rolled_back: of the releases, those that were rolled back, be it after the span. `change_failure_rate` is their
        share. A rollback to a version that was promoted later than the one that it replaces undoes a rollback, and is none.
    :param restore: of each rollback in the span, from the record that made the version champion that was rolled back (its
        promotion, or the rollback that had brought it back) to the rollback.
    :param restore_seen: the same, but from the first decision to retrain in between that found a metric of that version
        missed, or that it could not score: only of rollbacks that monitoring had seen a reason for.
    """

    model: str
    begin: dt.datetime | None = None
    end: dt.datetime
    days: float | None = None
    releases: int
    releases_per_30_days: float | None = None
    lead_time: Durations
    decided: int
    refused: int
    refused_share: float | None = None
    rolled_back: int
    change_failure_rate: float | None = None
    restore: Durations
    restore_seen: Durations
    notes: tuple[str, ...] = ()


class _Failure(NamedTuple):
    """A release that was rolled back: what made it champion for the last time, and what replaced it."""

    release: Record
    champion: Record
    rollback: Record


class _Span(NamedTuple):
    what: str
    begin: Record
    end: Record

    @property
    def seconds(self) -> float:
        return (self.end.at - self.begin.at).total_seconds()


def moment(text: str | None) -> dt.datetime | None:
    """The moment that a date names, UTC unless it says otherwise; None of None.

    :param text: ``2026-01-31``, or with a time as in ISO 8601.
    :raises RequestError: if it is no date.
    """
    if text is None:
        return None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestError(f"{text!r} is no date, expected one such as '2026-01-31'") from error
    return found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)


def stats(
    model: str, records: Sequence[Record], *, since: dt.datetime | None = None, now: dt.datetime | None = None
) -> Stats:
    """The figures of a ledger.

    :param since: looks at what was decided from then on; at everything if None.
    :param now: the present, by the clock if None.
    :raises RequestError: if `since` lies in the future.
    """
    aside = drills(records)
    real = tuple(r for r in records if r.version is None or r.version not in aside)
    end = max([now or dt.datetime.now(dt.UTC), *(r.at for r in real[-1:])])
    if since and since > end:
        raise RequestError(f"{since:%Y-%m-%d %H:%M %Z} lies in the future: nothing was decided since then")
    begin = max([min(r.at for r in real), *((since,) if since else ())]) if real else None
    releases = [r for r in real if r.kind == "promotion" and _within(r, begin)]
    decided, refused = _decided(real, begin)
    failures = list(_failures(real))
    failed = {f.release.number for f in failures}
    rolled_back = sum(r.number in failed for r in releases)
    restored = [f for f in failures if _within(f.rollback, begin)]
    days = (end - begin).total_seconds() / 86_400 if begin else None
    notes: list[str] = []
    return Stats(
        model=model,
        begin=begin,
        end=end,
        days=days,
        releases=len(releases),
        releases_per_30_days=len(releases) * _PERIOD / days if days and days >= _PERIOD else None,
        lead_time=_durations(list(_lead_times(real, releases)), len(_first(real, releases)), notes),
        decided=decided,
        refused=refused,
        refused_share=refused / decided if decided else None,
        rolled_back=rolled_back,
        change_failure_rate=rolled_back / len(releases) if releases else None,
        restore=_durations([_Span(_name(f), f.champion, f.rollback) for f in restored], len(restored), notes),
        restore_seen=_durations(list(_seen(real, restored)), len(restored), notes),
        notes=(*_unknown(days, releases, decided, restored), *dict.fromkeys(notes)),
    )


def _within(record: Record, begin: dt.datetime | None) -> bool:
    return begin is None or record.at >= begin


def _decided(records: Sequence[Record], begin: dt.datetime | None) -> tuple[int, int]:
    """How many candidates were promoted or refused, each counted once, and how many of them refused for good."""
    promoted: dict[int | None, Record] = {}
    refused: dict[int | None, Record] = {}
    for record in records:
        if record.kind == "promotion":
            promoted.setdefault(record.version, record)
        elif record.kind == "refusal":
            refused[record.version] = record
    gone = [r for version, r in refused.items() if version not in promoted and _within(r, begin)]
    return len(gone) + sum(_within(r, begin) for r in promoted.values()), len(gone)


def _first(records: Sequence[Record], releases: Sequence[Record]) -> list[Record]:
    """The releases of versions that had not been promoted before: a second one says nothing of the way from data."""
    first: dict[int | None, Record] = {}
    for record in records:
        if record.kind == "promotion":
            first.setdefault(record.version, record)
    return [r for r in releases if first[r.version].number == r.number]


def _lead_times(records: Sequence[Record], releases: Sequence[Record]) -> Iterator[_Span]:
    for release in _first(records, releases):
        registered = last((r for r in records if r.version == release.version), "candidate") or release
        before = (r for r in records if r.number < registered.number and r.outcome == "accepted")
        if data := last(before, "data", partition=release.partition):
            yield _Span(f"version {release.version} on {release.partition}", data, release)


def _failures(records: Sequence[Record]) -> Iterator[_Failure]:
    for place, record in enumerate(records):
        if record.kind != "rollback" or (now := champion(records[:place])) is None:
            continue
        left, kept = (_promotion(records[:place], version) for version in (now.version, record.version))
        if left and (kept is None or kept.number < left.number):
            yield _Failure(left, now, record)


def _promotion(records: Sequence[Record], version: int | None) -> Record | None:
    return last((r for r in records if r.version == version), "promotion")


def _seen(records: Sequence[Record], failures: Sequence[_Failure]) -> Iterator[_Span]:
    for failure in failures:
        spell = (r for r in records if failure.champion.number < r.number < failure.rollback.number)
        bad = next((r for r in spell if r.kind == "retrain" and _missed(r, failure.champion.version)), None)
        if bad:
            yield _Span(_name(failure), bad, failure.rollback)


def _missed(decision: Record, version: int | None) -> bool:
    """Whether a decision to retrain found that a version lost quality, or could not score: the policy counts both."""
    quality = decision.facts.get("quality")
    if quality:
        return quality["version"] == version and bool(missed(quality))
    return bool(decision.facts.get("unscored"))


def _name(failure: _Failure) -> str:
    return f"version {failure.release.version}"


def _durations(spans: Sequence[_Span], of: int, notes: list[str]) -> Durations:
    """:param notes: takes what the clock made impossible."""
    backwards = [span for span in spans if span.seconds < 0]
    notes += [
        f"{s.what} is left out: by the clock, record {s.end.number} came before record {s.begin.number}"
        for s in backwards
    ]
    good = sorted((span for span in spans if span.seconds >= 0), key=lambda span: span.seconds)
    if not good:
        return Durations(count=0, of=of)
    median = statistics.median(span.seconds for span in good)
    return Durations(count=len(good), of=of, median=median, longest=good[-1].seconds, longest_of=good[-1].what)


def _unknown(
    days: float | None, releases: Sequence[Record], decided: int, restored: Sequence[_Failure]
) -> Iterator[str]:
    """Why a figure is None."""
    if days is None:
        yield "release frequency: nothing has been decided yet"
    elif days < _PERIOD:
        yield f"release frequency: {_told(days * 86_400)} are too few to tell a rate, {_PERIOD:.0f} days are needed"
    if not releases:
        yield "lead time and change failure rate: no version was promoted"
    if not decided:
        yield "refused releases: no candidate was promoted or refused"
    if not restored:
        yield "time to restore: no release was rolled back"


def render(found: Stats) -> str:
    """The figures for a terminal."""
    span = f"{found.begin:%Y-%m-%d %H:%M} to {found.end:%Y-%m-%d %H:%M} UTC" if found.begin else "-"
    span += "" if found.days is None else f", {_told(found.days * 86_400)}"
    rate, failure = found.releases_per_30_days, found.change_failure_rate
    promoted = f"{found.releases} promotions" + ("" if rate is None else f", {rate:.2g} in 30 days")
    failed = "-" if failure is None else f"{found.rolled_back} of {found.releases} releases rolled back ({failure:.0%})"
    share = found.refused_share
    refused = "-" if share is None else f"{found.refused} of {found.decided} candidates ({share:.0%})"
    rows = (
        ("release frequency", promoted),
        ("lead time, data to champion", _span(found.lead_time, "first promotions")),
        ("change failure rate", failed),
        ("refused", refused),
        ("time to restore", _span(found.restore, "rollbacks")),
        ("  from the first missed quality", _span(found.restore_seen, "rollbacks")),
    )
    table = "\n".join(f"{name:<32}{told}" for name, told in rows)
    return "\n".join([f"{found.model}: {span}", table, *(f"\n{note}" for note in found.notes[:1]), *found.notes[1:]])


def _span(found: Durations, what: str) -> str:
    if found.median is None or found.longest is None:
        return "-" if not found.of else f"known of none of {found.of} {what}"
    told = f"median {_told(found.median)}, longest {_told(found.longest)} ({found.longest_of})"
    return f"{told}, of {found.count} of {found.of} {what}"


def _told(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds" if seconds >= 1 else f"{seconds:.2g} seconds"
