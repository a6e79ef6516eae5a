"""The prediction log: batch and online in one schema, read as of a clock, appended and merged without loss or doubles."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.exceptions import DataError, IntegrityError, RequestError
from mlops_provider.steps import plan
from mlops_provider.steps.scoring import online_files
from mlops_provider.steps.scoring.compaction import compact
from mlops_provider.steps.scoring.online import Appended, append
from mlops_provider.steps.scoring.prediction_log import read, schema
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, Killed, World, call, feed, train

DAY = DAYS[3]
MADE = dt.datetime(2024, 1, 4, 12, tzinfo=dt.UTC)
NO_GRACE = dt.timedelta(0)


def rows(count: int = 4, **changes: Any) -> pa.Table:
    """Online predictions of the tiny model."""
    frame = pd.DataFrame({
        "id": [f"web-{n}" for n in range(count)],
        "at": pd.Timestamp(DAY, tz="UTC") + pd.to_timedelta(range(count), unit="h"),
        "score": [0.1 * n for n in range(count)],
        "label": [False] * count,
        "version": 1,
        "variant": "canary",
        "scored_at": pd.Timestamp(MADE),
        "features": [json.dumps({"a": 1.0, "site": "north"})] * count,
    })
    return pa.Table.from_pandas(frame.assign(**changes), preserve_index=False)


def log_of(world: World, *days: str, as_of: dt.datetime | None = None) -> pd.DataFrame:
    batches = list(read(world.job(), days or [DAY], as_of=as_of))
    return pa.Table.from_batches(batches, schema=schema(world.job().config)).to_pandas()


def appended(world: World, table: pa.Table, source: str = "api") -> Appended:
    return append(world.job(), table, source=source)


def folder(world: World, day: str = DAY) -> Path:
    return world.artifacts / "predictions_online" / "tiny" / day


# --- batch ---------------------------------------------------------------------------------------------------------


def test_a_row_of_a_batch_leads_back_to_its_inputs(scored: World) -> None:
    log = log_of(scored)
    inputs = pd.read_parquet(log["inputs"].unique()[0])
    assert list(inputs["id"].iloc[log["row"]]) == list(log["id"])
    assert set(log["variant"]) == {"champion"}
    assert set(log["source"]) == {"batch"}
    assert log["features"].isna().all()


def test_a_batch_of_before_there_was_a_log_reads_like_any_other(scored: World) -> None:
    expected = log_of(scored)
    found = manifest(scored.job(), DAY)
    assert found is not None
    old = pq.read_table(found.table.uri).drop_columns(["variant", "source", "inputs", "row", "features"])
    pq.write_table(old, found.table.uri)
    told = found.model_copy(update={"table": Storage().describe(found.table.uri)})
    Path(scored.artifacts, "predictions", "tiny", DAY, "_manifest.json").write_text(told.model_dump_json())
    pd.testing.assert_frame_equal(log_of(scored), expected)


# --- read ----------------------------------------------------------------------------------------------------------


def test_batch_and_online_predictions_are_read_together_with_the_clock_in_hand(scored: World) -> None:
    appended(scored, rows(2))
    later = MADE + dt.timedelta(hours=1)
    appended(scored, rows(2, scored_at=pd.Timestamp(later)))
    assert len(log_of(scored)) == feed.ROWS + 4
    assert list(log_of(scored, as_of=MADE)["source"]) == ["api", "api"]
    assert len(log_of(scored, as_of=later)) == 4
    assert log_of(scored, as_of=MADE - dt.timedelta(seconds=1)).empty


def test_versions_and_variants_of_one_partition_are_kept_apart(scored: World) -> None:
    train(scored, scored.configure(training={"seed": 8}))
    for version in (1, 2):
        appended(scored, rows(3, version=version, variant="shadow"))
    log = log_of(scored)
    counted = log.groupby(["version", "variant"], observed=True).size().to_dict()
    assert counted == {(1, "champion"): feed.ROWS, (1, "shadow"): 3, (2, "shadow"): 3}


def test_a_prediction_that_was_logged_twice_is_read_once(scored: World) -> None:
    appended(scored, rows(4))
    appended(scored, rows(6))
    online = log_of(scored).query("source == 'api'")
    assert sorted(online["id"]) == [f"web-{n}" for n in range(6)]


def test_the_log_is_read_by_partition_of_the_event_time(scored: World) -> None:
    appended(scored, rows(2, at=[pd.Timestamp(DAY, tz="UTC"), pd.Timestamp(DAYS[4], tz="UTC")]))
    assert list(log_of(scored, DAYS[4])["id"]) == ["web-1"]
    assert len(log_of(scored, DAYS[4], DAY)) == feed.ROWS + 2
    assert log_of(scored, "2030-01-01").empty


def test_what_is_asked_for_must_be_a_partition_and_a_moment(scored: World) -> None:
    with pytest.raises(RequestError, match="is no daily partition"):
        read(scored.job(), ["../x"])
    with pytest.raises(RequestError, match="has no time zone"):
        read(scored.job(), [DAY], as_of=dt.datetime(2024, 1, 1))


# --- append --------------------------------------------------------------------------------------------------------


def test_an_append_that_is_repeated_adds_nothing(scored: World) -> None:
    first, again = appended(scored, rows()), appended(scored, rows())
    assert (first.taken, first.repeated) == (4, 0)
    assert (again.taken, again.repeated, again.files) == (4, 4, first.files)
    assert len(list(folder(scored).iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": [None, "web-1", "web-2"]}, "the key is null"),
        ({"score": [1.5, 0.1, 0.2]}, "score is out of range"),
        ({"score": [None, 0.1, 0.2]}, "score is null"),
        ({"version": [7, 1, 1]}, "version was never registered"),
        ({"variant": ["; rm", "a", "a"]}, "variant is no name"),
        ({"at": pd.to_datetime(["2024-01-02", DAY, DAY], utc=True)}, "version has seen data of that time"),
        ({"scored_at": pd.to_datetime(["2199-01-01", DAY, DAY], utc=True)}, "scored_at is in the future"),
        ({"features": ["[1]", "{}", "{}"]}, "features are no JSON object with declared columns"),
        ({"features": ['{"later": 1}', "{}", "{}"]}, "features are no JSON object with declared columns"),
        ({"features": [None, "{}", "{}"]}, "needs features, or inputs and row, and not both"),
        ({"id": ["web-1", "web-2", "web-2"]}, "repeats a prediction of this table"),
    ],
)
def test_a_row_that_cannot_be_is_put_aside_and_the_rest_goes_on(
    scored: World, changes: dict[str, Any], reason: str
) -> None:
    found = appended(scored, rows(3, **changes))
    assert (found.taken, found.refused) == (2, {reason: 1})
    assert found.aside is not None
    aside = pd.read_parquet(found.aside.uri)
    assert list(aside["reason"]) == [reason]
    assert "features" not in aside
    assert len(log_of(scored).query("source == 'api'")) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns("score"), "lacks the column 'score'"),
        (lambda t: t.append_column("weather", pa.array(["x"] * 4)), "have the column 'weather'"),
        (lambda t: t.set_column(2, "score", pa.array(["x"] * 4)), "the column 'score' is string, expected double"),
        (lambda t: t.set_column(0, "id", pa.array([0.5] * 4)), "keys must be text or whole numbers"),
        (
            lambda t: t.set_column(1, "at", pa.array([dt.datetime(2024, 1, 4)] * 4)),
            r"the column 'at' is timestamp\[us\], expected timestamp\[us, tz=UTC\]",
        ),
        (lambda t: t.slice(0, 0), "have no rows"),
    ],
)
def test_a_table_that_is_no_log_is_refused_as_a_whole(scored: World, change: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        appended(scored, change(rows()))
    assert not folder(scored).exists()


def test_personal_columns_are_refused_by_name(scored: World) -> None:
    scored.configure(data={"pii": ["later"]})
    with pytest.raises(DataError, match=r"data\.pii names later, whose values are written nowhere"):
        appended(scored, rows(later=["Ann"] * 4))
    assert appended(scored, rows(features=json.dumps({"later": "Ann"}))).taken == 0
    written = b"".join(path.read_bytes() for path in scored.artifacts.rglob("*.parquet"))
    assert b"Ann" not in written


def test_no_value_of_a_refused_row_is_in_the_file_of_the_others(scored: World) -> None:
    found = appended(scored, rows(3, variant=["a", "Ann Smith!", "b"]))
    assert b"Ann Smith" not in Path(found.files[0].uri).read_bytes()


def test_a_source_must_be_a_name(scored: World) -> None:
    with pytest.raises(RequestError, match="is no name of a source"):
        appended(scored, rows(), source="../x")


# --- compaction ----------------------------------------------------------------------------------------------------


def many(world: World, count: int = 3) -> pd.DataFrame:
    """Small files, and what the log says then."""
    for n in range(count):
        appended(world, rows(2, id=[f"{n}-0", f"{n}-1"]))
    return sorted_log(world)


def sorted_log(world: World) -> pd.DataFrame:
    return log_of(world).sort_values(["id", "source"], ignore_index=True)


def test_merged_files_read_as_before_and_are_removed_after_their_grace(scored: World) -> None:
    expected = many(scored)
    assert compact(scored.job(), DAY).model_dump() == {"partition": DAY, "merged": 3, "removed": 0}
    (file,) = online_files.live(scored.job(), DAY)
    assert pq.ParquetFile(file.uri).num_row_groups == 1
    pd.testing.assert_frame_equal(sorted_log(scored), expected)
    assert compact(scored.job(), DAY, grace=NO_GRACE).removed == 3
    assert compact(scored.job(), DAY, grace=NO_GRACE).model_dump() == {"partition": DAY, "merged": 0, "removed": 0}
    pd.testing.assert_frame_equal(sorted_log(scored), expected)


def test_what_is_appended_meanwhile_is_merged_the_next_time(scored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many(scored)
    upload = Storage.upload

    def late(*arguments: Any, **how: Any) -> Any:
        found = upload(*arguments, **how)
        monkeypatch.undo()
        appended(scored, rows(2, id=["late-0", "late-1"]))
        return found

    monkeypatch.setattr(Storage, "upload", late)
    compact(scored.job(), DAY, grace=NO_GRACE)
    expected = sorted_log(scored)
    assert {"late-0", "late-1"} <= set(expected["id"])
    assert compact(scored.job(), DAY, grace=NO_GRACE).merged == 2
    pd.testing.assert_frame_equal(sorted_log(scored), expected)


def test_an_append_that_is_repeated_after_its_file_was_merged_and_removed_adds_nothing(scored: World) -> None:
    expected = many(scored)
    compact(scored.job(), DAY)
    compact(scored.job(), DAY, grace=NO_GRACE)
    assert appended(scored, rows(2, id=["0-0", "0-1"])).repeated == 2
    pd.testing.assert_frame_equal(sorted_log(scored), expected)
    assert compact(scored.job(), DAY, grace=NO_GRACE).removed == 1


@pytest.mark.parametrize("killed", ["upload", "create", "filesystem"])
def test_a_kill_loses_nothing_and_doubles_nothing(scored: World, monkeypatch: pytest.MonkeyPatch, killed: str) -> None:
    expected = many(scored)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if killed == "filesystem":  # the first file is gone, the others are not
            compact(scored.job(), DAY)
            patch.setattr(online_files, "suppress", _killed_after_one())
            compact(scored.job(), DAY, grace=NO_GRACE)
        else:
            patch.setattr(Storage, killed, _kill)
            compact(scored.job(), DAY)
    pd.testing.assert_frame_equal(sorted_log(scored), expected)
    compact(scored.job(), DAY)
    compact(scored.job(), DAY, grace=NO_GRACE)
    pd.testing.assert_frame_equal(sorted_log(scored), expected)
    assert len(list(folder(scored).rglob("*.parquet"))) == 1


def _kill(*_: object, **__: object) -> None:
    raise Killed


def _killed_after_one() -> Any:
    calls = iter(range(2))

    class Suppress:
        def __init__(self, *_: object) -> None:
            if next(calls):
                raise Killed

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    return Suppress


def test_of_two_that_merge_at_once_one_counts(scored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = many(scored)
    upload = Storage.upload

    def other(*arguments: Any, **how: Any) -> Any:
        monkeypatch.undo()
        assert compact(scored.job(), DAY).merged == 3
        return upload(*arguments, **how)

    monkeypatch.setattr(Storage, "upload", other)
    assert compact(scored.job(), DAY).merged == 0
    pd.testing.assert_frame_equal(sorted_log(scored), expected)


def test_a_changed_file_is_noticed(scored: World) -> None:
    found = appended(scored, rows())
    Path(found.files[0].uri).write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="has changed"):
        log_of(scored)


def test_batch_scoring_is_due_as_before_when_only_online_predictions_are_there(champion: World) -> None:
    champion.deliver(DAY, what=("inputs",))
    appended(champion, rows())
    (work,) = plan.score(champion.job())
    call(champion.job(), "score", work=work)
    assert len(log_of(champion)) == feed.ROWS + 4
