"""The assets of a model: the events by which its loops wake each other, and by which other DAGs follow it.

An event only says that something happened. What there is to do follows from state (`steps.plan`), so an event's extra is for
people and links.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow.sdk import Asset, AssetAlias, AssetWatcher

from mlops_provider.config import ModelConfig
from mlops_provider.partitions import parse_duration


@dataclass(frozen=True)
class ModelAssets:
    """The assets of one model in one environment.

    :ivar inputs: inputs of a partition have been delivered, labels not needed.
    :ivar labels: labels of a partition have been delivered.
    :ivar data: a partition was accepted and versioned.
    :ivar predictions: a partition was scored.
    :ivar retrain: it was decided to train a candidate.
    :ivar candidate: a candidate was registered.
    :ivar champion: the champion has changed.
    :ivar decision: a partition is settled: nothing is trained on it, or its candidate was promoted or refused.
    """

    inputs: Asset
    labels: Asset
    data: Asset
    predictions: Asset
    retrain: Asset
    candidate: Asset
    champion: Asset
    decision: Asset


def model_assets(config: ModelConfig, environment: str) -> ModelAssets:
    """The assets of a model; their names follow from the model's name, their URIs from the environment too.

    Airflow leaves schemes that begin with ``x-`` alone. For any other it loads the asset handlers of all providers, boto3
    among them, at every parse and in every task.
    """

    def asset(kind: str) -> Asset:
        name, uri = f"{config.name}.{kind}", f"x-mlops://{environment}/{config.name}/{kind}"
        return Asset(name=name, uri=uri, group="mlops", watchers=_watchers(config, kind, name))

    return ModelAssets(**{kind: asset(kind) for kind in ModelAssets.__dataclass_fields__})


def outcome_of(config: ModelConfig, task: str) -> AssetAlias:
    """The outlet of a task that announces one event or another, depending on what it decides."""
    return AssetAlias(name=f"{config.name}.{task}.outcome", group="mlops")


def _watchers(config: ModelConfig, kind: str, name: str) -> list[AssetWatcher]:
    """What posts the events of inputs and labels, if model.yaml wants them noticed."""
    watch = config.data.watch
    if watch is None or kind not in ("inputs", "labels"):
        return []
    from mlops_provider.triggers.data import LabelsArrivedTrigger, NewPartitionTrigger, of_model

    trigger = LabelsArrivedTrigger if kind == "labels" else NewPartitionTrigger
    about = of_model(config, labels=kind == "labels")
    poll = parse_duration(watch.poll).total_seconds()
    return [AssetWatcher(name=f"{name}.watch", trigger=trigger(**about, asset=name, poll=poll))]
