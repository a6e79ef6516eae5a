"""Start servers that cannot outlive the demo unnoticed, and end everything they started.

A server gets a session of its own, so that Ctrl-C in the terminal reaches the demo alone, which then stops the
servers in order. Servers put children into process groups of their own and rename them, which overwrites their
environment in /proc. So what belongs to a home is found in three ways that complement each other: the session,
a marker in the environment, and the working directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.demo.state import replace_file

MARKER = "MLOPS_DEMO_HOME"
PROC = Path("/proc")
POLL = 0.1


@dataclass(frozen=True)
class Process:
    """One line of the process table: tells a process again when its number is used a second time."""

    pid: int
    session: int
    started: int
    """Clock ticks after boot."""


def look(pid: int) -> Process | None:
    """Return the live process of that number, or None (gone, or a zombie that waits to be reaped)."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in brackets may itself hold spaces and brackets: count from the last one.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return None if state in "ZX" else Process(pid, session=int(fields[2]), started=int(fields[18]))


def table() -> list[Process]:
    """Return all live processes; empty where the system has no /proc (then only process groups are known)."""
    if not PROC.is_dir():
        return []
    return [found for entry in PROC.iterdir() if entry.name.isdigit() and (found := look(int(entry.name)))]


def is_marked(pid: int, home: Path) -> bool:
    """Tell whether the process was started for this home, by the marker in its environment."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{MARKER}={home}".encode() in environment.split(b"\0")


def works_below(pid: int, home: Path) -> bool:
    """Tell whether the working directory of the process is the home or below it."""
    try:
        return (PROC / str(pid) / "cwd").readlink().is_relative_to(home)
    except OSError:
        return False


class PidFile:
    """The servers of a home by number and start time, for whoever has to clean up after a kill -9."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "pids.json"

    def write(self, servers: Iterable[Server]) -> None:
        """Record the servers; none at all removes the file."""
        found = [look(server.popen.pid) for server in servers]
        records = [{"pid": process.pid, "started": process.started} for process in found if process]
        if records:
            replace_file(self.path, json.dumps(records))
        else:
            self.path.unlink(missing_ok=True)

    def read(self) -> dict[int, int]:
        """Return start time by number; a damaged file counts as empty, as the marker finds most too."""
        try:
            return {int(record["pid"]): int(record["started"]) for record in json.loads(self.path.read_text())}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {}

    def survivors(self) -> list[Process]:
        """Return every live process that belongs to this home, never one that only has an old number of ours.

        A recorded server is ours if its start time agrees. If it is gone, its session may live on: members
        count if they work below the home. Marked processes count wherever they are, with the session they lead.
        """
        processes, recorded = table(), self.read()
        live = {process.pid: process for process in processes}
        marked = {process.pid for process in processes if is_marked(process.pid, self.home)}
        led = {pid for pid, started in recorded.items() if pid in live and live[pid].started == started}
        led |= {pid for pid in marked if live[pid].session == pid}
        orphaned = recorded.keys() - live.keys()

        def ours(process: Process) -> bool:
            if process.pid == os.getpid():
                return False
            orphan = process.session in orphaned and works_below(process.pid, self.home)
            return process.pid in marked or process.session in led or orphan

        return [process for process in processes if ours(process)]


@dataclass
class Server:
    """A running server and all that it started."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    def members(self) -> list[Process]:
        """Return the live processes of the server's session."""
        return [process for process in table() if process.session == self.popen.pid]

    def is_gone(self) -> bool:
        """Tell whether nothing of the server is left; also reaps it."""
        return self.popen.poll() is not None and not self.members()

    def ask_to_stop(self) -> None:
        """Send the signal at which the server takes its children down itself."""
        if self.popen.poll() is None:
            self.popen.send_signal(self.stop_signal)

    def reap(self) -> None:
        """Collect the exit status of a server that is gone; without /proc, kill its process group before.

        This never blocks for good: an interrupt inside Popen can leave its lock taken.
        """
        if self.popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=2)

    def tail(self, lines: int = 25) -> str:
        """Return the end of the log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start_server(
    name: str, command: list[str], *, env: Mapping[str, str], home: Path, stop_signal: signal.Signals
) -> Server:
    """Start a command in a session of its own, marked as the home's; its output goes to `home/logs/<name>.log`."""
    log, cwd = home / "logs" / f"{name}.log", home / name
    log.parent.mkdir(parents=True, exist_ok=True)
    cwd.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{name}.previous.log"))
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command,
            env={**env, MARKER: str(home)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_default_signals,  # one C call, takes no locks
        )
    return Server(name, popen, log, stop_signal)


def _default_signals() -> None:
    """Undo an inherited "ignore SIGINT" (any job put in the background by a script has it)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_servers(servers: Iterable[Server], *, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """Stop servers and all their descendants: ask, then SIGTERM after `grace` seconds, then SIGKILL.

    `hurry` is polled: once it is true, SIGKILL follows at once.
    """
    waiting = [server for server in servers if not server.is_gone()]
    for server in waiting:
        server.ask_to_stop()

    def remaining() -> list[Process]:
        return [process for server in waiting for process in server.members()]

    if not _wait_until_gone(lambda: all(server.is_gone() for server in waiting), grace, hurry):
        end_processes(remaining, grace=min(grace, 1.5), hurry=hurry)
    for server in waiting:
        server.reap()


def end_processes(
    remaining: Callable[[], list[Process]], *, grace: float, hurry: Callable[[], bool] = lambda: False
) -> None:
    """End what `remaining` finds: SIGTERM, and SIGKILL after `grace` seconds until nothing is found any more.

    It looks again each time, so that children born meanwhile are found too.
    """
    if not hurry():
        _send(signal.SIGTERM, remaining())
        if _wait_until_gone(lambda: not remaining(), grace, hurry):
            return
    deadline = time.monotonic() + 30
    while (found := remaining()) and time.monotonic() < deadline:
        _send(signal.SIGKILL, found)
        time.sleep(POLL)
    if found:
        raise RuntimeError(f"processes survive SIGKILL: {[process.pid for process in found]}")


def _send(signum: signal.Signals, processes: Iterable[Process]) -> None:
    """Signal processes that are still the ones we found."""
    for process in processes:
        if look(process.pid) == process:
            try:
                os.kill(process.pid, signum)
            except ProcessLookupError:
                continue


def _wait_until_gone(gone: Callable[[], bool], timeout: float, hurry: Callable[[], bool]) -> bool:
    """Poll until `gone` or the time is over or somebody is in a hurry; tell whether it is gone."""
    deadline = time.monotonic() + timeout
    while not gone():
        if hurry() or time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
