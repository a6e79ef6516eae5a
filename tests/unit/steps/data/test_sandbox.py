"""The process that other people's tests run in: what it cannot reach, what it may use, what is left of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data import sandbox
from mlops_provider.steps.data.sandbox import Bounds, Ended, run_tests

HOSTILE = Path(__file__).resolve().parents[3] / "support" / "hostile.py"
PROVIDER = Path(sandbox.__file__).parents[3]
BOUNDS = Bounds(cpu_seconds=60, memory=2 * 2**30, processes=32, wall=60.0)
SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY": "hidden-fernet",
    "AWS_SECRET_ACCESS_KEY": "hidden-aws",
    "MLFLOW_TRACKING_PASSWORD": "hidden-mlflow",
    "HTTPS_PROXY": "http://user:hidden-proxy@proxy",
}
ROOT = os.geteuid() == 0
FENCE = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6  # Landlock, with TCP and signals
NO_FENCE = "sandbox._fence = lambda root, python: {'readable': [], 'writable': []}"
AS_ROOT = pytest.mark.skipif(not ROOT, reason="only root can change its user")

# A worker as Airflow has it: secrets in its environment from the start, its supervisor's sockets as 0 and 9.
WORKER = """
import contextlib, json, sys
from mlops_provider.steps.data import sandbox
given = json.loads(sys.argv[1])
exec(given["before"])
if given["python"]:
    python = sandbox._Python(**given["python"])
    sandbox._python = lambda user: contextlib.nullcontext(python)
