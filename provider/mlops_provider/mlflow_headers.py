"""Credentials for MLflow, per call and never in the environment: MLflow asks us for headers of each of its requests.

MLflow imports this by the entry point ``mlflow.request_header_provider`` in every process that imports mlflow, so nothing
heavy may be imported here. What MLflow finds in its own environment variables comes before these headers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_provider.deployment import MlflowAccess

_CALLS = "MlflowHttpArtifactRepository", "MlflowMlflowArtifactsRepository"  # names of MLflow's threads for artifacts
_current: ContextVar[dict[str, str] | None] = ContextVar("mlops_mlflow_headers", default=None)
_open: list[dict[str, str]] = []
_lock = threading.Lock()


@contextmanager
def using(access: MlflowAccess) -> Iterator[None]:
    """While MLflow is called with these credentials."""
    headers = access.headers
    token = _current.set(headers)
    with _lock:
        _open.append(headers)
    try:
        yield
    finally:
        _current.reset(token)
        with _lock:
            _open.remove(headers)


class MlflowHeaders:
    """What MLflow's registry of header providers asks; of the form of its `RequestHeaderProvider`."""

    def in_context(self) -> bool:
        return bool(_headers())

    def request_headers(self) -> dict[str, str]:
        return _headers()


def _headers() -> dict[str, str]:
    """Those of the call that we are in. MLflow's own threads for artifacts do not know in which they are: they get them where
    only one set is in use, and none where there are several, as to mix them up would send one server's secret to another."""
    if (mine := _current.get()) is not None:
        return mine
    if not threading.current_thread().name.startswith(_CALLS):
        return {}
    with _lock:
        first, *others = _open or [{}]
        return first if all(other == first for other in others) else {}
