"""How much room the ledger and the archive take."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from memory.ledger.database import Database
from memory.ledger.models import ArchivedWindow
from memory.ledger.models.base import Base


@dataclass(frozen=True, slots=True)
class ArchiveSize:
    """What the archive of a namespace holds: files, and their bytes."""

    files: int
    bytes: int


class SizeRepository:
    """Sizes on disk, as Postgres and the archive's references say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ledger_bytes(self) -> int:
        """Bytes of all tables of the ledger with their indexes, of all namespaces together; free room included."""
        name = sa.func.unnest(sa.cast(sorted(Base.metadata.tables), sa.ARRAY(sa.Text))).column_valued("name")
        sizes = sa.select(sa.func.sum(sa.func.pg_total_relation_size(sa.func.to_regclass(name))))
        with self._database.transaction() as session:
            return int(session.scalar(sizes) or 0)

    def archive(self, namespace: str) -> ArchiveSize:
        """What a namespace's references name, each file once. Cost: one pass over the references."""
        row = ArchivedWindow
        files = sa.union(
            sa.select(row.states_path.label("path"), row.states_bytes.label("bytes")).where(row.namespace == namespace),
            sa.select(row.experiences_path, row.experiences_bytes).where(row.namespace == namespace),
        ).subquery()
        with self._database.transaction() as session:
            number, total = session.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.bytes), 0))
            ).one()
            return ArchiveSize(int(number), int(total))
