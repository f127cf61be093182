"""The ledger's rows of a snapshot, put into a ledger under any namespace's name, in one transaction.

What is another there: the namespace in its own column and in names of lines and paths; numbers that the database gives
out, which move behind those that it has given out already; ids of runs, where the originals may be in the same ledger.
Runs that were under way are left out.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.orm import Session

from memory.backup.keyspace import renamed_line
from memory.backup.ledger_dump import read_table
from memory.backup.ledger_rows import NOT_KEPT, OPERATIONS, OwnedTable, owned_tables, plain_column
from memory.errors import SnapshotError
from memory.ledger import FencingToken, Ledger
from memory.ledger.models import Base, Run
from memory.ledger.runs import RUNNING

SHARED_BY_NAMESPACES = frozenset({"training_steps"})
"""Tables whose rows are named by their content alone: what is there already is the same."""
ARCHIVE_PATHS = ("states_path", "experiences_path")
_RUN_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Move:
    """Where rows come from and go to.

    Attributes
    ----------
    source, target
        Namespaces.
    policies_from, policies_to
        Folders of trained policies.
    """

    source: str
    target: str
    policies_from: str
    policies_to: str

    def run_id(self, run_id: str) -> str:
        """Id of a run: its own in its own namespace, another one elsewhere, always the same."""
        if self.source == self.target or not run_id:
            return run_id
        return hashlib.sha256(f"{self.target}/{run_id}".encode()).hexdigest()[:_RUN_ID_DIGITS]

    def archive_path(self, path: str) -> str:
        """Path of an archived file: folders of a namespace begin with its name.

        Raises
        ------
        SnapshotError
            The path leads out of the archive: no backup wrote it.
        """
        namespace, _, rest = path.partition("/")
        if namespace == ".." or posixpath.isabs(rest) or ".." in rest.split("/"):
            raise _forged(f"an archived file {path!r}, outside of the archive")
        return posixpath.join(self.target, rest) if namespace == self.source else path

    def policy_path(self, path: str) -> str:
        """Path of a trained policy."""
        start = f"{self.policies_from}/"
        return f"{self.policies_to}/{path[len(start) :]}" if self.policies_from and path.startswith(start) else path


def load_tables(
    ledger: Ledger,
    token: FencingToken,
    move: Move,
    files: Mapping[str, Path],
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Replace all rows of the target with those of a snapshot, in one transaction; returns how many of each table.

    Parameters
    ----------
    token
        Right to write to the target.
    files
        The snapshot's file of each table; tables without one stay empty.

    Raises
    ------
    SnapshotError
        The snapshot has a table or column that this ledger lacks, or rows that are not its namespace's.
    FencedOutError
        The run was overtaken.
    """
    tables = owned_tables()
    unknown = sorted(files.keys() - {owned.name for owned in tables})
    if unknown:
        raise SnapshotError(
            f"the snapshot has rows of {unknown[0]}, a table that this ledger does not have.",
            remedy="Restore it with the version of the software that wrote it.",
        )
    spans = {owned.name: _span(files[owned.name], owned) for owned in tables if owned.name in files}
    bases = {name: _reserve(ledger, name, *span) for name, span in spans.items() if span is not None}
    loaded = {}
    with ledger.transaction(token) as session:
        delete_rows(session, token.namespace, keep_run=token.run_id)
        late: list[tuple[OwnedTable, dict[str, Any]]] = []
        for owned in tables:
            if owned.name in files:
                announce(owned.name)
                loaded[owned.name] = _load(session, owned, files[owned.name], move, bases, late)
        for owned, values in late:
            key = [plain_column(owned.table.columns[name]) == values.pop(f"key_{name}") for name in owned.key]
            session.execute(sa.update(owned.table).where(*key).values(values))
    return loaded


def delete_rows(session: Session, namespace: str, keep_run: str | None = None) -> int:
    """Delete all rows of a namespace, but for who may write to it and one run; returns how many."""
    tables = owned_tables()
    for owned in tables:
        if owned.late:
            nothing = dict.fromkeys(owned.late)
            session.execute(sa.update(owned.table).where(owned.rows_of(namespace)).values(nothing))
    deleted = 0
    for owned in reversed(tables):
        condition = owned.rows_of(namespace)
        if owned.name == Run.__tablename__ and keep_run is not None:
            condition = sa.and_(condition, Run.run_id != keep_run)
        deleted += session.execute(sa.delete(owned.table).where(condition)).rowcount  # type: ignore[attr-defined]
    return deleted


def delete_fences(session: Session, namespace: str) -> None:
    """Forget who may write, and wrote last, to a namespace and its parts."""
    for name in NOT_KEPT:
        table = Base.metadata.tables[name]
        column = table.columns["namespace"]
        own = sa.or_(column == namespace, column.startswith(f"{namespace}/", autoescape=True))
        session.execute(sa.delete(table).where(own))


