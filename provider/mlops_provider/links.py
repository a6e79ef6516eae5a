"""Links from a task in the Airflow UI. `get_link` runs in the worker, after the task: it hands on what was pushed early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

REPORT = "validation_report"
RUN = "mlflow_run"
VERSION = "mlflow_version"
REPORTS_PREFIX = "/mlops-reports"


class ValidationReportLink(BaseOperatorLink):
    """The page of the verdict, served by the plugin `mlops_reports`; also of a task that failed on it."""

    name = "Validation report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=REPORT) or "")


class MlflowRunLink(BaseOperatorLink):
    """The run in MLflow's own pages: parameters, metrics and artifacts."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=RUN) or "")


class ModelVersionLink(BaseOperatorLink):
    """The version in MLflow's registry: aliases, tags and lineage."""

    name = "Model version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=VERSION) or "")


def mlflow_addresses(server: str, registered: str, version: Mapping[str, Any]) -> dict[str, str]:
    """Addresses of a version's pages by the key of their XCom; none if MLflow is a database without a server.

    :param registered: name of the model in MLflow.
    :param version: its number and its run, as a step gave them.
    """
    if not server.startswith("http"):
        return {}
    pages = {RUN: f"runs/{version['run_id']}", VERSION: f"models/{quote(registered)}/versions/{version['version']}"}
    return {key: f"{server}/#/{page}" for key, page in pages.items()}


def report_address(model: str, uri: str) -> str:
    """Address of a report in the UI: a browser cannot open the file itself."""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{REPORTS_PREFIX}/{model}/{uri.rsplit('/', 1)[-1]}"
