"""What a backtest found: every policy beside the best in hindsight, even distances and chance, at the same number of trainings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mlops_provider.backtest import schedules
from mlops_provider.backtest.replay import Board, Run, Step, by_rule, by_schedule
from mlops_provider.checks import Frozen
from mlops_provider.sections import Retrain

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Peers(Frozen):
    """Other schedules with the same number of trainings: their mean quality, and the gap that they close.

    :param oracle: the best in hindsight; `oracle_gap` what it closes of the gap to the best with any number of trainings.
    :param periodic: mean over all phases, `periodic_low` and `periodic_high` the worst and the best of them; None if none fits.
    :param random: 10th, 50th and 90th percentile of `schedules.RANDOM` schedules.
    """

    oracle: float
    oracle_gap: float | None
    periodic: float | None
    periodic_low: float | None
    periodic_high: float | None
    periodic_gap: float | None
    random: tuple[float, float, float]
    random_gap: tuple[float | None, float | None, float | None]


class Result(Frozen):
    """A policy on the test span.

    :param retrainings: candidates that were trained; `promotions` those that were promoted.
    :param quality: mean of the primary metric over the periods of the test.
    :param cost: of training, deployment, and of what was lost against the best schedule in hindsight; None without `costs`.
    :param gap_closed: (quality - never) / (best in hindsight - never); None if there is no gap.
    :param peers: at the same number of trainings; None for a policy that never trains.
    """

    policy: str
    retrainings: int
    promotions: int
    quality: float
    cost: float | None
    gap_closed: float | None
    peers: Peers | None
    steps: tuple[Step, ...]


class Swept(Frozen):
    """`cost_aware` with training and deployment at another price."""

    factor: float
    retrainings: int
    promotions: int
    quality: float


class Side(Frozen):
    """All policies, with or without the gate.

    :param oracle: quality of the best schedule in hindsight with any number of trainings, `oracle_retrainings` its own.
    """

    gated: bool
    never: float
    always: float
    oracle: float
    oracle_retrainings: int
    results: tuple[Result, ...]
    sweep: tuple[Swept, ...]


class Backtest(Frozen):
    """All that was found.

    :param fitted: periods before the first decision: nothing of the test span was known when the first champion was made.
    :param decisions: how many there were, from `first_decision` to `last_decision`; the test goes from `first_scored` to
        `last_scored`.
    :param per_period: gain of a candidate over the one before it on the same later period, mean over all pairs: what a later span
        may take as `retrain.prior.per_partition`.
    """

    model: str
    metric: str
    unit: str
    holdout: int
    lag: int
    fitted: str
    decisions: int
    first_decision: str
    last_decision: str
    first_scored: str
    last_scored: str
    per_period: float
    rule: Retrain
    sides: tuple[Side, ...]


def backtest(boards: Sequence[Board], rule: Retrain, unit: str) -> Backtest:
    """Replays every policy on boards of the same matrix.

    :param rule: the constants; its own policy does not matter. Without `costs` cost_aware is not replayed.
    :param unit: what a period is called.
    """
    board, names = boards[0], boards[0].matrix.names
    return Backtest(
        model=board.config.name,
        metric=board.metric,
        unit=unit,
        holdout=board.holdout,
        lag=board.lag,
        fitted=f"{names[0]} to {names[board.begin]}",
        decisions=len(board.decisions),
        first_decision=names[board.decisions[0]],
        last_decision=names[board.decisions[-1]],
        first_scored=names[board.test[0]],
        last_scored=names[board.test[-1]],
        per_period=_per_period(board),
        rule=rule,
        sides=tuple(_side(one, rule) for one in boards),
    )


def _per_period(board: Board) -> float:
    step = board.sign * (board.values[1:] - board.values[:-1])
    return float(np.nanmean(step[np.isfinite(step)])) if np.isfinite(step).any() else 0.0


def _side(board: Board, rule: Retrain) -> Side:
    best = by_schedule(board, schedules.best(board))
    never = by_schedule(board, ()).mean
    policies: list[tuple[str, Retrain]] = [
        ("never", rule.model_copy(update={"policy": "never"})),
        ("always", rule.model_copy(update={"policy": "periodic", "every": 1})),
        (f"periodic ({rule.every})", rule.model_copy(update={"policy": "periodic"})),
        ("threshold", rule.model_copy(update={"policy": "threshold"})),
    ]
    if rule.costs:
        policies.append(("cost_aware", rule.model_copy(update={"policy": "cost_aware"})))
    results = tuple(_result(board, name, one, best, never) for name, one in policies)
    return Side(
        gated=board.gated,
        never=never,
        always=results[1].quality,
        oracle=best.mean,
        oracle_retrainings=len(best.trained),
        results=results,
        sweep=tuple(_swept(board, rule, factor) for factor in FACTORS) if rule.costs else (),
    )


def _result(board: Board, name: str, rule: Retrain, best: Run, never: float) -> Result:
    run = by_rule(board, rule)
    return Result(
        policy=name,
        retrainings=len(run.trained),
        promotions=run.promotions,
        quality=run.mean,
        cost=_cost(rule, run, best),
        gap_closed=_gap(board, run.mean, never, best.mean),
        peers=_peers(board, len(run.trained), never, best.mean) if run.trained else None,
        steps=tuple(run.steps),
    )


def _cost(rule: Retrain, run: Run, best: Run) -> float | None:
    if rule.costs is None:
        return None
    board = run.board
    lost = [
        rule.costs.of_loss(board.sign * float(board.values[good, at] - board.values[ours, at]), board.matrix.rows[at])
        for ours, good, at in zip(run.serving, best.serving, board.test, strict=True)
    ]
    return len(run.trained) * rule.costs.training + run.promotions * rule.costs.deployment + sum(lost)


def _gap(board: Board, quality: float, never: float, best: float) -> float | None:
    whole = board.sign * (best - never)
    return board.sign * (quality - never) / whole if whole > 0 else None


def _peers(board: Board, trainings: int, never: float, best: float) -> Peers:
    def quality(found: Iterable[tuple[int, ...]]) -> list[float]:
        return [by_schedule(board, schedule).mean for schedule in found]

    oracle = by_schedule(board, schedules.best(board, trainings)).mean
    even = sorted(quality(schedules.periodic(board, trainings)), key=lambda value: board.sign * value)
    chance = board.sign * np.quantile(
        board.sign * np.array(quality(schedules.at_random(board, trainings))), [0.1, 0.5, 0.9]
    )
    low, middle, high = (float(value) for value in chance)
    mean = float(np.mean(even)) if even else None
    return Peers(
        oracle=oracle,
        oracle_gap=_gap(board, oracle, never, best),
        periodic=mean,
        periodic_low=even[0] if even else None,
        periodic_high=even[-1] if even else None,
        periodic_gap=_gap(board, mean, never, best) if mean is not None else None,
        random=(low, middle, high),
        random_gap=(_gap(board, low, never, best), _gap(board, middle, never, best), _gap(board, high, never, best)),
    )


def _swept(board: Board, rule: Retrain, factor: float) -> Swept:
    assert rule.costs is not None
    dearer = rule.costs.model_copy(
        update={"training": rule.costs.training * factor, "deployment": rule.costs.deployment * factor}
    )
    run = by_rule(board, rule.model_copy(update={"policy": "cost_aware", "costs": dearer}))
    return Swept(factor=factor, retrainings=len(run.trained), promotions=run.promotions, quality=run.mean)


def render(found: Backtest) -> str:
    """The tables for a terminal."""
    lines = [
        f"{found.model}: {found.decisions} decisions, {found.first_decision} to {found.last_decision}; "
        f"{found.metric} on {found.first_scored} to {found.last_scored}",
        f"first champion from {found.fitted}; a candidate is judged on {_count(found.holdout, found.unit)} and scores from "
        f"{_count(found.lag, found.unit)} after its decision on",
        f"a {found.unit} of new data was worth {found.per_period:+.4f} {found.metric} in the mean of all candidates",
    ]
    for side in found.sides:
        lines += ["", *_table(side)]
    if any(result.cost is None for side in found.sides for result in side.results):
        lines += ["", "retrain.costs is not set: cost_aware was not replayed, and nothing tells what a policy costs"]
    return "\n".join(lines)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _table(side: Side) -> list[str]:
    through = "through the gate" if side.gated else "without the gate, every candidate promoted"
    lines = [
        f"{through}: never {side.never:.4f}, best in hindsight {side.oracle:.4f} ({side.oracle_retrainings} trainings)",
        "                                                        at the same number of trainings, gap closed by",
        f"{'policy':<16}{'trained':>8}{'promoted':>9}{'quality':>9}{'cost':>9}{'gap':>6}"
        f"{'best':>8}{'periodic':>10}{'random 10/50/90 %':>20}",
    ]
    lines += [_row(result) for result in side.results]
    if side.sweep:
        told = ", ".join(f"x{one.factor:g}: {one.retrainings} ({one.quality:.4f})" for one in side.sweep)
        lines.append(f"cost_aware with dearer training, trained (quality): {told}")
    return lines


def _row(result: Result) -> str:
    cost = f"{result.cost:.1f}" if result.cost is not None else "-"
    row = f"{result.policy:<16}{result.retrainings:>8}{result.promotions:>9}{result.quality:>9.4f}{cost:>9}"
    row += f"{_two(result.gap_closed):>6}"
    if result.peers:
        chance = " ".join(_two(value) for value in result.peers.random_gap)
        row += f"{_two(result.peers.oracle_gap):>8}{_two(result.peers.periodic_gap):>10}{chance:>20}"
    return row


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


class DryRun(Frozen):
    """A policy on a model's own history, as it would have gone.

    :param quality: mean of the primary metric over the periods that were scored, `never` of the first champion over the same.
    """

    model: str
    metric: str
    rule: Retrain
    steps: tuple[Step, ...]
    retrainings: int
    promotions: int
    quality: float
    never: float


def dry_run(board: Board, rule: Retrain) -> DryRun:
    """Replays one policy, told decision by decision, up to the newest partition."""
    run = by_rule(board, rule, newest=True)
    return DryRun(
        model=board.config.name,
        metric=board.metric,
        rule=rule,
        steps=tuple(run.steps),
        retrainings=len(run.trained),
        promotions=run.promotions,
        quality=run.mean,
        never=by_schedule(board, ()).mean,
    )


def told(found: DryRun) -> str:
    """The table for a terminal."""
    lines = [f"{found.model}: a dry run of policy {found.rule.policy}; nothing was recorded, registered or promoted"]
    lines.append(f"{'partition':<14}{found.metric:>8}  {'decision':<26}why")
    for step in found.steps:
        value = "-" if step.value is None else f"{step.value:.4f}"
        done = f"train: {step.outcome}" if step.retrain else "wait"
        lines.append(f"{step.partition:<14}{value:>8}  {done:<26}{step.reason}")
    lines.append(
        f"{found.retrainings} trained, {found.promotions} promoted; {found.metric} {found.quality:.4f} in the mean, "
        f"{found.never:.4f} had the first champion stayed"
    )
    return "\n".join(lines)
