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
        "hooks": [{"integration-name": "MLOps", "python-modules": ["mlops_provider.hooks.mlflow"]}],
        "extra-links": ["mlops_provider.links.ValidationReportLink"],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "mlops_provider.hooks.mlflow.MlflowHook",
                "hook-name": "MLflow",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "password", "extra"],
                    "relabeling": {"host": "Server"},
                    "placeholders": {"host": "http://mlflow.example.com", "port": "5000"},
                },
            }
        ],
        "config": {"mlops": {"description": "Where the loops keep their things.", "options": _options()}},
    }


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