def rows_held(session: Session, namespace: str) -> dict[str, int]:
    """How many rows each table holds of a namespace; those that say how the work goes, and empty ones, left out."""
    found = {}
    for owned in owned_tables():
        if owned.name in OPERATIONS:
            continue
        query = sa.select(sa.func.count()).select_from(owned.table).where(owned.rows_of(namespace))
        count = session.execute(query).scalar_one()
        if count:
            found[owned.name] = count
    return found


def _span(path: Path, owned: OwnedTable) -> tuple[int, int] | None:
    """The smallest and largest number that a file holds of its table's own; None where there is none."""
    column = owned.own_identity
    if column is None:
        return None
    numbers = [row[column] for page in read_table(path) for row in (page[0], page[-1])]
    # Rows lie in the order of the primary key, which these numbers are.
    return (min(numbers), max(numbers)) if numbers else None


def _reserve(ledger: Ledger, table: str, first: int, last: int) -> int:
    """What to add to numbers from `first` to `last` so that nobody else has them; they are this caller's then."""
    owned = next(item for item in owned_tables() if item.name == table)
    sequence = sa.func.pg_get_serial_sequence(table, owned.own_identity)
    with ledger.transaction() as session:
        # While it is locked, nobody is between taking a number and using it.
        session.execute(sa.text(f'LOCK TABLE "{table}" IN SHARE ROW EXCLUSIVE MODE'))
        taken = session.execute(sa.select(sa.func.nextval(sequence))).scalar_one()
        session.execute(sa.select(sa.func.setval(sequence, taken + last - first)))
    return int(taken) - first


def _load(
    session: Session,
    owned: OwnedTable,
    path: Path,
    move: Move,
    bases: Mapping[str, int],
    late: list[tuple[OwnedTable, dict[str, Any]]],
) -> int:
    connection: Any = session.connection().connection.driver_connection
    into = owned.name
    rows = 0
    with connection.cursor() as cursor:
        if owned.name in SHARED_BY_NAMESPACES:
            into = f"loading_{owned.name}"
            create = "CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP"
            cursor.execute(sql.SQL(create).format(sql.Identifier(into), sql.Identifier(owned.name)))
        columns: list[str] | None = None
        for page in read_table(path):
            if columns is None:
                columns = _columns(owned, page[0])
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(into), names)) as copy:
                for row in page:
                    if owned.name == Run.__tablename__ and row["status"] == RUNNING:
                        continue  # The backup itself, and whatever never ended here.
                    rows += 1
                    values = _moved(owned, row, move, bases)
                    if any(values[name] is not None for name in owned.late):
                        kept = {name: values[name] for name in owned.late}
                        late.append((owned, kept | {f"key_{name}": values[name] for name in owned.key}))
                        values |= dict.fromkeys(owned.late)
                    copy.write_row([values[name] for name in columns])
        if into != owned.name:
            insert = "INSERT INTO {} SELECT * FROM {} ON CONFLICT DO NOTHING"
            cursor.execute(sql.SQL(insert).format(sql.Identifier(owned.name), sql.Identifier(into)))
    return rows


def _columns(owned: OwnedTable, names: Iterable[str]) -> list[str]:
    columns = list(names)
    unknown = sorted(set(columns) - set(owned.columns))
    if unknown:
        raise SnapshotError(
            f"the snapshot has a column {unknown[0]} of {owned.name} that this ledger does not have.",
            remedy="Restore it with the version of the software that wrote it.",
        )
    return columns


def _moved(owned: OwnedTable, row: Mapping[str, Any], move: Move, bases: Mapping[str, int]) -> dict[str, Any]:
    """A row as it is in the target."""
    values = dict(row)
    for name, value in row.items():
        if value is None:
            continue
        if name == "namespace":
            values[name] = move.target
        elif name == "line":
            if value.partition("/")[0] != move.source:
                raise _forged(f"rows of line {value!r}, which is another namespace's than {move.source!r}")
            values[name] = renamed_line(value, move.source, move.target)
        elif name == "run_id":
            values[name] = move.run_id(value)
        elif name in ARCHIVE_PATHS:
            values[name] = move.archive_path(value)
    for identity in owned.identities:
        if values.get(identity.column) is not None:
            values[identity.column] += bases[identity.table]
    if owned.name == "trained_policies":
        values["path"] = move.policy_path(values["path"])
    return values


def _forged(what: str) -> SnapshotError:
    return SnapshotError(
        f"the snapshot has {what}.", remedy="Use another snapshot: coinswarm backup --list shows them."
    )
