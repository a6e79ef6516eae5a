"""Waiting for data: a sensor in a DAG with a schedule, and DAGs that data wakes by an `AssetWatcher`."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from mlops_provider.sensors.data import DataVersionSensor, LabelsArrivedSensor, NewPartitionSensor
from mlops_provider.triggers.data import DataVersionTrigger, NewPartitionTrigger

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
SALES = "sales/{partition}/sales.parquet"  # under [mlops] data_root; a whole URI such as s3://... does as well


@task
def told(partition: str) -> str:
    """What comes after the wait."""
    return f"{partition} is there"


# Each run takes the next partition that no run has had. The wait takes no worker slot.
with DAG("example_next_partition", start_date=START, schedule="@daily", catchup=False, max_active_runs=1):
    arrived = NewPartitionSensor(
        task_id="wait",
        source=SALES,
        frequency="daily",
        deferrable=True,
        poke_interval=60,
        timeout=dt.timedelta(hours=20),
    )
    arrived >> told("{{ ti.xcom_pull('wait') }}")

# Of a model: inputs, labels and data versions, where and how model.yaml says.
with DAG("example_model_data", start_date=START, schedule=None, catchup=False, max_active_runs=1):
    inputs = NewPartitionSensor(task_id="inputs", model="flight_delays", deferrable=True)
    labels = LabelsArrivedSensor(
        task_id="labels",
        model="flight_delays",
        partition="{{ ti.xcom_pull('inputs') }}",
        deferrable=True,
        soft_fail=True,
    )
    inputs >> labels >> DataVersionSensor(task_id="version", model="flight_delays", deferrable=True)

# Nobody posts these events: the watcher looks, and remembers in the asset's state store what it has announced.
sales = Asset(
    "example_sales",
    uri="x-mlops://example/sales",
    watchers=[
        AssetWatcher(
            name="example_sales",
            trigger=NewPartitionTrigger(asset="example_sales", source=SALES, frequency="daily", poll=60),
        )
    ],
)
versions = Asset(
    "example_versions",
    uri="x-mlops://example/versions",
    watchers=[
        AssetWatcher(
            name="example_versions",
            trigger=DataVersionTrigger(
                asset="example_versions", repository="repository.git", tags="flight_delays/*", poll=60
            ),
        )
    ],
)

with DAG("example_woken_by_data", start_date=START, schedule=sales | versions, catchup=False):

    @task
    def news(**context: Any) -> list[str]:
        """Events wake, state decides: Airflow may merge events, so look at what is there and not at what they say."""
        return sorted(asset.name for asset in context["triggering_asset_events"])

    news()
