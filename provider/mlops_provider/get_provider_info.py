"""What the provider offers, as Airflow asks for it. Nothing is imported here: Airflow reads this in every process."""

from __future__ import annotations

from typing import Any

_ROOMS = ("data", "training", "release", "scoring", "monitoring")


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-provider-mlops",
        "name": "MLOps",
        "description": "Keeps machine-learning models alive: data, training, release, scoring and monitoring.",
        "versions": ["0.1.0"],
        "integrations": [
            {"integration-name": "MLOps", "external-doc-url": "https://mlflow.org/", "tags": ["software"]},
        ],
        "operators": [
            {
                "integration-name": "MLOps",
                "python-modules": [f"mlops_provider.operators.{room}" for room in ("plan", *_ROOMS)],
            }
        ],
        "hooks": [
            {
                "integration-name": "MLOps",
                "python-modules": [f"mlops_provider.hooks.{name}" for name in ("aws", "dvc", "mlflow", "sql")],
            }
        ],
        "sensors": [{"integration-name": "MLOps", "python-modules": _modules("sensors")}],
        "triggers": [{"integration-name": "MLOps", "python-modules": _modules("triggers")}],
        "extra-links": [
            f"mlops_provider.links.{name}" for name in ("ValidationReportLink", "MlflowRunLink", "ModelVersionLink")
        ],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "mlops_provider.hooks.mlflow.MlflowHook",
                "hook-name": "MLflow",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {"host": "Server", "login": "User"},
                    "placeholders": {
                        "host": "https://mlflow.example.com",
                        "port": "5000",
                        "login": "for basic authentication; empty for a token or none",
                    },
                },
                "conn-fields": {
                    "token": _field("Token", "Bearer token, in place of user and password.", format="password")
                },
            },
            {
                "connection-type": "dvc",
                "hook-class-name": "mlops_provider.hooks.dvc.DvcHook",
                "hook-name": "DVC data repository",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "extra"],
                    "relabeling": {"login": "Git user", "password": "Git token or password"},
                    "placeholders": {"login": "for https; empty for ssh and local paths"},
                },
                "conn-fields": _dvc_fields(),
            },
        ],
        "config": {"mlops": {"description": "Where the loops keep their things.", "options": _options()}},
    }


def _modules(floor: str) -> list[str]:
    return [f"mlops_provider.{floor}.{room}" for room in ("data", "training")]


def _dvc_fields() -> dict[str, Any]:
    return {
        "repository": _field(
            "Repository", "Git URL; that of model.yaml if empty. Example: https://git.example.com/data.git"
        ),
        "remote": _field("DVC remote", "URI of the content; that of model.yaml if empty. Example: s3://bucket/dvc"),
        "aws_conn_id": _field("AWS connection", "Connection with the credentials for a remote on S3."),
        "private_key": _field("SSH private key", "For git over ssh, without passphrase.", format="password"),
        "known_hosts": _field(
            "SSH known hosts", "Lines of known_hosts for the git server; the worker's if empty.", format="multiline"
        ),
    }


def _field(label: str, description: str, **schema: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], **schema}}


def _options() -> dict[str, Any]:
    return {
        "artifact_root": _option(
            "URI of the folder for everything that the loops write: ledger, features, models, predictions, reports.",
            example="s3://bucket/mlops",
        ),
        "data_root": _option(
            "URI that relative URIs in model.yaml start from; <artifact_root>/data if empty.",
            example="s3://bucket/landing",
        ),
        "environment": _option("Name of this environment; its overlays of model.yaml apply.", default="local"),
        "mlflow_conn_id": _option("Connection to the MLflow server.", default="mlflow_default"),
        "aws_conn_id": _option("Connection for URIs on S3.", default="aws_default"),
        "dvc_conn_id": _option(
            "Connection of type dvc with the data repository's places and credentials; if empty, those of model.yaml are "
            "used, and what the worker itself has access to.",
            example="dvc_default",
        ),
        "include_dir": _option(
            "Folder with models/ in it; include/ beside the DAG folder if empty.", example="/opt/include"
        ),
        "registry_prefix": _option(
            "Put before the names of registered models and experiments, for environments that share an MLflow server.",
            example="staging.",
        ),
    }


def _option(description: str, *, default: str = "", example: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": default,
    }
