"""The data repository: git and DVC as other tools see it, lost races, refusals."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import (
    AccessDenied,
    ConfigError,
    ConflictError,
    DataError,
    IntegrityError,
    RequestError,
    Transient,
)
from mlops_provider.steps.data import git as git_module
from mlops_provider.steps.data import repository as repository_module
from mlops_provider.steps.data.git import Git, checked, environment, is_remote_shell, session
from mlops_provider.steps.data.pointers import contents, parsed
from mlops_provider.steps.data.remote import Pointer, Remote
from mlops_provider.steps.data.repository import Repository

PATH = "tables/a.csv"


class Place:
    """A data repository of a test's own."""

    def __init__(self, root: Path) -> None:
        self.root, self.bare, self.remote = root, root / "repository.git", root / "dvc"
        subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(self.bare)], check=True)

    @property
    def repository(self) -> Repository:
        return Repository(str(self.bare), Remote(str(self.remote), {}), DvcAccess())

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.bare), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def add(self, text: str, path: str = PATH) -> tuple[str, str, Pointer]:
        file = self.root / "source"
        file.write_text(text)
        done = self.repository.add(file, path, "test")
        return done.rev, done.tag, done.pointer

    def found(self, **at: str) -> tuple[str, Pointer]:
        found = self.repository.find(PATH, **at)
        assert (found.path, found.remote.root) == (PATH, str(self.remote))
        return found.rev, found.pointer

    def object(self, md5: str) -> Path:
        return self.remote / "files" / "md5" / md5[:2] / md5[2:]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_version_is_a_commit_a_tag_and_an_object(place: Place) -> None:
    rev, tag, pointer = place.add("one")
    assert (place.git("rev-parse", tag), place.git("rev-parse", "main")) == (rev, rev)
    assert tag == f"tables/a/{pointer.md5[:12]}"
    assert place.object(pointer.md5).read_text() == "one"
    assert place.found(tag=tag) == place.found(rev=rev) == (rev, pointer)


@pytest.mark.parametrize(
    "known", ["", "[core]\n    analytics = false\n['remote \"theirs\"']\n    url = /müll    # old\n"]
)
def test_a_place_may_have_letters_of_any_language(tmp_path: Path, known: str) -> None:
    place = Place(tmp_path / "josé läp, #1")
    if known:
        _with_settings(place, known)
    _, tag, pointer = place.add("one")
    assert place.repository.find(PATH, tag=tag).pointer == pointer
    clone = place.root / "clone"
    subprocess.run(["git", "clone", "-q", str(place.bare), str(clone)], check=True)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["pull", "-q"], ["status", "-q", "-c"]):
        subprocess.run([*dvc, *command], cwd=clone, check=True)
    assert (clone / PATH).read_text() == "one"
    settings = (clone / ".dvc" / "config").read_text("utf-8")
    assert place.remote.as_posix() in settings
    assert known.replace("false\n", "false\n    remote = mlops\n") in settings


