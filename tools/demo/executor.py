"""The demo's executor: Airflow's own LocalExecutor, whose tasks find the large libraries imported."""

from __future__ import annotations

from importlib import import_module

from airflow.executors import local_executor

# Imported and not used: a process must not fork after LightGBM has trained in it.
LIBRARIES = ("pandas", "lightgbm", "onnxruntime", "mlflow", "great_expectations", "dvc.repo", "evidently")


class LocalExecutor(local_executor.LocalExecutor):
    """Tasks run in forks of the scheduler: what it has imported costs them neither time nor memory of their own.

    A short task mostly imports: Great Expectations takes 2 s of one core, Evidently 3 s. The name stays Airflow's, which warns
    of its simple users beside an executor that it does not know to be a local one.
    """

    def start(self) -> None:
        """Import, then fork the workers."""
        for name in LIBRARIES:
            import_module(name)
        super().start()
