"""The model registry: MLflow, reached through one narrow door that tells trouble with the server from wrong use."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import ConfigError, ConflictError, MlopsError, Transient
from mlops_provider.mlflow_headers import using
from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.step import Job
from mlops_provider.tracking import refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
FINGERPRINT = "mlops.fingerprint"
LINEAGE = "lineage.json"
ENVIRONMENT = "mlops.environment"

# The client's own default goes on retrying for minutes; Airflow's retries are visible, these are not.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@contextmanager
def client(job: Job) -> Iterator[MlflowClient]:
    """MLflow's client for this deployment.

    Within, every request of MLflow carries the deployment's credentials; artifacts go through the server.

    :raises ConfigError: if no server is configured.
    :raises AccessDenied: if it does not let us in.
    :raises Transient: if the server cannot be reached or fails.
    """
    uri = job.deployment.tracking_uri
    if not uri:
        raise ConfigError(
            "no MLflow server is configured: define the connection that [mlops] mlflow_conn_id names (mlflow_default if it "
            "names none), or outside of Airflow set MLFLOW_TRACKING_URI"
        )
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    try:
        with using(job.deployment.mlflow):
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlopsError:
        raise
    except Exception as error:
        if status := _denied(error):
            raise refused(uri, status) from error
        if _unreachable(error):
            raise Transient(f"MLflow at {uri} did not answer: {str(error)[:300]}") from error
        raise


def _denied(error: BaseException | None) -> int:
    """The status with which the server refused us, here or below in the chain of causes; 0 if it did not."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    codes = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}
    while error is not None:
        if isinstance(error, MlflowException) and error.error_code in codes:
            return codes[error.error_code]
        if isinstance(error, HTTPError) and error.response is not None and error.response.status_code in (401, 403):
            return int(error.response.status_code)
        error = error.__cause__ or error.__context__
    return 0


def _unreachable(error: BaseException | None) -> bool:
    """Whether it was the connection or the server that failed, here or below in the chain of causes."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    while error is not None:
        if isinstance(error, RequestException | ConnectionError | TimeoutError):
            return True
        if isinstance(error, MlflowException) and error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            return True
        error = error.__cause__ or error.__context__
    return False


def versions(mlflow: MlflowClient, name: str, fingerprint: str) -> list[Any]:
    """Registered versions with this fingerprint, lowest number first."""
    found = mlflow.search_model_versions(f"name='{name}'")
    return sorted((v for v in found if v.tags.get(FINGERPRINT) == fingerprint), key=lambda v: int(v.version))


def said_of_versions(job: Job, recorded: Collection[str]) -> str:
    """What the registry says of all versions of the model, whoever registered them: tags, descriptions and sources.

    :param recorded: fingerprints of those that we registered. Of the others also what their runs logged, and their lineage.
    """
    said = list[str]()
    with client(job) as mlflow:
        for version in _every_version(mlflow, job.deployment.registered_name(job.config)):
            said.append(json.dumps([version.tags, version.description, version.source]))
            if version.run_id and version.tags.get(FINGERPRINT) not in recorded:
                said.append(_said_of_run(mlflow, version.run_id))
    return "\n".join(said)


def _every_version(mlflow: MlflowClient, name: str) -> Iterator[Any]:
    token = None
    while True:
        page = mlflow.search_model_versions(f"name='{name}'", page_token=token)
        yield from page
        if not (token := page.token):
            return


def require_ours(job: Job, registered: Collection[ModelVersion]) -> None:
    """Makes sure that this MLflow is the one where our versions were registered; an empty database answers, too, and knows none.

    A version that was deleted there is known by its run, which MLflow keeps until it is purged.

    :param registered: versions that it has to know.
    :raises ConflictError: if it does not know one, or there is none to know it by and no such model either.
    """
    name, uri = job.deployment.registered_name(job.config), job.deployment.tracking_uri
    with client(job) as mlflow:
        mine = {(int(v.version), v.tags.get(FINGERPRINT)) for v in _every_version(mlflow, name)}
        missing = [one for one in registered if (one.version, one.fingerprint) not in mine]
        if lost := [one for one in missing if not _has_run(mlflow, one.run_id)]:
            raise ConflictError(
                f"MLflow at {uri} knows neither version {lost[0].version} of {name}, which the ledger registered, nor its run "
                f"{lost[0].run_id}. If it is the wrong server, set the right one. If that version and its run were deleted and "
                f"purged there, say so: mlops gc --purged {' '.join(str(one.version) for one in lost)}"
            )
        tags = _tags_of_model(mlflow, name)
    if tags is None and not registered:
        raise ConflictError(
            f"MLflow at {uri} knows no model {name}, and the ledger names no version that it should know: nothing tells that it "
            "is the right server. Let a first version be registered, or create the registered model there by hand"
        )
    if tags and tags.get(ENVIRONMENT, job.deployment.environment) != job.deployment.environment:
        raise ConflictError(f"the model {name} in MLflow at {uri} belongs to the environment {tags[ENVIRONMENT]!r}")


def _tags_of_model(mlflow: MlflowClient, name: str) -> dict[str, str] | None:
    """Tags of the registered model, None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(mlflow.get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _has_run(mlflow: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _said_of_run(mlflow: MlflowClient, run_id: str) -> str:
    """Tags, parameters and data sets of a run, and its lineage if it has one; nothing of a run that was purged."""
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""
    said = json.dumps(run.to_dictionary(), default=str)
    if LINEAGE in (file.path for file in mlflow.list_artifacts(run_id)):
        with tempfile.TemporaryDirectory() as folder:
            said += Path(mlflow.download_artifacts(run_id, LINEAGE, folder)).read_text()
    return said


def only_first(mlflow: MlflowClient, name: str, fingerprint: str, create: Callable[[], object]) -> int:
    """The version of a fingerprint, created if there is none.

    Two creators at once, or one that was killed and ran again, both end with the lowest number: a later one of the same
    fingerprint is withdrawn by whoever sees it.
    """
    if not versions(mlflow, name, fingerprint):
        create()
    first, *later = versions(mlflow, name, fingerprint)
    for version in later:
        _withdraw(mlflow, name, version.version)
    return int(first.version)


def _withdraw(mlflow: MlflowClient, name: str, version: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.delete_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def point_champion(job: Job, version: int) -> bool:
    """Points the champion alias at a version, if it is not there; returns whether it had to be moved."""
    name = job.deployment.registered_name(job.config)
    with client(job) as mlflow:
        if _champion(mlflow, name) == version:
            return False
        mlflow.set_registered_model_alias(name, CHAMPION, str(version))
        found = _champion(mlflow, name)
    if found != version:
        raise Transient(f"the alias {CHAMPION!r} of {name} is at version {found}, was set to {version}")
    return True


def _champion(mlflow: MlflowClient, name: str) -> int | None:
    """The version that the alias points at; stores answer with a number or with text."""
    found = mlflow.get_registered_model(name).aliases.get(CHAMPION)
    return int(found) if found is not None else None
