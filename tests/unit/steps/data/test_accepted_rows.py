"""Rows in quarantine stay there: whatever reads a judged partition once more does not see them either."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from mlops_provider.exceptions import ConflictError
from mlops_provider.ledger import Draft
from mlops_provider.steps import plan
from mlops_provider.steps.data.features import load
from mlops_provider.steps.records import DataWork, Evaluation
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.split import load_split
from tests.support.tiny import DAYS, World, call, train


def guarded(world: World, **suites: list[dict[str, Any]]) -> Job:
    """The model with a past of a day, in mode quarantine, with these suites."""
    world.configure(data={"validation": {"mode": "quarantine", "max_share": 0.05}, "past": {"window": "1d"}})
    for name, expectations in suites.items():
        content = {"name": name, "expectations": expectations}
        (world.model / "expectations" / f"{name}.json").write_text(json.dumps(content))
    return world.job()


def expectation(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


UNIQUE = expectation("column_values_to_be_unique", column="id")


def repeat(world: World, day: str, rows: int = 3) -> list[str]:
    """Gives the first rows of a day one key; the keys that are gone by it, or stand there more than once."""
    before = pd.read_parquet(world.file(day, "inputs"))["id"][:rows].tolist()
    world.rewrite(day, "inputs", lambda frame: frame.assign(id=frame["id"].mask(frame.index < rows, before[0])))
    return before


def past_of(job: Job, day: str) -> pd.DataFrame:
    (work,) = plan.ci(job, partition=day)
    assert work.inputs is not None
    return load(job, day, work.inputs, work.history).history["past"]


def test_repeated_keys_in_quarantine_are_in_no_later_past(delivered: World) -> None:
    job = guarded(delivered, raw=[UNIQUE])
    repeated = repeat(delivered, DAYS[0])
    before = past_of(job, DAYS[1])
    assert before["id"].duplicated().sum() == 2, "not judged yet: all that was delivered"
    delivered.loops(job).ci()
    after = past_of(job, DAYS[1])
    assert set(before["id"]) - set(after["id"]) == {repeated[0]}
    assert after["id"].is_unique
    recorded = DataWork.model_validate(delivered.records("data")[0].facts["work"])
    assert recorded.accepted is not None
    assert recorded.accepted.rows == len(pd.read_parquet(delivered.file(DAYS[0], "inputs"))) - 3
    assert recorded.identity == delivered.work(DAYS[0], job).identity


def test_rows_of_the_feature_table_in_quarantine_are_in_no_later_past(delivered: World) -> None:
    small = expectation("column_values_to_be_between", column="a", max_value=2)
    job = guarded(delivered, features=[small])
    assert past_of(job, DAYS[1])["a"].max() > 2
    delivered.loops(job).ci()
    assert 1.5 < past_of(job, DAYS[1])["a"].max() <= 2


def test_a_past_that_was_planned_before_a_partition_was_judged_reads_all_of_it(delivered: World) -> None:
    """Until then nobody knows better; the list says what was read, and scoring in turn waits for the judgement."""
    job = guarded(delivered, raw=[UNIQUE])
    repeat(delivered, DAYS[0])
    (work,) = plan.ci(job, partition=DAYS[1])
    (first,) = json.loads(job.storage.fetch(work.history["past"]))["partitions"]
    assert first["inputs"]["uri"] == str(delivered.file(DAYS[0], "inputs"))
    delivered.loops(job).ci()
    (work,) = plan.ci(job, partition=DAYS[1])
    (first,) = json.loads(job.storage.fetch(work.history["past"]))["partitions"]
    assert "/accepted/" in first["inputs"]["uri"]


def test_a_record_of_old_that_names_no_accepted_rows_is_read(delivered: World) -> None:
    job = guarded(delivered, raw=[UNIQUE])
    delivered.loops(job).ci()
    (record,) = (r for r in delivered.records("data") if r.partition == DAYS[0])
    work = {name: value for name, value in record.facts["work"].items() if name not in ("accepted", "quarantined")}
    draft = Draft(**record.model_dump(include=set(Draft.model_fields)) | {"facts": record.facts | {"work": work}})
    job.ledger.append(draft, actor="an earlier release")
    assert len(past_of(delivered.job(), DAYS[1])) > 1000
    # What was accepted is known, so that the same rows judged again are no other decision.
    call(job, "snapshot", **judged_again(delivered, job))
    assert len(delivered.records("data")) == 4


def judged_again(world: World, job: Job) -> dict[str, Any]:
    work = world.work(DAYS[0], job)
    raw = call(job, "validate", work=work, suite="raw")
    built = call(job, "build_features", work=plan.ci(job, partition=DAYS[0])[0], accepted=raw.accepted)
    return {"work": work, "table": built.table, "verdicts": (raw.verdict,), "accepted": built.built_from}


def test_other_accepted_rows_are_another_decision(delivered: World) -> None:
    job = guarded(delivered, raw=[UNIQUE])
    repeat(delivered, DAYS[0])
    delivered.loops(job).ci()
    given = judged_again(delivered, job)
    assert given["accepted"] is not None
    call(job, "snapshot", **given)
    assert len(delivered.records("data")) == 3
    call(job, "snapshot", **given | {"accepted": None})
    assert len(delivered.records("data")) == 4


def test_accepted_rows_that_are_gone_are_written_anew_when_the_partition_is_judged_again(delivered: World) -> None:
    job = guarded(delivered, raw=[UNIQUE])
    repeat(delivered, DAYS[0])
    delivered.loops(job).ci()
    before = past_of(job, DAYS[1])
    (accepted,) = (delivered.artifacts / "accepted" / "tiny" / DAYS[0]).iterdir()
    accepted.unlink()
    with pytest.raises(ConflictError, match="an earlier partition.*accepted/tiny"):
        past_of(job, DAYS[1])
    (work,) = plan.ci(job, partition=DAYS[0])
    delivered.loops(job)._judge(work)
    pd.testing.assert_frame_equal(past_of(job, DAYS[1]), before)
    assert len(delivered.records("data")) == 3


def compared_by(world: World, job: Job) -> Evaluation:
    version = train(world, job, DAYS[3])
    (champion, *_) = world.versions()
    found: Evaluation = call(job, "evaluate", package=version.package, split=version.split, champion=champion)
    return found


def test_a_champion_of_other_code_is_compared_on_what_was_accepted(challenger: World) -> None:
    content = {"name": "raw", "expectations": [UNIQUE]}
    challenger.configure(data={"validation": {"mode": "quarantine", "max_share": 0.05}})
    (challenger.model / "expectations" / "raw.json").write_text(json.dumps(content))
    repeat(challenger, DAYS[3])
    job = challenger.job()
    challenger.loops(job).ci()
    usual = compared_by(challenger, job)
    features = challenger.model / "features.py"
    features.write_text(features.read_text().replace('rows[["a", "b", "c"]]', '(-1 * rows[["a", "b", "c"]])'))
    job = challenger.job()
    challenger.loops(job).ci()
    found = compared_by(challenger, job)
    assert found.verdict.passed, found.verdict.reason()
    assert (found.champion, found.rows) == (usual.champion, usual.rows)
    holdout = load_split(job, challenger.split(DAYS[3], job)).holdout_work
    assert holdout.accepted is not None
    assert holdout.accepted.rows == 1_200 - 3


@pytest.mark.parametrize("aside", [True, False])
def test_keys_and_times_of_rows_in_quarantine_refuse_no_partition(accepted: World, aside: bool) -> None:
    """A row that was put aside is no duplicate of an earlier partition's, and lies in none."""
    accepted.deliver(DAYS[3])
    known = pd.read_parquet(accepted.file(DAYS[2], "inputs"))["id"][0]

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        first = frame.index < 1
        late = frame["at"].mask(first, frame["at"] + pd.Timedelta(days=9))
        return frame.assign(id=frame["id"].mask(first, known), at=late, a=frame["a"].mask(first, 99.0))

    accepted.rewrite(DAYS[3], "inputs", change)
    job = guarded(accepted, raw=[expectation("column_values_to_be_between", column="a", max_value=50)])
    work = accepted.work(DAYS[3], job)
    rows = call(job, "validate", work=work, suite="raw").accepted if aside else None
    table = call(
        job, "build_features", work=plan.ci(job, partition=DAYS[3])[0], accepted=rows or usable(accepted)
    ).table
    found = call(job, "compare_history", work=work, table=table, accepted=rows)
    problems = {check.name for check in found.verdict.checks if not check.passed}
    assert problems == (set() if aside else {"duplicate_keys", "event_times_in_partition"})


def usable(world: World) -> Any:
    """The rows of the day without the first one."""
    place = world.root / "usable.parquet"
    pd.read_parquet(world.file(DAYS[3], "inputs"))[1:].to_parquet(place)
    return world.job().storage.describe(str(place))
