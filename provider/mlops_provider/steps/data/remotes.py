"""Which DVC remote holds what the data repository names: ours, or one that the repository has of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mlops_provider.exceptions import ConfigError, IntegrityError
from mlops_provider.steps.data.remote import Pointer, Remote


def settings(text: str, where: str) -> dict[str, Any]:
    """What a .dvc/config says, as DVC reads it.

    :raises IntegrityError: if it cannot be read.
    """
    from dvc.config import Config
    from dvc.config import ConfigError as Unreadable

    with tempfile.TemporaryDirectory(prefix="mlops-dvc-") as folder:
        Path(folder, "config").write_text(text)
        try:
            known: dict[str, Any] = Config(folder, validate=False).load_one("repo")
        except Unreadable as error:
            raise IntegrityError(f"{where} is not as DVC wants it: {error}") from error
    return known


def named(known: dict[str, Any], name: str, ours: Remote, where: str) -> Remote:
    """The remote that holds the content of a pointer.

    :param known: the repository's settings at the pointer's commit.
    :param name: of the remote, in the pointer; empty for the repository's default one.
    :raises ConfigError: if it cannot be told where the remote is, or it cannot be read from here.
    """
    name = _name(known, name)
    if not name:  # DVC has it from settings of a person's own; here there is but one that is known
        return ours
    where = f"{where} lies in the DVC remote {name!r}"
    if name not in known["remote"]:
        raise ConfigError(
            f"{where}, which .dvc/config does not have at that commit: its address is known to others only"
        )
    said = known["remote"][name]
    if leads_to(said, ours.for_dvc):
        return ours
    if said.get("version_aware") or said.get("worktree"):
        raise ConfigError(f"{where}, which has cloud versioning: that is not read")
    return at(_in_full(said, where), ours, where, str(said.get("endpointurl", "")))


def may_be_ours(known: dict[str, Any], name: str, ours: Remote) -> bool:
    """Whether a pointer leads to our remote, or to one of which nothing is told."""
    said = known["remote"].get(_name(known, name))
    return said is None or leads_to(said, ours.for_dvc)


def leads_to(said: dict[str, Any], ours: dict[str, str]) -> bool:
    """Whether a remote of the repository is ours; one that names no endpoint may have it in a person's own settings."""
    same = str(said.get("url", "")).rstrip("/") == ours["url"].rstrip("/")
    return same and said.get("endpointurl", ours.get("endpointurl")) == ours.get("endpointurl")


def at(url: str, ours: Remote, where: str, endpoint: str = "") -> Remote:
    """A remote at another place, reached by the means that reach ours.

    :raises ConfigError: if it is of a kind that those do not reach.
    """
    kinds = {_kind(ours.root), "file", "s3"}
    if _kind(url) not in kinds or "::" in url:  # fsspec takes what is chained by "::" for a file system in another
        raise ConfigError(f"{where}, at {url}: only local files, S3 and what our own remote is on are read")
    return ours.beside(url, endpoint)


def recorded(uri: str, pointer: Pointer, ours: Remote, where: str) -> Remote:
    """The remote in which the content of a version was put; ours if ours has it, too, or nothing else is known."""
    place = ours.uri(pointer.md5, pointer.hash).removeprefix(ours.root)
    if not uri.endswith(place) or uri.removesuffix(place) == ours.root or ours.holds(pointer):
        return ours
    return at(uri.removesuffix(place), ours, f"{where} was put into a DVC remote")


def _name(known: dict[str, Any], name: str) -> str:
    return name or str(known["core"].get("remote", ""))


def _in_full(said: dict[str, Any], where: str) -> str:
    """The address of a remote.

    :raises ConfigError: if it is relative to a clone, of which there is none here.
    """
    from dvc.config_schema import ExpPath, RelPath

    url = said.get("url", "")
    if not url or isinstance(url, RelPath | ExpPath):
        raise ConfigError(
            f"{where}, whose address is relative to somebody's clone or home folder, of which there is none here: push the "
            "content to a remote with a full address, and name that one in the repository"
        )
    return str(url)


def _kind(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else "file"
