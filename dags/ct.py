"""CT, one DAG per model: trains the candidate that was decided on, packages it, measures the package and registers it."""

from typing import Any

from airflow.sdk import DAG

from mlops_provider.dagfile import ModelDags, drill, force, models
from mlops_provider.operators.plan import PlanOperator
from mlops_provider.operators.training import (
    EvaluateModelOperator,
    PackageModelOperator,
    RegisterModelOperator,
    TrainModelOperator,
    TuneModelOperator,
    TuneTrialOperator,
)


def ct(model: ModelDags) -> DAG:
    """One candidate a run. What is measured is the package, so that the model evaluated is the model deployed."""
    params = {"partition": model.partition, "drill": drill(), "force": force()}
    with DAG(**model.dag("ct", **params), schedule=model.woken_by(model.assets.retrain)) as dag:
        plan = PlanOperator(**model.step("plan"), loop="ct")
        train = TrainModelOperator(
            **model.step("train", plan.output),
            work=plan.output,
            tuned=tuned(model, plan),
            drill="{{ params.drill or '' }}",
            force="{{ params.force }}",
            pool_slots=model.config.training.resources.cpu,
        )
        package = PackageModelOperator(**model.step("package", plan.output), trained=train.output)
        evaluate = EvaluateModelOperator(
            **model.step("evaluate", plan.output), trained=train.output, package=package.output
        )
        RegisterModelOperator(
            **model.step("register", plan.output),
            trained=train.output,
            package=package.output,
            evaluation=evaluate.output,
            outlets=[model.assets.candidate],
        )
    return dag


def tuned(model: ModelDags, plan: PlanOperator) -> Any:
    """The search for parameters, for a model that asks for it: a wave of trials a task, mapped; None for all others."""
    if model.config.training.tune is None:
        return None
    shared = {"work": plan.output, "pool_slots": model.config.training.resources.cpu}
    tune = TuneModelOperator(**model.step("tune", plan.output), **shared, force="{{ params.force }}")
    before = None
    for number, wave in enumerate(model.config.training.tune.waves, start=1):
        trials = TuneTrialOperator.partial(**model.step(f"trials_{number}", plan.output), **shared).expand(
            number=list(wave)
        )
        if before is not None:
            before >> trials
        before = trials
    before >> tune
    return tune.output


for model in models(__file__):
    globals()[f"{model.name}.ct"] = ct(model)
