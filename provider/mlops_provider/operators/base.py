"""What all operators share: the deployment resolved from Airflow, the model's code, and errors that retry or do not."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, BaseOperator, Context, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from mlops_provider.config import check_name
from mlops_provider.deployment import Deployment, DvcAccess, MlflowAccess
from mlops_provider.exceptions import ConfigError, ConflictError, MlopsError, Transient
from mlops_provider.hooks.aws import s3_options
from mlops_provider.hooks.dvc import DvcHook
from mlops_provider.hooks.mlflow import MlflowHook
from mlops_provider.links import mlflow_addresses
from mlops_provider.steps.data.git import is_remote_shell
from mlops_provider.storage import join

if TYPE_CHECKING:
    from mlops_provider.modelcode import CodeRef
    from mlops_provider.steps.step import Job, Outcome

log = logging.getLogger(__name__)


def setting(key: str, fallback: str = "") -> str:
    """An option of the section [mlops] of the Airflow configuration."""
    return str(conf.get("mlops", key, fallback=fallback) or fallback)


def environment() -> str:
    """Name of this Airflow's environment."""
    return setting("environment", "local")


def data_root() -> str:
    """URI that relative URIs in model.yaml start from.

    :raises ConfigError: if the deployment names none.
    """
    root = setting("artifact_root")
    if not (setting("data_root") or root):
        raise ConfigError("[mlops] artifact_root is not set: name the URI of the folder for artifacts there")
    return setting("data_root") or join(root, "data")


def located(uri: str) -> str:
    """A URI from model.yaml or a DAG, under `data_root` if it is relative."""
    return uri if "://" in uri or uri.startswith("/") or is_remote_shell(uri) else join(data_root(), uri)


def local_deployment(actor: str = "") -> Deployment:
    """The deployment without its connections: enough to read the ledger and the predictions."""
    root = setting("artifact_root")
    if not root:
        raise AirflowFailException("[mlops] artifact_root is not set: name the URI of the folder for artifacts there")
    return Deployment(
        artifact_root=root,
        data_root=data_root(),
        environment=environment(),
        registry_prefix=setting("registry_prefix"),
        actor=actor or "airflow",
        storage_options=storage_options(root, setting("data_root")),
    )


def deployment(context: Context) -> Deployment:
    """The deployment with its connections resolved, acting for this task."""
    run = context["run_id"]
    found = local_deployment(actor=f"{context['dag'].dag_id} {run}")
    known: dict[str, Any] = {}
    try:
        mlflow = mlflow_access()
        known = {"tracking_uri": mlflow.uri, "mlflow": mlflow}
    except AirflowNotFoundException:
        if mlflow_conn_id() != MlflowHook.default_conn_name:
            raise
        # None was named, and most steps need none: those that do tell.
    if dvc_conn_id := setting("dvc_conn_id"):
        known["dvc"] = DvcHook(dvc_conn_id, aws_conn_id=setting("aws_conn_id", "aws_default")).get_conn()
    return found.model_copy(update=known)


def mlflow_conn_id() -> str:
    """Id of the connection to the deployment's MLflow server."""
    return setting("mlflow_conn_id", "mlflow_default")


def mlflow_access(conn_id: str | None = None) -> MlflowAccess:
    """Address of an MLflow server and what lets us in.

    :param conn_id: a connection of type ``mlflow``; [mlops] mlflow_conn_id if None.
    """
    return MlflowHook(conn_id or mlflow_conn_id()).get_conn()


def git_access(conn_id: str | None = None) -> DvcAccess:
    """Place of the data repository and what lets us in, without what its DVC remote needs.

    :param conn_id: a connection of type ``dvc``; [mlops] dvc_conn_id if None.
    """
    conn_id = conn_id or setting("dvc_conn_id")
    return DvcHook(conn_id).git_access() if conn_id else DvcAccess()


def storage_options(*uris: str, aws_conn_id: str | None = None) -> dict[str, dict[str, Any]]:
    """What fsspec needs to reach S3, from the amazon provider's connection; nothing if no URI is on S3.

    :param aws_conn_id: the connection; [mlops] aws_conn_id if None.
    """
    if not any(uri.startswith("s3://") for uri in uris):
        return {}
    return s3_options(aws_conn_id or setting("aws_conn_id", "aws_default"))


def apart(uri: Any) -> tuple[Any, str]:
    """A URI without the connection that an ObjectStoragePath has in it (``s3://conn@bucket/key``), and its id; empty if none.

    In text that is read for S3 and Google's storage only, as in others what comes before an @ means something else. Anything
    that is no URI comes back as it is.
    """
    if hasattr(uri, "conn_id"):  # an ObjectStoragePath, whose class takes long to import
        conn_id = uri.conn_id or ""
        return str(uri).replace(f"://{conn_id}@", "://", 1), conn_id
    found = re.fullmatch(r"(s3|gs)://([^/@]+)@(.+)", uri) if isinstance(uri, str) else None
    return (f"{found[1]}://{found[3]}", found[2]) if found else (uri, "")


def reaching(uri: str, conn_id: str) -> dict[str, dict[str, Any]]:
    """What fsspec needs to reach a URI, from the connection that it names, or from that of the deployment."""
    protocol = uri.partition("://")[0]
    if conn_id and protocol != "s3":
        from airflow.sdk.io import get_fs

        return {protocol: dict(get_fs(protocol, conn_id).storage_options)}
    return storage_options(uri, aws_conn_id=conn_id or None)


