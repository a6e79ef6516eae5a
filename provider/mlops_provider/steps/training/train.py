"""Training: LightGBM on accepted, versioned data, and on nothing that was not known at the cutoff."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from typing import Any, Literal

import numpy as np

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.partitions import parse_duration
from mlops_provider.steps import tables
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.statistics import applied, fit
from mlops_provider.steps.records import Split, SplitRef, Trained
from mlops_provider.steps.step import Job, libraries, source_version, step
from mlops_provider.steps.training.split import load_split
from mlops_provider.storage import digest

log = logging.getLogger("mlops_provider")

Drill = Literal["shuffled_labels"]
_REFERENCE_ROWS = 10_000
_LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxruntime", "pandas")


class TrainArguments(Frozen):
    """:param drill: a fault made on purpose: the gate must refuse what comes of it.
    :param repeat: makes another version of what was trained before; recorded in the lineage.
    """

    split: SplitRef
    drill: Drill | None = None
    repeat: str = ""


@step("train", arguments=TrainArguments, result=Trained, sections=("data", "features", "training"), code=True)
def train(job: Job, arguments: TrainArguments) -> Trained:
    """Fits a candidate on the split. Rows are sorted by key first, so that their order of arrival does not matter.

    :raises DataError: if there is nothing to learn from.
    """
    split = load_split(job, arguments.split)
    frame = _known_rows(job, split)
    features = frame[list(job.config.features.columns)]
    labels = frame[LABEL].to_numpy()
    if arguments.drill == "shuffled_labels":
        labels = np.random.default_rng(job.config.training.seed).permutation(labels)
        log.warning("drill: labels are shuffled on purpose; the gate must refuse this candidate")
    fingerprint = version_fingerprint(job, split, arguments)
    statistics = fit(job, features, labels, fingerprint)
    text = _fitted(job, applied(job, statistics, features).to_numpy(), labels)
    sample = features.sample(min(_REFERENCE_ROWS, len(features)), random_state=job.config.training.seed)
    return Trained(
        booster=job.storage.write(job.under("models", fingerprint, "model.txt"), text.encode()),
        reference=tables.write_frame(job.storage, job.under("models", fingerprint, "reference"), sample),
        model_hash=model_hash(text),
        fingerprint=fingerprint,
        rows=len(frame),
        split=arguments.split,
        fitted=statistics,
        drill=arguments.drill,
        environment=environment(),
    )


def version_fingerprint(job: Job, split: Split, arguments: TrainArguments) -> str:
    """What makes two versions the same: data, code, the sections that shape the model, and the environment."""
    return digest({
        "data": [[v.partition, v.md5] for v in (*split.fit, split.holdout)],
        "cutoff": split.cutoff.isoformat(),
        "code": job.model.code_hash,
        "sections": _shaping(job),
        "environment": environment(),
        "drill": arguments.drill,
        "repeat": arguments.repeat,
    })


def _shaping(job: Job) -> dict[str, Any]:
    """The sections that shape the model; where it is trained and on how many threads does not."""
    sections = job.config.sections("features", "training")
    for place in ("resources", "run_on"):
        del sections["training"][place]
    return sections


def environment() -> dict[str, str]:
    """Versions of what shapes a model."""
    found = {name: libraries()[name] for name in ("python", *_LIBRARIES)}
    return found | {"airflow-provider-mlops": source_version("data", "training")}


def model_hash(text: str) -> str:
    """sha256 of the trees of a LightGBM text model; what surrounds them names the number of threads."""
    trees = text[text.index("Tree=0") : text.index("end of trees")]
    return hashlib.sha256(trees.encode()).hexdigest()


def _known_rows(job: Job, split: Split) -> Any:
    """The labelled rows whose label was known at the cutoff, sorted by key."""
    import pandas as pd

    data = job.config.data
    frames = [snapshot.read(job, version).to_pandas() for version in split.fit]
    frame = pd.concat(frames, ignore_index=True)
    known = frame[data.event_time] + parse_duration(data.label.delay) <= pd.Timestamp(split.cutoff)
    frame = frame[known & frame[LABEL].notna()].sort_values([data.key, data.event_time], ignore_index=True)
    where = f"{job.config.name}: {split.fit[0].partition} to {split.fit[-1].partition}"
    if frame.empty:
        raise DataError(f"{where}: no row has a label that was known on {split.cutoff:%Y-%m-%d %H:%M}")
    if frame[LABEL].nunique() < 2:
        raise DataError(f"{where}: the label is {frame[LABEL].iloc[0]:g} in all {len(frame)} rows, nothing to learn")
    return frame


def _fitted(job: Job, features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    import lightgbm

    training = job.config.training
    settings: dict[str, Any] = {
        **training.params,
        "objective": training.objective,
        "seed": training.seed,
        "num_threads": training.resources.cpu,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    names = list(job.config.features.columns)
    dataset = lightgbm.Dataset(features, label=labels, feature_name=names, free_raw_data=True)
    callbacks = [_progress(training.rounds)]
    try:
        booster = lightgbm.train(settings, dataset, num_boost_round=training.rounds, callbacks=callbacks)
    except lightgbm.basic.LightGBMError as error:
        where = f"{job.config.name}: model.yaml: training.params {training.params}"
        raise ConfigError(f"{where}: LightGBM does not train with them: {error}") from error
    return str(booster.model_to_string())


def _progress(rounds: int) -> Any:
    def report(state: Any) -> None:
        done = state.iteration + 1
        if done % max(1, rounds // 4) == 0:
            log.info("%s training: %d of %d trees", dt.datetime.now(dt.UTC).strftime("%H:%M:%S"), done, rounds)

    return report
