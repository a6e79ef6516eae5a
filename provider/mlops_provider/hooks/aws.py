"""Credentials for S3, from the amazon provider's connection."""

from __future__ import annotations

from typing import Any


def s3_options(aws_conn_id: str) -> dict[str, dict[str, Any]]:
    """Storage options of fsspec for ``s3://`` URIs."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook(aws_conn_id=aws_conn_id)
    try:
        keys = hook.get_credentials()
    except AttributeError:  # the hook asks for the keys of what boto3 did not find
        keys = None
    client = {"endpoint_url": hook.conn_config.endpoint_url, "region_name": hook.region_name}
    options: dict[str, Any] = {"client_kwargs": {name: value for name, value in client.items() if value}}
    if keys:
        options |= {"key": keys.access_key, "secret": keys.secret_key, "token": keys.token}
    return {"s3": options}
