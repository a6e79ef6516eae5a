"""The arithmetic of an A/B test: entities needed, the effect that so many can show, its interval, and the ratio of the arms.

Distributions are scipy's. All sizes are entities, as they are what was randomized.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from mlops_provider.checks import Frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = float | npt.NDArray[np.float64]

Kind = Literal["mean", "proportion"]

# Chance assigns, so the arms vary; both get what they need but once in a thousand tests.
_SHORT = 0.001
_MOST = 10**12


class Question(Frozen):
    """What a test is to find out.

    :param kind: of the metric: a mean over entities, or the proportion of entities of which something is true.
    :param mean: of the metric without treatment; the rate, 0 to 1, for a proportion.
    :param sd: its standard deviation over entities, for a mean.
    :param share: of treatment.
    :param alpha: chance of showing a difference where there is none, two-sided.
    :param power: chance of showing a difference of the smallest effect, where there is one.
    """

    kind: Kind
    mean: float
    sd: float
    share: float
    alpha: float
    power: float


class Sizes(Frozen):
    """Entities of each arm."""

    control: int
    treatment: int


class Estimate(Frozen):
    """Treatment minus control in the unit of the metric, with the bounds of its interval."""

    effect: float
    low: float
    high: float


def needed(question: Question, effect: float) -> Sizes:
    """The entities that each arm needs to show an effect of this size, in either direction.

    :param effect: in the unit of the metric, above 0.
    :raises ValueError: if no number of entities shows it, for instance a rate that would rise above 1.
    """
    share = question.share
    total = _least(lambda n: power_of(question, effect, n * (1 - share), n * share) >= question.power, 4)
    if total is None:
        raise ValueError(f"no number of entities shows a difference of {effect:g} from {question.mean:g}")
    return Sizes(control=max(2, math.ceil(total * (1 - share))), treatment=max(2, math.ceil(total * share)))


def total_for(sizes: Sizes, share: float) -> int:
    """The entities that have to come so that chance gives both arms what they need, in 999 of 1,000 tests."""

    def enough(total: int) -> bool:
        got = assured(total, share)
        return got.control >= sizes.control and got.treatment >= sizes.treatment

    found = _least(enough, sizes.control + sizes.treatment)
    assert found is not None
    return found


def assured(total: int, share: float) -> Sizes:
    """What both arms get at least of so many entities, in 999 of 1,000 tests: quantiles of the binomial distribution."""
    from scipy import stats

    low, high = (int(stats.binom.ppf(q, total, share)) for q in (_SHORT / 2, 1 - _SHORT / 2))
    return Sizes(control=max(total - high, 0), treatment=max(low, 0))


def detectable(question: Question, sizes: Sizes) -> float | None:
    """The smallest effect that arms of these sizes show with the power asked for; None if they show none at all."""
    if min(sizes.control, sizes.treatment) < 2:
        return None
    scale = question.sd if question.kind == "mean" else max(question.mean, 1 - question.mean)
    low, high = 0.0, scale
    while not _shows(question, high, sizes):
        low, high = high, 2 * high
        if question.kind == "proportion" or high > 1e6 * scale:
            return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _shows(question, middle, sizes) else (middle, high)
    return high


def _shows(question: Question, effect: float, sizes: Sizes) -> bool:
    return power_of(question, effect, sizes.control, sizes.treatment) >= question.power


def power_of(question: Question, effect: float, control: float, treatment: float) -> float:
    """The chance that arms of these sizes show an effect.

    Of a mean by the noncentral t distribution (Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", chapter
    2); of a proportion by the normal approximation (Fleiss, Levin and Paik 2003, "Statistical Methods for Rates and
    Proportions", chapter 4, without continuity correction), where the less favourable direction counts.

    :param effect: in the unit of the metric, above 0.
    :param control: entities; need not be whole.
    :param treatment: likewise.
    """
    if question.kind == "mean":
        return _power_of_mean(effect / question.sd, control, treatment, question.alpha)
    rates = [rate for rate in (question.mean - effect, question.mean + effect) if 0 <= rate <= 1]
    return min((_power_of_rates(question.mean, rate, control, treatment, question.alpha) for rate in rates), default=0)


def _power_of_mean(effect: float, control: float, treatment: float, alpha: float) -> float:
    from scipy import stats

    freedom = control + treatment - 2
    if min(control, treatment) <= 1:
        return 0.0
    distance = effect / math.sqrt(1 / control + 1 / treatment)
    cut = stats.t.ppf(1 - alpha / 2, freedom)
    if distance > cut + 10:
        return 1.0
    # From so many on the two distributions agree in more digits than are of use, and the noncentral one is slow.
    far = stats.norm.sf(cut - distance) if freedom > 1e5 else stats.nct.sf(cut, freedom, distance)
    return float(far)


def _power_of_rates(first: float, second: float, control: float, treatment: float, alpha: float) -> float:
    from scipy import stats

    pooled = (control * first + treatment * second) / (control + treatment)
    null = math.sqrt(pooled * (1 - pooled) * (1 / control + 1 / treatment))
    alternative = math.sqrt(first * (1 - first) / control + second * (1 - second) / treatment)
    return float(stats.norm.sf((stats.norm.isf(alpha / 2) * null - abs(second - first)) / alternative))


def _least(holds: Callable[[int], bool], begin: int) -> int | None:
    """The least whole number, from `begin` on, for which something holds that goes on holding; None if there is none."""
    if holds(begin):
        return begin
    low, high = begin, 2 * begin
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def welch(means: Any, variances: Any, sizes: Any, alpha: float) -> tuple[Any, Any, Any]:
    """Difference of two means and its interval at 1 - alpha, where the variances may differ (Welch 1947, Biometrika 34).

    :param means: of control and treatment, numbers or arrays; `variances` (with n - 1) and `sizes` likewise.
    :returns: treatment minus control, low, high.
    """
    from scipy import special

    parts = [variance / size for variance, size in zip(variances, sizes, strict=True)]
    error = (parts[0] + parts[1]) ** 0.5
    freedom = error**4 / (parts[0] ** 2 / (sizes[0] - 1) + parts[1] ** 2 / (sizes[1] - 1))
    reach = special.stdtrit(freedom, 1 - alpha / 2) * error
    effect = means[1] - means[0]
    return effect, effect - reach, effect + reach


def newcombe(rates: Any, sizes: Any, alpha: float) -> tuple[Any, Any, Any]:
    """Difference of two proportions and its interval at 1 - alpha from their Wilson intervals.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17, method
    10. It stays between -1 and 1, and works where an arm has no event at all.

    :param rates: of control and treatment, numbers or arrays; `sizes` likewise.
    :returns: treatment minus control, low, high.
    """
    (low, high), (below, above) = (wilson(rate, size, alpha) for rate, size in zip(rates, sizes, strict=True))
    effect = rates[1] - rates[0]
    down = ((rates[1] - below) ** 2 + (high - rates[0]) ** 2) ** 0.5
    up = ((above - rates[1]) ** 2 + (rates[0] - low) ** 2) ** 0.5
    return effect, effect - down, effect + up


def wilson(rate: Any, size: Any, alpha: float) -> tuple[Any, Any]:
    """Bounds of a proportion at 1 - alpha (Wilson 1927, Journal of the American Statistical Association 22)."""
    from scipy import special

    z = float(special.ndtri(1 - alpha / 2))
    middle = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z / (1 + z**2 / size) * (rate * (1 - rate) / size + z**2 / (4 * size**2)) ** 0.5
    return middle - reach, middle + reach


def ratio_p(sizes: Sizes, share: float) -> float:
    """How likely arms as uneven as these are by chance: the p value of a chi-square test with one degree of freedom.

    A sample ratio mismatch says that entities went missing from one arm, and that nothing can be compared (Fabijan et al. 2019,
    "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD).
    """
    from scipy import stats

    total = sizes.control + sizes.treatment
    expected = (total * (1 - share), total * share)
    return float(stats.chisquare((sizes.control, sizes.treatment), expected).pvalue)
