"""Links from a task in the Airflow UI. `get_link` runs in the worker, after the task: it hands on what was pushed early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

REPORT = "validation_report"
REPORTS_PREFIX = "/mlops-reports"


class ValidationReportLink(BaseOperatorLink):
    """The page of the verdict, served by the plugin `mlops_reports`; also of a task that failed on it."""

    name = "Validation report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=REPORT) or "")


def report_address(model: str, uri: str) -> str:
    """Address of a report in the UI: a browser cannot open the file itself."""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{REPORTS_PREFIX}/{model}/{uri.rsplit('/', 1)[-1]}"
