"""The plugin that comes with the wheel by entry point. Every component of Airflow imports this: nothing heavy up here."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from mlops_provider.links import REPORTS_PREFIX


class ReportsPlugin(AirflowPlugin):
    """Serves the validation reports under the artifact root to users of the UI.

    Not named `mlops`: that is the repository's own plugin, and a second one of a name is an import error to Airflow.
    """

    name = "mlops_reports"

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Built only where it is asked for, in the API server: FastAPI costs the others a quarter of a second."""
        from mlops_provider.plugin.reports import app

        return [{"app": app, "url_prefix": REPORTS_PREFIX, "name": "Validation reports"}]
