"""Sensors that wait for training: a version of a registered model, the end of an MLflow run.

Deferrable: the wait takes no worker slot, and all that look at one registry share one look (see triggers/training.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from mlops_provider.arrivals import Cursor
from mlops_provider.config import check_name
from mlops_provider.operators.base import mlflow_access, setting
from mlops_provider.sensors.base import WaitingSensor
from mlops_provider.tracking import Server, Wanted
from mlops_provider.triggers.training import AwaitModelVersionTrigger, RunTrigger


class ModelVersionSensor(WaitingSensor):
    """Waits for versions of registered models that no earlier run of this sensor has found, and returns names and versions.

    In its first run, what is there already counts as found.

    :param model: name of a model of ours; templated.
    :param name: shell pattern of registered names, in place of `model`; templated.
    :param alias: the version with this alias, whenever it has moved; templated.
    :param tag: versions with this tag, ``key=value``; templated. Neither of the two: the newest version of each model.
    :param conn_id: connection of type ``mlflow``; [mlops] mlflow_conn_id if None.
    """

    template_fields: Sequence[str] = ("model", "name", "alias", "tag")

    def __init__(
        self,
        *,
        model: str | None = None,
        name: str | None = None,
        alias: str | None = None,
        tag: str | None = None,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, include=None, watched=[name, alias, tag, conn_id], **kwargs)
        if (model is None) == (name is None):
            raise ValueError(f"{self.task_id}: give model or name, and not both")
        self.name = name
        self.alias = alias
        self.tag = tag
        self.conn_id = conn_id

    def looked(self, context: Context) -> list[dict[str, Any]] | None:
        wanted = self._wanted()
        found = wanted.among(wanted.look(Server(mlflow_access(self.conn_id))))
        news = self._cursor(context).news(found)
        return wanted.told({place: found[place] for place in news}) or None

    def trigger(self, context: Context) -> AwaitModelVersionTrigger:
        seen = self._cursor(context).seen
        wanted = self._wanted().model_dump()
        return AwaitModelVersionTrigger(**wanted, seen=seen, conn_id=self.conn_id, poll=self.poke_interval)

    def remember(self, context: Context, found: list[dict[str, Any]]) -> None:
        after = self._cursor(context).after(self._wanted().back(found), remembered=None)
        self.write_down(context, after.model_dump())

    def _cursor(self, context: Context) -> Cursor:
        return Cursor.model_validate(self.recalled(context) or {})

    def _wanted(self) -> Wanted:
        ours = f"{setting('registry_prefix')}{check_name(self.model)}" if self.model else None
        return Wanted(name=ours or self.name or "", alias=self.alias or None, tag=self.tag or None)


class TrainingRunSensor(WaitingSensor):
    """Waits until an MLflow run has finished, and returns its id and status. A run that failed or was killed fails the task.

    :param run_id: id of the run; templated.
    :param conn_id: connection of type ``mlflow``; [mlops] mlflow_conn_id if None.
    """

    template_fields: Sequence[str] = ("run_id",)

    def __init__(self, *, run_id: str, conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(model=None, include=None, watched=[run_id, conn_id], **kwargs)
        self.run_id = run_id
        self.conn_id = conn_id

    def looked(self, context: Context) -> dict[str, str] | None:
        status = Server(mlflow_access(self.conn_id)).ended(self.run_id)
        return {"run_id": self.run_id, "status": status} if status else None

    def trigger(self, context: Context) -> RunTrigger:
        return RunTrigger(run_id=self.run_id, conn_id=self.conn_id, poll=self.poke_interval)

    def pinned(self, context: Context) -> None:
        """Nothing: a run of the same id may be taken up again, so it is looked at anew."""

    def remember(self, context: Context, found: dict[str, str]) -> None:
        if found["status"] != "FINISHED":
            raise AirflowFailException(f"the MLflow run {found['run_id']} has ended as {found['status']}")
