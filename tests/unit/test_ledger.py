"""The ledger: every decision once, in order, and nothing rewritten."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_provider.exceptions import ConflictError, IntegrityError
from mlops_provider.ledger import Draft, Ledger, Record, champion, last
from mlops_provider.storage import Storage
from tests.support.workers import append_many, together


def draft(partition: str = "2024-01-01", kind: str = "data", version: int | None = None) -> Draft:
    return Draft(kind=kind, partition=partition, version=version, outcome="accepted", reason="test")  # type: ignore[arg-type]


def ledger(root: Path) -> Ledger:
    return Ledger(Storage(), str(root), "tiny")


def file(root: Path, number: int) -> Path:
    return root / "ledger" / "tiny" / f"{number:08d}.json"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number in range(3):
        ledger(tmp_path).append(draft(str(number)), actor="test")
    return tmp_path


def test_records_are_numbered_and_name_their_predecessor(three: Path) -> None:
    records = ledger(three).records()
    assert [r.number for r in records] == [1, 2, 3]
    assert [r.previous for r in records] == ["", records[0].hash, records[1].hash]


def test_a_record_says_who_and_when(three: Path) -> None:
    record, created = ledger(three).append(draft(), actor="run 7")
    assert created
    assert record.actor == "run 7"
    assert record.at.utcoffset() is not None
    assert ledger(three).records()[-1] == record


def test_an_empty_ledger_has_no_records(tmp_path: Path) -> None:
    assert ledger(tmp_path).records() == ()


def test_what_others_append_is_seen(three: Path) -> None:
    mine, other = ledger(three), ledger(three)
    mine.records()
    other.append(draft("other"), actor="other")
    assert mine.records()[-1].partition == "other"


def test_a_guard_makes_a_second_record_superfluous(three: Path) -> None:
    book = ledger(three)
    record, created = book.append(draft("1"), actor="test", guard=lambda records: last(records, "data", partition="1"))
    assert (record.number, created) == (2, False)
    assert len(book.records()) == 3


def losing_once(book: Ledger, monkeypatch: pytest.MonkeyPatch, rival: Draft) -> None:
    """Lets another writer be first, just before this one creates its record."""
    create = Storage.create
    rivals = [rival]

    def late(self: Storage, uri: str, content: bytes) -> bool:
        if rivals:
            monkeypatch.setattr(Storage, "create", create)
            Ledger(Storage(), uri.split("/ledger/")[0], book.model).append(rivals.pop(), actor="rival")
        return create(self, uri, content)

    monkeypatch.setattr(Storage, "create", late)


def test_a_lost_race_is_run_again(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(three)
    losing_once(book, monkeypatch, draft("rival"))
    record, created = book.append(draft("mine"), actor="test")
    assert (record.number, created) == (5, True)
    assert [r.partition for r in ledger(three).records()[-2:]] == ["rival", "mine"]


def test_the_guard_is_asked_again_after_a_lost_race(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(three)
    losing_once(book, monkeypatch, draft("mine"))
    record, created = book.append(
        draft("mine"), actor="test", guard=lambda records: last(records, "data", partition="mine")
    )
    assert (record.actor, created) == ("rival", False)
    assert len(ledger(three).records()) == 4


def test_a_guard_may_take_the_decision_back_after_a_lost_race(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(three)

    def only_three(records: tuple[Record, ...]) -> None:
        if len(records) > 3:
            raise ConflictError("the world has moved on")

    losing_once(book, monkeypatch, draft("rival"))
    with pytest.raises(ConflictError, match="moved on"):
        book.append(draft("mine"), actor="test", guard=only_three)
    assert [r.partition for r in ledger(three).records()] == ["0", "1", "2", "rival"]


def test_losing_forever_is_a_conflict(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "create", lambda *_: False)
    with pytest.raises(ConflictError, match="other writers were first"):
        ledger(three).append(draft(), actor="test")


def test_eight_processes_append_at_once(tmp_path: Path) -> None:
    numbers = together(8, append_many, {}, str(tmp_path), 10)
    records = ledger(tmp_path).records()
    assert sorted(number for found in numbers for number in found) == list(range(1, 81))
    assert {r.partition for r in records} == {f"{writer}-{n}" for writer in range(8) for n in range(10)}
    assert all(after.previous == before.hash for before, after in itertools.pairwise(records))


def _reworded(content: str) -> str:
    return json.dumps(json.loads(content) | {"reason": "another"})


def _renumbered(content: str) -> str:
    return json.dumps(json.loads(content) | {"number": 7})


def _unfinished(content: str) -> str:
    return content[: len(content) // 2]


def _foreign(content: str) -> str:
    return json.dumps({"note": "not a record"})


@pytest.mark.parametrize("change", [_reworded, _renumbered, _unfinished, _foreign])
def test_a_record_that_was_changed_is_found_out(three: Path, change: Callable[[str], str]) -> None:
    target = file(three, 2)
    target.write_text(change(target.read_text()))
    with pytest.raises(IntegrityError, match=r"0000000[23]\.json"):
        ledger(three).records()


def test_a_missing_record_is_found_out(three: Path) -> None:
    file(three, 2).unlink()
    with pytest.raises(IntegrityError, match="record 2 is missing"):
        ledger(three).records()


def test_a_record_of_another_ledger_is_found_out(three: Path, tmp_path: Path) -> None:
    other = Ledger(Storage(), str(tmp_path), "other")
    for number in range(3):
        other.append(draft(f"other {number}"), actor="test")
    file(three, 3).write_text((tmp_path / "ledger" / "other" / "00000003.json").read_text())
    with pytest.raises(IntegrityError, match="tampered"):
        ledger(three).records()


def test_a_foreign_file_in_the_ledger_is_found_out(three: Path) -> None:
    file(three, 1).with_name("notes.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"notes\.json"):
        ledger(three).records()


def test_a_half_written_record_is_no_record(three: Path) -> None:
    file(three, 1).with_name(".tmp-abc").write_text('{"number"')
    assert len(ledger(three).records()) == 3


def test_the_champion_is_the_last_promotion_or_rollback(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert champion(book.records()) is None
    for kind, version in (("candidate", 1), ("promotion", 1), ("promotion", 2), ("rollback", 1), ("refusal", 3)):
        book.append(draft(kind=kind, version=version), actor="test")
    found = champion(book.records())
    assert found is not None
    assert (found.kind, found.version) == ("rollback", 1)
