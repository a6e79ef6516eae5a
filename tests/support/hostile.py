"""A test file of somebody who wants the worker's secrets: it fails for each way on which it finds one.

It is copied into a model's tests/ (and then stands alone: standard library and pytest only), with `loot.json` beside it:
the secrets to look for, files that hold them, and whether files are among what must be out of reach. Called as a program it
prints what it finds, which shows that the ways are ways.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

LOOT = json.loads(Path(__file__).with_name("loot.json").read_text())
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207


def secrets_in(data: bytes) -> list[str]:
    return [secret for secret in LOOT["secrets"] if secret.encode() in data]


def processes() -> Iterator[Path]:
    """Other processes; by trial where the list of them cannot be read."""
    for number in range(1, 100_000) if LOOT["fenced"] else map(int, filter(str.isdigit, os.listdir("/proc"))):
        if number != os.getpid() and os.path.exists(f"/proc/{number}"):
            yield Path("/proc", str(number))


def own_environment() -> list[str]:
    names = [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_", "MLFLOW_", "_AIRFLOW"))]
    return names + secrets_in("\0".join(os.environ.values()).encode())


def other_environments() -> list[str]:
    found = []
    for process in processes():
        with contextlib.suppress(OSError):
            found += secrets_in((process / "environ").read_bytes())
    return found


def files() -> list[str]:
    found = []
    for path in LOOT["files"]:
        with contextlib.suppress(OSError):
            found += secrets_in(Path(path).read_bytes()) or [path]
    return found


def own_descriptors() -> list[str]:
    """Sockets that were inherited, and what waits in them."""
    found = []
    for number in range(256):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.append(f"socket {number}")
                with socket.socket(fileno=os.dup(number)) as opened:
                    found += secrets_in(opened.recv(1_000, socket.MSG_DONTWAIT | socket.MSG_PEEK))
    return found


def other_descriptors() -> list[str]:
    found = []
    for process in processes():
        with contextlib.suppress(OSError):
            found += [str(link) for link in (process / "fd").iterdir() if os.readlink(link).startswith("socket:")]
    return found


def taken_descriptors() -> list[str]:
    """The parent's standard input, the supervisor's socket, taken over by a system call."""
    libc = ctypes.CDLL(None)
    handle = libc.syscall(SYS_PIDFD_OPEN, os.getppid(), 0)
    taken = libc.syscall(SYS_PIDFD_GETFD, handle, 0, 0)
    return [f"descriptor {taken}"] if taken >= 0 else []


def memory() -> list[str]:
    with contextlib.suppress(OSError), open(f"/proc/{os.getppid()}/mem", "rb"):
        return ["the parent's memory"]
    return []


def connected() -> list[str]:
    """The network: Airflow's API server, a cloud machine's metadata."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", LOOT["port"]), timeout=5):
        return ["a TCP connection"]
    return []


def signalled() -> list[str]:
    with contextlib.suppress(OSError):
        os.kill(os.getppid(), 0)
        return ["a signal"]
    return []


def traced() -> list[str]:
    libc = ctypes.CDLL(None)
    return ["the parent is traced"] if libc.ptrace(PTRACE_SEIZE, os.getppid(), None, None) == 0 else []


WAYS = (
    own_environment,
    other_environments,
    files,
    own_descriptors,
    other_descriptors,
    taken_descriptors,
    memory,
    connected,
    signalled,
    traced,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_is_found(way) -> None:  # type: ignore[no-untyped-def]
    if LOOT["same_user"] and not LOOT["fenced"] and way in (files, other_environments, other_descriptors):
        pytest.skip("the files of one user and its other processes are open to that user")
    if not LOOT["fenced"] and (way is connected or (LOOT["same_user"] and way is signalled)):
        pytest.skip("this kernel cannot keep it away")
    assert way() == []


def test_the_parent_keeps_its_secrets() -> None:
    for name in ("environ", "mem", "fd", "maps", "cwd"):
        with pytest.raises(PermissionError):
            os.listdir(f"/proc/{os.getppid()}/{name}") if name == "fd" else Path(
                f"/proc/{os.getppid()}/{name}"
            ).resolve(strict=True).open("rb").read(1)


def test_no_privilege_can_be_had() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Groups"].strip() in ("", str(os.getgid()))
    with pytest.raises(PermissionError):
        os.setuid(0)


if __name__ == "__main__":
    print(json.dumps({way.__name__: way() for way in WAYS}))
