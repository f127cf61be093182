"""What a new version of the software finds of an older one, or an older one of a newer: looked at, and nothing changed.

Each part says what it found, what this version wants, and what becomes of it. Nothing here opens the ledger as work
does, since that would bring its schema up to date at once.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from memory.connection import MemoryConnection
from memory.embedded.home import HOME_VERSION, POSTGRES_MAJOR, Home, read_json
from memory.errors import HomeTooNewError, LedgerTooNewError
from memory.keeping.errors import KeepingError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Ledger
from memory.ledger.archive_tables import FORMAT_VERSION
from memory.ledger.database import Database
from memory.ledger.host import is_gone
from memory.ledger.migrate import migrate, pending_revisions, schema_revision
from memory.ledger.migrations import HEAD
from memory.ledger.models import ArchivedWindow
from memory.store.keys import SCHEMA_VERSION

CURRENT, PENDING, BY_HAND, NEWER = "current", "pending", "by hand", "newer"
"""As this version wants it; brought up to date by `upgrade`; by a command or a person; written by a newer version."""
SEVERITY = (CURRENT, BY_HAND, PENDING, NEWER)
DISTRIBUTION = "coinswarm-memory"
EXTRAS = ("jobs", "embedded")
"""Extras whose packages read or write what is stored."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of what is stored, or of the software.

    Attributes
    ----------
    part
        What it is.
    found, wanted
        Its version, and that of this software.
    state
        CURRENT, PENDING, BY_HAND or NEWER.
    todo
        What becomes of it, or has to be done; empty where nothing is.
    """

    part: str
    found: str
    wanted: str
    state: str = CURRENT
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)


def worst(findings: Sequence[Finding]) -> str:
    """The state that needs most attention."""
    return max((finding.state for finding in findings), key=SEVERITY.index, default=CURRENT)


# --- software and home -----------------------------------------------------------------------------------------


def look_at_packages() -> list[Finding]:
    """Python, and the packages that read and write what is stored, against what this software is made for."""
    about = metadata.metadata(DISTRIBUTION)
    wanted = about["Requires-Python"] or ""
    python = platform.python_version()
    findings = [Finding("software", about["Version"], about["Version"])]
    if SpecifierSet(wanted).contains(python):
        findings.append(Finding("python", python, wanted))
    else:
        findings.append(Finding("python", python, wanted, BY_HAND, "install the software with such a Python"))
    for requirement in (Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()):
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *EXTRAS)):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # An extra that is not installed.
        if requirement.name == "prefect" or not requirement.specifier.contains(installed, prereleases=True):
            suitable = requirement.specifier.contains(installed, prereleases=True)
            todo = "" if suitable else f"pip install '{requirement.name}{requirement.specifier}'"
            state = CURRENT if suitable else BY_HAND
            findings.append(Finding(requirement.name, installed, str(requirement.specifier), state, todo))
    return findings


def look_at_home(directory: Path) -> Finding:
    """The layout of a home."""
    home, wanted = Home.at(directory), f"layout {HOME_VERSION}, Postgres {POSTGRES_MAJOR}"
    content = read_json(home.version_file)
    if content is None:
        return Finding("home", "none yet", wanted)
    found = f"layout {content.get('version')}, Postgres {content.get('postgres')}"
    try:
        home.check_version()
    except HomeTooNewError as error:
        return Finding("home", found, wanted, NEWER, error.remedy)
    if content.get("postgres") != POSTGRES_MAJOR:
        todo = "take a backup with the version that wrote it, and restore it into a new home"
        return Finding("home", found, wanted, BY_HAND, todo)
    return Finding("home", found, wanted)


def look_at_prefect(directory: Path) -> Finding:
    """The database of a home's own Prefect against the migrations of the Prefect that is installed."""
    wanted = _prefect_heads()
    path = Home.at(directory).prefect_data / "prefect.db"
    if not path.is_file():
        return Finding("prefect database", "none yet", ", ".join(wanted))
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError:
            rows = []
    found = sorted(row[0] for row in rows)
    if found == wanted:
        return Finding("prefect database", ", ".join(found), ", ".join(wanted))
    if not set(found) <= _prefect_revisions():
        todo = "install the version of Prefect that wrote it, or a newer one that this software allows"
        return Finding("prefect database", ", ".join(found), ", ".join(wanted), NEWER, todo)
    todo = "Prefect migrates it when its server starts"
    return Finding("prefect database", ", ".join(found) or "empty", ", ".join(wanted), PENDING, todo)


@cache
def _prefect_scripts() -> Any:
    from alembic.script import ScriptDirectory

    spec = util.find_spec("prefect")
    if spec is None or not spec.submodule_search_locations:
        raise KeepingError(
            "Prefect is not installed.", remedy="Install the extra: pip install 'coinswarm-memory[jobs]'."
        )
    folder = Path(spec.submodule_search_locations[0]) / "server" / "database" / "_migrations"
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions" / "sqlite")])


