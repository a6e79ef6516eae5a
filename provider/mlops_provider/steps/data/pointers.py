"""What DVC keeps in the data repository: its settings, pointers, and the listings of folders."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import yaml

from mlops_provider.exceptions import DataError, IntegrityError, Transient
from mlops_provider.steps.data.remote import Pointer, Remote, hash_of
from mlops_provider.steps.data.remotes import leads_to

_REMOTE = "mlops"


def parsed(text: str, where: str) -> Pointer:
    """The pointer in a .dvc file.

    :raises DataError: if it names no content by md5.
    """
    try:
        (out,) = yaml.safe_load(text)["outs"]
        known = {"md5": out["md5"], "size": out.get("size"), "hash": out.get("hash", "")}
        return Pointer(**known, files=out.get("nfiles", 1))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is no DVC pointer to one file or folder by md5 ({error})") from error


def target(text: str) -> tuple[str, str]:
    """What a good pointer leads to: the md5, and the remote that it names; empty for the default one."""
    (out,) = yaml.safe_load(text)["outs"]
    return out["md5"], out.get("remote", "")


def remotes_of(text: str, md5: str) -> set[str]:
    """The remotes that a file of DVC names for some content; empty text stands for the default one."""
    try:
        outs = yaml.safe_load(text)["outs"]
        return {str(out.get("remote", "")) for out in outs if out.get("md5") == md5} or {""}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):  # the lock of a pipeline names none
        return {""}


def addressed(text: str, remote: str) -> str:
    """The pointer as DVC wrote it, with the name of the remote that holds the content if it is not the default one."""
    if not remote:
        return text
    content = yaml.safe_load(text)
    content["outs"][0]["remote"] = remote
    return yaml.safe_dump(content, sort_keys=False)


def initialize(work: Path, remote: Remote) -> None:
    """Makes the clone a DVC repository whose default remote is ours, credentials aside; the first push brings that along."""
    from dvc.repo import Repo

    _hush()
    Repo.init(str(work)).close()
    _set(work, _REMOTE, remote, {"analytics": False, "autostage": False, "remote": _REMOTE})


def introduced(work: Path, remote: Remote) -> str:
    """The name by which a pointer has to call our remote so that plain DVC finds the content; empty for the default one.

    A repository that does not know our remote gets it beside its own, credentials aside; its default stays.

    :raises IntegrityError: if its settings cannot be read.
    """
    from dvc.config import Config, ConfigError

    try:
        config = Config(str(work / ".dvc"), validate=False)
        known = config.load_one("repo")
        default, others = known.get("core", {}).get("remote", ""), known.get("remote", {})
        names = [name for name in sorted(others, key=lambda n: n != default) if leads_to(others[name], remote.for_dvc)]
        if names:
            return "" if names[0] == default else names[0]
        name = next(n for n in (_REMOTE, *(f"{_REMOTE}-{i}" for i in range(2, len(others) + 3))) if n not in others)
        _set(work, name, remote, {} if default else {"remote": name})
        config.load()
    except ConfigError as error:
        raise IntegrityError(f".dvc/config in the data repository is not as DVC wants it: {error}") from error
    return name if default else ""


def _set(work: Path, name: str, remote: Remote, core: dict[str, Any]) -> None:
    """Adds a remote to DVC's settings, which DVC itself cannot write once a path in them is not ASCII, though it reads them."""
    from configobj import ConfigObj

    settings = ConfigObj(str(work / ".dvc" / "config"), encoding="utf-8", interpolation=False)
    settings.setdefault("core", {}).update(core)
    settings[f'remote "{name}"'] = remote.for_dvc
    settings.write()


def added(work: Path, source: Path, path: str) -> tuple[Pointer, str]:
    """The pointer as DVC writes it. Nothing is copied into a cache: the remote gets the files themselves.

    :raises DataError: if DVC does not take it; `Transient` if it could not, for instance for lack of room.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    _hush()
    content, pointer = work / path, work / f"{path}.dvc"
    content.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, content)
    settings: dict[str, Any] = {"core": {"site_cache_dir": str(work.parent / "site"), "autostage": False}}
    try:
        with Repo(str(work), config=settings) as repo:
            repo.add(str(content), no_commit=True)
    except (DvcException, sqlite3.Error) as error:
        told = f"dvc add failed for {path}: {str(error).strip()}"
        raise (Transient if _may_pass(error) else DataError)(told) from error
    text = pointer.read_text()
    return parsed(text, path), text


def _may_pass(error: BaseException | None) -> bool:
    """Whether it was the machine that failed, here or below in the chain of causes, and not what was asked for."""
    while error is not None:
        if isinstance(error, OSError | sqlite3.Error):
            return True
        error = error.__cause__ or error.__context__
    return False


def contents(pointer: Pointer, content: Path, listing: Path) -> list[tuple[Path, str]]:
    """All that the remote must hold for a pointer, with its md5: the file, or the files of a folder and then their listing.

    :param listing: where to write the listing of a folder, as DVC writes it.
    :raises IntegrityError: if the folder's listing is not the one that the pointer names.
    """
    if not pointer.folder:
        return [(content, pointer.md5)]
    files = {path.relative_to(content).as_posix(): path for path in content.rglob("*") if path.is_file()}
    found = [(path, _md5(path), name) for name, path in sorted(files.items())]
    listing.write_text(json.dumps([{"md5": md5, "relpath": name} for _, md5, name in found]))
    if f"{_md5(listing)}.dir" != pointer.md5:
        raise IntegrityError(
            f"{content.name}: DVC lists other files of the folder than there are; does a .dvcignore leave some out?"
        )
    return [*((path, md5) for path, md5, _ in found), (listing, pointer.md5)]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hash_of(file)


def _hush() -> None:
    """DVC's hints ("to track the changes with git, run...") are for people at a terminal; here git follows by itself."""
    logging.getLogger("dvc").setLevel(logging.WARNING)
