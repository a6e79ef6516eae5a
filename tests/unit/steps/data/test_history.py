"""A partition against those that were accepted before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import ConfigError, IntegrityError, Refused
from mlops_provider.steps.data import history, profile
from mlops_provider.steps.data.history import near
from mlops_provider.steps.data.profile import Profile, hashed
from mlops_provider.storage import Artifact
from tests.support.tiny import DAYS, World, call

DAY = DAYS[3]  # the first three are accepted
Change = Callable[[pd.DataFrame], pd.DataFrame]


def compared(world: World, day: str = DAY, table: Artifact | None = None) -> history.HistoryResult:
    job = world.job()
    work = world.work(day, job)
    table = table or call(job, "build_features", work=work).table
    found: history.HistoryResult = call(job, "compare_history", work=work, table=table)
    return found


def after(world: World, change: Change = lambda frame: frame, what: str = "inputs", **changes: Any) -> Verdict:
    """The verdict on a fourth day, delivered with a change."""
    world.deliver(DAY)
    world.rewrite(DAY, what, change)
    if changes:
        world.configure(data={"changes": changes})
    return compared(world).verdict


def checks(verdict: Verdict, name: str) -> list[Check]:
    found = [check for check in verdict.checks if check.name == name]
    assert found, f"no check {name} in {[c.name for c in verdict.checks]}"
    return found


def one(verdict: Verdict, name: str, subject: str | None = None) -> Check:
    (check,) = [c for c in checks(verdict, name) if subject in (None, c.subject)]
    return check


def test_an_unchanged_partition_passes_every_check(accepted: World) -> None:
    verdict = after(accepted)
    assert {c.name for c in verdict.checks} == {
        "row_count_jump", "columns_added", "columns_removed", "columns_retyped", "feature_columns",
        "null_share_jump", "duplicate_keys", "event_times_in_partition", "leakage",
    }  # fmt: skip
    assert [c for c in verdict.checks if not c.passed] == []


def test_it_is_held_against_the_last_accepted_partition(accepted: World) -> None:
    accepted.deliver(DAY)
    assert compared(accepted).against == DAYS[2]


def test_the_first_partition_has_nothing_to_be_compared_with_and_says_so(delivered: World) -> None:
    found = compared(delivered, DAYS[0])
    check = one(found.verdict, "history")
    assert (check.passed, found.against) == (True, None)
    assert "nothing to compare" in check.detail
    assert {c.name for c in found.verdict.checks} == {"history", "event_times_in_partition", "leakage"}


# columns


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        (lambda f: f.assign(extra=1), "columns_added", "extra"),
        (lambda f: f.drop(columns="later"), "columns_removed", "later"),
        (lambda f: f.assign(later=f["later"].astype("float32")), "columns_retyped", "later: double to float"),
    ],
)
def test_a_changed_column_fails(accepted: World, change: Change, name: str, value: str) -> None:
    verdict = after(accepted, change)
    check = one(verdict, name)
    assert (check.state, check.value, check.threshold) == ("fail", value, f"as in {DAYS[2]}")
    assert [c.name for c in verdict.problems] == [name]


def test_a_changed_column_warns_if_the_owner_wants_it_so(accepted: World) -> None:
    verdict = after(accepted, lambda f: f.assign(extra=1), columns="warn")
    assert one(verdict, "columns_added").state == "warn"
    assert verdict.passed


def test_a_column_is_no_other_for_how_its_values_are_stored(tmp_path: Path, accepted: World) -> None:
    text, file = pa.array(["north", "south"]), tmp_path / "stored.parquet"
    pq.write_table(pa.table({"a": text, "b": text.dictionary_encode(), "c": text.cast(pa.large_string())}), file)
    storage = accepted.job().storage
    assert set(profile._shape(storage, storage.describe(str(file))).dtypes.values()) == {"string"}


def test_an_index_that_pandas_wrote_is_no_column(accepted: World) -> None:
    verdict = after(accepted, lambda f: f.sample(frac=1, random_state=1))
    assert "__index_level_0__" in pq.read_schema(accepted.file(DAY, "inputs")).names
    assert one(verdict, "columns_added").passed


def test_another_set_of_features_warns_only(accepted: World) -> None:
    accepted.deliver(DAY)
    accepted.configure(features={"columns": ["a", "b", "c"]})
    check = one(compared(accepted).verdict, "feature_columns")
    assert (check.state, check.value) == ("warn", "removed: height")


# rows and nulls


@pytest.mark.parametrize(
    ("change", "passed", "value"),
    [
        (lambda f: f[:600], True, -0.5),
        (lambda f: f[:599], False, -601 / 1200),
        (lambda f: pd.concat([f, f.assign(id="x" + f["id"])]), False, 1.0),
    ],
)
def test_a_jump_of_the_rows_warns(accepted: World, change: Change, passed: bool, value: float) -> None:
    check = one(after(accepted, change), "row_count_jump")
    assert (check.passed, check.value, check.severity) == (passed, pytest.approx(value), "warn")


def test_a_jump_of_the_rows_fails_if_the_owner_wants_it_so(accepted: World) -> None:
    assert one(after(accepted, lambda f: f[:500], jumps="fail"), "row_count_jump").state == "fail"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_jump_of_nulls_names_the_column_in_inputs_and_features(accepted: World, missing: float | None) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(a=frame["a"].where(np.arange(len(frame)) >= 300, missing))

    verdict = after(accepted, change)
    found = checks(verdict, "null_share_jump")
    assert [(c.subject, c.value, c.state) for c in found] == [("a", 0.25, "warn"), ("a", 0.25, "warn")]
    assert [("inputs" in c.detail, "features" in c.detail) for c in found] == [(True, False), (False, True)]


def test_a_fall_of_nulls_is_a_jump_too(accepted: World) -> None:
    def sparse(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(later=frame["later"].where(np.arange(len(frame)) >= 300))

    accepted.rewrite(DAYS[2], "inputs", sparse)
    accepted.loops().ci()
    assert one(after(accepted), "null_share_jump", "later").value == -0.25


def test_nan_in_the_file_counts_as_null(tmp_path: Path, accepted: World) -> None:
    file = tmp_path / "nan.parquet"
    pq.write_table(pa.table({"x": pa.array([1.0, float("nan"), None])}), file)
    storage = accepted.job().storage
    assert profile._shape(storage, storage.describe(str(file))).columns[0].nulls == 2


# keys


def again(frame: pd.DataFrame) -> pd.DataFrame:
    """Two rows of the first day come once more."""
    return frame.assign(id=[f"{DAYS[0]}-00007", f"{DAYS[0]}-00003", *frame["id"][2:]])


def test_a_key_that_was_accepted_before_is_named(accepted: World) -> None:
    check = one(after(accepted, again), "duplicate_keys")
    assert (check.state, check.value, check.subject) == ("fail", 2.0, "id")
    assert f"{DAYS[0]}, for instance {DAYS[0]}-00003, {DAYS[0]}-00007" in check.detail


def test_a_key_that_was_accepted_before_warns_if_the_owner_wants_it_so(accepted: World) -> None:
    assert one(after(accepted, again, duplicates="warn"), "duplicate_keys").state == "warn"


def test_keys_may_return_where_the_owner_says_so(accepted: World) -> None:
    verdict = after(accepted, again, duplicates="allow")
    assert (one(verdict, "duplicate_keys").passed, verdict.passed) == (True, True)


@pytest.mark.parametrize(("partitions", "passed"), [(2, True), (3, False)])
def test_as_many_partitions_are_looked_at_as_are_asked_for(accepted: World, partitions: int, passed: bool) -> None:
    assert one(after(accepted, again, partitions=partitions), "duplicate_keys").passed is passed


def test_equal_hashes_of_different_keys_are_no_duplicates(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key has the same hash: only the keys themselves can tell."""

    def colliding(keys: pa.Array) -> Any:
        return np.zeros(len(keys), dtype=np.uint64)

    monkeypatch.setattr(history, "hashed", colliding)
    monkeypatch.setattr(profile, "hashed", colliding)
    for record in accepted.records("data"):
        found = profile.load(accepted.job(), Artifact.model_validate(record.facts["profile"]))
        pq.write_table(pa.table({"hash": np.zeros(1200, dtype=np.uint64)}), found.keys.uri)
    monkeypatch.setattr(history, "key_hashes", lambda job, found: np.zeros(1200, dtype=np.uint64))
    assert one(after(accepted), "duplicate_keys").passed
    assert one(after(accepted, again), "duplicate_keys").value == 2.0


