"""An Airflow of the session's own (a home and a SQLite database), an MLflow server, and houses with models in them.

Airflow reads its environment when it is first imported, so that is set here, at the import of this file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="mlops-integration-"))
REPOSITORY = Path(__file__).resolve().parents[2]
_FOREIGN = ("AIRFLOW_", "_AIRFLOW_", "MLFLOW_", "DVC_", "GIT_")
_SETTINGS = {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "no-dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__FERNET_KEY": "4GAkQ5lRlLXbkA0YBNhCOyO4fBpaTiDs9ObEcWJeJsE=",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__API_AUTH__JWT_SECRET": "integration" * 8,
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "GX_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}

if "airflow.settings" in sys.modules:
    raise pytest.UsageError("airflow was imported before tests/integration/conftest.py could give it a home of its own")
for _name in [name for name in os.environ if name.startswith(_FOREIGN)]:
    del os.environ[_name]
os.environ |= _SETTINGS
(HOME / "no-dags").mkdir()

from tests.integration.house import House  # noqa: E402
from tests.integration.servers import MlflowServer, Options, S3Server  # noqa: E402

Houses = Callable[..., House]


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """The home of an Airflow whose database is there."""
    from airflow.utils.db import initdb

    initdb()
    return HOME


@pytest.fixture(scope="session")
def starting_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlflow_server(starting_mlflow: MlflowServer, airflow_home: Path) -> MlflowServer:
    """A real MLflow server on a free loopback port; it starts while Airflow's database is made."""
    starting_mlflow.wait()
    return starting_mlflow


@pytest.fixture(scope="session")
def houses(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Houses:
    """Builds installations, each with its folders, its data repository and its names in the one MLflow server."""

    def build(name: str) -> House:
        root = tmp_path_factory.mktemp(name)
        return House(root, prefix=f"{root.name}.", mlflow=mlflow_server.url)

    return build


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"A FULL DISK IS NOT TESTED: tmpfs cannot be mounted here ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def house(houses: Houses, request: pytest.FixtureRequest) -> House:
    """An installation of the test's own."""
    return houses(request.node.name.split("[")[0][:50])


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def options(s3_server: S3Server) -> Options:
    """Fsspec's options for a real S3 server."""
    return s3_server.options
