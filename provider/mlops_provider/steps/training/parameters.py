"""Tuned parameters in the place of those in model.yaml."""

from __future__ import annotations

import copy

from pydantic import ValidationError

from mlops_provider.exceptions import RequestError
from mlops_provider.sections import Training
from mlops_provider.steps.records import Parameters
from mlops_provider.steps.step import Job


def with_params(job: Job, params: Parameters) -> Job:
    """The job as if model.yaml named these parameters: whatever asks its configuration sees them.

    :raises RequestError: if model.yaml could not name them.
    """
    if not params:
        return job
    given = job.config.training
    try:
        training = Training.model_validate(given.model_dump() | {"params": {**given.params, **params}})
    except ValidationError as error:
        raise RequestError(f"{job.config.name}: tuned parameters: {error.errors()[0]['msg']}") from error
    model = copy.copy(job.model)
    model.config = job.config.model_copy(update={"training": training})
    return Job(model, job.deployment, force=job.force)
