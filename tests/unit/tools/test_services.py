"""What the demo's services promise, without Airflow: ports, secrets, the lock, and that nothing outlives them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.demo import processes, services
from tools.demo.environment import airflow_environment, load_secrets, mlflow_environment, write_launcher
from tools.demo.interrupts import Interrupts
from tools.demo.processes import PidFile, Process, Server, end_processes, look, start_server, stop_servers
from tools.demo.rest import AirflowApi, ApiError
from tools.demo.services import Services
from tools.demo.state import HomeLock, ServiceError, keep_secret, replace_file, settle_ports

REPOSITORY = Path(__file__).resolve().parents[3]
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)  # as Airflow's task processes do
os.write(1, b'%d%c' % (os.getpid(), 10))
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "home"


@pytest.fixture
def launch(home: Path) -> Iterator[Callable[..., Server]]:
    """Start Python code as a server of the home; whatever a failed test leaves is killed."""
    started: list[Server] = []

    def start(code: str, stop_signal: signal.Signals = signal.SIGINT) -> Server:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        server = start_server("dummy", command, env=dict(os.environ), home=home, stop_signal=stop_signal)
        started.append(server)
        return server

    yield start
    for server in started:
        end_processes(server.members, grace=0, hurry=lambda: True)
        server.popen.wait()


def wait_for(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def said_lines(server: Server, count: int) -> list[str]:
    """Wait until the server has written that many lines, and return them."""
    wait_for(lambda: server.log.read_text().count("\n") >= count)
    return server.log.read_text().split()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Ports


def test_ports_stay_the_same_while_free(home: Path) -> None:
    first = settle_ports(home / "ports.json", ["a", "b"])
    assert len(set(first.values())) == 2
    assert settle_ports(home / "ports.json", ["a", "b"]) == first


def test_a_taken_port_is_replaced_and_the_other_kept(home: Path) -> None:
    first = settle_ports(home / "ports.json", ["a", "b"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["a"]))
        taken.listen()
        second = settle_ports(home / "ports.json", ["a", "b"])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 80}', '{"a": "http"}', "[]", "null"])
def test_damaged_ports_are_found_anew(home: Path, content: str) -> None:
    replace_file(home / "ports.json", content)
    assert settle_ports(home / "ports.json", ["a"])["a"] >= 20_000


# Secrets


def test_secrets_are_made_once_and_only_the_owner_reads_them(home: Path) -> None:
    first = load_secrets(home)
    files = sorted((home / "secrets").iterdir())
    assert [path.name for path in files] == ["airflow_users.json", "fernet.key", "jwt.secret"]
    assert {mode(path) for path in files} == {0o600}
    assert mode(home / "secrets") == 0o700
    assert load_secrets(home) == first
    assert load_secrets(home.parent / "other").password != first.password


def test_secrets_have_the_form_airflow_wants(home: Path) -> None:
    from cryptography.fernet import Fernet

    keys = load_secrets(home)
    Fernet(keys.fernet_key)
    assert len(keys.jwt_secret.encode()) >= 64
    assert json.loads(keys.passwords_file.read_text()) == {"admin": keys.password}


def test_a_secret_that_others_can_read_is_closed_again(home: Path) -> None:
    replace_file(home / "key", "old", mode=0o644)
    assert keep_secret(home / "key", lambda: "new") == "old"
    assert mode(home / "key") == 0o600


# Environment


PORTS = {"airflow": 20_001, "mlflow": 20_002, "worker_logs": 20_003, "trigger_logs": 20_004}


def test_foreign_settings_do_not_leak_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE", "GIT_DIR"):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("NO_PROXY", "intranet")
    folders = dict.fromkeys(("dags", "plugins", "include"), home)
    env = airflow_environment(home, folders, PORTS, load_secrets(home))
    assert "foreign" not in env.values()
    assert "foreign" not in mlflow_environment(home).values()
    assert env["AIRFLOW__CORE__EXECUTOR"] == "tools.demo.executor.LocalExecutor"
    assert env["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert json.loads(env["AIRFLOW_CONN_MLFLOW_DEFAULT"]) == {
        "conn_type": "mlflow",
        "host": "http://127.0.0.1",
        "port": 20_002,
    }


@pytest.fixture
def launcher(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The launcher of an airflow that is a shell script."""

    def write(script: str) -> Path:
        fake = home / "with a space"
        replace_file(fake / "airflow", f"#!/bin/sh\n{script}\n", mode=0o700)
        monkeypatch.setattr("tools.demo.environment.BIN", fake)
        return write_launcher(home) / "airflow"

    return write


