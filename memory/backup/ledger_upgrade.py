"""The ledger's rows of a snapshot that an older version of the software wrote, as this version would hold them.

The rows go through the migrations themselves: into tables of the older schema, which are then brought up to date as any
ledger is, and read again. Those tables lie in a schema of Postgres that exists within one transaction and is never
committed, so that nothing is left of it wherever the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.orm import Session

from memory.backup.ledger_dump import dump_table, read_table
from memory.backup.ledger_rows import OwnedTable, owned_tables, plain_column
from memory.errors import SnapshotError
from memory.ledger import Ledger
from memory.ledger.knowledge_digest import knowledge_digest
from memory.ledger.migrate import known_revisions, upgrade_to
from memory.ledger.migrations import HEAD

SCHEMA = "coinswarm_upgrade"
"""Name of the schema; nobody but its transaction ever sees it."""
_NOT_ALLOWED = "42501"

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpgradedRows:
    """Rows of the present schema.

    Attributes
    ----------
    files
        A file of each table that has rows, by the table's name.
    digest
        Of the knowledge in them; an older version of the software may have taken its own over other columns.
    """

    files: Mapping[str, Path]
    digest: str


def check_revision(revision: str, software: str, place: Path) -> None:
    """SnapshotError unless this software has migrations for a snapshot's schema of the ledger."""
    if revision not in known_revisions():
        raise SnapshotError(
            f"{place} holds a ledger of schema {revision!r}, and this software knows schemas up to {HEAD}.",
            remedy=f"Restore it with version {software} of the software, or a later one.",
        )


def upgraded_rows(
    ledger: Ledger,
    namespace: str,
    revision: str,
    files: Mapping[str, Path],
    into: Path,
    announce: Announce = lambda _: None,
) -> UpgradedRows:
    """Write the rows of a snapshot's files as they are after all migrations that the snapshot lacks.

    Parameters
    ----------
    namespace
        Whose rows they are.
    revision
        Schema that the files are of.
    files
        The snapshot's file of each table.
    into
        Folder that the new files are written to.

    Raises
    ------
    SnapshotError
        Rows do not fit the schema that they are said to be of, or the ledger's user may not create a schema.

    Cost: that of loading the rows twice; memory of a page of them.
    """
    with _schema_for_now(ledger) as session:
        announce(f"schema {revision}")
        upgrade_to(session.connection(), revision)
        _fill(session, files, announce)
        announce(f"migrating to schema {HEAD}")
        upgrade_to(session.connection(), "head")
        written = {}
        for owned in owned_tables():
            path = into / f"{owned.name}.parquet"
            if dump_table(session, owned, namespace, str(path)):
                written[owned.name] = path
        return UpgradedRows(written, knowledge_digest(session, namespace).digest)


@contextmanager
def _schema_for_now(ledger: Ledger) -> Iterator[Session]:
    """A transaction in an empty schema of Postgres; all that is done in it is undone in the end."""
    with ledger.transaction() as session:
        undone = session.begin_nested()
        try:
            session.execute(sa.text(f"CREATE SCHEMA {SCHEMA}"))
        except sa.exc.ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _NOT_ALLOWED:
                raise
            raise SnapshotError(
                "the snapshot is of an older schema, and the ledger's user may not create a schema to migrate it in.",
                remedy="As the database's owner: GRANT CREATE ON DATABASE ... TO ...; then restore again.",
            ) from error
        session.execute(sa.text(f"SET LOCAL search_path TO {SCHEMA}"))
        yield session
        undone.rollback()


def _fill(session: Session, files: Mapping[str, Path], announce: Announce) -> None:
    """Copy the rows in, tables that others refer to first; what refers to later rows is set when all are there."""
    tables = owned_tables()
    unknown = sorted(files.keys() - {owned.name for owned in tables})
    if unknown:
        raise _unfit(unknown[0], "this software has no such table")
    connection: Any = session.connection().connection.driver_connection
    late: list[tuple[OwnedTable, dict[str, Any], dict[str, Any]]] = []
    for owned in tables:
        if owned.name not in files:
            continue
        announce(owned.name)
        try:
            with connection.cursor() as cursor:
                for page in read_table(files[owned.name]):
                    late += [(owned, row, _taken(owned, row)) for row in page if any(map(row.get, owned.late))]
                    _copy(cursor, owned.name, page)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            raise _unfit(owned.name, " ".join(str(error).split())) from error
    for owned, row, values in late:
        key = [plain_column(owned.table.columns[name]) == row[name] for name in owned.key]
        session.execute(sa.update(owned.table).where(*key).values(values))


def _taken(owned: OwnedTable, row: dict[str, Any]) -> dict[str, Any]:
    """The values of a row that refer to later rows, which it loses for now."""
    values = {name: row[name] for name in owned.late if name in row}
    row.update(dict.fromkeys(values))
    return values


def _copy(cursor: psycopg.Cursor[Any], table: str, rows: list[dict[str, Any]]) -> None:
    """Copy rows with the columns that they have, which are those of their schema."""
    columns = list(rows[0])
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
        for row in rows:
            copy.write_row([row[name] for name in columns])


def _unfit(table: str, reason: str) -> SnapshotError:
    return SnapshotError(
        f"the snapshot's rows of {table} do not fit the schema that it says they are of: {reason}.",
        remedy="Use another snapshot: coinswarm backup --list shows them.",
    )
