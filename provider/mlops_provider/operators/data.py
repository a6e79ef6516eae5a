"""CI: test the code, validate, build features, version; bring a version back, and take feedback in."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowSkipException

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError, Refused, RequestError
from mlops_provider.links import REPORT, ValidationReportLink, report_address
from mlops_provider.operators.base import StepOperator, apart, table_of, with_access

if TYPE_CHECKING:
    from mlops_provider.steps.step import Outcome

log = logging.getLogger(__name__)


class TestCodeOperator(StepOperator):
    """Runs the model's own tests, confined, and keeps their verdict for the gate; a failed test fails the task.

    Skipped, without any verdict, if the model has neither tests nor the section data.code.

    :param ref: branch, tag or commit id in the model's code repository; the code as deployed if None.
    """

    __test__ = False  # the name is no promise to pytest
    template_fields: Sequence[str] = (*StepOperator.template_fields, "ref")

    def __init__(self, *, ref: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ref = ref

    def run(self, context: Context) -> Any:
        if self.ref:
            arguments = self.outcome(context, "resolve_code", {"ref": self.ref}).result
            log.info("%s is commit %s", self.ref, arguments["commit"]["sha"])
        else:
            arguments = {"code": self.code_ref(context).model_dump(mode="json")}
        outcome = self.outcome(context, "test_code", arguments)
        if outcome.result["verdict"] is None:
            raise AirflowSkipException(f"{self.model} has no tests: nothing was tested, no verdict is kept")
        if outcome.result["report"]:
            log.info("JUnit file: %s", outcome.result["report"]["uri"])
        _require(outcome.result["verdict"])
        return self.packed(context, outcome)


class _JudgingOperator(StepOperator):
    """A step on a delivered partition: what is wrong with the data is recorded in the ledger before the task fails.

    :param work: the partition, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def judge(self, context: Context, step: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Runs the step; a refusal for what the data is counts until the data or what judged it have changed."""
        try:
            outcome = self._reported(context, step, {"work": self.work, **arguments})
            if "verdict" in outcome.result:
                _require(outcome.result["verdict"])
        except (DataError, Refused) as error:
            if not self.work.get("problem"):
                by_code = arguments.get("suite") != "raw"
                refusal = {"work": self.work, "reason": str(error), "by_code": by_code}
                self.outcome(context, "refuse_data", refusal)
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
    operator_extra_links: Collection[BaseOperatorLink] = (ValidationReportLink(),)

    def __init__(self, *, suite: str, work: Any = None, built: Any = None, dataset: Any = None, **kwargs: Any) -> None:
        super().__init__(work=work, **kwargs)
        self.suite = suite
        self.built = built
        self.dataset = dataset

    def run(self, context: Context) -> Any:
        dataset = table_of(self.whole(self.built if self.dataset is None else self.dataset))
        if self.work is not None and not isinstance(dataset, str):
            return self.judge(context, "validate", {"suite": self.suite, "dataset": dataset})
        if dataset is None:
            raise RequestError(f"{self.task_id}: give work or dataset, there is nothing to validate")
        partition = self.work["partition"] if self.work else ""
        arguments = {"suite": apart(self.suite)[0], "dataset": dataset, "partition": partition}
        outcome = self._reported(context, "validate_dataset", arguments)
        _require(outcome.result["verdict"])
        self.announce(context, {})
        return self.packed(context, outcome)

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the dataset and the suite need where they lie elsewhere."""
        return with_access(super().place(context), self.whole(self.dataset), self.suite)


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
        built = self.whole(self.built)
        return self.judge(context, "compare_history", {"table": built["table"], "accepted": built.get("built_from")})

    def packed(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        # Named by content: the ledger moves on under equal arguments, and what an earlier run handed over must stay.
        return self.fitted(context, outcome.result)


class SnapshotDataOperator(_JudgingOperator):
    """Versions data with DVC: content into the remote, the pointer into git, tagged.

    With `work` it versions the feature table of a partition and records in the ledger that it was accepted. With `dataset`
    and `name` it versions any dataset in a DAG of your own; the ledger is not told.

    :param work: the partition, as `plan` found it.
    :param built: result of BuildFeaturesOperator.
    :param validated: results of ValidateDataOperator and CompareHistoryOperator, all of which must have passed. For a dataset
        those of ValidateDataOperator alone, or none; what has changed since it was validated is refused.
    :param dataset: URI of a parquet or CSV file or of a folder of parquet files, or the result of a task that names a table.
        The result of ValidateDataOperator names the accepted rows, or what it judged if all rows are accepted.
    :param name: of the dataset, in lower-case letters, digits and _; it lies under ``data.dvc.path`` in the data repository.
    :param partition: for one of several parts of the dataset that are versioned each on its own.
    """

    template_fields: Sequence[str] = (
        *_JudgingOperator.template_fields,
        "built",
        "validated",
        "dataset",
        "name",
        "partition",
    )

    def __init__(
        self,
        *,
        work: Any = None,
        built: Any = None,
        validated: Any = (),
        dataset: Any = None,
        name: str = "",
        partition: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(work=work, **kwargs)
        self.built = built
        self.validated = validated
        self.dataset = dataset
        self.name = name
        self.partition = partition

    def run(self, context: Context) -> Any:
        from mlops_provider.steps.step import unpacked

        partition, dataset = (self.work, self.built), (self.dataset, self.name)
        if not (all(partition) and not any(dataset)) and not (all(dataset) and not any(partition)):
            raise RequestError(f"{self.task_id}: give work and built for a partition, or dataset and name")
        validated = unpacked(self.validated, self.place(context).storage)
        if self.dataset:
            return self._any(context, validated)
        built = self.whole(self.built)
        features: dict[str, Any] = next((result for result in validated if result.get("suite") == "features"), {})
        given = {
            "table": features.get("accepted") or built["table"],
            "verdicts": [result["verdict"] for result in validated],
            "accepted": built.get("built_from"),
            "quarantined": features.get("quarantined"),
        }
        result = self.judge(context, "snapshot", given)
        self.announce(context, {"partition": result["partition"], "data": result["data"]["tag"]})
        return result

    def _any(self, context: Context, validated: list[dict[str, Any]]) -> Any:
        dataset = table_of(self.whole(self.dataset))
        if not dataset:
            raise RequestError(f"{self.task_id}: dataset names no table, there is nothing to version")
        if not all("dataset" in result for result in validated):
            raise RequestError(
                f"{self.task_id}: validated takes results of ValidateDataOperator only, which say what they are about"
            )
        arguments = {"dataset": dataset, "name": self.name, "partition": self.partition, "validated": validated}
        result = self.run_step(context, "snapshot_dataset", arguments)
        self.announce(context, {"partition": result["partition"], "data": result["data"]["tag"]})
        return result

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the dataset needs where it lies elsewhere."""
        return with_access(super().place(context), self.whole(self.dataset))


class CheckoutDataOperator(StepOperator):
    """Brings an exact data version to a place, verified by hash. Give one of `version`, `tag` and `rev`.

    :param target: URI of the file, or of the folder, to write; a relative one lies under data_root.
    :param version: a data version: the result of SnapshotDataOperator, or what that has in `data`.
    :param tag: tag in the data repository.
    :param rev: commit in the data repository, with all its digits.
    :param partition: whose data is meant, for a `rev`; a version's tag says it itself.
    :param path: path of the content in the data repository, for what is not a partition.
    """

    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "target",
        "version",
        "tag",
        "rev",
        "partition",
        "path",
    )
    step = "checkout"

    def __init__(
        self,
        *,
        target: Any,
        version: Any = None,
        tag: Any = "",
        rev: Any = "",
        partition: Any = "",
        path: Any = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.version = version
        self.tag = tag
        self.rev = rev
        self.partition = partition
        self.path = path

    def run(self, context: Context) -> Any:
        asked = ("target", "version", "tag", "rev", "partition", "path")
        arguments = {name: value for name in asked if (value := getattr(self, name))}
        arguments["target"] = apart(self.target)[0]
        if isinstance(self.version, dict) and isinstance(self.version.get("data"), dict):
            arguments["version"] = self.version["data"]
        result = self.run_step(context, "checkout", arguments)
        self.announce(context, {"uri": result["uri"], "rev": result["rev"]})
        return result

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the target needs where it lies elsewhere."""
        return with_access(super().place(context), self.target)


class TakeLabelsOperator(StepOperator):
    """Takes labels and user feedback in: what is sound is kept, the rest is put aside and counted. Give `rows` or `file`.

    The task is green although rows were put aside, and fails if none of them was sound.

    :param rows: a list of objects with key and label, perhaps ``known_at`` and ``source``; or the result of `plan`, which has both.
    :param file: URI of a parquet or CSV file with such columns.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "rows", "file")
    step = "take_labels"

    def __init__(self, *, rows: Any = None, file: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.file = file

    def run(self, context: Context) -> Any:
        given = self.whole(self.rows)
        asked = given if isinstance(given, dict) else {"rows": given, "file": apart(self.file)[0] or None}
        outcome = self.outcome(context, self.step, {**self.arguments, **asked})
        found = outcome.result
        for reason, count in found["refused"].items():
            log.warning("%d rows put aside: %s", count, reason)
        if not found["taken"] and not found["repeated"]:
            raise DataError(
                f"none of {found['rows']} rows was taken, they lie in {found['aside']['uri']}: {found['refused']}"
            )
        self.announce(context, {name: found[name] for name in ("taken", "repeated", "partitions")})
        return self.packed(context, outcome)

    def packed(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        # Named by content: two posts have equal arguments if the second one repeats the first.
        return self.fitted(context, outcome.result)

    def place(self, context: Context) -> Deployment:
        """The deployment, with the credentials that the file needs where it lies elsewhere."""
        return with_access(super().place(context), self.file or None)


def _require(verdict: dict[str, Any]) -> None:
    from mlops_provider.checks import Verdict

    Verdict.model_validate(verdict).require()
