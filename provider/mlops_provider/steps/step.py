"""How a step is declared, called, fingerprinted and reused: in a task, a pod, a notebook and a terminal alike.

A step is a plain function ``(job, arguments) -> result``. Arguments and results are small frozen records that travel as
JSON. A step that only computes is keyed by the fingerprint of its arguments (which name data by hash), the model's code and
the sections of the configuration that shape it: an equal fingerprint returns the stored result. Steps that decide or
publish are never cached; they are idempotent by the state that they change.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, ValidationError

from mlops_provider import __version__
from mlops_provider.checks import Frozen
from mlops_provider.config import ModelConfig
from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import MissingLibraryError, RequestError
from mlops_provider.ledger import Ledger
from mlops_provider.modelcode import CodeRef, Model, unpack
from mlops_provider.storage import Artifact, Storage, canonical_json, digest

log = logging.getLogger("mlops_provider")

A = TypeVar("A", bound=Frozen)
R = TypeVar("R", bound=Frozen)

STEPS = {
    "validate": "data.validate",
    "validate_dataset": "data.validate",
    "build_features": "data.features",
    "compare_history": "data.history",
    "snapshot": "data.snapshot",
    "snapshot_dataset": "data.snapshot_dataset",
    "refuse_data": "data.snapshot",
    "checkout": "data.checkout",
    "collect_garbage": "data.garbage",
    "take_labels": "data.take_labels",
    "resolve_code": "data.commits",
    "test_code": "data.code_tests",
    "tune_trial": "training.tune",
    "tune": "training.tune",
    "train": "training.train",
    "package": "training.package",
    "evaluate": "training.evaluate",
    "diagnose": "training.diagnose",
    "register": "training.register",
    "gate": "release.gate",
    "promote": "release.promote",
    "rollback": "release.promote",
    "design_ab_test": "release.ab_design",
    "ab_test": "release.ab_test",
    "score": "scoring.score",
    "refuse_scoring": "scoring.score",
    "drift": "monitoring.drift",
    "quality": "monitoring.quality",
    "estimate": "monitoring.estimate",
    "sample_for_review": "monitoring.review",
    "decide": "monitoring.decide",
}

_LIBRARIES = (
    "dvc",
    "evidently",
    "fairlearn",
    "great-expectations",
    "lightgbm",
    "numpy",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "pyarrow",
    "scikit-learn",
)
_XCOM_BYTES = 8 * 1024
_REFERENCE = "mlops.artifact"

_EXTRAS = {
    "great_expectations": "great-expectations",
    "dvc": "dvc",
    "mlflow": "mlflow",
    "evidently": "evidently",
    "lightgbm": "lightgbm",
    "sklearn": "lightgbm",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "optuna": "tune",
    "s3fs": "amazon",
    "pyspark": "spark",
    "fairlearn": "fairness",
    "scipy": "ab-test",
}


class Request(Frozen):
    """Everything that a step needs, as one JSON document, credentials included: errors do not show what was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    step: str
    code: CodeRef
    deployment: Deployment
    arguments: dict[str, Any] = {}
    force: bool = False


class Outcome(Frozen):
    """What came of a step: its result as JSON, and whether it was computed or reused."""

    step: str
    fingerprint: str
    reused: bool
    seconds: float
    result: dict[str, Any]


class Job:
    """What every step gets beside its arguments: the model as it was packed, and the deployment."""

    def __init__(self, model: Model, deployment: Deployment, *, force: bool = False) -> None:
        self.model, self.deployment, self.force = model, deployment, force

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @cached_property
    def storage(self) -> Storage:
        return self.deployment.storage

    @cached_property
    def ledger(self) -> Ledger:
        return self.deployment.ledger(self.config.name)

    def under(self, room: str, *parts: str) -> str:
        """A URI for something of this model: ``<artifact root>/<room>/<model>/...``."""
        return self.deployment.under(room, self.config.name, *parts)

    def with_code(self, ref: CodeRef) -> Job:
        """The same job with another archive of the model, for instance that of the version being scored."""
        return (
            self
            if ref.sha256 == self.model.ref.sha256
            else Job(unpack(ref, self.storage), self.deployment, force=self.force)
        )


