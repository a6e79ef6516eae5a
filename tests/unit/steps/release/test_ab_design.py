"""The design of an A/B test: what it needs, when it ends, and that nothing of it can be changed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConflictError, DataError, IntegrityError, RequestError
from mlops_provider.ledger import Draft
from mlops_provider.steps.release import ab_design
from mlops_provider.steps.release.ab_design import Design, DesignABTestArguments, frozen
from mlops_provider.steps.release.ab_statistics import Sizes, total_for
from mlops_provider.steps.step import Job, Request, run
from tests.support.tiny import World, call

START = dt.datetime(2030, 1, 7, tzinfo=dt.UTC)
ASKED: dict[str, Any] = {
    "name": "new_model",
    "control": "old",
    "treatment": "new",
    "entity": "customer",
    "metric": {"name": "spent", "kind": "mean"},
    "baseline": {"mean": 20, "sd": 10},
    "effect": 1,
    "start": START,
    "per_day": 400,
}
RATE: dict[str, Any] = {"metric": {"name": "bought", "kind": "proportion"}, "baseline": {"rate": 0.1}, "effect": 0.02}


def design(job: Job, **changes: Any) -> Design:
    found: Design = call(job, "design_ab_test", **{**ASKED, **changes})
    return found


@pytest.fixture
def job(empty: World) -> Job:
    return empty.job()


def past(world: World, **columns: Any) -> str:
    """Past data under data_root, and its relative URI."""
    pd.DataFrame(columns).to_parquet(world.data / "past.parquet")
    return "past.parquet"


def test_a_design_says_how_many_entities_it_needs_and_when_it_ends(job: Job) -> None:
    found = design(job)
    assert found.needed == Sizes(control=1571, treatment=1571)
    assert found.total == total_for(found.needed, 0.5) == 3331
    assert found.end == found.due == START + dt.timedelta(days=9)
    assert 0.9 < found.detectable < 1
    assert found.asked.salt == "tiny.new_model"


def test_the_outcomes_are_waited_for(job: Job) -> None:
    assert design(job, delay="3d").due == START + dt.timedelta(days=12)


def test_an_unequal_share_needs_more_entities_in_all(job: Job) -> None:
    found = design(job, share=0.1)
    assert found.needed.control > 1571 > found.needed.treatment
    assert found.total > 3331


def test_a_later_end_than_needed_is_kept(job: Job) -> None:
    end = START + dt.timedelta(days=14)
    found = design(job, end=end)
    assert found.end == end
    assert found.detectable < design(job, name="shorter").detectable


def test_a_moment_of_another_time_zone_is_the_same_moment(job: Job) -> None:
    first = design(job)
    assert design(job, start="2030-01-07T01:00:00+01:00") == first


def test_an_end_that_comes_too_early_is_refused_with_what_it_could_show(job: Job) -> None:
    with pytest.raises(RequestError) as refused:
        design(job, end=START + dt.timedelta(days=4))
    told = str(refused.value)
    assert "an effect of 1 needs 3,331 entities, which is 9 days at 400 a day; 1,600 are expected by 2030-01-11" in told
    shown = float(told.split("show an effect of ")[1].split(" ")[0])
    assert design(job, effect=shown * 1.001, end=START + dt.timedelta(days=4)).end == START + dt.timedelta(days=4)
    with pytest.raises(RequestError, match="needs"):
        design(job, name="smaller", effect=shown * 0.99, end=START + dt.timedelta(days=4))


def test_traffic_that_takes_years_is_refused_with_what_it_could_show(job: Job) -> None:
    with pytest.raises(
        RequestError, match=r"1,666 days at 2 a day; 732 are expected in 366 days.* They would show an effect of 2\."
    ):
        design(job, per_day=2)


def test_a_handful_of_entities_could_show_nothing(job: Job) -> None:
    with pytest.raises(RequestError, match="They would show no effect, however large"):
        design(job, **RATE, per_day=0.01)


def test_a_refused_design_leaves_its_name_free(job: Job) -> None:
    with pytest.raises(RequestError):
        design(job, per_day=2)
    assert design(job).asked.per_day == 400


def test_the_same_design_is_adopted_at_any_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = design(job)
    monkeypatch.setattr(ab_design, "now", lambda: START + dt.timedelta(days=400))
    assert design(job) == first == frozen(job, "new_model")


@pytest.mark.parametrize(
    "change",
    [{"effect": 0.5}, {"alpha": 0.1}, {"treatment": "newer"}, {"salt": "another"}, {"delay": "1d"}, {"share": 0.4}],
)
def test_another_design_of_the_same_name_is_a_conflict(job: Job, change: dict[str, Any]) -> None:
    design(job)
    with pytest.raises(
        ConflictError, match=rf"new_model was designed at .* with {next(iter(change))} .*A design is frozen"
    ):
        design(job, **change)


def test_of_two_that_design_at_once_one_is_frozen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = ab_design._planned

    def late(*arguments: Any) -> Design:
        monkeypatch.setattr(ab_design, "_planned", planned)
        design(job, effect=2)
        return planned(*arguments)

    monkeypatch.setattr(ab_design, "_planned", late)
    with pytest.raises(ConflictError, match="effect 2.0 and now 1.0"):
        design(job)


def test_a_design_is_not_made_after_the_test_has_begun(job: Job) -> None:
    with pytest.raises(RequestError, match="would have begun at 2020-01-07 00:00 UTC"):
        design(job, start=START.replace(year=2020))


def test_a_damaged_design_is_found_out(job: Job, empty: World) -> None:
    design(job)
    (file,) = Path(empty.artifacts, "ab_tests").rglob("design.json")
    file.write_text("{}")
    with pytest.raises(IntegrityError, match="no design of an A/B test"):
        design(job)


@pytest.mark.parametrize("name", ["missing", "../other/new_model", ""])
def test_a_test_that_was_never_designed_is_told(job: Job, name: str) -> None:
    with pytest.raises(RequestError, match="no A/B test|is no name of an A/B test"):
        frozen(job, name)


def test_versions_by_number_must_be_registered(job: Job) -> None:
    for number in (1, 2):
        job.ledger.append(
            Draft(kind="candidate", partition="2024", version=number, outcome="x", reason=""), actor="test"
        )
    found = design(job, control=1, treatment="2")
    assert (found.asked.control, found.asked.treatment) == (1, 2)
    with pytest.raises(RequestError, match=r"version 3 of tiny was never registered; the versions are \['1', '2'\]"):
        design(job, name="other", control=1, treatment=3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"treatment": "old"}, "control and treatment are both old"),
        ({"share": 1}, "share"),
        ({"share": float("nan")}, "share"),
        ({"alpha": 0}, "alpha"),
        ({"power": 1.2}, "power"),
        ({"power": 0.04}, "power 0.04 must be above alpha 0.05"),
        ({"effect": 0}, "effect"),
        ({"effect": float("inf")}, "effect"),
        ({"per_day": -3}, "per_day"),
        ({"start": "2030-01-07T00:00:00"}, "start"),
        ({"end": START}, "is not after start"),
        ({"end": START.replace(year=2032)}, "more than 366 days after start"),
        ({"delay": "soon"}, "no duration"),
        ({"name": "../other"}, "name"),
        ({"salt": "a:b"}, "salt"),
        ({"treatment": "a|b"}, "treatment"),
        ({"treatment": True}, "must be the number of a version or a name"),
        ({"control": 0}, "control"),
        ({"entity": "spent"}, "columns of their own"),
        ({"arm": "customer"}, "columns of their own"),
        ({"baseline": None}, "give baseline, or past"),
        ({"past": "x.parquet"}, "give baseline, or past"),
        ({"baseline": {"rate": 0.1}}, "mean and sd go with a mean"),
        ({"baseline": {"mean": 1}}, "give mean and sd"),
        ({"baseline": {"mean": 1, "sd": 0}}, "sd"),
        ({"baseline": {"mean": float("nan"), "sd": 1}}, "mean"),
        ({**RATE, "baseline": {"rate": 1}}, "rate"),
        ({"metric": {"name": "spent", "kind": "median"}}, "kind"),
        ({"metric": {"name": "spent", "kind": "mean", "aggregate": "any"}}, "a mean takes mean or sum"),
        ({**RATE, "metric": {"name": "x", "kind": "proportion", "aggregate": "sum"}}, "a proportion takes any"),
        ({**RATE, "metric": {"name": "x", "kind": "proportion", "lowest": 0}}, "says nothing about a proportion"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_impossible_design_is_refused_with_the_reason(job: Job, change: dict[str, Any], told: str) -> None:
    given = DesignABTestArguments(**ASKED).model_dump(mode="json") | change
    asked = Request(step="design_ab_test", code=job.model.ref, deployment=job.deployment, arguments=given)
    with pytest.raises(RequestError, match=f"(?s)arguments of design_ab_test.*{told}"):
        run(asked)


def test_a_rate_that_cannot_change_so_much_is_refused(job: Job) -> None:
    with pytest.raises(RequestError, match="effect: no number of entities shows a difference of 0.95 from 0.1"):
        design(job, **{**RATE, "effect": 0.95})


# --- the baseline on past data -------------------------------------------------------------------------------------


def test_a_baseline_is_measured_by_entity(empty: World) -> None:
    uri = past(empty, customer=["a", "a", "b", "c"], spent=[1.0, 3.0, 8.0, 6.0])
    for aggregate, values in (("mean", [2, 8, 6]), ("sum", [4, 8, 6])):
        metric = {"name": "spent", "kind": "mean", "aggregate": aggregate}
        found = design(empty.job(), name=aggregate, metric=metric, baseline=None, past=uri)
        assert found.baseline.mean == np.mean(values)
        assert found.baseline.sd == pytest.approx(np.std(values, ddof=1))
        assert found.baseline.entities == 3
        assert found.past is not None
        assert found.past.uri == str(empty.data / "past.parquet")


def test_a_rate_is_measured_by_entity(empty: World) -> None:
    uri = past(empty, customer=[1, 1, 2, 3, 4], bought=[True, False, False, False, False])
    assert design(empty.job(), **{**RATE, "baseline": None, "past": uri}).baseline.rate == 0.25


def test_past_data_that_changes_leaves_the_design_as_it_is(empty: World) -> None:
    asked = {"baseline": None, "past": past(empty, customer=["a", "b"], spent=[10.0, 20.0])}
    first = design(empty.job(), **asked)
    past(empty, customer=["a", "b"], spent=[10.0, 90.0])
    assert design(empty.job(), **asked) == first


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"customer": ["a", "b"], "spent": [1.0, None]}, "1 rows have no value: write 0"),
        ({"customer": ["a", "b"], "spent": [1.0, float("inf")]}, "1 rows are infinite"),
        ({"customer": ["a", "b"], "spent": [1.0, -2.0]}, "1 rows are below 0"),
        ({"customer": ["a", None], "spent": [1.0, 2.0]}, "1 rows have no customer"),
        ({"customer": ["a", "b"], "spent": [1.0, 1.0]}, "is the same for all of 2 entities"),
        ({"customer": ["a", "a"], "spent": [1.0, 2.0]}, "is the same for all of 1 entities"),
        ({"customer": ["a", "b"], "spent": ["1", "2"]}, "it must hold numbers"),
        ({"customer": [1.5, 2.5], "spent": [1.0, 2.0]}, "keys must be text or whole numbers"),
        ({"customer": ["a", "b"]}, "lacks the column 'spent'"),
        ({"customer": [], "spent": []}, "has no rows"),
    ],
)
def test_past_data_that_tells_nothing_is_refused(empty: World, columns: dict[str, Any], told: str) -> None:
    metric = {"name": "spent", "kind": "mean", "lowest": 0}
    with pytest.raises(DataError, match=told):
        design(empty.job(), metric=metric, baseline=None, past=past(empty, **columns))


def test_past_data_that_is_not_there_is_told(job: Job) -> None:
    with pytest.raises(DataError, match="does not exist"):
        design(job, baseline=None, past="nowhere.parquet")
