"""What notices data: new partitions, labels that arrived, new data versions.

Those with an `asset` are for `AssetWatcher`, those without for the sensors; see triggers/base.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from mlops_provider.arrivals import REMEMBERED, Cursor, Lookout, Repository, Source
from mlops_provider.exceptions import ConfigError
from mlops_provider.operators.base import git_access, located, storage_options
from mlops_provider.partitions import Frequency
from mlops_provider.sections import Completeness
from mlops_provider.storage import Storage
from mlops_provider.triggers.base import NAMED, Announcing, Awaiting, Polling

if TYPE_CHECKING:
    from mlops_provider.config import ModelConfig
    from mlops_provider.deployment import DvcAccess

log = logging.getLogger(__name__)

Complete = Literal["stable", "marker", "rows"]


class _Partitions(Polling):
    """Looks at the partitions of a source.

    :param source: URI with ``{partition}``; under [mlops] data_root if relative.
    :param frequency: monthly, daily or hourly.
    :param complete: stable, marker or rows; see `Completeness`.
    :param poll: seconds between two looks.
    :param aws_conn_id: connection for S3; [mlops] aws_conn_id if None.
    """

    shared = ("source", "frequency", "partition", "complete", "marker", "rows", "aws_conn_id", "poll")

    def __init__(
        self,
        *,
        source: str,
        frequency: Frequency = "monthly",
        complete: Complete = "stable",
        marker: str = "_SUCCESS",
        rows: int = 1,
        poll: float = 60.0,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        when = {"complete": complete, "marker": marker, "rows": rows}
        super().__init__(source=source, frequency=frequency, **when, poll=poll, aws_conn_id=aws_conn_id, **kwargs)

    @classmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        lookout = cache(lambda: Lookout(partition_source(kwargs)))
        return lambda: look_out(lookout(), kwargs["aws_conn_id"])


class _Versions(Polling):
    """Looks at the versions in a data repository.

    :param repository: path or URL of the git repository, under [mlops] data_root if relative; that of the connection if None.
    :param tags: shell pattern of the tags, such as ``flight_delays/*``.
    :param branch: the commits of this branch instead of tags.
    :param poll: seconds between two looks.
    :param conn_id: connection of type ``dvc``; if None, [mlops] dvc_conn_id, unless that one names another repository.
    """

    shared = ("repository", "tags", "branch", "conn_id", "poll")

    def __init__(
        self,
        *,
        repository: str | None = None,
        tags: str = "*",
        branch: str | None = None,
        poll: float = 60.0,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(repository=repository, tags=tags, branch=branch, poll=poll, conn_id=conn_id, **kwargs)

    @property
    def place(self) -> str:
        """The repository; the connection is not read here, as that blocks."""
        return super().place if self.kwargs["repository"] else f"the connection {self.kwargs['conn_id'] or ''}"

    @classmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        return lambda: versions(kwargs)


class PartitionTrigger(_Partitions, Awaiting):
    """Waits for one partition of a source.

    :param partition: the one that is waited for; if None, the first one after `after`.
    :param kwargs: see `_Partitions`.
    """

    def __init__(self, *, partition: str | None = None, after: str = "", **kwargs: Any) -> None:
        super().__init__(partition=partition, after=after, **kwargs)

    def chosen(self, complete: dict[str, str]) -> str | None:
        return min((name for name in complete if name > self.kwargs["after"]), default=None)


class NewPartitionTrigger(_Partitions, Announcing):
    """Announces partitions of a source that are new, or were delivered anew, once they are complete.

    :param asset: name of the asset in whose watcher this stands; its state store keeps what was announced.
    :param kwargs: see `_Partitions`.
    """

    remembered = REMEMBERED
    what = "inputs"

    def __init__(self, *, asset: str, **kwargs: Any) -> None:
        super().__init__(asset=asset, **kwargs)
        source_at(self.kwargs["source"], self.kwargs)  # a mistake in it is told where the DAG is parsed

    def payload(self, news: list[str], complete: dict[str, str]) -> dict[str, Any]:
        return {"what": self.what, "source": self.kwargs["source"], "partitions": news[-NAMED:]}


class LabelsArrivedTrigger(NewPartitionTrigger):
    """The same for labels: announces partitions whose labels are new, or were delivered anew, once they are complete."""

    what = "labels"


class VersionTrigger(_Versions, Awaiting):
    """Waits for data versions that are not among `seen`.

    :param seen: revision by version.
    :param kwargs: see `_Versions`.
    """

    def __init__(self, *, seen: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(seen=seen or {}, **kwargs)

    def chosen(self, complete: dict[str, str]) -> dict[str, str] | None:
        news = Cursor(seen=self.kwargs["seen"]).news(complete)
        return {name: complete[name] for name in news} or None


class DataVersionTrigger(_Versions, Announcing):
    """Announces new versions in a data repository: tags that fit a pattern, or commits of a branch.

    :param asset: name of the asset in whose watcher this stands; its state store keeps what was announced.
    :param kwargs: see `_Versions`.
    """

    def __init__(self, *, asset: str, **kwargs: Any) -> None:
        super().__init__(asset=asset, **kwargs)
        if repository := self.kwargs["repository"]:
            Repository(uri=repository)  # a mistake in it is told where the DAG is parsed

    def payload(self, news: list[str], complete: dict[str, str]) -> dict[str, Any]:
        found = {name: complete[name] for name in news[-NAMED:]}
        return {"what": "versions", "repository": self.kwargs["repository"], "versions": found}


def of_model(config: ModelConfig, *, labels: bool = False) -> dict[str, Any]:
    """The arguments that say what is looked at for a model: its inputs, or its labels."""
    data = config.data
    when = data.watch or Completeness()
    return {
        "source": data.label.source if labels else data.source,
        "frequency": data.partition,
        **when.model_dump(include=set(Completeness.model_fields)),
    }


def partition_source(kwargs: dict[str, Any]) -> Source:
    """The source that a trigger's or a sensor's arguments name."""
    return source_at(located(kwargs["source"]), kwargs)


def source_at(uri: str, kwargs: dict[str, Any]) -> Source:
    """The same with its place given."""
    when = Completeness(complete=kwargs["complete"], marker=kwargs["marker"], rows=kwargs["rows"])
    return Source(uri=uri, frequency=kwargs["frequency"], when=when, partition=kwargs.get("partition"))


def look_out(lookout: Lookout, aws_conn_id: str | None) -> dict[str, str]:
    """One look at a source; what is there and not complete is told in the log. It blocks."""
    uri = lookout.source.uri
    complete = lookout.look(Storage(storage_options(uri, aws_conn_id=aws_conn_id)))
    for name, why in lookout.waits.items():
        log.info("%s: not yet: %s", lookout.source.place(name), why)
    return complete


def versions(kwargs: dict[str, Any]) -> dict[str, str]:
    """One look at the data repository that a trigger's or a sensor's arguments name: revision by version. It blocks."""
    uri, access = reached(kwargs["repository"], kwargs["conn_id"])
    return Repository(uri=uri, tags=kwargs["tags"], branch=kwargs["branch"]).versions(access)


def reached(repository: str | None, conn_id: str | None) -> tuple[str, DvcAccess]:
    """A data repository and what lets us in; it blocks.

    :raises ConfigError: if neither a repository is given nor a connection that names one.
    """
    access = git_access(conn_id)
    if not (repository or access.repository):
        raise ConfigError("no data repository is given, and the connection ([mlops] dvc_conn_id) names none: give one")
    uri = located(repository or access.repository)
    # The credentials of the deployment's own repository are nothing for another one.
    foreign = conn_id is None and access.repository and located(access.repository) != uri
    return uri, type(access)() if foreign else access
