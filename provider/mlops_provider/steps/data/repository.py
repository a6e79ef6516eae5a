"""The data repository: pointers in git, content in a DVC remote. Content first, pointer last.

Nothing stands on the worker: each call makes a shallow clone with the one pointer that it is about in a temporary folder. Git's
own compare-and-set, the push that must fast-forward, decides between writers; who came second goes on from what is there.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlops_provider.checks import Frozen
from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import ConfigError, ConflictError, DataError, IntegrityError, RequestError
from mlops_provider.steps.data import pointers, remotes
from mlops_provider.steps.data.git import Git, is_remote_shell, session
from mlops_provider.steps.data.remote import Pointer, Remote
from mlops_provider.steps.records import DataVersion
from mlops_provider.steps.step import Job

log = logging.getLogger("mlops_provider")

_ATTEMPTS = 25
_PROBE_SECONDS = 20
_YOUNG = dt.timedelta(minutes=10)
_VERSION_TAG = re.compile(r"^.+/[^/]+/([0-9a-f]{12})$")
_TABLE = re.compile(r"\.(parquet|csv)$")
# What follows the stem of a version's tag in its path; a folder has nothing there.
FORMS = (".parquet", ".csv", "")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./@+=-]*")


class Stored(Frozen):
    """Where a version is: commit, tag, and the pointer to its content."""

    rev: str
    tag: str
    pointer: Pointer


class Found(NamedTuple):
    """A pointer in the repository: its path, without ``.dvc``, its commit, and the remote that holds the content."""

    path: str
    rev: str
    pointer: Pointer
    remote: Remote


class Refs(Frozen):
    """What git names.

    :param tags: commit by tag.
    :param named: md5s that a branch or a tag of a person names, and the files of every folder that any ref names.
    :param versions: first 12 digits of the md5 by version tag.
    """

    tags: dict[str, str]
    named: frozenset[str]
    versions: dict[str, str]


class Repository:
    """One git repository with one DVC remote."""

    def __init__(self, url: str, remote: Remote, access: DvcAccess) -> None:
        self.url, self.remote, self.access = url, remote, access

    def probe(self, *, write: bool = False) -> None:
        """Sees within seconds whether both places let us in, before any work is done.

        :param write: also whether git would take a push, by one that sends nothing. A hook or a protected branch may still
            refuse the real one.
        :raises AccessDenied: if one does not; `Transient` if it does not answer.
        """
        with session(self.url, self.access) as git:
            git("ls-remote", "--quiet", git.url, "HEAD", timeout=_PROBE_SECONDS)
            if write:
                git("init", "--quiet", "--bare")
                commit = git("commit-tree", git("hash-object", "-w", "-t", "tree", "/dev/null"), "-m", "probe")
                git("push", "--quiet", "--dry-run", git.url, f"{commit}:refs/heads/probe", timeout=_PROBE_SECONDS)
        self.remote.probe()

    def add(self, source: Path, path: str, message: str) -> Stored:
        """Makes a version of a file or a folder, which is moved from where it is. Unchanged content keeps its version.

        :param path: its place in the repository.
        :raises ConfigError: if the path lies in a folder that is a version itself, holds other versions, or is a file of git.
        :raises Transient: if git or the remote fails; `ConflictError` if other writers were first too often.
        """
        with session(self.url, self.access) as git:
            _clone(git, path, self.remote)
            _require_room(git, path)
            before = _pointer_in(git.work, path)
            pointer, text = pointers.added(git.work, source, path)
            content = pointers.contents(pointer, git.work / path, git.work.parent / "listing")
            tag = f"{_TABLE.sub('', path)}/{pointer.md5[:12]}"
            known = before == pointer and bool(_tagged(git, tag))
            for file, md5 in content:
                self._bring(file, md5, known=known)
            say = f"{message}: {pointer.md5}"
            rev = _raced(lambda: self._point(git, path, text, tag, say), lambda: _refresh(git))
            for file, md5 in content:
                if self.remote.size(md5) != file.stat().st_size:  # removed as garbage while the pointer was on its way
                    self.remote.put(file, md5)
            return Stored(rev=rev, tag=tag, pointer=pointer)

    def find(self, *paths: str, tag: str = "", rev: str = "") -> Found:
        """The pointer at one of these paths at a tag or a commit, and the remote that holds its content.

        That is ours if the content is there, whatever the commit says: it may name a place that was given up since.

        :param paths: if there are several, the one whose content the tag of a version names.
        :raises DataError: if there is no such tag or commit, or no pointer there.
        :raises ConfigError: if it cannot be told which remote holds the content.
        """
        for name in (*paths, tag, rev):
            if name and (not _NAME.fullmatch(name) or ".." in name):
                raise RequestError(f"{name!r} is no name of a path, a tag or a commit in the data repository")
        with session(self.url, self.access) as git:
            git("init", "--quiet", "--bare")
            commit = _fetched(git, tag, rev)
            path, text, pointer = _pointer_at(git, commit, paths, tag, tag or rev)
            if self.remote.holds(pointer):
                return Found(path, commit, pointer, self.remote)
            (name,) = pointers.remotes_of(text, pointer.md5)
            where = f"{path} at {tag or rev}"
            return Found(path, commit, pointer, remotes.named(_settings_at(git, commit), name, self.remote, where))

    def holder(self, version: DataVersion, pointer: Pointer) -> Remote:
        """The remote that holds a version: ours, or the one that was ours when it was made."""
        return remotes.recorded(version.uri, pointer, self.remote, version.tag)

    def refs(self) -> Refs:
        """All that branches and tags name, as of now.

        :raises DataError: if a folder's listing is lost, so that it cannot be told which files it names.
        """
        with session(self.url, self.access) as git:
            git("init", "--quiet", "--bare")
            if not git("ls-remote", "--quiet", git.url):  # of an empty repository git has nothing to fetch, and fails
                return Refs(tags={}, named=frozenset(), versions={})
            git("fetch", "--quiet", "--depth", "1", git.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            lines = git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
            every = dict(line.split(" ", 1) for line in lines)
            tags = {ref.removeprefix("refs/tags/"): sha for ref, sha in every.items() if ref.startswith("refs/tags/")}
            versions = {tag: found[1] for tag in tags if (found := _VERSION_TAG.match(tag))}
            said = {ref: frozenset(_named_at(git, ref)) for ref in every}
            pinned = [ref for ref in every if ref.removeprefix("refs/tags/") not in versions]
            named = frozenset().union(*(said[ref] for ref in pinned))
            return Refs(tags=tags, named=named | self._members(git, said), versions=versions)

    def _members(self, git: Git, said: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """The files of all folders that any ref names, as far as they lie in our remote.

        :param said: md5s by the ref that names them.
        """
        folders = {md5 for named in said.values() for md5 in named if md5.endswith(".dir")}
        ours = {folder for folder in folders if self.remote.lists(folder)}
        for ref, named in said.items():
            if lost := sorted(named & (folders - ours)):
                self._require_elsewhere(git, ref, lost)
        return frozenset(md5 for folder in ours for md5 in self.remote.members(folder))

    def _require_elsewhere(self, git: Git, ref: str, folders: list[str]) -> None:
        """Folders that other remotes hold need nothing of ours; if one should be in ours, its listing is lost.

        :raises DataError: if one may be ours.
        """
        known = _settings_at(git, ref)
        for folder, file in [(lost, file) for lost in folders for file in _naming(git, ref, lost)]:
            names = pointers.remotes_of(git("show", file), folder)
            if any(remotes.may_be_ours(known, name, self.remote) for name in names):
                raise DataError(
                    f"{self.remote.uri(folder)}, the listing of a folder that {file} names, is missing in the DVC remote: what "
                    "the folder needs cannot be told. Bring it back (dvc push), or remove the branch or tag that names it"
                )

    def forget(self, tags: Mapping[str, str]) -> None:
        """Removes tags, if they still name these commits: all of them or none.

        :raises ConflictError: if one was set anew in the meantime.
        """
        if not tags:
            return
        with session(self.url, self.access) as git:
            git("init", "--quiet", "--bare")
            leases = [f"--force-with-lease=refs/tags/{tag}:{sha}" for tag, sha in tags.items()]
            git("push", "--quiet", "--atomic", *leases, git.url, *(f":refs/tags/{tag}" for tag in tags))

    def _point(self, git: Git, path: str, text: str, tag: str, message: str) -> str:
        """Commits and pushes pointer and tag in one; returns the commit of the version, the old one if nothing is new."""
        _require_room(git, path)
        file = git.work / f"{path}.dvc"
        before = _pointer_in(git.work, path)
        text = pointers.addressed(text, pointers.introduced(git.work, self.remote))
        if before is None or pointers.target(file.read_text()) != pointers.target(text) or not _committed(git, path):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            _ignore(file.parent / ".gitignore", f"/{Path(path).name}")
            git("add", "--all")
            git("commit", "--quiet", "--allow-empty", "-m", message)
        elif known := _tagged(git, tag):
            return known
        branch = git("symbolic-ref", "--short", "HEAD")
        git("tag", "--force", tag)
        git("push", "--quiet", "--atomic", git.url, f"HEAD:refs/heads/{branch}", f"+refs/tags/{tag}:refs/tags/{tag}")
        return git("rev-parse", "HEAD")

    def _bring(self, content: Path, md5: str, *, known: bool) -> None:
        """Content that nothing names yet is written anew even if it is there, so that it is too young to be garbage."""
        if not ((known or self._young(md5)) and self.remote.intact(md5, content.stat().st_size)):
            self.remote.put(content, md5)

    def _young(self, md5: str) -> bool:
        """Whether a writer brought it a moment ago, for instance one that was then killed."""
        try:
            written = self.remote.written(md5)
        except DataError:  # the store does not tell: nothing is saved, and nothing lost
            return False
        return written is not None and dt.datetime.now(dt.UTC) - written < _YOUNG


def repository(job: Job) -> Repository:
    """The data repository of a model: model.yaml's places, or those of the connection, with its credentials."""
    place, access, dvc = job.deployment, job.deployment.dvc, job.config.data.dvc
    url = access.repository or dvc.repository
    remote = place.source(access.remote or dvc.remote)
    options = access.storage_options or place.storage_options
    return Repository(url if is_remote_shell(url) else place.source(url), Remote(remote, options), access)


