"""CT: tune, train, package, evaluate, register."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from airflow.sdk import BaseOperatorLink, Context

from mlops_provider.links import MlflowRunLink, ModelVersionLink
from mlops_provider.operators.base import StepOperator, truth


class TuneTrialOperator(StepOperator):
    """Runs one trial of the search for parameters, or finds it done: map it over the numbers of a wave.

    :param work: what is to be trained, as `plan` found it.
    :param number: of the trial, from 0.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work", "number")
    step = "tune_trial"

    def __init__(self, *, work: Any, number: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work
        self.number = number

    def run(self, context: Context) -> Any:
        return self.run_step(context, self.step, {"split": self.whole(self.work)["split"], "number": int(self.number)})


class TuneModelOperator(StepOperator):
    """Keeps the best parameters of the search if they prove better than those of model.yaml, on data it did not see.

    Trials that no other task has run are run here, one after another.

    :param work: what is to be trained, as `plan` found it.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work")
    step = "tune"

    def __init__(self, *, work: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def run(self, context: Context) -> Any:
        return self.run_step(context, self.step, {"split": self.whole(self.work)["split"]})


class TrainModelOperator(StepOperator):
    """Fits a candidate with LightGBM on accepted, versioned data.

    :param work: what to train, as `plan` found it.
    :param drill: a fault made on purpose, ``shuffled_labels``; recorded, and never promoted.
    :param tuned: result of TuneModelOperator; the parameters of model.yaml if None.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "work", "drill", "tuned")
    step = "train"

    def __init__(self, *, work: Any, drill: Any = None, tuned: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work
        self.drill = drill
        self.tuned = tuned

    def run(self, context: Context) -> Any:
        arguments = {"split": self.whole(self.work)["split"], "drill": self.drill or None, "start": self.start(context)}
        if self.tuned:
            tuned = self.whole(self.tuned)
            arguments |= {"params": tuned["params"], "tuning": tuned["record"]}
        if truth(self.force):
            arguments["repeat"] = context["run_id"]
        return self.run_step(context, self.step, arguments)

    def start(self, context: Context) -> Any:
        """The champion of this moment, if model.yaml says to go on from it."""
        from mlops_provider.steps.release.gate import present_champion
        from mlops_provider.steps.training.train import start_from

        job = self.job(context)
        start = start_from(job, present_champion(job)) if job.config.training.start == "champion" else None
        return start.model_dump(mode="json") if start else None


class PackageModelOperator(StepOperator):
    """Exports the model to ONNX and proves that the package scores as LightGBM does.

    :param trained: result of TrainModelOperator.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "trained")
    step = "package"

    def __init__(self, *, trained: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained = trained

    def run(self, context: Context) -> Any:
        return self.run_step(context, self.step, {"trained": self.trained})


class EvaluateModelOperator(StepOperator):
    """Measures the package on the holdout, beside the champion of this moment.

    :param trained: result of TrainModelOperator; `package` of PackageModelOperator.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "trained", "package")
    step = "evaluate"

    def __init__(self, *, trained: Any, package: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained = trained
        self.package = package

    def run(self, context: Context) -> Any:
        from mlops_provider.steps.release.gate import present_champion
        from mlops_provider.steps.step import unpacked

        job = self.job(context)
        rival = present_champion(job)
        trained = unpacked(self.trained, job.storage)
        champion = rival.model_dump(mode="json") if rival else None
        arguments = {"package": self.package, "split": trained["split"], "champion": champion}
        return self.run_step(context, self.step, arguments)


class RegisterModelOperator(StepOperator):
    """Logs the MLflow run and registers the version: one for a fingerprint, however often it is asked for.

    :param trained: result of TrainModelOperator; `package` and `evaluation` of the operators of that name.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "trained", "package", "evaluation")
    operator_extra_links: Collection[BaseOperatorLink] = (MlflowRunLink(), ModelVersionLink())
    step = "register"

    def __init__(self, *, trained: Any, package: Any, evaluation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained = trained
        self.package = package
        self.evaluation = evaluation

    def run(self, context: Context) -> Any:
        arguments = {"trained": self.trained, "package": self.package, "evaluation": self.evaluation}
        outcome = self.outcome(context, self.step, arguments)
        version = outcome.result["version"]
        self.linked(context, version)
        self.announce(context, {"version": version["version"], "run_id": version["run_id"], "drill": version["drill"]})
        return self.packed(context, outcome)
