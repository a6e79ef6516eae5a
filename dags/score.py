"""Scoring, one DAG per model: each partition of inputs is scored with the champion of that moment."""

from airflow.sdk import DAG

from mlops_provider.dagfile import ModelDags, models
from mlops_provider.operators.plan import PlanOperator
from mlops_provider.operators.scoring import BatchScoreOperator


def score(model: ModelDags) -> DAG:
    """What is due is planned from state; each partition is a task of its own."""
    schedule = model.woken_by(model.assets.inputs | model.assets.decision)
    with DAG(**model.dag("score", partition=model.partition), schedule=schedule) as dag:
        plan = PlanOperator(**model.step("plan"), loop="score")
        BatchScoreOperator.partial(**model.step("score", plan.output), outlets=[model.assets.predictions]).expand(
            work=plan.output
        )
    return dag


for model in models(__file__):
    globals()[f"{model.name}.score"] = score(model)
