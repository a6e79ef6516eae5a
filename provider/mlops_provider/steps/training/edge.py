"""Variants of a package for small devices: in onnxruntime's own format, with fewer trees, in single precision.

The loops never score with them. What they cost in size, time and quality is measured beside the package, on the holdout,
and written down; `package.edge.max_loss` in model.yaml makes it a condition.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlops_provider.checks import Check, Frozen, could_not_run
from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data import snapshot
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.statistics import applied
from mlops_provider.steps.records import Latency, Trained
from mlops_provider.steps.scoring.decisions import decided
from mlops_provider.steps.scoring.scorer import one_or_many
from mlops_provider.steps.step import Job
from mlops_provider.steps.training import latency, metrics
from mlops_provider.steps.training.objectives import objective, targets
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.steps.training.split import load_split
from mlops_provider.steps.training.trees import tree_count

Array = np.ndarray[Any, Any]
Score = Callable[[Array], Array]
WHOLE, SMALL, REPORT = "model.ort", "edge.ort", "edge.json"


class Variant(Frozen):
    """A variant as it was measured, on the labelled rows of the holdout.

    :param size: of the file in bytes.
    :param largest: difference of a score from the package's; `mean` their mean.
    :param decided_otherwise: share of the rows on the other side of the cut, or of another likeliest class; None where
        nothing is decided.
    :param metrics: by name; empty if the labels of the holdout tell nothing.
    """

    file: str
    trees: int
    precision: str
    size: int
    latency: tuple[Latency, ...]
    largest: float
    mean: float
    decided_otherwise: float | None
    metrics: dict[str, float]


class EdgeReport(Frozen):
    """The variants beside the package that they come from."""

    partition: str
    rows: int
    package: Variant
    variants: tuple[Variant, ...]


def variants(
    job: Job, trained: Trained, *, text: str, content: bytes, score: Score
) -> tuple[dict[str, bytes], EdgeReport, tuple[Check, ...]]:
    """The files of the variants, what was measured of them, and the checks that follow.

    :param text: of the LightGBM model; `content` its ONNX file; `score` scores with that.
    :raises ConfigError: if there is no variant of this kind of model.
    """
    settings = job.config.package.edge
    if settings is None:
        raise AssertionError("package.edge is set")
    whole, outputs = tree_count(text), max(1, len(objective(job.config).classes))
    keep = max(1, math.ceil(whole // outputs * settings.keep)) * outputs
    files = {WHOLE: ort_format(content), SMALL: ort_format(smaller(text, keep=keep, precision=settings.precision))}
    rows, labels, partition = _holdout(job, trained)
    compared = _Comparison(job, rows, labels, score(rows))
    report = EdgeReport(
        partition=partition,
        rows=len(rows),
        package=compared.variant("model.onnx", content, score, trees=whole, precision="float64"),
        variants=(
            compared.variant(WHOLE, files[WHOLE], scorer(files[WHOLE]), trees=whole, precision="float64"),
            compared.variant(SMALL, files[SMALL], scorer(files[SMALL]), trees=keep, precision=settings.precision),
        ),
    )
    return files, report, _checks(job, report)


def smaller(text: str, *, keep: int, precision: str) -> bytes:
    """The ONNX file of a model's first trees, in this precision; of several classes, `keep` trees are those of all together."""
    import lightgbm

    booster = lightgbm.Booster(model_str=text)
    content = export(str(booster.model_to_string(num_iteration=keep // booster.num_model_per_iteration())))
    return single_precision(content) if precision == "float32" else content


def single_precision(content: bytes) -> bytes:
    """The model with float32 inputs, thresholds and leaves.

    Thresholds are rounded down, never up: then every float32 value is on the side that it was on before.
    """
    import onnx

    model = onnx.load_from_string(content)
    for node in model.graph.node:
        kept = {a.name: a for a in node.attribute}
        if "nodes_values_as_tensor" in kept:
            _replaced(node, kept["nodes_values_as_tensor"], "nodes_values", _down)
            _replaced(node, kept["target_weights_as_tensor"], "target_weights", lambda x: x.astype(np.float32))
    (given,) = model.graph.input
    given.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return bytes(model.SerializeToString())


def _replaced(node: Any, attribute: Any, name: str, convert: Callable[[Array], Array]) -> None:
    from onnx import helper, numpy_helper

    values = convert(numpy_helper.to_array(attribute.t))
    node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, values.tolist()))


def _down(values: Array) -> Array:
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
        return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def ort_format(content: bytes) -> bytes:
    """The model in onnxruntime's own format, which runtimes that were built small can load.

    :raises ConfigError: if onnxruntime cannot convert it.
    """
    import onnxruntime

    options = _options()
    # What every processor can run: further optimizations may be for the one at hand alone.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.ort")
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ConfigError(f"package.edge: onnxruntime cannot convert this model: {error}") from error
        return path.read_bytes()


def scorer(content: bytes) -> Score:
    """Scores with a variant: any float [n, features] in, float64 [n] out; on one thread, as a small device would."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, _options(), providers=["CPUExecutionProvider"])
    wanted = np.float32 if "float" in session.get_inputs()[0].type else np.float64

    def score(rows: Array) -> Array:
        found = session.run(["score"], {"input": np.ascontiguousarray(rows, wanted)})[0]
        return one_or_many(np.asarray(found, np.float64))

    return score


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _holdout(job: Job, trained: Trained) -> tuple[Array, Array, str]:
    version = load_split(job, trained.split).holdout
    frame = snapshot.read(job, version).to_pandas()
    frame = frame[frame[LABEL].notna()]
    features = applied(job, trained.fitted, frame[list(job.config.features.columns)])
    return features.to_numpy(np.float64), targets(job.config, frame), version.partition


class _Comparison:
    """Holds variants against the scores of the package."""

    def __init__(self, job: Job, rows: Array, labels: Array, expected: Array) -> None:
        self._settings, self._asked, self._kind = (
            job.config.evaluation,
            job.config.gates.latency.by_rows,
            objective(job.config),
        )
        self._rows, self._labels, self._expected = rows, labels, expected

    def variant(self, file: str, content: bytes, score: Score, *, trees: int, precision: str) -> Variant:
        found = score(self._rows)
        difference = np.abs(found - self._expected)
        ours, theirs = decided(found, self._kind.cut), decided(self._expected, self._kind.cut)
        otherwise = None if ours is None or theirs is None else float((ours != theirs).mean())
        measured = not self._kind.problem(self._labels)
        return Variant(
            file=file,
            trees=trees,
            precision=precision,
            size=len(content),
            latency=latency.profile(score, self._rows, asked=self._asked),
            largest=float(difference.max()),
            mean=float(difference.mean()),
            decided_otherwise=otherwise,
            metrics=metrics.measure(self._settings.metrics, self._labels, found) if measured else {},
        )


def _checks(job: Job, report: EdgeReport) -> tuple[Check, ...]:
    whole, small = report.variants
    exact = Check(
        name="edge_parity", passed=whole.largest <= 1e-6, value=whole.largest, threshold=1e-6, subject=whole.file
    )
    settings, name = job.config.package.edge, job.config.evaluation.metric
    if settings is None or settings.max_loss is None:
        return (exact,)
    if name not in small.metrics:
        why = f"the holdout {report.partition} has no labels to measure {name} on"
        return exact, could_not_run("edge_loss", why, subject=small.file)
    sign = metrics.sign(name)
    loss = sign * (report.package.metrics[name] - small.metrics[name])
    detail = f"{name} on {report.partition}: {small.metrics[name]:.6g} instead of {report.package.metrics[name]:.6g}"
    return exact, Check(
        name="edge_loss",
        passed=loss <= settings.max_loss,
        value=loss,
        threshold=settings.max_loss,
        subject=small.file,
        detail=detail,
    )
