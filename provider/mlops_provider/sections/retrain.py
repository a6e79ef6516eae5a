"""The section `retrain` of model.yaml: when the loops train, and what training, deploying and being wrong cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlops_provider.sections.base import Section, Share

Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Price = Annotated[float | None, Field(gt=0, le=1e12, allow_inf_nan=False)]
Partitions = Annotated[int, Field(ge=0, le=100_000)]


class Costs(Section):
    """What things cost, all in one unit of the team's own choice: money, minutes, tickets.

    :param training: of a candidate, up to the gate, whether it is promoted or not; `deployment` of one that is promoted.
    :param metric_unit: of one whole unit of the primary metric, lost over one partition: 500 makes .01 of AUC cost 5.
    :param wrong_answer: of one wrong answer, in place of `metric_unit`; only where the primary metric counts them (`accuracy`).
    """

    training: Amount
    deployment: Amount = 0.0
    metric_unit: Price = None
    wrong_answer: Price = None

    @model_validator(mode="after")
    def _one_price(self) -> Costs:
        if (self.metric_unit is None) == (self.wrong_answer is None):
            raise ValueError("give metric_unit or wrong_answer, one of the two: what a loss of quality costs")
        return self

    @property
    def retraining(self) -> float:
        """What it costs to train a candidate and to deploy it."""
        return self.training + self.deployment

    def of_loss(self, loss: float, rows: float) -> float:
        """What a loss in the primary metric costs over one partition.

        :param loss: in units of the metric; `rows` of the partition.
        """
        return loss * (self.metric_unit if self.metric_unit is not None else (self.wrong_answer or 0.0) * rows)


class Prior(Section):
    """What a new model is expected to win back over each partition, until five outcomes of this model have shown it.

    :param share: of the loss that was measured since the champion came into service.
    :param per_partition: for each partition that was labelled since the last training, in units of the primary metric; what
        `mlops backtest` tells of an earlier span.
    """

    share: Share = 0.5
    per_partition: Amount = 0.0

    @model_validator(mode="after")
    def _something(self) -> Prior:
        if not (self.share or self.per_partition):
            raise ValueError("share 0 and per_partition 0 expect nothing of a new model: it would never be trained")
        return self


class Retrain(Section):
    """When the loops train.

    ``never``: only on a person's demand. ``periodic``: after every `every` newly labelled partitions. ``threshold``: when at
    least `violations` of the last `windows` judged partitions, the newest among them, missed a quality threshold.
    ``cost_aware``: when what a new model is expected to win back costs more than training and deploying it.

    :param cooldown: partitions after one that was trained on, on which `cost_aware` does not train again.
    :param horizon: a new model is expected to pay for as many partitions as the champion was judged on, at most for these.
    :param min_partitions: newly labelled ones since the last training that `cost_aware` asks for; `min_rows` labelled rows.
    """

    policy: Literal["never", "periodic", "threshold", "cost_aware"] = "threshold"
    every: int = Field(1, ge=1)
    windows: int = Field(3, ge=1)
    violations: int = Field(2, ge=1)
    costs: Costs | None = None
    cooldown: Partitions = 0
    horizon: int = Field(12, ge=1, le=100_000)
    prior: Prior = Prior()
    min_partitions: int = Field(1, ge=1, le=100_000)
    min_rows: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Retrain:
        if self.violations > self.windows:
            raise ValueError(f"violations ({self.violations}) cannot exceed windows ({self.windows})")
        if self.policy == "cost_aware" and self.costs is None:
            raise ValueError("policy cost_aware needs costs: what training, deployment and a loss of quality cost")
        if self.cooldown >= self.horizon:
            raise ValueError(
                f"cooldown ({self.cooldown}) must be shorter than horizon ({self.horizon}): a new model would have to pay "
                "before it could be replaced, and nothing after that counts"
            )
        return self
