"""Ledgers of older schemas: rows as older versions of the software would have held them, and written into snapshots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import command

from memory.backup.ledger_dump import dump_table
from memory.backup.ledger_load import Move, load_tables
from memory.backup.ledger_rows import NOT_KEPT, owned_tables
from memory.backup.manifest import MANIFEST, FileEntry, Manifest, encode_manifest, read_manifest, sealed, sha256_of
from memory.ledger import Ledger
from memory.ledger.migrate import alembic_config
from memory.ledger.migrations import VERSION_TABLE
from memory.ledger.models.base import UtcTimestamp


@dataclass
class OlderLedger:
    """A ledger in a database of its own, taken back to an older schema."""

    ledger: Ledger

    @property
    def engine(self) -> sa.Engine:
        """Of its database."""
        return self.ledger._database.engine

    def go_back(self, revision: str) -> None:
        """Take the schema back by the migrations, rows and all."""
        with self.engine.begin() as connection:
            command.downgrade(alembic_config(connection), revision)

    def dump(self, namespace: str, folder: Path) -> dict[str, Path]:
        """The rows of a namespace by the tables that there are, as a backup writes them."""
        found = sa.MetaData()
        found.reflect(self.engine)
        present = {owned.name: owned for owned in owned_tables()}
        files = {}
        with self.ledger.snapshot() as session:
            for table in found.tables.values():
                if table.name in NOT_KEPT or table.name == VERSION_TABLE:
                    continue
                for column in table.columns:
                    column.type = UtcTimestamp() if isinstance(column.type, sa.TIMESTAMP) else column.type
                    if isinstance(column.type, sa.Date):
                        column.type = present[table.name].table.columns[column.name].type
                path = folder / f"{table.name}.parquet"
                dump_table(session, replace(present[table.name], table=table), namespace, str(path))
                files[table.name] = path
        return files


def older_snapshot(snapshot: Path, into: Path, database_url: str, revision: str) -> Manifest:
    """A copy of a snapshot whose ledger is of an older schema; `into` is a copy already but for its ledger."""
    manifest = read_manifest(snapshot)
    paths = manifest.paths("ledger")
    with Ledger.open(database_url) as ledger:
        token = ledger.fence.acquire(manifest.namespace, "older", flow="restore_memory", lease_s=60)
        files = {manifest.files[path].part.partition("/")[2]: snapshot / path for path in paths}
        load_tables(ledger, token, Move(manifest.namespace, manifest.namespace, "", ""), files)
        older = OlderLedger(ledger)
        older.go_back(revision)
        for path in paths:
            (into / path).unlink()
        written = older.dump(manifest.namespace, into / "ledger")
    entries: dict[str, Any] = {path: file for path, file in manifest.files.items() if path not in paths}
    for name, path in written.items():
        entries[f"ledger/{name}.parquet"] = FileEntry(
            part=f"ledger/{name}", sha256=sha256_of(path), bytes=path.stat().st_size, rows=0
        )
    # Digests of older software were taken over other columns: nobody can tell what this one would have been.
    changed = msgspec.structs.replace(manifest, files=entries, ledger_schema=revision, ledger_digest="of its time")
    (into / MANIFEST).write_bytes(encode_manifest(sealed(changed)))
    return sealed(changed)