@dataclass(frozen=True)
class Step(Generic[A, R]):
    """A declared step.

    :param sections: sections of model.yaml that shape the result.
    :param code: whether the model's own code shapes it.
    :param cached: whether an equal fingerprint may answer with the stored result.
    :param publish: makes the result visible to others, whether it was computed or reused; returns the one that stands.
    :param keep: whether a result may answer the next time; None if every result may.
    """

    name: str
    function: Callable[[Job, A], R]
    arguments: type[A]
    result: type[R]
    sections: tuple[str, ...]
    code: bool
    cached: bool
    publish: Callable[[Job, R], R] | None = None
    keep: Callable[[R], bool] | None = None

    def __call__(self, job: Job, arguments: A) -> R:
        """Calls the step in this process, with reuse; for steps that call each other and for notebooks."""
        return self.result.model_validate(self.run(job, arguments).result)

    def fingerprint(self, job: Job, arguments: A) -> str:
        """sha256 of all that shapes the result."""
        return digest({
            "step": [self.name, source_version(), libraries()],
            "model": job.config.name,
            "sections": job.config.sections(*self.sections),
            "code": job.model.code_hash if self.code else "",
            "arguments": arguments.model_dump(mode="json"),
        })

    def run(self, job: Job, arguments: A) -> Outcome:
        """Runs the step, or finds its stored result."""
        outcome = self._found_or_computed(job, arguments)
        if self.publish is None:
            return outcome
        standing = self.publish(job, self.result.model_validate(outcome.result))
        return outcome.model_copy(update={"result": standing.model_dump(mode="json")})

    def _found_or_computed(self, job: Job, arguments: A) -> Outcome:
        fingerprint = self.fingerprint(job, arguments)
        uri = job.under("steps", self.name, f"{fingerprint}.json")
        if self.cached and not job.force and (known := self._stored(job, uri)):
            log.info("%s: reused, nothing that shapes it has changed (%s)", self.name, fingerprint[:12])
            return known
        began = time.monotonic()
        result = self._computed(job, arguments)
        outcome = Outcome(
            step=self.name,
            fingerprint=fingerprint,
            reused=False,
            seconds=round(time.monotonic() - began, 3),
            result=result.model_dump(mode="json"),
        )
        if self.cached and (self.keep is None or self.keep(result)):
            job.storage.write_json(uri, outcome.model_dump(mode="json"))
        return outcome

    def _computed(self, job: Job, arguments: A) -> R:
        try:
            return self.function(job, arguments)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").split(".")[0])
            if not extra:
                raise
            raise MissingLibraryError(
                f"{self.name} needs {error.name}: pip install 'airflow-provider-mlops[{extra}]'"
            ) from error

    def _stored(self, job: Job, uri: str) -> Outcome | None:
        """The stored outcome, unless a file that it names is gone or cut short."""
        if not job.storage.exists(uri):
            return None
        outcome = Outcome.model_validate(job.storage.read_json(uri)).model_copy(update={"reused": True, "seconds": 0.0})
        result = self.result.model_validate(outcome.result)
        return outcome if all(job.storage.holds(artifact) for artifact in artifacts(result)) else None


def step(
    name: str,
    *,
    arguments: type[A],
    result: type[R],
    sections: tuple[str, ...] = (),
    code: bool = False,
    cached: bool = True,
    publish: Callable[[Job, R], R] | None = None,
    keep: Callable[[R], bool] | None = None,
) -> Callable[[Callable[[Job, A], R]], Step[A, R]]:
    """Declares a function as a step."""

    def declare(function: Callable[[Job, A], R]) -> Step[A, R]:
        return Step(name, function, arguments, result, sections, code, cached, publish, keep)

    return declare


@lru_cache
def source_version(*rooms: str) -> str:
    """The provider's version with a hash of the source of the steps, so that a changed step does not answer with old results.

    :param rooms: count only these rooms and what all of them share; every room if none is named.
    """
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.py"), *(p for room in rooms or ("*",) for p in folder.glob(f"{room}/*.py"))])
    source = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    return f"{__version__}+{source.hexdigest()[:12]}"


@lru_cache
def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that shape what steps compute; empty for one that is not installed."""
    python = {"python": ".".join(platform.python_version_tuple()[:2])}
    return python | {name: _installed(name) for name in _LIBRARIES}


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def find(name: str) -> Step[Any, Any]:
    """The step of a name; its module is imported only now.

    :raises RequestError: if there is none.
    """
    if name not in STEPS:
        raise RequestError(f"there is no step {name!r}; the steps are {', '.join(STEPS)}")
    found = getattr(importlib.import_module(f"mlops_provider.steps.{STEPS[name]}"), name)
    assert isinstance(found, Step)
    return found


def run(request: Request) -> Outcome:
    """Runs a request: what a task, a pod and `mlops run` all call.

    :raises RequestError: if the step is unknown or its arguments do not fit.
    """
    found = find(request.step)
    try:
        arguments = found.arguments.model_validate(unpacked(request.arguments, request.deployment.storage))
    except ValidationError as error:
        raise RequestError(f"arguments of {request.step}: {error}") from error
    job = Job(unpack(request.code, request.deployment.storage), request.deployment, force=request.force)
    return found.run(job, arguments)


def packed(result: dict[str, Any], storage: Storage, uri: str, *, limit: int = _XCOM_BYTES) -> dict[str, Any]:
    """A result that fits into an XCom: itself, or where it was written if it is larger than `limit` bytes."""
    content = canonical_json(result)
    if len(content) <= limit:
        return result
    return {_REFERENCE: storage.write(uri, content).model_dump(mode="json")}


def unpacked(value: Any, storage: Storage) -> Any:
    """The value with every packed result in it fetched and verified."""
    if isinstance(value, dict):
        if set(value) == {_REFERENCE}:
            return json.loads(storage.fetch(Artifact.model_validate(value[_REFERENCE])))
        return {key: unpacked(item, storage) for key, item in value.items()}
    return [unpacked(item, storage) for item in value] if isinstance(value, list | tuple) else value


def artifacts(value: object) -> Iterator[Artifact]:
    """Every artifact that a result names."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, Frozen):
        for name in type(value).model_fields:
            yield from artifacts(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from artifacts(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from artifacts(item)