def test_a_key_that_was_retyped_stays_itself() -> None:
    numbers, text = pa.array([1, 2, 30]), pa.array(["1", "2", "30"])
    assert hashed(numbers).tolist() == hashed(text).tolist() == hashed(text.dictionary_encode()).tolist()


# what was kept


def test_the_ledger_names_the_profile_of_what_was_accepted(accepted: World) -> None:
    record = accepted.records("data")[0]
    found = profile.load(accepted.job(), Artifact.model_validate(record.facts["profile"]))
    assert isinstance(found, Profile)
    assert (found.partition, found.inputs.rows, found.features.rows) == (DAYS[0], 1200, 1200)
    assert found.inputs.dtypes["at"].startswith("timestamp[")
    assert (found.keys.rows, found.keys.size < 1200 * 10) == (1200, True)


def test_a_profile_that_is_gone_is_no_fault_of_the_partition(accepted: World) -> None:
    record = accepted.records("data")[2]
    Path(record.facts["profile"]["uri"]).unlink()
    with pytest.raises(IntegrityError, match=f"{DAYS[2]} is gone or damaged"):
        after(accepted)
    # As the message says: judged again, the accepted partition leaves it anew.
    work = accepted.work(DAYS[2])
    accepted.loops()._judge(work)
    assert compared(accepted).verdict.passed


