"""Which parameters a trial tries: a study of Optuna's that is built anew for each question, from what has been found.

TPE (Bergstra et al. 2011) draws its proposals at random. Its seed is made of the model's seed, the wave and the number of
the trial, and it knows the waves before its own and no more. So a trial that is asked for again, in another process or after
a kill, proposes the same parameters, and those of a wave can be asked for side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlops_provider.config import ModelConfig
from mlops_provider.sections import Dimension, Tune
from mlops_provider.sections.objectives import larger_is_better
from mlops_provider.sections.tune import TRUTHS, WHOLE
from mlops_provider.steps.records import Parameters, Trial
from mlops_provider.storage import digest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def proposed(config: ModelConfig, known: Iterable[Trial], number: int) -> Parameters:
    """The parameters of a trial.

    The first one tries those of model.yaml, as far as they lie in the space: the search begins where the model stands.

    :param known: all trials of the waves before it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tune, training = _tune(config), config.training
    sampler = optuna.samplers.TPESampler(seed=seed(training.seed, number // tune.parallel, number), n_startup_trials=10)
    direction = "maximize" if larger_is_better(config.evaluation.metric) else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    space = distributions(tune)
    for trial in sorted(finished(known), key=lambda t: t.number):
        study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=space, value=trial.value))
    if number == 0:
        study.enqueue_trial({n: v for n, v in training.params.items() if n in space and tune.space[n].holds(v)})
    return dict(study.ask(space).params)


def finished(trials: Iterable[Trial]) -> list[Trial]:
    """Those that were measured."""
    return [trial for trial in trials if trial.state == "finished" and trial.value is not None]


def best(config: ModelConfig, trials: Iterable[Trial]) -> Trial | None:
    """The best of those that were measured; of equals the first."""
    sign = -1 if larger_is_better(config.evaluation.metric) else 1
    return min(finished(trials), key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def seed(base: int, wave: int, number: int) -> int:
    """The sampler's seed, 32 bits."""
    return int(digest([base, wave, number])[:8], 16)


def distributions(tune: Tune) -> dict[str, BaseDistribution]:
    """The space as Optuna wants it, by name: the order in which model.yaml names the parameters does not matter."""
    return {name: _distribution(name, tune.space[name]) for name in sorted(tune.space)}


def _distribution(name: str, dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    assert name not in TRUTHS
    if name in WHOLE:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _tune(config: ModelConfig) -> Tune:
    if config.training.tune is None:
        raise AssertionError("asked for a trial of a model that is not tuned")
    return config.training.tune
