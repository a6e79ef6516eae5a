"""A model's code as an archive: deterministic, verified, imported under a name of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_provider.exceptions import ConfigError, DataError, IntegrityError
from mlops_provider.modelcode import Model, commits, pack, unpack
from mlops_provider.storage import Storage
from tests.support.tiny import write_model


def packed(directory: Path, root: Path, environment: str = "") -> Model:
    return pack(directory, environment, Storage(), str(root / "artifacts"))


def same(directory: Path, root: Path, before: Model) -> tuple[bool, bool]:
    """Whether archive and code hash are what they were."""
    after = packed(directory, root)
    return after.ref.sha256 == before.ref.sha256, after.code_hash == before.code_hash


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def names(archive: Model) -> set[str]:
    return set(archive._files)


def test_equal_files_make_an_equal_archive(directory: Path, tmp_path: Path) -> None:
    before = packed(directory, tmp_path)
    for path in directory.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert same(directory, tmp_path, before) == (True, True)


def test_the_archive_does_not_depend_on_where_the_model_lies(directory: Path, tmp_path: Path) -> None:
    elsewhere = write_model(tmp_path / "elsewhere")
    assert same(elsewhere, tmp_path, packed(directory, tmp_path)) == (True, True)


@pytest.mark.parametrize("file", ["features.py", "expectations/raw.json"])
def test_changed_content_makes_another_archive(directory: Path, tmp_path: Path, file: str) -> None:
    before = packed(directory, tmp_path)
    (directory / file).write_text((directory / file).read_text() + "\n")
    assert same(directory, tmp_path, before) == (False, False)


def test_a_renamed_file_makes_another_archive(directory: Path, tmp_path: Path) -> None:
    (directory / "notes.txt").touch()
    before = packed(directory, tmp_path)
    (directory / "notes.txt").rename(directory / "other.txt")
    assert same(directory, tmp_path, before) == (False, False)


def test_changed_gates_change_the_archive_and_not_the_code(directory: Path, tmp_path: Path) -> None:
    before = packed(directory, tmp_path)
    write_model(tmp_path, gates={"min_gain": 0.5})
    assert same(directory, tmp_path, before) == (False, True)


def test_a_comment_in_the_configuration_changes_nothing(directory: Path, tmp_path: Path) -> None:
    before = packed(directory, tmp_path)
    with (directory / "model.yaml").open("a") as file:
        file.write("# a comment\n")
    assert same(directory, tmp_path, before) == (True, True)


@pytest.mark.parametrize(
    "stray", ["tests/__pycache__/x.pyc", "__pycache__/x.pyc", ".git/config", ".env", "model.prod.yaml"]
)
def test_what_is_no_code_stays_out(directory: Path, tmp_path: Path, stray: str) -> None:
    before = packed(directory, tmp_path)
    (directory / stray).parent.mkdir(exist_ok=True, parents=True)
    (directory / stray).write_text("{}")
    assert same(directory, tmp_path, before) == (True, True)


def test_tests_travel_with_the_code_and_make_no_other_model(directory: Path, tmp_path: Path) -> None:
    before = packed(directory, tmp_path)
    (directory / "tests").mkdir()
    (directory / "tests" / "test_it.py").write_text("def test_it(): pass\n")
    assert same(directory, tmp_path, before) == (False, True)
    assert packed(directory, tmp_path).tests == ("tests/test_it.py",)


def test_the_archive_holds_the_model(directory: Path, tmp_path: Path) -> None:
    found = packed(directory, tmp_path)
    expected = {"model.yaml", "features.py", "feed.py", "expectations/raw.json", "expectations/features.json"}
    assert names(found) == expected
    assert found.ref.uri.endswith(f"/code/tiny/{found.ref.sha256}.zip")


def test_the_archive_holds_the_merged_configuration(directory: Path, tmp_path: Path) -> None:
    (directory / "model.prod.yaml").write_text("training: {rounds: 9}")
    ref = packed(directory, tmp_path, "prod").ref
    assert unpack(ref, Storage()).config.training.rounds == 9


def test_a_variant_brings_the_files_of_its_base_overlaid_by_its_own(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "models" / "other"
    other.mkdir()
    (other / "model.yaml").write_text("extends: ../tiny/model.yaml\nname: other")
    (other / "features.py").write_text("MINE = True\n")
    found = unpack(packed(other, tmp_path).ref, Storage())
    assert found.config.name == "other"
    assert found.read("features.py") == b"MINE = True\n"
    assert found.read("feed.py") == (directory / "feed.py").read_bytes()


def test_unpacked_is_what_was_packed(directory: Path, tmp_path: Path) -> None:
    before = packed(directory, tmp_path)
    after = unpack(before.ref, Storage())
    assert (after.config, after.code_hash, names(after)) == (before.config, before.code_hash, names(before))


def test_a_changed_archive_is_refused(directory: Path, tmp_path: Path) -> None:
    ref = packed(directory, tmp_path).ref
    content = Path(ref.uri).read_bytes()
    Path(ref.uri).write_bytes(content.replace(b"height", b"weight"))
    with pytest.raises(IntegrityError, match="damaged or replaced"):
        unpack(ref, Storage())


def test_a_missing_archive_is_named(directory: Path, tmp_path: Path) -> None:
    ref = packed(directory, tmp_path).ref
    Path(ref.uri).unlink()
    with pytest.raises(DataError, match=ref.sha256):
        unpack(ref, Storage())


def test_two_versions_work_side_by_side(directory: Path, tmp_path: Path) -> None:
    found = []
    for value in (1, 2):
        (directory / "helper.py").write_text(f"VALUE = {value}\n")
        (directory / "features.py").write_text("from .helper import VALUE\n\ndef build():\n    return VALUE\n")
        found.append(packed(directory, tmp_path).function("features.py:build"))
    assert [build() for build in found] == [1, 2]


def test_an_import_leaves_nothing_behind(directory: Path, tmp_path: Path) -> None:
    os.utime(directory / "features.py", (1, 1))
    model = packed(directory, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    path = list(sys.path)
    model.function("features.py:build")
    assert sorted(tmp_path.rglob("*")) == before
    assert sys.path == path
    assert "features" not in sys.modules


def test_the_working_tree_is_not_imported(directory: Path, tmp_path: Path) -> None:
    (directory / "features.py").write_text("def build():\n    return 'packed'\n")
    model = unpack(packed(directory, tmp_path).ref, Storage())
    (directory / "features.py").write_text("def build():\n    return 'working tree'\n")
    assert model.function("features.py:build")() == "packed"


def test_a_traceback_shows_the_line_of_the_model(directory: Path, tmp_path: Path) -> None:
    (directory / "features.py").write_text("def build():\n    raise KeyError('weather')\n")
    with pytest.raises(KeyError) as raised:
        packed(directory, tmp_path).function("features.py:build")()
    assert "features.py" in str(raised.traceback[-1].path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("import nonsense_that_is_not_there", "ModuleNotFoundError"),
        ("def build(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("build = 3", r"no function build\(\)"),
        ("", r"no function build\(\)"),
    ],
)
def test_code_that_cannot_be_used_is_named(directory: Path, tmp_path: Path, content: str, expected: str) -> None:
    (directory / "features.py").write_text(content)
    with pytest.raises(ConfigError, match=rf"tiny: features.py .*{expected}"):
        packed(directory, tmp_path).function("features.py:build")


def test_a_file_that_is_not_there_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weather\.py in the model's directory"):
        packed(directory, tmp_path).function("weather.py:build")


def test_a_bad_configuration_is_not_packed(directory: Path, tmp_path: Path) -> None:
    write_model(tmp_path, training={"rounds": 0})
    with pytest.raises(ConfigError, match="training.rounds"):
        packed(directory, tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_what_a_function_is_made_of_are_its_file_and_what_that_imports(directory: Path, tmp_path: Path) -> None:
    (directory / "features.py").write_text("from .one import f\n")
    (directory / "one.py").write_text("def f():\n    from . import two\n")
    for name in ("two.py", "three.py", "train.py"):
        (directory / name).touch()
    assert packed(directory, tmp_path).imported("features.py:build") == ("features.py", "one.py", "two.py")


@pytest.mark.parametrize("source", ["import importlib\nimportlib.import_module('x')\n", "__import__('x')\n", "if\n"])
def test_where_imports_cannot_be_read_a_function_is_made_of_all_code(
    directory: Path, tmp_path: Path, source: str
) -> None:
    (directory / "features.py").write_text(source)
    (directory / "train.py").touch()
    (directory / "tests").mkdir()
    (directory / "tests" / "test_it.py").touch()
    assert {"features.py", "train.py"} <= set(packed(directory, tmp_path).imported("features.py:build"))
    assert "tests/test_it.py" not in packed(directory, tmp_path).imported("features.py:build")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_an_archive_knows_the_commits_that_it_was_packed_at(directory: Path, tmp_path: Path) -> None:
    ref = packed(directory, tmp_path).ref
    assert commits(ref, Storage()) == ()
    git(directory, "init", "-q", "--template=")
    git(directory, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "first")
    first = git(directory, "rev-parse", "HEAD")
    packed(directory, tmp_path)
    assert commits(ref, Storage()) == (f"{first}-changed",)
    git(directory, "add", ".")
    git(directory, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "second")
    assert packed(directory, tmp_path).ref == ref
    assert commits(ref, Storage()) == (git(directory, "rev-parse", "HEAD"), f"{first}-changed")


def test_the_commit_of_a_directory_that_was_taken_out_of_a_repository_can_be_told(
    directory: Path, tmp_path: Path
) -> None:
    found = pack(directory, "", Storage(), str(tmp_path / "artifacts"), commit="a" * 40)
    assert commits(found.ref, Storage()) == ("a" * 40,)
