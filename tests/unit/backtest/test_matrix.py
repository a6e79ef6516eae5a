"""The matrix on the tiny model's own history: candidates as the loops train them, judged as the gate judged them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.__main__ import main
from mlops_provider.backtest import matrix as matrices
from mlops_provider.backtest import timeline as timelines
from mlops_provider.backtest.matrix import matrix
from mlops_provider.backtest.replay import Board
from mlops_provider.backtest.timeline import timeline
from mlops_provider.exceptions import DataError, RequestError
from mlops_provider.steps.records import FeatureVersion, Judged
from tests.support.tiny import DAYS, World


def test_the_gate_of_a_replay_finds_what_the_gate_of_the_loops_found(lapped: World) -> None:
    """The candidate of the fourth day against the champion of the third, both fitted anew: the intervals of the ledger."""
    line = timeline(lapped.job(), lag=1)
    board = Board(line, matrix(line))
    assert board.matrix.names == DAYS
    assert (line.minimum, line.holdout, board.begin) == (2, 1, 2)
    first, second = lapped.records("promotion", "refusal")[:2]
    judged = Judged.model_validate(second.facts["judged"])
    assert (first.partition, second.partition) == DAYS[2:4]
    assert judged.evaluation.interval is not None
    found, known = board.judge(2, 1), judged.evaluation.interval
    assert found.outcome == judged.outcome
    assert (found.gain, found.low, found.high) == pytest.approx((known.gain, known.low, known.high), abs=1e-6)


def test_what_was_trained_once_is_not_trained_again(lapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    line = timeline(lapped.job(), lag=1)
    first = matrix(line)
    monkeypatch.setattr(matrices, "measured", lambda *_: pytest.fail("trained again"))
    again = matrix(timeline(lapped.job(), lag=1))
    assert np.array_equal(first.values["auc"], again.values["auc"], equal_nan=True)
    other = lapped.configure(training={"seed": 8})
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        matrix(timeline(other, lag=1))


def test_no_candidate_is_measured_on_what_it_has_seen(lapped: World) -> None:
    line = timeline(lapped.job(), lag=1)
    candidate, at = np.indices((len(line), len(line)))
    known = np.isfinite(matrix(line).values["auc"])
    assert not known[at <= candidate].any()
    assert known[(at > candidate) & (candidate >= line.minimum - 1) & (candidate < len(line) - 1)].all()


def test_a_candidate_that_goes_on_from_the_champion_cannot_be_trained_ahead(lapped: World) -> None:
    with pytest.raises(RequestError, match=r"training\.start champion"):
        matrix(timeline(lapped.configure(training={"start": "champion"}), lag=1))


def test_too_short_a_history_is_refused_with_what_it_lacks(accepted: World) -> None:
    with pytest.raises(RequestError, match="3 periods, at least 6 are needed: 2 to fit on, 1 to judge on, and 3 until"):
        timeline(accepted.job())


def test_without_accepted_data_there_is_nothing_to_replay(delivered: World) -> None:
    with pytest.raises(RequestError, match="no partition was accepted yet"):
        timeline(delivered.job())


def test_days_are_not_cut_into_days(lapped: World) -> None:
    with pytest.raises(RequestError, match="partitions are daily, they cannot be cut by day"):
        timeline(lapped.job(), cut="day")


def test_months_are_cut_into_whole_weeks(lapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows keep their order by key; the week that has only begun is left out; no row is lost in between."""
    job = lapped.job()
    data = job.config.data.model_copy(update={"partition": "monthly"})
    job.model.config = job.config.model_copy(update={"data": data})
    times = pd.date_range("2024-01-01", "2024-03-01", freq="h", tz="UTC", inclusive="left")
    rows = pd.DataFrame({
        "id": [f"{n:05d}" for n in range(len(times))],
        "at": times,
        "label": np.arange(len(times)) % 2.0,
    })
    months = {name: rows[times.strftime("%Y-%m") == name] for name in ("2024-01", "2024-02")}
    monkeypatch.setattr(timelines, "_read", lambda job, v: timelines._period(job, v.partition, months[v.partition]))
    known = {
        "rev": "",
        "tag": "",
        "path": "",
        "md5": "",
        "size": 0,
        "rows": 1,
        "labelled": 1,
        "first": times[0],
        "last": times[-1],
    }
    versions = {name: FeatureVersion(partition=name, **known) for name in months}
    periods = timelines._regrouped(job, versions, "week")
    assert [period.name for period in periods] == [f"2024-W{n:02d}" for n in range(1, 9)]
    assert {len(period.rows) for period in periods} == {7 * 24}
    assert all(period.first.weekday() == 0 and period.last.weekday() == 6 for period in periods)


def test_a_period_that_tells_nothing_apart_is_named(lapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read = timelines.snapshot.read
    same = {
        DAYS[3]: lambda table: table.set_column(table.schema.get_field_index("label"), "label", [[1.0] * len(table)])
    }
    monkeypatch.setattr(timelines.snapshot, "read", lambda job, v: same.get(v.partition, lambda t: t)(read(job, v)))
    with pytest.raises(
        DataError, match=f"tiny {DAYS[3]}: no model can be judged on it: the label is 1 in all 1200 rows"
    ):
        timeline(lapped.job(), lag=1)


# the commands


@pytest.fixture
def at_home(lapped: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", str(lapped.artifacts))
    monkeypatch.setenv("AIRFLOW__MLOPS__DATA_ROOT", str(lapped.data))
    return lapped


def test_a_backtest_writes_nothing_but_its_cache_and_its_chart(
    at_home: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (at_home.records(), at_home.root.joinpath("mlflow.db").read_bytes())
    (rule := tmp_path / "retrain.yaml").write_text("policy: cost_aware\ncosts: {training: 1, metric_unit: 100}\n")
    chart = tmp_path / "chart.html"
    options = ["--model", "tiny", "--include", str(at_home.include), "--lag", "1", "--retrain", str(rule)]
    assert main(["backtest", *options, "--chart", str(chart), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [side["gated"] for side in found["sides"]] == [True, False]
    assert [result["policy"] for result in found["sides"][0]["results"]][-1] == "cost_aware"
    assert chart.read_text().startswith("<!doctype html>")
    assert main(["replay", *options, "--from", DAYS[3]]) == 0
    assert "nothing was recorded" in capsys.readouterr().out
    assert (at_home.records(), at_home.root.joinpath("mlflow.db").read_bytes()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lag", "0"], "--lag 0"),
        (["--retrain", "nowhere.yaml"], "--retrain nowhere.yaml"),
        ([], "5 periods, at least 6 are needed"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    at_home: World, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = ["backtest", "--model", "tiny", "--include", str(at_home.include), *options]
    assert main(given) == 2
    assert message in capsys.readouterr().err
