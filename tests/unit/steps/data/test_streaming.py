"""Great Expectations is the oracle: what streams has its verdict, its observed value and its counts, on any data."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlops_provider.steps.data import batches, gx_engine, streamed_columns, streamed_rows, streaming
from mlops_provider.steps.data.batches import Found
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.judge import judge
from mlops_provider.steps.data.limits import accepts_anything
from mlops_provider.steps.data.suite import Expectation, Suite, load
from mlops_provider.storage import Storage

WHOLE = st.integers(-4, 4) | st.sampled_from([10**6, -(10**9), 2**40])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, -1.25, 3.0, 1e-3, 1e9, math.nan]) | st.floats(-4, 4, width=32)
WILD = FLOATS | st.sampled_from([math.inf, -math.inf])
# Numbers that float32 holds as others, so that it matters in which precision they meet a bound.
ROUNDED = [0.1, 0.3, 0.7, 0.9, 16777217.0]
TEXT = st.sampled_from(["", "a", "b", "A1", "é", "a\n", "٣", "AB-12", "naïve text", "\U0001f600\U0001f600"])
MOMENTS = st.datetimes(dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 3)) | st.just(dt.datetime(2013, 1, 2))
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "whole": (pa.int64(), WHOLE),
    "small": (pa.int16(), st.integers(-4, 4)),
    "float": (pa.float64(), FLOATS),
    "wild": (pa.float64(), WILD),
    "single": (pa.float32(), FLOATS | st.sampled_from(ROUNDED)),
    "text": (pa.string(), TEXT),
    "zoned": (pa.timestamp("us", "UTC"), MOMENTS),
    "nanos": (pa.timestamp("ns"), MOMENTS),
    "flag": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), MOMENTS.map(lambda moment: moment.date())),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A few values a column, up to twelve, each of them in any number of rows: rows cost the oracle nothing."""
    rows = draw(st.sampled_from([1, 2, 3, 5, 12, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = {}
    for name, (kind, values) in KINDS.items():
        item = draw(st.sampled_from([values, values | st.none(), st.none()]), label=name)
        found = draw(st.lists(item, min_size=1, max_size=12))
        columns[name] = pa.array([found[place] for place in rng.integers(len(found), size=rows)], kind)
    return pa.table(columns)


BOUNDS = st.sampled_from([-5, -1, 0, 1, 3, 0.5, -1.25, 1e6, *ROUNDED])
TIMES = st.sampled_from(["2013-01-01T00:00:00", "2013-01-02T00:00:00", "2013-01-02T12:30:00.5"])
PATTERNS = st.sampled_from([
    "a", "^a$", "^[A-Z]{2}-", r"^[A-Z]{2}-\d+$", r"\d", r"\w$", "^$", "b|^a", "^(a|b)$", r"\s", ".", "^.$", "(?i)A", "a{0,1}$", "é",
    r"A\d?$", "[^a]", "^.{2}$", r"^\S+\Z", "a.b", r"\n", "[a-z]+", r"\-",
])  # fmt: skip


@st.composite
def bounds(draw: st.DrawFn, values: st.SearchStrategy[Any] = BOUNDS) -> dict[str, Any]:
    found: dict[str, Any] = {}
    low, high = sorted([draw(values), draw(values)])
    which = draw(st.sampled_from(["both", "min", "max"]))
    if which != "max":
        found |= {"min_value": low}
    if which != "min":
        found |= {"max_value": high}
    return found | draw(st.sampled_from([{}, {"strict_min": True}, {"strict_max": True}, {"strict_min": False}]))


@st.composite
def expectations(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def add(kind: str, **kwargs: Any) -> None:
        if ("values_" in kind or "lengths" in kind) and draw(st.booleans()):
            kwargs["mostly"] = draw(st.sampled_from([0.01, 0.5, 0.9, 1]))
        found.append({"type": f"expect_{kind}", "kwargs": kwargs})

    for column in KINDS:
        add("column_values_to_not_be_null", column=column)
        add("column_values_to_be_null", column=column)
        add("column_values_to_be_unique", column=column)
    for column in ("whole", "small", "float", "wild", "single"):
        add("column_values_to_be_between", column=column, **draw(bounds()))
        members = draw(st.lists(st.sampled_from([0, 1, -1, 3, 0.5, 1e6, -1.25, *ROUNDED]), min_size=1, max_size=3))
        add("column_values_to_be_in_set", column=column, value_set=members)
        add("column_values_to_not_be_in_set", column=column, value_set=members)
        add("column_min_to_be_between", column=column, **draw(bounds()))
        add("column_max_to_be_between", column=column, **draw(bounds()))
    for column in ("whole", "small", "float", "wild"):
        for what in ("mean", "sum", "stdev", "median"):
            found.append({
                "type": f"expect_column_{what}_to_be_between",
                "kwargs": {"column": column, **draw(bounds())},
            })
    for column in ("whole", "float", "text", "zoned", "date"):
        share = {"column": column, **draw(bounds(st.sampled_from([0, 0.25, 0.5, 1])))}
        found.append({"type": "expect_column_proportion_of_non_null_values_to_be_between", "kwargs": share})
        found.append({"type": "expect_column_proportion_of_unique_values_to_be_between", "kwargs": share})
        count = {"column": column, **draw(bounds(st.integers(0, 5)))}
        found.append({"type": "expect_column_unique_value_count_to_be_between", "kwargs": count})
    zoned = {k: v + "Z" if isinstance(v, str) else v for k, v in draw(bounds(TIMES)).items()}
    add("column_values_to_be_between", column="zoned", **zoned)
    add("column_values_to_be_between", column="nanos", **draw(bounds(TIMES)))
    for _ in range(3):
        add("column_values_to_match_regex", column="text", regex=draw(PATTERNS))
        add("column_values_to_not_match_regex", column="text", regex=draw(PATTERNS))
    texts = draw(st.lists(TEXT, min_size=1, max_size=3))
    add("column_values_to_be_in_set", column="text", value_set=texts)
    add("column_values_to_not_be_in_set", column="text", value_set=texts)
    add("column_value_lengths_to_be_between", column="text", **draw(bounds(st.integers(0, 5))))
    add("column_value_lengths_to_equal", column="text", value=draw(st.integers(0, 3)))
    whole = st.integers(0, 12)
    found.append({"type": "expect_table_row_count_to_be_between", "kwargs": draw(bounds(whole))})
    found.append({"type": "expect_table_row_count_to_equal", "kwargs": {"value": draw(whole)}})
    found.append({"type": "expect_table_column_count_to_be_between", "kwargs": {"min_value": draw(whole)}})
    found.append({"type": "expect_table_column_count_to_equal", "kwargs": {"value": len(KINDS)}})
    names = draw(st.permutations(list(KINDS)))[: draw(st.integers(1, len(KINDS)))]
    found.append({"type": "expect_table_columns_to_match_ordered_list", "kwargs": {"column_list": list(KINDS)}})
    found.append({"type": "expect_table_columns_to_match_ordered_list", "kwargs": {"column_list": names}})
    for extra in ({}, {"exact_match": False}, {"exact_match": True}):
        found.append({"type": "expect_table_columns_to_match_set", "kwargs": {"column_set": names, **extra}})
    found.append({"type": "expect_column_to_exist", "kwargs": {"column": draw(st.sampled_from(["whole", "absent"]))}})
    return [item for item in found if not accepts_anything(item["type"], item["kwargs"])]


def suite(*items: dict[str, Any]) -> Suite:
    return load(json.dumps({"name": "suite", "expectations": list(items)}).encode(), "suite.json")


def written(table: pa.Table, folder: Path, **options: Any) -> Dataset:
    pq.write_table(table, folder / "table.parquet", **options)
    return Dataset(Storage(), str(folder / "table.parquet"))


def same(ours: Found, result: Any, told: str) -> None:
    """Every number of ours is that of Great Expectations; sums may differ in the last bits, as the order of addition does."""
    outcome = result.result or {}
    assert not gx_engine._exception(result.exception_info), told
    assert ours.passed == result.success, (told, ours, outcome)
    if ours.count is None:
        theirs = outcome.get("observed_value")
        assert ours.observed == (pytest.approx(theirs, rel=1e-9) if isinstance(theirs, float) else theirs), told
        return
    assert (ours.rows, ours.count) == (outcome["element_count"], outcome["unexpected_count"]), told
    assert ours.percent == outcome["unexpected_percent"], told
    assert ours.missing == outcome.get("missing_count"), told


# What the oracle costs grows with the expectations, by some 10 ms each, and not with rows. So each example asks for one part
# of them, and there are as many more examples.
EXAMPLES, PARTS = 30, 4


@settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(table=tables(), items=expectations(), size=st.sampled_from([1, 3, 100]), part=st.integers(0, PARTS - 1))
def test_what_streams_agrees_with_great_expectations(
    table: pa.Table, items: list[dict[str, Any]], size: int, part: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = written(table, tmp_path_factory.mktemp("oracle"), row_group_size=size)
    against_the_oracle(suite(*items[part::PARTS]), table, dataset)


def against_the_oracle(asked: Suite, table: pa.Table, dataset: Dataset) -> None:
    ours = {e.place: streaming.streamed(e, dataset.schema) for e in asked.expectations}
    assert [
        asked.expectations[place] for place, streamed in ours.items() if streamed is None and _promised(asked, place)
    ] == []
    streaming.run([s for s in ours.values() if s], dataset, None)
    stored = gx_engine.loaded(asked, asked.expectations)
    theirs = gx_engine.results(stored, table.to_pandas(), result_format="BASIC")
    assert len(theirs) == len(asked.expectations)
    for result in theirs:
        place = result.expectation_config.meta["place"]
        if (streamed := ours[place]) is not None:
            same(streamed.found(), result, str(asked.expectations[place]))


def _promised(asked: Suite, place: int) -> bool:
    """What must stream, so that the comparison is not empty."""
    expectation = asked.expectations[place]
    return expectation.kwargs.get("column") not in ("flag",) and not (
        expectation.subject == "single" and any(w in expectation.type for w in ("mean", "sum", "stdev", "median"))
    )


def test_floats_of_single_precision_meet_bounds_as_in_great_expectations(tmp_path: Path) -> None:
    """The least and the largest do so in single precision, each row in double precision."""
    table = pa.table({"single": pa.array([0.9, None, 0.1, 0.7], pa.float32())})
    exact = [float(np.float32(value)) for value in (0.1, 0.7, 0.9)]
    items = []
    for what, values in (("column_min", [0.1, exact[0]]), ("column_max", [0.9, exact[2], 1])):
        for value, side in itertools.product(values, ("min", "max")):
            kwargs = {"column": "single", f"{side}_value": value}
            items += [
                {"type": f"expect_{what}_to_be_between", "kwargs": kwargs | {f"strict_{side}": strict}}
                for strict in (False, True)
            ]
    for kwargs in ({"min_value": 0.7}, {"max_value": 0.7}, {"min_value": exact[1]}, {"max_value": exact[1]}):
        items.append({"type": "expect_column_values_to_be_between", "kwargs": {"column": "single", **kwargs}})
    items += [
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "single", "value_set": found}}
        for found in ([0.1, 0.7, 0.9], exact)
    ]
    against_the_oracle(suite(*items), table, written(table, tmp_path))


@pytest.mark.parametrize("kind", ["column_values", "column_max"])
def test_integers_that_doubles_cannot_tell_apart_are_compared_exactly(kind: str, tmp_path: Path) -> None:
    """The one known difference that is not in the last bits: the documentation names it."""
    table = pa.table({"x": [2**53 + 1]})
    asked = suite({"type": f"expect_{kind}_to_be_between", "kwargs": {"column": "x", "max_value": 2**53}})
    (theirs,) = gx_engine.results(gx_engine.loaded(asked, asked.expectations), table.to_pandas())
    assert theirs.success
    assert judge(asked, written(table, tmp_path), key=None).checks[0].state == "fail"


# --- what does not stream ------------------------------------------------------------------------------------------

COLUMNS = pa.table({
    "whole": pa.array([1, 2, 3]),
    "huge": pa.array([1, 2, 3], pa.uint64()),
    "single": pa.array([1.0, 2.0, 3.0], pa.float32()),
    "half": pa.array([1.0, 2.0, 3.0], pa.float16()),
    "text": ["a", "b", "c"],
    "nanos": pa.array([1, 2, 3], pa.timestamp("ns")),
    "micros": pa.array([1, 2, 3], pa.timestamp("us")),
    "zoned": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
    "flag": [True, False, None],
    "coded": pa.array(["a", "b", "c"]).dictionary_encode(),
    "exact": pa.array([1, 2, 3]).cast(pa.decimal128(30, 2)),
})


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("column_values_to_be_between", {"column": "whole", "min_value": 1, "surprise": 1}),
        ("column_values_to_be_between", {"column": "whole", "min_value": 3, "max_value": 1}),
        ("column_values_to_be_between", {"column": "whole", "min_value": True}),
        ("column_values_to_be_between", {"column": "whole", "min_value": "1"}),
        ("column_values_to_be_between", {"column": "whole", "min_value": 2**60}),
        ("column_values_to_be_between", {"column": "whole", "min_value": {"$PARAMETER": "low"}}),
        ("column_values_to_be_between", {"column": "whole", "min_value": 1, "strict_min": "yes"}),
        ("column_values_to_be_between", {"column": "whole", "min_value": 1, "row_condition": 'col("whole") > 1'}),
        ("column_values_to_be_between", {"column": "huge", "min_value": 1}),
        ("column_values_to_be_between", {"column": "text", "min_value": "a"}),
        ("column_values_to_be_between", {"column": "exact", "min_value": 1}),
        ("column_values_to_be_between", {"column": "zoned", "min_value": "2013-01-01T00:00:00"}),
        ("column_values_to_be_between", {"column": "zoned", "min_value": "yesterday"}),
        ("column_values_to_be_between", {"column": "nanos", "min_value": "2013-01-01T00:00:00Z"}),
        ("column_values_to_be_between", {"column": "micros", "min_value": "2013-01-01T00:00:00"}),
        ("column_values_to_be_in_set", {"column": "whole", "value_set": [1, "a"]}),
        ("column_values_to_be_in_set", {"column": "whole", "value_set": [True]}),
        ("column_values_to_be_in_set", {"column": "text", "value_set": ["a", None]}),
        ("column_values_to_be_in_set", {"column": "text", "value_set": []}),
        ("column_values_to_be_in_set", {"column": "coded", "value_set": ["a"]}),
        ("column_values_to_not_be_null", {"column": "whole", "mostly": 2}),
        ("column_values_to_not_be_null", {"column": "whole", "mostly": True}),
        ("column_values_to_be_unique", {"column": "flag"}),
        ("column_values_to_match_regex", {"column": "whole", "regex": "1"}),
        ("column_values_to_match_regex", {"column": "text", "regex": "("}),
        ("column_mean_to_be_between", {"column": "single", "min_value": 1}),
        ("column_min_to_be_between", {"column": "half", "min_value": 1}),
        ("column_values_to_be_between", {"column": "half", "min_value": 1}),
        ("column_values_to_be_in_set", {"column": "half", "value_set": [1]}),
        ("column_values_to_be_unique", {"column": "half"}),
        ("column_median_to_be_between", {"column": "flag", "min_value": 1}),
        ("column_distinct_values_to_be_in_set", {"column": "text", "value_set": ["a"]}),
        ("column_to_exist", {"column": "whole", "column_index": 1}),
        ("table_row_count_to_be_between", {"min_value": 1.5}),
        ("table_row_count_to_equal", {"value": True}),
        ("table_columns_to_match_set", {"column_set": "whole"}),
        ("column_values_to_be_nul", {"column": "whole"}),
    ],
)
def test_what_is_not_known_exactly_is_left_to_great_expectations(kind: str, kwargs: dict[str, Any]) -> None:
    (expectation,) = suite({"type": f"expect_{kind}", "kwargs": kwargs}).expectations
    assert streaming.streamed(expectation, COLUMNS.schema) is None


def test_every_argument_that_streams_is_one_that_great_expectations_takes() -> None:
    from great_expectations.expectations import core

    known = streamed_rows._ARGUMENTS | dict.fromkeys(streamed_columns._NUMBERS, streamed_columns._BOUNDS)
    for kind, arguments in known.items():
        name = "".join(word.capitalize() for word in kind.split("_"))
        taken = set(getattr(core, name).__fields__)
        assert arguments | {"column"} | ({"mostly"} if kind in streamed_rows._ARGUMENTS else set()) <= taken, kind


@pytest.mark.parametrize(
    ("pattern", "simple"),
    [
        ("^[A-Z]{2}-1$", "^[A-Z]{2}-1\\n?\\z"),
        (r"\d+\.\d", r"[0-9]+\.[0-9]"),
        ("^(a|b)$", "^(a|b)\\n?\\z"),
        ("a|b", "a|b"),
        ("^a|b", None),
        ("a|b$", None),
        (r"\s", None),
        (r"\bword\b", None),
        ("(?i)a", None),
        ("(?=a)b", None),
        ("[^a]", None),
        ("a^b", None),
        ("a$b", None),
        (r"a\$", r"a\$"),
        ("a*?b", None),
        ("é", None),
        (r"^([a-z0-9-]{1,63}\.){1,16}[a-z]{2,63}$", None),
        (r"^(\w{1,64}\.){1,20}\w+$", None),
        ("(ab|c.d){99}" * 3000, None),
        ("(a{1,20}){1,20}", "(a{1,20}){1,20}"),
    ],
)
def test_a_pattern_goes_to_another_engine_only_if_both_read_it_alike(pattern: str, simple: str | None) -> None:
    assert streamed_rows.translated(pattern)[0] == simple


@pytest.mark.parametrize("pattern", [r"^([a-z0-9-]{1,63}\.){1,16}[a-z]{2,63}$", r"^(\w{1,64}\.){1,20}\w+$"])
def test_a_pattern_that_is_too_large_for_the_other_engine_is_judged_all_the_same(pattern: str, tmp_path: Path) -> None:
    hosts = written(pa.table({"host": ["a.example", "no host", None, "b.c.example"] * 20}), tmp_path)
    asked = suite({"type": "expect_column_values_to_match_regex", "kwargs": {"column": "host", "regex": pattern}})
    (check,) = judge(asked, hosts, key=None).checks
    assert (check.state, check.unexpected and check.unexpected.count) == ("fail", 20)


# --- bounded memory ------------------------------------------------------------------------------------------------


def only(kind: str, column: str, **kwargs: Any) -> Expectation:
    (found,) = suite({"type": f"expect_{kind}", "kwargs": {"column": column, **kwargs}}).expectations
    return found


@given(
    values=st.lists(FLOATS | st.floats(allow_nan=False, width=64), min_size=1, max_size=40),
    held=st.sampled_from([1, 4]),
)
def test_a_median_is_exact_however_few_values_may_be_held(
    values: list[float], held: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_columns, "_HELD", held)
        median = streamed_columns.Median(only("column_median_to_be_between", "x", min_value=0))
        streaming.run([median], written(pa.table({"x": values}), tmp_path_factory.mktemp("median")), None)
    present = [value for value in values if not math.isnan(value)]
    expected = float(np.median(present)) if present else math.nan
    assert median.value() == pytest.approx(expected, nan_ok=True, rel=1e-15)


@pytest.mark.parametrize("memory", [1 << 20, 16])
@pytest.mark.parametrize("text", [True, False])
def test_repeated_values_are_counted_in_bounded_memory(tmp_path: Path, memory: int, text: bool) -> None:
    numbers = [*range(500), 7, 7, 490]
    values = pa.array([f"name {n}" for n in numbers] if text else numbers)
    unique = streamed_columns.UniqueValues(only("column_values_to_be_unique", "x"), values.type, memory=memory)
    streaming.run([unique], written(pa.table({"x": values}), tmp_path, row_group_size=100), "x")
    assert (unique.found().count, unique.found().passed) == (5, False)
    assert [example.row for example in unique.found().examples] == [7, 490, 500, 501, 502]


def test_text_whose_hashes_collide_is_no_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second hash confirms what the first found."""
    keys = batches.text_keys

    def colliding(array: pa.Array, seed: Any) -> Any:
        return keys(array, seed) % np.uint64(2) if seed == batches.SEEDS[0] else keys(array, seed)

    monkeypatch.setattr(batches, "text_keys", colliding)
    unique = streamed_columns.UniqueValues(only("column_values_to_be_unique", "x"), pa.string())
    streaming.run([unique], written(pa.table({"x": ["a", "b", "c", "d", "d"]}), tmp_path), None)
    assert unique.found().count == 2


def test_a_suite_that_streams_needs_no_great_expectations(tmp_path: Path) -> None:
    """Its import alone takes three seconds and 275 MiB."""
    written(pa.table({"x": [1, 2]}), tmp_path)
    code = f"""
import sys
from mlops_provider.steps.data import judge, suite, dataset
from mlops_provider.storage import Storage
largest = '{{"type": "expect_column_max_to_be_between", "kwargs": {{"column": "x", "max_value": 2}}}}'
asked = suite.load(('{{"name": "s", "expectations": [' + largest + ']}}').encode(), "s")
assert judge.judge(asked, dataset.Dataset(Storage(), {str(tmp_path / "table.parquet")!r}), key=None).passed
assert not {{"great_expectations", "airflow"}} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
