"""Columns marked `pii` never reach features, reports, samples or logs."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps import plan
from tests.support.tiny import DAYS, World, call

MARKER = "Ada Lovelace-0815"
LAP = DAYS[:4]  # two candidates, and one partition scored and monitored


def _planted(world: World) -> None:
    """The marker in a marked column of every table that is delivered, and a suite that looks at it and finds fault."""
    world.configure(data={"pii": ["passenger", "contact"]})
    for day in LAP:
        world.rewrite(
            day, "inputs", lambda frame: frame.assign(passenger=MARKER, contact=[{"mail": MARKER}] * len(frame))
        )
        world.rewrite(day, "labels", lambda frame: frame.assign(passenger=MARKER))
    sites = pd.read_parquet(world.data / "sites.parquet")
    sites.assign(contact=MARKER).to_parquet(world.data / "sites.parquet")
    file = world.model / "expectations" / "raw.json"
    suite = json.loads(file.read_text())
    for type_, severity in (
        ("expect_column_values_to_be_unique", "warning"),
        ("expect_column_values_to_not_be_null", "critical"),
    ):
        suite["expectations"].append({"type": type_, "kwargs": {"column": "passenger"}, "severity": severity})
    file.write_text(json.dumps(suite))


def _contents(path: Path) -> list[bytes]:
    """What is in a file: its bytes, and in archives and tables what these hold in other words."""
    content = path.read_bytes()
    found = [content]
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    if content[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(content))
        found += [str(table.schema).encode(), json.dumps(table.to_pylist(), default=str).encode()]
    return found


def _in_git(repository: Path) -> bytes:
    """All that is in a repository: git packs its objects, so that their files do not show it."""
    command = ["git", "-C", str(repository), "cat-file", "--batch", "--batch-all-objects"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _holders(root: Path) -> list[str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    return [str(p.relative_to(root)) for p in files if any(MARKER.encode() in content for content in _contents(p))]


def test_a_whole_lap_writes_a_marked_value_nowhere(
    at: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    world: World = at("empty")
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "mlops_provider")
    world.deliver(*LAP)
    _planted(world)
    world.loops().drain()
    assert len(world.versions()) == 2
    assert plan.State(world.job()).scored == [LAP[-1]]
    assert world.records("data")[-1].facts["warnings"] == ["column_values_to_be_unique"]
    told = json.dumps([outcome.model_dump(mode="json") for _, outcome in world.told])
    assert MARKER not in told
    assert MARKER not in caplog.text
    assert MARKER not in "".join(capsys.readouterr())
    delivered = {f"data/tiny/{day}/{what}.parquet" for day in LAP for what in ("inputs", "labels")}
    # The search finds what was delivered, and nothing that the loops wrote: artifacts, MLflow, the DVC remote, git.
    assert set(_holders(world.root)) == {*delivered, "data/sites.parquet"}
    commits = _in_git(world.data / "repository.git")
    assert LAP[-1].encode() in commits
    assert MARKER.encode() not in commits


def test_a_marked_column_of_the_history_never_reaches_the_function(delivered: World) -> None:
    sites = pd.read_parquet(delivered.data / "sites.parquet")
    sites.assign(warden=MARKER).to_parquet(delivered.data / "sites.parquet")
    delivered.configure(data={"pii": ["warden"]})
    body = "assert list(history['sites'].columns) == ['site', 'height']\n    return rows.assign(height=1.0)"
    (delivered.model / "features.py").write_text(f"def build(rows, history, as_of):\n    {body}\n")
    call(delivered.job(), "build_features", work=delivered.work(DAYS[0]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pii": ["id"]}, "pii must not name 'id' (key)"),
        ({"pii": ["at"]}, "pii must not name 'at' (event_time)"),
        ({"pii": ["outcome"]}, "pii must not name 'outcome' (label.column)"),
        ({"pii": ["site"]}, "columns must not name 'site': it is marked pii"),
        ({"pii": ["seen"], "history": {"sites": {"source": "x", "known_at": "seen"}}}, "(history.sites.known_at)"),
    ],
)
def test_a_mark_on_what_tables_must_hold_is_refused(empty: World, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        empty.configure(data=changes)
    assert said in str(error.value)


def test_a_feature_named_like_a_marked_column_is_refused(empty: World) -> None:
    with pytest.raises(ConfigError, match=r"features.columns must not name height: data.pii marks it"):
        empty.configure(data={"pii": ["height"]})


@pytest.mark.parametrize("step", ["validate", "build_features"])
def test_a_mark_on_nothing_is_an_error(delivered: World, step: str) -> None:
    job = delivered.configure(data={"pii": ["pasenger"]})
    arguments: dict[str, Any] = {"suite": "raw"} if step == "validate" else {}
    with pytest.raises(ConfigError, match="data.pii names pasenger, which no delivered table of"):
        call(job, step, work=delivered.work(DAYS[0], job), **arguments)
