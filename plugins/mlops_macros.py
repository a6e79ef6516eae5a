"""Macros for DAG authors: `{{ macros.mlops.champion("flight_delays") }}` and the partition before or after one.

    bash_command="score --model-version {{ macros.mlops.champion('flight_delays') }}"
    source="s3://landing/{{ macros.mlops.partition_before('2013-05') }}/"

They read the ledger under [mlops] artifact_root when the template is rendered, never when the DAG file is parsed.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


def champion(model: str) -> int | None:
    """The version that is champion of a model now, None if there is none."""
    from mlops_provider.config import check_name
    from mlops_provider.ledger import champion as of
    from mlops_provider.operators.base import local_deployment

    record = of(local_deployment().ledger(check_name(model)).records())
    return record.version if record else None


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
