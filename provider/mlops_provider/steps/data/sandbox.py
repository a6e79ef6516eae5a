"""Runs pytest on other people's code in a process that has nothing of the worker's: not its environment, its open files,
its user (where the worker is root), nor its time and memory without end.

Where the kernel has Landlock, neither the network nor files beside the libraries and the model are within reach;
docs/security.md says what is where it has none.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlops_provider.exceptions import ConfigError, Transient

log = logging.getLogger("mlops_provider")

# systemd keeps these ids for users that exist only while a service runs: nobody's files belong to them.
_USERS = range(61_184, 65_520)
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 3, 4, 36, 37
_FILE_BYTES = 256 * 2**20
_REPORT_BYTES = 16 * 2**20
_TOLD = 4_000
# What a process needs of the machine, where the kernel lets us name it; libraries and the model come on top.
_READABLE = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/self",
    "/sys/devices/system/cpu",
    "/dev/urandom",
    "/dev/random",
]
_WRITABLE = ("/dev/null", "/dev/zero", "/dev/full")


@dataclass(frozen=True)
class Bounds:
    """What the process may use: seconds of CPU, bytes of address space, processes, seconds by the clock."""

    cpu_seconds: int
    memory: int
    processes: int
    wall: float


@dataclass(frozen=True)
class Ended:
    """How the process ended.

    :param status: exit status; negative if a signal ended it, None if time was up.
    :param output: the end of what it printed.
    :param report: the JUnit file it left, if it left one.
    """

    status: int | None
    output: str
    report: bytes | None
    seconds: float


@dataclass(frozen=True)
class _Python:
    """How the interpreter is started.

    :param doors: open folders through which the other user reaches what lies below a folder closed to it.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    site: tuple[str, ...] = ()
    doors: tuple[int, ...] = ()


def other_user() -> int | None:
    """The user id to test with: one that nobody has where the worker is root; None if the worker cannot change its user."""
    if os.geteuid() != 0:
        return None
    taken = set(_owners())
    for turn in range(len(_USERS)):
        user = _USERS[(os.getpid() + turn) % len(_USERS)]
        if user not in taken and not _has_account(user):
            return user
    raise ConfigError(f"no user id between {_USERS[0]} and {_USERS[-1]} is free for running tests")


def run_tests(files: Mapping[str, bytes], bounds: Bounds) -> Ended:
    """Runs pytest on the folder ``tests`` among the files, as another user where that can be had.

    :raises ConfigError: if the process cannot be confined or cannot reach its interpreter.
    """
    user = other_user()
    with _workspace(files, user) as root, _python(user) as python, _unreadable():
        arguments = ["-p", "no:cacheprovider", "-q", "--tb=short", "--rootdir", str(root / "model")]
        arguments += ["--junitxml", str(root / "out" / "junit.xml"), "-o", "junit_family=xunit2", "tests"]
        given = {"arguments": arguments, "limits": _limits(bounds, user), "site": python.site, "parent": os.getpid()}
        given |= _fence(root, python)
        environment = {**_environment(root), **python.environment}
        command = [*python.command, str(root / "child.py"), json.dumps(given)]
        began = time.monotonic()
        with (root / "output").open("w+b") as output:
            status = _run(command, root / "model", environment, output.fileno(), python.doors, bounds.wall, user)
            told = _tail(output.fileno())
        report = _left(root / "out" / "junit.xml", user)
        return Ended(status, told, report, round(time.monotonic() - began, 3))


def _run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: int,
    doors: Sequence[int],
    wall: float,
    user: int | None,
) -> int | None:
    """Exit status of the process; None if time was up. Nothing that it started outlives the call."""
    others = set(_children())
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    try:
        # Airflow's task process holds its supervisor's sockets as standard input, output and error, and a log channel:
        # the first three are replaced, everything above is closed but the doors.
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            close_fds=True,
            pass_fds=tuple(doors),
            start_new_session=True,
            umask=0o077,
            **identity,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"the tests cannot be started as user {user}: {error}; see docs/security.md") from error
    try:
        return int(process.wait(wall))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process, others, user)


