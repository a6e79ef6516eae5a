"""Sensors that wait for data: a new partition, labels, a new data version.

Deferrable: the wait takes no worker slot, and all sensors and watchers of one source share one look (see triggers/data.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from airflow.sdk import Context

from mlops_provider.arrivals import Cursor, Lookout
from mlops_provider.operators.base import git_access
from mlops_provider.partitions import Frequency
from mlops_provider.sensors.base import WaitingSensor
from mlops_provider.triggers.data import (
    Complete,
    PartitionTrigger,
    VersionTrigger,
    look_out,
    of_model,
    partition_source,
    versions,
)


class NewPartitionSensor(WaitingSensor):
    """Waits until a partition of a source is there and complete, and returns its name.

    Of a model (its inputs, its `data.watch`), or of any source.

    :param model: name of the model; templated.
    :param source: URI of a file or folder with ``{partition}``, under [mlops] data_root if relative; templated.
    :param partition: the one to wait for; templated. If None or empty, the next one: the first that is later than the one
        that the sensor found in an earlier run. Give the DAG ``max_active_runs=1`` then.
    :param frequency: monthly, daily or hourly; a model says it itself.
    :param complete: ``stable``: the same in two looks. ``marker``: a file named `marker` beside it. ``rows``: at least `rows`
        rows of parquet. A model says it itself.
    :param aws_conn_id: connection for S3; [mlops] aws_conn_id if None.
    """

    template_fields: Sequence[str] = ("model", "source", "partition")
    labels = False

    def __init__(
        self,
        *,
        model: str | None = None,
        source: str | None = None,
        partition: str | None = None,
        frequency: Frequency = "monthly",
        complete: Complete = "stable",
        marker: str = "_SUCCESS",
        rows: int = 1,
        aws_conn_id: str | None = None,
        include: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, include=include, watched=[source, str(self.labels)], **kwargs)
        if (model is None) == (source is None):
            raise ValueError(f"{self.task_id}: give model or source, and not both")
        self.source = source
        self.partition = partition
        self.frequency = frequency
        self.complete = complete
        self.marker = marker
        self.rows = rows
        self.aws_conn_id = aws_conn_id
        self._lookout: Lookout | None = None

    def looked(self, context: Context) -> str | None:
        asked = self._asked(context)
        if self._lookout is None:
            self._lookout = Lookout(partition_source(asked), self._before(context))
        complete = look_out(self._lookout, self.aws_conn_id)
        if self.reschedule:
            before = {name: token for name, token in self._lookout.before.items() if name > asked["after"]}
            context["task_state_store"].set("looked", cast("Any", before))
        return min((name for name in complete if name > asked["after"]), default=None)

    def _before(self, context: Context) -> Any:
        """The last look: two are needed to see that a file no longer grows, and in the mode `reschedule` each is a process."""
        return context["task_state_store"].get("looked") if self.reschedule else None

    def trigger(self, context: Context) -> PartitionTrigger:
        return PartitionTrigger(**self._asked(context), poll=self.poke_interval)

    def pinned(self, context: Context) -> Any:
        return None if self.partition else super().pinned(context)

    def remember(self, context: Context, found: str) -> None:
        if not self.partition and found > (self.recalled(context) or ""):
            self.write_down(context, found)

    def _asked(self, context: Context) -> dict[str, Any]:
        when = {"complete": self.complete, "marker": self.marker, "rows": self.rows}
        about = {"source": self.source, "frequency": self.frequency, **when}
        if self.model:
            about = of_model(self.configuration(), labels=self.labels)
        after = "" if self.partition else self.recalled(context) or ""
        return {**about, "partition": self.partition or None, "after": after, "aws_conn_id": self.aws_conn_id}


class LabelsArrivedSensor(NewPartitionSensor):
    """Waits until the labels of a partition are there and complete, and returns the partition's name.

    The parameters are those of `NewPartitionSensor`; of a model, the labels are looked at.
    """

    labels = True


class DataVersionSensor(WaitingSensor):
    """Waits for new versions in a data repository, and returns them: revision by tag (or by branch).

    New is what no earlier run of this sensor has found; in its first run, all that is there.

    :param model: name of the model, whose repository is looked at: the connection's, or that of model.yaml; templated.
    :param repository: path or URL of a git repository, under [mlops] data_root if relative; templated.
    :param tags: shell pattern of the tags that count; templated. Those of the model's data if None.
    :param branch: look at the commits of this branch instead of tags; templated.
    :param conn_id: connection of type ``dvc``; if None, [mlops] dvc_conn_id, unless that one names another repository.
    """

    template_fields: Sequence[str] = ("model", "repository", "tags", "branch")

    def __init__(
        self,
        *,
        model: str | None = None,
        repository: str | None = None,
        tags: str | None = None,
        branch: str | None = None,
        conn_id: str | None = None,
        include: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, include=include, watched=[repository, tags, branch], **kwargs)
        if (model is None) == (repository is None):
            raise ValueError(f"{self.task_id}: give model or repository, and not both")
        self.repository = repository
        self.tags = tags
        self.branch = branch
        self.conn_id = conn_id

    def looked(self, context: Context) -> dict[str, str] | None:
        found = versions(self._asked())
        news = self._cursor(context).news(found)
        return {name: found[name] for name in news} or None

    def trigger(self, context: Context) -> VersionTrigger:
        return VersionTrigger(**self._asked(), seen=self._cursor(context).seen, poll=self.poke_interval)

    def remember(self, context: Context, found: dict[str, str]) -> None:
        self.write_down(context, self._cursor(context).after(found, remembered=None).model_dump())

    def _cursor(self, context: Context) -> Cursor:
        return Cursor.model_validate(self.recalled(context) or {})

    def _asked(self) -> dict[str, Any]:
        repository, tags = self.repository, self.tags
        if self.model:
            dvc = self.configuration().data.dvc
            repository = git_access(self.conn_id).repository or dvc.repository
            tags = tags or f"{dvc.path}/*"
        return {"repository": repository, "tags": tags or "*", "branch": self.branch, "conn_id": self.conn_id}