files = {name: text.encode() for name, text in given["files"].items()}
ended = sandbox.run_tests(files, sandbox.Bounds(60, 2 * 2**30, 32, 60.0))
print(json.dumps([ended.status, ended.output]))
"""


def ended(test: str, **bounds: Any) -> Ended:
    """How a test file ends."""
    return run_tests({"tests/test_it.py": test.encode()}, Bounds(**{**asdict(BOUNDS), **bounds}))


@contextlib.contextmanager
def supervised() -> Iterator[tuple[int, int]]:
    """Two sockets as a supervisor leaves them to its task, with something to read in each."""
    with contextlib.ExitStack() as stack:
        pairs = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(2)]
        for ours, _ in pairs:
            ours.send(b"hidden-socket")
        requests, logs = (theirs.fileno() for _, theirs in pairs)
        os.set_inheritable(logs, True)
        yield requests, logs


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can enter, which those below pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="mlops-reachable-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def loot(folder: Path, port: int, *, same_user: bool = False, fenced: bool = False) -> dict[str, str]:
    """The hostile test file, with a connection file to look for."""
    connections = folder / "connections.json"
    connections.write_text('{"aws_default": "hidden-file"}')
    connections.chmod(0o600)
    wanted = {
        "secrets": [*SECRETS.values(), "hidden-socket", "hidden-file"],
        "files": [str(connections)],
        "same_user": same_user,
        "fenced": fenced,
        "port": port,
    }
    return {"tests/test_hostile.py": HOSTILE.read_text(), "tests/loot.json": json.dumps(wanted)}


def worked(
    files: dict[str, str], python: dict[str, Any] | None = None, user: int | None = None, *, before: str = ""
) -> tuple[int, str]:
    """How the hostile tests end in a worker: exit status and output."""
    program = python or {"command": [sys.executable], "environment": {}, "doors": [], "site": []}
    setup = f"import site\nfor p in {program['site']!r}: site.addsitedir(p)\nimport sys; sys.path.append({str(PROVIDER)!r})\n"
    given = json.dumps({"files": files, "python": python, "before": before})
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    with supervised() as (requests, logs):
        done = subprocess.run(  # type: ignore[call-overload]
            [*program["command"], "-c", setup + WORKER, given],
            env={**SECRETS, **program["environment"], "PATH": os.environ["PATH"]},
            stdin=requests,
            pass_fds=(logs, *program["doors"]),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
    assert done.returncode == 0, done.stderr
    status, output = json.loads(done.stdout)
    return status, output


@AS_ROOT
def test_another_user_finds_nothing_of_the_worker(reachable: Path, port: int) -> None:
    status, output = worked(loot(reachable, port), before=NO_FENCE)
    assert status == 0, output
    assert "11 passed, 1 skipped" in output  # the network


@AS_ROOT
@pytest.mark.skipif(not FENCE, reason="the kernel has no Landlock")
def test_another_user_behind_the_fence_finds_nothing_and_reaches_nobody(reachable: Path, port: int) -> None:
    status, output = worked(loot(reachable, port, fenced=True))
    assert status == 0, output
    assert "12 passed" in output


@AS_ROOT
@pytest.mark.parametrize(
    "fenced", [False, pytest.param(True, marks=pytest.mark.skipif(not FENCE, reason="no Landlock"))]
)
def test_the_workers_own_user_finds_neither_its_environment_nor_its_sockets(
    reachable: Path, port: int, fenced: bool
) -> None:
    user = sandbox.other_user()
    files = loot(reachable, port, same_user=True, fenced=fenced)
    assert user is not None
    os.chown(reachable / "connections.json", user, user)
    with sandbox._python(user) as python:
        status, output = worked(files, asdict(python), user, before="" if fenced else NO_FENCE)
    assert status == 0, output
    assert ("12 passed" if fenced else "7 passed, 5 skipped") in output


def test_the_hostile_tests_find_everything_where_nothing_keeps_them_from_it(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    for name, content in loot(tmp_path, port).items():
        (tmp_path / name).write_text(content)
    with supervised() as (requests, logs):
        done = subprocess.run(
            [sys.executable, str(folder / "test_hostile.py")],
            env={**os.environ, **SECRETS},
            stdin=requests,
            pass_fds=(logs,),
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    assert set(SECRETS.values()) <= set(found["own_environment"])
    assert found["own_descriptors"].count("hidden-socket") == 2
    assert found["files"] == ["hidden-file"]
    assert found["connected"] == ["a TCP connection"]
    assert found["signalled"] == ["a signal"]


@AS_ROOT
def test_without_its_protection_the_parent_would_be_read(reachable: Path, port: int) -> None:
    """The tests above can fail: a worker that can be dumped is read by its own user."""
    user = sandbox.other_user()
    files = loot(reachable, port, same_user=True)
    off = f"{NO_FENCE}\nsandbox._prctl = lambda option, value: 1"
    with sandbox._python(user) as python:
        status, output = worked(files, asdict(python), user, before=off)
    assert status == 1
    assert "FAILED tests/test_hostile.py::test_the_parent_keeps_its_secrets" in output
    assert "FAILED tests/test_hostile.py::test_nothing_is_found[taken_descriptors]" in output


def test_the_worker_is_as_it_was_afterwards() -> None:
    before = sandbox._prctl(sandbox._PR_GET_DUMPABLE, 0)
    with sandbox._unreadable():
        assert sandbox._prctl(sandbox._PR_GET_DUMPABLE, 0) == 0
    assert sandbox._prctl(sandbox._PR_GET_DUMPABLE, 0) == before


LEFT_BEHIND = """
import subprocess
def test_it():
    subprocess.Popen(["setsid", "sh", "-c", "setsid sleep 4242 & sleep 4243"])
