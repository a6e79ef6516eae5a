"""Git as the data repository needs it: never a prompt, never a credential in a URL, a log or the environment."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, ConflictError, Transient

_TIMEOUT = 300
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_ASKPASS", "SSH_ASKPASS")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The worker's own hooks, signatures and line ends are no business of the data repository.
_ALWAYS = (
    "core.hooksPath=/dev/null",
    "commit.gpgsign=false",
    "tag.gpgsign=false",
    "core.autocrlf=false",
    "core.symlinks=false",
    "gc.auto=0",
)
_IDENTITY = ("user.name=mlops", "user.email=mlops@localhost")
_DENIED = (
    "authentication failed",
    "could not read username",
    "could not read password",
    "terminal prompts disabled",
    "permission denied",
    "access denied",
    "error: 401",
    "error: 403",
    "host key verification failed",
    "error in libcrypto",
)
_LOST_RACE = (
    "fetch first",
    "non-fast-forward",
    "cannot lock ref",
    "failed to update ref",
    "stale info",
    "incorrect old value",
    "reference already exists",
    "failed to lock",
    "file exists",
)
# git puts it after the user's name, so that both come from files that only this user may read.
_ASKPASS = '#!/bin/sh\ncase "$1" in Username*) exec cat "${0%/*}/username";; *) exec cat "${0%/*}/password";; esac\n'


class Git:
    """Git in one folder, for one repository."""

    def __init__(self, url: str, folder: Path, work: Path, access: DvcAccess) -> None:
        self.url, self.work = url, work
        self._secrets = [s for s in (access.password, access.private_key) if s]
        self._settings = [part for setting in (*_ALWAYS, *_IDENTITY) for part in ("-c", setting)]
        self._environ = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
        self._environ |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | self._credentials(folder, access)

    def __call__(self, *arguments: str, timeout: int = _TIMEOUT, given: str | None = None) -> str:
        """Output of a git command.

        :raises AccessDenied: if the repository does not let us in; `ConflictError` if another writer was first.
        :raises Transient: with what git said, if it fails otherwise.
        """
        done = self.tried(*arguments, timeout=timeout, given=given)
        if done.returncode:
            raise self.error(arguments[0], done.stderr)
        return done.stdout.strip()

    def tried(
        self, *arguments: str, timeout: int = _TIMEOUT, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A git command that may fail.

        :raises Transient: if it takes too long.
        """
        command = ["git", *self._settings, *arguments]
        try:
            return subprocess.run(
                command,
                cwd=self.work,
                env=self._environ,
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Transient(f"git {arguments[0]}: {self.url} did not answer within {timeout} s") from error

    def error(self, command: str, said: str) -> AccessDenied | ConflictError | Transient:
        """What went wrong, from git's words."""
        for secret in self._secrets:
            said = said.replace(secret, "***")
        text, low = f"git {command} failed for the data repository {self.url}: {said.strip()[-500:]}", said.lower()
        if "hook declined" in low or "protected branch" in low:
            return AccessDenied(f"{text}. Let this user push to the branch and its tags.")
        if command == "push" and "no space left" not in low and any(word in low for word in _LOST_RACE):
            return ConflictError(text)
        if any(word in low for word in _DENIED):
            return AccessDenied(f"{text}. Check the credentials in the connection [mlops] dvc_conn_id.")
        return Transient(text)

    def _credentials(self, folder: Path, access: DvcAccess) -> dict[str, str]:
        """Environment that names files with the credentials in them; they live as long as the folder."""
        found = {}
        if access.password:
            _private(folder / "username", access.username or "git")
            _private(folder / "password", access.password)
            _private(folder / "askpass", _ASKPASS, mode=0o700)
            self._settings += ["-c", "credential.helper="]
            found["GIT_ASKPASS"] = str(folder / "askpass")
        if access.private_key:
            key = _private(folder / "key", access.private_key.strip() + "\n")
            options = ["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"]
            if access.known_hosts:
                hosts = _private(folder / "known_hosts", access.known_hosts.strip() + "\n")
                options += ["-o", f"UserKnownHostsFile='{hosts}'"]
            found["GIT_SSH_COMMAND"] = " ".join(["ssh", "-i", f"'{key}'", *options])
        ssh = found.get("GIT_SSH_COMMAND") or self._environ.get("GIT_SSH_COMMAND") or "ssh"
        return found | {"GIT_SSH_COMMAND": f"{ssh} -o BatchMode=yes -o ConnectTimeout=10"}


@contextmanager
def session(url: str, access: DvcAccess) -> Iterator[Git]:
    """Git in the folder `work` of a temporary folder that is gone afterwards, credentials and all.

    :raises ConfigError: if the URL is none that git can use, or would let credentials be seen.
    """
    url = checked(url, access)
    with tempfile.TemporaryDirectory(prefix="mlops-dvc-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "git").mkdir(mode=0o700)
        (folder / "work").mkdir()
        yield Git(url, folder / "git", folder / "work", access)


def checked(url: str, access: DvcAccess) -> str:
    """The URL as git is to get it; a local path becomes file://, so that a shallow clone of it is shallow."""
    parts = urlsplit(url) if "://" in url else None
    if url.startswith("-") or (parts and parts.scheme not in ("file", "https", "http", "ssh", "git")):
        raise ConfigError(f"data repository {url!r}: expected a path, file://, https://, ssh:// or user@host:path")
    if parts and parts.password is not None:
        shown = url.replace(f":{parts.password}@", ":***@")
        raise ConfigError(
            f"data repository {shown}: credentials go into a connection ([mlops] dvc_conn_id), not the URL"
        )
    if access.password and parts and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(f"data repository {url}: a password would travel in the clear, use https://")
    return Path(url).absolute().as_uri() if url.startswith("/") else url


def is_remote_shell(url: str) -> bool:
    """Whether it is git's short form for ssh, ``user@host:path``."""
    return re.match(r"[\w.-]+@[\w.-]+:(?!//)", url) is not None


def _private(path: Path, text: str, mode: int = 0o600) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    return path
