"""What makes two versions the same. Planning asks for it too, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Any, Literal

from mlops_provider.checks import Frozen
from mlops_provider.steps.records import Parameters, Split, SplitRef
from mlops_provider.steps.step import Job, libraries, source_version
from mlops_provider.storage import Artifact, digest

Drill = Literal["shuffled_labels"]
_LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxruntime", "pandas")


class Start(Frozen):
    """The version whose trees a candidate goes on from.

    :param features: its features in the order of its input.
    :param seen: the last partition that it was fitted or judged on.
    """

    version: int
    booster: Artifact
    features: tuple[str, ...]
    seen: str


class TrainArguments(Frozen):
    """:param drill: a fault made on purpose: the gate must refuse what comes of it.
    :param repeat: makes another version of what was trained before; recorded in the lineage.
    :param start: the champion to go on from, with `training.start: champion`; None if there is none.
    :param params: tuned parameters; they come before those of model.yaml.
    :param tuning: record of the search that they are from.
    """

    split: SplitRef
    drill: Drill | None = None
    repeat: str = ""
    start: Start | None = None
    params: Parameters = {}
    tuning: Artifact | None = None


def version_fingerprint(job: Job, split: Split, arguments: TrainArguments) -> str:
    """What makes two versions the same: data, code, the sections that shape the model, and the environment.

    :param job: with the tuned parameters in it.
    """
    start = {"start": arguments.start.booster.hash} if arguments.start else {}
    return digest({
        "data": [[v.partition, v.md5] for v in (*split.fit, split.holdout)],
        "cutoff": split.cutoff.isoformat(),
        "code": job.model.code_hash,
        "sections": _shaping(job),
        "environment": environment(),
        "drill": arguments.drill,
        "repeat": arguments.repeat,
        **start,
    })


def _shaping(job: Job) -> dict[str, Any]:
    """The sections that shape the model, with the tuned parameters in their place. Where it is trained, on how many threads,
    in how much memory and how the parameters were found does not."""
    sections = job.config.sections("features", "training")
    for place in ("resources", "run_on", "memory", "tune"):
        sections["training"].pop(place, None)
    return sections


def environment() -> dict[str, str]:
    """Versions of what shapes a model."""
    found = {name: libraries()[name] for name in ("python", *_LIBRARIES)}
    return found | {"airflow-provider-mlops": source_version("data", "training")}
