"""What notices training: versions of registered models, and the end of an MLflow run.

Those with an `asset` are for `AssetWatcher`, those without for the sensors; see triggers/base.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlops_provider.arrivals import Cursor
from mlops_provider.operators.base import mlflow_access, mlflow_conn_id
from mlops_provider.storage import digest
from mlops_provider.tracking import Server, Wanted
from mlops_provider.triggers.base import NAMED, Announcing, Awaiting, Polling


class _OnServer(Polling):
    """Looks at an MLflow server.

    :param poll: seconds between two looks.
    :param conn_id: connection of type ``mlflow``; [mlops] mlflow_conn_id if None.
    """

    def __init__(self, *, poll: float = 60.0, conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(conn_id=conn_id, poll=poll, **kwargs)

    @property
    def place(self) -> str:
        """The connection, by name: it is resolved where one looks."""
        return self.kwargs["conn_id"] or mlflow_conn_id()


class _Registry(_OnServer):
    """Looks at registered models: in one look at all of them, for whoever looks for one.

    :param name: shell pattern of the registered names, such as ``staging.*``; a model of ours has [mlops] registry_prefix
        before its own name.
    :param alias: the version with this alias.
    :param tag: versions with this tag, ``key=value``. Neither: the newest version of each model.
    :param kwargs: see `_OnServer`.
    """

    shared = ("conn_id", "tag", "poll")

    def __init__(self, *, name: str = "*", alias: str | None = None, tag: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, alias=alias, tag=tag, **kwargs)
        self.wanted = Wanted(name=name, alias=alias, tag=tag)

    @classmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        wanted = Wanted(tag=kwargs["tag"])
        return lambda: wanted.look(Server(mlflow_access(kwargs["conn_id"])))

    def mine(self, complete: dict[str, str]) -> dict[str, str]:
        return self.wanted.among(complete)


class ModelVersionTrigger(_Registry, Announcing):
    """Announces versions of registered models that are new: with an alias that has moved, with a tag, or just the newest.

    :param asset: name of the asset in whose watcher this stands; its state store keeps what was announced.
    :param kwargs: see `_Registry`.
    """

    def __init__(self, *, asset: str, **kwargs: Any) -> None:
        super().__init__(asset=asset, **kwargs)

    @property
    def cursor_key(self) -> str:
        return f"mlops.announced.{digest([self.place, *self.wanted.model_dump().values()])[:12]}"

    def payload(self, news: list[str], complete: dict[str, str]) -> dict[str, Any]:
        found = self.wanted.told({place: complete[place] for place in news[-NAMED:]})
        return {"what": "model_versions", "alias": self.wanted.alias, "tag": self.wanted.tag, "versions": found}


class AwaitModelVersionTrigger(_Registry, Awaiting):
    """Waits for versions of registered models that are not among `seen`.

    :param seen: what was found before, as a look has it.
    :param kwargs: see `_Registry`.
    """

    def __init__(self, *, seen: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(seen=seen or {}, **kwargs)

    def chosen(self, complete: dict[str, str]) -> list[dict[str, Any]] | None:
        news = Cursor(seen=self.kwargs["seen"]).news(complete)
        return self.wanted.told({place: complete[place] for place in news}) or None


class RunTrigger(_OnServer, Awaiting):
    """Waits until an MLflow run has ended, however it did.

    :param run_id: id of the run.
    :param kwargs: see `_OnServer`.
    """

    shared = ("conn_id", "run_id", "poll")

    def __init__(self, *, run_id: str, **kwargs: Any) -> None:
        super().__init__(run_id=run_id, **kwargs)

    @classmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        run_id = kwargs["run_id"]

        def look() -> dict[str, str]:
            status = Server(mlflow_access(kwargs["conn_id"])).ended(run_id)
            return {run_id: status} if status else {}

        return look

    def chosen(self, complete: dict[str, str]) -> dict[str, str] | None:
        run_id = self.kwargs["run_id"]
        return {"run_id": run_id, "status": complete[run_id]} if run_id in complete else None