"""


def test_nothing_that_the_tests_started_outlives_them() -> None:
    assert ended(LEFT_BEHIND).status == 0
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x00424" in _content(path)]
    assert left == []


def _content(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def test_a_killed_worker_takes_its_tests_with_it(tmp_path: Path) -> None:
    script = (
        f"from mlops_provider.steps.data.sandbox import *\n"
        f"run_tests({{'tests/test_it.py': b'import time; time.sleep(600)'}}, {BOUNDS!r})"
    )
    environment = {**os.environ, "TMPDIR": "/tmp"}
    worker = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    child = _awaited(lambda: next(iter(_at_work(worker.pid)), None))
    folder = Path(os.readlink(f"/proc/{child}/cwd")).parent
    worker.kill()
    worker.wait()
    assert _awaited(lambda: not Path(f"/proc/{child}").exists())
    shutil.rmtree(folder)


def _at_work(worker: int) -> Iterator[int]:
    """Test processes of a worker that have bound themselves to it, which they do before they give up new privileges."""
    for path in Path("/proc").glob("[0-9]*"):
        status = _content(path / "status")
        if f"PPid:\t{worker}\n".encode() in status and b"NoNewPrivs:\t1" in status:
            yield int(path.name)


def _awaited(reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_time_is_up() -> None:
    found = ended("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", wall=2.0)
    assert found.status is None
    assert found.report is None
    assert found.seconds < 60


def test_processor_time_is_limited() -> None:
    assert ended("while True: pass\n", cpu_seconds=1).status == -signal.SIGXCPU


LIMITED = """
import os, resource, subprocess, pytest
def test_memory():
    with pytest.raises(MemoryError):
        bytearray(4 * 2**30)
def test_file_size():
    with pytest.raises(OSError):
        with open(os.path.join(os.environ["TMPDIR"], "large"), "wb") as file:
            file.truncate(2**40)
def test_processes():
    running = []
    with pytest.raises(OSError):
        for _ in range(40):
            running.append(subprocess.Popen(["sleep", "60"]))
    assert len(running) < 40
def test_for_good():
    with pytest.raises(ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))
def test_places():
    assert os.listdir(os.environ["HOME"]) == []
    with pytest.raises(PermissionError):
        open("tests/test_it.py", "a")
    with pytest.raises(PermissionError):
        os.mkdir("../more")
"""


@AS_ROOT
def test_memory_files_processes_and_places_are_limited() -> None:
    found = ended(LIMITED)
    assert found.status == 0, found.output


def _linked(where: Path) -> None:
    other = where.with_name("other")
    other.write_text("<testsuites/>")
    where.hardlink_to(other)


TRICKS: dict[str, Callable[[Path], object]] = {
    "link": lambda where: where.symlink_to("/etc/hostname"),
    "pipe": lambda where: os.mkfifo(where),
    "folder": lambda where: where.mkdir(),
    "huge": lambda where: where.touch() or os.truncate(where, 2**25),
    "hard_link": _linked,
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_a_report_is_a_plain_file_of_modest_size(tmp_path: Path, trick: Callable[[Path], object]) -> None:
    trick(tmp_path / "junit.xml")
    assert sandbox._left(tmp_path / "junit.xml", None) is None


@AS_ROOT
def test_a_report_of_somebody_else_is_none(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    assert sandbox._left(tmp_path / "junit.xml", 61_184) is None
    assert sandbox._left(tmp_path / "junit.xml", 0) == b"<testsuites/>"


@AS_ROOT
def test_a_closed_folder_for_temporary_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(closed))
    with pytest.raises(ConfigError, match="closed to other users: set TMPDIR"):
        ended("def test_it(): pass")
    assert list(closed.iterdir()) == []


@AS_ROOT
def test_an_interpreter_that_the_other_user_may_not_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "python"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(sys, "base_prefix", str(closed))
    with pytest.raises(ConfigError, match="install Python and the packages where all users may read them"):
        ended("def test_it(): pass")


@AS_ROOT
def test_each_worker_tests_with_a_user_of_its_own() -> None:
    mine = sandbox.other_user()
    assert mine in sandbox._USERS
    holder = subprocess.Popen(["sleep", "60"], user=mine, group=mine, extra_groups=[])
    try:
        assert sandbox.other_user() not in (mine, None)
    finally:
        holder.kill()
        holder.wait()
