"""`Deployment`: where this installation keeps its things. Facts of a deployment are never in a model.yaml."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from mlops_provider.checks import Frozen
from mlops_provider.config import ModelConfig, check_environment
from mlops_provider.exceptions import ConfigError
from mlops_provider.ledger import Ledger
from mlops_provider.sections import ENVIRONMENT
from mlops_provider.storage import Storage, join


class DvcAccess(Frozen):
    """How the data repository and its DVC remote are reached, where it is not by the process's own means.

    :param repository: git URL, in place of the one in model.yaml; `remote` likewise.
    :param storage_options: fsspec's options by protocol for the remote; the deployment's if empty.
    :param username: for git over https, with a token or password in `password`.
    :param private_key: for git over ssh; the host must stand in `known_hosts`, or in the worker's own if that is empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    repository: str = ""
    remote: str = ""
    storage_options: dict[str, dict[str, Any]] = Field({}, repr=False)
    username: str = ""
    password: str = Field("", repr=False)
    private_key: str = Field("", repr=False)
    known_hosts: str = ""


class MlflowAccess(Frozen):
    """An MLflow server and what lets us in: user and password, or a token, or nothing.

    :param uri: address of the server; empty where the deployment's own is meant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    uri: str = ""
    username: str = ""
    password: str = Field("", repr=False)
    token: str = Field("", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request to the server."""
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if not self.username:
            return {}
        told = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {told}"}


class Deployment(Frozen):
    """The facts that steps need beside the model and their arguments; travels with every request.

    :param artifact_root: URI of the folder for everything that steps write.
    :param data_root: URI that relative URIs in model.yaml start from.
    :param environment: name of this environment, one per Airflow.
    :param tracking_uri: MLflow server (http...) or database (sqlite:///...).
    :param registry_prefix: put before the names of registered models and experiments.
    :param actor: who acts: a DAG run, a terminal.
    :param mlflow: what lets us into the MLflow server; what MLflow itself finds in the environment if empty.
    :param dvc: the data repository's places and credentials, where a connection gives them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,), hide_input_in_errors=True)

    artifact_root: str
    data_root: str
    environment: str = "local"
    tracking_uri: str = ""
    registry_prefix: str = ""
    actor: str = "terminal"
    storage_options: dict[str, dict[str, Any]] = Field({}, repr=False)
    mlflow: MlflowAccess = MlflowAccess()
    dvc: DvcAccess = DvcAccess()

    @field_validator("environment")
    @classmethod
    def _environment(cls, name: str) -> str:
        if not re.fullmatch(ENVIRONMENT, name):
            raise ValueError(f"{name!r} is no name of an environment ({ENVIRONMENT})")
        return name

    @field_validator("registry_prefix")
    @classmethod
    def _prefix(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{0,60}", prefix):
            raise ValueError(f"{prefix!r} may hold letters, digits, '_', '.' and '-' only")
        return prefix

    @property
    def storage(self) -> Storage:
        return Storage(self.storage_options)

    def ledger(self, model: str) -> Ledger:
        return Ledger(self.storage, self.artifact_root, model)

    def under(self, *parts: str) -> str:
        """A URI under the artifact root."""
        return join(self.artifact_root, *parts)

    def source(self, uri: str, partition: str = "") -> str:
        """A URI from model.yaml: ``{partition}`` filled in, and under data_root if it is relative."""
        uri = uri.replace("{partition}", partition)
        return uri if "://" in uri or uri.startswith("/") else join(self.data_root, uri)

    def registered_name(self, config: ModelConfig) -> str:
        """The model's name in MLflow, for the registered model and the experiment alike."""
        return f"{self.registry_prefix}{config.name}"


def from_environment(environ: Mapping[str, str] | None = None) -> Deployment:
    """The deployment that a terminal or a pod finds in its environment: the same names that Airflow reads,
    ``AIRFLOW__MLOPS__ARTIFACT_ROOT`` and so on, and ``MLFLOW_TRACKING_URI``.

    :raises ConfigError: if the artifact root is not given.
    """
    environ = os.environ if environ is None else environ
    given = {key: environ.get(f"AIRFLOW__MLOPS__{key.upper()}", "") for key in _KEYS}
    if not given["artifact_root"]:
        raise ConfigError("AIRFLOW__MLOPS__ARTIFACT_ROOT is not set: name the folder for artifacts there")
    given["data_root"] = given["data_root"] or join(given["artifact_root"], "data")
    check_environment(given["environment"])
    return Deployment(
        tracking_uri=environ.get("MLFLOW_TRACKING_URI", ""), **{key: value for key, value in given.items() if value}
    )


_KEYS = ("artifact_root", "data_root", "environment", "registry_prefix")
