"""Operators, steps and ready-made DAGs that keep machine-learning models alive on Apache Airflow 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops_provider.api import job as job
    from mlops_provider.api import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` and `job`, imported when they are asked for: Airflow imports this package in every process."""
    if name not in ("job", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlops_provider import api

    return getattr(api, name)
