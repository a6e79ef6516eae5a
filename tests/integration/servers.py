"""Servers that tests start on loopback and stop by process id."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops_provider.storage import Storage

Options = dict[str, dict[str, Any]]
_S3_PORTS = (
    *(f"-{server}.port{kind}" for server in ("master", "volume", "filer", "s3", "admin") for kind in ("", ".grpc")),
    "-s3.port.iceberg",
    "-s3.port.lance",
)


def free_ports(count: int) -> list[int]:
    """Loopback ports on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class MlflowServer:
    """An MLflow server.

    :param artifacts: where it keeps artifacts: a folder of its own if None.
    :param extra: further environment, for instance the keys to its artifacts.
    :param database: SQLAlchemy URL of its database; SQLite in its folder if None.
    """

    def __init__(
        self,
        folder: Path,
        artifacts: str | None = None,
        extra: Mapping[str, str] | None = None,
        database: str | None = None,
    ) -> None:
        self.folder, (self.port,) = folder, free_ports(1)
        self._database = database or f"sqlite:///{folder / 'mlflow.db'}"
        self._artifacts, self._extra = artifacts or str(folder / "artifacts"), dict(extra or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server and does not wait for it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self._database]
        command += ["--artifacts-destination", self._artifacts]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self._extra}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def stop(self) -> None:
        """Ends the server and its workers: the session of processes that it leads, and no other."""
        if self._process is None:
            return
        process, self._process = self._process, None
        _signal(process, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait(15)

    def wait(self, patience: float = 120.0) -> None:
        """Waits until the server answers."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        tail = (self.folder / "server.log").read_text()[-2000:]
        self.stop()
        raise RuntimeError(f"the MLflow server did not come up:\n{tail}")


class S3Server:
    """SeaweedFS with a bucket `mlops`, on loopback alone.

    :ivar options: fsspec's options to reach it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, ports = folder, dict(zip(_S3_PORTS, free_ports(len(_S3_PORTS)), strict=True))
        self.url = f"http://127.0.0.1:{ports['-s3.port']}"
        self.options: Options = {"s3": {"key": "test", "secret": "secret", "endpoint_url": self.url}}
        command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}"]
        command += [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]
        command += [f"{name}={port}" for name, port in ports.items()]
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret", "S3_BUCKET": "mlops"}
        with (folder / "log.txt").open("w") as log:
            self._process = subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log, cwd=folder)

    def wait(self) -> None:
        """Waits until a file can be written."""
        problem: Exception | None = None
        for _ in range(120):
            if self._process.poll() is not None:
                break
            try:
                Storage(self.options).write("s3://mlops/ready", b"ready")
                return
            except Exception as error:
                problem = error
                time.sleep(0.25)
        raise RuntimeError(f"{problem}\n{(self.folder / 'log.txt').read_text()[-3000:]}")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class QueueServer:
    """A stand-in for SQS: it keeps messages in memory and lets everybody in."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with (folder / "queue.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, patience: float = 120.0) -> None:
        """Waits until the server answers."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError("the queue server did not come up")

    def stop(self) -> None:
        _signal(self._process, signal.SIGTERM)
        self._process.wait(15)


def _signal(leader: subprocess.Popen[bytes], what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, what)


class Doorkeeper:
    """Stands before a server on loopback, and lets in only who brings this ``Authorization``.

    :ivar calls: method, path and status of every request.
    """

    def __init__(self, server: str, authorization: str) -> None:
        self.calls: list[tuple[str, str, int]] = []
        calls, host = self.calls, server.removeprefix("http://")

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != authorization:
                    return self.answer(401, b"You are not authenticated", {})
                behind = http.client.HTTPConnection(host, timeout=60)
                given = {
                    name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
                }
                behind.request(self.command, self.path, body, given)
                found = behind.getresponse()
                content = found.read()
                behind.close()
                return self.answer(found.status, content, {"Content-Type": found.headers.get("Content-Type", "")})

            def answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
                calls.append((self.command, self.path, status))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *told: Any) -> None:
                """Says nothing."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_one)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
