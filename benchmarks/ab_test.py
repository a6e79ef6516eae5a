"""How often A/B tests err and find, as the provider plans and judges them, and what looking every day does to that.

    python -m benchmarks.ab_test [tests]

Simulated tests with a fixed seed. Each has the entities that the design asks for and is judged by the provider's own interval.
"Peeking" is the share of tests without any difference that show one on at least one of 14 days, looked at each day.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mlops_provider.steps.release.ab_statistics import Question, Sizes, needed, newcombe, welch

TESTS = 20_000
DAYS = 14
SEED = 20_261_122
QUESTIONS = (
    (Question(kind="mean", mean=20, sd=10, share=0.5, alpha=0.05, power=0.8), 1.0),
    (Question(kind="mean", mean=20, sd=10, share=0.1, alpha=0.05, power=0.9), 2.0),
    (Question(kind="proportion", mean=0.1, sd=0.3, share=0.5, alpha=0.05, power=0.8), 0.01),
    (Question(kind="proportion", mean=0.03, sd=0.17, share=0.2, alpha=0.05, power=0.9), 0.01),
)


def days(rng: Any, question: Question, sizes: Sizes, effect: float, tests: int) -> list[Any]:
    """For each arm: running size, mean and variance after each day, [DAYS, tests]."""
    arms = []
    for size, shift in ((sizes.control, 0.0), (sizes.treatment, effect)):
        each = np.diff(np.linspace(0, size, DAYS + 1).round()).astype(int)[:, None]
        if question.kind == "proportion":
            total = rng.binomial(each, question.mean + shift, (DAYS, tests)).cumsum(0)
            mean = total / each.cumsum(0)
            arms.append((each.cumsum(0), mean, mean * (1 - mean)))
            continue
        means = question.mean + shift + rng.normal(size=(DAYS, tests)) * question.sd / np.sqrt(each)
        within = question.sd**2 * rng.chisquare(np.maximum(each - 1, 1), (DAYS, tests))
        count = each.cumsum(0)
        mean = (means * each).cumsum(0) / count
        squares = within.cumsum(0) + (means**2 * each).cumsum(0) - count * mean**2
        arms.append((count, mean, squares / (count - 1)))
    return arms


def shown(question: Question, arms: list[Any]) -> Any:
    """Whether a difference is shown after each day, bool [DAYS, tests]."""
    sizes, means, variances = zip(*arms, strict=True)
    if question.kind == "proportion":
        _, low, high = newcombe(means, sizes, question.alpha)
    else:
        _, low, high = welch(means, variances, sizes, question.alpha)
    return (low > 0) | (high < 0)


def main(tests: int) -> None:
    rng = np.random.default_rng(SEED)
    print(f"{tests:,} tests a row, seed {SEED}")
    print(
        "| metric | effect | share | entities | false positives | asked | found | asked | peeking |\n"
        + "|---" * 9
        + "|"
    )
    for question, effect in QUESTIONS:
        sizes = needed(question, effect)
        none = shown(question, days(rng, question, sizes, 0.0, tests))
        some = shown(question, days(rng, question, sizes, effect, tests))
        what = f"mean {question.mean:g}, sd {question.sd:g}" if question.kind == "mean" else f"rate {question.mean:g}"
        total = sizes.control + sizes.treatment
        print(
            f"| {what} | {effect:g} | {question.share:g} | {total:,} | {none[-1].mean():.2%} | {question.alpha:.0%} "
            f"| {some[-1].mean():.1%} | {question.power:.0%} | {none.any(0).mean():.1%} |"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TESTS)
