"""Batch scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.operators.base import StepOperator


class BatchScoreOperator(StepOperator):
    """Scores a partition with the champion, into parquet with the model version in every row.

    What the champion cannot score as it was delivered is recorded before the task fails.

    :param work: the partition and the version, as `plan` found them.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")
    step = "score"

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def run(self, context: Context) -> Any:
        try:
            outcome = self.outcome(context, self.step, {"work": self.work})
        except (ConfigError, DataError) as error:
            # No retry mends it, and monitoring must not wait for predictions that never come.
            self.outcome(context, "refuse_scoring", {"work": self.work, "reason": str(error)})
            raise
        result = outcome.result
        extra = {"partition": result["partition"], "version": result["version"], "rows": result["rows"]}
        self.announce(context, extra)
        return self.packed(context, outcome)
