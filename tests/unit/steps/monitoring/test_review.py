"""Rows worth a person's look: the right ones, each once, and nothing that tells who somebody is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import DataError
from mlops_provider.steps.monitoring.review import ReviewSample, _spread
from mlops_provider.steps.scoring.predictions import manifest
from tests.support.tiny import DAYS, World, call, feed

DAY = DAYS[3]
NAN = float("nan")


def sample(world: World, **arguments: Any) -> ReviewSample:
    job = world.job()
    given = {"predictions": manifest(job, DAY), "version": world.versions()[0], "labels": told(world)}
    found: ReviewSample = call(job, "sample_for_review", **(given | arguments))
    return found


def told(world: World) -> Any:
    world.deliver(DAY, what=("labels",))
    return world.job().storage.describe(str(world.file(DAY, "labels")))


def table(found: ReviewSample) -> pd.DataFrame:
    return pd.read_parquet(found.table.uri)


def test_the_reasons_share_the_places_and_no_row_comes_twice(scored: World) -> None:
    found = sample(scored, rows=30)
    frame = table(found)
    assert (found.rows, found.of, found.version) == (30, feed.ROWS, 1)
    assert frame["id"].is_unique
    assert found.reasons == frame["reason"].value_counts().reindex(found.reasons, fill_value=0).to_dict()
    assert min(found.reasons["contradicting"], found.reasons["uncertain"]) >= 10
    assert found.reasons["far"] == min(10, found.candidates["far"])


def test_uncertain_rows_are_those_nearest_the_cut(scored: World) -> None:
    frame = table(sample(scored, rows=12, labels=None)).query("reason == 'uncertain'")
    whole = pd.read_parquet(manifest(scored.job(), DAY).table.uri)  # type: ignore[union-attr]
    nearest = (whole["score"] - 0.5).abs().nsmallest(len(frame)).max()
    assert (frame["score"] - 0.5).abs().max() <= nearest
    assert frame["label_known"].isna().all()
    assert "contradicting" not in set(table(sample(scored, labels=None))["reason"])


def test_contradicting_rows_were_decided_otherwise_than_their_label(scored: World) -> None:
    frame = table(sample(scored, rows=30)).query("reason == 'contradicting'")
    assert (frame["label"] != (frame["label_known"] == 1)).all()
    assert (frame["score"] - frame["label_known"]).abs().is_monotonic_decreasing


def test_rows_far_from_the_training_data_are_named_with_what_is_odd(champion: World) -> None:
    champion.deliver(DAY, what=("inputs",))

    def odd(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[7, ["a", "b"]] = [50.0, -40.0]
        frame.loc[9, "c"] = 1000.0
        frame.loc[11, "site"] = "nowhere"
        return frame

    champion.rewrite(DAY, "inputs", odd)
    champion.loops().score()
    far = table(sample(champion, rows=60, labels=None)).query("reason == 'far'").reset_index()
    assert list(far["id"][:2]) == [f"{DAY}-00007", f"{DAY}-00009"]
    assert list(far["features_outside"][:2]) == [2, 1]
    assert far["why"][0] == "training saw no such a 50, b -40"
    assert f"{DAY}-00011" in set(far["id"])  # training saw a height for every row
    assert "height nan" in " ".join(far["why"])


def test_the_same_seed_draws_the_same_rows(scored: World) -> None:
    first = sample(scored, rows=20)
    assert call(scored.job(force=True), "sample_for_review", **_again(scored, 20, 0)).table == first.table
    assert sample(scored, rows=5_000).rows == feed.ROWS


def _again(world: World, rows: int, seed: int) -> dict[str, Any]:
    job = world.job()
    return {
        "predictions": manifest(job, DAY),
        "version": world.versions()[0],
        "labels": told(world),
        "rows": rows,
        "seed": seed,
    }


def test_equally_strong_rows_are_drawn_by_the_seed() -> None:
    alike = [np.full(100, NAN), np.zeros(100), np.full(100, NAN)]
    drawn = [tuple(place for place, _ in _spread(alike, 10, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_reason_that_has_no_more_rows_leaves_its_places_to_the_others() -> None:
    strengths = [np.array([3.0, 2.0, NAN, NAN]), np.array([9.0, 8.0, 7.0, 6.0]), np.full(4, NAN)]
    assert _spread(strengths, 10, 0) == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert _spread(strengths, 1, 0) == [(0, 0)]


def test_personal_columns_are_not_shown(scored: World) -> None:
    scored.configure(data={"pii": ["later"]})
    columns = set(table(sample(scored)).columns)
    assert {"input_site", "input_a"} <= columns
    assert not {"input_later", "later"} & columns


def test_a_sample_needs_the_version_that_scored(scored: World) -> None:
    other = scored.versions()[0].model_copy(update={"version": 9})
    with pytest.raises(DataError, match="was scored by version 1, not by version 9"):
        sample(scored, version=other)
    old = scored.versions()[0]
    old = old.model_copy(update={"package": old.package.model_copy(update={"files": {}})})
    with pytest.raises(DataError, match=r"the package has no profile\.json"):
        sample(scored, version=old)
