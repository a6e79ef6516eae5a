"""Git over ssh with a key from the connection, against a real sshd; where there is none, it is skipped and says so."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied
from mlops_provider.steps.data.remote import Remote
from mlops_provider.steps.data.repository import Repository
from tests.integration.servers import free_ports

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, DvcAccess]]:
    """URL of a repository behind ssh, and what lets one in."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("GIT OVER SSH IS NOT TESTED: there is no sshd here")
    port, bare = free_ports(1)[0], tmp_path / "repository.git"
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(bare)], check=True)
    key(tmp_path / "host")
    private = key(tmp_path / "user")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (tmp_path / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "config")], stderr=log)
    try:
        _wait(process, port, tmp_path / "log")
        hosts = f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}"
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{bare}"
        yield url, DvcAccess(private_key=private, known_hosts=hosts)
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        if process.poll() is not None:
            pytest.skip(f"GIT OVER SSH IS NOT TESTED: sshd does not run here: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_a_version_goes_through_ssh(server: tuple[str, DvcAccess], tmp_path: Path) -> None:
    url, access = server
    repository = Repository(url, Remote(str(tmp_path / "dvc"), {}), access)
    repository.probe()
    (tmp_path / "source").write_text("one")
    stored = repository.add(tmp_path / "source", "tables/a.csv", "test")
    assert repository.find("tables/a.csv", tag=stored.tag) == (stored.rev, stored.pointer)
    assert repository.refs().tags == {stored.tag: stored.rev}


def test_a_wrong_key_is_told_at_once(server: tuple[str, DvcAccess], tmp_path: Path) -> None:
    url, access = server
    wrong = access.model_copy(update={"private_key": key(tmp_path / "wrong")})
    with pytest.raises(AccessDenied, match="Permission denied"):
        Repository(url, Remote(str(tmp_path / "dvc"), {}), wrong).probe()


def test_a_host_that_is_not_known_is_not_trusted(server: tuple[str, DvcAccess], tmp_path: Path) -> None:
    url, access = server
    stranger = access.known_hosts.split()[0] + " " + (key(tmp_path / "other"), (tmp_path / "other.pub").read_text())[1]
    with pytest.raises(AccessDenied, match="Host key verification failed"):
        Repository(url, Remote(str(tmp_path / "dvc"), {}), access.model_copy(update={"known_hosts": stranger})).probe()