def _clone(git: Git, path: str, remote: Remote) -> None:
    """The head of the repository, and of its files only what concerns this path."""
    git("clone", "--quiet", "--depth", "1", "--no-tags", "--no-checkout", git.url, ".")
    folder = path.rpartition("/")[0]
    wanted = ["/.dvc/", "/.dvcignore", "/.gitignore", f"/{path}.dvc", f"/{folder}/.gitignore"]
    git("sparse-checkout", "set", "--no-cone", *wanted)
    if _born(git):
        git("checkout", "--quiet")
    if not (git.work / ".dvc").exists():
        pointers.initialize(git.work, remote)


def _born(git: Git) -> bool:
    return git.tried("rev-parse", "--verify", "--quiet", "HEAD").returncode == 0


def _pointer_in(work: Path, path: str) -> Pointer | None:
    """The pointer at the head, if there is one. A bad one says nothing about the data that is to be versioned.

    :raises IntegrityError: if it is no pointer to one file or folder.
    """
    file = work / f"{path}.dvc"
    try:
        return pointers.parsed(file.read_text(), file.name) if file.exists() else None
    except DataError as error:
        raise IntegrityError(f"{error}; put the pointer right in the data repository, or remove it") from error


def _tagged(git: Git, tag: str) -> str:
    """The commit of a tag in the repository; empty if there is none."""
    lines = git("ls-remote", git.url, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}").splitlines()
    return lines[-1].split()[0] if lines else ""