def _with_settings(place: Place, settings: str) -> None:
    work = place.root / "work"
    subprocess.run(["git", "clone", "-q", str(place.bare), str(work)], check=True, capture_output=True)
    (work / ".dvc").mkdir()
    (work / ".dvc" / "config").write_text(settings, "utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["add", "--all"], [*who, "commit", "-q", "-m", "theirs"], ["push", "-q", "origin", "HEAD:main"]):
        subprocess.run(["git", *command], cwd=work, check=True)


def test_every_version_is_found_by_tag_and_by_commit(place: Place) -> None:
    added = [place.add(text) for text in ("one", "two", "three")]
    for rev, tag, pointer in added:
        assert place.found(tag=tag) == place.found(rev=rev) == (rev, pointer)
    assert place.found(rev="main") == (added[-1][0], added[-1][2])


def test_only_what_a_version_is_about_is_checked_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        place.add(name, f"tables/{name}.csv")
    seen: list[set[str]] = []
    run = Git.__call__

    def looking(self: Git, *arguments: str, **given: object) -> str:
        if arguments[0] == "push":
            seen.append({path.name for path in (self.work / "tables").iterdir()})
            assert (self.work / ".git" / "shallow").exists()
        return run(self, *arguments, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Git, "__call__", looking)
    place.add("new", "tables/b.csv")
    assert seen == [{".gitignore", "b.csv", "b.csv.dvc"}]
    assert place.git("ls-tree", "--name-only", "main", "tables/").splitlines() == [
        "tables/.gitignore",
        "tables/a.csv.dvc",
        "tables/b.csv.dvc",
        "tables/c.csv.dvc",
    ]
    assert place.git("show", "main:tables/.gitignore").splitlines() == ["/a.csv", "/b.csv", "/c.csv"]


def test_nothing_is_left_on_the_worker(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add("one")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    from dvc import dirs

    site, sites = dirs.site_cache_dir, list[str]()  # where DVC keeps what it knows of a clone
    monkeypatch.setattr(dirs, "site_cache_dir", lambda given=None: (sites.append(str(given)), site(given))[1])
    place.add("two")
    assert list(scratch.iterdir()) == []
    assert sites
    assert all(Path(given).is_relative_to(scratch) for given in sites)


def test_the_branch_is_the_one_that_the_repository_has(place: Place) -> None:
    place.git("symbolic-ref", "HEAD", "refs/heads/trunk")
    place.add("one")
    place.add("two")
    assert place.git("rev-list", "--count", "trunk") == "2"
    assert place.git("branch", "--list", "main") == ""


def test_unchanged_content_with_a_damaged_object_is_mended(place: Place) -> None:
    first = place.add("one")
    damaged = place.object(first[2].md5)
    damaged.chmod(0o644)
    damaged.write_text("eno")
    assert place.add("one") == first
    assert damaged.read_text() == "one"


def test_unchanged_content_with_a_lost_object_is_mended(place: Place) -> None:
    first = place.add("one")
    place.object(first[2].md5).unlink()
    assert place.add("one") == first
    assert place.object(first[2].md5).read_text() == "one"


def test_an_object_that_was_there_damaged_is_not_taken_for_good(place: Place) -> None:
    md5 = place.add("one")[2].md5
    place.add("two")
    place.object(md5).chmod(0o644)
    place.object(md5).write_text("eno")
    place.add("one")
    assert place.object(md5).read_text() == "one"


def test_content_that_is_removed_while_its_pointer_travels_is_brought_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Git.__call__

    def removed(self: Git, *arguments: str, **given: object) -> str:
        if arguments[0] == "push":
            for file in place.remote.rglob("files/md5/??/*"):
                file.unlink()
        return run(self, *arguments, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Git, "__call__", removed)
    pointer = place.add("one")[2]
    assert place.object(pointer.md5).read_text() == "one"


def test_a_tag_that_a_person_removed_is_set_again(place: Place) -> None:
    rev, tag, _ = place.add("one")
    place.git("tag", "-d", tag)
    assert place.add("one")[:2] == (rev, tag)
    assert place.git("rev-parse", tag) == rev


def test_an_annotated_tag_stands_for_its_commit(place: Place) -> None:
    rev, tag, pointer = place.add("one")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    place.git(*identity, "tag", "--force", "--annotate", "-m", "signed off", tag, rev)
    assert place.add("one")[0] == rev
    assert place.found(tag=tag) == (rev, pointer)


def hook(place: Place, script: str) -> None:
    file = place.bare / "hooks" / "pre-receive"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_a_protected_branch_is_told_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "_refresh", lambda git: pytest.fail("it must not be tried again"))
    hook(place, "echo main is protected >&2; exit 1")
    with pytest.raises(AccessDenied, match="main is protected"):
        place.add("one")
    assert place.git("for-each-ref") == ""


def test_a_repository_that_goes_away_in_a_push_is_worth_a_retry(place: Place) -> None:
    hook(place, "kill -9 $PPID")
    with pytest.raises(Transient, match="git push failed"):
        place.add("one")
    assert place.git("for-each-ref") == ""
    hook(place, "exit 0")
    place.add("one")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"tag": "tables/a/ffffffffffff"}, "has no tag"),
        ({"rev": "f" * 40}, "has no commit"),
        ({"rev": "abc1234"}, "has no commit"),
    ],
)
def test_what_is_not_there_is_named(place: Place, wanted: dict[str, str], expected: str) -> None:
    place.add("one")
    with pytest.raises(DataError, match=f"{expected} '{next(iter(wanted.values()))}'"):
        place.repository.find(PATH, **wanted)


