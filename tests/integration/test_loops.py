"""The loops as DAGs, on a slice of the real flights: one story, told once; each test reads the chapter it is about."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from mlops_provider.ledger import Record
from mlops_provider.steps.records import FeatureVersion
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.storage import canonical_json
from tests.integration.house import SLICE, House, Run, deliver_slice, write_slice

Houses = Callable[..., House]

WEAK = {"rounds": 1, "params": {"num_leaves": 2, "min_data_in_leaf": 20}, "window": {"minimum": 1}}


@dataclass(frozen=True)
class Chapter:
    """A run, what it added to the ledger, and where the champion's alias was afterwards."""

    run: Run
    records: list[Record]
    alias: int | None
    versions: dict[int, dict[str, str]]

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(record.kind, record.outcome) for record in self.records]


class Story:
    """Tells the story as far as a test asks for it."""

    def __init__(self, house: House, months: Path) -> None:
        self.house, self.months = house, months
        self.chapters: dict[str, Chapter] = {}
        self._rest = self._told()

    def __call__(self, name: str) -> Chapter:
        while name not in self.chapters:
            told, run = next(self._rest, ("", None))
            assert run is not None, f"there is no chapter {name}, or the story broke off before it"
            seen = sum(len(chapter.records) for chapter in self.chapters.values())
            versions, alias = self.house.registered(SLICE), self.house.alias(SLICE)
            self.chapters[told] = Chapter(run, self.house.ledger(SLICE)[seen:], alias, versions)
        return self.chapters[name]

    def _told(self) -> Iterator[tuple[str, Run]]:
        write_slice(self.house.include, training=WEAK)
        for month in ("2013-01", "2013-02"):
            self._delivered(month, "inputs", "labels")
        yield "accepted", self._run("ci")
        yield "too_little_data", self._run("cm")
        yield "first_wanted", self._run("cm")
        yield "first_candidate", self._run("ct")
        yield "first_champion", self._run("cd")
        self._delivered("2013-03", "inputs")
        yield "scored", self._run("score")
        yield "drift", self._run("cm")
        for loop in ("ci", "score", "cm", "ct", "cd"):
            yield f"idle_{loop}", self._run(loop)
        self._delivered("2013-03", "labels")
        yield "labels", self._run("ci")
        yield "second_wanted", self._run("cm")
        write_slice(self.house.include)
        yield "second_candidate", self._run("ct")
        yield "second_champion", self._run("cd")
        yield "same_again", self._run("ct", partition="2013-03")
        self._delivered("2013-04", "inputs", "labels")
        yield "fourth", self._run("ci")
        yield "drilled", self._run("ct", partition="2013-04", drill="shuffled_labels")
        yield "refused", self._run("cd")
        yield "rolled_back", self._run("rollback", reason="a test of the way back")

    def _delivered(self, month: str, *what: str) -> None:
        for kind in what:
            deliver_slice(self.house, self.months, month, kind)

    def _run(self, loop: str, **conf: Any) -> Run:
        return self.house.run(SLICE, loop, **conf)


