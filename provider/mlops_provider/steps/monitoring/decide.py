"""The one place that decides to retrain, the first model included."""

from __future__ import annotations

from mlops_provider.checks import Frozen
from mlops_provider.ledger import Draft, Record, champion, last
from mlops_provider.steps.data.standard import stands
from mlops_provider.steps.monitoring import policies
from mlops_provider.steps.monitoring.policies import Champion, History, Outcome, Window, measured_loss
from mlops_provider.steps.monitoring.records import Estimated
from mlops_provider.steps.records import Decision, Drifted, FeatureVersion, Judged, Measured
from mlops_provider.steps.step import Job, step


class DecideArguments(Frozen):
    """:param drift: of this partition's inputs, if a champion scored it; `quality` likewise.
    :param estimate: what that quality was estimated at before the labels came: kept, so that labels judge the estimates, too.
    :param later: estimates of later partitions, whose labels are still to come. One that is not trusted is not gone by.
    """

    partition: str
    drift: Drifted | None = None
    quality: Measured | None = None
    estimate: Estimated | None = None
    later: tuple[Estimated, ...] = ()


@step("decide", arguments=DecideArguments, result=Decision, cached=False)
def decide(job: Job, arguments: DecideArguments) -> Decision:
    """Decides, on this newly labelled partition, whether to train a candidate, and records why. Drift alone never retrains."""
    records = job.ledger.records()
    choice = policies.decide(job.config.retrain, history(job, arguments, records))
    gone = _unscored(records, arguments.partition)
    facts = {
        "unscored": gone.reason if gone else None,
        "drift": arguments.drift.model_dump(mode="json") if arguments.drift else None,
        "quality": arguments.quality.model_dump(mode="json") if arguments.quality else None,
        "estimate": arguments.estimate.model_dump(mode="json") if arguments.estimate else None,
        "later": [one.model_dump(mode="json") for one in arguments.later],
        "policy": job.config.retrain.model_dump(mode="json"),
        "weighed": choice.facts,
    }
    draft = Draft(
        kind="retrain",
        partition=arguments.partition,
        outcome="train" if choice.retrain else "wait",
        reason=choice.reason,
        facts=facts,
    )

    def guard(records: tuple[Record, ...]) -> Record | None:
        return last(records, "retrain", partition=arguments.partition)

    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=guard)
    return Decision(
        partition=record.partition, retrain=record.outcome == "train", reason=record.reason, record=record.number
    )


def history(job: Job, arguments: DecideArguments, records: tuple[Record, ...]) -> History:
    """What the policies are told: what the ledger knew when the partition was decided on."""
    known, past = accepted(job, records), _Past(job, records)
    return History(
        partition=arguments.partition,
        metric=job.config.evaluation.metric,
        labelled={name: data.labelled for name, data in known.items() if name <= arguments.partition},
        needed=job.config.training.window.minimum + 1,
        champion=past.champion,
        trained=tuple(r.partition for r in records if r.kind == "retrain" and r.outcome == "train"),
        windows=tuple(past.windows),
        present=_present(job, arguments, _unscored(records, arguments.partition)),
        estimated=tuple(_estimated(job, one) for one in arguments.later if one.trusted),
        outcomes=past.outcomes,
    )


def accepted(job: Job, records: tuple[Record, ...]) -> dict[str, FeatureVersion]:
    """The data version of each partition whose newest delivery was accepted, with labels of today's meaning, in order of time."""
    newest = {record.partition: record for record in records if record.kind == "data"}
    return {
        name: FeatureVersion.model_validate(newest[name].facts["data"])
        for name in sorted(newest)
        if newest[name].outcome == "accepted" and stands(job, newest[name])
    }


def _unscored(records: tuple[Record, ...], partition: str) -> Record | None:
    """What says that the champion of this moment could not score the partition: nothing that it predicts is of use then."""
    now = champion(records)
    return last((r for r in records if now and r.version == now.version), "unscored", partition=partition)


def _present(job: Job, arguments: DecideArguments, gone: Record | None) -> Window | None:
    if arguments.quality is not None:
        return _measured(job, arguments.quality)
    if gone is not None:
        return Window(partition=arguments.partition, missed=True, told=f"{gone.reason} (not scored)")
    return None


def _measured(job: Job, quality: Measured) -> Window:
    """What the policies take of a measured partition: whether a metric missed its threshold, and the primary one."""
    limits = job.config.monitoring.quality.thresholds
    missed = any(check.name in limits and check.state == "fail" for check in quality.verdict.checks)
    return Window(
        partition=quality.partition,
        version=quality.version,
        value=quality.metrics.get(job.config.evaluation.metric),
        missed=missed,
        told=quality.verdict.reason(),
    )


def _estimated(job: Job, estimate: Estimated) -> Window:
    found = estimate.metrics.get(job.config.evaluation.metric)
    return Window(partition=estimate.partition, version=estimate.version, value=found.value if found else None)


class _Past:
    """What the ledger tells of earlier decisions: what they looked at, who was champion, and what came of them."""

    def __init__(self, job: Job, records: tuple[Record, ...]) -> None:
        self.job, self.metric = job, job.config.evaluation.metric
        self.windows: list[Window] = []
        self.champion: Champion | None = None
        self._shown: dict[int | None, float | None] = {}
        self._losses: dict[str, float] = {}
        self._fresh: dict[str, int] = {}
        self._labelled = sorted(accepted(job, records))
        self._trained = ""
        self._outcomes: dict[int | None, Outcome] = {}
        self._drills = {r.version for r in records if r.kind == "candidate" and r.facts["version"].get("drill")}
        for record in records:
            self._see(record)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcomes.values())

    def _see(self, record: Record) -> None:
        if record.kind == "retrain":
            self._look(record)
        if record.kind in ("promotion", "refusal") and record.version not in self._drills:
            self._came_out(record)
        if record.kind in ("promotion", "rollback"):
            self.champion = Champion(version=record.version, value=self._shown.get(record.version))

    def _look(self, record: Record) -> None:
        """Takes note of a decision that looked at quality, or found that there was none to be had."""
        quality = record.facts.get("quality")
        if quality:
            self.windows.append(_measured(self.job, Measured.model_validate(quality)))
        elif record.facts.get("unscored"):
            self.windows.append(Window(partition=record.partition, missed=True))
        known = History(
            partition=record.partition,
            metric=self.metric,
            labelled={},
            needed=0,
            champion=self.champion,
            windows=tuple(self.windows),
        )
        if (loss := measured_loss(known)) is not None:
            self._losses[record.partition] = loss
        self._fresh[record.partition] = sum(self._trained < name <= record.partition for name in self._labelled)
        if record.outcome == "train":
            self._trained = max(self._trained, record.partition)

    def _came_out(self, record: Record) -> None:
        """Takes note of what the gate saw of a candidate; one that was not compared says nothing of what training is worth."""
        judged = record.facts.get("judged")
        evaluation = Judged.model_validate(judged).evaluation if judged else None
        if evaluation is None or evaluation.metric != self.metric:
            return
        self._shown[record.version] = evaluation.candidate.get(self.metric)
        loss = self._losses.get(record.partition)
        if evaluation.interval is None or loss is None:
            return
        gain = evaluation.interval.gain if record.kind == "promotion" else 0.0
        self._outcomes[record.version] = Outcome(
            partition=record.partition, loss=loss, fresh=self._fresh[record.partition], gain=gain
        )
