"""Versions of any dataset, as plain git and DVC see them, and brought back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from mlops_provider.checks import Check, Verdict
from mlops_provider.exceptions import AccessDenied, ConfigError, DataError, IntegrityError, Refused, RequestError
from mlops_provider.steps.data import repository as repository_module
from mlops_provider.steps.data import spark_engine
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import evaluate
from mlops_provider.steps.data.repository import repository
from mlops_provider.steps.data.snapshot_dataset import DatasetSnapshot
from mlops_provider.steps.data.validate import ValidateResult
from mlops_provider.steps.records import DataVersion
from mlops_provider.storage import Artifact, Storage
from tests.support.tiny import World, call

FRAME = pd.DataFrame({"site": ["a", "b", "c"], "height": [1.0, 2.0, None]})


def parquet(place: Path) -> Path:
    FRAME.to_parquet(place / "sites.parquet")
    return place / "sites.parquet"


def csv(place: Path) -> Path:
    FRAME.to_csv(place / "sites.csv", index=False)
    return place / "sites.csv"


def folder(place: Path) -> Path:
    for year in (2023, 2024):
        part = place / "sites" / f"year={year}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        FRAME.assign(height=float(year)).to_parquet(part)
    (place / "sites" / "_SUCCESS").touch()
    return place / "sites"


def versioned(world: World, dataset: Any, **more: Any) -> DataVersion:
    dataset = dataset if isinstance(dataset, Artifact) else str(dataset)
    result: DatasetSnapshot = call(world.job(), "snapshot_dataset", **{"dataset": dataset, "name": "sites"} | more)
    return result.data


def plain(world: World, *command: str) -> str:
    """Plain git or DVC in a clone of a person's own."""
    clone = world.root / "clone"
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", str(world.data / "repository.git"), str(clone)], check=True)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": programs, "DVC_SITE_CACHE_DIR": str(world.root / "site")}
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("make", "rows"), [(parquet, 3), (csv, 3), (folder, 6)])
def test_a_version_tells_what_it_holds_and_comes_back(
    empty: World, make: Callable[[Path], Path], rows: int, tmp_path: Path
) -> None:
    source = make(tmp_path)
    found = versioned(empty, source)
    parts = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    assert (found.rows, found.files) == (rows, len(parts))
    assert found.size == sum(path.stat().st_size for path in parts)
    assert found.path == f"tiny/sites{source.suffix}"
    assert found.tag == f"tiny/sites/{found.md5[:12]}"
    target = tmp_path / "out"
    for asked in ({"version": found}, {"tag": found.tag}):
        back = call(empty.job(), "checkout", target=str(target), **asked)
        assert (back.md5, back.files, back.rev) == (found.md5, found.files, found.rev)
    for path in parts:
        copy = target / path.relative_to(source) if source.is_dir() else target
        assert copy.read_bytes() == path.read_bytes()
    assert not list(target.glob("_*"))
    assert empty.records() == []


