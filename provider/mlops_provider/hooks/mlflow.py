"""Connection to an MLflow server."""

from __future__ import annotations

import http.client
import urllib.request
from typing import Any

from airflow.sdk import BaseHook

from mlops_provider.exceptions import ConfigError


class MlflowHook(BaseHook):
    """Resolves a connection of type ``mlflow`` to a tracking URI.

    :param mlflow_conn_id: id of the connection; its host is the server's address, with or without scheme.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> str:
        """The tracking URI.

        :raises ConfigError: if the connection has no host, or credentials, which are not supported yet.
        """
        found: Any = self.get_connection(self.mlflow_conn_id)
        if not found.host:
            raise ConfigError(
                f"connection {self.mlflow_conn_id!r} names no host: give the address of the MLflow server"
            )
        if found.login or found.password:
            raise ConfigError(
                f"connection {self.mlflow_conn_id!r} has a login or password: authentication is not supported yet, and "
                "going without it would hide that"
            )
        given = found.host.rstrip("/")
        host = given if "://" in given else f"{found.schema or 'http'}://{given}"
        return f"{host}:{found.port}" if found.port else str(host)

    def test_connection(self) -> tuple[bool, str]:
        """Asks the server whether it is healthy."""
        try:
            with urllib.request.urlopen(f"{self.get_conn()}/health", timeout=10) as answer:
                return True, f"MLflow answers: {answer.read(100).decode()}"
        except (ConfigError, OSError, http.client.HTTPException) as error:
            return False, str(error)
