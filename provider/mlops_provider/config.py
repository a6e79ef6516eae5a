"""`ModelConfig`: model.yaml as typed, validated data.

A model is a folder with a model.yaml. `model.<environment>.yaml` beside it overlays it, and `extends:` makes it a variant
of another model.yaml under a name of its own. Overlays and bases are merged key by key before anything is validated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from mlops_provider import modelyaml
from mlops_provider.exceptions import ConfigError, RequestError
from mlops_provider.partitions import LENGTHS, parse_duration
from mlops_provider.sections import (
    ENVIRONMENT,
    NAME,
    Bounds,
    Data,
    Evaluation,
    Features,
    Gates,
    Monitoring,
    Name,
    Packaging,
    Quality,
    Retrain,
    Scoring,
    Section,
    SliceGate,
    SliceQuality,
    Training,
)
from mlops_provider.sections.objectives import METRICS, Scale


class ModelConfig(Section):
    """One model: everything the loops know about it."""

    name: Name
    owner: str = Field(min_length=1)
    description: str = ""
    tier: Literal["standard"] = "standard"
    data: Data
    features: Features
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    package: Packaging = Packaging()
    gates: Gates
    scoring: Scoring = Scoring()
    monitoring: Monitoring
    retrain: Retrain = Retrain()

    @model_validator(mode="before")
    @classmethod
    def _by_objective(cls, values: Any) -> Any:
        """The metrics that go with the objective stand where model.yaml names none."""
        return modelyaml.with_metrics(values)

    @model_validator(mode="after")
    def _predicts(self) -> ModelConfig:
        """What the objective needs is there, and nothing is asked that it does not give."""
        objective, label, evaluation = self.training.objective, self.data.label, self.evaluation
        needs = {
            "data.label.positive_above": (label.positive_above is not None, objective == "binary"),
            "data.label.classes": (bool(label.classes), objective == "multiclass"),
            "data.group": (self.data.group is not None, objective == "lambdarank"),
        }
        for key, (given, needed) in needs.items():
            if given != needed:
                raise ValueError(f"{key}: {'is needed' if needed else 'says nothing'} for the objective {objective}")
        if objective == "multiclass" and len(label.classes) < 2:
            raise ValueError("data.label.classes: at least two classes are needed")
        stopping = self.training.early_stopping
        asked = {f"evaluation.metrics[{number}]": name for number, name in enumerate(evaluation.metrics)}
        asked["evaluation.metric"] = evaluation.metric
        if stopping:
            asked["training.early_stopping.metric"] = stopping.metric
        for key, name in asked.items():
            if name not in METRICS[objective]:
                raise ValueError(
                    f"{key}: {name} does not measure the objective {objective}; {', '.join(METRICS[objective])} do"
                )
        if objective != "binary" and evaluation.fairness:
            raise ValueError(
                f"evaluation.fairness: compares yes and no, which the objective {objective} does not decide"
            )
        self._decides()
        return self

    def _decides(self) -> None:
        """What scores are held against fits what they are."""
        objective, evaluation = self.training.objective, self.evaluation
        limit = evaluation.calibration.max_error
        if limit is not None and objective == "lambdarank":
            raise ValueError(
                "evaluation.calibration.max_error: scores of a ranking only order, and can be right about nothing"
            )
        if limit is not None and objective != "regression" and limit >= 1:
            raise ValueError("evaluation.calibration.max_error: must be below 1, as scores are probabilities")
        if objective != "binary" and evaluation.cut != Evaluation().cut:
            raise ValueError(f"evaluation.cut: decides yes or no, which the objective {objective} does not")

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        taken = {self.data.key, self.data.event_time, "label", "group"} & set(self.features.columns)
        if taken:
            raise ValueError(
                f"features.columns must not name {', '.join(sorted(taken))}: key, event time, label and group stand beside them"
            )
        if personal := sorted(set(self.data.pii) & set(self.features.columns)):
            raise ValueError(f"features.columns must not name {', '.join(personal)}: data.pii marks it")
        weight, streamed = self.training.weight, self.training.memory == "streamed"
        if weight and weight.column not in (None, *self.features.columns):
            raise ValueError(f"training.weight.column: {weight.column!r} is not among features.columns")
        if streamed and self.features.fit:
            raise ValueError("training.memory streamed does not go with features.fit, which needs all rows at once")
        limited: list[Gates | Quality | SliceGate | SliceQuality] = [self.gates, self.monitoring.quality]
        limited += [*self.gates.slices.values(), *self.monitoring.quality.slices.values()]
        if unmeasured := sorted({name for one in limited for name in one.thresholds} - set(self.evaluation.metrics)):
            raise ValueError(f"thresholds ask for {', '.join(unmeasured)}, which evaluation.metrics does not measure")
        for place, limits in (("gates", self.gates), ("monitoring.quality", self.monitoring.quality)):
            for metric, bounds in limits.thresholds.items():
                _reachable(f"{place}.thresholds.{metric}", bounds, METRICS[self.training.objective][metric])
        blocks = LENGTHS[self.data.partition] / parse_duration(self.evaluation.block)
        if blocks < self.evaluation.minimum_blocks:
            raise ValueError(
                f"evaluation: a {self.data.partition} holdout has {blocks:g} blocks of {self.evaluation.block}, "
                f"minimum_blocks asks for {self.evaluation.minimum_blocks}: every candidate would be refused"
            )
        return self

    @model_validator(mode="after")
    def _evaluated_as_asked(self) -> ModelConfig:
        for key, column in self.evaluation.grouping.items():
            if column in self.data.pii:
                raise ValueError(f"{key}: must not name {column}: data.pii keeps its values out of every report")
            if column not in (*self.features.columns, *self.data.columns):
                raise ValueError(f"{key}: neither data.columns nor features.columns has {column!r}")
        for key, limits in (
            ("gates.slices", self.gates.slices),
            ("monitoring.quality.slices", self.monitoring.quality.slices),
        ):
            if unknown := sorted(set(limits) - set(self.evaluation.slices)):
                raise ValueError(f"{key}: evaluation.slices does not name {', '.join(unknown)}")
        if self.gates.fairness and not self.evaluation.fairness:
            raise ValueError("gates.fairness: evaluation.fairness names no column")
        if unknown := sorted(set(self.evaluation.importance.costs) - set(self.features.columns)):
            raise ValueError(f"evaluation.importance.costs: {', '.join(unknown)}: not among features.columns")
        return self

    @model_validator(mode="after")
    def _priced(self) -> ModelConfig:
        """What a loss costs is told in what the primary metric counts."""
        costs, metric = self.retrain.costs, self.evaluation.metric
        if costs and costs.wrong_answer is not None and metric != "accuracy":
            raise ValueError(
                f"retrain.costs.wrong_answer: {metric} does not count wrong answers; give metric_unit, or measure accuracy first"
            )
        return self

    def sections(self, *names: str) -> dict[str, Any]:
        """The named sections as JSON, for fingerprints."""
        return {name: self.model_dump(mode="json")[name] for name in names}


def _reachable(place: str, bounds: Bounds, values: Scale) -> None:
    """Refuses limits that nothing can keep: with them every candidate would be refused, every partition a loss."""
    if bounds.min is not None and bounds.min > values.high:
        raise ValueError(f"{place}.min ({bounds.min:g}) is more than it can be: {values.high:g} at most")
    if bounds.max is not None and bounds.max < values.low:
        raise ValueError(f"{place}.max ({bounds.max:g}) is less than it can be: {values.low:g} at least")


def load(directory: str | Path, environment: str = "") -> ModelConfig:
    """Reads the model in a directory, with the overlay of this environment if there is one.

    :raises ConfigError: naming the file, the line, the key and what was expected.
    """
    path = Path(directory, "model.yaml")
    check_environment(environment)
    values, sources = modelyaml.merged(path, environment)
    config = _validated(values, sources, path)
    if config.name != Path(directory).resolve().name:
        told = f"must be the name of its directory, {Path(directory).resolve().name!r}"
        raise ConfigError(modelyaml.explained(("name",), told, config.name, sources, path))
    return config


def _files_exist(config: ModelConfig, path: Path) -> None:
    """The files that a model.yaml names lie in the model's directory, or in that of a model it extends.

    Not asked when a single model is read: `mlops suite init` is how a suite comes to be.
    """
    named = {
        "features.build": config.features.build.split(":")[0],
        "features.fit": (config.features.fit or "").split(":")[0],
        "features.apply": (config.features.apply or "").split(":")[0],
        "training.fit": (config.training.fit or "").split(":")[0],
        "data.replay": (config.data.replay or "").split(":")[0],
        "data.suites.raw": config.data.suites.raw,
        "data.suites.features": config.data.suites.features,
    }
    for key, name in named.items():
        if not name or (path.parent / name).is_file():
            continue  # the usual case, at every parse of a DAG file: model.yaml need not be read again for its bases
        if not any((folder / name).is_file() for folder in bases(path.parent)):
            told = f"there is no file {name} in the model's directory"
            raise ConfigError(
                modelyaml.explained(tuple(key.split(".")), told, None, modelyaml.merged(path, "")[1], path)
            )


def schema() -> dict[str, Any]:
    """The JSON schema of model.yaml, for editors: a whole model, or a variant, which names only what it changes."""
    whole = ModelConfig.model_json_schema()
    definitions = whole.pop("$defs")
    changes = {f"{name}Changes": _optional(part) for name, part in definitions.items()}
    variant = _optional(whole)
    variant["properties"] = {"extends": _EXTENDS, **variant["properties"]}
    variant |= {"title": "Variant", "required": ["extends", "name"]}
    return {
        "title": "model.yaml",
        "$defs": {**definitions, **changes},
        "if": {"required": ["extends"]},
        "then": variant,
        "else": whole,
    }


_EXTENDS = {
    "type": "string",
    "pattern": r"^\.\./[a-z][a-z0-9_]*/model\.yaml$",
    "description": "The model.yaml of another model, which this one changes.",
}


def _optional(part: Any) -> Any:
    """A part of a schema in which nothing is required, all the way down."""
    if isinstance(part, dict):
        kept = {
            key: _optional(value) for key, value in part.items() if key != "required" or not isinstance(value, list)
        }
        if "$ref" in kept:
            kept["$ref"] = f"{kept['$ref']}Changes"
        return kept
    return [_optional(item) for item in part] if isinstance(part, list) else part


def validate(values: Mapping[str, Any], origin: str) -> ModelConfig:
    """A configuration that was merged before, for instance the one in a code archive."""
    return _validated(dict(values), [], Path(origin))


def bases(directory: str | Path) -> list[Path]:
    """The directories that a model is made of: the one it extends first, its own last."""
    path = Path(directory, "model.yaml")
    raw = modelyaml.read(path)[0]
    extends = raw.get("extends")
    return [*(bases((path.parent / str(extends)).parent) if extends else []), path.parent]


def discover(include: str | Path) -> list[Path]:
    """Directories of all models under an include directory, sorted."""
    return sorted(path.parent for path in Path(include, "models").glob("*/model.yaml"))


def load_all(include: str | Path, environment: str = "") -> tuple[list[tuple[Path, ModelConfig]], list[ConfigError]]:
    """Every model that can be read, and the errors of those that cannot: one bad file takes down only its own model."""
    check_environment(environment)
    models, errors = [], []
    for directory in discover(include):
        try:
            found = load(directory, environment)
            _files_exist(found, directory / "model.yaml")
            models.append((directory, found))
        except ConfigError as error:
            errors.append(_owned(error, directory / "model.yaml"))
    strange = sorted({path.parent for path in Path(include, "models").glob("*/model.yml")} - set(discover(include)))
    errors += [ConfigError(f"{folder}/model.yml: must be named model.yaml") for folder in strange]
    return models, errors


def _owned(error: ConfigError, path: Path) -> ConfigError:
    """The error with the model that it takes down, where the fault lies in a file of another one."""
    inside = (str(folder) for folder in (path.parent, path.parent.resolve()))
    return (
        error
        if str(error).startswith(tuple(inside))
        else ConfigError(f"{path}: cannot be used, as it extends: {error}")
    )


def _validated(values: dict[str, Any], sources: modelyaml.Sources, path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        lines = [
            modelyaml.explained(item["loc"], item["msg"], item.get("input"), sources, path) for item in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
    except Exception as error:
        # Whatever it is, it is this model's fault alone, and must not take the others down.
        raise ConfigError(f"{path}: cannot be used: {type(error).__name__}: {error}") from error


def check_name(name: object) -> str:
    """The name of a model that came from outside.

    :raises RequestError: if it is not a valid name, before it touches a path.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise RequestError(f"{name!r} is no name of a model: expected lower-case letters, digits and _ ({NAME})")
    return name


def check_environment(name: str) -> str:
    """The name of an environment that came from outside; empty for none.

    :raises ConfigError: if it is not a valid name, before it touches a path.
    """
    if name and not re.fullmatch(ENVIRONMENT, name):
        raise ConfigError(
            f"{name!r} is no name of an environment: expected lower-case letters, digits, - and _ ({ENVIRONMENT})"
        )
    return name
