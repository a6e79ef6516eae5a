"""What a demo home remembers between runs: its lock, its ports and its secrets."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

# Below the range from which Linux and macOS take the ports of outgoing connections: a port that was free
# yesterday is then most likely free today, and links into the UI stay valid.
PORT_RANGE = range(20_000, 30_000)


class ServiceError(RuntimeError):
    """A service did not start, died, or its home cannot be used; the message says what to look at."""


class HomeLock:
    """Keeps two demos out of one home; the kernel drops the lock however its holder dies."""

    def __init__(self, home: Path) -> None:
        self.path = home / "lock"
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take the lock or raise ServiceError, naming the process that holds it."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise ServiceError(
                f"{self.path.parent} is in use by another demo (process {holder}): stop it or use another home"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; calling it twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do, so that connections of the last run in TIME_WAIT do not count as a taken port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def settle_ports(path: Path, names: Iterable[str]) -> dict[str, int]:
    """Give each name a free port, the same as last time (kept in `path`) where that one is still free."""
    old = _read_ports(path)
    ports: dict[str, int] = {}
    for name in names:
        port = old.get(name)
        if port is None or port in ports.values() or not is_free(port):
            port = _find_port(taken={*old.values(), *ports.values()})
        ports[name] = port
    replace_file(path, json.dumps(ports, indent=1))
    return ports


def _read_ports(path: Path) -> dict[str, int]:
    """Return the ports of the last run; a missing or damaged file means none, as they can be found anew."""
    try:
        ports = dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    return {name: port for name, port in ports.items() if isinstance(port, int) and port in PORT_RANGE}


def _find_port(taken: set[int]) -> int:
    """Return a free port at random, so that homes started together seldom choose the same one."""
    for port in random.sample(PORT_RANGE, 200):
        if port not in taken and is_free(port):
            return port
    raise ServiceError(f"no free port between {PORT_RANGE.start} and {PORT_RANGE.stop - 1} in 200 tries")


def keep_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret kept in `path`, made on first use; only the owner can read the file."""
    if not path.exists():
        replace_file(path, make())
    path.chmod(0o600)
    return path.read_text()


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a whole file or nothing: a kill half-way leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.chmod(mode)
    new.replace(path)
