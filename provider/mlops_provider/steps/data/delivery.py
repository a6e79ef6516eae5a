"""Verified content put in place: a file, or a folder that then holds these files and no others.

A list of the files that a checkout put into a folder lies beside it, as ``.<folder>.mlops-checkout.json``. By it the next checkout
knows which files it may remove. What nobody knows of is never removed: such a target is refused.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlops_provider.exceptions import AccessDenied, DataError, RequestError, Transient
from mlops_provider.steps.data.remote import hash_of
from mlops_provider.storage import Storage, canonical_json, file_hash, join

log = logging.getLogger("mlops_provider")

_LIST = ".mlops-checkout.json"
_SCRATCH = ".mlops-"
# What a kill may leave of a copy that was not in place yet: a folder as `tempfile` names it, with the copy in it.
_LEFT_OVER = re.compile(rf"(^|/){re.escape(_SCRATCH)}[a-z0-9_]{{8}}/file$")

Put = dict[str, list[str]]
"""md5s by the name of the file: more than one while a checkout is at work."""


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Errors of the place that is written to, in our words: another place is needed, or another try."""
    told = f"nothing can be put at {target}"
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise RequestError(
            f"{told}: a file is where a folder is needed, or a folder where a file is ({error})"
        ) from error
    except PermissionError as error:
        raise AccessDenied(f"{told}: {error}. Let this user write there.") from error
    except OSError as error:
        raise Transient(f"{told}: {error}") from error


def require_file(storage: Storage, target: str, given: str) -> None:
    """:raises RequestError: if a file cannot lie there, or somebody who gave the target so means a folder."""
    if given.endswith("/") or (storage.is_local(target) and Path(storage.filesystem(target)[1]).is_dir()):
        raise RequestError(f"the target {given} is a folder, and the version is a file: name the file to write in it")


def file(storage: Storage, content: Path, target: str) -> None:
    """Puts a file in place, whole; the same file stays untouched."""
    if _same(storage, content, target):
        return
    if storage.is_local(target):
        _replace(content, Path(storage.filesystem(target)[1]))
    else:
        storage.upload(content, target)


def folder(storage: Storage, content: Path, files: Mapping[str, str], target: str) -> None:
    """Makes a folder hold exactly these files. Files of these names are replaced, those of an earlier checkout removed.

    A kill leaves files of both; a checkout again finishes.

    :param files: md5 by name below `content`.
    :raises RequestError: if there are files that no checkout put there, or that were changed since.
    """
    there, before = _there(storage, target), _known(storage, target)
    extra = sorted(there - files.keys())
    for name in extra:
        if not _LEFT_OVER.search(name):
            _require_ours(storage, target, name, before.get(name, []))
    both = {name: before.get(name, []) for name in extra}
    both |= {name: [*before.get(name, []), md5] for name, md5 in files.items()}
    _remember(storage, target, both)
    for name in extra:  # first, as one may be a file where a folder is needed now
        _remove(storage, target, name)
    for name in files:
        file(storage, content / name, join(target, name))
    _remember(storage, target, {name: [md5] for name, md5 in files.items()})


def _there(storage: Storage, target: str) -> set[str]:
    """Names of all files in a folder, hidden ones and links too.

    :raises RequestError: if it is a file.
    """
    fs, path = storage.filesystem(target)
    if fs.isfile(path):
        raise RequestError(f"the target {target} is a file, and the version is a folder: name a folder to write")
    if storage.is_local(target):
        found = [one for one in Path(path).rglob("*") if one.is_symlink() or not one.is_dir()]
        return {one.relative_to(path).as_posix() for one in found}
    root = path.rstrip("/") + "/"
    return {str(one).removeprefix(root) for one in fs.find(path) if not str(one).endswith("/")}


def _require_ours(storage: Storage, target: str, name: str, known: list[str]) -> None:
    """:raises RequestError: if it may not be removed."""
    if not known:
        why = "no checkout put there"
    elif _md5(storage, join(target, name)) not in known:
        why = "was changed since a checkout put it there"
    else:
        return
    raise RequestError(
        f"{target} holds {name}, which is not of this version, and which {why}: it is not removed. "
        "Name an empty folder, or move the file away"
    )


def _md5(storage: Storage, uri: str) -> str:
    with storage.open(uri) as opened:
        return hash_of(opened)


def _list_of(storage: Storage, target: str) -> str:
    """Where the list of a folder's files lies; empty if there is nothing beside it, as with a whole bucket."""
    if storage.is_local(target):
        path = Path(storage.filesystem(target)[1])
        return str(path.with_name(f".{path.name}{_LIST}")) if path.name else ""
    parent, _, name = target.rstrip("/").rpartition("/")
    return f"{parent}/.{name}{_LIST}" if parent.rpartition("/")[2] else ""


def _known(storage: Storage, target: str) -> Put:
    """What earlier checkouts put into a folder; nothing that is not known for certain."""
    uri = _list_of(storage, target)
    try:
        said: Any = storage.read_json(uri) if uri and storage.exists(uri) else {}
        return {str(name): [str(md5) for md5 in md5s] for name, md5s in said.items()}
    except (DataError, AttributeError, TypeError, json.JSONDecodeError) as error:
        log.warning("%s is no list of files that a checkout put there: %s", uri, error)
        return {}


def _remember(storage: Storage, target: str, put: Put) -> None:
    """Without the list nothing is ever removed, so that it may be missing where the place beside the folder is not ours."""
    uri = _list_of(storage, target)
    try:
        if uri:
            storage.write(uri, canonical_json(put))
    except PermissionError as error:
        log.warning("%s cannot be written, so that %s will take no other version: %s", uri, target, error)


def _remove(storage: Storage, target: str, name: str) -> None:
    fs, path = storage.filesystem(join(target, name))
    if not storage.is_local(target):
        fs.rm_file(path)
        return
    root, gone = Path(storage.filesystem(target)[1]), Path(path)
    gone.unlink(missing_ok=True)
    for parent in gone.parents:
        if parent == root or any(parent.iterdir()):
            return
        parent.rmdir()


def _replace(content: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_SCRATCH) as scratch:
        copy = Path(scratch, "file")
        shutil.copyfile(content, copy)
        copy.replace(target)


def _same(storage: Storage, content: Path, uri: str) -> bool:
    """Whether this very file is there; a link to it is not."""
    if not storage.is_local(uri) or Path(storage.filesystem(uri)[1]).is_symlink() or not storage.exists(uri):
        return False
    return storage.describe(uri).hash == file_hash(content)
