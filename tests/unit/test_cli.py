"""`mlops` in a terminal: requests, laps, exit statuses, and JSON on standard output and nothing else there."""

from __future__ import annotations

import datetime as dt
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.__main__ import main
from mlops_provider.checks import Check, Verdict
from tests.support.tiny import DAYS, World, call, request, write_model

DAY = DAYS[0]
_FACTS = {"kind": "data", "partition": DAY, "outcome": "refused", "reason": "old", "facts": {"identity": "x"}}
RECORD = json.dumps({"number": 1, "previous": "", "actor": "test", "at": "2024-01-01T00:00:00Z", **_FACTS})


@dataclass
class Done:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = self._capsys.readouterr()
        return Done(status, out, err)


@pytest.fixture
def mlops(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


# mlops run


@pytest.fixture
def asked(delivered: World, tmp_path: Path) -> Path:
    job = delivered.job()
    return request(job, "build_features", tmp_path / "request.json", work=delivered.work(DAY, job))


def test_run_goes_from_a_request_to_a_result(mlops: Terminal, asked: Path, tmp_path: Path) -> None:
    result = tmp_path / "deep" / "result.json"
    done = mlops("run", "build_features", "--request", asked, "--result", result, "--json")
    assert done.status == 0
    assert done.json == json.loads(result.read_text())
    assert (done.json["step"], done.json["reused"], done.json["result"]["partition"]) == ("build_features", False, DAY)


def test_run_says_reused_unless_it_is_forced(mlops: Terminal, asked: Path) -> None:
    command = ("run", "build_features", "--request", asked)
    assert [("reused" in mlops(*command).out) for _ in range(2)] == [False, True]
    assert "reused" not in mlops(*command, "--force").out


def test_run_reads_standard_input(mlops: Terminal, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(asked.read_text()))
    assert mlops("run", "build_features", "--request", "-", "--json").json["reused"] is False


def edited(file: Path, **changes: Any) -> Path:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"step": "train"}, "asks for the step 'train'"),
        ({"arguments": {}}, "arguments of build_features"),
        ({"code": None}, "code"),
        ({"sudo": True}, "sudo"),
    ],
)
def test_run_refuses_a_bad_request(mlops: Terminal, asked: Path, changes: dict[str, Any], expected: str) -> None:
    done = mlops("run", "build_features", "--request", edited(asked, **changes), "--json")
    assert (done.status, done.json["error"]) == (2, "RequestError")
    assert expected in done.json["message"]
    assert "RequestError" in done.err


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null"])
def test_run_refuses_what_is_no_request(mlops: Terminal, tmp_path: Path, text: str) -> None:
    (tmp_path / "request.json").write_text(text)
    done = mlops("run", "train", "--request", tmp_path / "request.json")
    assert done.status == 2
    assert "request.json" in done.err


