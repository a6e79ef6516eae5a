"""The closing table and what must hold of it."""

from __future__ import annotations

import json

import pytest

from mlops_provider import report
from mlops_provider.ledger import Draft
from mlops_provider.report import Line, Story
from mlops_provider.steps.scoring.predictions import committed, manifest
from tests.support.tiny import DAYS, World, call, train


def line(day: str, **values: object) -> Line:
    return Line(partition=day, **{"outcome": "promoted", **values})  # type: ignore[arg-type]


def told(*lines: Line) -> Story:
    return Story(model="tiny", metric="auc", lines=lines)


def test_the_story_of_a_model(lapped: World) -> None:
    found = report.story(lapped.job())
    assert [one.partition for one in found.lines] == list(DAYS)
    assert [one.scored_by for one in found.lines] == [None, None, None, 1, 2]
    assert [one.champion for one in found.lines] == [None, None, 1, 2, 2]
    assert [one.outcome for one in found.lines] == ["wait", "wait", "promoted", "promoted", "no_proven_gain"]
    assert found.lines[3].fitted == DAYS[:2]
    assert found.lines[4].fitted == DAYS[:3]
    assert found.lines[3].drifted == "0/4"
    assert report.broken(found) == []


def test_the_quality_is_that_of_the_predictions_made(lapped: World) -> None:
    last = report.story(lapped.job()).lines[4]
    assert last.quality is not None
    assert last.low is not None
    assert last.high is not None
    assert 0.6 < last.low < last.quality < last.high < 1


def test_a_day_scored_by_a_model_that_was_fitted_on_it_is_found(lapped: World) -> None:
    job = lapped.job()
    found = manifest(job, DAYS[3])
    assert found is not None
    committed(job, found.model_copy(update={"partition": DAYS[1]}))
    (fault,) = report.broken(report.story(job))
    assert fault.startswith(f"{DAYS[1]} was scored by version 1, which was fitted on")


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        ((line(DAYS[1], rows=9, scored_by=1, fitted=(DAYS[0],)),), 0),
        ((line(DAYS[1], rows=9, scored_by=1, fitted=(DAYS[0], DAYS[1])),), 1),
        ((line(DAYS[1], rows=9, scored_by=1, fitted=(DAYS[2],)),), 1),
        ((line(DAYS[1], rows=9, scored_by=1, fitted=()),), 1),
        ((line(DAYS[1], rows=0, scored_by=1, fitted=(DAYS[1],)),), 1),
        ((line(DAYS[1]),), 0),
        ((line(DAYS[1], outcome="wait"),), 1),
        ((), 0),
    ],
)
def test_what_must_hold(lines: tuple[Line, ...], faults: int) -> None:
    assert len(report.broken(told(*lines))) == faults


def test_a_drill_is_told_apart_from_the_days(lapped: World) -> None:
    before = report.story(lapped.job())
    train(lapped, lapped.job(), DAYS[4], drill="shuffled_labels")
    lapped.loops().cd()
    after = report.story(lapped.job())
    assert (before.drills, after.drills) == ({}, {4: "harmful"})
    assert after.lines == before.lines


def test_labels_whose_inputs_are_missing_are_told(champion: World) -> None:
    champion.deliver(DAYS[3], what=("labels",))
    last = report.story(champion.job()).lines[-1]
    assert (last.partition, last.champion) == (DAYS[3], 1)
    assert "inputs.parquet does not exist" in last.reason


def test_a_rollback_is_told(lapped: World) -> None:
    assert report.story(lapped.job()).champion == 2
    call(lapped.job(), "rollback", version=1, reason="complaints")
    found = report.story(lapped.job())
    assert (found.champion, found.rollback) == (1, "from version 2 to 1: complaints")
    assert report.render(found).endswith("Champion now: v1, by a rollback from version 2 to 1: complaints")


def test_three_refusals_in_a_row_are_diagnosed_below_the_table(lapped: World) -> None:
    job = lapped.job()
    assert report.story(job).diagnosis is None
    candidate, refusal = (r for r in job.ledger.records() if r.version == 3)
    for version in (90, 91):
        for record in (candidate, refusal):
            facts = record.facts | {"version": candidate.facts["version"] | {"version": version}}
            draft = {name: getattr(record, name) for name in Draft.model_fields}
            job.ledger.append(Draft(**{**draft, "version": version, "facts": facts}), actor="test")
    found = report.story(job)
    assert found.diagnosis is not None
    assert [one.version for one in found.diagnosis.refused] == [3, 90, 91]
    assert "\n\n3 candidates in a row were refused: the data" in report.render(found)
    assert json.loads(json.dumps(report.as_json(found, [])))["diagnosis"]["count"] == 3


def test_an_undecided_delivery_is_told(champion: World) -> None:
    champion.deliver(DAYS[3], what=("inputs",))
    last = report.story(champion.job()).lines[-1]
    assert (last.partition, last.outcome, last.rows) == (DAYS[3], "delivered", None)


def test_the_table_is_aligned_and_complete(lapped: World) -> None:
    lines = report.render(report.story(lapped.job())).splitlines()
    assert len(lines) == 2 + len(DAYS)
    assert lines[0].startswith("month")
    assert "1,200" in lines[5]
    assert "v2" in lines[6]
    assert "no proven gain" in lines[6]
    assert len({text.index("none") for text in lines[2:4]}) == 1


def test_the_story_as_json(lapped: World) -> None:
    told = report.story(lapped.job())
    found = json.loads(json.dumps(report.as_json(told, report.broken(told))))
    assert (found["model"], found["broken"], len(found["lines"])) == ("tiny", [], len(DAYS))


def test_an_empty_ledger_has_a_story(empty: World) -> None:
    found = report.story(empty.job())
    assert (found.lines, report.broken(found)) == ((), [])
