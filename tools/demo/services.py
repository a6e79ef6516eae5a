"""Real services on loopback below one home directory: Airflow, an MLflow server and a data repository."""

from __future__ import annotations

import atexit
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from tools.demo.environment import (
    BIN,
    REPOSITORY,
    USER,
    airflow_environment,
    common_environment,
    load_secrets,
    mlflow_command,
    mlflow_environment,
)
from tools.demo.interrupts import Interrupts
from tools.demo.processes import PidFile, Server, end_processes, start_server, stop_servers
from tools.demo.rest import AirflowApi
from tools.demo.state import HomeLock, ServiceError, settle_ports

PORTS = ("airflow", "mlflow", "worker_logs", "trigger_logs")
# Most stops take 3 to 5 s. In half of them the triggerer sleeps 10 s or more after its child has ended, deaf to
# SIGTERM. A task that still runs gets no longer either: tasks can be killed and repeated.
GRACE = 6.0


class Services:
    """Airflow, MLflow and a data repository for as long as the `with` block runs; a home can be used again.

    Ctrl-C, SIGTERM or a closed terminal raise KeyboardInterrupt or SystemExit in the block, and every way out of
    it stops all processes; a second Ctrl-C kills what still runs. What a killed demo left ends at the next start.
    """

    def __init__(
        self,
        home: Path = REPOSITORY / ".demo",
        *,
        dags: Path = REPOSITORY / "dags",
        plugins: Path = REPOSITORY / "plugins",
        include: Path = REPOSITORY / "include",
        extra_env: Mapping[str, str] | None = None,
        timeout: float = 240.0,
        say: Callable[[str], None] = print,
    ) -> None:
        """Only remember: the start is `__enter__`.

        `extra_env` is added to Airflow's environment and wins; `timeout` seconds is what a start may take.
        """
        self.home = home.resolve()
        self.folders = {"dags": dags.resolve(), "plugins": plugins.resolve(), "include": include.resolve()}
        self.extra_env = dict(extra_env or {})
        self.timeout = timeout
        self.say = say
        self.data_repository = self.home / "data" / "repository.git"
        self.artifacts = self.home / "artifacts"
        self.data = self.home / "data"
        self.logs = self.home / "logs"
        self.username = USER
        self.password = ""
        self.ports: dict[str, int] = {}
        self.env: dict[str, str] = {}
        """Airflow's environment, also right for a command-line call of airflow, dvc or git."""
        self._interrupts = Interrupts()
        self._pids = PidFile(self.home)
        self._servers: list[Server] = []
        self._holds_home = False
        self._stack = ExitStack()

    @property
    def airflow_url(self) -> str:
        """The address of Airflow's UI and REST API."""
        return f"http://127.0.0.1:{self.ports['airflow']}"

    @property
    def mlflow_url(self) -> str:
        """The address of MLflow's UI and REST API."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def api(self) -> AirflowApi:
        """Return a client of Airflow's REST API; close it or use it in a `with` block."""
        return AirflowApi(self.airflow_url, self.username, self.password)

    def __enter__(self) -> Self:
        """Start everything and wait until it is healthy.

        ServiceError if the home is in use, a service ends or the time is over; then nothing is left running.
        """
        self._interrupts = Interrupts()
        atexit.register(self.stop)  # for an interrupt that falls exactly between the block and __exit__
        try:
            self._prepare()
            with self._interrupts.shielded():
                self._start()
                self._await_health()
        except BaseException:
            self._stop_and_restore()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, however the block ended."""
        self._stop_and_restore()

    def _prepare(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.enter_context(HomeLock(self.home))
        self._holds_home = True
        self._stack.enter_context(self._interrupts)
        self._end_leftovers()
        for folder in (self.artifacts, self.data, self.home / "airflow", self.home / "mlflow"):
            folder.mkdir(exist_ok=True)
        keys = load_secrets(self.home)
        self.password = keys.password
        self.ports = settle_ports(self.home / "ports.json", PORTS)
        self.env = {**airflow_environment(self.home, self.folders, self.ports, keys), **self.extra_env}
        self._make_repository()

    def _end_leftovers(self) -> None:
        """End what a demo that was killed could not stop: it would hold ports and databases."""
        if left := self._pids.survivors():
            self.say(f"Ending {len(left)} processes that a killed demo left behind")
            end_processes(self._pids.survivors, grace=5.0)
        self._pids.write([])

    def _make_repository(self) -> None:
        """Create the bare data repository; on one that exists this changes nothing."""
        if (self.data_repository / "HEAD").exists():
            return
        env = common_environment(self.home)
        for command in (["init", "-q", "--bare"], ["symbolic-ref", "HEAD", "refs/heads/main"]):
            git = ["git", f"--git-dir={self.data_repository}", *command]
            done = subprocess.run(git, env=env, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode:
                raise ServiceError(f"{' '.join(git)} failed: {done.stderr.strip()}")

    def _start(self) -> None:
        """Start both servers at once: either uses one core most of the time."""
        self._start_mlflow()
        # At SIGTERM standalone would leave its children behind; only SIGINT makes it stop them.
        self._launch("airflow", [str(BIN / "airflow"), "standalone"], self.env, signal.SIGINT)

    def _start_mlflow(self) -> None:
        command = mlflow_command(self.home, self.ports["mlflow"])
        self._launch("mlflow", command, mlflow_environment(self.home), signal.SIGTERM)

    def stop_mlflow(self) -> None:
        """Take MLflow away while the rest goes on, as an outage would."""
        gone = [server for server in self._servers if server.name == "mlflow"]
        stop_servers(gone, grace=GRACE)
        self._servers = [server for server in self._servers if server not in gone]

    def restart_mlflow(self) -> None:
        """Bring MLflow back at its old place and wait until it is healthy."""
        self._start_mlflow()
        self._await_health()

    def _launch(self, name: str, command: list[str], env: Mapping[str, str], stop: signal.Signals) -> None:
        server = start_server(name, command, env=env, home=self.home, stop_signal=stop)
        self._servers.append(server)
        self._pids.write(self._servers)

    def _await_health(self) -> None:
        deadline = time.monotonic() + self.timeout
        waiting = {"mlflow": self._mlflow_is_healthy, "airflow": self._airflow_is_healthy}
        with httpx.Client(trust_env=False, timeout=20.0) as client:
            while waiting:
                self._interrupts.deliver()
                self.check()
                for name in [name for name, healthy in waiting.items() if healthy(client)]:
                    del waiting[name]
                if waiting and time.monotonic() > deadline:
                    raise ServiceError(f"not healthy after {self.timeout:.0f} s: {self._describe(waiting)}")
                time.sleep(0.25)

    def check(self) -> None:
        """Raise ServiceError, with the end of its log, if a service has ended by itself."""
        for server in self._servers:
            if (code := server.popen.poll()) is not None:
                raise ServiceError(f"{server.name} ended with status {code}: {self._describe([server.name])}")

    def _describe(self, names: Mapping[str, object] | list[str]) -> str:
        """Return the ends of the logs of these services, with their paths."""
        return "\n".join(
            f"{server.name}, the end of {server.log}:\n{server.tail()}"
            for server in self._servers
            if server.name in names
        )

    def _mlflow_is_healthy(self, client: httpx.Client) -> bool:
        return _get(client, f"{self.mlflow_url}/health") is not None

    def _airflow_is_healthy(self, client: httpx.Client) -> bool:
        """Tell whether all four parts send heartbeats and the API that tasks talk to answers.

        The first call of that API builds it, which takes seconds: better now than in the first task.
        """
        health = _get(client, f"{self.airflow_url}/api/v2/monitor/health")
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        if health is None or any(health.json()[part]["status"] != "healthy" for part in parts):
            return False
        return _get(client, f"{self.airflow_url}/execution/health") is not None

    def stop(self) -> None:
        """Stop all services and whatever else runs for this home; calling it again does no harm."""
        self._interrupts.stopping()
        try:
            stop_servers(self._servers, grace=GRACE, hurry=self._interrupts.hurried)
        finally:
            if self._holds_home:  # else what runs there belongs to the demo that does
                end_processes(self._pids.survivors, grace=2.0, hurry=self._interrupts.hurried)
                self._pids.write([])
            self._servers, self._holds_home = [], False
            atexit.unregister(self.stop)

    def _stop_and_restore(self) -> None:
        """Stop, then give the signals and the lock back."""
        try:
            self.stop()
        finally:
            self._stack.close()


def _get(client: httpx.Client, url: str) -> httpx.Response | None:
    """Return the answer, or None while there is none or it is an error (a service that is starting)."""
    try:
        answer = client.get(url)
    except httpx.TransportError:
        return None
    return answer if answer.is_success else None
