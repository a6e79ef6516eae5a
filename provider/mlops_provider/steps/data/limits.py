"""Expectations that can never fail: what Great Expectations takes for success where nothing is expected.

Each of these was tried: the library evaluates it, and it passes on any data. What the library itself refuses, or reports as
an error, needs no rule here.
"""

from __future__ import annotations

import math
import re
from typing import Any

# Arguments without which it lets anything pass, each of them.
_NEEDED = {
    "expect_column_values_to_match_regex": ("regex",),
    "expect_column_values_to_not_match_regex": ("regex",),
    "expect_column_values_to_be_in_type_list": ("type_list",),
    "expect_column_values_to_not_be_in_set": ("value_set",),
    "expect_column_distinct_values_to_contain_set": ("value_set",),
    "expect_column_kl_divergence_to_be_less_than": ("threshold", "partition_object"),
    "expect_table_columns_to_match_ordered_list": ("column_list",),
    "expect_table_columns_to_match_set": ("column_set",),
}
# Numbers that lie between these whatever the data is.
_NATURAL = {
    "expect_column_value_lengths_to_be_between": (0.0, math.inf),
    "expect_column_unique_value_count_to_be_between": (0.0, math.inf),
    "expect_column_proportion_of_non_null_values_to_be_between": (0.0, 1.0),
    "expect_column_proportion_of_unique_values_to_be_between": (0.0, 1.0),
    "expect_table_row_count_to_be_between": (0.0, math.inf),
    "expect_table_column_count_to_be_between": (1.0, math.inf),
}
_UPPER = {
    "expect_column_kl_divergence_to_be_less_than": "threshold",
    "expect_column_value_z_scores_to_be_less_than": "threshold",
    "expect_column_values_to_not_be_outliers": "multiplier",
}
# Patterns with an anchor at both ends that match everything all the same, and those that match nothing: the usual ways to
# write it, as neither is decided in general.
_ANYTHING = ("(?s)^.*$", r"^[\s\S]*$", r"^(.|\n)*$")
_NOTHING = ("(?!)", r"[^\s\S]", r"[^\S\s]", r"[^\w\W]", r"[^\d\D]", "a^", "$a", "$.", ".^")
# What looks around may find nothing in one text and something in another.
_LOOKS = re.compile(r"\(\?(?:[=!(]|<[=!])|\\[bB]")
_FLAGS = re.compile(r"(?:\(\?[aiLmsux]+\))*")
_TEXTS = ("ab\ncd", "01", " \t", "\ue000\ue000")


def accepts_anything(kind: str, kwargs: dict[str, Any]) -> str:
    """What is amiss with an expectation that can never fail; empty if it can.

    :param kind: type of the expectation.
    :param kwargs: its arguments without those that are null.
    """
    if lacking := [name for name in _NEEDED.get(kind, ()) if kwargs.get(name) in (None, [], {}, "")]:
        return f"lacks {' and '.join(lacking)}"
    if kwargs.get("mostly") == 0:
        return "has mostly 0"
    if (name := _UPPER.get(kind)) and kwargs.get(name) == math.inf:
        return f"has {name} infinite"
    if kind == "expect_column_quantile_values_to_be_between":
        return _quantiles(kwargs.get("quantile_ranges"))
    if kind.endswith("_to_be_between"):
        return _bounds(kind, kwargs)
    return _same_column(kind, kwargs) or _patterns(kind, kwargs)


def _bounds(kind: str, kwargs: dict[str, Any]) -> str:
    if "min_value" not in kwargs and "max_value" not in kwargs:
        return "lacks min_value and max_value"
    floor, ceiling = _NATURAL.get(kind, (-math.inf, math.inf))
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    below = low is None or (_is_number(low) and (low < floor or (low == floor and not kwargs.get("strict_min"))))
    above = high is None or (
        _is_number(high) and (high > ceiling or (high == ceiling and not kwargs.get("strict_max")))
    )
    return f"has bounds that nothing crosses: {low} and {high}" if below and above else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quantiles(ranges: Any) -> str:
    """Of what has another form the library says itself what is wrong."""
    if not isinstance(ranges, dict) or not isinstance(ranges.get("value_ranges", []), list):
        return ""
    pairs = [pair for pair in ranges.get("value_ranges", []) if isinstance(pair, list)]
    bounded = any(bound is not None and bound not in (-math.inf, math.inf) for pair in pairs for bound in pair)
    return "" if bounded else "lacks a bound in quantile_ranges.value_ranges"


def _same_column(kind: str, kwargs: dict[str, Any]) -> str:
    """A column is always equal to itself."""
    pair = kwargs.get("column_A") is not None and kwargs.get("column_A") == kwargs.get("column_B")
    listed = kwargs.get("column_list")
    alike = isinstance(listed, list) and len(listed) > 0 and all(name == listed[0] for name in listed)
    if (
        (pair and kind == "expect_column_pair_values_to_be_equal")
        or (pair and kind == "expect_column_pair_values_a_to_be_greater_than_b" and kwargs.get("or_equal"))
        or (alike and kind == "expect_multicolumn_values_to_be_equal")
    ):
        return "compares a column with itself"
    return ""


def _patterns(kind: str, kwargs: dict[str, Any]) -> str:
    if kind == "expect_column_values_to_match_regex" and _matches_all(kwargs.get("regex")):
        return f"has the regex {kwargs['regex']!r}, which matches every text"
    if kind == "expect_column_values_to_not_match_regex" and kwargs.get("regex") in _NOTHING:
        return f"has the regex {kwargs['regex']!r}, which matches no text"
    listed = kwargs.get("regex_list")
    if not isinstance(listed, list) or not listed:
        return ""
    if kind == "expect_column_values_to_not_match_regex_list" and all(item in _NOTHING for item in listed):
        return "has a regex_list that matches no text"
    enough = all if kwargs.get("match_on") == "all" else any
    matching = kind == "expect_column_values_to_match_regex_list" and enough(_matches_all(item) for item in listed)
    return "has a regex_list that matches every text" if matching else ""


def _matches_all(pattern: Any) -> bool:
    """Whether a search always finds it: where it matches nothing at all at the beginning, or at the end, of a text that is
    not empty, it does so in every text. What looks at its surroundings is not decided."""
    if not isinstance(pattern, str) or pattern in _ANYTHING or _LOOKS.search(pattern):
        return pattern in _ANYTHING
    flags = _FLAGS.match(pattern)[0]  # type: ignore[index]
    rest = pattern[len(flags) :]
    try:
        empty = [re.compile(f"{flags}(?:{rest}\n)\\A" if "x" in flags else f"{flags}(?:{rest})\\A")]
        empty.append(re.compile(f"{flags}\\Z(?:{rest}\n)" if "x" in flags else f"{flags}\\Z(?:{rest})"))
    except re.error:
        return False
    return any(all(found.search(text) for text in _TEXTS) for found in empty)