def _end(process: subprocess.Popen[bytes], others: set[int], user: int | None) -> None:
    """Kills the process, its group, and what left the group: orphans come to this process, as it is their subreaper."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if user is not None:
        # All at once, as the one who asks: processes that keep forking cannot run away from it.
        identity = {"user": user, "group": user, "extra_groups": []}
        subprocess.run(["/bin/sh", "-c", "kill -KILL -1"], env={}, check=False, stderr=subprocess.DEVNULL, **identity)  # type: ignore[call-overload]
    deadline = time.monotonic() + 10.0
    while strays := set(_children()) - others:
        for stray in strays:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(stray, signal.SIGKILL)
                os.waitpid(stray, 0)
        if time.monotonic() > deadline:
            raise Transient(f"processes that the tests started cannot be ended: {sorted(strays)}")


@contextlib.contextmanager
def _workspace(files: Mapping[str, bytes], user: int | None) -> Iterator[Path]:
    """A folder with the model in it, readable, and a home, a temp and an output folder of the user's own."""
    root = Path(tempfile.mkdtemp(prefix="mlops-tests-"))
    try:
        root.chmod(0o711)
        if user is not None and not _open_to_others(root):
            raise ConfigError(f"the folder for temporary files, {root.parent}, is closed to other users: set TMPDIR")
        for name, content in files.items():
            _put(root / "model" / name, content, root)
        _put(root / "child.py", Path(__file__).with_name("sandbox_child.py").read_bytes(), root)
        for name in ("home", "tmp", "out"):
            (root / name).mkdir(mode=0o700)
            if user is not None:
                os.chown(root / name, user, user)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _put(path: Path, content: bytes, root: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    for folder in path.relative_to(root).parents[:-1]:
        (root / folder).chmod(0o755)


def _fence(root: Path, python: _Python) -> dict[str, list[str]]:
    """What the process may read and write, where the kernel can see to it."""
    home = [python.environment["PYTHONHOME"]] if python.doors else [sys.base_prefix, sys.prefix]
    libraries = python.site or [p for p in sys.path if p.endswith("-packages")]
    readable = [
        *_READABLE,
        *home,
        *libraries,
        str(Path(__file__).parents[3]),
        str(root / "model"),
        str(root / "child.py"),
    ]
    return {"readable": readable, "writable": [*_WRITABLE, *(str(root / name) for name in ("home", "tmp", "out"))]}


def _environment(root: Path) -> dict[str, str]:
    """All that the process finds in its environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # Each thread of a numeric library takes address space.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _limits(bounds: Bounds, user: int | None) -> dict[str, tuple[int, int]]:
    # The system counts processes by user: those of the worker's own user are there already.
    before = _threads() if user is None else 0
    found = {
        "RLIMIT_AS": bounds.memory,
        "RLIMIT_FSIZE": _FILE_BYTES,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": before + bounds.processes,
    }
    if sys.platform != "linux":
        del found["RLIMIT_AS"], found["RLIMIT_NPROC"]
    # At the soft limit of CPU time comes a signal that says so, at the hard one the process is killed.
    cpu = (bounds.cpu_seconds, bounds.cpu_seconds + 1)
    return {"RLIMIT_CPU": cpu, **{name: (limit, limit) for name, limit in found.items()}}


@contextlib.contextmanager
def _python(user: int | None) -> Iterator[_Python]:
    """This interpreter, as the other user can start it."""
    flags = ("-s", "-P", "-B")
    libraries = [p for p in sys.path if p.endswith("-packages") and Path(p).is_dir()]
    wanted = [sys.base_prefix, sys.executable, *libraries]
    if user is None or all(_open_to_others(Path(place)) for place in wanted):
        yield _Python((sys.executable, *flags), {})
        return
    doors: list[int] = []
    try:
        home = _door(sys.base_prefix, doors)
        site = [p if _open_to_others(Path(p)) else _door(p, doors) for p in libraries]
        program = os.path.relpath(os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix))
        environment = {"PYTHONHOME": home, "LD_LIBRARY_PATH": f"{home}/lib"}
        yield _Python((f"{home}/{program}", *flags), environment, tuple(site), tuple(doors))
    finally:
        for door in doors:
            os.close(door)


def _door(folder: str, doors: list[int]) -> str:
    """A path to a folder past closed ones above it (an interpreter below /root, say): they stay closed, and what the
    folder itself holds must be readable by all.

    :raises ConfigError: if it is not.
    """
    if sys.platform != "linux" or not os.stat(folder).st_mode & stat.S_IXOTH:
        raise ConfigError(
            f"the tests run as another user, to whom {folder} is closed: install Python and the packages where "
            "all users may read them, for instance below /opt"
        )
    doors.append(os.open(folder, os.O_PATH | os.O_DIRECTORY))
    return f"/proc/self/fd/{doors[-1]}"


def _open_to_others(path: Path) -> bool:
    """Whether every folder on the way, as it is written and as it really is, lets all users through."""
    ways = (path.absolute(), path.resolve())
    return all(os.stat(place).st_mode & stat.S_IXOTH for way in ways for place in (way, *way.parents))


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    """While the tests run: processes of the same user cannot read this one's memory, environment or open files, and
    orphans of the tests become its children, so that none is left behind."""
    if sys.platform != "linux":
        yield
        return
    reaper = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(reaper))
    dumpable = _prctl(_PR_GET_DUMPABLE, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, reaper.value)
        # 2 means "only root may", which a process cannot choose for itself.
        _prctl(_PR_SET_DUMPABLE, 1 if dumpable == 1 else 0)


def _prctl(option: int, value: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.prctl(option, value, 0, 0, 0)
    if found < 0:
        raise ConfigError(f"the tests cannot be confined: prctl({option}): {os.strerror(ctypes.get_errno())}")
    return int(found)


def _left(path: Path, user: int | None) -> bytes | None:
    """The report, if it is a plain file of the tests' user: a link would lead to what the worker alone may read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(handle)
        plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= _REPORT_BYTES
        if not plain or (user is not None and found.st_uid != user):
            return None
        with open(handle, "rb", closefd=False) as file:
            return file.read(_REPORT_BYTES)
    finally:
        os.close(handle)


def _tail(handle: int) -> str:
    size = os.fstat(handle).st_size
    return os.pread(handle, _TOLD, max(0, size - _TOLD)).decode(errors="replace")


def _processes() -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir("/proc") as found:
        return [entry for entry in found if entry.name.isdigit()]
    return []


def _owners() -> Iterator[int]:
    """User ids that have a process now."""
    for entry in _processes():
        with contextlib.suppress(OSError):
            yield os.stat(entry.path).st_uid


def _children() -> Iterator[int]:
    """Process ids of this process's children."""
    for entry in _processes():
        with contextlib.suppress(OSError):
            status = Path(entry.path, "stat").read_text(errors="replace")
            if int(status.rpartition(")")[2].split()[1]) == os.getpid():
                yield int(entry.name)


def _threads() -> int:
    """Threads of this user's processes, as far as they can be seen."""
    count = 0
    for entry in _processes():
        with contextlib.suppress(OSError, KeyError):
            lines = Path(entry.path, "status").read_text(errors="replace").splitlines()
            told = dict(line.split(":", 1) for line in lines if ":" in line)
            count += int(told["Threads"]) if int(told["Uid"].split()[0]) == os.getuid() else 0
    return count


def _has_account(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True