@pytest.fixture(scope="module")
def story(houses: Houses, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(houses("story"), tmp_path_factory.mktemp("months"))


def named(*kinds: str) -> list[str]:
    """Names of the model's assets, as `Run.announced` gives them."""
    return sorted(f"{SLICE}.{kind}" for kind in kinds)


# --- CI ------------------------------------------------------------------------------------------------------------


def test_ci_takes_each_delivered_month_through_all_its_tasks(story: Story) -> None:
    run = story("accepted").run
    tasks = ("validate_raw", "build_features", "validate_features", "compare_history", "snapshot")
    wanted = {f"partition.{task}[{place}]" for task in tasks for place in (0, 1)} | {"plan", "test_code"}
    assert run.state == "success"
    assert run.states() == dict.fromkeys(wanted, "success")
    assert [work["partition"] for work in run.task("plan").result] == ["2013-01", "2013-02"]


def test_ci_records_what_was_accepted_and_by_whom(story: Story) -> None:
    chapter = story("accepted")
    assert {(r.kind, r.outcome, r.partition) for r in chapter.records} == {
        ("data", "accepted", "2013-01"),
        ("data", "accepted", "2013-02"),
    }
    assert {record.actor.split()[0] for record in chapter.records} == {f"{SLICE}.ci"}


def test_ci_judged_by_the_suites_of_the_model(story: Story) -> None:
    verdict = story("accepted").run.task("partition.validate_raw", 0).result["verdict"]
    names = [check["name"] for check in verdict["checks"]]
    assert len(names) == 14
    assert {"table_row_count_to_be_between", "column_values_to_be_in_set"} <= set(names)


def test_ci_announces_each_accepted_month_on_the_data_asset(story: Story) -> None:
    run = story("accepted").run
    assert run.announced() == named("data", "data")
    assert {event.extra["partition"] for event in run.events} == {"2013-01", "2013-02"}


def test_ci_leaves_a_pointer_in_git_and_the_content_in_the_remote(story: Story) -> None:
    house = story.house
    for record in story("accepted").records:
        version = FeatureVersion.model_validate(record.facts["data"])
        assert house.git("rev-list", "-n", "1", version.tag) == version.rev
        pointer = yaml.safe_load(house.git("show", f"{version.tag}:{version.path}.dvc"))["outs"][0]
        assert (pointer["md5"], pointer["size"]) == (version.md5, version.size)
        table = read_by_dvc(house, version)
        assert table.num_rows == version.rows
        assert table.column("label").null_count == version.rows - version.labelled > 0
    assert house.git("log", "--format=%s", "main").count(SLICE) == len(house.git("tag").split()) >= 2


def read_by_dvc(house: House, version: FeatureVersion) -> Any:
    """The table, read as any user of DVC would."""
    import dvc.api

    remote = {"url": str(house.data / "dvc")}
    content = dvc.api.read(
        version.path, repo=str(house.repository), rev=version.tag, remote="r", remote_config=remote, mode="rb"
    )
    return pq.read_table(io.BytesIO(content))


def test_the_features_hold_every_delivered_flight(story: Story) -> None:
    delivered = pq.read_table(story.house.data / "flights" / "2013-01" / "inputs.parquet")
    (record,) = [record for record in story("accepted").records if record.partition == "2013-01"]
    version = FeatureVersion.model_validate(record.facts["data"])
    assert set(read_by_dvc(story.house, version)["flight_id"].to_pylist()) == set(delivered["flight_id"].to_pylist())


# --- CM ------------------------------------------------------------------------------------------------------------


def test_cm_waits_for_enough_data_and_says_so_on_the_decision_asset_only(story: Story) -> None:
    chapter = story("too_little_data")
    assert chapter.kinds == [("retrain", "wait")]
    assert "not enough data: 1 of 2" in chapter.records[0].reason
    assert chapter.run.announced() == named("decision")


def test_cm_wants_a_first_model_and_says_so_on_the_retrain_asset_only(story: Story) -> None:
    chapter = story("first_wanted")
    assert chapter.kinds == [("retrain", "train")]
    assert chapter.run.announced() == named("retrain")
    assert chapter.run.events[0].extra["partition"] == "2013-02"


def test_cm_without_predictions_skips_drift_and_quality_and_decides(story: Story) -> None:
    states = story("first_wanted").run.states()
    unscored = dict.fromkeys(("drift", "estimate", "quality"), "skipped")
    assert states == {"plan": "success", **unscored, "decide": "success"}


def test_cm_looks_at_drift_before_the_labels_are_there_and_decides_nothing(story: Story) -> None:
    chapter = story("drift")
    assert chapter.run.states() == {
        "plan": "success",
        "drift": "success",
        "estimate": "success",
        "quality": "skipped",
        "decide": "skipped",
    }
    assert chapter.run.announced() == []
    assert chapter.records == []


def test_cm_finds_the_weather_of_march_drifted_and_keeps_the_report(story: Story) -> None:
    (found,) = story("drift").run.task("drift").result
    assert found["partition"] == "2013-03"
    assert "temp" in found["columns"]
    assert b"plotly" in Path(found["report"]).read_bytes().lower()


def test_cm_estimates_the_quality_before_the_labels_are_there(story: Story) -> None:
    (found,) = story("drift").run.task("estimate").result
    assert (found["partition"], found["trusted"]) == ("2013-03", True)
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]


