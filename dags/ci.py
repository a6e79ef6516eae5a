"""CI, one DAG per model: newly labelled data is validated, turned into features, validated again and versioned."""

from typing import Any

from airflow.sdk import DAG, task_group

from mlops_provider.dagfile import ModelDags, force, models
from mlops_provider.operators.data import BuildFeaturesOperator, SnapshotDataOperator, ValidateDataOperator
from mlops_provider.operators.plan import PlanOperator


def ci(model: ModelDags) -> DAG:
    """Each partition goes through by itself: a bad one stops no other."""
    schedule = model.woken_by(model.assets.labels)
    with DAG(**model.dag("ci", partition=model.partition, force=force()), schedule=schedule) as dag:
        plan = PlanOperator(**model.step("plan"), loop="ci")

        @task_group
        def partition(work: Any) -> None:
            shared = {"work": work, "force": "{{ params.force }}"}
            raw = ValidateDataOperator(**model.step("validate_raw", plan.output), **shared, suite="raw")
            built = BuildFeaturesOperator(**model.step("build_features", plan.output), **shared, validated=raw.output)
            features = ValidateDataOperator(
                **model.step("validate_features", plan.output), **shared, suite="features", built=built.output
            )
            SnapshotDataOperator(
                **model.step("snapshot", plan.output),
                **shared,
                built=built.output,
                validated=[raw.output, features.output],
                outlets=[model.assets.data],
            )
            raw >> built

        partition.expand(work=plan.output)
    return dag


for model in models(__file__):
    globals()[f"{model.name}.ci"] = ci(model)