def with_access(found: Deployment, *given: Any) -> Deployment:
    """The deployment with the credentials for URIs that may lie elsewhere.

    :raises ConfigError: if URIs on one kind of storage name different connections.
    """
    known = dict(found.storage_options)
    for value in given:
        named = table_of(value) if isinstance(value, dict) else value
        uri, conn_id = apart(named["uri"] if isinstance(named, dict) else named)
        if not isinstance(uri, str):
            continue
        for protocol, options in reaching(uri, conn_id).items():
            if conn_id and known.get(protocol, options) != options:
                raise ConfigError(
                    f"{uri}: another connection than {conn_id!r} is in use for {protocol}:// in this task, and there can be "
                    "but one: name it for all, or copy the data first"
                )
            known.setdefault(protocol, options)
    return found.model_copy(update={"storage_options": known})


def table_of(value: Any) -> Any:
    """What a result names as its table: the accepted rows, the table that it built, what it judged, or the value itself."""
    if isinstance(value, dict) and "uri" not in value:
        return value.get("accepted") or value.get("table") or value.get("dataset")
    return apart(value)[0] or None


class StepOperator(BaseOperator):
    """Runs one step. Every step has an operator of its own; this is their base, and runs steps of your own naming.

    :param model: name of the model; templated.
    :param step: name of the step, for the base class; the subclasses have theirs.
    :param arguments: arguments of the step as JSON; templated, so that results of other tasks can be passed on.
    :param code: the model's code archive as `plan` packed it (templated); packed from `include` if None.
    :param include: folder with models/ in it; [mlops] include_dir if None.
    :param force: run again although nothing has changed; templated.
    """

    template_fields: Sequence[str] = ("model", "arguments", "code", "force")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json", "code": "json"}
    ui_color = "#e6f1f7"
    step: str = ""

    def __init__(
        self,
        *,
        model: str,
        step: str = "",
        arguments: dict[str, Any] | None = None,
        code: Any = None,
        include: str | None = None,
        force: Any = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.step = step or self.step
        self.arguments = arguments or {}
        self.code = code
        self.include = include
        self.force = force

    def execute(self, context: Context) -> Any:
        """Runs the step and returns its result as JSON.

        :raises AirflowFailException: for what no retry can mend; other errors are retried.
        """
        try:
            check_name(self.model)
            return self.run(context)
        except (Transient, ConflictError):
            raise
        except MlopsError as error:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error

    def run(self, context: Context) -> Any:
        """What `execute` does; subclasses add what they announce."""
        result = self.run_step(context, self.step, self.arguments)
        self.announce(context, {})
        return result

    def run_step(self, context: Context, step: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Runs a step by name and logs what came of it."""
        return self.packed(context, self.outcome(context, step, arguments))

    def outcome(self, context: Context, step: str, arguments: dict[str, Any]) -> Outcome:
        from mlops_provider.steps import step as steps

        outcome = steps.run(
            steps.Request(
                step=step,
                code=self.code_ref(context),
                deployment=self.place(context),
                arguments=arguments,
                force=truth(self.force),
            )
        )
        log.info("%s: %s", step, "reused" if outcome.reused else f"{outcome.seconds:.2f} s")
        _log_verdicts(outcome.result)
        return outcome

    def place(self, context: Context) -> Deployment:
        """The deployment that the step gets."""
        return deployment(context)

    def job(self, context: Context) -> Job:
        """The model and the deployment, as steps get them."""
        from mlops_provider.modelcode import unpack
        from mlops_provider.steps.step import Job

        place = deployment(context)
        return Job(unpack(self.code_ref(context), place.storage), place)

    def packed(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        """The result as it fits into an XCom."""
        from mlops_provider.steps.step import packed

        place = deployment(context)
        uri = place.under("results", self.model, outcome.step, f"{outcome.fingerprint}.json")
        return packed(outcome.result, place.storage, uri)

    def fitted(self, context: Context, value: dict[str, Any], **how: Any) -> dict[str, Any]:
        """A value of this task's own as it fits into an XCom.

        :param how: `limit`, for something that is only a part of what goes there.
        """
        from mlops_provider.steps.step import packed
        from mlops_provider.storage import digest

        place = deployment(context)
        return packed(
            value, place.storage, place.under("results", self.model, self.task_id, f"{digest(value)}.json"), **how
        )

    def whole(self, value: Any) -> Any:
        """What another task handed over, with everything that was too large for an XCom fetched."""
        from mlops_provider.steps.step import unpacked

        return unpacked(value, local_deployment().storage)

    def code_ref(self, context: Context) -> CodeRef:
        """The model's code archive: the one that was handed over, or packed now."""
        from mlops_provider.modelcode import CodeRef, pack

        if self.code:
            return CodeRef.model_validate(self.code)
        place = deployment(context)
        return pack(self.directory, place.environment, place.storage, place.artifact_root).ref

    @property
    def directory(self) -> str:
        include = self.include or setting("include_dir")
        if not include:
            raise AirflowFailException("[mlops] include_dir is not set: name the folder that holds models/ there")
        return f"{include}/models/{check_name(self.model)}"

    def linked(self, context: Context, version: Any) -> None:
        """Hands on where MLflow shows a version, for the links of the task: before it is worked on, so that a task that fails
        has them too.

        :param version: as a step gave it.
        """
        place, ours = mlflow_access(), f"{setting('registry_prefix')}{self.model}"
        for key, address in mlflow_addresses(place.uri, ours, self.whole(version)).items():
            context["ti"].xcom_push(key, address)

    def announce(self, context: Context, extra: dict[str, Any]) -> None:
        """Gives the events of the task's outlets something to read for people."""
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra = extra


def truth(value: Any) -> bool:
    """Whether a flag is set, also if a template has made text of it."""
    return str(value).lower() in ("true", "1")


def _log_verdicts(result: dict[str, Any]) -> None:
    from mlops_provider.checks import Verdict

    for value in result.values():
        if isinstance(value, dict) and set(value) == {"subject", "checks"}:
            log.info("\n%s", Verdict.model_validate(value).markdown())
