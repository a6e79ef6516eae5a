"""The arithmetic of an A/B test, against published figures, another library, and simulated tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlops_provider.steps.release.ab_statistics import (
    Question,
    Sizes,
    assured,
    detectable,
    needed,
    newcombe,
    power_of,
    ratio_p,
    total_for,
    welch,
)


def mean(**changes: Any) -> Question:
    return Question(**{"kind": "mean", "mean": 10, "sd": 1, "share": 0.5, "alpha": 0.05, "power": 0.8, **changes})


def rate(**changes: Any) -> Question:
    return mean(**{"kind": "proportion", "mean": 0.1, "sd": 0.3, **changes})


@pytest.mark.parametrize(
    ("question", "effect", "each"),
    [
        (mean(), 0.2, 394),  # Cohen 1988, table 2.4.1: 393 by its rounding
        (mean(), 0.5, 64),  # the same table
        (mean(), 0.8, 26),
        (mean(sd=10), 5, 64),
        (rate(), 0.05, 686),  # Fleiss, Levin and Paik 2003, without continuity correction
    ],
)
def test_the_entities_needed_are_those_of_the_tables(question: Question, effect: float, each: int) -> None:
    assert needed(question, effect) == Sizes(control=each, treatment=each)


@pytest.mark.parametrize("share", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("effect", [0.05, 0.3, 1.0])
def test_the_power_of_a_mean_is_that_of_statsmodels(share: float, effect: float) -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    sizes = needed(mean(share=share), effect)
    theirs = power.tt_ind_solve_power(effect, sizes.control, 0.05, None, sizes.treatment / sizes.control)
    ours = power_of(mean(), effect, sizes.control, sizes.treatment)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_one_entity_less_would_not_do() -> None:
    for question, effect in ((mean(), 0.2), (rate(), 0.01), (rate(mean=0.9), 0.02)):
        sizes = needed(question, effect)
        assert power_of(question, effect, sizes.control, sizes.treatment) >= 0.8
        assert power_of(question, effect, sizes.control - 1, sizes.treatment - 1) < 0.8


def test_a_rate_needs_what_its_worse_direction_needs() -> None:
    """A rate of 0.1 has more variance above than below, one of 0.9 the other way round."""
    assert needed(rate(), 0.05) == needed(rate(mean=0.9), 0.05)


def test_a_rate_that_can_only_fall_is_planned_for_a_fall() -> None:
    assert needed(rate(mean=0.9), 0.2).control > 0
    with pytest.raises(ValueError, match="no number of entities shows a difference of 0.6 from 0.5"):
        needed(rate(mean=0.5), 0.6)


@pytest.mark.parametrize("question", [mean(), rate(), mean(share=0.1), rate(share=0.1)])
def test_the_detectable_effect_is_the_one_that_was_planned_for(question: Question) -> None:
    for effect in (0.01, 0.05):
        found = detectable(question, needed(question, effect))
        assert found == pytest.approx(effect, rel=0.01)
        assert found <= effect


def test_a_handful_shows_nothing() -> None:
    assert detectable(mean(), Sizes(control=1, treatment=50)) is None
    assert detectable(rate(), Sizes(control=3, treatment=3)) is None


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_chance_gives_both_arms_what_they_need(share: float) -> None:
    sizes = Sizes(control=round(4000 * (1 - share)), treatment=round(4000 * share))
    total = total_for(sizes, share)
    assert total < 4000 * 1.4
    short = stats.binom.cdf(sizes.treatment - 1, total, share) + stats.binom.sf(total - sizes.control, total, share)
    assert short <= 0.001
    assert assured(total - 1, share) != assured(total, share)


def test_the_interval_of_a_difference_of_rates_is_newcombes() -> None:
    """Newcombe 1998, table II, method 10: 56 of 70 against 48 of 80, and 0 of 10 against 0 of 20."""
    assert np.round(newcombe((48 / 80, 56 / 70), (80, 70), 0.05)[1:], 4).tolist() == [0.0524, 0.3339]
    assert np.round(newcombe((0.0, 0.0), (20, 10), 0.05)[1:], 4).tolist() == [-0.1611, 0.2775]


def test_the_interval_of_a_difference_of_means_is_scipys() -> None:
    rng = np.random.default_rng(1)
    control, treatment = rng.normal(0, 1, 30), rng.normal(0.3, 4, 11)
    theirs = stats.ttest_ind(treatment, control, equal_var=False).confidence_interval(0.9)
    found = welch(
        (control.mean(), treatment.mean()),
        (control.var(ddof=1), treatment.var(ddof=1)),
        (len(control), len(treatment)),
        0.1,
    )
    assert found == pytest.approx((treatment.mean() - control.mean(), theirs.low, theirs.high))


# --- simulated tests -----------------------------------------------------------------------------------------------

TESTS = 4_000


def within(shown: int, chance: float) -> bool:
    """Whether a count of `TESTS` agrees with a chance, by a two-sided binomial test at 0.001."""
    return bool(stats.binomtest(shown, TESTS, chance).pvalue > 0.001)


def shown(bounds: Any) -> int:
    _, low, high = bounds
    return int(((low > 0) | (high < 0)).sum())


def means(rng: Any, question: Question, sizes: Sizes, effect: float) -> int:
    """How many tests of means show a difference. What a test sees of normal values is their mean and variance."""
    arms = [(size, shift) for size, shift in ((sizes.control, 0.0), (sizes.treatment, effect))]
    found = [rng.normal(question.mean + shift, question.sd / np.sqrt(size), TESTS) for size, shift in arms]
    spread = [question.sd**2 * rng.chisquare(size - 1, TESTS) / (size - 1) for size, _ in arms]
    return shown(welch(found, spread, [size for size, _ in arms], question.alpha))


def rates(rng: Any, question: Question, sizes: Sizes, effect: float) -> int:
    arms = [(size, shift) for size, shift in ((sizes.control, 0.0), (sizes.treatment, effect))]
    found = [rng.binomial(size, question.mean + shift, TESTS) / size for size, shift in arms]
    return shown(newcombe(found, [size for size, _ in arms], question.alpha))


@pytest.mark.parametrize(
    ("simulate", "question", "effect"),
    [
        (means, mean(), 0.2),
        (means, mean(share=0.1, power=0.9), 0.3),
        (means, mean(), 1.2),
        (rates, rate(), 0.02),
        (rates, rate(mean=0.03, share=0.3), 0.01),
        (rates, rate(mean=0.5, power=0.9, alpha=0.01), 0.05),
    ],
)
def test_simulated_tests_err_as_often_as_planned_and_find_as_often_as_asked(
    simulate: Any, question: Question, effect: float
) -> None:
    rng, sizes = np.random.default_rng(7), needed(question, effect)
    assert within(simulate(rng, question, sizes, 0.0), question.alpha)
    assert within(simulate(rng, question, sizes, effect), question.power)


def test_arms_as_uneven_as_chance_makes_them_are_seldom_suspected() -> None:
    treated = np.random.default_rng(3).binomial(1000, 0.3, TESTS)
    # The p value of each count that occurs, by number of tests.
    counts = dict(zip(*np.unique(treated, return_counts=True), strict=True))
    suspected = sum(n for k, n in counts.items() if ratio_p(Sizes(control=1000 - k, treatment=k), 0.3) < 0.001)
    assert suspected <= stats.binom.ppf(0.999, TESTS, 0.001)


def test_a_missing_twentieth_of_an_arm_is_a_mismatch() -> None:
    assert ratio_p(Sizes(control=10_000, treatment=9_500), 0.5) < 0.001
    assert ratio_p(Sizes(control=10_000, treatment=9_900), 0.5) > 0.1
