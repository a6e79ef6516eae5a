"""CM, one DAG per model: watches inputs and quality, and is the one place that decides to retrain."""

from airflow.sdk import DAG

from mlops_provider.dagfile import ModelDags, models
from mlops_provider.operators.monitoring import (
    DriftCheckOperator,
    EstimateQualityOperator,
    QualityCheckOperator,
    RetrainDecisionOperator,
)
from mlops_provider.operators.plan import PlanOperator


def cm(model: ModelDags) -> DAG:
    """Drift and estimated quality as soon as a partition is scored; quality and the decision once its labels have been accepted."""
    events = model.assets.predictions | model.assets.data | model.assets.decision
    schedule = model.woken_by(events, cron=model.config.monitoring.schedule)
    with DAG(**model.dag("cm"), schedule=schedule) as dag:
        plan = PlanOperator(**model.step("plan"), loop="cm")
        drift = DriftCheckOperator(**model.step("drift", plan.output), work=plan.output)
        estimate = EstimateQualityOperator(**model.step("estimate", plan.output), work=plan.output)
        quality = QualityCheckOperator(**model.step("quality", plan.output), work=plan.output)
        decide = RetrainDecisionOperator(
            **model.step("decide", plan.output),
            work=plan.output,
            measured=quality.output,
            on_train=model.assets.retrain,
            on_wait=model.assets.decision,
            outlets=[model.outcome("decide")],
            trigger_rule="none_failed_min_one_success",
        )
        [drift, estimate, quality] >> decide
    return dag


for model in models(__file__):
    globals()[f"{model.name}.cm"] = cm(model)
