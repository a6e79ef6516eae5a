"""Training: the same trees from the same data, and nothing that was not known at the cutoff."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from mlops_provider.exceptions import ConfigError, DataError, IntegrityError, RequestError
from mlops_provider.steps import plan
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.records import Split, Trained
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import identity, rows
from mlops_provider.steps.training import train as training
from mlops_provider.steps.training.split import load_split, save_split
from tests.support.tiny import DAYS, World, call, outcome

HOLDOUT = DAYS[2]
BAGGED = {"params": {"bagging_fraction": 0.5, "bagging_freq": 1}}  # draws rows by their place
Change = Callable[[pd.DataFrame], pd.DataFrame]


def trained(world: World, job: Job | None = None, **arguments: Any) -> Trained:
    job = job or world.job()
    found: Trained = call(job, "train", split=world.split(HOLDOUT, job), **arguments)
    return found


def redelivered(world: World, change: Change, what: str = "inputs", days: tuple[str, ...] = DAYS[:2]) -> None:
    for day in days:
        world.rewrite(day, what, change)
    world.loops().ci()


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=1).reset_index(drop=True)


def test_the_same_data_make_the_same_trees(accepted: World) -> None:
    first = trained(accepted)
    again = call(accepted.job(force=True), "train", split=first.split)
    assert again == first


def test_the_order_of_rows_does_not_matter(accepted: World) -> None:
    accepted.configure(training=BAGGED)
    first = trained(accepted)
    redelivered(accepted, shuffled)
    second = trained(accepted)
    assert second.fingerprint != first.fingerprint
    assert second.model_hash == first.model_hash


def test_the_order_of_rows_does_not_matter_where_keys_return_every_day(delivered: World) -> None:
    delivered.configure(training=BAGGED, data={"changes": {"duplicates": "allow"}})
    for day in DAYS[:3]:
        for what in ("inputs", "labels"):
            delivered.rewrite(day, what, lambda frame: frame.assign(id=frame["id"].str[-5:]))
    delivered.loops().ci()
    first = trained(delivered)
    redelivered(delivered, shuffled)
    assert trained(delivered).model_hash == first.model_hash


def test_the_number_of_threads_does_not_matter(accepted: World) -> None:
    hashes = {trained(accepted, accepted.configure(training={"resources": {"cpu": cpu}})).model_hash for cpu in (1, 2)}
    assert len(hashes) == 1


def test_the_number_of_threads_makes_no_other_version(accepted: World) -> None:
    fingerprints = {
        trained(accepted, accepted.configure(training={"resources": {"cpu": cpu}})).fingerprint for cpu in (1, 2)
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"gates": {"min_gain": 0.5}}, True),
        ({"monitoring": {"drift": {"threshold": 0.9}}}, True),
        ({"retrain": {"policy": "never"}}, True),
        ({"scoring": {"order": "immediate"}}, True),
        ({"owner": "another"}, True),
        ({"training": {"rounds": 21}}, False),
        ({"training": {"seed": 8}}, False),
        ({"features": {"columns": ["a", "b", "c"]}}, False),
    ],
)
def test_the_fingerprint_follows_what_shapes_the_model(accepted: World, change: dict[str, Any], same: bool) -> None:
    job = accepted.job()
    split = load_split(job, accepted.split(HOLDOUT, job))
    arguments = training.TrainArguments(split=save_split(job, split))
    before = training.version_fingerprint(job, split, arguments)
    after = training.version_fingerprint(accepted.configure(**change), split, arguments)
    assert (after == before) is same


def test_the_fingerprint_follows_data_code_and_environment(accepted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = accepted.job()
    split = load_split(job, accepted.split(HOLDOUT, job))
    arguments = training.TrainArguments(split=save_split(job, split))
    found = [training.version_fingerprint(job, split, arguments)]
    later = split.model_copy(update={"holdout": split.holdout.model_copy(update={"md5": "0"})})
    found.append(training.version_fingerprint(job, later, arguments))
    found.append(training.version_fingerprint(job, split, arguments.model_copy(update={"repeat": "once more"})))
    (accepted.model / "features.py").write_text((accepted.model / "features.py").read_text() + "\n")
    found.append(training.version_fingerprint(accepted.job(), split, arguments))
    monkeypatch.setattr(identity, "environment", lambda: {"lightgbm": "0"})
    found.append(training.version_fingerprint(job, split, arguments))
    assert len(set(found)) == 5


def test_an_equal_split_is_reused_and_gates_do_not_retrain(accepted: World) -> None:
    split = accepted.split(HOLDOUT)
    found = [outcome(accepted.configure(gates={"min_gain": gain}), "train", split=split) for gain in (0.1, 0.2)]
    assert [o.reused for o in found] == [False, True]


def known_rows(world: World, job: Job, **update: Any) -> pd.DataFrame:
    split = load_split(job, world.split(HOLDOUT, job)).model_copy(update=update)
    frame: pd.DataFrame = rows.known_rows(job, split)
    return frame


def test_no_label_that_came_after_the_cutoff_is_learned(accepted: World) -> None:
    job = accepted.job()
    frame = known_rows(accepted, job)
    holdout = pd.Timestamp(HOLDOUT, tz="UTC")
    assert frame["at"].max() + pd.Timedelta("1h") <= holdout - pd.Timedelta("1h")
    assert frame["at"].max() > holdout - pd.Timedelta("2h5min")
    assert trained(accepted).rows == len(frame)


def test_a_longer_delay_leaves_out_more(accepted: World) -> None:
    frame = known_rows(accepted, accepted.configure(data={"label": {"delay": "1d"}}))
    assert frame["at"].max() <= pd.Timestamp(DAYS[1], tz="UTC") - pd.Timedelta("1h")


def test_rows_without_a_label_are_not_learned(accepted: World) -> None:
    assert known_rows(accepted, accepted.job())["label"].notna().all()


def test_nothing_known_yet_is_an_error(accepted: World) -> None:
    with pytest.raises(DataError, match="no row has a label that was known on"):
        trained(accepted, accepted.configure(data={"label": {"delay": "9w"}}))


def test_one_class_is_an_error(accepted: World) -> None:
    redelivered(accepted, lambda frame: frame.assign(outcome=1.0), "labels")
    with pytest.raises(DataError, match=r"the label is 1 in all \d+ rows, nothing to learn"):
        trained(accepted)


def test_the_candidate_is_never_fitted_on_the_holdout(accepted: World) -> None:
    job = accepted.job()
    split = load_split(job, accepted.split(HOLDOUT, job))
    assert [v.partition for v in split.fit] == list(DAYS[:2])
    assert known_rows(accepted, job)["at"].max() < split.holdout.first


@pytest.mark.parametrize(
    ("window", "fitted"),
    [({"minimum": 1}, DAYS[:3]), ({"kind": "rolling", "minimum": 1, "size": 2}, DAYS[1:3])],
)
def test_the_window_says_what_is_fitted_on(scored: World, window: dict[str, Any], fitted: tuple[str, ...]) -> None:
    scored.deliver(DAYS[3], what=("labels",))
    scored.loops().ci()
    job = scored.configure(training={"window": window})
    split: Split = plan.split(plan.State(job), DAYS[3])
    assert tuple(v.partition for v in split.fit) == fitted


def test_the_trees_learned_something(accepted: World) -> None:
    found, job = trained(accepted), accepted.job()
    booster = lightgbm.Booster(model_str=Path(found.booster.uri).read_text())
    held = snapshot.read(job, load_split(job, found.split).holdout).to_pandas().dropna(subset="label")
    scores = np.asarray(booster.predict(held[["a", "b", "c", "height"]].to_numpy()))
    assert scores[held["label"] == 1].mean() > scores[held["label"] == 0].mean() + 0.2


def test_the_reference_is_a_sample_of_the_training_features(accepted: World) -> None:
    found = trained(accepted)
    reference = pd.read_parquet(found.reference.uri)
    assert list(reference.columns) == ["a", "b", "c", "height"]
    assert len(reference) == found.rows
    assert sorted(reference["a"]) == sorted(known_rows(accepted, accepted.job())["a"])


def test_a_drill_is_recorded_and_shuffles_the_labels(accepted: World) -> None:
    plain, drill = trained(accepted), trained(accepted, drill="shuffled_labels")
    assert (plain.drill, drill.drill) == (None, "shuffled_labels")
    assert drill.rows == plain.rows
    assert drill.fingerprint != plain.fingerprint
    assert drill.model_hash != plain.model_hash


def test_a_changed_split_file_is_found_out(accepted: World) -> None:
    split = accepted.split(HOLDOUT)
    file = Path(split.file.uri)
    file.write_text(file.read_text().replace(DAYS[0], DAYS[3]))
    with pytest.raises(IntegrityError):
        call(accepted.job(), "train", split=split)


def test_parameters_that_lightgbm_refuses_together_are_a_fault_of_the_configuration(accepted: World) -> None:
    job = accepted.configure(training={"params": {"is_unbalance": True, "scale_pos_weight": 2.0}})
    with pytest.raises(ConfigError, match=r"model\.yaml: training\.params .*scale_pos_weight.*LightGBM"):
        call(job, "train", split=accepted.split(HOLDOUT, job))


def test_tables_that_other_code_made_are_not_trained_on_whoever_asks(accepted: World) -> None:
    """Planning holds such a training back; a split that was planned before, or that of a version, comes here."""
    split = accepted.split(DAYS[2])
    with (accepted.model / "features.py").open("a") as file:
        file.write("# other\n")
    with pytest.raises(
        RequestError, match=rf"other code .* made the features of {DAYS[0]}, .*: tiny\.ci makes them anew"
    ):
        call(accepted.job(), "train", split=split)
