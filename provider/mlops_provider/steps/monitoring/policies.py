"""When to retrain, as pure functions: what was known at a moment goes in, the decision and its reason come out.

The loops call them with what the ledger tells, backtests with what it would have told: one rule, wherever it is asked.

`cost_aware` weighs what a new model is expected to win back against what it costs, after two papers of which we took the idea and
not the algorithm: Cara (Mahadevan and Mathioudakis 2024, Knowledge-Based Systems 293, arXiv 2310.04216) decides by the
cost of staleness against that of retraining; Regol, Schwinn, Sprague, Coates and Markovich ("When to retrain a machine
learning model", ICML 2025) decide from few examples, by a forecast of performance.
"""

from __future__ import annotations

from typing import Any

from mlops_provider.checks import Frozen
from mlops_provider.sections import Retrain
from mlops_provider.sections.objectives import larger_is_better

ENOUGH = 5  # outcomes of a model's own from which on they are believed


class Window(Frozen):
    """A partition whose decision looked at the quality of the champion's predictions.

    :param version: that predicted; None if none could.
    :param value: of the primary metric; None if it was not measured.
    :param missed: whether a threshold was missed, or the champion could not score the partition; missing labels are no loss.
    :param told: what was missed, for a person.
    """

    partition: str
    version: int | None = None
    value: float | None = None
    missed: bool = False
    told: str = ""

    @property
    def scored(self) -> bool:
        return self.version is not None


class Outcome(Frozen):
    """What came of an earlier decision to train, after its candidate was compared with the champion.

    :param loss: that was measured when it was decided, see `measured_loss`.
    :param gain: in the primary metric, positive is better, as the gate saw it; 0 if the candidate was refused.
    """

    partition: str
    loss: float
    gain: float


class Champion(Frozen):
    """The champion of the moment.

    :param value: of the primary metric on the holdout on which it was promoted; None if that is not known.
    """

    version: int | None
    value: float | None = None


class History(Frozen):
    """What was known when a partition was decided on.

    :param metric: the primary one.
    :param labelled: labelled rows of each accepted partition up to this one, by name, in order of time.
    :param needed: partitions without which nothing can be trained.
    :param trained: partitions on which it was decided to train.
    :param windows: earlier partitions that were looked at, in order; `present` is this one, None if there were no predictions.
    :param outcomes: of earlier decisions to train, where a loss had been measured.
    """

    partition: str
    metric: str
    labelled: dict[str, int]
    needed: int
    champion: Champion | None = None
    trained: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    present: Window | None = None
    outcomes: tuple[Outcome, ...] = ()

    @property
    def fresh(self) -> list[str]:
        """Partitions that were labelled since the last one that was trained on."""
        return [name for name in self.labelled if name > max(self.trained, default="")]


class Choice(Frozen):
    """Whether to train, why, and what was weighed."""

    retrain: bool
    reason: str
    facts: dict[str, Any] = {}


def decide(rule: Retrain, history: History) -> Choice:
    """Whether to train a candidate on the newest partition. Drift is not among what it is told: alone it never retrains."""
    if len(history.labelled) < history.needed:
        return Choice(
            retrain=False, reason=f"not enough data: {len(history.labelled)} of {history.needed} labelled partitions"
        )
    if history.champion is None:
        return Choice(retrain=True, reason=f"there is no champion yet, and {len(history.labelled)} labelled partitions")
    return _POLICIES[rule.policy](rule, history)


def _never(_: Retrain, __: History) -> Choice:
    return Choice(retrain=False, reason="policy never: only a person's demand trains")


def _periodic(rule: Retrain, history: History) -> Choice:
    fresh = len(history.fresh)
    reason = f"policy periodic: {fresh} of {rule.every} newly labelled partitions"
    return Choice(retrain=fresh >= rule.every, reason=reason)


def _threshold(rule: Retrain, history: History) -> Choice:
    present = history.present
    if present is None:
        return Choice(retrain=False, reason="policy threshold: the champion has no judged predictions yet")
    past = [window.missed for window in history.windows]
    failures = [*(past[-(rule.windows - 1) :] if rule.windows > 1 else []), present.missed]
    missed = sum(failures)
    told = f"policy threshold: quality missed in {missed} of the last {len(failures)} partitions, {rule.violations} are needed"
    if present.missed:
        told += f"; {present.told}"
    return Choice(retrain=present.missed and missed >= rule.violations, reason=told)


