"""What tests run in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from mlops_provider.ledger import Draft, Ledger
from mlops_provider.storage import Storage

_BARRIER: Barrier | None = None


def _remember(barrier: Barrier) -> None:
    global _BARRIER
    _BARRIER = barrier


def together(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of a function in several processes that begin at one moment; the first argument is their number."""
    context = multiprocessing.get_context("forkserver")  # each begins with everything imported
    context.set_forkserver_preload([__name__, "s3fs"])
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_remember, initargs=(barrier,)) as pool:
        return [found.result(timeout=60) for found in [pool.submit(function, n, *arguments) for n in range(count)]]


def _started() -> None:
    assert _BARRIER is not None
    _BARRIER.wait(timeout=60)


def content(writer: int) -> bytes:
    """What a writer writes: long enough that a part of it would show."""
    return f"{writer:04d}".encode() * 50_000


def create_many(writer: int, options: Mapping[str, Mapping[str, Any]], root: str, files: int) -> list[bool]:
    """Whether this writer was first, file by file."""
    storage = Storage(options)
    storage.exists(root)
    _started()
    return [storage.create(f"{root}/{number}.bin", content(writer)) for number in range(files)]


def append_many(writer: int, options: Mapping[str, Mapping[str, Any]], root: str, records: int) -> list[int]:
    """The numbers of the records that this writer appended."""
    ledger = Ledger(Storage(options), root, "tiny")
    ledger.records()
    _started()
    drafts = [
        Draft(kind="data", partition=f"{writer}-{number}", outcome="accepted", reason="test")
        for number in range(records)
    ]
    return [ledger.append(draft, actor=f"writer {writer}")[0].number for draft in drafts]


def mlops_at_once(requests: Mapping[str, Path], step: str) -> dict[str, dict[str, Any]]:
    """Runs `mlops run STEP` for several requests at the same time, each in a process of its own; outcomes by name."""
    command = [sys.executable, "-m", "mlops_provider", "run", step, "--json", "--request"]
    running = {
        name: subprocess.Popen([*command, str(request)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, request in requests.items()
    }
    found = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found[name] = json.loads(out[out.index("{") :])
    return found
