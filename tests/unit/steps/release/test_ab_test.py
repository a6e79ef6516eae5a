"""The verdict on an A/B test: once, after the end, on the entities that were randomized, and on nothing that is not sound."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlops_provider.exceptions import DataError, IntegrityError, RequestError
from mlops_provider.steps import tables
from mlops_provider.steps.release import ab_design
from mlops_provider.steps.release import ab_test as ab_tests
from mlops_provider.steps.release.ab_assign import assign_all
from mlops_provider.steps.release.ab_test import ABTested
from tests.support.tiny import World, call

START = dt.datetime(2030, 1, 7, tzinfo=dt.UTC)
ENTITIES = 400
Change = Callable[[pd.DataFrame], pd.DataFrame]
ASKED: dict[str, Any] = {
    "name": "new_model",
    "control": "old",
    "treatment": "new",
    "entity": "customer",
    "metric": {"name": "spent", "kind": "mean"},
    "baseline": {"mean": 20, "sd": 10},
    "effect": 4,
    "start": START,
    "per_day": 100,
}
BOUGHT: dict[str, Any] = {
    "metric": {"name": "bought", "kind": "proportion"},
    "baseline": {"rate": 0.4},
    "effect": 0.2,
}


class Trial:
    """A test of the tiny model that has ended."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world, self.job = world, world.job()
        self.design = call(self.job, "design_ab_test", **{**ASKED, **changes})

    def outcomes(self, effect: float = 0.0, *, seed: int = 1, share: float = 0.5) -> pd.DataFrame:
        """One row an entity, served as it was assigned."""
        rng = np.random.default_rng(seed)
        customers = pd.Series([f"c-{n}" for n in range(ENTITIES)])
        treated = assign_all(customers, self.design.asked.salt, share)
        spent = rng.normal(20, 10, ENTITIES) + effect * treated
        bought = rng.random(ENTITIES) < 0.4 + effect * treated
        variant = np.where(treated, "new", "old")
        return pd.DataFrame({"customer": customers, "variant": variant, "spent": spent, "bought": bought})

    def write(self, frame: pd.DataFrame, name: str = "outcomes.parquet") -> str:
        file = self.world.data / name
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(file)
        return name

    def judged(self, frame: pd.DataFrame) -> ABTested:
        found: ABTested = call(self.job, "ab_test", name="new_model", outcomes=self.write(frame))
        return found

    @property
    def folder(self) -> Path:
        return self.world.artifacts / "ab_tests" / "tiny" / "new_model"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dt.datetime], None]:
    def at(moment: dt.datetime) -> None:
        for module in (ab_design, ab_tests):
            monkeypatch.setattr(module, "now", lambda: moment)

    return at


@pytest.fixture
def trial(empty: World, clock: Any) -> Callable[..., Trial]:
    def ended(**changes: Any) -> Trial:
        found = Trial(empty, **changes)
        clock(found.design.due)
        return found

    return ended


def problems(found: ABTested) -> dict[str, str]:
    """What stood in the way, by check."""
    return {check.name: check.detail for check in found.verdict.problems}


@pytest.mark.parametrize(
    ("effect", "larger", "decision"),
    [
        (8, True, "treatment better"),
        (8, False, "treatment worse"),
        (-8, True, "treatment worse"),
        (-8, False, "treatment better"),
        (0, True, "no difference shown"),
    ],
)
def test_the_interval_decides(trial: Any, effect: float, larger: bool, decision: str) -> None:
    one = trial(metric={"name": "spent", "kind": "mean", "larger_is_better": larger})
    found = one.judged(one.outcomes(effect))
    assert found.decision == decision
    assert found.verdict.passed == (decision == "treatment better")
    assert found.reason.startswith(f"{decision}: spent")


