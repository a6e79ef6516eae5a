"""A suite file is read strictly: whatever could pass without having checked anything is refused when it is read."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
import yaml

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data import gx_engine
from mlops_provider.steps.data.suite import Expectation, Suite, load

NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "a"}}

PARTITION = {"bins": [0, 1, 2], "weights": [0.5, 0.5]}


def quantiles(asked: list[float], ranges: list[Any], column: str = "a") -> dict[str, Any]:
    return {"column": column, "quantile_ranges": {"quantiles": asked, "value_ranges": ranges}}


def read(*expectations: Any, **changes: Any) -> tuple[Expectation, ...]:
    content = {"name": "suite", "expectations": list(expectations), **changes}
    return load(json.dumps(content).encode(), "suite.json").expectations


def test_a_suite_as_great_expectations_writes_it_is_read() -> None:
    import great_expectations as gx
    from great_expectations import expectations as gxe

    gx.get_context(mode="ephemeral")
    made = gx.ExpectationSuite(name="made", meta={"by": "a person"}, notes="why")
    made.add_expectation(gxe.ExpectColumnValuesToNotBeNull(column="a", severity="warning", notes="the key"))
    made.add_expectation(gxe.ExpectColumnValuesToBeBetween(column="b", min_value=0, mostly=0.9))
    for text in (json.dumps(made.to_json_dict()), yaml.safe_dump(made.to_json_dict())):
        found = load(text.encode(), "made").expectations
        assert [(e.type, e.severity) for e in found] == [
            ("expect_column_values_to_not_be_null", "warning"),
            ("expect_column_values_to_be_between", "critical"),
        ]
        assert found[1].kwargs == {"column": "b", "min_value": 0, "mostly": 0.9}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"type": "expect_x", "kwarg": {}}, "unknown key: kwarg"),
        ({**NOT_NULL, "severty": "warning"}, "unknown key: severty"),
        ({**NOT_NULL, "severity": "blocker"}, "severity 'blocker'"),
        ({"kwargs": {}}, "must have a type"),
        ({"type": "expect_x", "kwargs": [1]}, "kwargs must be a mapping"),
        ("expect_x", "must have a type"),
    ],
)
def test_an_expectation_that_is_not_whole_is_refused_with_its_place(item: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"suite\.json, expectation 2.*{told}"):
        read(NOT_NULL, item)


def test_a_suite_of_an_old_version_is_named_as_such() -> None:
    with pytest.raises(ConfigError, match="before 1.0"):
        load(b'{"expectation_suite_name": "old", "expectations": []}', "suite.json")


@pytest.mark.parametrize(
    ("kwargs", "columns"),
    [
        ({"column": "a"}, {"a"}),
        ({"column_A": "a", "column_B": "c"}, {"a", "c"}),
        ({"column_list": ["b", "c"]}, {"b", "c"}),
        ({"column": "a", "row_condition": 'col("b") > 1'}, {"a", "b"}),
        ({"unexpected_rows_query": "..."}, {"a", "b", "c"}),
    ],
)
def test_only_the_columns_that_an_expectation_needs_are_named(kwargs: dict[str, Any], columns: set[str]) -> None:
    (found,) = read({"type": "expect_something", "kwargs": kwargs})
    assert set(found.reads(["a", "b", "c"])) >= columns
    assert set(found.reads(["a", "b", "c"])) <= columns | {"c"}


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("column_mean_to_be_between", {"column": "a"}),
        ("column_mean_to_be_between", {"column": "a", "min_value": None, "strict_min": True}),
        ("table_row_count_to_be_between", {}),
        ("column_values_to_match_regex", {"column": "a"}),
        ("column_values_to_match_regex", {"column": "a", "regex": ""}),
        ("column_values_to_be_in_type_list", {"column": "a"}),
        ("column_values_to_not_be_in_set", {"column": "a", "value_set": []}),
        ("column_distinct_values_to_contain_set", {"column": "a", "value_set": []}),
        ("table_columns_to_match_ordered_list", {"column_list": None}),
        ("table_columns_to_match_set", {"column_set": []}),
        ("column_kl_divergence_to_be_less_than", {"column": "a", "threshold": 0.1}),
        ("column_kl_divergence_to_be_less_than", {"column": "a", "partition_object": PARTITION}),
        ("column_kl_divergence_to_be_less_than", {"column": "a", "partition_object": PARTITION, "max_value": 0}),
        ("column_quantile_values_to_be_between", quantiles([], [])),
        ("column_quantile_values_to_be_between", quantiles([0.5], [])),
        ("column_quantile_values_to_be_between", quantiles([0.5], [[None, None]])),
        ("column_quantile_values_to_be_between", quantiles([0.5], [[-math.inf, math.inf]])),
    ],
)
def test_an_expectation_that_says_nothing_is_refused(kind: str, kwargs: dict[str, Any]) -> None:
    """Great Expectations lets most of them pass."""
    with pytest.raises(ConfigError, match=f"{kind}.*lacks .*: it would accept anything"):
        read({"type": f"expect_{kind}", "kwargs": kwargs})


MATCH_ALL = (
    "a*", "(x|)", "^.{0,}", "$", "^.*", ".*$", "a?", "$|x", "(?i)[a-z]{0,5}", "(?x) a* # none", "a*?", "(?m)a*$", r"\d*\Z",
    r"^(.|\n)*$",
)  # fmt: skip
MATCH_NONE = ("(?!)", r"[^\s\S]", "a^", "$a", "$.", ".^")

NEVER = [
    ("column_values_to_be_between", {"column": "n", "min_value": -math.inf}),
    ("column_mean_to_be_between", {"column": "n", "min_value": -math.inf, "max_value": math.inf}),
    ("column_value_lengths_to_be_between", {"column": "t", "min_value": 0}),
    ("column_unique_value_count_to_be_between", {"column": "t", "min_value": -1, "strict_min": True}),
    ("column_proportion_of_unique_values_to_be_between", {"column": "t", "min_value": 0, "max_value": 1}),
    ("column_proportion_of_non_null_values_to_be_between", {"column": "t", "max_value": 1.0}),
    ("table_row_count_to_be_between", {"min_value": 0}),
    ("table_column_count_to_be_between", {"min_value": 0}),
    ("column_kl_divergence_to_be_less_than", {"column": "n", "partition_object": PARTITION, "threshold": math.inf}),
    ("column_value_z_scores_to_be_less_than", {"column": "n", "threshold": math.inf, "double_sided": True}),
    ("column_values_to_not_be_outliers", {"column": "n", "method": "iqr", "multiplier": math.inf}),
    ("column_pair_values_to_be_equal", {"column_A": "n", "column_B": "n"}),
    ("column_pair_values_a_to_be_greater_than_b", {"column_A": "n", "column_B": "n", "or_equal": True}),
    ("multicolumn_values_to_be_equal", {"column_list": ["n", "n"]}),
    ("column_values_to_match_regex", {"column": "t", "regex": ".*"}),
    ("column_values_to_match_regex", {"column": "t", "regex": "(?s).*"}),
    *(("column_values_to_match_regex", {"column": "t", "regex": regex}) for regex in MATCH_ALL),
    *(("column_values_to_not_match_regex", {"column": "t", "regex": regex}) for regex in MATCH_NONE),
    ("column_values_to_not_match_regex_list", {"column": "t", "regex_list": list(MATCH_NONE)}),
    ("table_column_count_to_be_between", {"min_value": 1}),
    ("column_values_to_match_regex_list", {"column": "t", "regex_list": ["x", ""]}),
    ("column_values_to_match_regex_list", {"column": "t", "regex_list": ["^", ""], "match_on": "all"}),
]


@pytest.mark.parametrize(("kind", "kwargs"), NEVER)
def test_an_expectation_that_can_never_fail_is_refused(kind: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"expectation 1 \(expect_{kind}\) .*: it would accept anything"):
        read({"type": f"expect_{kind}", "kwargs": kwargs})


@pytest.mark.parametrize(
    "regex", ["^$", "^a*$", "^.{0,100}$", "^.*$", "(?m)^$", "(?!a)", "^(?!test_)", r"\b", "^(?=.*x)", r"^\w*\Z", "x|^$", "a*b", "["]
)  # fmt: skip
def test_a_pattern_that_some_text_lacks_is_none_of_them(regex: str) -> None:
    (found,) = read({"type": "expect_column_values_to_match_regex", "kwargs": {"column": "t", "regex": regex}})
    assert found.kwargs["regex"] == regex


@pytest.mark.parametrize("letters", [["a", "zz", "{", "\n", ""], ["", "", "", "", "x\ny"]])
def test_great_expectations_lets_all_of_these_pass(letters: list[str]) -> None:
    frame = pd.DataFrame({"n": [1.0, 1.0, 0.5, 100.0, -7.0], "t": letters})
    asked = tuple(
        Expectation(place, f"expect_{kind}", kwargs, "critical") for place, (kind, kwargs) in enumerate(NEVER)
    )
    stored = gx_engine.loaded(Suite("never", "here", asked), asked)
    results = gx_engine.results(stored, frame)
    assert len(results) == len(NEVER)
    assert [r.expectation_config for r in results if not gx_engine.told(r).passed] == []


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("column_value_lengths_to_be_between", {"column": "t", "min_value": 0, "strict_min": True}),
        ("column_values_to_be_between", {"column": "n", "min_value": 0}),
        ("column_values_to_be_between", {"column": "n", "max_value": "2024-01-01T00:00:00"}),
        ("column_values_to_be_between", {"column": "n", "min_value": {"$PARAMETER": "low"}}),
        ("column_proportion_of_unique_values_to_be_between", {"column": "t", "max_value": 1, "strict_max": True}),
        ("column_proportion_of_unique_values_to_be_between", {"column": "t", "min_value": 1}),
        ("column_stdev_to_be_between", {"column": "n", "min_value": 0}),  # one value has none
        ("table_row_count_to_be_between", {"min_value": 1}),
        ("column_quantile_values_to_be_between", quantiles([0.1, 0.9], [[None, None], [None, 5]], "n")),
        ("column_kl_divergence_to_be_less_than", {"column": "n", "partition_object": PARTITION, "threshold": 0}),
        ("column_pair_values_a_to_be_greater_than_b", {"column_A": "n", "column_B": "n"}),
        ("column_values_to_match_regex", {"column": "t", "regex": "^.*$"}),  # a text of two lines
        ("column_values_to_match_regex_list", {"column": "t", "regex_list": ["x", ""], "match_on": "all"}),
        ("column_values_to_not_match_regex", {"column": "t", "regex": ".*"}),
    ],
)
def test_what_can_fail_is_taken(kind: str, kwargs: dict[str, Any]) -> None:
    assert read({"type": f"expect_{kind}", "kwargs": kwargs})[0].kwargs == kwargs


def test_a_bound_of_zero_is_a_bound() -> None:
    (found,) = read({"type": "expect_column_mean_to_be_between", "kwargs": {"column": "a", "max_value": 0}})
    assert found.kwargs == {"column": "a", "max_value": 0}
