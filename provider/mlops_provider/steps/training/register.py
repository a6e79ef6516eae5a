"""Registration: one MLflow run and one model version for a fingerprint, however often and by whomever it is asked for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConfigError, ConflictError
from mlops_provider.ledger import Draft, Record
from mlops_provider.modelcode import commits
from mlops_provider.scorecard import render, scorecard
from mlops_provider.steps import registry
from mlops_provider.steps.records import Evaluation, ModelVersion, Package, Trained
from mlops_provider.steps.step import Job, step
from mlops_provider.steps.training import mlflowmodel
from mlops_provider.steps.training.card import card
from mlops_provider.steps.training.evaluation_report import save_evaluation
from mlops_provider.steps.training.parameters import with_params
from mlops_provider.steps.training.split import load_split
from mlops_provider.storage import Artifact, canonical_json, digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RegisterArguments(Frozen):
    """All that is known of the candidate."""

    trained: Trained
    package: Package
    evaluation: Evaluation


class Registered(Frozen):
    """The version, its ledger record, and whether the version was there before."""

    version: ModelVersion
    record: int
    reused: bool


@step("register", arguments=RegisterArguments, result=Registered, cached=False)
def register(job: Job, arguments: RegisterArguments) -> Registered:
    """Logs the run, registers the version with its fingerprint and lineage, and records the candidate.

    A rerun after a kill at any point goes on from what is there: the run is claimed by fingerprint before anything is
    written to it, and the version gets its fingerprint in the very call that creates it.

    :raises Transient: if MLflow cannot be reached.
    """
    trained = arguments.trained
    name = job.deployment.registered_name(job.config)
    lineage, described = _lineage(job, arguments), _card(job, arguments)
    with registry.client(job) as mlflow:
        _registered_model(mlflow, name, job)
        run_id = claimed_run(job, mlflow, name, trained.fingerprint)
        existed = bool(registry.versions(mlflow, name, trained.fingerprint))
        if not existed:
            _log(job, mlflow, run_id, arguments, lineage, described)
        tags = _tags(job, arguments)

        def create() -> object:
            source = f"{mlflow.get_run(run_id).info.artifact_uri}/model"
            return mlflow.create_model_version(name, source, run_id=run_id, tags=tags)

        number = registry.only_first(mlflow, name, trained.fingerprint, create)
        mlflow.set_terminated(run_id, "FINISHED")
    version = ModelVersion(
        model=job.config.name,
        version=number,
        run_id=run_id,
        fingerprint=trained.fingerprint,
        package=arguments.package,
        split=trained.split,
        lineage=lineage,
        drill=trained.drill,
        card=described,
    )
    return Registered(version=version, record=_recorded(job, version, arguments.evaluation), reused=existed)


def _recorded(job: Job, version: ModelVersion, evaluation: Evaluation) -> int:
    drill = f" (drill: {version.drill})" if version.drill else ""
    draft = Draft(
        kind="candidate",
        partition=version.split.holdout,
        version=version.version,
        outcome="registered",
        reason=f"version {version.version} fitted on {version.split.first} to {version.split.last}{drill}",
        facts={"version": version.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")},
    )

    def guard(records: tuple[Record, ...]) -> Record | None:
        return next((r for r in records if r.kind == "candidate" and r.version == version.version), None)

    return job.ledger.append(draft, actor=job.deployment.actor, guard=guard)[0].number


def claimed_run(job: Job, mlflow: MlflowClient, name: str, fingerprint: str) -> str:
    """The one MLflow run of a fingerprint: whoever creates the claim first names it, all others adopt it."""
    claim = job.under("claims", f"{fingerprint}.json")
    if job.storage.exists(claim):
        return _adopted(mlflow, claim, str(job.storage.read_json(claim)["run_id"]))
    experiment = mlflow.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else _experiment(job, mlflow, name)
    run_id = _begun(mlflow, experiment_id, fingerprint)
    if job.storage.create(claim, canonical_json({"run_id": run_id, "actor": job.deployment.actor})):
        return run_id
    standing = str(job.storage.read_json(claim)["run_id"])
    if standing != run_id:
        mlflow.delete_run(run_id)
    return _adopted(mlflow, claim, standing)


def _begun(mlflow: MlflowClient, experiment_id: str, fingerprint: str) -> str:
    """The run that an earlier try made and did not come to claim, or a new one."""
    for run in mlflow.search_runs([experiment_id], f"tags.`{registry.FINGERPRINT}` = '{fingerprint}'", max_results=1):
        return str(run.info.run_id)
    return str(mlflow.create_run(experiment_id, tags={registry.FINGERPRINT: fingerprint}).info.run_id)


def _experiment(job: Job, mlflow: MlflowClient, name: str) -> str:
    """A server has a place for artifacts of its own; for a bare database they go below the artifact root."""
    from mlflow.exceptions import MlflowException

    served = job.deployment.tracking_uri.startswith("http")
    try:
        return str(mlflow.create_experiment(name, artifact_location=None if served else job.deployment.under("mlflow")))
    except MlflowException as error:
        # Another registration was first, between our look and now.
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or not (known := mlflow.get_experiment_by_name(name)):
            raise
        return str(known.experiment_id)


def _adopted(mlflow: MlflowClient, claim: str, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConflictError(
            f"{claim} names the MLflow run {run_id}, which this MLflow server does not have. If its database was replaced, "
            "delete the claim; otherwise point [mlops] mlflow_conn_id at the server that has the run."
        ) from error
    return run_id


def _log(
    job: Job, mlflow: MlflowClient, run_id: str, arguments: RegisterArguments, lineage: Artifact, described: Artifact
) -> None:
    training, evaluation = with_params(job, arguments.trained.params).config.training, arguments.evaluation
    told = {"objective": training.objective, "rounds": training.rounds, "seed": training.seed}
    for key, value in {**training.params, **told, "trees": arguments.trained.trees}.items():
        mlflow.log_param(run_id, key, value)
    for key, measured in evaluation.candidate.items():
        mlflow.log_metric(run_id, f"holdout_{key}", measured)
    if evaluation.interval:
        for bound in ("gain", "low", "high"):
            name = f"{evaluation.metric}_gain" + ("" if bound == "gain" else f"_{bound}")
            mlflow.log_metric(run_id, name, getattr(evaluation.interval, bound))
    with tempfile.TemporaryDirectory() as folder:
        mlflowmodel.save(job.storage, arguments.package, Path(folder, "model"))
        save_evaluation(job, Path(folder, "evaluation"), evaluation)
        mlflow.log_artifacts(run_id, folder)
    mlflow.log_text(run_id, job.storage.read(lineage.uri).decode(), registry.LINEAGE)
    mlflow.log_text(run_id, evaluation.verdict.markdown(), "evaluation.md")
    mlflow.log_text(run_id, job.storage.read(described.uri).decode(), "card.md")
    standing = scorecard(job)  # as of now: the gate, which answers some of its rows, comes after
    mlflow.log_text(run_id, render(standing), "scorecard.txt")
    mlflow.log_text(run_id, canonical_json(standing.model_dump(mode="json"), indent=1).decode(), "scorecard.json")


def _registered_model(mlflow: MlflowClient, name: str, job: Job) -> None:
    from mlflow.exceptions import MlflowException

    mine = job.deployment.environment
    tags = {"mlops.owner": job.config.owner, registry.ENVIRONMENT: mine}
    try:
        mlflow.create_registered_model(name, description=job.config.description, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    theirs = mlflow.get_registered_model(name).tags.get(registry.ENVIRONMENT, mine)
    if theirs != mine:
        raise ConfigError(
            f"the registered model {name} belongs to the environment {theirs!r}, this one is {mine!r}: they would move "
            "each other's champion. Set [mlops] registry_prefix, so that each has names of its own."
        )


def _tags(job: Job, arguments: RegisterArguments) -> dict[str, str]:
    trained, deployment = arguments.trained, job.deployment
    tags = {
        registry.FINGERPRINT: trained.fingerprint,
        "mlops.model_hash": trained.model_hash,
        "mlops.package": arguments.package.onnx.hash,
        "mlops.code": arguments.package.code.sha256,
        "mlops.fitted_on": f"{trained.split.first} to {trained.split.last}",
        "mlops.holdout": trained.split.holdout,
        registry.ENVIRONMENT: deployment.environment,
    }
    if packed_at := commits(arguments.package.code, job.storage):
        tags["mlops.git"] = packed_at[0]
    return tags | ({"mlops.drill": trained.drill} if trained.drill else {})


def _card(job: Job, arguments: RegisterArguments) -> Artifact:
    """The model card, under its content as the lineage is."""
    trained = arguments.trained
    text = card(job, trained, arguments.package, arguments.evaluation, load_split(job, trained.split))
    return job.storage.write(job.under("models", trained.fingerprint, f"card-{digest(text)[:16]}.md"), text.encode())


def _lineage(job: Job, arguments: RegisterArguments) -> Artifact:
    """All that the version came from, in one file."""
    trained = arguments.trained
    split = load_split(job, trained.split)
    value: dict[str, Any] = {
        "fingerprint": trained.fingerprint,
        "data": {
            "fit": [version.model_dump(mode="json") for version in split.fit],
            "holdout": split.holdout.model_dump(mode="json"),
            "cutoff": split.cutoff.isoformat(),
            "rows": trained.rows,
        },
        "code": {
            **job.model.ref.model_dump(mode="json"),
            "code_hash": job.model.code_hash,
            "git": commits(job.model.ref, job.storage),
        },
        "configuration": job.config.model_dump(mode="json"),
        "environment": trained.environment,
        "model_hash": trained.model_hash,
        "training": trained.model_dump(mode="json", include={"trees", "validation", "start"}),
        "fitted": trained.fitted.model_dump(mode="json") if trained.fitted else None,
        "drill": trained.drill,
        "tuning": _tuning(job, trained),
        "evaluation": arguments.evaluation.model_dump(mode="json"),
        "parity": arguments.package.parity.model_dump(mode="json"),
        "package": {name: file.hash for name, file in arguments.package.files.items()},
    }
    name = f"lineage-{digest(value)[:16]}.json"
    return job.storage.write_json(job.under("models", trained.fingerprint, name), value)


def _tuning(job: Job, trained: Trained) -> dict[str, Any] | None:
    """The search behind the parameters, with all its trials, and what of it was kept."""
    if trained.tuning is None:
        return None
    return {"params": trained.params, "search": json.loads(job.storage.fetch(trained.tuning))}
