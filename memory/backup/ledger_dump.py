"""The ledger's rows of a namespace as Parquet, one file a table, all from one moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.backup.ledger_rows import OwnedTable, arrow_schema, plain_columns
from memory.backup.rows import COMPRESSION_LEVEL

PAGE_ROWS = 500
"""Rows in memory at a time; those with payloads have some kilobytes each."""


def dump_table(session: Session, owned: OwnedTable, namespace: str, sink: Any) -> int:
    """Write a table's rows of a namespace, in the order of its primary key, and return how many they are.

    Runs that are under way are left out: how they end is not known yet.

    Parameters
    ----------
    session
        A transaction that sees one moment (`Ledger.snapshot`).
    sink
        A path, or a file that is open for writing.
    """
    schema, table = arrow_schema(owned.table), owned.table
    query = (
        sa.select(*plain_columns(table))
        .where(owned.kept_of(namespace))
        .order_by(*(table.columns[name] for name in owned.key))
        .execution_options(yield_per=PAGE_ROWS)
    )
    rows = 0
    with pq.ParquetWriter(sink, schema, compression="zstd", compression_level=COMPRESSION_LEVEL) as parquet:
        for page in session.execute(query).mappings().partitions():
            columns = [pa.array([row[field.name] for row in page], field.type) for field in schema]
            parquet.write_batch(pa.record_batch(columns, schema=schema))
            rows += len(page)
    return rows


def read_table(source: Any) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file that `dump_table` wrote, in order, one page in memory at a time."""
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False).to_pylist()
