"""CD, one DAG per model: judges each candidate against the champion of that moment, and promotes or refuses it."""

from typing import Any

from airflow.sdk import DAG, task_group

from mlops_provider.dagfile import ModelDags, models, version
from mlops_provider.operators.plan import PlanOperator
from mlops_provider.operators.release import ModelGateOperator, PromoteModelOperator


def cd(model: ModelDags) -> DAG:
    """A refused candidate leaves its gate green and its promotion skipped: the verdict is in the gate's log."""
    with DAG(**model.dag("cd", version=version()), schedule=model.woken_by(model.assets.candidate)) as dag:
        plan = PlanOperator(**model.step("plan"), loop="cd")

        @task_group
        def candidate(work: Any) -> None:
            judged = ModelGateOperator(
                **model.step("gate", plan.output),
                version=work,
                on_refusal=model.assets.decision,
                outlets=[model.outcome("gate")],
            )
            PromoteModelOperator(
                **model.step("promote", plan.output),
                version=work,
                judged=judged.output,
                outlets=[model.assets.champion, model.assets.decision],
            )

        candidate.expand(work=plan.output)
    return dag


for model in models(__file__):
    globals()[f"{model.name}.cd"] = cd(model)
