"""What all triggers that look again and again share.

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
from typing import Any

from airflow.sdk import Asset
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from mlops_provider.arrivals import Cursor
from mlops_provider.exceptions import ConfigError, MlopsError, Transient
from mlops_provider.operators.base import located
from mlops_provider.storage import canonical_json, digest

log = logging.getLogger(__name__)

# So many looks may fail in a row before a sensor gives up; the triggers of a watcher go on.
PATIENCE = 5
# Names in one event; the rest is counted.
NAMED = 100


@dataclass(frozen=True)
class Look:
    """What one look at a source found: token by name; or why there was no look.

    :ivar hopeless: the next look will fail in the same way.
    """

    complete: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    hopeless: bool = False


class Polling(BaseEventTrigger):
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

    def mine(self, complete: dict[str, str]) -> dict[str, str]:
        """What of a shared look this trigger is about."""
        return complete

    @classmethod
    @abstractmethod
    def looking(cls, kwargs: dict[str, Any]) -> Callable[[], dict[str, str]]:
        """A function that looks once; it blocks, and runs in a thread."""

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Look]:
        """Looks for ever. A look that fails is told to all, and the next one may succeed."""
        look = cls.looking(kwargs)
        while True:
            yield await _looked(look, kwargs[cls.shared[0]])
            await asyncio.sleep(kwargs["poll"])

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without sharing, for `dag.test()` and tests."""
        async for event in self.filter_shared_stream(self.open_shared_stream(self.kwargs)):
            yield event


class Awaiting(Polling):
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
            if (found := self.chosen(self.mine(look.complete))) is not None:
                yield _event(found=found)
                return


class Announcing(Polling):
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
            complete = self.mine(look.complete)
            if news := cursor.news(complete):
                cursor = cursor.after(complete, remembered=self.remembered)
                yield _event(**self.payload(news, complete), count=len(news))

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


async def _looked(look: Callable[[], dict[str, str]], where: str | None) -> Look:
    try:
        return Look(await asyncio.to_thread(look))
    except Exception as error:
        problem = f"{f'{where}: ' if where else ''}{type(error).__name__}: {error}"
        log.error("not looked at, the next look may succeed: %s", problem)
        refused = isinstance(error, MlopsError) and not isinstance(error, Transient)
        return Look(problem=problem, hopeless=refused or isinstance(error, PermissionError))


def _event(**payload: Any) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
