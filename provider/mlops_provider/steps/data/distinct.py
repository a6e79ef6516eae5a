"""Repeated and distinct values of a column in bounded memory: values become 64-bit keys, many keys go to files.

Numbers, dates and timestamps are their own keys, so that what is found is exact. Text is hashed with a seed of this
process; a second pass with a second hash confirms what the first one found (see `UniqueValues` in streamed_columns.py).
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U64 = npt.NDArray[np.uint64]

_MEMORY = 1 << 24  # keys, 128 MiB
_PARTS = 64
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
SEEDS = (np.uint64(secrets.randbits(64)), np.uint64(secrets.randbits(64)))


class Keys:
    """Counts keys; those above `memory` go to files by hash, so that each file's keys fit into memory again.

    :param memory: keys to hold in memory, eight bytes each. What is returned holds as many at most.
    """

    def __init__(self, memory: int = _MEMORY) -> None:
        self._memory = memory
        self._held: list[U64] = []
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, keys: U64) -> None:
        self._held.append(keys)
        self._count += len(keys)
        if self._count > self._memory:
            self._spill()

    def distinct(self) -> int:
        return sum(len(keys) - int(np.count_nonzero(again)) for keys, again in self._sorted())

    def repeated(self) -> tuple[int, U64, bool]:
        """How many keys stand there more than once (each time counted), which these are, sorted, and whether those are all."""
        rows, room, whole = 0, self._memory, True
        found: list[U64] = [np.empty(0, np.uint64)]
        for keys, again in self._sorted():
            first = again & ~np.concatenate(([False], again[:-1]))
            rows += int(np.count_nonzero(again)) + int(np.count_nonzero(first))
            mine = keys[first]
            whole = whole and len(mine) <= room
            found.append(mine[:room])
            room -= len(found[-1])
        return rows, np.sort(np.concatenate(found)), whole

    def _sorted(self) -> Iterator[tuple[U64, npt.NDArray[np.bool_]]]:
        """The keys of each part in their order, and which of them equal the one before."""
        for keys in self._parts():
            keys.sort()
            again = np.zeros(len(keys), np.bool_)
            np.equal(keys[1:], keys[:-1], out=again[1:])
            yield keys, again

    def _parts(self) -> Iterator[U64]:
        if self._folder is None:
            yield self._joined()
            return
        self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            yield np.fromfile(path, np.uint64)

    def _joined(self) -> U64:
        """What is held as one array; each piece is let go once it is copied."""
        whole, at = np.empty(self._count, np.uint64), 0
        for number, piece in enumerate(self._held):
            whole[at : at + len(piece)] = piece
            at += len(piece)
            self._held[number] = whole[:0]
        self._held = [whole]
        return whole

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mlops-keys-")
        for keys in self._held:
            part = (keys * _SPREAD) >> np.uint64(58)
            order = np.argsort(part, kind="stable")
            bounds = np.searchsorted(part[order], np.arange(_PARTS + 1, dtype=np.uint64))
            for number in range(_PARTS):
                with Path(self._folder.name, f"{number:02d}").open("ab") as file:
                    keys[order[bounds[number] : bounds[number + 1]]].tofile(file)
        self._held, self._count = [], 0


def contains(known: U64, keys: U64) -> npt.NDArray[np.bool_]:
    """Which keys are among the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == keys
    return found


def text_keys(array: pa.Array, seed: np.uint64) -> U64:
    """64-bit hashes of strings without nulls: eight bytes of all of them at a time."""
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    begin, length = bounds[:-1], np.diff(bounds)
    used = int(bounds[-1])
    raw = np.zeros(used + 8, np.uint8)
    if used:
        raw[:used] = np.frombuffer(data, np.uint8)[:used]
    words = np.ndarray((used + 1,), "<u8", raw, strides=(1,))
    hashed: U64 = (length.astype(np.uint64) + seed) * _SPREAD
    todo: Any = slice(None)
    for word in range(int(length.max(initial=0) + 7) // 8):
        # A string is mixed as often as its own length asks for, whatever else is in the batch.
        if len(todo := np.flatnonzero(length > 8 * word)) == len(length):
            todo = slice(None)
        left = np.minimum(length[todo] - 8 * word, 8).clip(0).astype(np.uint64)
        eight = words[begin[todo] + 8 * word]
        hashed[todo] = _mixed(hashed[todo], _head(eight, left), seed)
    return hashed ^ (hashed >> np.uint64(32))


def _head(eight: U64, left: U64) -> U64:
    """The first bytes of eight; the others belong to the next string."""
    shift = (np.uint64(8) - left) * np.uint64(8)
    gone = shift == np.uint64(64)
    kept: U64 = np.where(gone, np.uint64(0), (eight << np.minimum(shift, np.uint64(63))))
    return kept


def _mixed(hashed: U64, word: U64, seed: np.uint64) -> U64:
    word = (word ^ seed) * _MIX
    word ^= word >> np.uint64(29)
    hashed = (hashed ^ word) * _SPREAD
    return hashed ^ (hashed >> np.uint64(31))


def number_keys(values: npt.NDArray[Any]) -> U64:
    """Numbers as their own keys; equal numbers have equal bits, as 0.0 and -0.0 must."""
    if values.dtype.kind == "f":
        return (values.astype(np.float64) + 0.0).view(np.uint64)
    return values.astype(np.int64).view(np.uint64)
