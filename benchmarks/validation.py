"""Validation of ten expectations: the streaming engine against Great Expectations on pandas, on the same file in the same run.

    python -m benchmarks.validation [rows]

Each engine runs in a process of its own, imports included; CPU seconds are user and system time of that process, memory is the
peak of its resident set.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 10_000_000
GROUP = 1_000_000
CODES = ("AB-10", "CD-22", "EF-31", "GH-47")

EXPECTATIONS: list[dict[str, Any]] = [
    {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}},
    {"type": "expect_table_columns_to_match_set", "kwargs": {"column_set": ["id", "a", "b", "code", "site"]}},
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}},
    {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "a", "min_value": -4, "max_value": 4, "mostly": 0.99},
    },
    {"type": "expect_column_values_to_be_between", "kwargs": {"column": "b", "min_value": 0, "max_value": 1000}},
    {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "site", "value_set": ["north", "south", "east"]},
    },
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
    {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "a", "min_value": -1, "max_value": 1}},
    {"type": "expect_column_median_to_be_between", "kwargs": {"column": "a", "min_value": -1, "max_value": 1}},
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "code", "regex": r"^[A-Z]{2}-\d{2}$"}},
]


def make(path: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    writer = None
    for begin in range(0, rows, GROUP):
        count = min(GROUP, rows - begin)
        a = rng.normal(size=count)
        table = pa.table({
            "id": begin + rng.permutation(count),
            "a": pa.array(a, mask=rng.random(count) < 0.01),
            "b": rng.integers(0, 1_000, count),
            "code": pa.array(CODES).take(pa.array(rng.integers(0, len(CODES), count))),
            "site": pa.array(["north", "south", "east"]).take(pa.array(rng.integers(0, 3, count))),
        })
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def ours(path: str) -> list[bool]:
    from mlops_provider.steps.data import dataset, judge, suite
    from mlops_provider.storage import Storage

    asked = suite.load(json.dumps({"name": "benchmark", "expectations": EXPECTATIONS}).encode(), "benchmark")
    return [c.passed for c in judge.judge(asked, dataset.Dataset(Storage(), path), key="id").checks]


def great_expectations(path: str) -> list[bool]:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.read_parquet(path)})
    found = batch.validate(gx.ExpectationSuite(name="benchmark", expectations=EXPECTATIONS), result_format="SUMMARY")
    return [bool(result.success) for result in found.results]


ENGINES = {"streaming": ours, "great expectations on pandas": great_expectations}


def measured(engine: str, path: Path) -> dict[str, Any]:
    """Runs an engine in a process of its own."""
    environment = {**os.environ, "GX_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-m", "benchmarks.validation", "--engine", engine, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(engine: str, path: str) -> None:
    begin = time.perf_counter()
    passed = ENGINES[engine](path)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps({
            "cpu": used.ru_utime + used.ru_stime,
            "wall": time.perf_counter() - begin,
            "mib": used.ru_maxrss / 1024,
            "passed": passed,
        })
    )


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        report(sys.argv[2], sys.argv[3])
        return
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[3]), int(sys.argv[2]))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        # A child begins with the peak of its parent: the parent must stay small.
        subprocess.run([sys.executable, "-m", "benchmarks.validation", "--make", str(rows), str(path)], check=True)
        print(f"{rows:,} rows, {path.stat().st_size / 2**20:.0f} MiB of parquet, {len(EXPECTATIONS)} expectations\n")
        found = {engine: measured(engine, path) for engine in ENGINES}
    print("| engine | CPU s | wall s | peak MiB |\n|---|---|---|---|")
    for engine, result in found.items():
        print(f"| {engine} | {result['cpu']:.2f} | {result['wall']:.2f} | {result['mib']:.0f} |")
    mine, theirs = found.values()
    print(f"\nCPU {mine['cpu'] / theirs['cpu']:.2f}, memory {mine['mib'] / theirs['mib']:.2f} of Great Expectations'")
    print(f"the same verdicts: {mine['passed'] == theirs['passed']}")


if __name__ == "__main__":
    main()
