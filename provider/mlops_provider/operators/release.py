"""CD: judge, promote, roll back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowSkipException

from mlops_provider.exceptions import Refused
from mlops_provider.links import MlflowRunLink, ModelVersionLink
from mlops_provider.operators.base import StepOperator, deployment


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


def announce_one(operator: StepOperator, context: Context, asset: Asset | None, extra: dict[str, Any]) -> None:
    """Emits an event of this asset through the operator's alias outlet, if it has one."""
    for outlet in operator.outlets:
        if asset is not None and isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(asset, extra=extra)