def test_cm_measures_quality_once_labels_are_there_and_decides_on_it(story: Story) -> None:
    chapter = story("second_wanted")
    done = {"drift": "skipped", "estimate": "skipped", "quality": "success"}
    assert chapter.run.states() == {"plan": "success", **done, "decide": "success"}
    measured = chapter.run.task("quality").result
    assert (measured["partition"], measured["version"]) == ("2013-03", 1)
    assert 0.5 < measured["metrics"]["auc"] < 0.7
    assert chapter.records[0].facts["quality"] == measured
    assert chapter.records[0].facts["drift"]["partition"] == "2013-03"
    assert chapter.records[0].facts["estimate"]["partition"] == "2013-03"
    assert chapter.run.announced() == named("retrain")


# --- CT ------------------------------------------------------------------------------------------------------------


def test_ct_trains_packages_evaluates_and_registers_one_version(story: Story) -> None:
    chapter = story("first_candidate")
    tasks = ("plan", "train", "package", "evaluate", "register")
    assert chapter.run.states() == dict.fromkeys(tasks, "success")
    assert chapter.kinds == [("candidate", "registered")]
    assert list(chapter.versions) == [1]
    assert chapter.run.announced() == named("candidate")


def test_ct_tags_the_version_with_where_it_came_from(story: Story) -> None:
    chapter = story("first_candidate")
    tags, version = chapter.versions[1], chapter.records[0].facts["version"]
    assert tags["mlops.fingerprint"] == version["fingerprint"]
    assert tags["mlops.package"] == version["package"]["onnx"]["hash"]
    assert (tags["mlops.fitted_on"], tags["mlops.holdout"]) == ("2013-01 to 2013-01", "2013-02")


def test_ct_leaves_a_package_that_mlflow_can_load_and_that_scores_alike(story: Story) -> None:
    import mlflow.onnx
    import numpy as np
    import onnxruntime

    chapter, house = story("first_candidate"), story.house
    version = chapter.records[0].facts["version"]
    mlflow.set_tracking_uri(house.mlflow)
    model = mlflow.onnx.load_model(f"models:/{house.prefix}{SLICE}/1")
    rows = np.zeros((3, len(version["package"]["features"])))
    contents = (model.SerializeToString(), Path(version["package"]["onnx"]["uri"]).read_bytes())
    scores = [onnxruntime.InferenceSession(content).run(["score"], {"input": rows})[0] for content in contents]
    assert scores[0].tolist() == scores[1].tolist()


def test_ct_puts_neither_an_alias_nor_a_champion(story: Story) -> None:
    assert story("first_candidate").alias is None


def test_ct_on_a_new_configuration_makes_a_new_version_beside_the_champion(story: Story) -> None:
    chapter = story("second_candidate")
    assert list(chapter.versions) == [1, 2]
    evaluation = chapter.run.task("evaluate").result
    assert evaluation["champion_version"] == 1
    assert evaluation["candidate"]["auc"] > evaluation["champion"]["auc"]
    assert chapter.alias == 1


def test_ct_asked_for_the_same_again_makes_no_other_version(story: Story) -> None:
    chapter = story("same_again")
    assert chapter.run.state == "success"
    assert list(chapter.versions) == [1, 2]
    assert chapter.records == []
    assert chapter.run.task("register").result["reused"] is True


# --- CD ------------------------------------------------------------------------------------------------------------


def test_cd_promotes_the_first_model_that_meets_the_thresholds(story: Story) -> None:
    chapter = story("first_champion")
    assert chapter.run.states() == dict.fromkeys(("plan", "candidate.gate[0]", "candidate.promote[0]"), "success")
    assert chapter.kinds == [("promotion", "promoted")]
    assert chapter.alias == 1
    assert chapter.run.announced() == named("champion", "decision")
    assert {event.task for event in chapter.run.events} == {"candidate.promote"}


def test_cd_promotes_a_candidate_with_a_proven_gain(story: Story) -> None:
    chapter = story("second_champion")
    assert chapter.kinds == [("promotion", "promoted")]
    assert chapter.records[0].reason.startswith("proven gain: auc +")
    assert chapter.records[0].facts["champion"] == 1
    assert chapter.alias == 2
    assert [event.extra for event in chapter.run.events] == [{"version": 2, "previous": 1}] * 2


