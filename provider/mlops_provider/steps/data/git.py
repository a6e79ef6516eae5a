"""The one place that runs git: never a prompt, never without end, and never a credential in a URL, a log or the environment.

`run` is any git command in an environment of its own; `session` is git for the data repository, with its credentials.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, ConflictError, Transient

_TIMEOUT = 300
# What git, ssh and curl need of the worker's environment, and what says how they reach a server. What says where git works
# (GIT_DIR and the like) and what would open a window to ask (DISPLAY, SSH_ASKPASS) is not among it, nor a secret that is not git's.
_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "CURL_CA_BUNDLE"),
    *("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_EXEC_PATH", "GIT_ASKPASS"),
)
_KEPT_FAMILIES = (
    "GIT_CONFIG_",
    "GIT_SSL_",
    "GIT_HTTP_",
    "GIT_PROXY_",
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "XDG_",
    "SSL_CERT_",
    "KRB5",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
# `ext::` and other helpers run commands that a URL names.
_PROTOCOLS = "file:git:http:https:ssh"
_PATIENT_SSH = "-o BatchMode=yes -o ConnectTimeout=10"
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


def run(
    arguments: tuple[str, ...],
    where: str,
    *,
    folder: Path | None = None,
    given: bytes | None = None,
    extra: Mapping[str, str] | None = None,
    timeout: int = _TIMEOUT,
) -> subprocess.CompletedProcess[bytes]:
    """Any git command; whether it did well is for the caller to see.

    :param where: what it is about, for errors: "the data repository https://...".
    :param extra: environment beyond what git gets in any case.
    :raises Transient: if it takes too long.
    :raises ConfigError: if there is no git.
    """
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment(extra or {}),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"git {_command(arguments)}: {where} did not answer within {timeout} s") from error
    except FileNotFoundError as error:
        if error.filename != "git":
            raise
        raise ConfigError(f"git is not installed here, and {where} is reached with it: install git") from error


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Git's whole environment: it never asks, and sees nothing of the worker's that it does not need."""
    kept = {name: value for name, value in os.environ.items() if _is_kept(name)}
    found = {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS, "LC_ALL": "C", **extra}
    if "GIT_SSH_COMMAND" in found or "GIT_SSH" not in found:
        settings = tuple(sorted(item for item in kept.items() if item[0] in ("PATH", "HOME") or "CONFIG" in item[0]))
        found["GIT_SSH_COMMAND"] = f"{found.get('GIT_SSH_COMMAND') or _ssh(settings)} {_PATIENT_SSH}"
    return found


def problem(command: str, said: str, where: str, advice: str) -> AccessDenied | ConflictError | Transient:
    """What went wrong, from git's words.

    :param advice: what to do if the repository does not let us in.
    """
    text, low = f"git {command} failed for {where}: {said.strip().rstrip('.')[-500:]}", said.lower()
    if "hook declined" in low or "protected branch" in low:
        return AccessDenied(f"{text}. Let this user push to the branch and its tags.")
    if command == "push" and "no space left" not in low and any(word in low for word in _LOST_RACE):
        return ConflictError(text)
    if any(word in low for word in _DENIED):
        return AccessDenied(f"{text}. {advice}")
    return Transient(text)


class Git:
    """Git in one folder, for one repository."""

    def __init__(self, url: str, folder: Path, work: Path, access: DvcAccess) -> None:
        self.url, self.work = url, work
        self._secrets = [s for s in (access.password, access.private_key) if s]
        self._settings = [part for setting in (*_ALWAYS, *_IDENTITY) for part in ("-c", setting)]
        self._extra = self._credentials(folder, access)

    def __call__(self, *arguments: str, timeout: int = _TIMEOUT) -> str:
        """Output of a git command.

        :raises AccessDenied: if the repository does not let us in; `ConflictError` if another writer was first.
        :raises Transient: with what git said, if it fails otherwise.
        """
        done = self.tried(*arguments, timeout=timeout)
        if done.returncode:
            raise self.error(arguments[0], done.stderr)
        return done.stdout.strip()

    def tried(self, *arguments: str, timeout: int = _TIMEOUT) -> subprocess.CompletedProcess[str]:
        """A git command that may fail.

        :raises Transient: if it takes too long.
        """
        command = (*self._settings, *arguments)
        done = run(command, self._where, folder=self.work, extra=self._extra, timeout=timeout)
        told = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, *told)

    def error(self, command: str, said: str) -> AccessDenied | ConflictError | Transient:
        """What went wrong, from git's words, with no secret in it."""
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return problem(command, said, self._where, "Check the credentials in the connection, [mlops] dvc_conn_id.")

    @property
    def _where(self) -> str:
        return f"the data repository {self.url}"

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
        return found


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
    if (
        url.startswith("-")
        or re.match(r"[\w.+-]*::", url)
        or (parts and parts.scheme not in ("file", "https", "http", "ssh", "git"))
    ):
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


def _is_kept(name: str) -> bool:
    return name in _KEPT or name.startswith(_KEPT_FAMILIES) or name.lower() in _PROXIES


def _command(arguments: tuple[str, ...]) -> str:
    """The word that says what git is to do, after the settings."""
    rest = iter(arguments)
    for word in rest:
        if word in ("-c", "-C", "--git-dir"):
            next(rest)
        else:
            return word
    return ""


@cache
def _ssh(settings: tuple[tuple[str, str], ...]) -> str:
    """The ssh of the worker's own git configuration, which the environment would otherwise outdo."""
    command = ["git", "config", "--get", "core.sshCommand"]
    try:
        done = subprocess.run(
            command, env=dict(settings), cwd="/", capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "ssh"
    return done.stdout.strip() or "ssh"


def _private(path: Path, text: str, mode: int = 0o600) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    return path
