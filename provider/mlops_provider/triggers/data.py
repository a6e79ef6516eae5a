"""What notices data: new partitions, labels that arrived, new data versions.

Those with an `asset` are for `AssetWatcher`: they announce what is new for as long as a DAG waits for that asset, and keep in
Airflow's asset state store what they have announced. Those without wait for one thing, for the sensors.

All that look at one source in one way share one look: Airflow 3.3 runs a stream for each `shared_stream_key`. What a look
finds is the whole state of the source, never a difference, so that who joins late or starts again misses nothing.

Nothing secret is among the arguments, since Airflow stores them: connections are named, and resolved in the triggerer.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Asset
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from mlops_provider.arrivals import REMEMBERED, Cursor, Lookout, Repository, Source
from mlops_provider.exceptions import ConfigError, MlopsError, Transient
from mlops_provider.operators.base import git_access, located, storage_options
from mlops_provider.partitions import Frequency
from mlops_provider.sections import Completeness
from mlops_provider.storage import Storage, canonical_json, digest

if TYPE_CHECKING:
    from mlops_provider.config import ModelConfig
    from mlops_provider.deployment import DvcAccess

log = logging.getLogger(__name__)

# So many looks may fail in a row before a sensor gives up; the triggers of a watcher go on.
PATIENCE = 5
# Names in one event; the rest is counted.
NAMED = 100

Complete = Literal["stable", "marker", "rows"]


@dataclass(frozen=True)
class Look:
    """What one look at a source found: token by name; or why there was no look.

    :ivar hopeless: the next look will fail in the same way.
    """

    complete: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    hopeless: bool = False


class _Polling(BaseEventTrigger):
    """Looks at something again and again, in one stream with all others that look at the same.

    :param kwargs: all arguments of the trigger.
    :cvar shared: names of those that say what is looked at, and how.
    """

    shared: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kwargs = kwargs

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", dict(self.kwargs)

    def shared_stream_key(self) -> tuple[str, str]:
        """Triggers with equal keys share their looks."""
        what = self.shared[0]
        about = {name: self.kwargs.get(name) for name in self.shared} | {what: self.place}
        return (f"mlops.{what}", canonical_json(about).decode())

    @property
    def place(self) -> str:
        """What is looked at."""
        return located(self.kwargs[self.shared[0]])

    @classmethod
    @abstractmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        """A function that looks once; it blocks, and runs in a thread."""

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Look]:
        """Looks for ever. A look that fails is told to all, and the next one may succeed."""
        look = cls.looking(kwargs)
        while True:
            yield await _looked(look, f"{kwargs[cls.shared[0]]}")
            await asyncio.sleep(kwargs["poll"])

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without sharing, for `dag.test()` and tests."""
        async for event in self.filter_shared_stream(self.open_shared_stream(self.kwargs)):
            yield event


class _Awaiting(_Polling):
    """Fires once, for a sensor: as soon as a look finds what `chosen` picks, or when there is no hope."""

    @abstractmethod
    def chosen(self, complete: dict[str, str]) -> Any:
        """What the sensor waits for, out of what is there; None if it is not."""

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Look]) -> AsyncIterator[TriggerEvent]:
        failed = 0
        async for look in shared_stream:
            failed = failed + 1 if look.problem else 0
            if look.hopeless or failed >= PATIENCE:
                yield _event(problem=look.problem, hopeless=look.hopeless)
                return
            if (found := self.chosen(look.complete)) is not None:
                yield _event(found=found)
                return


class _Announcing(_Polling):
    """Fires for ever, for a watcher: one event for all that a look finds new or changed.

    The cursor is written with the look after the event, when the event is stored: a triggerer that is killed in between
    announces the same once more and never loses one.
    """

    remembered: int | None = None

    @abstractmethod
    def payload(self, news: list[str], complete: dict[str, str]) -> dict[str, Any]:
        """What the event says."""

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Look]) -> AsyncIterator[TriggerEvent]:
        cursor: Cursor | None = None
        saved: Cursor | None = None
        async for look in shared_stream:
            if look.problem:
                continue
            if cursor is None:
                cursor = saved = await self._load()
            if saved is not cursor and await self._save(cursor):
                saved = cursor
            if news := cursor.news(look.complete):
                cursor = cursor.after(look.complete, remembered=self.remembered)
                yield _event(**self.payload(news, look.complete), count=len(news))

    @property
    def cursor_key(self) -> str:
        """Name of the cursor: that of the place, so that it stays when only the way of looking changes."""
        return f"mlops.announced.{digest(self.place)[:12]}"

    def _store(self) -> Any:
        """Where the cursor is kept; None outside of a triggerer."""
        if self.asset_state_store is None:
            return None
        name = self.kwargs["asset"]
        try:
            return self.asset_state_store[Asset(name)]
        except KeyError as error:
            raise ConfigError(
                f"the trigger says asset={name!r} and stands in the watcher of another asset: give it that asset's name"
            ) from error

    async def _load(self) -> Cursor:
        store = self._store()
        return Cursor.model_validate(await store.aget(self.cursor_key, default={}) if store else {})

    async def _save(self, cursor: Cursor) -> bool:
        if store := self._store():
            try:
                await store.aset(self.cursor_key, cursor.model_dump())
            except Exception as error:
                log.error("%s: the cursor was not stored, it is tried again: %s", self.kwargs["asset"], error)
                return False
        return True


class _Partitions(_Polling):
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


class _Versions(_Polling):
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


class PartitionTrigger(_Partitions, _Awaiting):
    """Waits for one partition of a source.

    :param partition: the one that is waited for; if None, the first one after `after`.
    :param kwargs: see `_Partitions`.
    """

    def __init__(self, *, partition: str | None = None, after: str = "", **kwargs: Any) -> None:
        super().__init__(partition=partition, after=after, **kwargs)

    def chosen(self, complete: dict[str, str]) -> str | None:
        return min((name for name in complete if name > self.kwargs["after"]), default=None)


class NewPartitionTrigger(_Partitions, _Announcing):
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


class VersionTrigger(_Versions, _Awaiting):
    """Waits for data versions that are not among `seen`.

    :param seen: revision by version.
    :param kwargs: see `_Versions`.
    """

    def __init__(self, *, seen: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(seen=seen or {}, **kwargs)

    def chosen(self, complete: dict[str, str]) -> dict[str, str] | None:
        news = Cursor(seen=self.kwargs["seen"]).news(complete)
        return {name: complete[name] for name in news} or None


class DataVersionTrigger(_Versions, _Announcing):
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


async def _looked(look: Callable[[], dict[str, str]], where: str) -> Look:
    try:
        return Look(await asyncio.to_thread(look))
    except Exception as error:
        problem = f"{where}: {type(error).__name__}: {error}"
        log.error("not looked at, the next look may succeed: %s", problem)
        refused = isinstance(error, MlopsError) and not isinstance(error, Transient)
        return Look(problem=problem, hopeless=refused or isinstance(error, PermissionError))


def _event(**payload: Any) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