def test_what_was_accepted_before_profiles_were_kept_warns_and_its_keys_are_read(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tuple(
        r.model_copy(update={"facts": {k: v for k, v in r.facts.items() if k != "profile"}})
        for r in accepted.job().ledger.records()
    )
    accepted.deliver(DAY)
    accepted.rewrite(DAY, "inputs", again)
    job, work = accepted.job(), accepted.work(DAY)
    table = call(job, "build_features", work=work).table
    mine = profile.profile(job, profile.ProfileArguments(work=work, table=table)).profile
    verdict = history.against_history(job, work, mine, records)
    assert one(verdict, "history").state == "warn"
    assert one(verdict, "duplicate_keys").value == 2.0


def test_partitions_judged_at_the_same_time_are_compared_at_the_decision(accepted: World) -> None:
    """Both days are compared before either is accepted; the second holds a key of the first."""
    accepted.deliver(*DAYS[3:5])
    accepted.rewrite(DAYS[4], "inputs", lambda f: f.assign(id=[f"{DAYS[3]}-00001", *f["id"][1:]]))
    accepted.rewrite(DAYS[4], "labels", lambda f: f.assign(id=[f"{DAYS[3]}-00001", *f["id"][1:]]))
    job = accepted.job()
    ready = []
    for day in DAYS[3:5]:
        table = call(job, "build_features", work=accepted.work(day)).table
        verdict = call(job, "compare_history", work=accepted.work(day), table=table).verdict
        assert verdict.passed
        ready.append({"work": accepted.work(day), "table": table, "verdicts": (verdict,)})
    call(job, "snapshot", **ready[0])
    with pytest.raises(Refused, match=r"duplicate_keys"):
        call(job, "snapshot", **ready[1])
    assert [r.partition for r in accepted.records("data")] == list(DAYS[:4])


def test_the_nearest_partitions_come_first_those_before_before_those_after(accepted: World) -> None:
    records = accepted.job().ledger.records()
    assert [r.partition for r in near(records, DAYS[1], 5)] == [DAYS[0], DAYS[2]]
    assert [r.partition for r in near(records, DAY, 2)] == [DAYS[2], DAYS[1]]


def test_a_partition_is_not_held_against_itself(accepted: World) -> None:
    """Delivered again with the same keys it is no duplicate."""
    assert compared(accepted, DAYS[2]).verdict.passed


def test_what_was_refused_is_not_compared_with(accepted: World) -> None:
    call(accepted.job(), "refuse_data", work=accepted.work(DAYS[2]), reason="test")
    accepted.deliver(DAY)
    assert compared(accepted).against == DAYS[1]


# event times


def test_event_times_out_of_the_partition_fail(accepted: World) -> None:
    accepted.deliver(DAY)
    table = call(accepted.job(), "build_features", work=accepted.work(DAY)).table
    accepted.rewrite(DAY, "inputs", lambda f: f.assign(at=f["at"] + pd.to_timedelta([3] * 5 + [0] * 1195, unit="D")))
    check = one(compared(accepted, table=table).verdict, "event_times_in_partition")
    assert (check.state, check.value, check.subject) == ("fail", 5.0, "at")


def test_a_days_slack_is_given_and_told(accepted: World) -> None:
    check = one(after(accepted, lambda f: f.assign(at=f["at"] + pd.Timedelta("6h"))), "event_times_in_partition")
    assert check.passed
    assert "300 of 1200 are outside" in check.detail


def test_slack_is_what_model_yaml_says_and_no_more_than_a_day(accepted: World) -> None:
    accepted.configure(data={"changes": {"slack": "5h"}})
    check = one(after(accepted, lambda f: f.assign(at=f["at"] + pd.Timedelta("6h"))), "event_times_in_partition")
    assert (check.state, check.value) == ("fail", 50.0)
    with pytest.raises(ConfigError, match=r"changes\.slack.*must not be more than 24h"):
        accepted.configure(data={"changes": {"slack": "25h"}})


def test_hourly_partitions_are_given_an_hour(accepted: World) -> None:
    job, work = accepted.job(), accepted.work(DAYS[0])
    section = job.config.data.model_copy(update={"partition": "hourly"})
    job.model.config = job.config.model_copy(update={"data": section})
    check = history._event_times(job, work.model_copy(update={"partition": f"{DAYS[0]}T05"}))
    # Of 1200 rows, one each 72 s, 150 lie in the hours from four to seven.
    assert (check.state, check.value) == ("fail", 1050.0)


def test_event_times_without_a_zone_cannot_be_checked(accepted: World) -> None:
    accepted.deliver(DAY)
    table = call(accepted.job(), "build_features", work=accepted.work(DAY)).table
    accepted.rewrite(DAY, "inputs", lambda f: f.assign(at=f["at"].dt.tz_localize(None)))
    check = one(compared(accepted, table=table).verdict, "event_times_in_partition")
    assert (check.state, "time zone" in check.detail) == ("error", True)


# the loop


def test_the_loop_refuses_what_history_refuses(accepted: World) -> None:
    after(accepted, again)
    accepted.loops().ci()
    record = accepted.records("data")[-1]
    assert (record.partition, record.outcome, "duplicate_keys" in record.reason) == (DAY, "refused", True)


def test_a_feature_that_knows_the_outcome_is_refused(accepted: World) -> None:
    accepted.deliver(DAY)
    outcome = pd.read_parquet(accepted.file(DAY, "labels"))["outcome"]
    accepted.rewrite(DAY, "inputs", lambda f: f.assign(a=outcome.fillna(0).clip(-9, 9)))
    (leak,) = checks(compared(accepted).verdict, "leakage")
    assert (leak.state, leak.subject, leak.threshold) == ("fail", "a", 0.98)
