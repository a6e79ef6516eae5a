"""CI: validate, build features, version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError, Refused, RequestError
from mlops_provider.operators.base import StepOperator, storage_options


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
            outcome = self.outcome(context, step, {"work": self.work, **arguments})
            if "verdict" in outcome.result:
                _require(outcome.result["verdict"])
        except (DataError, Refused) as error:
            if not self.work.get("problem"):
                self.outcome(context, "refuse_data", {"work": self.work, "reason": str(error)})
            raise
        return self.packed(context, outcome)


class ValidateDataOperator(_JudgingOperator):
    """Judges data by a Great Expectations suite; a failed critical expectation fails the task.

    With `work` it judges a partition, and a refusal is recorded in the ledger. Without, it judges any dataset in a DAG of
    your own.

    :param suite: ``raw`` for the inputs as delivered, ``features`` for the labelled feature table, a suite file in the
        model's directory, or, without `work`, the URI of a suite file (JSON or YAML).
    :param work: the partition, as `plan` found it.
    :param built: result of BuildFeaturesOperator, for the features suite.
    :param dataset: URI of a parquet or CSV file or of a folder of parquet files, or the result of a task that names a table.
    """

    template_fields: Sequence[str] = (*_JudgingOperator.template_fields, "built", "dataset")

    def __init__(self, *, suite: str, work: Any = None, built: Any = None, dataset: Any = None, **kwargs: Any) -> None:
        super().__init__(work=work, **kwargs)
        self.suite = suite
        self.built = built
        self.dataset = dataset

    def run(self, context: Context) -> Any:
        dataset = _table(self.whole(self.built if self.dataset is None else self.dataset))
        if self.work is not None and not isinstance(dataset, str):
            return self.judge(context, "validate", {"suite": self.suite, "dataset": dataset})
        if dataset is None:
            raise RequestError(f"{self.task_id}: give work or dataset, there is nothing to validate")
        partition = self.work["partition"] if self.work else ""
        arguments = {"suite": self.suite, "dataset": dataset, "partition": partition}
        outcome = self.outcome(context, "validate_dataset", arguments)
        _require(outcome.result["verdict"])
        self.announce(context, {})
        return self.packed(context, outcome)

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the dataset and the suite need where they lie elsewhere."""
        found = super().place(context)
        elsewhere = storage_options(*(uri for uri in (self.dataset, self.suite) if isinstance(uri, str)))
        return found.model_copy(update={"storage_options": {**elsewhere, **found.storage_options}})


class BuildFeaturesOperator(_JudgingOperator):
    """Builds the labelled feature table of a partition with the model's own code.

    :param validated: result of ValidateDataOperator on the inputs: rows that it put into quarantine are left out.
    """

    template_fields: Sequence[str] = (*_JudgingOperator.template_fields, "validated")

    def __init__(self, *, validated: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validated = validated

    def run(self, context: Context) -> Any:
        validated = self.whole(self.validated) if self.validated else {}
        return self.judge(context, "build_features", {"accepted": validated.get("accepted")})


class SnapshotDataOperator(_JudgingOperator):
    """Versions the feature table with DVC and records that the partition was accepted.

    :param built: result of BuildFeaturesOperator.
    :param validated: results of ValidateDataOperator, all of which must have passed.
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
        accepted = [result["accepted"] for result in validated if result.get("suite") == "features"]
        table = next(filter(None, accepted), self.built["table"])
        result = self.judge(context, "snapshot", {"table": table, "verdicts": verdicts})
        self.announce(context, {"partition": result["partition"], "data": result["data"]["tag"]})
        return result


def _table(value: Any) -> Any:
    """What a result names as its table: the accepted rows, the table that it built, or the value itself."""
    if isinstance(value, dict) and "uri" not in value:
        return value.get("accepted") or value.get("table")
    return value or None


def _require(verdict: dict[str, Any]) -> None:
    from mlops_provider.checks import Verdict

    Verdict.model_validate(verdict).require()