def test_the_effect_of_a_mean_is_welchs(trial: Any) -> None:
    one = trial(alpha=0.1)
    frame = one.outcomes(3)
    found = one.judged(frame)
    arms = [frame.loc[frame["variant"] == name, "spent"] for name in ("new", "old")]
    theirs = stats.ttest_ind(*arms, equal_var=False).confidence_interval(0.9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((theirs.low, theirs.high))
    assert found.treatment.mean == pytest.approx(arms[0].mean())
    assert (found.control.entities, found.control.version) == (len(arms[1]), "old")


@pytest.mark.parametrize(("effect", "decision"), [(0.3, "treatment better"), (0.0, "no difference shown")])
def test_a_proportion_is_judged(trial: Any, effect: float, decision: str) -> None:
    one = trial(**BOUGHT)
    frame = one.outcomes(effect)
    found = one.judged(frame)
    assert found.decision == decision
    rates = frame.groupby("variant")["bought"].mean()
    assert found.estimate.effect == pytest.approx(rates["new"] - rates["old"])


def test_no_difference_says_what_would_have_been_shown(trial: Any) -> None:
    one = trial()
    assert one.judged(one.outcomes()).reason.endswith("An effect of 4 would have been shown with a chance of 80%")


# --- before the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [dt.timedelta(microseconds=1), dt.timedelta(days=3), dt.timedelta(days=900)])
def test_before_the_end_no_outcome_is_read(trial: Any, clock: Any, monkeypatch: Any, before: dt.timedelta) -> None:
    one = trial()
    clock(one.design.due - before)
    monkeypatch.setattr(ab_tests, "read", None)
    with pytest.raises(RequestError, match="runs until .* no outcome is read before"):
        one.judged(one.outcomes(8))
    assert sorted(path.name for path in one.folder.iterdir()) == ["design.json"]


def test_the_delay_of_the_outcomes_is_waited_for(trial: Any, clock: Any) -> None:
    one = trial(delay="2d")
    clock(one.design.end)
    with pytest.raises(RequestError, match="is judged from"):
        one.judged(one.outcomes(8))


def test_a_test_that_was_never_designed_has_no_verdict(empty: World) -> None:
    with pytest.raises(RequestError, match="no A/B test 'new_model'"):
        call(empty.job(), "ab_test", name="new_model", outcomes="outcomes.parquet")


# --- once ----------------------------------------------------------------------------------------------------------


def test_the_verdict_stands_whatever_becomes_of_the_data(trial: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = trial()
    first = one.judged(one.outcomes(8))
    with caplog.at_level(logging.INFO, logger="mlops_provider"):
        assert one.judged(one.outcomes(8)) == first
        assert "changed" not in caplog.text
        assert one.judged(one.outcomes(-8)) == first
        assert "treatment better; the outcomes have changed since, the verdict stands" in caplog.text
        (one.world.data / "outcomes.parquet").unlink()
        assert call(one.job, "ab_test", name="new_model", outcomes="outcomes.parquet") == first
        assert "cannot be read any more" in caplog.text


def test_force_judges_nothing_anew(trial: Any) -> None:
    one = trial()
    first = one.judged(one.outcomes(8))
    one.job = one.world.job(force=True)
    assert one.judged(one.outcomes(-8)) == first


def test_the_verdict_that_stands_can_be_asked_for_alone(trial: Any) -> None:
    one = trial()
    with pytest.raises(RequestError, match="has no verdict yet: give outcomes"):
        call(one.job, "ab_test", name="new_model")
    first = one.judged(one.outcomes(8))
    assert call(one.job, "ab_test", name="new_model") == first


def test_of_two_that_judge_at_once_one_verdict_stands(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, judged, verdicts = trial(), ab_tests._judged, []

    def late(*arguments: Any) -> ABTested:
        monkeypatch.setattr(ab_tests, "_judged", judged)
        verdicts.append(one.judged(one.outcomes(8)))
        return judged(*arguments).model_copy(update={"decision": "treatment worse"})

    monkeypatch.setattr(ab_tests, "_judged", late)
    assert [one.judged(one.outcomes(8))] == verdicts
    assert verdicts[0].decision == "treatment better"


def test_a_design_that_was_replaced_is_found_out(trial: Any) -> None:
    one = trial()
    one.judged(one.outcomes(8))
    file = one.folder / "design.json"
    file.write_text(file.read_text().replace('"alpha": 0.05', '"alpha": 0.5'))
    with pytest.raises(IntegrityError, match="verdict on another design"):
        one.judged(one.outcomes(8))


def test_a_damaged_verdict_is_found_out(trial: Any) -> None:
    one = trial()
    one.judged(one.outcomes(8))
    (one.folder / "verdict.json").write_text("{")
    with pytest.raises(IntegrityError, match="no verdict on an A/B test"):
        one.judged(one.outcomes(8))


def test_a_look_without_a_verdict_is_kept_and_the_test_can_be_judged_once_the_data_is_right(trial: Any) -> None:
    one = trial()
    for number in range(2):
        found = one.judged(one.outcomes(8).iloc[: number + 20])
        assert (found.decision, found.refused, found.estimate) == ("no verdict", number, None)
    found = one.judged(one.outcomes(8))
    assert (found.decision, found.refused) == ("treatment better", 2)
    assert len(list((one.folder / "refused").iterdir())) == 2


# --- what is not sound ---------------------------------------------------------------------------------------------


def first(column: str, *values: Any) -> Change:
    """Puts values into the first rows of a column."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame[column].astype(object)
        changed.iloc[: len(values)] = list(values)
        return frame.assign(**{column: changed.infer_objects()})

    return change


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(variant=frame["variant"].map({"old": "new", "new": "old"}))


def crossed(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, swapped(frame.head(3))])


def mismatch(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(frame.index[frame["variant"] == "old"][:70])


@pytest.mark.parametrize(
    ("change", "asked", "check", "told"),
    [
        (crossed, {}, "one_arm_each", "3 entities were served with both arms"),
        (swapped, {}, "as_assigned", "400 entities were not served as the salt tiny.new_model assigns them"),
        (first("variant", "newest"), {}, "arms_known", "1 rows were served with neither old nor new"),
        (first("variant", None, None), {}, "arms_known", "2 rows were served with neither"),
        (first("customer", None), {}, "entities_present", "1 rows have no key of an entity"),
        (first("customer", "", ""), {}, "entities_present", "2 rows have no key"),
        (first("spent", None), {}, "values_present", "1 rows have no value: write 0"),
        (first("spent", float("inf"), float("-inf")), {}, "values_finite", "2 rows are infinite"),
        (
            first("spent", -1e9),
            {"metric": {**ASKED["metric"], "lowest": -100}},
            "values_possible",
            "1 rows are below -100",
        ),
        (first("bought", 2, 0.5, 1), BOUGHT, "values_possible", "2 rows are neither 0 nor 1"),
        (mismatch, {}, "sample_ratio", "Entities went missing from one arm"),
        (lambda frame: frame.head(100), {}, "enough_control", "the horizon is not reached"),
        (lambda frame: frame.head(100), {}, "enough_treatment", "of 100 entities"),
        (lambda frame: frame.assign(variant="else"), {}, "sample_ratio", "no entities to compare"),
        (lambda frame: frame.assign(spent=1.0), {}, "variance", "all entities of both arms have the same value"),
        (lambda frame: frame.assign(bought=False), BOUGHT, "variance", "of both arms have the same value"),
        (
            lambda frame: frame.assign(spent=frame["spent"].where(frame["variant"] == "old", 0)),
            {},
            "variance",
            "of the treatment have the same value",
        ),
        (lambda frame: frame.assign(spent=frame["spent"] * 1e200), {}, "variance", "too large to add up"),
    ],
)
def test_what_is_not_sound_has_no_verdict(trial: Any, change: Change, asked: Any, check: str, told: str) -> None:
    one = trial(**asked)
    found = one.judged(change(one.outcomes(8)))
    assert found.decision == "no verdict"
    assert found.verdict.outcome == "error"
    assert told in problems(found)[check]
    assert (found.estimate, found.control, found.treatment) == (None, None, None), "the effect was not looked at"
    assert not (one.folder / "verdict.json").exists()


def test_an_arm_with_no_event_at_all_has_an_interval(trial: Any) -> None:
    one = trial(**BOUGHT)
    frame = one.outcomes(0.3)
    found = one.judged(frame.assign(bought=frame["bought"] & (frame["variant"] == "new")))
    assert found.control.mean == 0
    assert found.decision == "treatment better"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frame: frame.drop(columns="variant"), "lacks the column 'variant'"),
        (lambda frame: frame.head(0), "has no rows"),
        (lambda frame: frame.assign(spent="much"), "it must hold numbers"),
        (lambda frame: frame.assign(customer=0.5), "keys must be text or whole numbers"),
        (lambda frame: frame.assign(variant=1.0), "column 'variant' are double"),
    ],
)
def test_outcomes_that_cannot_be_read_are_told(trial: Any, change: Change, told: str) -> None:
    one = trial()
    with pytest.raises(DataError, match=told):
        one.judged(change(one.outcomes()))


# --- many rows an entity -------------------------------------------------------------------------------------------


def test_rows_are_put_together_by_entity(trial: Any) -> None:
    one = trial(metric={"name": "spent", "kind": "mean", "aggregate": "sum"})
    whole = one.outcomes(8)
    parts = pd.concat([whole.assign(spent=whole["spent"] / 4)] * 4).sample(frac=1, random_state=1)
    found = one.judged(parts)
    assert found.control.entities + found.treatment.entities == ENTITIES
    arms = [whole.loc[whole["variant"] == name, "spent"] for name in ("new", "old")]
    assert found.estimate.effect == pytest.approx(arms[0].mean() - arms[1].mean())
    assert found.treatment.sd == pytest.approx(arms[0].std())


def test_many_rows_of_few_entities_prove_nothing(trial: Any) -> None:
    """Ten copies of each row make no interval narrower: entities were randomized, and not rows."""
    one = trial()
    frame = one.outcomes(1)
    found = one.judged(pd.concat([frame] * 10))
    assert found.decision == "no difference shown"
    assert found.control.entities + found.treatment.entities == ENTITIES


@pytest.mark.parametrize("aggregate", [None, "any"])
def test_one_event_of_an_entity_counts_once(trial: Any, aggregate: str | None) -> None:
    one = trial(**{**BOUGHT, "metric": {**BOUGHT["metric"], "aggregate": aggregate}})
    frame = one.outcomes(0.3)
    found = one.judged(pd.concat([frame, frame.assign(bought=False), frame]))
    assert found.treatment.mean == pytest.approx(frame.loc[frame["variant"] == "new", "bought"].mean())


# --- where outcomes come from --------------------------------------------------------------------------------------


def test_versions_by_number_and_keys_by_number_are_read(trial: Any, empty: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(ab_design, "_require_registered", lambda *_: None)
    one = trial(control=3, treatment=4)
    customers = pd.Series(range(ENTITIES))
    treated = assign_all(customers, one.design.asked.salt, 0.5)
    spent = np.random.default_rng(1).normal(20, 10, ENTITIES) + 8 * treated
    found = one.judged(pd.DataFrame({"customer": customers, "variant": np.where(treated, 4, 3), "spent": spent}))
    assert (found.decision, found.control.version) == ("treatment better", 3)


def test_a_folder_of_files_is_read_as_one(trial: Any) -> None:
    one = trial()
    frame = one.outcomes(8)
    one.write(frame.head(150), "parts/day=1/a.parquet")
    one.write(frame.tail(-150), "parts/day=2/b.parquet")
    found = call(one.job, "ab_test", name="new_model", outcomes="parts")
    assert found.decision == "treatment better"
    assert found.outcomes.many


def test_a_recorded_table_is_read_and_verified(trial: Any) -> None:
    one = trial()
    table = tables.write_frame(one.job.storage, str(one.world.data / "rows"), one.outcomes(8))
    Path(table.uri).write_bytes(Path(table.uri).read_bytes()[:-4] + b"PAR1")
    wrong = table.model_copy(update={"hash": "0" * 64})
    with pytest.raises(IntegrityError, match="has changed"):
        call(one.job, "ab_test", name="new_model", outcomes=wrong)
    assert call(one.job, "ab_test", name="new_model", outcomes=table).decision == "treatment better"


def test_outcomes_of_another_time_are_refused(trial: Any) -> None:
    one = trial(time="at")
    frame = one.outcomes(8).assign(at=START.replace(tzinfo=None) + dt.timedelta(hours=5))
    early = frame.assign(at=frame["at"].where(frame.index >= 2, START.replace(tzinfo=None) - dt.timedelta(seconds=1)))
    late = frame.assign(at=frame["at"].where(frame.index >= 1, one.design.due.replace(tzinfo=None)))
    missing = frame.assign(at=frame["at"].where(frame.index >= 3))
    for count, wrong in ((2, early), (1, late), (3, missing)):
        assert problems(one.judged(wrong))["times_inside"].startswith(f"{count} rows are not of 2030-01-07 00:00 to ")
    with pytest.raises(DataError, match="must hold timestamps"):
        one.judged(frame.assign(at="today"))
    assert one.judged(frame).decision == "treatment better"