def _prefect_heads() -> list[str]:
    return sorted(_prefect_scripts().get_heads())


def _prefect_revisions() -> set[str]:
    return {script.revision for script in _prefect_scripts().walk_revisions()}


# --- the ledger ------------------------------------------------------------------------------------------------


@contextmanager
def ledger_database(url: str) -> Iterator[Database]:
    """The ledger's database as it is, whatever its schema."""
    database = Database.connect(url)
    try:
        yield database
    finally:
        database.dispose()


def look_at_ledger(database: Database) -> Finding:
    """The schema of the ledger: its revision, and what is still to be done to it."""
    with database.translated_errors(), database.engine.connect() as connection:
        revision = schema_revision(connection)
        if revision is None:
            return Finding("ledger", "none yet", HEAD)
        try:
            pending = pending_revisions(connection)
        except LedgerTooNewError as error:
            return Finding("ledger", revision, HEAD, NEWER, error.remedy)
    if not pending:
        return Finding("ledger", revision, HEAD)
    steps = "; ".join(f"{number}: {title}" for number, title in pending)
    return Finding("ledger", revision, HEAD, PENDING, f"migrations in one transaction ({steps})")


def runs_under_way(database: Database) -> list[str]:
    """Runs of all namespaces that are alive, in words; any schema that has runs will do."""
    query = sa.text(
        "SELECT namespace, flow, host, process_id, started_at FROM runs WHERE status = 'RUNNING' "
        "AND heartbeat_at + lease_s * interval '1 second' > clock_timestamp() ORDER BY started_at"
    )
    with database.translated_errors(), database.engine.connect() as connection:
        if not sa.inspect(connection).has_table("runs"):
            return []
        rows = connection.execute(query).all()
    return [
        f"{row.flow} of namespace {row.namespace!r} on {row.host} since {row.started_at:%Y-%m-%d %H:%M} UTC"
        for row in rows
        if not is_gone(row.host, row.process_id)
    ]


def migrate_ledger(database: Database) -> bool:
    """Bring the schema up to date, in one transaction, while no run is under way; True where there was work to do.

    Raises
    ------
    KeepingError
        A run is under way: it is named.
    LedgerTooNewError
        A newer version of the software wrote it.
    """
    if running := runs_under_way(database):
        raise KeepingError(
            f"{len(running)} run(s) are under way, such as {running[0]}.",
            remedy="Wait for them or stop them, and what starts others (`coinswarm up`, workers); then try again.",
        )
    with database.translated_errors():
        return migrate(database.engine)


def look_at_lines(ledger: Ledger, namespace: str) -> list[Finding]:
    """The knowledge line that is read, the archive's files, and the algorithm of this software."""
    leading = ledger.lines.current(namespace)
    if leading is None:
        return [Finding("knowledge line", "none yet", f"algorithm {ALGORITHM_VERSION}")]
    found, wanted = f"algorithm {leading.algorithm_version}", f"algorithm {ALGORITHM_VERSION}"
    if leading.algorithm_version == ALGORITHM_VERSION:
        lines = [Finding("knowledge line", found, wanted)]
    elif leading.algorithm_version.isdigit() and int(leading.algorithm_version) > int(ALGORITHM_VERSION):
        lines = [
            Finding("knowledge line", found, wanted, NEWER, "upgrade the software: nights would begin another line")
        ]
    else:
        todo = (
            f"coinswarm run start_line --param namespace={namespace}: learns all archived windows again beside the old "
            "line, which answers until the new one takes over"
        )
        lines = [Finding("knowledge line", found, wanted, BY_HAND, todo)]
    with ledger.transaction() as session:
        newest = session.scalar(
            sa.select(sa.func.max(ArchivedWindow.format)).where(ArchivedWindow.namespace == namespace)
        )
    if newest is not None:
        state, todo = (NEWER, "upgrade the software") if newest > FORMAT_VERSION else (CURRENT, "")
        lines.append(Finding("archive", f"format {newest}", f"format {FORMAT_VERSION}, older are read", state, todo))
    return lines


# --- Redis -----------------------------------------------------------------------------------------------------


async def look_at_redis(mem: MemoryConnection) -> Finding:
    """The layout of records and indexes, by the names of the namespace's indexes."""
    names = [name.decode() for name in await mem.link.execute("FT._LIST")]
    prefix = f"{mem.namespace}:"
    versions = sorted({name.split(":")[2] for name in names if name.startswith(prefix) and name.count(":") >= 3})
    found, wanted = ", ".join(versions) or "none yet", SCHEMA_VERSION
    if not versions or versions == [SCHEMA_VERSION]:
        return Finding("redis layout", found, wanted)
    numbers = [int(version.removeprefix("v")) for version in versions if version.removeprefix("v").isdigit()]
    if max(numbers, default=0) > int(SCHEMA_VERSION.removeprefix("v")):
        return Finding("redis layout", found, wanted, NEWER, "upgrade the software")
    return Finding("redis layout", found, wanted, BY_HAND, "coinswarm run reindex_memory")
