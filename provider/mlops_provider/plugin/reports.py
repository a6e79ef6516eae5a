"""The page of a verdict, read from the artifact root for a user who may read the model's CI DAG. Reads, and nothing else.

The security helpers are Airflow's own and no public interface: they are used in this module only.
"""

import re
from pathlib import Path

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_authenticated
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import Response

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError
from mlops_provider.operators.base import local_deployment
from mlops_provider.sections import NAME

# A page names what was in the data: no script of it may run, and nothing may be fetched, framed elsewhere or kept.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
_FILE = r"validation-[A-Za-z0-9._-]{1,200}\.html"

# Whoever adds a route here gets one that anonymous users cannot reach.
app = FastAPI(
    title="Validation reports",
    dependencies=[Depends(requires_authenticated())],
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
)


@app.get("/{model}/{file}")
def report(model: str, file: str, user: GetUserDep) -> Response:
    """One report of a model."""
    if not (re.fullmatch(NAME, model) and re.fullmatch(_FILE, file)):
        raise HTTPException(404, "there is no such report")
    details = DagDetails(id=f"{model}.ci")
    if not get_auth_manager().is_authorized_dag(
        method="GET", access_entity=DagAccessEntity.TASK_LOGS, details=details, user=user
    ):
        raise HTTPException(403, f"reading the reports of {model} takes the right to read the logs of {details.id}")
    return Response(_read(local_deployment(), model, file), media_type="text/html; charset=utf-8", headers=_HEADERS)


def _read(place: Deployment, model: str, file: str) -> bytes:
    folder = place.under("reports", model)
    uri = f"{folder}/{file}"
    if place.storage.is_local(uri):
        # Names hold no slash, but a link in the folder could still lead out of it.
        _, path = place.storage.filesystem(uri)
        _, root = place.storage.filesystem(place.under("reports"))
        if not Path(path).resolve().is_relative_to(Path(root).resolve()):
            raise HTTPException(404, "there is no such report")
    try:
        return place.storage.read(uri)
    except DataError as error:
        raise HTTPException(404, "there is no such report") from error
