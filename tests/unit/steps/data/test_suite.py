"""A suite file is read strictly: whatever could pass without having checked anything is refused when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from mlops_provider.exceptions import ConfigError
from mlops_provider.steps.data.suite import Expectation, load

NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "a"}}


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
    ],
)
def test_an_expectation_that_says_nothing_is_refused(kind: str, kwargs: dict[str, Any]) -> None:
    """Great Expectations lets most of them pass."""
    with pytest.raises(ConfigError, match="lacks .*: it would accept anything"):
        read({"type": f"expect_{kind}", "kwargs": kwargs})


def test_a_bound_of_zero_is_a_bound() -> None:
    (found,) = read({"type": "expect_column_mean_to_be_between", "kwargs": {"column": "a", "max_value": 0}})
    assert found.kwargs == {"column": "a", "max_value": 0}
