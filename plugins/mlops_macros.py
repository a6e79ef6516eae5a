"""Macros for DAG authors: `{{ macros.mlops.champion("flight_delays") }}` and the partition before or after one.

    bash_command="score --model-version {{ macros.mlops.champion('flight_delays') }}"
    source="s3://landing/{{ macros.mlops.partition_before('2013-05') }}/"

They read the ledger under [mlops] artifact_root when the template is rendered, never when the DAG file is parsed.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


def champion(model: str) -> int | None:
    """The version that is champion of a model now, None if the model has none yet.

    :raises RequestError: if there is no such model.
    """
    from mlops_provider.config import check_name
    from mlops_provider.ledger import champion as of
    from mlops_provider.operators.base import local_deployment

    records = local_deployment().ledger(check_name(model)).records()
    if not records:
        _require_known(model)
    record = of(records)
    return record.version if record else None


def _require_known(model: str) -> None:
    """A name that is misspelt must not read as a model without a champion."""
    from mlops_provider.config import discover
    from mlops_provider.dagfile import include_of
    from mlops_provider.exceptions import RequestError

    include = include_of(__file__)
    known = [folder.name for folder in discover(include)]
    if model not in known:
        raise RequestError(f"there is no model {model!r}: {include}/models holds {', '.join(known) or 'none'}")


def partition_before(partition: str, frequency: str = "monthly") -> str:
    """The partition before one; frequency is monthly, daily or hourly."""
    from mlops_provider.partitions import shift

    return shift(partition, frequency, -1)


def partition_after(partition: str, frequency: str = "monthly") -> str:
    """The partition after one; frequency is monthly, daily or hourly."""
    from mlops_provider.partitions import shift

    return shift(partition, frequency, 1)


class MlopsMacros(AirflowPlugin):
    """Registers the macros under `macros.mlops`."""

    name = "mlops"
    macros = [champion, partition_before, partition_after]
