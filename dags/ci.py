"""CI, one DAG per model: the code is tested; newly labelled data is validated, made features, validated again, versioned."""

from typing import Any

from airflow.sdk import DAG, task_group

from mlops_provider.dagfile import ModelDags, force, models, ref
from mlops_provider.operators.data import (
    BuildFeaturesOperator,
    CompareHistoryOperator,
    SnapshotDataOperator,
    TestCodeOperator,
    ValidateDataOperator,
)
from mlops_provider.operators.plan import PlanOperator


def ci(model: ModelDags) -> DAG:
    """Each partition goes through by itself: a bad one stops no other."""
    schedule = model.woken_by(model.assets.labels)
    with DAG(**model.dag("ci", partition=model.partition, force=force(), ref=ref()), schedule=schedule) as dag:
        plan = PlanOperator(**model.step("plan"), loop="ci")
        tested = TestCodeOperator(
            **model.step("test_code", plan.output), ref="{{ params.ref or '' }}", force="{{ params.force }}"
        )

        @task_group
        def partition(work: Any) -> None:
            shared = {"work": work, "force": "{{ params.force }}"}
            # A model without tests has nothing to pass: its tests are skipped, the data is looked at all the same.
            raw = ValidateDataOperator(
                **model.step("validate_raw", plan.output),
                **shared,
                suite="raw",
                trigger_rule="none_failed_min_one_success",
            )
            built = BuildFeaturesOperator(**model.step("build_features", plan.output), **shared, validated=raw.output)
            features = ValidateDataOperator(
                **model.step("validate_features", plan.output), **shared, suite="features", built=built.output
            )
            history = CompareHistoryOperator(**model.step("compare_history", plan.output), **shared, built=built.output)
            SnapshotDataOperator(
                **model.step("snapshot", plan.output),
                **shared,
                built=built.output,
                validated=[raw.output, features.output, history.output],
                outlets=[model.assets.data],
            )
            tested >> raw >> built

        partition.expand(work=plan.output)
    return dag


for model in models(__file__):
    globals()[f"{model.name}.ci"] = ci(model)