def test_run_refuses_bytes_that_are_no_text_and_a_file_that_is_not_there(mlops: Terminal, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_bytes(b'{"a": "\xff\xfe"}')
    for name in ("request.json", "absent.json", ""):
        done = mlops("run", "train", "--request", tmp_path / name, "--json")
        assert (done.status, done.json["error"]) == (2, "RequestError")
        assert name in done.err


def test_run_refuses_an_unknown_step(mlops: Terminal, asked: Path) -> None:
    assert mlops("run", "os.system", "--request", asked).status == 2


def test_run_fails_with_what_the_step_says(mlops: Terminal, delivered: World, asked: Path) -> None:
    delivered.file(DAY, "inputs").write_bytes(b"")
    done = mlops("run", "build_features", "--request", asked, "--json")
    assert (done.status, done.json["error"]) == (1, "IntegrityError")


def test_run_says_where_it_cannot_write(mlops: Terminal, asked: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    done = mlops("run", "build_features", "--request", asked, "--result", tmp_path / "file" / "result.json")
    assert done.status == 1
    assert str(tmp_path / "file") in done.err


def test_a_reader_that_goes_away_is_no_fault() -> None:
    code = "import sys; from mlops_provider.__main__ import main; sys.exit(main(['schema']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_run_prints_json_and_nothing_else(delivered: World, tmp_path: Path) -> None:
    job, work = delivered.job(), delivered.work(DAY)
    table = call(job, "build_features", work=work).table
    verdict = Verdict(subject="test", checks=(Check(name="test", passed=True),))
    file = request(job, "snapshot", tmp_path / "request.json", work=work, table=table, verdicts=(verdict,))
    command = [sys.executable, "-m", "mlops_provider", "run", "snapshot", "--request", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["result"]["partition"] == DAY


# mlops lap


def shortened(include: Path) -> None:
    """The tiny model with a feed of four days."""
    feed = write_model(include) / "feed.py"
    feed.write_text(feed.read_text().replace("return list(DAYS)", "return list(DAYS[:4])"))


@pytest.fixture(scope="module")
def laps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    """Two laps in one folder."""
    root = tmp_path_factory.mktemp("laps")
    shortened(root / "include")
    command = ["lap", "--model", "tiny", "--include", str(root / "include"), "--root", str(root / "lap")]
    done = []
    for _ in range(2):
        patch = pytest.MonkeyPatch()
        out = io.StringIO()
        patch.setattr(sys, "stdout", out)
        try:
            done.append(Done(main(command), out.getvalue(), ""))
        finally:
            patch.undo()
    return root, done


def steps(done: Done) -> dict[str, bool]:
    """Whether each step that depends on its arguments only was reused."""
    lines = [one.split() for one in done.out.splitlines() if one.startswith("2024-") and len(one.split()) in (3, 4)]
    decide = {"compare_history", "snapshot", "register", "gate", "promote", "decide", "refuse_data"}
    return {f"{words[0]} {words[1]}": words[2] == "reused" for words in lines if words[1] not in decide}


def test_a_lap_ends_with_the_table(laps: tuple[Path, list[Done]]) -> None:
    first = laps[1][0]
    assert first.status == 0
    assert "first model, meets the thresholds" in first.out
    assert "proven gain: auc" in first.out
    assert "BROKEN" not in first.out
    assert not steps(first)[f"{DAYS[0]} validate"]


def test_a_second_lap_reuses_everything_and_tells_the_same(laps: tuple[Path, list[Done]]) -> None:
    first, second = laps[1]
    assert len(steps(second)) > 10
    assert all(steps(second).values())
    assert second.out.splitlines()[-8:-2] == first.out.splitlines()[-8:-2]


def test_a_lap_tells_its_story_as_json_and_nothing_else(laps: tuple[Path, list[Done]], mlops: Terminal) -> None:
    root = laps[0]
    done = mlops("lap", "--model", "tiny", "--include", root / "include", "--root", root / "lap", "--json")
    assert (done.status, done.json["broken"], len(done.json["lines"])) == (0, [], 4)


def test_a_lap_refuses_a_folder_that_it_did_not_make(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path / "include")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    done = mlops("lap", "--model", "tiny", "--include", tmp_path / "include", "--root", tmp_path / "home", "--force")
    assert done.status == 2
    assert "was not made by mlops lap" in done.err
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../../keep", "../../../keep", "/keep", "Tiny", ""])
def test_a_lap_of_a_bad_name_deletes_nothing(mlops: Terminal, tmp_path: Path, name: str) -> None:
    root = tmp_path / "lap"
    kept = [root / "keep" / "file", tmp_path / "keep" / "file"]
    for file in (*kept, root / ".mlops-lap", root / "artifacts" / "ledger" / "tiny" / "1.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    done = mlops("lap", "--model", name, "--include", tmp_path / "include", "--root", root)
    assert done.status == 2
    assert all(file.exists() for file in kept)
    assert (root / "artifacts" / "ledger" / "tiny" / "1.json").exists()


def test_a_forced_lap_deletes_nothing_of_another_model(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path / "include")
    other = tmp_path / "lap" / "artifacts" / "ledger" / "other" / "1.json"
    for file in (other, tmp_path / "lap" / ".mlops-lap"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    done = mlops("lap", "--model", "tiny", "--include", tmp_path / "include", "--root", tmp_path / "lap", "--force")
    assert done.status == 2
    assert "--force would delete what other did in" in done.err
    assert other.exists()


def test_a_forced_lap_leaves_delivered_data_alone(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path / "include", data={"replay": None})
    delivered = tmp_path / "lap" / "data" / "tiny" / DAY / "inputs.parquet"
    command = ("lap", "--model", "tiny", "--include", tmp_path / "include", "--root", tmp_path / "lap")
    assert mlops(*command).status == 2
    delivered.parent.mkdir(parents=True)
    delivered.write_bytes(b"delivered")
    mlops(*command, "--force")
    assert delivered.read_bytes() == b"delivered"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training": {"rounds": 0}}, "training.rounds"),
        ({"data": {"replay": "feed.py:absent"}}, "feed.py has no function absent()"),
        ({"data": {"replay": None}}, "no labelled partition"),
        ({"data": {"suites": {"raw": "absent.json"}}}, "there is no absent.json"),
        ({"features": {"build": "absent.py:build"}}, "there is no absent.py"),
    ],
)
def test_a_lap_that_cannot_begin_deletes_nothing(
    mlops: Terminal, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    root = tmp_path / "lap"
    write_model(tmp_path / "include", **change)
    kept = [root / place for place in (".mlops-lap", "artifacts/ledger/tiny/00000001.json", "mlflow.db")]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(RECORD if file.suffix == ".json" else "")
    done = mlops("lap", "--model", "tiny", "--include", tmp_path / "include", "--root", root, "--force")
    assert done.status == 2
    assert expected in done.err
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize("name", ["lap?y", "y%20z"])
def test_a_lap_refuses_a_folder_that_mlflow_would_misread(mlops: Terminal, tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "include")
    done = mlops("lap", "--model", "tiny", "--include", tmp_path / "include", "--root", tmp_path / name)
    assert done.status == 2
    assert "give --root another folder" in done.err
    assert not (tmp_path / name).exists()


def test_a_lap_of_an_unknown_model_names_its_file(mlops: Terminal, tmp_path: Path) -> None:
    done = mlops("lap", "--model", "absent", "--include", tmp_path, "--root", tmp_path / "lap", "--json")
    assert (done.status, done.json["error"]) == (2, "ConfigError")
    assert "absent/model.yaml" in done.err


# mlops validate, schema, status


def test_validate_tells_every_good_model(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path)
    done = mlops("validate", "--include", tmp_path)
    assert (done.status, done.out.split()) == (0, ["ok", "tiny"])


def test_validate_fails_for_one_bad_file_and_names_it(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path)
    write_model(tmp_path, name="broken", training={"rounds": 0})
    done = mlops("validate", "--include", tmp_path, "--json")
    assert (done.status, done.json["valid"]) == (1, ["tiny"])
    assert "broken/model.yaml" in done.json["errors"][0]


def test_validate_applies_the_overlay_of_an_environment(mlops: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path).joinpath("model.prod.yaml").write_text("training: {rounds: 0}")
    found = [mlops("validate", "--include", tmp_path, "--environment", name).status for name in ("prod", "test")]
    assert found == [1, 0]


def test_validate_without_models_fails_in_one_piece_of_json(mlops: Terminal, tmp_path: Path) -> None:
    done = mlops("validate", "--include", tmp_path, "--json")
    assert done.status == 2
    assert "holds no model" in json.dumps(done.json)


@pytest.mark.parametrize("command", ["validate", "lap", "status"])
def test_a_bad_environment_is_refused(
    mlops: Terminal, delivered: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", str(delivered.artifacts))
    more = () if command == "validate" else ("--model", "tiny")
    place = ("--root", tmp_path / "lap") if command == "lap" else ()
    done = mlops(command, "--include", delivered.include, "--environment", "../x", *more, *place)
    assert done.status == 2
    assert "../x" in done.err


def test_the_schema_is_json(mlops: Terminal) -> None:
    assert mlops("schema", "--json").json == mlops("schema").json
    assert mlops("schema").json["title"] == "model.yaml"


@pytest.fixture
def at_home(lapped: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", str(lapped.artifacts))
    monkeypatch.setenv("AIRFLOW__MLOPS__DATA_ROOT", str(lapped.data))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lapped.deployment.tracking_uri)
    return lapped


def test_status_tells_the_story_of_the_deployment_in_the_environment(mlops: Terminal, at_home: World) -> None:
    command = ("status", "--model", "tiny", "--include", at_home.include)
    assert "no proven gain" in mlops(*command).out
    done = mlops(*command, "--json")
    assert (done.status, done.json["lines"][4]["champion"]) == (0, 2)


def test_status_without_a_deployment_says_what_to_set(
    mlops: Terminal, delivered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", raising=False)
    done = mlops("status", "--model", "tiny", "--include", delivered.include, "--json")
    assert (done.status, done.json["error"]) == (2, "ConfigError")


# mlops why, mlops stats


def test_why_tells_the_last_decision_and_that_of_a_partition(mlops: Terminal, at_home: World) -> None:
    command = ("why", "--model", "tiny", "--include", at_home.include)
    done = mlops(*command)
    assert done.status == 0
    assert f"test decided to train a candidate on partition {DAYS[4]}" in done.out
    assert "version 3 was refused" in done.out
    told = mlops(*command, "--partition", DAYS[0], "--json").json
    assert (told["partition"], told["outcome"], told["came_of_it"][0]["state"]) == (DAYS[0], "wait", "nothing")


def test_why_of_a_partition_without_a_decision_says_which_there_are(mlops: Terminal, at_home: World) -> None:
    done = mlops("why", "--model", "tiny", "--include", at_home.include, "--partition", "2013-01-01", "--json")
    assert (done.status, done.json["error"]) == (2, "RequestError")
    assert f"{DAYS[0]} to {DAYS[4]}" in done.json["message"]


def test_stats_tells_the_figures_of_the_ledger(mlops: Terminal, at_home: World) -> None:
    command = ("stats", "--model", "tiny", "--include", at_home.include)
    told = mlops(*command, "--json").json
    assert (told["releases"], told["refused"], told["decided"], told["lead_time"]["count"]) == (2, 1, 3, 2)
    assert (told["releases_per_30_days"], told["restore"]["median"]) == (None, None)
    assert "1 of 3 candidates (33%)" in mlops(*command).out


@pytest.mark.parametrize(("since", "words"), [("tomorrow", "is no date"), ("2999-01-01", "lies in the future")])
def test_stats_refuses_a_date_that_is_none(mlops: Terminal, at_home: World, since: str, words: str) -> None:
    done = mlops("stats", "--model", "tiny", "--include", at_home.include, "--since", since)
    assert done.status == 2
    assert words in done.err


@pytest.mark.parametrize(
    "command", ["run", "lap", "status", "why", "stats", "backtest", "replay", "validate", "schema"]
)
def test_every_command_has_json(mlops: Terminal, command: str) -> None:
    assert "--json" in mlops(command, "--help").out


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("lap",), ("run", "train")])
def test_wrong_use_is_status_2(mlops: Terminal, arguments: tuple[str, ...]) -> None:
    assert mlops(*arguments).status == 2


# mlops versions, mlops gc


@pytest.fixture
def revised(registered: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose first day was revised twice after a model had seen it; the environment names it."""
    for name, value in (("ARTIFACT_ROOT", registered.artifacts), ("DATA_ROOT", registered.data)):
        monkeypatch.setenv(f"AIRFLOW__MLOPS__{name}", str(value))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.deployment.tracking_uri)
    for _ in range(2):
        registered.rewrite(DAY, "labels", lambda frame: frame.assign(outcome=frame["outcome"] + 0.5))
        registered.loops().ci()
    return registered


def test_versions_tells_who_used_what(mlops: Terminal, revised: World) -> None:
    done = mlops("versions", "--model", "tiny", "--include", revised.include)
    assert done.status == 0
    assert f"{DAY} was revised after version 1 had used it" in done.out
    told = mlops("versions", "--model", "tiny", "--include", revised.include, "--of", DAY, "--json").json
    assert {one["data"]["partition"] for one in told} == {DAY}
    assert [one["fitted"] for one in told] == [[1], *[[]] * (len(told) - 1)]


def test_gc_deletes_only_when_it_is_told_to(mlops: Terminal, revised: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_provider.steps.data import garbage

    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    monkeypatch.setattr(garbage, "_now", lambda: later)
    command = ("gc", "--model", "tiny", "--include", revised.include, "--keep", "1", "--json")
    objects = len(list((revised.data / "dvc").rglob("files/md5/??/*")))
    told = [mlops(*command, *flags).json for flags in ((), ("--dry-run",), ("--delete",), ("--delete",))]
    assert [(one["deleted"], len(one["garbage"])) for one in told] == [(False, 1), (False, 1), (True, 1), (True, 0)]
    assert len(list((revised.data / "dvc").rglob("files/md5/??/*"))) == objects - 1
    assert "0 versions, 0 bytes would be deleted with --delete" in mlops(*command[:-1]).out


@pytest.mark.parametrize("wrong", [("--keep", "0"), ("--grace", "0"), ("--delete", "--dry-run"), ("--grace", "nan")])
def test_gc_refuses_what_would_delete_too_much(mlops: Terminal, revised: World, wrong: tuple[str, ...]) -> None:
    assert mlops("gc", "--model", "tiny", "--include", revised.include, *wrong).status == 2
