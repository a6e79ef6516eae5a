"""What all tests share."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """The libraries are there to stay: the garbage collector need not look through all that they made, again and again."""
    gc.collect()
    gc.freeze()
