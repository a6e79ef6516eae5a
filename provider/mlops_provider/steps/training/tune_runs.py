"""A search in MLflow: one run for the search, and below it one for each trial. They are all that is known of it.

A trial is done once its run carries the result, in one tag that is written last. What was killed before that is fitted again,
into the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_provider.steps import registry
from mlops_provider.steps.records import Trial, Tuned
from mlops_provider.steps.step import Job
from mlops_provider.steps.training.register import claimed_run
from mlops_provider.storage import canonical_json, digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PARENT, _NAME = "mlflow.parentRunId", "mlflow.runName"
RESULT = "mlops.trial"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "out_of_time": "KILLED"}


@dataclass(frozen=True)
class Runs:
    """The runs of one search.

    :ivar search: fingerprint of the search: of all that shapes a trial beside its parameters.
    """

    mlflow: MlflowClient
    experiment: str
    run_id: str
    search: str

    def trials(self) -> dict[int, Trial]:
        """The trials that are done, by number."""
        found = [
            Trial.model_validate_json(run.data.tags[RESULT]) for run in self._children() if RESULT in run.data.tags
        ]
        return {trial.number: trial for trial in sorted(found, key=lambda trial: trial.run_id, reverse=True)}

    def begun(self, trial: Trial) -> str:
        """The run of a trial: that of an earlier try, or a new one."""
        fingerprint = digest([self.search, trial.number, trial.params])
        for run in self._children(f" and tags.`{registry.FINGERPRINT}` = '{fingerprint}'"):
            return str(run.info.run_id)
        tags = {_PARENT: self.run_id, _NAME: f"trial {trial.number}", registry.FINGERPRINT: fingerprint}
        return str(self.mlflow.create_run(self.experiment, tags=tags).info.run_id)

    def done(self, trial: Trial, metric: str) -> None:
        """Writes what came of a trial: for people as parameters and metrics, for us in the tag that makes it count."""
        for name, given in trial.params.items():
            self.mlflow.log_param(trial.run_id, name, given)
        measured = {"seconds": trial.seconds, **{f"{metric}_{name}": value for name, value in trial.values.items()}}
        if trial.value is not None:
            measured[metric] = trial.value
        for name, value in measured.items():
            self.mlflow.log_metric(trial.run_id, name, value)
        self.mlflow.set_terminated(trial.run_id, _STATUS[trial.state])
        self.mlflow.set_tag(trial.run_id, RESULT, canonical_json(trial.model_dump(mode="json")).decode())

    def closed(self, tuned: Tuned) -> None:
        """Writes what came of the search."""
        kept = "kept" if tuned.params else "not kept"
        said = {"mlops.tuning": kept, "mlops.tuning_reason": tuned.reason[:4000], "mlops.best_trial": str(tuned.trial)}
        for name, value in said.items():
            self.mlflow.set_tag(self.run_id, name, value)
        self.mlflow.log_text(self.run_id, tuned.verdict.markdown(), "tuning.md")
        self.mlflow.log_text(self.run_id, tuned.model_dump_json(indent=1), "tuning.json")
        self.mlflow.set_terminated(self.run_id, "FINISHED")

    def _children(self, more: str = "") -> Iterator[Run]:
        asked, token = f"tags.`{_PARENT}` = '{self.run_id}'{more}", None
        while True:
            page: Any = self.mlflow.search_runs(
                [self.experiment], asked, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from page
            if not (token := page.token):
                return


@contextmanager
def runs(job: Job, search: str) -> Iterator[Runs]:
    """The runs of a search, its own made if it has none.

    :raises Transient: if MLflow cannot be reached.
    """
    with registry.client(job) as mlflow:
        run_id = claimed_run(job, mlflow, job.deployment.registered_name(job.config), search)
        run = mlflow.get_run(run_id)
        if not run.data.tags.get(_NAME, "").startswith("tuning "):
            mlflow.set_tag(run_id, _NAME, f"tuning {search[:8]}")
        yield Runs(mlflow, str(run.info.experiment_id), run_id, search)