@pytest.mark.parametrize("make", [parquet, folder])
def test_plain_dvc_reads_it(empty: World, make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = make(tmp_path)
    found = versioned(empty, source)
    plain(empty, "dvc", "pull", "-q")
    assert "in sync" in plain(empty, "dvc", "status", "-c")
    brought = empty.root / "clone" / found.path
    pairs = (
        [(source, brought)]
        if source.is_file()
        else [(p, brought / p.relative_to(source)) for p in source.rglob("*.parquet")]
    )
    assert [a.read_bytes() == b.read_bytes() for a, b in pairs] == [True] * found.files


@pytest.mark.parametrize("make", [csv, folder])
def test_unchanged_content_keeps_its_version(empty: World, make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = make(tmp_path)
    first = versioned(empty, source)
    assert versioned(empty, source) == first
    file = source if source.is_file() else source / "year=2023" / "part-0.parquet"
    if file.suffix == ".csv":
        file.write_text(file.read_text() + "d,4\n")
    else:
        FRAME.to_parquet(file)
    second = versioned(empty, source)
    assert second.rev != first.rev
    assert second.path == first.path
    assert call(empty.job(), "checkout", version=first, target=str(tmp_path / "old")).md5 == first.md5


def test_a_tag_tells_one_form_of_a_dataset_from_another(empty: World, tmp_path: Path) -> None:
    table, text = versioned(empty, parquet(tmp_path)), versioned(empty, csv(tmp_path))
    job = empty.job()
    for found in (table, text):
        assert call(job, "checkout", tag=found.tag, target=str(tmp_path / "out")).md5 == found.md5
    place = repository(job)
    with pytest.raises(RequestError, match=r"holds tiny/sites\.parquet and tiny/sites\.csv: give the path"):
        place.find("tiny/sites.parquet", "tiny/sites.csv", rev="main")
    with pytest.raises(DataError, match=r"holds no pointer tiny/other\.parquet\.dvc or tiny/other\.dvc"):
        place.find("tiny/other.parquet", "tiny/other", tag=text.tag)


def test_a_folder_holds_the_version_that_was_asked_for_and_nothing_else(empty: World, tmp_path: Path) -> None:
    source, out = folder(tmp_path), tmp_path / "out"
    first = versioned(empty, source)
    shutil.rmtree(source / "year=2023")
    FRAME.to_parquet(source / "year=2024" / "part-1.parquet")
    second = versioned(empty, source)
    for found, names in (
        (first, ["year=2023", "year=2023/part-0.parquet", "year=2024", "year=2024/part-0.parquet"]),
        (second, ["year=2024", "year=2024/part-0.parquet", "year=2024/part-1.parquet"]),
        (first, ["year=2023", "year=2023/part-0.parquet", "year=2024", "year=2024/part-0.parquet"]),
    ):
        assert call(empty.job(), "checkout", version=found, target=str(out)).files == 2
        assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == names


def test_parts_are_versioned_each_on_its_own(empty: World, tmp_path: Path) -> None:
    source = parquet(tmp_path)
    one, two = (versioned(empty, source, partition=part) for part in ("2024-01", "2024-02"))
    assert (one.path, two.path) == ("tiny/sites/2024-01.parquet", "tiny/sites/2024-02.parquet")
    assert (one.partition, one.md5) == ("2024-01", two.md5)
    with pytest.raises(ConfigError, match=r"tiny/sites cannot be versioned in .*: tiny/sites/2024-01\.parquet is"):
        versioned(empty, folder(tmp_path))


def test_a_damaged_member_is_mended_and_a_lost_one_is_named(empty: World, tmp_path: Path) -> None:
    source = folder(tmp_path)
    found = versioned(empty, source)
    place = repository(empty.job())
    member = Path(place.remote.uri(place.remote.members(found.md5)[0]))
    member.unlink()
    with pytest.raises(DataError, match=rf"{member.name} is missing"):
        call(empty.job(), "checkout", version=found, target=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert versioned(empty, source) == found
    assert member.exists()


def test_a_kill_before_the_push_names_nothing_and_a_rerun_completes(
    empty: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(repository_module.Repository, "_point", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            versioned(empty, source)
    assert repository(empty.job()).refs().tags == {}
    found = versioned(empty, source)
    assert repository(empty.job()).refs().named >= set(repository(empty.job()).remote.members(found.md5))


def test_files_of_a_superseded_folder_are_no_garbage(empty: World, tmp_path: Path) -> None:
    source = folder(tmp_path)
    old = versioned(empty, source)
    FRAME.to_parquet(source / "year=2023" / "part-0.parquet")
    versioned(empty, source)
    place = repository(empty.job())
    assert set(place.remote.members(old.md5)) <= place.refs().named


def torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def uneven(path: Path) -> None:
    FRAME.rename(columns={"height": "width"}).to_parquet(path / "year=2024" / "part-0.parquet")


@pytest.mark.parametrize(
    ("make", "spoil", "said"),
    [
        (parquet, Path.unlink, r"sites\.parquet does not exist"),
        (parquet, torn, r"/sites\.parquet is no readable parquet file"),
        (csv, lambda path: path.write_text("site,height\n"), r"/sites\.csv has no rows"),
        (folder, lambda path: torn(path / "year=2023" / "part-0.parquet"), r"sites/year=2023/part-0\.parquet is no"),
        (folder, uneven, r"year=2024/part-0\.parquet has the columns site, width"),
        (folder, lambda path: (path / "x.dvc").touch(), r"holds x\.dvc, a file of DVC"),
        (folder, lambda path: (path / "year=2023" / "dvc.yaml").touch(), r"holds year=2023/dvc\.yaml, a file of DVC"),
        (folder, lambda path: [shutil.rmtree(part) for part in path.iterdir() if part.is_dir()], "holds no parquet"),
    ],
)
def test_what_cannot_be_read_is_named_and_not_versioned(
    empty: World, make: Callable[[Path], Path], spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    source = make(tmp_path)
    spoil(source)
    with pytest.raises(DataError, match=said) as raised:
        versioned(empty, source)
    assert "mlops-snapshot-" not in str(raised.value)
    assert repository(empty.job()).refs().tags == {}


def test_a_failed_verdict_and_names_out_of_place_are_refused(empty: World, tmp_path: Path) -> None:
    source = parquet(tmp_path)
    bad = Verdict(subject="sites", checks=(Check(name="rows", passed=False, value=3, threshold=4),))
    checked = ValidateResult(partition="", suite="s", verdict=bad, dataset=Storage().describe(str(source)))
    with pytest.raises(Refused, match="rows"):
        versioned(empty, source, validated=(checked,))
    for given in ({"name": "2024-01"}, {"name": "../a"}, {"partition": "../a"}, {"partition": "a/b"}):
        with pytest.raises(ValidationError):
            versioned(empty, source, **given)
    (tmp_path / "model.bin").touch()
    with pytest.raises(RequestError, match=r"model\.bin is no dataset"):
        versioned(empty, tmp_path / "model.bin")
    assert repository(empty.job()).refs().tags == {}


def test_access_is_asked_for_before_the_dataset_is_read(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: repository_module.Repository, *, write: bool = False) -> None:
        raise AccessDenied(f"write: {write}")

    monkeypatch.setattr(repository_module.Repository, "probe", denied)
    with pytest.raises(AccessDenied, match="write: True"):
        versioned(empty, "nowhere.parquet")


# A repository with a DVC remote of its own


@pytest.fixture
def theirs(empty: World) -> Path:
    """A team's repository, with a file of theirs in a remote of theirs."""
    bare, remote = empty.data / "repository.git", empty.root / "theirs"
    remote.mkdir()
    clone = empty.root / "clone"
    subprocess.run(["git", "clone", "-q", str(bare), str(clone)], check=True, capture_output=True)
    (clone / "own.txt").write_text("own")
    for command in (
        ["dvc", "init", "-q"],
        ["dvc", "remote", "add", "-q", "-d", "team", str(remote)],
        ["dvc", "add", "-q", "own.txt"],
        ["dvc", "push", "-q"],
        ["git", "add", "."],
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "own"],
        ["git", "push", "-q", "origin", "HEAD:main"],
    ):
        plain(empty, *command)
    return clone


def test_a_repository_with_a_remote_of_its_own_learns_of_ours(empty: World, theirs: Path, tmp_path: Path) -> None:
    source = parquet(tmp_path)
    found = versioned(empty, source)
    assert versioned(empty, source) == found
    plain(empty, "git", "pull", "-q", "--rebase", "origin", "main")
    assert plain(empty, "dvc", "config", "core.remote").strip() == "team"
    shutil.rmtree(theirs / ".dvc" / "cache")
    (theirs / "own.txt").unlink()
    plain(empty, "dvc", "pull", "-q")
    assert (theirs / "own.txt").read_text() == "own"
    assert (theirs / found.path).read_bytes() == source.read_bytes()
    assert "in sync" in plain(empty, "dvc", "status", "-c")


def test_a_remote_that_moves_moves_the_pointer(empty: World, tmp_path: Path) -> None:
    source = parquet(tmp_path)
    first = versioned(empty, source)
    empty.configure(data={"dvc": {"remote": str(tmp_path / "elsewhere")}})
    second = versioned(empty, source)
    assert (second.md5, second.uri.startswith(str(tmp_path / "elsewhere"))) == (first.md5, True)
    assert second.rev != first.rev
    shutil.rmtree(empty.data / "dvc")
    plain(empty, "dvc", "pull", "-q")
    assert (empty.root / "clone" / second.path).read_bytes() == source.read_bytes()


# A verdict is about the content that was judged


@pytest.fixture
def judging(empty: World, tmp_path: Path) -> Callable[..., ValidateResult]:
    """Validates a dataset: the height is at most 5."""
    high = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "height", "max_value": 5}}
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps({"name": "sites", "expectations": [high]}))

    def judge(dataset: Any, **validation: Any) -> ValidateResult:
        job = empty.configure(data={"validation": {"max_share": 0.5, **validation}})
        dataset = dataset if isinstance(dataset, Artifact) else str(dataset)
        result: ValidateResult = call(job, "validate_dataset", suite=str(suite), dataset=dataset)
        return result

    return judge


def years(place: Path) -> Path:
    for year in (2023, 2024):
        part = place / "years" / f"year={year}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        FRAME.to_parquet(part)
    return place / "years"


@pytest.mark.parametrize("make", [csv, years])
def test_what_was_validated_is_versioned_by_uri_and_by_result(
    empty: World, judging: Callable[..., ValidateResult], make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = make(tmp_path)
    checked = judging(source)
    assert checked.dataset.uri == str(source)
    by_uri = versioned(empty, source, validated=(checked,))
    assert versioned(empty, checked.dataset, validated=(checked,)) == by_uri
    assert judging(checked.dataset).dataset == checked.dataset


@pytest.mark.parametrize("make", [parquet, csv, years])
def test_what_changed_after_it_was_validated_is_not_versioned(
    empty: World, judging: Callable[..., ValidateResult], make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = make(tmp_path)
    checked = judging(source)
    if source.suffix == ".csv":
        source.write_text("site,height\na,99\n")
    else:
        FRAME.assign(height=99.0).to_parquet(source if source.is_file() else source / "year=2024" / "part-0.parquet")
    for dataset in (source, checked.dataset):
        with pytest.raises(IntegrityError, match=f"{source} has changed"):
            versioned(empty, dataset, validated=(checked,))
    with pytest.raises(IntegrityError, match=f"{source} has changed"):
        judging(checked.dataset)
    assert repository(empty.job()).refs().tags == {}


def test_a_file_that_came_into_a_validated_folder_is_not_versioned(
    empty: World, judging: Callable[..., ValidateResult], tmp_path: Path
) -> None:
    source = years(tmp_path)
    checked = judging(source)
    (source / "_SUCCESS").touch()
    versioned(empty, source, validated=(checked,))
    FRAME.to_parquet(source / "year=2024" / "part-1.parquet")
    with pytest.raises(IntegrityError, match=f"{source} has changed since it was validated"):
        versioned(empty, source, validated=(checked,))


def test_a_verdict_on_other_data_vouches_for_nothing(
    empty: World, judging: Callable[..., ValidateResult], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    checked, other = judging(parquet(tmp_path)), csv(tmp_path / "other")
    with pytest.raises(RequestError, match=r"other/sites\.csv was not validated: .* about .*sites\.parquet"):
        versioned(empty, other, validated=(checked,))
    copy = shutil.copy(tmp_path / "sites.parquet", tmp_path / "copy.parquet")
    assert versioned(empty, copy, validated=(checked,)).rows == 3


@pytest.mark.parametrize("make", [parquet, years])
def test_rows_in_quarantine_are_not_versioned(
    empty: World,
    judging: Callable[..., ValidateResult],
    make: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "FRAME", FRAME.assign(height=[1.0, 99.0, None]))
    source = make(tmp_path)
    checked = judging(source, mode="quarantine")
    assert checked.verdict.passed
    assert checked.accepted is not None
    for dataset in (source, checked.dataset):
        with pytest.raises(RequestError, match="put rows of it into quarantine.* Hand over the result"):
            versioned(empty, dataset, validated=(checked,))
    versioned(empty, source)  # as on a day without any: they lie beside each other
    found = versioned(empty, checked.accepted, validated=(checked,))
    assert (found.rows, found.path) == (checked.accepted.rows, "tiny/sites.parquet")
    again = judging(checked.accepted, mode="quarantine")
    assert versioned(empty, checked.accepted, validated=(checked, again)) == found


def test_what_spark_alone_could_look_at_is_judged_and_vouches_for_nothing(
    empty: World, judging: Callable[..., ValidateResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = parquet(tmp_path)
    seen = Dataset(Storage(), str(source))
    monkeypatch.setattr(spark_engine, "evaluate", lambda suite, _, key: evaluate(suite, seen, key))
    checked = judging("hdfs://elsewhere/sites.csv", engine="spark")
    assert (checked.verdict.passed, checked.dataset) == (True, None)
    with pytest.raises(RequestError, match="was not validated: the verdicts are about what Spark alone"):
        versioned(empty, source, validated=(checked,))
    assert judging(source, engine="spark").dataset == judging(source).dataset