def test_a_pointer_that_is_not_there_is_named(place: Place) -> None:
    tag = place.add("one")[1]
    with pytest.raises(DataError, match=r"holds no pointer tables/b\.csv\.dvc"):
        place.repository.find("tables/b.csv", tag=tag)


@pytest.mark.parametrize("name", ["--upload-pack=touch x", "../x", "a b", "a:b", "$(id)", "-x", "x~1", "x^{/y}"])
def test_a_name_is_a_name_and_nothing_else(place: Place, name: str) -> None:
    for wanted in ({"tag": name}, {"rev": name}):
        with pytest.raises(RequestError, match="is no name"):
            place.repository.find(PATH, **wanted)
    with pytest.raises(RequestError, match="is no name"):
        place.repository.find(name, tag="v1")


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- path: a", "[1]", "outs:\n- {md5: a}\n- {md5: b}", "{"])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"x\.dvc is no DVC pointer"):
        parsed(text, "x.dvc")


def test_tags_are_removed_only_as_they_were_seen(place: Place) -> None:
    rev, tag, _ = place.add("one")
    with pytest.raises(ConflictError):
        place.repository.forget({tag: "1" * 40})
    assert place.git("rev-parse", tag) == rev
    place.repository.forget({tag: rev})
    assert place.git("tag") == ""


def test_a_bad_pointer_at_the_head_is_told_and_not_blamed_on_the_data(place: Place, by_hand: Path) -> None:
    (by_hand / "tables").mkdir()
    (by_hand / f"{PATH}.dvc").write_text("outs: []\n")
    published("a slip")
    with pytest.raises(IntegrityError, match=r"a\.csv\.dvc is no DVC pointer .* put the pointer right"):
        place.add("one")


def test_a_store_that_does_not_tell_times_takes_versions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise DataError("does not tell")

    monkeypatch.setattr(Remote, "written", unknown)
    assert place.add("one") == place.add("one")


@pytest.mark.parametrize(
    ("kept", "path"), [("tables/a.csv", PATH), ("tables", PATH), ("tables/a/note.txt", "tables/a")]
)
def test_a_place_where_git_itself_has_a_file_is_refused(place: Place, tmp_path: Path, kept: str, path: str) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(place.bare), str(clone)], check=True, capture_output=True)
    (clone / kept).parent.mkdir(parents=True, exist_ok=True)
    (clone / kept).write_text("plain")
    for command in (["add", "."], ["commit", "-qm", "plain"], ["push", "-q", "origin", "HEAD:main"]):
        subprocess.run(["git", "-C", str(clone), "-c", "user.name=p", "-c", "user.email=p@q", *command], check=True)
    with pytest.raises(ConfigError, match=rf"git itself holds {kept} there"):
        place.add("one", path)
    assert not place.remote.exists()


