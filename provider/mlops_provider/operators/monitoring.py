"""CM: drift, quality, and the decision to retrain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Asset, Context
from airflow.sdk.exceptions import AirflowSkipException

from mlops_provider.operators.base import StepOperator
from mlops_provider.operators.release import announce_one


class DriftCheckOperator(StepOperator):
    """Compares the inputs of each newly scored partition with the training data of the version that scored it (Evidently).

    Drift alerts (a warning in the log and in the verdict), it does not fail the task; a check that could not run does.

    :param work: what monitoring owes, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")
    step = "drift"

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def run(self, context: Context) -> Any:
        self.work = self.whole(self.work)
        if not self.work["drift"]:
            raise AirflowSkipException("no newly scored partition")
        return [self._one(context, predictions) for predictions in self.work["drift"]]

    def _one(self, context: Context, predictions: dict[str, Any]) -> dict[str, Any]:
        from mlops_provider.steps import plan
        from mlops_provider.steps.records import Drifted

        found = Drifted.model_validate(self.outcome(context, self.step, {"predictions": predictions}).result)
        if found.columns:
            self.log.warning("%s: %d of %d columns drifted", found.partition, len(found.columns), found.of)
        job = self.job(context)
        job.storage.write_json(plan.drift_uri(job, found.partition), found.model_dump(mode="json"))
        # Recorded first: what could not be checked is told once, loudly, and does not hold up the loop for ever.
        found.verdict.require()
        return {"partition": found.partition, "columns": list(found.columns), "report": found.report.uri}


class EstimateQualityOperator(StepOperator):
    """Estimates the quality of each newly scored partition before its labels arrive, from how sure the model is.

    A limit of the quality that the estimate misses is a warning; an estimate that could not be made fails the task.

    :param work: what monitoring owes, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")
    step = "estimate"

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def run(self, context: Context) -> Any:
        self.work = self.whole(self.work)
        if not self.work["estimate"]:
            raise AirflowSkipException("no newly scored partition whose quality could be estimated")
        return [self._one(context, work) for work in self.work["estimate"]]

    def _one(self, context: Context, work: dict[str, Any]) -> dict[str, Any]:
        from mlops_provider.steps.monitoring.estimates import estimate_uri
        from mlops_provider.steps.monitoring.records import Estimated

        found = Estimated.model_validate(self.outcome(context, self.step, {"work": work}).result)
        job = self.job(context)
        job.storage.write_json(estimate_uri(job, found.partition), found.model_dump(mode="json"))
        for check in (check for check in found.verdict.checks if not check.passed):
            self.log.warning("%s: %s: %s", found.partition, check.name, check.detail or check.threshold)
        # Recorded first, as drift is: what could not be estimated is told once and does not hold up the loop.
        found.verdict.require()
        return {
            "partition": found.partition,
            "trusted": found.trusted,
            **{name: told.model_dump() for name, told in found.metrics.items()},
        }


class QualityCheckOperator(StepOperator):
    """Measures the predictions of a partition once its labels are there. A missed threshold is a finding, not a failure.

    :param work: what monitoring owes, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")
    step = "quality"

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def run(self, context: Context) -> Any:
        self.work = self.whole(self.work)
        if not self.work["quality"]:
            raise AirflowSkipException("no scored partition whose labels have arrived")
        arguments = {"predictions": self.work["quality"], "data": self.work["data"]}
        return self.run_step(context, self.step, arguments)


class RetrainDecisionOperator(StepOperator):
    """The one place that decides to retrain, the first model included; the decision and its reason go to the ledger.

    :param work: what monitoring owes, as `plan` found it.
    :param measured: result of QualityCheckOperator, None if nothing was scored.
    :param on_train: asset to announce if a candidate is wanted; `on_wait` if not. Give an AssetAlias as outlet then.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work", "measured")
    step = "decide"

    def __init__(
        self,
        *,
        work: Any,
        measured: Any = None,
        on_train: Asset | None = None,
        on_wait: Asset | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.work = work
        self.measured = measured
        self.on_train = on_train
        self.on_wait = on_wait

    def run(self, context: Context) -> Any:
        from mlops_provider.loops import known_drift
        from mlops_provider.steps.monitoring.estimates import known

        partition = self.whole(self.work)["decide"]
        if not partition:
            raise AirflowSkipException("no newly labelled partition to decide on")
        job = self.job(context)
        given = {"drift": known_drift(job, partition), **known(job, partition)}
        arguments = {"partition": partition, "quality": self.measured, **given}
        result = self.run_step(context, self.step, arguments)
        self.log.info("%s: %s", "retrain" if result["retrain"] else "wait", result["reason"])
        announce_one(self, context, self.on_train if result["retrain"] else self.on_wait, result)
        return result