def test_cd_refuses_the_drill_and_announces_the_decision_only(story: Story) -> None:
    chapter = story("refused")
    assert chapter.run.state == "success"
    assert chapter.run.states() == {
        "plan": "success",
        "candidate.gate[0]": "success",
        "candidate.promote[0]": "skipped",
    }
    assert [(record.kind, record.version) for record in chapter.records] == [("refusal", 3)]
    assert chapter.run.announced() == named("decision")
    assert chapter.run.events[0].task == "candidate.gate"
    assert chapter.alias == 2


def test_cd_refuses_shuffled_labels_as_harmful(story: Story) -> None:
    assert story("refused").records[0].outcome == "harmful"


def test_a_drill_is_marked_wherever_it_is_named(story: Story) -> None:
    chapter = story("drilled")
    assert chapter.versions[3]["mlops.drill"] == "shuffled_labels"
    assert "drill: shuffled_labels" in chapter.records[0].reason
    assert chapter.run.events[0].extra["drill"] == "shuffled_labels"


# --- scoring -------------------------------------------------------------------------------------------------------


def test_score_scores_every_flight_with_the_champion_of_that_moment(story: Story) -> None:
    story("scored")
    delivered = pd.read_parquet(story.house.data / "flights" / "2013-03" / "inputs.parquet")
    predictions = scores_of(story.house, "2013-03")
    assert set(predictions["flight_id"]) == set(delivered["flight_id"])
    assert set(predictions["version"]) == {1}
    assert set(predictions["model"]) == {SLICE}
    assert predictions["score"].between(0, 1).all()


def scores_of(house: House, month: str) -> pd.DataFrame:
    """The committed predictions of a month."""
    found = manifest(house.job(SLICE), month)
    assert found is not None
    return pd.read_parquet(found.table.uri)


def test_the_folder_of_the_predictions_reads_as_one_table(story: Story) -> None:
    story("scored")
    folder = story.house.artifacts / "predictions" / SLICE / "2013-03"
    assert len(pd.read_parquet(folder)) == len(scores_of(story.house, "2013-03"))


def test_score_never_scores_a_month_that_the_champion_has_seen(story: Story) -> None:
    run = story("scored").run
    assert run.states() == {"plan": "success", "score[0]": "success"}
    assert sorted(path.name for path in (story.house.artifacts / "predictions" / SLICE).iterdir()) == ["2013-03"]


def test_score_announces_the_predictions(story: Story) -> None:
    run = story("scored").run
    assert run.announced() == named("predictions")
    assert run.events[0].extra == {
        "partition": "2013-03",
        "version": 1,
        "rows": len(scores_of(story.house, "2013-03")),
    }


# --- rollback ------------------------------------------------------------------------------------------------------


def test_rollback_goes_back_to_the_champion_before_and_keeps_the_reason(story: Story) -> None:
    chapter = story("rolled_back")
    assert chapter.run.state == "success"
    assert [(r.kind, r.version) for r in chapter.records] == [("rollback", 1)]
    assert "a test of the way back" in chapter.records[0].reason
    assert chapter.alias == 1
    assert chapter.run.announced() == named("champion", "decision")


# --- nothing due ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["ci", "score", "cm", "ct", "cd"])
def test_a_loop_with_nothing_due_skips_everything_and_announces_nothing(story: Story, loop: str) -> None:
    chapter = story(f"idle_{loop}")
    assert chapter.run.state == "success"
    worked = {task for task, state in chapter.run.states().items() if state != "skipped"}
    assert worked == set()
    assert chapter.run.events == []
    assert chapter.records == []


def test_every_result_fits_into_an_xcom(story: Story) -> None:
    story("rolled_back")
    sizes = {
        (name, task): len(canonical_json(found.result))
        for name, chapter in story.chapters.items()
        for (task, _), found in chapter.run.tasks.items()
    }
    assert {where: size for where, size in sizes.items() if size > 8 * 1024} == {}


def test_no_failure_was_passed_over_on_the_way(story: Story) -> None:
    story("rolled_back")
    assert {name: chapter.run.said() for name, chapter in story.chapters.items() if chapter.run.errors} == {}
