"""Rows of a query, by any connection whose hook is a DbApiHook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are Python objects at one time; the others are Arrow's already, which takes a tenth.
_CHUNK = 50_000


def queried(
    conn_id: str, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None, columns: Sequence[str]
) -> pa.Table:
    """What a query gives, as a table with these columns.

    :param parameters: values that the driver binds to the query's placeholders, in the driver's own style.
    :raises ConfigError: if the connection is to no database.
    :raises DataError: if the query gives no rows, lacks a column, has one twice, or has one that Arrow has no type for.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook

    hook: Any = BaseHook.get_hook(conn_id)
    if not isinstance(hook, DbApiHook):
        raise ConfigError(
            f"connection {conn_id!r} is no SQL connection: its hook {type(hook).__name__} is no DbApiHook"
        )
    found: list[pa.Table] = []

    def handler(cursor: Any) -> list[Any]:
        found.append(_table(cursor, columns, conn_id))
        return []  # what is returned some hooks take apart, row by row

    hook.run(sql, parameters=parameters or None, handler=handler)
    return found[0]


def _table(cursor: Any, columns: Sequence[str], conn_id: str) -> pa.Table:
    import pyarrow as pa

    from mlops_provider.steps import tables

    names = [column[0] for column in cursor.description or ()]
    where = f"the query on connection {conn_id!r}"
    tables.require(names, columns, where)
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"{where} has more than one column {', '.join(map(repr, twice))}")
    places = [names.index(name) for name in columns]
    chunks = []
    while rows := cursor.fetchmany(_CHUNK):
        chunks.append(_chunk(rows, dict(zip(columns, places, strict=True)), where))
    if not chunks:
        raise DataError(f"{where} gave no rows")
    try:
        return pa.concat_tables(chunks, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{where} has a column of several types: cast it in the query ({error})") from error


def _chunk(rows: Sequence[Sequence[Any]], places: Mapping[str, int], where: str) -> pa.Table:
    import pyarrow as pa

    arrays = {}
    for name, place in places.items():
        try:
            arrays[name] = pa.array([row[place] for row in rows])
        except pa.ArrowException as error:
            raise DataError(
                f"{where}: column {name!r} has values that Arrow has no type for: cast it in the query"
            ) from error
    return pa.table(arrays)
