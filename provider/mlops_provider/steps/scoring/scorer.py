"""Scores of a packaged model, by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops_provider.steps.records import Package
from mlops_provider.storage import Storage


class Scorer:
    """A packaged model, ready to score.

    :param threads: threads for one call; set, never guessed.
    :raises IntegrityError: if the package is not the one that was registered.
    """

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers double the CPU time on a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @classmethod
    def of(cls, package: Package, storage: Storage, *, threads: int = 1) -> Scorer:
        """The scorer of a package, its file verified by hash."""
        return cls(storage.fetch(package.onnx), threads=threads)

    def score(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Scores of rows: float64 [n, features] in, float64 [n] out, or [n, classes]."""
        found = self._session.run(["score"], {"input": np.ascontiguousarray(features, np.float64)})[0]
        return one_or_many(np.asarray(found, np.float64))


def one_or_many(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scores as the house has them: [n] if there is one for each row."""
    return scores[:, 0] if scores.shape[1] == 1 else scores
