"""Batch scoring: every row with the version that scored it, visible as a whole or not at all."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import DataError, IntegrityError, RequestError
from mlops_provider.steps import plan
from mlops_provider.steps.records import Predictions, ScoreWork
from mlops_provider.steps.scoring.predictions import committed, manifest, manifest_uri
from mlops_provider.steps.step import find
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, Killed, World, call, feed, outcome

DAY = DAYS[3]


@pytest.fixture
def ready(champion: World) -> World:
    champion.deliver(DAY, what=("inputs",))
    return champion


def due(world: World) -> ScoreWork:
    (work,) = plan.score(world.job())
    return work


def scored(world: World, work: ScoreWork | None = None) -> Predictions:
    found: Predictions = call(world.job(), "score", work=work or due(world))
    return found


def table(found: Predictions) -> pd.DataFrame:
    return pd.read_parquet(found.table.uri)


def test_every_row_is_scored_and_names_its_version(ready: World) -> None:
    found = scored(ready)
    frame = table(found)
    first = ["id", "at", "score", "label", "model", "version", "scored_at"]
    assert list(frame.columns) == [*first, "variant", "source", "inputs", "row", "features"]
    assert list(frame["id"]) == list(feed.inputs(DAY)["id"])
    assert set(frame["version"]) == {1}
    assert set(frame["model"]) == {"tiny"}
    assert frame["scored_at"].nunique() == 1
    assert abs(frame["scored_at"][0] - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert frame["score"].between(0, 1).all()


def test_the_scores_are_those_of_the_trained_model(ready: World) -> None:
    work = due(ready)
    frame = table(scored(ready, work))
    told = feed.inputs(DAY)
    heights = told["site"].map({"north": 10.0, "south": 20.0, "east": 30.0})
    booster = lightgbm.Booster(model_file=work.version.package.booster.uri)
    expected = np.asarray(booster.predict(told[["a", "b", "c"]].assign(height=heights).to_numpy()))
    assert np.abs(frame["score"] - expected).max() < 1e-6
    assert (frame["label"] == (frame["score"] >= 0.5)).all()


def test_the_manifest_tells_what_was_scored_with_what(ready: World) -> None:
    work = due(ready)
    found = scored(ready, work)
    frame = table(found)
    assert (found.rows, found.positives) == (len(frame), frame["label"].sum())
    assert found.mean_score == pytest.approx(frame["score"].mean())
    assert (found.inputs, found.history, found.code) == (work.inputs, work.history, work.version.package.code)
    assert found.fingerprint == work.version.fingerprint
    assert manifest(ready.job(), DAY) == found


def test_rows_that_never_get_a_label_are_scored(ready: World) -> None:
    ready.deliver(DAY)
    ready.rewrite(DAY, "labels", lambda frame: frame.head(10))
    assert scored(ready).rows == feed.ROWS


def test_scoring_again_changes_nothing(ready: World) -> None:
    work = due(ready)
    first = outcome(ready.job(), "score", work=work)
    content = Path(first.result["table"]["uri"]).read_bytes()
    again = outcome(ready.job(), "score", work=work)
    assert (again.reused, again.result) == (True, first.result)
    assert Path(first.result["table"]["uri"]).read_bytes() == content
    assert plan.score(ready.job()) == []


def test_scoring_again_by_force_leaves_the_predictions_readable(ready: World) -> None:
    work = due(ready)
    scored(ready, work)
    call(ready.job(force=True), "score", work=work)
    standing = manifest(ready.job(), DAY)
    assert standing is not None
    Storage().fetch(standing.table)


def test_two_scorers_at_once_leave_the_predictions_readable(ready: World) -> None:
    step, work = find("score"), due(ready)
    found = [step.function(ready.job(), step.arguments(work=work)) for _ in range(2)]
    standing = [committed(ready.job(), one) for one in found]
    assert standing[0] == standing[1]
    Storage().fetch(standing[0].table)


def test_a_kill_before_the_manifest_leaves_nothing_to_see(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise Killed

    work, job = due(ready), ready.job()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Storage, "create", kill)
        call(job, "score", work=work)
    assert manifest(ready.job(), DAY) is None
    assert plan.State(ready.job()).scored == []
    assert due(ready) == work
    assert scored(ready, work) == manifest(ready.job(), DAY)


def test_a_partition_that_the_version_has_seen_is_not_scored(ready: World) -> None:
    work = due(ready)
    for day in DAYS[:3]:
        inputs = plan.State(ready.job())._describe(ready.job().config.data.source, day)
        seen = work.model_copy(update={"partition": day, "inputs": inputs})
        with pytest.raises(RequestError, match=f"has seen data until {DAYS[2]}: it must not score {day}"):
            scored(ready, seen)
        assert manifest(ready.job(), day) is None


def test_features_come_from_the_code_of_the_version(ready: World) -> None:
    work = due(ready)
    expected = table(scored(ready, work))["score"]
    Path(manifest_uri(ready.job(), DAY)).unlink()
    file = ready.model / "features.py"
    file.write_text(file.read_text().replace('rows[["a", "b", "c"]]', '(0 * rows[["a", "b", "c"]])'))
    again = call(ready.job(force=True), "score", work=due(ready))
    assert (table(again)["score"] == expected).all()


def test_a_changed_package_does_not_score(ready: World) -> None:
    work = due(ready)
    file = Path(work.version.package.onnx.uri)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match=r"model\.onnx has changed"):
        scored(ready, work)
    assert manifest(ready.job(), DAY) is None


def test_changed_code_does_not_score(ready: World) -> None:
    work = due(ready)
    ready.configure(description="another")
    file = Path(work.version.package.code.uri)
    file.write_bytes(file.read_bytes().replace(b"height", b"weight"))
    with pytest.raises(IntegrityError, match="damaged or replaced"):
        scored(ready, work)


def test_inputs_that_were_replaced_after_the_plan_are_not_scored(ready: World) -> None:
    work = due(ready)
    ready.rewrite(DAY, "inputs", lambda frame: frame.assign(a=0.0))
    with pytest.raises(IntegrityError, match=r"inputs\.parquet has changed"):
        scored(ready, work)


def test_torn_inputs_are_named(ready: World) -> None:
    file = ready.file(DAY, "inputs")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"{DAY}/inputs\.parquet is no readable parquet"):
        scored(ready)
    assert manifest(ready.job(), DAY) is None


def test_rows_of_another_day_are_neither_scored_nor_accepted(champion: World) -> None:
    champion.deliver(DAYS[3])
    for what in ("inputs", "labels"):
        champion.file(DAYS[3], what).write_bytes(champion.file(DAYS[0], what).read_bytes())
    champion.loops().drain()
    assert plan.State(champion.job()).scored == []
    (refused,) = [r for r in champion.records("data") if r.outcome == "refused"]
    assert "do not belong to the partition" in refused.reason


def test_rows_that_the_version_has_seen_are_not_scored_under_the_next_day(champion: World) -> None:
    champion.deliver(DAYS[3], what=("inputs",))
    late = pd.read_parquet(champion.file(DAYS[2], "inputs")).tail(100)
    champion.rewrite(DAYS[3], "inputs", lambda frame: pd.concat([late, frame]))
    (work,) = plan.score(champion.job())
    with pytest.raises(DataError, match="has seen data until"):
        call(champion.job(), "score", work=work)
