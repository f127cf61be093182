"""Which rows of the ledger belong to a namespace, by what the tables themselves say.

A table is owned by its column ``namespace`` or ``line``, or through the row of an owned table that it refers to. So a
table that is added to the models is a part of every snapshot from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from memory.errors import SnapshotError
from memory.ledger.models import Base, Fence, KnowledgeLine, Run
from memory.ledger.models.base import UtcTimestamp, WindowDate
from memory.ledger.runs import RUNNING

NOT_KEPT = frozenset({Fence.__tablename__})
"""Tables of the moment: who may write to a namespace is never restored."""
OPERATIONS = frozenset({"runs", "benchmark_results", "fences"})
"""Tables that say how the work goes: rows in them make no memory."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A column of numbers that the database gives out, and the table that gives them."""

    column: str
    table: str


@dataclass(frozen=True, slots=True)
class OwnedTable:
    """A table, and what of its rows is another in another namespace or ledger.

    Attributes
    ----------
    identities
        Columns that hold a number of this table or another one's.
    late
        Columns that refer to rows which come after their own: set when all are there.
    """

    table: sa.Table
    identities: tuple[Identity, ...]
    late: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the table."""
        return str(self.table.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns, in order."""
        return tuple(self.table.columns.keys())

    @property
    def own_identity(self) -> str | None:
        """Column whose numbers the table itself gives out; None where it has none."""
        return next((item.column for item in self.identities if item.table == self.name), None)

    @property
    def key(self) -> tuple[str, ...]:
        """Columns of its primary key."""
        return tuple(column.name for column in self.table.primary_key)

    def rows_of(self, namespace: str) -> sa.ColumnElement[bool]:
        """Condition on the rows that belong to a namespace."""
        return _condition(self.table, namespace)

    def kept_of(self, namespace: str) -> sa.ColumnElement[bool]:
        """Condition on those of them that a snapshot keeps: not the runs under way, the backup itself among them."""
        own = self.rows_of(namespace)
        return own if self.name != Run.__tablename__ else sa.and_(own, self.table.columns["status"] != RUNNING)


def owned_tables() -> list[OwnedTable]:
    """All tables that a snapshot keeps, those that others refer to first.

    Raises
    ------
    SnapshotError
        A table says nothing of whose its rows are: a fault of the software.
    """
    tables = [table for table in Base.metadata.sorted_tables if table.name not in NOT_KEPT]
    for table in tables:
        if _owner(table) is None:
            raise SnapshotError(
                f"the ledger's table {table.name} says nothing of the namespace of its rows.",
                remedy="Give it a column namespace or line, or a foreign key to a table that has one.",
            )
    return [OwnedTable(table, _identities(table), _late(table)) for table in tables]


def arrow_schema(table: sa.Table) -> pa.Schema:
    """Columns of a table as Parquet has them: JSON as text, all else as it is."""
    return pa.schema([pa.field(column.name, _arrow_type(column)) for column in table.columns])


def plain_columns(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The columns of a table as they are selected for `arrow_schema`."""
    return [plain_column(column).label(column.name) for column in table.columns]


def plain_column(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """A column as it is selected for `arrow_schema`, and compared with what was read from it."""
    if isinstance(column.type, JSONB):
        return sa.cast(column, sa.Text)
    if isinstance(column.type, WindowDate):
        return sa.type_coerce(column, sa.Date())
    return column


def _owner(table: sa.Table) -> str | sa.Column[Any] | None:
    """``namespace`` or ``line``, or the column that refers to an owned table; None where there is none of them."""
    for name in ("namespace", "line"):
        if name in table.columns:
            return name
    for key in sorted(table.foreign_keys, key=lambda item: str(item.parent.name)):
        if not key.use_alter and key.column.table is not table and _owner(key.column.table) is not None:
            return key.parent
    return None


def _condition(table: sa.Table, namespace: str) -> sa.ColumnElement[bool]:
    owner = _owner(table)
    if owner == "namespace":
        return table.columns["namespace"] == namespace
    if owner == "line":
        lines = sa.select(KnowledgeLine.line).where(KnowledgeLine.namespace == namespace)
        return table.columns["line"].in_(lines)
    if not isinstance(owner, sa.Column):
        raise TypeError(f"{table.name} has no owner")
    (key,) = owner.foreign_keys
    parent = key.column.table
    return owner.in_(sa.select(key.column).where(_condition(parent, namespace)))


def _identities(table: sa.Table) -> tuple[Identity, ...]:
    found = [Identity(column.name, str(table.name)) for column in table.columns if column.identity is not None]
    for key in table.foreign_keys:
        if key.column.identity is not None:
            found.append(Identity(key.parent.name, str(key.column.table.name)))
    return tuple(sorted(found, key=lambda item: item.column))


def _late(table: sa.Table) -> tuple[str, ...]:
    return tuple(sorted(key.parent.name for key in table.foreign_keys if key.use_alter))


def _arrow_type(column: sa.Column[Any]) -> pa.DataType:
    kinds: Sequence[tuple[type[Any], pa.DataType]] = (
        (JSONB, pa.string()),
        (ARRAY, pa.list_(pa.string())),
        (UtcTimestamp, pa.timestamp("us", tz="UTC")),
        (WindowDate, pa.date32()),
        (sa.LargeBinary, pa.binary()),
        (sa.Boolean, pa.bool_()),
        (sa.BigInteger, pa.int64()),
        (sa.Double, pa.float64()),
        (sa.Text, pa.string()),
    )
    for kind, arrow in kinds:
        if isinstance(column.type, kind):
            return arrow
    raise SnapshotError(
        f"column {column} of the ledger is of type {column.type}, which snapshots cannot hold.",
        remedy="Add the type to memory.backup.ledger_rows.",
    )
