"""A message in a queue starts a loop: CI of the model flight_delays, by an SQS queue.

Needs `apache-airflow-providers-common-messaging` and the amazon provider. Airflow takes the message off the queue before it
stores the event, so that a triggerer that dies in between loses it; the loop's own slow clock makes up for that.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher, conf

# [mlops] example_queue, or the environment's AIRFLOW__MLOPS__EXAMPLE_QUEUE.
QUEUE = conf.get("mlops", "example_queue", fallback="https://sqs.eu-central-1.amazonaws.com/123456789012/labels")

trigger = MessageQueueTrigger(scheme="sqs", sqs_queue=QUEUE, aws_conn_id="aws_default", waiter_delay=5)
message = Asset("labels_message", uri="x-mlops://example/labels", watchers=[AssetWatcher(name="sqs", trigger=trigger)])

# What the message says is not believed: it only wakes CI, which looks for itself at what has been delivered. The model's
# asset is named and not defined again, so that its own watchers stay.
with DAG("example_message_queue", start_date=dt.datetime(2024, 1, 1, tzinfo=dt.UTC), schedule=message, catchup=False):
    EmptyOperator(task_id="labels", outlets=[Asset.ref(name="flight_delays.labels")])
