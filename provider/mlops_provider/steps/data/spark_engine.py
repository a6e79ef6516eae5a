"""A whole suite by Great Expectations on Spark, for datasets beyond one machine.

The Spark session is the one that the worker's own configuration names (SPARK_REMOTE, spark-defaults.conf); a local one if
there is none. Spark reads the dataset itself, with its own access to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import DataError
from mlops_provider.steps.data import gx_engine
from mlops_provider.steps.data.batches import EXAMPLES, Example, Found
from mlops_provider.steps.data.judge import Judged
from mlops_provider.steps.data.suite import Expectation, Suite

if TYPE_CHECKING:
    from mlops_provider.steps.data.dataset import Dataset


def evaluate(suite: Suite, dataset: Dataset, key: str | None) -> Judged:
    """Every expectation by Great Expectations' Spark engine. Rows are not numbered there: examples are told by key.

    :raises DataError: if Spark cannot read the dataset, or it has no rows.
    :raises ConfigError: if the suite holds an expectation or an argument that Great Expectations does not know.
    """
    dataset.verify()
    frame = _frame(dataset)
    probes = gx_engine.probes(suite.expectations)
    every = (*suite.expectations, *probes.values())
    key = key if key in frame.columns else None
    with gx_engine.parameters_refused(suite):
        results = _results(gx_engine.loaded(suite, every), frame, key)
    found = {int(result.expectation_config.meta["place"]): _found(result, every, key) for result in results}
    gx_engine.without_rows(found, suite.expectations, probes)
    judged = Judged(suite)
    judged.found |= {place: one for place, one in found.items() if place >= 0}
    return judged


def _frame(dataset: Dataset) -> Any:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    # Times in nanoseconds, as pandas writes them, Spark reads as whole numbers or not at all.
    settings = {"spark.sql.session.timeZone": "UTC", "spark.sql.legacy.parquet.nanosAsLong": "true"}
    session = SparkSession.builder.config(map=settings).getOrCreate()
    uri = dataset.uri.replace("s3://", "s3a://", 1)  # the name that Hadoop gives to its S3 file system
    try:
        csv = uri.lower().endswith(".csv")
        frame = session.read.csv(uri, header=True, inferSchema=True) if csv else session.read.parquet(uri)
        empty = frame.isEmpty()
    except PySparkException as error:
        raise DataError(f"{dataset.uri} cannot be read by Spark: {str(error)[:500]}") from error
    if empty:
        raise DataError(f"{dataset.uri} has no rows")
    return _with_nulls(frame)


def _with_nulls(frame: Any) -> Any:
    """NaN is a missing value here, as it is on one machine; Spark takes it for the largest number."""
    from pyspark.sql import functions

    for name, kind in frame.dtypes:
        if kind in ("float", "double"):
            column = functions.col(f"`{name}`")
            frame = frame.withColumn(name, functions.when(~functions.isnan(column), column))
    return frame


def _results(stored: Any, frame: Any, key: str | None) -> list[Any]:
    asset = gx_engine.quiet_context().data_sources.add_spark("spark").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    wanted: dict[str, Any] = {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}
    if key:
        wanted["unexpected_index_column_names"] = [key]
    return list(batch.validate(stored, result_format=wanted).results)


def _found(result: Any, expectations: tuple[Expectation, ...], key: str | None) -> Found:
    found = gx_engine.told(result)
    listed = (result.result or {}).get("partial_unexpected_index_list") or [] if key and not found.error else []
    columns = next(e.columns for e in expectations if e.place == int(result.expectation_config.meta["place"]))
    found.examples = [
        Example(None, row.get(key), {column: row[column] for column in columns if column in row})
        for row in listed[:EXAMPLES]
    ]
    return found