def _require_room(git: Git, path: str) -> None:
    """DVC takes no output inside of another, and none where git itself has files.

    :raises ConfigError: naming what is in the way.
    """
    if not _born(git):
        return
    every = git("ls-tree", "-r", "--name-only", "HEAD").splitlines()
    others = [name.removesuffix(".dvc") for name in every if name.endswith(".dvc")]
    if clash := next((o for o in others if o.startswith(f"{path}/") or path.startswith(f"{o}/")), None):
        raise ConfigError(
            f"{path} cannot be versioned in {git.url}: {clash} is a version there, and one may not lie in the other; "
            "give the data set another name"
        )
    if clash := next((n for n in every if f"{n}/".startswith(f"{path}/") or path.startswith(f"{n}/")), None):
        raise ConfigError(
            f"{path} cannot be versioned in {git.url}: git itself holds {clash} there; give the data set another name, or "
            f"stop that (git rm -r --cached {clash}, commit, push)"
        )


def _committed(git: Git, path: str) -> bool:
    """Whether the pointer is at the head as it is in the folder."""
    return _born(git) and not git("status", "--porcelain", "--", f"{path}.dvc")


def _ignore(file: Path, line: str) -> None:
    lines = file.read_text().splitlines() if file.exists() else []
    if line not in lines:
        file.write_text("\n".join([*lines, line]) + "\n")


