"""The intake for labels: bounded, each row looked at, revisions kept, nothing twice."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.steps import tables
from mlops_provider.steps.data import posted_labels, take_labels
from mlops_provider.steps.data.label_log import as_delivered, labels_as_of, partitions
from mlops_provider.steps.data.take_labels import LabelsTaken
from mlops_provider.steps.scoring.online import append
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.step import Request, run
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, Killed, World, call, feed
from tests.unit.steps.scoring.test_prediction_log import rows as online_rows

DAY = DAYS[3]
KEYS = [f"{DAY}-{n:05d}" for n in range(feed.ROWS)]
NOON = dt.datetime(2024, 1, 6, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def row(key: Any = KEYS[0], label: Any = 1.0, **more: Any) -> dict[str, Any]:
    return {"id": key, "outcome": label, **more}


def take(world: World, *rows: dict[str, Any], **arguments: Any) -> LabelsTaken:
    given = {"rows": rows} if rows else {}
    found: LabelsTaken = call(world.job(), "take_labels", **given, **arguments)
    return found


def posted(world: World, frame: pd.DataFrame, name: str = "feedback.parquet", **arguments: Any) -> LabelsTaken:
    path = world.data / name
    frame.to_csv(path, index=False) if name.endswith(".csv") else frame.to_parquet(path)
    return take(world, file=name, **arguments)


def labels(world: World, as_of: dt.datetime | None = None, day: str = DAY) -> dict[str, tuple[Any, int]]:
    found = labels_as_of(world.job(), day, as_of)
    return {key: (label, revision) for key, label, _, revision in found.itertuples(index=False)}


def aside(found: LabelsTaken) -> pd.DataFrame:
    assert found.aside is not None
    return pd.read_parquet(found.aside.uri)


def test_rows_of_a_request_are_kept_with_their_time_and_source(scored: World) -> None:
    found = take(scored, row(known_at=NOON.isoformat(), source="call center"), row(KEYS[1], -1))
    assert (found.rows, found.taken, found.refused, found.partitions) == (2, 2, {}, {DAY: 2})
    assert labels(scored, NOON) == {KEYS[0]: (1.0, 1)}
    assert labels(scored) == {KEYS[0]: (1.0, 1), KEYS[1]: (-1.0, 1)}
    assert set(pd.read_parquet(found.files[0].uri)["source"]) == {"call center", None}


@pytest.mark.parametrize("name", ["feedback.parquet", "feedback.csv"])
def test_a_file_is_taken_like_rows(scored: World, name: str) -> None:
    frame = pd.DataFrame({"id": KEYS[:3], "outcome": [1.5, -2.0, 0.25], "known_at": pd.Timestamp(NOON), "note": "x"})
    assert posted(scored, frame, name).taken == 3
    assert labels(scored, NOON) == {KEYS[0]: (1.5, 1), KEYS[1]: (-2.0, 1), KEYS[2]: (0.25, 1)}


def test_a_post_that_is_repeated_adds_nothing(scored: World) -> None:
    given = (row(), row(KEYS[1], -1, known_at=NOON.isoformat()), row("nobody"))
    first, again = take(scored, *given), take(scored, *given)
    assert (first.taken, first.repeated, again.taken, again.repeated) == (2, 0, 0, 2)
    assert again.aside == first.aside
    assert len(list(Path(scored.artifacts, "labels", "tiny").rglob("*.parquet"))) == 2


def test_a_post_that_was_killed_half_way_is_completed_by_its_repetition(
    lapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (row(), row(f"{DAYS[4]}-00000"))
    create = tables.create

    def killed(storage: Storage, folder: str, table: pa.Table) -> Any:
        if folder.endswith(DAYS[4]):
            raise Killed
        return create(storage, folder, table)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(take_labels.tables, "create", killed)
        take(lapped, *given)
    assert partitions(lapped.job()) == [DAY]
    assert take(lapped, *given).partitions == {DAYS[4]: 1}
    assert labels(lapped) == {KEYS[0]: (1.0, 1)}


# --- revisions -----------------------------------------------------------------------------------------------------


def test_a_label_is_revised_and_what_counts_a_clock_says(scored: World) -> None:
    for hour, label in enumerate([1.0, -1.0, -1.0, 1.0]):
        take(scored, row(label=label, known_at=(NOON + hour * HOUR).isoformat()))
    told = [labels(scored, NOON + hour * HOUR).get(KEYS[0]) for hour in range(-1, 5)]
    assert told == [None, (1.0, 1), (-1.0, 2), (-1.0, 2), (1.0, 3), (1.0, 3)]
    (known,) = labels_as_of(scored.job(), DAY, NOON + 2 * HOUR)["known_at"]
    assert known == NOON + HOUR


def test_a_label_that_goes_back_to_what_it_was_is_a_revision(scored: World) -> None:
    assert [take(scored, row(label=label)).taken for label in (1.0, -1.0, 1.0, 1.0)] == [1, 1, 1, 0]
    assert labels(scored) == {KEYS[0]: (1.0, 3)}


def test_a_revision_that_comes_late_takes_its_place_in_time(scored: World) -> None:
    take(scored, row(label=2.0, known_at=(NOON + 2 * HOUR).isoformat()))
    take(scored, row(label=1.0, known_at=NOON.isoformat()))
    assert labels(scored, NOON + HOUR) == {KEYS[0]: (1.0, 1)}
    assert labels(scored) == {KEYS[0]: (2.0, 2)}


def test_rows_of_one_post_that_contradict_each_other_are_put_aside(scored: World) -> None:
    found = take(scored, row(label=1), row(label=-1), row(KEYS[1]), row(KEYS[1]))
    assert (found.taken, found.repeated) == (1, 1)
    assert found.refused == {"contradicts another row of this post": 2}
    assert list(aside(found)["label"]) == ["1", "-1"]


def test_two_times_in_one_post_are_a_history(scored: World) -> None:
    found = take(scored, row(label=1, known_at=NOON.isoformat()), row(label=-1, known_at=(NOON + HOUR).isoformat()))
    assert found.taken == 2
    assert labels(scored) == {KEYS[0]: (-1.0, 2)}


# --- what is refused -----------------------------------------------------------------------------------------------


def test_keys_that_nobody_knows_are_counted_and_the_rest_is_taken(scored: World) -> None:
    found = take(scored, row("web-7"), row(17), row(17), row())
    assert (found.taken, found.repeated) == (1, 0)
    assert found.refused == {"the key was neither predicted nor delivered": 3}
    assert list(aside(found)["key"]) == ["web-7", "17", "17"]


def test_a_key_is_known_once_it_was_delivered_or_predicted_online(scored: World) -> None:
    scored.deliver(DAYS[4], what=("inputs",))
    append(scored.job(), online_rows(2), source="api")
    found = take(scored, row(f"{DAYS[4]}-00003"), row("web-1"))
    assert found.partitions == {DAY: 1, DAYS[4]: 1}
    assert take(scored, row(f"{DAYS[4]}-00004"), partitions=(DAY,)).taken == 0


def test_a_partition_that_is_delivered_again_without_a_row_keeps_its_label(scored: World) -> None:
    scored.rewrite(DAY, "inputs", lambda frame: frame.tail(10))
    assert take(scored, row(KEYS[0])).partitions == {DAY: 1}


def test_torn_inputs_of_another_day_do_not_stand_in_the_way(scored: World) -> None:
    scored.file(DAYS[0], "inputs").write_bytes(b"torn")
    assert take(scored, row(), row("nobody")).taken == 1


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (row(None), "the key is null or empty"),
        (row(""), "the key is null or empty"),
        (row(1.5), "the key is neither text nor a whole number"),
        (row(True), "the key is neither text nor a whole number"),
        (row(label=None), "the label is null"),
        (row(label="yes"), "the label is of another type"),
        (row(label=True), "the label is of another type"),
        (row(label=1e19), "the label cannot be"),
        (row(label=10**400), "the label is of another type"),
        (row(known_at="2024-01-06T12:00:00"), "known_at is no time with a zone"),
        (row(known_at="yesterday"), "known_at is no time with a zone"),
        (row(known_at="2199-01-01T00:00:00Z"), "known_at is in the future"),
        (row(source="<script>"), "source is no name"),
        (row(source=7), "source is no text"),
    ],
)
def test_an_odd_row_is_put_aside_and_the_rest_is_taken(scored: World, odd: dict[str, Any], reason: str) -> None:
    found = take(scored, odd, row(KEYS[1]))
    assert (found.taken, found.refused) == (1, {reason: 1})
    assert list(aside(found)["reason"]) == [reason]


def test_when_the_clock_was_set_back_labels_of_the_future_wait_outside(
    scored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Earlier(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Earlier:
            return cls(2024, 1, 6, 9, tzinfo=tz)

    take(scored, row(label=1, known_at=NOON.isoformat()))
    monkeypatch.setattr(posted_labels, "dt", SimpleNamespace(datetime=Earlier, UTC=dt.UTC))
    found = take(scored, row(label=-1, known_at=(NOON + HOUR).isoformat()))
    assert found.refused == {"known_at is in the future": 1}


def test_labels_of_a_post_are_bounded(scored: World) -> None:
    with pytest.raises(RequestError, match="1,001 rows: a request carries at most 1,000, post a file"):
        take(scored, *[row()] * 1_001)
    with pytest.raises(RequestError, match="the rows have .* bytes: a request carries at most 262,144"):
        take(scored, *[row("x" * 300)] * 900)


def test_a_file_of_more_than_a_million_rows_is_refused_before_it_is_read_to_its_end(scored: World) -> None:
    table = pa.table({"id": pa.array(np.arange(1_000_001)), "outcome": pa.array(np.zeros(1_000_001))})
    pq.write_table(table, scored.data / "many.parquet")
    with pytest.raises(DataError, match=r"many\.parquet has more than 1,000,000 rows, the most that one post takes"):
        take(scored, file="many.parquet")
    assert not Path(scored.artifacts, "labels").exists()


def test_a_million_rows_of_which_most_are_foreign_are_taken_and_counted(scored: World) -> None:
    keys = pa.array(np.arange(1_000_000 - feed.ROWS)).cast(pa.string())
    table = pa.table({
        "id": pa.concat_arrays([keys, pa.array(KEYS)]),
        "outcome": pa.array(np.ones(1_000_000)),
    })
    pq.write_table(table, scored.data / "many.parquet")
    found = take(scored, file="many.parquet")
    assert (found.rows, found.taken) == (1_000_000, feed.ROWS)
    assert found.refused == {"the key was neither predicted nor delivered": 1_000_000 - feed.ROWS}


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (pd.DataFrame({"outcome": [1.0]}), "lacks the column 'id'"),
        (pd.DataFrame({"id": KEYS[:1]}), "lacks the column 'outcome'"),
        (pd.DataFrame({"id": [0.5], "outcome": [1.0]}), "keys must be text or whole numbers"),
        (pd.DataFrame({"id": KEYS[:1], "outcome": ["yes"]}), "the label is string, expected double"),
        (
            pd.DataFrame({"id": KEYS[:1], "outcome": [1.0], "known_at": pd.to_datetime(["2024-01-06"])}),
            r"the known_at is timestamp\[\w+\], expected timestamp\[us, tz=UTC\]",
        ),
    ],
)
def test_a_file_that_holds_no_labels_is_refused(scored: World, frame: pd.DataFrame, told: str) -> None:
    with pytest.raises(DataError, match=told):
        posted(scored, frame)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "give rows or file, one of the two"),
        ({"rows": [row()], "file": "x.parquet"}, "give rows or file, one of the two"),
        ({"rows": []}, "there are none"),
        (
            {"rows": [row(comment="Ann was angry")]},
            "rows: unknown field 'comment'; a row has id, outcome, known_at, source",
        ),
        ({"rows": [row()], "partitions": ["x"]}, "is no daily partition"),
        ({"rows": [7]}, "arguments of take_labels"),
        ({"file": "x.parquet", "max_rows": 0}, "arguments of take_labels"),
    ],
)
def test_a_post_that_is_none_is_refused(scored: World, arguments: dict[str, Any], told: str) -> None:
    job = scored.job()
    with pytest.raises(RequestError, match=told):
        run(Request(step="take_labels", code=job.model.ref, deployment=job.deployment, arguments=arguments))


def test_a_personal_column_is_not_read(scored: World) -> None:
    scored.configure(data={"pii": ["source"]})
    with pytest.raises(DataError, match=r"data\.pii names source"):
        posted(scored, pd.DataFrame({"id": KEYS[:1], "outcome": [1.0], "source": ["Ann"]}))


# --- beside the delivered labels -----------------------------------------------------------------------------------


def test_quality_is_measured_on_what_was_posted_by_then(lapped: World) -> None:
    job = lapped.job()
    found = manifest(job, DAY)
    (data,) = [r.facts["data"] for r in lapped.records("data") if r.partition == DAY]
    told = feed.labels(DAY).dropna()
    posted(lapped, told.assign(known_at=pd.Timestamp(NOON)))
    posted(lapped, told.assign(outcome=-told["outcome"], known_at=pd.Timestamp(NOON + HOUR)), "turned.parquet")
    delivered = call(job, "quality", predictions=found, data=data)
    first, turned = (
        call(job, "quality", predictions=found, data=data, labels=as_delivered(job, DAY, NOON + hour * HOUR))
        for hour in (0, 1)
    )
    assert first.metrics == delivered.metrics
    assert first.coverage == delivered.coverage
    assert turned.metrics["auc"] == pytest.approx(1 - first.metrics["auc"])
    with pytest.raises(DataError, match="no label of 2024-01-04 was posted up to 2024-01-06 11:00 UTC"):
        as_delivered(job, DAY, NOON - HOUR)


def test_labels_that_were_posted_are_not_trained_on(scored: World) -> None:
    take(scored, row())
    assert scored.loops().ci() is False
