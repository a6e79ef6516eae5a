"""Feedback, one DAG per model: labels and user feedback come in by REST, as rows or as a file. Started by a service or a person."""

from airflow.sdk import DAG

from mlops_provider.dagfile import ModelDags, file, models, rows
from mlops_provider.operators.data import TakeLabelsOperator
from mlops_provider.operators.plan import PlanOperator


def feedback(model: ModelDags) -> DAG:
    """Give one of the Params. What cannot be taken is put aside and counted."""
    with DAG(**model.dag("feedback", rows=rows(), file=file()), schedule=None) as dag:
        plan = PlanOperator(**model.step("plan"), loop="feedback")
        TakeLabelsOperator(**model.step("take_labels", plan.output), rows=plan.output)
    return dag


for model in models(__file__):
    globals()[f"{model.name}.feedback"] = feedback(model)