def test_what_dvc_does_not_take_is_no_trouble_of_the_machine(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "folder"
    source.mkdir()
    (source / "x.dvc").write_text("outs: []\n")
    with pytest.raises(DataError, match=r"dvc add failed for tables/x: .*is within an output"):
        place.repository.add(source, "tables/x", "test")


def test_a_machine_that_fails_below_dvc_is_worth_a_retry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise DvcException("failed to write") from error

    monkeypatch.setattr(Repo, "add", full)
    with pytest.raises(Transient, match=r"dvc add failed for tables/a\.csv: failed to write"):
        place.add("one")


def test_files_that_dvc_would_leave_out_are_told(tmp_path: Path) -> None:
    """A listing that lacks a file would make a version without it."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "a").write_text("a")
    (content / "b").write_text("b")
    listing = [{"md5": hashlib.md5(b"a").hexdigest(), "relpath": "a"}]
    pointer = Pointer(md5=f"{hashlib.md5(json.dumps(listing).encode()).hexdigest()}.dir")
    with pytest.raises(IntegrityError, match=r"DVC lists other files of the folder than there are.*dvcignore"):
        contents(pointer, content, tmp_path / "listing")
    (content / "b").unlink()
    assert [md5 for _, md5 in contents(pointer, content, tmp_path / "listing")] == [listing[0]["md5"], pointer.md5]


# Addresses and credentials


@pytest.mark.parametrize(
    "url", ["s3://bucket/repository.git", "ext::sh -c id", "-oProxyCommand=id", "--upload-pack=id", "ftp://host/x"]
)
def test_what_git_must_not_be_given_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a path"):
        checked(url, DvcAccess())


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        checked("https://user:hush@git.example.com/data.git", DvcAccess())
    assert "hush" not in str(caught.value)


def test_a_password_does_not_travel_in_the_clear() -> None:
    access = DvcAccess(username="u", password="hush")
    with pytest.raises(ConfigError, match="use https"):
        checked("http://git.example.com/data.git", access)
    assert checked("http://127.0.0.1:80/data.git", access)
    assert checked("https://git.example.com/data.git", access)


def test_gits_short_form_for_ssh_is_known() -> None:
    assert [is_remote_shell(url) for url in ("git@host:org/data.git", "data/repository.git", "ssh://git@host/x")] == [
        True,
        False,
        False,
    ]


def test_credentials_are_private_files_and_gone_afterwards() -> None:
    access = DvcAccess(username="ann", password="hush", private_key="KEY", known_hosts="host key")
    with session("https://git.example.com/data.git", access) as git:
        folder = git.work.parent / "git"
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert modes == {"username": 0o600, "password": 0o600, "askpass": 0o700, "key": 0o600, "known_hosts": 0o600}
        environ = environment(git._extra)
        assert not any("hush" in value or "KEY" in value for value in environ.values())
        for question, answer in (("Username for 'https://x':", "ann"), ("Password for 'https://x':", "hush")):
            said = subprocess.run([environ["GIT_ASKPASS"], question], capture_output=True, text=True, check=True)
            assert said.stdout == answer
        ssh = environ["GIT_SSH_COMMAND"]
        assert "StrictHostKeyChecking=yes" in ssh
        assert "BatchMode=yes" in ssh
    assert not folder.exists()


def test_credentials_do_not_show() -> None:
    access = DvcAccess(password="hush", private_key="hush", storage_options={"s3": {"secret": "hush"}})
    assert "hush" not in repr(access) + str(access)
    with session("/nowhere", access) as git:
        assert "hush" not in str(git.error("push", "fatal: hush"))


def test_git_that_does_not_answer_is_worth_a_retry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: object, **given: object) -> None:
        raise subprocess.TimeoutExpired("git", 20)

    monkeypatch.setattr(git_module.subprocess, "run", late)
    with pytest.raises(Transient, match="did not answer within 20 s"):
        place.repository.probe()


def test_git_never_asks_and_gets_nothing_of_the_workers_that_it_does_not_need(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "GIT_DIR": str(place.bare),
        "AIRFLOW__CORE__FERNET_KEY": "hush",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "DISPLAY": ":0",
    }
    for name, value in {**given, "https_proxy": "http://proxy", "GIT_CONFIG_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    seen = dict(line.split("=", 1) for line in _environment_of_git(place).splitlines())
    assert set(given).isdisjoint(seen)
    assert (seen["GIT_TERMINAL_PROMPT"], seen["https_proxy"], seen["GIT_CONFIG_COUNT"]) == ("0", "http://proxy", "0")
    assert "BatchMode=yes" in seen["GIT_SSH_COMMAND"]


def _environment_of_git(place: Place) -> str:
    """What a program sees that git starts."""
    with session(str(place.bare), DvcAccess()) as git:
        return git("-c", "alias.seen=!env", "seen")


def test_the_ssh_of_the_workers_own_git_configuration_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[core]\n\tsshCommand = ssh -F /etc/mine\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    assert environment({})["GIT_SSH_COMMAND"].startswith("ssh -F /etc/mine -o BatchMode=yes")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -v")
    assert environment({})["GIT_SSH_COMMAND"].startswith("ssh -v -o BatchMode=yes")
    monkeypatch.delenv("GIT_SSH_COMMAND")
    monkeypatch.setenv("GIT_SSH", "/opt/plink")
    assert "GIT_SSH_COMMAND" not in environment({})


def test_without_git_it_is_said_what_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="git is not installed here, and the data repository .* is reached with it"):
        place.repository.probe()


# The other way round: what plain dvc and git write


@pytest.fixture
def by_hand(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which a person works with dvc and git."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(place.bare), str(clone)], check=True, capture_output=True)
    monkeypatch.chdir(clone)
    dvc("init", "-q")
    dvc("remote", "add", "-q", "--local", "-d", "mine", str(place.remote))
    return clone


def dvc(*arguments: str) -> None:
    from dvc.cli import main

    assert main(list(arguments)) == 0


def published(message: str) -> None:
    dvc("push", "-q")
    for command in (["add", "--all"], ["commit", "-q", "-m", message], ["push", "-q", "origin", "HEAD:main"]):
        subprocess.run(["git", "-c", "user.name=p", "-c", "user.email=p@q", *command], check=True)


def test_a_file_that_plain_dvc_wrote_is_read(place: Place, by_hand: Path, tmp_path: Path) -> None:
    (by_hand / "hand.csv").write_text("by hand")
    dvc("add", "-q", "hand.csv")
    published("by hand")
    pointer = place.repository.find("hand.csv", rev=place.git("rev-parse", "main")).pointer
    place.repository.remote.fetch(pointer, tmp_path / "got", "hand.csv")
    assert (tmp_path / "got").read_text() == "by hand"


def test_a_folder_that_plain_dvc_wrote_is_read(place: Place, by_hand: Path, tmp_path: Path) -> None:
    (by_hand / "folder" / "deep").mkdir(parents=True)
    (by_hand / "folder" / "one").write_text("1")
    (by_hand / "folder" / "deep" / "two").write_text("2")
    dvc("add", "-q", "folder")
    published("by hand")
    pointer = place.repository.find("folder", rev=place.git("rev-parse", "main")).pointer
    assert (pointer.folder, pointer.files) == (True, 2)
    place.repository.remote.fetch(pointer, tmp_path / "got", "folder")
    assert {p.name: p.read_text() for p in (tmp_path / "got").rglob("*") if p.is_file()} == {"one": "1", "two": "2"}
    named = place.repository.refs().named
    assert {pointer.md5, *place.repository.remote.members(pointer.md5)} <= named


def test_a_file_that_an_older_dvc_wrote_is_read(place: Place, tmp_path: Path) -> None:
    """DVC 2 names no hash function in its pointers, and its content lies at the top of the remote."""
    md5 = hashlib.md5(b"of old").hexdigest()
    pointer = parsed(f"outs:\n- md5: {md5}\n  size: 6\n  path: old.csv\n", "old.csv.dvc")
    file = place.remote / md5[:2] / md5[2:]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of old")
    place.repository.remote.fetch(pointer, tmp_path / "got", "old.csv")
    assert (tmp_path / "got").read_bytes() == b"of old"


def test_ours_and_theirs_live_in_one_repository(place: Place, by_hand: Path) -> None:
    (by_hand / "hand.csv").write_text("by hand")
    dvc("add", "-q", "hand.csv")
    published("by hand")
    place.add("ours")
    subprocess.run(["git", "pull", "-q", "origin", "main"], check=True)
    dvc("pull", "-q")
    assert (by_hand / PATH).read_text() == "ours"
    (by_hand / PATH).unlink()
    (by_hand / PATH).write_text("theirs")
    dvc("add", "-q", PATH)
    published("theirs")
    assert place.add("theirs")[0] == place.git("rev-parse", "main")
    assert place.git("rev-list", "--count", "main") == "3"


def test_dvc_finds_nothing_to_say_about_what_we_wrote(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    for name in "ab":
        place.add(name, f"tables/{name}.csv")
    subprocess.run(["git", "clone", "-q", str(place.bare), str(tmp_path / "clone")], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    dvc("pull", "-q")  # without any setting: the repository names its remote
    with Repo(str(tmp_path / "clone")) as repo:
        assert repo.status() == {}
        assert repo.status(cloud=True) == {}
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == b""
