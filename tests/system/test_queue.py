"""A message in a queue starts a loop, in a real Airflow: queue, triggerer, asset event, run, and the loop that it wakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.integration.servers import QueueServer
from tests.system.site import CODED, PATIENCE, Site
from tools.demo.environment import REPOSITORY
from tools.demo.rest import wait_until

EXAMPLE = REPOSITORY / "provider" / "mlops_provider" / "example_dags" / "example_message_queue.py"
SOMEBODYS = "https://sqs.eu-central-1.amazonaws.com/123456789012/labels"
DAG, LOOP = "example_message_queue", f"{CODED}.ci"


@pytest.fixture
def queue(site: Site, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A client and the URL of a queue that the example, copied among the DAGs and changed, listens to.

    The connection is in Airflow's database, where a triggerer has to ask for it.
    """
    file, connection = site.services.folders["dags"] / EXAMPLE.name, "/connections/aws_default"
    assert file.parent != REPOSITORY / "dags", "the site must have DAGs of its own to add one"
    server = QueueServer(tmp_path)
    try:
        server.wait()
        where = {"endpoint_url": server.url, "region_name": "eu-central-1"}
        client = boto3.client("sqs", **where, aws_access_key_id="key", aws_secret_access_key="secret")
        url = client.create_queue(QueueName="labels")["QueueUrl"]
        aws = {"connection_id": "aws_default", "conn_type": "aws", "login": "key", "password": "secret"}
        site.api.insist("POST", "/connections", json={**aws, "extra": json.dumps(where)})
        text = EXAMPLE.read_text()
        assert text.count(SOMEBODYS) == 1
        file.write_text(text.replace(SOMEBODYS, url).replace("flight_delays", CODED))
        site.api.wait_for_dags([DAG])
        site.api.unpause(DAG)
        site.api.unpause(LOOP)
        site.api.parse_again(DAG)  # Airflow watches from the next time on that it reads a DAG's file
        yield client, url
    finally:
        file.unlink(missing_ok=True)
        site.api.insist("DELETE", connection)
        server.stop()


def test_a_message_in_a_queue_wakes_the_loop(site: Site, queue: tuple[Any, str]) -> None:
    client, url = queue
    before = len(woken(site, LOOP))
    client.send_message(QueueUrl=url, MessageBody="2013-01 is there")
    (run,) = wait_until(lambda: woken(site, DAG), "the message to start a run", timeout=PATIENCE, poll=0.5)
    events = site.api.request("GET", f"/dags/{DAG}/dagRuns/{run['dag_run_id']}/upstreamAssetEvents")["asset_events"]
    assert [event["extra"]["from_trigger"] for event in events] == [True]
    (message,) = events[0]["extra"]["payload"]["message_batch"]
    assert message["Body"] == "2013-01 is there"
    assert site.api.wait_run(DAG, run["dag_run_id"], timeout=PATIENCE)["state"] == "success"
    loop = wait_until(lambda: woken(site, LOOP)[before:], "the loop to wake", timeout=PATIENCE, poll=0.5)[-1]
    assert site.api.wait_run(LOOP, loop["dag_run_id"], timeout=PATIENCE)["state"] == "success"
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    assert left["Attributes"]["ApproximateNumberOfMessages"] == "0"


def woken(site: Site, dag: str) -> list[dict[str, Any]]:
    """Runs that an event started, oldest first."""
    return site.api.runs(dag, run_type=["asset_triggered"])[::-1]