def _cost_aware(rule: Retrain, history: History) -> Choice:
    """Trains if the expected gain, over the partitions that it is expected to last, costs more than to train and deploy.

    The gain of a partition is a share of the mean loss that was measured since the champion came into service. A new model is
    expected to last as long as this one has, at most `horizon` partitions: so one bad partition weighs little,
    and a loss that stays adds up, as in the cumulative variant of Cara.
    """
    if hindrance := _hindered(rule, history):
        return Choice(retrain=False, reason=f"policy cost_aware: {hindrance}")
    present, costs = history.present, rule.costs
    assert present is not None
    assert costs is not None
    if not present.scored:
        return Choice(retrain=True, reason=f"policy cost_aware: the champion is of no use; {present.told}")
    values = _served(history)
    loss = measured_loss(history)
    if loss is None:
        told = (
            f"{history.metric} of the champion is not known on its holdout and on what it scored: no loss is measured"
        )
        return Choice(retrain=False, reason=f"policy cost_aware: {told}")
    share, source = expected_share(rule, history)
    lasts = min(len(values), rule.horizon)
    rows = sum(history.labelled.values()) / len(history.labelled)
    benefit = costs.of_loss(share * max(loss, 0.0), rows) * lasts
    reason = (
        f"policy cost_aware: {history.metric} lost {loss:.4g} in the mean of {len(values)} partitions, {share:.0%} of it is "
        f"expected back ({source}), worth {benefit:.4g} over {lasts} partitions; training and deployment cost "
        f"{costs.retraining:g}"
    )
    facts = {
        "loss": loss,
        "share": share,
        "source": source,
        "lasts": lasts,
        "benefit": benefit,
        "cost": costs.retraining,
    }
    return Choice(retrain=benefit > costs.retraining, reason=reason, facts=facts)


def _hindered(rule: Retrain, history: History) -> str:
    """Why nothing is weighed; empty if nothing stands in the way."""
    fresh = history.fresh
    if history.present is None:
        return "the champion has no judged predictions yet"
    if history.trained and len(fresh) <= rule.cooldown:
        return f"{len(fresh)} partitions since the last training, the cooldown is {rule.cooldown}"
    if len(fresh) < rule.min_partitions:
        return f"{len(fresh)} of {rule.min_partitions} newly labelled partitions"
    if (rows := sum(history.labelled[name] for name in fresh)) < rule.min_rows:
        return f"{rows} of {rule.min_rows} newly labelled rows"
    return ""


def _served(history: History) -> list[float]:
    """The primary metric on the partitions that the champion scored, where it was measured."""
    now = [*history.windows, *([history.present] if history.present else [])]
    version = history.champion.version if history.champion else None
    return [window.value for window in now if window.scored and window.version == version and window.value is not None]


def measured_loss(history: History) -> float | None:
    """How much worse the champion was on what it scored than on its holdout, in the mean, positive is worse; None if it is not
    known."""
    values = _served(history)
    if history.champion is None or history.champion.value is None or not values:
        return None
    sign = 1 if larger_is_better(history.metric) else -1
    return sign * (history.champion.value - sum(values) / len(values))


def expected_share(rule: Retrain, history: History) -> tuple[float, str]:
    """The share of a measured loss that a new model is expected to win back, and where that comes from.

    From five outcomes on it is what they won back of their losses together; the prior counts as one more of their mean
    size, so that a run of refused candidates does not end all training.
    """
    known = [outcome for outcome in history.outcomes if outcome.loss > 0]
    if len(known) < ENOUGH:
        return rule.prior, f"the prior, with {len(known)} of {ENOUGH} outcomes of this model"
    won, lost = sum(outcome.gain for outcome in known), sum(outcome.loss for outcome in known)
    share = (len(known) * max(won / lost, 0.0) + rule.prior) / (len(known) + 1)
    return share, f"learned from {len(known)} outcomes of this model"


_POLICIES = {"never": _never, "periodic": _periodic, "threshold": _threshold, "cost_aware": _cost_aware}
