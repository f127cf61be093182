"""Brings the ledger's schema up to date on first use, once, however many processes open it at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from memory.errors import LedgerTooNewError, ServerUnsuitableError
from memory.ledger.migrations import HEAD, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

ADVISORY_LOCK = 0x636F696E737761
"""Key of the advisory lock around a migration ("coinswa" in ASCII), so that it meets nobody else's."""
_alembic = threading.Lock()
"""Alembic's `op` and `context` are global to the process."""


def schema_revision(connection: sa.Connection) -> str | None:
    """Revision of the schema, or None where the database holds no ledger yet."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(
        sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    ).scalar()
    return revision


def migrate(engine: sa.Engine) -> bool:
    """Migrates to the newest schema under an advisory lock, in one transaction; True where there was work to do.

    Raises
    ------
    LedgerTooNewError
        The schema comes from a newer version of the software.
    ServerUnsuitableError
        The database is Prefect's own.
    """
    with engine.connect() as connection:
        if schema_revision(connection) == HEAD:
            return False
    with _alembic, engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        # Looked at again: another process may have migrated while this one waited for the lock.
        revision = schema_revision(connection)
        if revision == HEAD:
            return False
        _refuse_newer(revision)
        _refuse_prefect(connection)
        _upgrade(connection)
    return True


def pending_revisions(connection: sa.Connection) -> list[tuple[str, str]]:
    """Revisions that the schema lacks, oldest first, each with what it is about; all of them where there is no ledger.

    Raises
    ------
    LedgerTooNewError
        The schema comes from a newer version of the software.
    """
    from alembic.script import ScriptDirectory

    revision = schema_revision(connection)
    if revision == HEAD:
        return []
    _refuse_newer(revision)
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    found = list(scripts.iterate_revisions("head", revision or "base"))
    return [(script.revision, script.doc.partition("\n")[0].rstrip(".")) for script in reversed(found)]


def known_revisions() -> frozenset[str]:
    """All revisions that this version of the software has migrations for."""
    versions = Path(__file__).with_name("migrations") / "versions"
    return frozenset(path.name.partition("_")[0].removeprefix("v") for path in versions.glob("v[0-9]*.py"))


def upgrade_to(connection: sa.Connection, revision: str) -> None:
    """Run the migrations up to a revision (``head`` for all) within the connection's transaction.

    They make and change tables in the first schema of its search path, and nothing else.
    """
    from alembic import command

    with _alembic:
        command.upgrade(alembic_config(connection), revision)


def alembic_config(connection: sa.Connection) -> Config:
    """Alembic's configuration for the ledger's migrations on an open connection."""
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command

    command.upgrade(alembic_config(connection), "head")


def _refuse_newer(revision: str | None) -> None:
    if revision is None:
        return
    if revision not in known_revisions():
        raise LedgerTooNewError(
            f"the ledger has schema {revision}, and this version of the software knows schemas up to {HEAD}.",
            remedy="Upgrade the software (pip install -U coinswarm-memory), or point COINSWARM_DATABASE_URL at another "
            "database.",
        )


def _refuse_prefect(connection: sa.Connection) -> None:
    if sa.inspect(connection).has_table("flow_run"):
        raise ServerUnsuitableError(
            f"the database {connection.engine.url.database!r} is Prefect's own.",
            remedy="Create a database of its own for the ledger on the same server (CREATE DATABASE coinswarm) and "
            "name it in COINSWARM_DATABASE_URL.",
        )