@pytest.mark.parametrize(
    ("part", "flag"), [("scheduler", True), ("triggerer", True), ("api-server", False), ("", False)]
)
def test_the_launcher_keeps_log_servers_from_starting(launcher: Callable[[str], Path], part: str, flag: bool) -> None:
    said = subprocess.run([launcher('echo "$@"'), part], capture_output=True, text=True, timeout=10, check=True).stdout
    assert ("--skip-serve-logs" in said) is flag
    assert said.startswith(part)


def test_a_part_that_dies_is_started_again(launcher: Callable[[str], Path], home: Path) -> None:
    path = launcher(
        f'echo started >> "{home}/starts"; [ "$(wc -l < "{home}/starts")" -ge 2 ] || kill -9 $$; echo works'
    )
    done = subprocess.run([path, "scheduler"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["airflow scheduler ended with status 137 (death 1 of 5)", "works"]


def test_a_part_that_dies_for_ever_stops_everything(launcher: Callable[[str], Path], home: Path) -> None:
    path = launcher(f'echo started >> "{home}/starts"; exit 3')
    replace_file(path.with_name("sleep"), "#!/bin/sh\n", mode=0o700)
    standalone = f"""
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has not
subprocess.Popen([{str(path)!r}, 'triggerer'])
time.sleep(60)
"""
    env = {**os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", standalone], env=env, capture_output=True, timeout=30, check=False)
    assert b"KeyboardInterrupt" in done.stderr
    assert (home / "starts").read_text().count("started") == 5


def test_a_part_that_is_told_to_stop_stays_away(launcher: Callable[[str], Path], launch: Callable[..., Server]) -> None:
    path = launcher("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    server = launch(f"import os; os.execv({str(path)!r}, ['airflow', 'scheduler'])", signal.SIGTERM)
    said_lines(server, 1)
    server.ask_to_stop()
    assert server.popen.wait(timeout=10) == 7
    assert server.log.read_text() == "ready\n"


# The lock


def test_a_second_demo_in_one_home_is_refused(home: Path) -> None:
    home.mkdir()
    with HomeLock(home):
        with pytest.raises(ServiceError, match=f"process {os.getpid()}"), HomeLock(home):
            pass
        with pytest.raises(ServiceError, match="in use by another demo"), Services(home):
            pass
    with HomeLock(home):
        pass


def test_a_started_server_does_not_hold_the_lock(home: Path, launch: Callable[..., Server]) -> None:
    home.mkdir()
    with HomeLock(home):
        launch("import time; print('up', flush=True); time.sleep(60)")
    with HomeLock(home):
        pass


# Stop


def test_a_polite_server_ends_at_its_signal(launch: Callable[..., Server]) -> None:
    server = launch("import time\nprint('up', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('bye')")
    said_lines(server, 1)
    stop_servers([server], grace=10)
    assert server.popen.returncode == 0
    assert said_lines(server, 2) == ["up", "bye"]


def test_sigint_reaches_a_server_although_the_demo_ignores_it(launch: Callable[..., Server]) -> None:
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job that a script puts in the background
    try:
        server = launch("import time; print('up', flush=True); time.sleep(60)")
    finally:
        signal.signal(signal.SIGINT, old)
    said_lines(server, 1)
    stop_servers([server], grace=10)
    assert server.popen.returncode == -signal.SIGINT


def test_a_stubborn_server_and_its_child_are_killed(launch: Callable[..., Server]) -> None:
    server = launch(STUBBORN)
    pids = [int(word) for word in said_lines(server, 2)]
    stop_servers([server], grace=0.3)
    assert [look(pid) for pid in pids] == [None, None]
    assert server.popen.returncode == -signal.SIGKILL


def test_a_child_that_outlives_its_server_is_killed_too(launch: Callable[..., Server]) -> None:
    server = launch("import os, time\nif os.fork() == 0:\n  os.write(1, b'%d%c' % (os.getpid(), 10)); time.sleep(60)")
    child = int(said_lines(server, 1)[0])
    server.popen.wait(10)
    assert look(child) is not None
    stop_servers([server], grace=0.3)
    assert look(child) is None


def test_a_hurry_kills_at_once(launch: Callable[..., Server]) -> None:
    server = launch(STUBBORN)
    said_lines(server, 2)
    before = time.monotonic()
    stop_servers([server], grace=60, hurry=lambda: True)
    assert time.monotonic() - before < 5
    assert server.members() == []


def test_the_log_of_the_run_before_is_kept(launch: Callable[..., Server], home: Path) -> None:
    for word in ("first", "second"):
        assert launch(f"print('{word}')").popen.wait(10) == 0
    assert (home / "logs" / "dummy.log").read_text() == "second\n"
    assert (home / "logs" / "dummy.previous.log").read_text() == "first\n"


# What a killed demo leaves behind


def test_leftovers_are_recognised_and_ended(launch: Callable[..., Server], home: Path) -> None:
    server = launch(STUBBORN)
    pids = {int(word) for word in said_lines(server, 2)}
    PidFile(home).write([server])
    assert {process.pid for process in PidFile(home).survivors()} == pids
    end_processes(PidFile(home).survivors, grace=0.2)
    assert server.members() == []


def test_leftovers_are_found_by_their_marker_alone(launch: Callable[..., Server], home: Path) -> None:
    server = launch(
        "import os, time\nif os.fork() == 0: os.setsid()\nos.write(1, b'%d%c' % (os.getpid(), 10)); time.sleep(60)"
    )
    pids = {int(word) for word in said_lines(server, 2)}
    try:
        assert {process.pid for process in PidFile(home).survivors()} == pids
        assert PidFile(home.parent / "other").survivors() == []
    finally:
        end_processes(PidFile(home).survivors, grace=1)


def test_orphans_are_found_by_session_and_folder(
    launch: Callable[..., Server], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = launch(
        "import os, time\nif os.fork() == 0:\n  os.write(1, b'%d%c' % (os.getpid(), 10)); time.sleep(60)\ntime.sleep(1)"
    )
    child = int(said_lines(server, 1)[0])
    PidFile(home).write([server])
    server.popen.wait(10)
    monkeypatch.setattr(processes, "is_marked", lambda *_: False)  # as a renamed process has lost its marker
    assert [process.pid for process in PidFile(home).survivors()] == [child]


def test_a_stranger_with_a_recorded_number_is_spared(
    launch: Callable[..., Server], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = launch("import time; time.sleep(60)")
    found = look(server.popen.pid)
    assert found is not None
    monkeypatch.setattr(processes, "is_marked", lambda *_: False)
    replace_file(home / "pids.json", json.dumps([{"pid": found.pid, "started": found.started + 1}]))
    assert PidFile(home).survivors() == []
    replace_file(home / "pids.json", json.dumps([{"pid": found.pid, "started": found.started}]))
    assert PidFile(home).survivors() == [found]


def test_a_signal_is_not_sent_to_a_number_used_again(launch: Callable[..., Server]) -> None:
    server = launch("import time; print('up', flush=True); time.sleep(60)")
    said_lines(server, 1)
    found = look(server.popen.pid)
    assert found is not None
    processes._send(signal.SIGKILL, [Process(found.pid, found.session, found.started - 1)])
    time.sleep(0.2)
    assert server.popen.poll() is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"pid": 1}]', "null"])
def test_a_damaged_pid_file_counts_as_empty(home: Path, content: str) -> None:
    replace_file(home / "pids.json", content)
    assert PidFile(home).read() == {}


# Interrupts


def test_only_the_first_signal_raises() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert not interrupts.hurried()
        interrupts.stopping()
        assert not interrupts.hurried()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.hurried()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_kill_becomes_an_exit_with_its_status(signum: signal.Signals, status: int) -> None:
    with handled(signum, signal.SIG_DFL):
        with Interrupts(), pytest.raises(SystemExit) as exit_:
            signal.raise_signal(signum)
        assert exit_.value.code == status
        assert signal.getsignal(signum) is signal.SIG_DFL


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """Under nohup a closed terminal ends nothing."""
    with handled(signal.SIGHUP, signal.SIG_IGN), Interrupts():
        signal.raise_signal(signal.SIGHUP)


@contextmanager
def handled(signum: signal.Signals, how: signal.Handlers) -> Iterator[None]:
    """While this process, however it was started, handles a signal in this way."""
    before = signal.signal(signum, how)
    try:
        yield
    finally:
        signal.signal(signum, before)


def test_a_shield_holds_the_signal_back_until_its_end() -> None:
    steps: list[str] = []

    def interrupted(interrupts: Interrupts) -> None:
        with interrupts.shielded():
            signal.raise_signal(signal.SIGINT)
            steps.append("completed")
        steps.append("never reached")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        interrupted(interrupts)
    assert steps == ["completed"]


# Services, with dummies in place of Airflow and MLflow


@pytest.fixture
def dummies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the programs by ones that only wait, the last child of airflow even for ever."""
    programs = tmp_path / "bin"
    script = f"#!{sys.executable}\n{STUBBORN}"
    replace_file(programs / "airflow", script, mode=0o700)
    replace_file(programs / "mlflow", script, mode=0o700)
    monkeypatch.setattr(services, "BIN", programs)
    monkeypatch.setattr("tools.demo.environment.BIN", programs)
    monkeypatch.setattr(services, "GRACE", 0.3)
    return programs


def test_a_start_that_takes_too_long_shows_the_log_and_leaves_nothing(dummies: Path, home: Path) -> None:
    with (
        pytest.raises(ServiceError, match=r"not healthy after 1 s(?s:.)*logs/airflow\.log"),
        Services(home, timeout=1),
    ):
        pass
    assert (Services(home).data_repository / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert PidFile(home).survivors() == []
    assert not (home / "pids.json").exists()


def test_a_server_that_dies_shows_its_last_words_and_leaves_nothing(dummies: Path, home: Path) -> None:
    replace_file(dummies / "mlflow", "#!/bin/sh\necho no such table\nexit 3\n", mode=0o700)
    with pytest.raises(ServiceError, match=r"mlflow ended with status 3(?s:.)*no such table"), Services(home):
        pass
    assert PidFile(home).survivors() == []


def test_an_interrupt_while_a_server_starts_waits_until_it_is_known(
    dummies: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Server] = []

    def interrupted_start(*args: Any, **options: Any) -> Server:
        started.append(start_server(*args, **options))
        signal.raise_signal(signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(services, "start_server", interrupted_start)
    demo = Services(home)
    with pytest.raises(KeyboardInterrupt):
        demo.__enter__()
    # A second interrupt kills; a server that has not begun to ignore signals ends by the first.
    assert {server.popen.returncode for server in started} <= {-signal.SIGKILL, -signal.SIGINT}
    assert len(started) == 2
    assert PidFile(home).survivors() == []


def demo_process(home: Path, programs: Path) -> subprocess.Popen[str]:
    """Run the start of the dummies in a process of its own and wait until both are up."""
    code = f"""
from pathlib import Path
from tools.demo import environment, services
environment.BIN = services.BIN = Path({str(programs)!r})
services.GRACE = 60
with services.Services(Path({str(home)!r})): pass
"""
    demo = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    logs = [home / "logs" / "airflow.log", home / "logs" / "mlflow.log"]
    wait_for(lambda: all(log.exists() and log.read_text().count("\n") == 2 for log in logs), timeout=30)
    return demo


def test_a_second_interrupt_during_start_up_leaves_nothing(dummies: Path, home: Path) -> None:
    demo = demo_process(home, dummies)
    demo.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert demo.poll() is None, "the first interrupt asks and waits"
    demo.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in demo.communicate(timeout=20)[1]
    assert PidFile(home).survivors() == []


def test_a_restart_ends_what_a_killed_demo_left(dummies: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = demo_process(home, dummies)
    demo.kill()
    demo.communicate(timeout=20)
    left = PidFile(home).survivors()
    assert len(left) == 4
    said: list[str] = []
    with pytest.raises(ServiceError, match="not healthy"), Services(home, timeout=0.5, say=said.append):
        pass
    assert said == ["Ending 4 processes that a killed demo left behind"]
    assert [look(process.pid) for process in left] == [None] * 4


# The REST client


def client(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> AirflowApi:
    monkeypatch.setattr("tools.demo.rest.time.sleep", lambda _: None)
    api = AirflowApi("http://airflow", "admin", "secret")
    api._client = httpx.Client(base_url="http://airflow", transport=httpx.MockTransport(answer))
    return api


def test_an_expired_token_leads_to_one_new_login(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["old", "new", "too many"])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": next(tokens)})
        if request.headers["Authorization"] == "Bearer new":
            return httpx.Response(200, json={"ok": True})
        return httpx.Response(401, json={"detail": "Token Expired"})

    assert client(monkeypatch, answer).request("GET", "/x") == {"ok": True}
    assert next(tokens) == "too many"


@pytest.mark.parametrize(
    ("method", "error", "sent"),
    [("GET", httpx.ReadError, 5), ("POST", httpx.ReadError, 1), ("POST", httpx.ConnectError, 5)],
)
def test_only_what_cannot_happen_twice_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, method: str, error: type[httpx.TransportError], sent: int
) -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        calls.append(request.method)
        raise error("broken", request=request)

    with pytest.raises(ApiError, match=f"{method} /api/v2/x: {error.__name__}: broken"):
        client(monkeypatch, answer).request(method, "/x")
    assert len(calls) == sent


def test_a_refusal_names_the_call_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"detail": "Forbidden for you"})

    with pytest.raises(ApiError, match=r"POST /auth/token: 403 Forbidden: Forbidden for you") as refused:
        client(monkeypatch, answer).runs()
    assert refused.value.status == 403
