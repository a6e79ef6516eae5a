"""CI: validate, build features, version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, Context

from mlops_provider.exceptions import DataError, Refused
from mlops_provider.links import REPORT, ValidationReportLink, report_address
from mlops_provider.operators.base import StepOperator

if TYPE_CHECKING:
    from mlops_provider.steps.step import Outcome


class _JudgingOperator(StepOperator):
    """A step on a delivered partition: what is wrong with the data is recorded in the ledger before the task fails.

    :param work: the partition, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def judge(self, context: Context, step: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Runs the step; a refusal for what the data is counts until the partition is delivered anew."""
        try:
            outcome = self._reported(context, step, {"work": self.work, **arguments})
            if "verdict" in outcome.result:
                _require(outcome.result["verdict"])
        except (DataError, Refused) as error:
            if not self.work.get("problem"):
                self.outcome(context, "refuse_data", {"work": self.work, "reason": str(error)})
            raise
        return self.packed(context, outcome)

    def _reported(self, context: Context, step: str, arguments: dict[str, Any]) -> Outcome:
        """Runs the step, and leaves the address of its report to the link; an empty one where no report came of it."""
        address = ""
        try:
            outcome = self.outcome(context, step, arguments)
            if report := outcome.result.get("report"):
                address = report_address(self.model, report["uri"])
            return outcome
        finally:
            if self.operator_extra_links:
                context["ti"].xcom_push(REPORT, address)


class ValidateDataOperator(_JudgingOperator):
    """Judges a partition by a Great Expectations suite of the model; a failed critical expectation fails the task.

    :param suite: ``raw`` for the inputs as delivered, ``features`` for the labelled feature table.
    :param built: result of BuildFeaturesOperator, for the features suite.
    """

    template_fields: Sequence[str] = (*_JudgingOperator.template_fields, "built")
    operator_extra_links: Collection[BaseOperatorLink] = (ValidationReportLink(),)

    def __init__(self, *, suite: str, built: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.built = built

    def run(self, context: Context) -> Any:
        dataset = self.built["table"] if self.built else None
        return self.judge(context, "validate", {"suite": self.suite, "dataset": dataset})


class BuildFeaturesOperator(_JudgingOperator):
    """Builds the labelled feature table of a partition with the model's own code."""

    def run(self, context: Context) -> Any:
        return self.judge(context, "build_features", {})


class CompareHistoryOperator(_JudgingOperator):
    """Holds a partition against the accepted ones, and looks for leakage and event times out of place.

    :param built: result of BuildFeaturesOperator.
    """

    template_fields: Sequence[str] = (*_JudgingOperator.template_fields, "built")
    operator_extra_links: Collection[BaseOperatorLink] = (ValidationReportLink(),)

    def __init__(self, *, built: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = built

    def run(self, context: Context) -> Any:
        return self.judge(context, "compare_history", {"table": self.built["table"]})

    def packed(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        # Named by content: the ledger moves on under equal arguments, and what an earlier run handed over must stay.
        return self.fitted(context, outcome.result)


class SnapshotDataOperator(_JudgingOperator):
    """Versions the feature table with DVC and records that the partition was accepted.

    :param built: result of BuildFeaturesOperator.
    :param validated: results of ValidateDataOperator and CompareHistoryOperator, all of which must have passed.
    """

    template_fields: Sequence[str] = (*_JudgingOperator.template_fields, "built", "validated")

    def __init__(self, *, built: Any, validated: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = built
        self.validated = validated

    def run(self, context: Context) -> Any:
        from mlops_provider.operators.base import deployment
        from mlops_provider.steps.step import unpacked

        validated = unpacked(self.validated, deployment(context).storage)
        verdicts = [result["verdict"] for result in validated]
        result = self.judge(context, "snapshot", {"table": self.built["table"], "verdicts": verdicts})
        self.announce(context, {"partition": result["partition"], "data": result["data"]["tag"]})
        return result


def _require(verdict: dict[str, Any]) -> None:
    from mlops_provider.checks import Verdict

    Verdict.model_validate(verdict).require()
