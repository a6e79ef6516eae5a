"""CD: judge, promote, roll back; and compare two versions by an A/B test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, AssetAlias, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowSkipException

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import Refused, RequestError
from mlops_provider.links import MlflowRunLink, ModelVersionLink
from mlops_provider.operators.base import StepOperator, apart, deployment, table_of, with_access

if TYPE_CHECKING:
    from mlops_provider.steps.release.ab_design import Design


class ModelGateOperator(StepOperator):
    """Judges a candidate against the champion of this moment. The task is green either way: the verdict is its result.

    :param version: the candidate, as `plan` found it.
    :param on_refusal: the asset to announce if the candidate is refused; give an AssetAlias as outlet then.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "version")
    operator_extra_links: Collection[BaseOperatorLink] = (MlflowRunLink(), ModelVersionLink())
    step = "gate"

    def __init__(self, *, version: Any, on_refusal: Asset | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.on_refusal = on_refusal

    def run(self, context: Context) -> Any:
        self.linked(context, self.version)
        again = bool(context["params"].get("version"))
        outcome = self.outcome(context, self.step, {"version": self.version, "again": again})
        found = outcome.result
        self.log.info("%s: %s", found["outcome"], found["reason"])
        if found["outcome"] != "promote":
            extra = {"version": found["version"], "outcome": found["outcome"], "reason": found["reason"]}
            announce_one(self, context, self.on_refusal, extra)
        return self.packed(context, outcome)


class PromoteModelOperator(StepOperator):
    """Makes a candidate that passed the gate the champion; skipped if the gate refused it.

    :param version: the candidate; `judged` is the result of ModelGateOperator.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "version", "judged")
    operator_extra_links: Collection[BaseOperatorLink] = (MlflowRunLink(), ModelVersionLink())
    step = "promote"

    def __init__(self, *, version: Any, judged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.judged = judged

    def run(self, context: Context) -> Any:
        from mlops_provider.steps.step import unpacked

        self.linked(context, self.version)
        judged = unpacked(self.judged, deployment(context).storage)
        if judged["outcome"] != "promote":
            raise AirflowSkipException(f"version {judged['version']} was refused: {judged['reason']}")
        again = bool(context["params"].get("version"))
        try:
            result = self.run_step(context, self.step, {"version": self.version, "judged": judged, "again": again})
        except Refused as error:
            raise AirflowSkipException(str(error)) from error
        self.announce(context, {"version": result["version"], "previous": result["previous"]})
        return result


class RollbackModelOperator(StepOperator):
    """Makes an earlier champion the champion again.

    :param to: its version, or None for the champion before the present one.
    :param reason: kept in the ledger.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "to", "reason")
    step = "rollback"

    def __init__(self, *, to: Any = None, reason: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.reason = reason

    def run(self, context: Context) -> Any:
        given = {"version": int(self.to) if self.to else None, "reason": self.reason or "asked for"}
        given["request"] = f"{context['dag'].dag_id} {context['run_id']}"
        result = self.run_step(context, self.step, given)
        self.announce(context, {"version": result["version"], "previous": result["previous"]})
        return result


class ABTestOperator(StepOperator):
    """Carries an A/B test through: freezes its design before it begins, waits in the triggerer for its end, and judges it once.

    The outcomes are a table (`outcomes`), or what a query gives (`sql` with `conn_id`). They are read after the end only, and
    not any more once there is a verdict. The task is green whatever the verdict; it fails if there can be none.

    :param design: arguments of the step ``design_ab_test`` as JSON; or the name of a test that was designed before.
    :param outcomes: URI of a parquet or CSV file or of a folder of parquet files, or the result of a task that names a table.
    :param sql: a query that gives the columns of the design; not templated, as text from outside has no place in it.
    :param parameters: values that the database binds to the placeholders of the query.
    :param conn_id: a connection whose hook is a DbApiHook.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "design", "outcomes", "parameters", "conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **StepOperator.template_fields_renderers,
        "design": "json",
        "parameters": "json",
    }
    step = "ab_test"

    def __init__(
        self,
        *,
        design: Any,
        outcomes: Any = None,
        sql: str = "",
        parameters: Any = None,
        conn_id: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.design = design
        self.outcomes = outcomes
        self.sql = sql
        self.parameters = parameters
        self.conn_id = conn_id

    def run(self, context: Context) -> Any:
        self._require_one_source()
        design = self._designed(context)
        self._wait(design)
        arguments = {"name": design.asked.name, "outcomes": self._given(context, design)}
        outcome = self.outcome(context, self.step, arguments)
        found = outcome.result
        if found["decision"] == "no verdict":
            raise Refused(f"A/B test {design.asked.name}: {found['reason']}")
        self.log.info("%s", found["reason"])
        self.announce(context, {name: found[name] for name in ("name", "decision", "reason")})
        return self.packed(context, outcome)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Goes on after the wait: what is due, the state says and not the event."""
        return self.execute(context)

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the tables need where they lie elsewhere."""
        past = self.design.get("past") if isinstance(self.design, dict) else None
        return with_access(super().place(context), self.whole(self.outcomes), past or None)

    def _require_one_source(self) -> None:
        if bool(self.outcomes) == bool(self.sql) or bool(self.sql) != bool(self.conn_id):
            raise RequestError(f"{self.task_id}: give outcomes, or sql and conn_id, and not both")

    def _designed(self, context: Context) -> Design:
        from mlops_provider.steps.release.ab_design import Design, frozen

        if isinstance(self.design, str):
            return frozen(self.job(context), self.design)
        arguments = {key: apart(value)[0] if key == "past" else value for key, value in self.design.items()}
        design = Design.model_validate(self.outcome(context, "design_ab_test", arguments).result)
        needs = f"{design.needed.control:,} and {design.needed.treatment:,} entities"
        self.log.info("A/B test %s: %s, judged from %s on", design.asked.name, needs, design.due)
        return design

    def _wait(self, design: Design) -> None:
        """Leaves the worker until the test may be judged."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        from mlops_provider.steps.release.ab_design import now

        if now() < design.due:
            self.defer(trigger=DateTimeTrigger(moment=design.due), method_name="execute_complete")

    def _given(self, context: Context, design: Design) -> Any:
        """Where the outcomes are: the table that was named, or one with the rows of the query, if they are still wanted."""
        if not self.sql:
            return table_of(self.whole(self.outcomes))
        from mlops_provider.hooks.sql import queried
        from mlops_provider.steps import tables
        from mlops_provider.steps.release.ab_test import columns, standing

        job, asked = self.job(context), design.asked
        if standing(job, asked.name):
            return None
        if marked := sorted(set(columns(design)) & set(job.config.data.pii)):
            raise RequestError(
                f"data.pii names {', '.join(marked)}, and what a query gives is written under the artifact root: let it "
                "give a hash, and serve by that too"
            )
        found = queried(self.conn_id, self.sql, self.parameters, columns(design))
        return tables.write(job.storage, job.under("ab_tests", asked.name, "outcomes"), found).model_dump(mode="json")


def announce_one(operator: StepOperator, context: Context, asset: Asset | None, extra: dict[str, Any]) -> None:
    """Emits an event of this asset through the operator's alias outlet, if it has one."""
    for outlet in operator.outlets:
        if asset is not None and isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(asset, extra=extra)
