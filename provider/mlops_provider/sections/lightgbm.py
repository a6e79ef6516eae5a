"""What LightGBM takes for its training parameters: it tells only once it trains, and then not in which file."""

from __future__ import annotations

import math
from typing import NamedTuple

_LARGEST = 2**31 - 1


class Range(NamedTuple):
    """The numbers that a parameter may be.

    :param whole: whether it must be a whole number.
    :param above: it must be more than `low`, which is itself not possible.
    """

    whole: bool
    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        within = self.low < value if self.above else self.low <= value
        return math.isfinite(value) and within and value <= self.high

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f" {'above' if self.above else 'from'} {self.low:.10g}"
        high = "" if self.high == math.inf else f" {'up ' if low else ' up '}to {self.high:.10g}"
        return f"a {'whole ' if self.whole else ''}number{low}{high}"


_ANY_WHOLE = Range(True, -_LARGEST, _LARGEST)
_SEED = Range(True, 0, _LARGEST)
_COUNT = Range(True, 0, _LARGEST)
_FROM_ZERO = Range(False, 0)
_ABOVE_ZERO = Range(False, 0, above=True)
_FRACTION = Range(False, 0, 1, above=True)

RANGES: dict[str, Range] = {
    "learning_rate": _ABOVE_ZERO,
    "num_leaves": Range(True, 2, 131_072),
    "max_depth": _ANY_WHOLE,
    "min_data_in_leaf": _COUNT,
    "min_sum_hessian_in_leaf": _FROM_ZERO,
    "bagging_fraction": _FRACTION,
    "pos_bagging_fraction": _FRACTION,
    "neg_bagging_fraction": _FRACTION,
    "bagging_freq": _COUNT,
    "bagging_seed": _SEED,
    "feature_fraction": _FRACTION,
    "feature_fraction_bynode": _FRACTION,
    "feature_fraction_seed": _SEED,
    "extra_seed": _SEED,
    "max_delta_step": Range(False),
    "lambda_l1": _FROM_ZERO,
    "lambda_l2": _FROM_ZERO,
    "min_gain_to_split": _FROM_ZERO,
    "path_smooth": _FROM_ZERO,
    "max_bin": Range(True, 2, _LARGEST),
    "min_data_in_bin": Range(True, 1, _LARGEST),
    "bin_construct_sample_cnt": Range(True, 1, _LARGEST),
    "data_random_seed": _SEED,
    "scale_pos_weight": _ABOVE_ZERO,
    "cat_l2": _FROM_ZERO,
    "cat_smooth": _FROM_ZERO,
    "max_cat_threshold": Range(True, 1, _LARGEST),
    "max_cat_to_onehot": Range(True, 1, _LARGEST),
    "min_data_per_group": Range(True, 1, _LARGEST),
    "sigmoid": _ABOVE_ZERO,
    "lambdarank_truncation_level": Range(True, 1, _LARGEST),
}


def amiss(params: dict[str, int | float | bool | str]) -> list[str]:
    """What is wrong with the values of known parameters, one line each; a name without a range is a switch."""
    found = []
    for name, value in params.items():
        wanted = RANGES.get(name)
        fits = isinstance(value, bool) if wanted is None else wanted.holds(value)
        if not fits:
            found.append(f"{name} must be {wanted or 'true or false'}, found {value!r}")
    return found
