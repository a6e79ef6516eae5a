"""One Ctrl-C, `kill` or closed terminal leads to one orderly stop; a second one only makes it faster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into an exception and only counts the following ones.

    So a second Ctrl-C cannot break off the cleaning up that the first one caused; whoever cleans up polls
    `hurried` instead. Inside `shielded` even the first signal waits for the end or for a call of `deliver`: an
    exception at any moment could leave a server started but forgotten, or a library's lock taken for ever.
    """

    def __init__(self) -> None:
        self._count = 0
        self._before_stop: int | None = None
        self._shields = 0
        self._pending: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take over the signals; outside the main thread Python cannot, and nothing happens."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays
                    self._old[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for signum, handler in self._old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]  # signal.signal returned it
        self._old.clear()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self._pending = signal.Signals(signum)
            if not self._shields:
                self.deliver()

    def deliver(self) -> None:
        """Raise what a shield held back: KeyboardInterrupt, or SystemExit with the status shells expect."""
        pending, self._pending = self._pending, None
        if pending is signal.SIGINT:
            raise KeyboardInterrupt
        if pending is not None:
            raise SystemExit(128 + pending)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Hold the first signal back until the block is done."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if not self._shields:
            self.deliver()

    def stopping(self) -> None:
        """From now on no signal raises; each further one means hurry."""
        self._shields += 1
        self._before_stop = self._count

    def hurried(self) -> bool:
        """Tell whether a signal came after the stop began."""
        return self._before_stop is not None and self._count > self._before_stop
