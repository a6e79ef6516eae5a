"""Rollback, one DAG per model: makes an earlier champion the champion again. Started by a person or a service."""

from airflow.sdk import DAG

from mlops_provider.dagfile import ModelDags, models, reason, version
from mlops_provider.operators.plan import PlanOperator
from mlops_provider.operators.release import RollbackModelOperator


def rollback(model: ModelDags) -> DAG:
    """Without Params it goes back to the champion before the present one."""
    with DAG(**model.dag("rollback", version=version(), reason=reason()), schedule=None) as dag:
        plan = PlanOperator(**model.step("plan"), loop="rollback")
        undone = RollbackModelOperator(
            **model.step("rollback", plan.output),
            to="{{ params.version or '' }}",
            reason="{{ params.reason or '' }}",
            outlets=[model.assets.champion, model.assets.decision],
        )
        plan >> undone
    return dag


for model in models(__file__):
    globals()[f"{model.name}.rollback"] = rollback(model)
