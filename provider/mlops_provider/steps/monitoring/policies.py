"""When to retrain, as pure functions: what was known at a moment goes in, the decision and its reason come out.

The loops call them with what the ledger tells, backtests with what it would have told: one rule, wherever it is asked.

`cost_aware` weighs what a new model is expected to win back against what it costs, after two papers of which we took the idea and
not the algorithm: Cara (Mahadevan and Mathioudakis 2024, Knowledge-Based Systems 293, arXiv 2310.04216) decides by the
cost of staleness against that of retraining; Regol, Schwinn, Sprague, Coates and Markovich ("When to retrain a machine
learning model", ICML 2025) decide from few examples, by a forecast of performance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlops_provider.checks import Frozen
from mlops_provider.sections import Retrain
from mlops_provider.sections.objectives import larger_is_better

ENOUGH = 5  # outcomes of a model's own from which on they are believed
_NEWEST = 10  # of them that count: what training is worth changes


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
    :param fresh: partitions that had been labelled since the training before it.
    :param gain: in the primary metric, positive is better, as the gate saw it; 0 if the candidate was refused.
    """

    partition: str
    loss: float
    fresh: int
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
    :param estimated: later partitions that the champion scored, whose labels are still to come, with their estimated metric; those
        alone whose estimate is trusted.
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
    estimated: tuple[Window, ...] = ()
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

    A new model is expected to last as long as this one has, at most `horizon` partitions: so one bad partition weighs little,
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
    expected = expect(rule, history, loss)
    lasts = min(len(values), rule.horizon)
    rows = sum(history.labelled.values()) / len(history.labelled)
    benefit = costs.of_loss(expected.gain, rows) * lasts
    reason = (
        f"policy cost_aware: {history.metric} lost {loss:.4g} in the mean of {len(values)} partitions{_part(history)}; "
        f"{expected.gain:.4g} is "
        f"expected back ({expected.source}), worth {benefit:.4g} over {lasts} partitions; training and deployment cost "
        f"{costs.retraining:g}"
    )
    facts = {"loss": loss, **expected.model_dump(), "lasts": lasts, "benefit": benefit, "cost": costs.retraining}
    return Choice(retrain=benefit > costs.retraining, reason=reason, facts=facts)


def _part(history: History) -> str:
    """How many of the partitions were estimated only, for a person."""
    version = history.champion.version if history.champion else None
    count = sum(window.version == version and window.value is not None for window in history.estimated)
    return f", {count} of them estimated" if count else ""


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
    """The primary metric on the partitions that the champion scored, where it was measured, or estimated."""
    now = [*history.windows, *([history.present] if history.present else []), *history.estimated]
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


class Expected(Frozen):
    """What a new model is expected to win back over a partition, in units of the primary metric.

    :param share: of the measured loss; `per_partition` for each partition that was labelled since the last training.
    :param source: where the two come from.
    """

    gain: float
    share: float
    per_partition: float
    source: str


def expect(rule: Retrain, history: History, loss: float) -> Expected:
    """Learned from the newest ten outcomes, once there are five; the prior until then.

    By least squares, gain = share x loss + per_partition x fresh, neither below 0. The prior counts as one more outcome of
    their mean size: two numbers cannot be told from five outcomes alone, and a run of refused candidates does not end all
    training.
    """
    known, prior, fresh = history.outcomes[-_NEWEST:], rule.prior, len(history.fresh)
    share, each = prior.share, prior.per_partition
    source = f"the prior, with {len(known)} of {ENOUGH} outcomes of this model"
    if len(known) >= ENOUGH:
        share, each = _fitted(known, (prior.share, prior.per_partition))
        source = f"learned from {len(known)} outcomes of this model"
    return Expected(gain=share * max(loss, 0.0) + each * fresh, share=share, per_partition=each, source=source)


def _fitted(outcomes: Sequence[Outcome], prior: tuple[float, float]) -> tuple[float, float]:
    """The two coefficients: a ridge regression towards the prior (Hoerl and Kennard 1970), kept from falling below 0."""
    rows = [(max(one.loss, 0.0), float(one.fresh), one.gain) for one in outcomes]
    first, second = (sum(row[place] ** 2 for row in rows) for place in (0, 1))
    ridge = first / len(rows), second / len(rows)
    mixed = sum(loss * fresh for loss, fresh, _ in rows)
    told = [sum(row[place] * row[2] for row in rows) + ridge[place] * prior[place] for place in (0, 1)]
    first, second = first + ridge[0], second + ridge[1]
    if not first:
        return prior[0], max(told[1] / second, 0.0)  # no loss was ever measured: nothing says which share is won back
    determinant = first * second - mixed**2
    share, each = (second * told[0] - mixed * told[1]) / determinant, (first * told[1] - mixed * told[0]) / determinant
    if share < 0 or each < 0:  # the least sum of squares then lies on an edge
        edges = [(max(told[0] / first, 0.0), 0.0), (0.0, max(told[1] / second, 0.0))]
        worth = [2 * (told[0] * x + told[1] * y) - first * x**2 - second * y**2 for x, y in edges]
        return edges[worth.index(max(worth))]
    return share, each


_POLICIES = {"never": _never, "periodic": _periodic, "threshold": _threshold, "cost_aware": _cost_aware}
