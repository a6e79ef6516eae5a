"""Which expectations stream, and one pass over the dataset for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from mlops_provider.steps.data import streamed_columns, streamed_rows
from mlops_provider.steps.data.batches import Batch
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.streamed_rows import Streamed
from mlops_provider.steps.data.suite import Expectation


def streamed(expectation: Expectation, schema: pa.Schema) -> Streamed | None:
    """The streamed form of an expectation, or None where only Great Expectations can say what it means.

    An argument that is not known exactly, a type of column with rules of its own: both are left to Great Expectations, which
    refuses what it does not know. So nothing is taken for something else.
    """
    if found := streamed_columns.table(expectation, list(schema.names)):
        return found
    column = expectation.kwargs.get("column")
    if not isinstance(column, str) or column not in schema.names:
        return None
    kind = schema.field(column).type
    return streamed_rows.rows(expectation, kind) or streamed_columns.number(expectation, kind)


def run(expectations: Sequence[Streamed], dataset: Dataset, key: str | None) -> None:
    """Shows the dataset to all of them at once, and again to those that ask for it."""
    todo = list(expectations)
    while todo:
        begin = 0
        for batch in dataset.batches(_columns(todo, dataset.schema, key)):
            shown = Batch.of(batch, begin, key)
            for expectation in todo:
                expectation.feed(shown)
            begin += batch.num_rows
        todo = [expectation for expectation in todo if expectation.end()]


def _columns(todo: Sequence[Streamed], schema: pa.Schema, key: str | None) -> list[str]:
    """The columns that they read, at least one, as rows are counted by it."""
    wanted = {column for item in todo for column in item.expectation.columns} | ({key} if key else set())
    return [name for name in schema.names if name in wanted] or [schema.names[0]]
