"""The environment of the demo's services: all they need is said here; no setting of the caller leaks in."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.demo.state import keep_secret, replace_file

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]
USER = "admin"
# An exported setting of another Airflow or MLflow would silently change the demo.
FOREIGN = ("AIRFLOW_", "MLFLOW_", "_AIRFLOW_", "DVC_", "GIT_", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS")
QUIET = {
    "GX_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PYTHONWARNINGS": "ignore",
}
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "MLOps demo"), ("EMAIL", "demo@localhost"))
}


@dataclass(frozen=True)
class Secrets:
    """Made once per home; readable by the owner only."""

    fernet_key: str
    jwt_secret: str
    password: str
    passwords_file: Path


def load_secrets(home: Path) -> Secrets:
    """Return the secrets of a home and make those that are missing."""
    folder = home / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = folder / "airflow_users.json"
    passwords = keep_secret(users, lambda: json.dumps({USER: secrets.token_urlsafe(18)}))
    return Secrets(
        fernet_key=keep_secret(folder / "fernet.key", _fernet_key),
        jwt_secret=keep_secret(folder / "jwt.secret", lambda: secrets.token_urlsafe(64)),
        password=str(json.loads(passwords)[USER]),
        passwords_file=users,
    )


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def write_launcher(home: Path) -> Path:
    """Write `home/bin/airflow` and return its folder, to stand first in PATH.

    Standalone starts its parts as `airflow scheduler` and so on. Two of them would open a log server on all
    interfaces, for which there is a flag but no setting; here the API server reads the logs from disk. A part that
    dies, as the scheduler may of a database that is locked for too long, would not be missed: it is started again,
    and after the fifth death all of standalone ends. The API server waits less long for a locked database.
    """
    launcher = home / "bin" / "airflow"
    airflow = shlex.quote(str(BIN / "airflow"))
    script = f"""#!/bin/sh
case "$1" in scheduler|triggerer) set -- "$@" --skip-serve-logs ;; esac
case "$1" in scheduler|triggerer|dag-processor|api-server) ;; *) exec {airflow} "$@" ;; esac
case "$1" in api-server) export AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS=tools.demo.sqlite.SHORT ;; esac
stopping=
trap 'stopping=yes; kill -TERM "$part" 2>/dev/null' TERM
for death in 1 2 3 4 5; do
    {airflow} "$@" &
    part=$!
    wait "$part"
    status=$?
    while kill -0 "$part" 2>/dev/null; do  # it was a signal to this script that ended the wait
        wait "$part"
        status=$?
    done
    if [ "$stopping" ] || [ "$status" -eq 0 ]; then exit "$status"; fi
    echo "airflow $1 ended with status $status (death $death of 5)"
    sleep 1
done
echo "airflow $1 does not stay alive: all stops"
kill -INT "$PPID"
exit "$status"
"""
    replace_file(launcher, script, mode=0o700)
    return launcher.parent


def common_environment(home: Path) -> dict[str, str]:
    """Return the caller's environment without foreign settings, with our programs, a git identity, no telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join([str(write_launcher(home)), str(BIN), kept.get("PATH", os.defpath)])
    # A proxy for the way out must not be asked for the way to a neighbour process.
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1,localhost"]))
    return {**kept, **QUIET, **WHO, "PATH": path, "NO_PROXY": direct, "no_proxy": direct}


def mlflow_environment(home: Path) -> dict[str, str]:
    """Return the environment of the MLflow server."""
    # Its job runner (for judging text models) costs 240 MB and seconds of start-up, and has no work here.
    return {**common_environment(home), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def mlflow_command(home: Path, port: int) -> list[str]:
    """Return the command of an MLflow server on SQLite that hands out artifacts itself."""
    return [
        *(str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home}/mlflow/mlflow.db"),
        *("--artifacts-destination", str(home / "mlflow" / "artifacts")),
    ]


def airflow_environment(
    home: Path, folders: Mapping[str, Path], ports: Mapping[str, int], keys: Secrets
) -> dict[str, str]:
    """Return the environment of Airflow; `folders` names dags, plugins and include."""
    sections = {
        **_core(home, folders, keys),
        **_api(ports["airflow"], keys),
        **_pace(),
        "MLOPS__ARTIFACT_ROOT": str(home / "artifacts"),
        "MLOPS__DATA_ROOT": str(home / "data"),
        "MLOPS__ENVIRONMENT": "demo",
        "MLOPS__INCLUDE_DIR": str(folders["include"]),
        "MLOPS__MLFLOW_CONN_ID": "mlflow_default",
        "LOGGING__WORKER_LOG_SERVER_PORT": str(ports["worker_logs"]),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["trigger_logs"]),
        "LOGGING__COLORED_CONSOLE_LOG": "False",
    }
    connection = {"conn_type": "mlflow", "host": "http://127.0.0.1", "port": ports["mlflow"]}
    return {
        **common_environment(home),
        **{f"AIRFLOW__{name}": value for name, value in sections.items()},
        "AIRFLOW_HOME": str(home / "airflow"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(connection),
    }


def _core(home: Path, folders: Mapping[str, Path], keys: Secrets) -> dict[str, str]:
    return {
        "CORE__EXECUTOR": "tools.demo.executor.LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__DAGS_FOLDER": str(folders["dags"]),
        "CORE__PLUGINS_FOLDER": str(folders["plugins"]),
        "CORE__FERNET_KEY": keys.fernet_key,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(keys.passwords_file),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow/airflow.db",
        "DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "tools.demo.sqlite.LONG",
    }


def _api(port: int, keys: Secrets) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API__BASE_URL": url,
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",  # else 8080, whatever the port above says
        "API__SECRET_KEY": keys.jwt_secret,
        "API_AUTH__JWT_SECRET": keys.jwt_secret,
    }


def _pace() -> dict[str, str]:
    """Return the settings that trade idle processor time for short waits between tasks."""
    return {
        # From task to task: 0.95 s at the default of 1, 0.2 s at 0.25, 0.07 s at 0.1; that costs an idle
        # scheduler 14 % of one core (7 % at 0.25).
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "WORKERS__EXECUTION_API_TIMEOUT": "30",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
    }