def _refresh(git: Git) -> None:
    """Takes over what the writer who was first has pushed; our commit is made anew on top of it."""
    git("fetch", "--quiet", "--depth", "1", "--no-tags", git.url, "HEAD")
    git("reset", "--quiet", "--hard", "FETCH_HEAD")


def _raced(attempt: Callable[[], str], refresh: Callable[[], None]) -> str:
    for number in range(_ATTEMPTS):
        try:
            return attempt()
        except ConflictError as error:
            log.info("another writer was first, trying again: %s", error)
            # Spread out, so that many writers do not meet again and again.
            time.sleep(random.uniform(0, min(3.0, 0.1 * 2**number)))
            refresh()
    raise ConflictError(f"other writers were first {_ATTEMPTS} times in a row")


def _fetched(git: Git, tag: str, rev: str) -> str:
    """Fetches one commit and nothing before it, where the server allows that."""
    wanted = f"refs/tags/{tag}" if tag else rev
    done = git.tried("fetch", "--quiet", "--depth", "1", "--no-tags", git.url, wanted)
    if not done.returncode:
        return git("rev-parse", "FETCH_HEAD^{commit}")
    if "couldn't find remote ref" in done.stderr:
        raise DataError(
            f"{git.url} has no tag {tag!r}" if tag else f"{git.url} has no commit {rev!r}; give all its digits"
        )
    if not any(words in done.stderr for words in ("not our ref", "unadvertised object", "upload-pack")):
        raise git.error("fetch", done.stderr)
    git("fetch", "--quiet", git.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    if git.tried("cat-file", "-e", f"{rev}^{{commit}}").returncode:
        raise DataError(f"{git.url} has no commit {rev!r}")
    return rev


def _pointer_at(git: Git, commit: str, paths: tuple[str, ...], tag: str, where: str) -> tuple[str, str, Pointer]:
    """Path, text and content of the one pointer that is meant."""
    shown = {path: git.tried("show", f"{commit}:{path}.dvc") for path in paths}
    texts = {path: done.stdout for path, done in shown.items() if not done.returncode}
    found = [(path, text, pointers.parsed(text, f"{path}.dvc at {where}")) for path, text in texts.items()]
    if len(paths) > 1 and (digits := _VERSION_TAG.match(tag)):
        found = [one for one in found if one[2].md5.startswith(digits[1])]
    if len(found) > 1:
        raise RequestError(f"{git.url} at {where} holds {' and '.join(one[0] for one in found)}: give the path of one")
    if not found:
        raise DataError(f"{git.url} at {where} holds no pointer {' or '.join(f'{path}.dvc' for path in paths)}")
    return found[0]


def _settings_at(git: Git, ref: str) -> dict[str, Any]:
    """What .dvc/config says at a commit; nothing if there is none."""
    shown = git.tried("show", f"{ref}:.dvc/config")
    return remotes.settings("" if shown.returncode else shown.stdout, f".dvc/config at {ref}")


def _naming(git: Git, ref: str, md5: str) -> list[str]:
    """The pointers and locks that name some content, each with the ref before it."""
    return git("grep", "-l", "-z", "-F", md5, ref, "--", "*.dvc", "*dvc.lock").rstrip("\0").split("\0")


def _named_at(git: Git, ref: str) -> list[str]:
    """Everything at a ref's pointers that looks like a hash: rather too much is kept than too little."""
    found = git.tried("grep", "-h", "-o", "-E", r"[0-9a-f]{32}(\.dir)?", ref, "--", "*.dvc", "*dvc.lock")
    if found.returncode > 1:
        raise git.error("grep", found.stderr)
    return found.stdout.split()
