"""Connection to an MLflow server."""

from __future__ import annotations

import re
from typing import Any

from airflow.sdk import BaseHook

from mlops_provider.deployment import MlflowAccess
from mlops_provider.exceptions import ConfigError, MlopsError

_FIELDS = ("token",)


class MlflowHook(BaseHook):
    """Resolves a connection of type ``mlflow`` to an address and credentials.

    Login and password are for basic authentication; ``token`` in the extra is a bearer token, for a server behind a proxy
    that asks for one. Any other key in the extra is refused.

    :param mlflow_conn_id: id of the connection; its host is the server's address, with or without scheme.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> MlflowAccess:
        """Address and credentials, as steps get them.

        :raises ConfigError: if the connection has no host, or credentials that do not fit together.
        """
        found: Any = self.get_connection(self.mlflow_conn_id)
        if not found.host:
            raise self._refused("names no host: give the address of the MLflow server")
        return MlflowAccess(uri=_address(found), **self._credentials(found))

    def _credentials(self, found: Any) -> dict[str, str]:
        if not isinstance(found.extra_dejson, dict):
            raise self._refused("has an extra that is no JSON object")
        extra = {key: str(value or "") for key, value in found.extra_dejson.items()}
        if unknown := sorted(set(extra) - set(_FIELDS)):
            raise self._refused(f"has {', '.join(unknown)} in its extra; known is {', '.join(_FIELDS)}")
        token = extra.get("token", "")
        if token and (found.login or found.password):
            raise self._refused("has a token and a login or password: give one or the other")
        if bool(found.login) != bool(found.password):
            raise self._refused("has a login without a password or a password without a login: give both, or a token")
        if not re.fullmatch(r"[!-~]*", token):
            raise self._refused(
                "has a token with characters that no header may have: is there a space or a line end in it?"
            )
        if "@" in found.host:
            raise self._refused("has credentials in its host: put them into login and password")
        return {"token": token, "username": found.login or "", "password": found.password or ""}

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(f"connection {self.mlflow_conn_id!r} {why}")

    def test_connection(self) -> tuple[bool, str]:
        """Asks the server for a registered model: its page of health would answer without credentials."""
        from mlops_provider.tracking import Server

        try:
            access = self.get_conn()
            Server(access).ask("registered-models/search", max_results=1)
        except MlopsError as error:
            return False, str(error)
        return True, f"MLflow at {access.uri} answers and lets us in."


def _address(found: Any) -> str:
    given = found.host.rstrip("/")
    host = given if "://" in given else f"{found.schema or 'http'}://{given}"
    return f"{host}:{found.port}" if found.port else str(host)
