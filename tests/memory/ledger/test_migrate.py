"""The schema: made once on first use, agreeing with the models, refused where it is newer."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from memory.embedded import check_database
from memory.errors import LedgerTooNewError, ServerUnsuitableError, StoreUnavailableError
from memory.ledger import Ledger
from memory.ledger.database import Database
from memory.ledger.migrate import alembic_config, migrate
from memory.ledger.migrations import HEAD, VERSION_TABLE
from memory.ledger.models import Base
from memory.window import Window


def test_first_open_makes_the_schema(database_url: str) -> None:
    with Ledger.open(database_url) as ledger:
        assert ledger.schema_revision == HEAD
        assert ledger.runs.list("default") == []


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused_with_how_to_make_one(database_url: str, encoding: str) -> None:
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT")
    name = f"{engine.url.database}_{encoding.lower()}"
    other = engine.url.set(database=name).render_as_string(hide_password=False)
    made = f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc"
    with engine.connect() as connection:
        connection.execute(sa.text(made))
        with pytest.raises(ServerUnsuitableError, match=f"is in {encoding}, and the ledger needs UTF8") as refused:
            Ledger.open(other)
        with pytest.raises(ServerUnsuitableError, match=f"is in {encoding}"):
            check_database(other)
        # Nothing holds on to it.
        connection.execute(sa.text(f"DROP DATABASE {name}"))
    engine.dispose()
    assert "CREATE DATABASE coinswarm ENCODING 'UTF8' TEMPLATE template0" in refused.value.remedy


def test_models_and_migrations_agree(database_url: str) -> None:
    with Ledger.open(database_url) as ledger, ledger.transaction() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_check_constraints_and_sequence_agree_with_the_models(database_url: str) -> None:
    """What Alembic does not compare: made by migrations here, by the models in a second schema, and compared."""
    with Ledger.open(database_url) as ledger, ledger.transaction() as session:
        migrated = _unseen_by_alembic(session.connection(), "public")
        session.execute(sa.text("CREATE SCHEMA from_models"))
        session.execute(sa.text("SET LOCAL search_path TO from_models"))
        Base.metadata.create_all(session.connection(), checkfirst=False)
        assert _unseen_by_alembic(session.connection(), "from_models") == migrated
        assert migrated


def _unseen_by_alembic(connection: sa.Connection, schema: str) -> set[tuple[object, ...]]:
    constraints = connection.execute(
        sa.text(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = CAST(:schema AS regnamespace) AND contype IN ('c', 'f', 'p', 'u')"
        ),
        {"schema": schema},
    )
    sequences = connection.execute(
        sa.text("SELECT sequencename FROM pg_sequences WHERE schemaname = :schema AND sequencename LIKE 'fencing%'"),
        {"schema": schema},
    )
    found = {(name, text.replace("from_models.", "")) for name, text in constraints if VERSION_TABLE not in name}
    return found | {tuple(row) for row in sequences}


def test_head_is_the_newest_migration(database_url: str) -> None:
    database = Database.connect(database_url)
    with database.engine.connect() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_heads() == [HEAD]
    database.dispose()


def test_a_ledger_of_the_first_schema_keeps_its_rows(database_url: str) -> None:
    """Rows of all tables that the second schema changes, as older software wrote them."""
    database = Database.connect(database_url)
    with database.engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        for statement in ROWS_OF_THE_FIRST_SCHEMA:
            connection.execute(sa.text(statement))
    database.dispose()
    window = Window.of_date(date(2021, 6, 17))
    with Ledger.open(database_url) as ledger:
        assert ledger.schema_revision == HEAD
        assert [(row.line, row.state) for row in ledger.lines.list("n")] == [
            ("n/e/1", "LIVE"),
            ("n/e/2", "BUILDING"),
            ("n/f/1", "LIVE"),
        ]
        (archived,) = ledger.windows.archives("n", window, "e")
        assert (archived.format, archived.known_at_max, archived.derived_from) == (1, None, None)
        (status,) = ledger.windows.list("n/e/1")
        assert (status.stale_reason, status.sealed_since) == ("late", None)
        (removal,) = ledger.removals.list("n")
        assert (removal.count, removal.planned, removal.before) == (5, 5, None)
        assert removal.removed_at == removal.planned_at == datetime(2021, 9, 1, tzinfo=UTC)
        assert ledger.removals.open("n") == []
        assert ledger.scorecards.get("n/e/1", window) == b"card"
        (checkpoint,) = ledger.folds.checkpoints("n/e/1", "patterns")
        assert (checkpoint.state_digest, checkpoint.stamp) == ("s", None)
        engine = ledger._database.engine
        with engine.begin() as connection:
            command.downgrade(alembic_config(connection), "0001")
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT count, removed_at FROM removals")).all() == [
                (5, datetime(2021, 9, 1, tzinfo=UTC))
            ]
        assert migrate(engine)


ROWS_OF_THE_FIRST_SCHEMA = (
    "INSERT INTO knowledge_lines (line, namespace, encoder_id, algorithm_version, activation, created_at) "
    "VALUES ('n/e/1', 'n', 'e', '1', 1, '2021-06-18+00'), ('n/e/2', 'n', 'e', '2', NULL, '2021-06-19+00'), "
    "('n/f/1', 'n', 'f', '1', NULL, '2021-06-19+00')",
    "INSERT INTO windows (line, \"window\", stale_since, stale_reason) VALUES ('n/e/1', '2021-06-17', now(), 'late')",
    'INSERT INTO archives (namespace, "window", encoder_id, source, content_digest, states_path, states_sha256, '
    "states_rows, states_bytes, experiences_path, experiences_sha256, experiences_rows, experiences_bytes) "
    "VALUES ('n', '2021-06-17', 'e', 'replay', 'c', 'p', 'h', 1, 2, 'q', 'i', 3, 4)",
    "INSERT INTO scorecards (line, \"window\", digest, payload) VALUES ('n/e/1', '2021-06-17', 'd', 'card')",
    'INSERT INTO fold_checkpoints (line, kind, "window", "full", input_digest, state_digest, items, counts, run_id) '
    "VALUES ('n/e/1', 'patterns', '2021-06-17', true, 'g', 's', 0, '{}', 'r')",
    'INSERT INTO removals (namespace, run_id, memory_type, "window", rule, count, removed_at) '
    "VALUES ('n', 'r', 'EPISODIC', '2021-06-17', 'older than 90 days', 5, '2021-09-01+00')",
)


def test_migrations_can_be_taken_back(database_url: str) -> None:
    with Ledger.open(database_url) as ledger:
        engine = ledger._database.engine
        with engine.begin() as connection:
            command.downgrade(alembic_config(connection), "base")
        with engine.connect() as connection:
            assert set(sa.inspect(connection).get_table_names()) == {VERSION_TABLE}
        assert migrate(engine)
        assert not migrate(engine)


FIRST_OPEN = """
import sys
from alembic import command  # what takes long comes before the start, so that both really start at once
from memory.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
with Ledger.open(sys.argv[1]) as ledger:
    print(ledger.schema_revision)
"""


def test_processes_opening_an_empty_database_at_once_all_succeed(database_url: str) -> None:
    command = [sys.executable, "-c", FIRST_OPEN, database_url]
    starts = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline().strip() == "ready"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("go\n")
        start.stdin.flush()
    assert [start.communicate(timeout=60)[0].strip() for start in starts] == [HEAD, HEAD]
    assert [start.returncode for start in starts] == [0, 0]


def test_of_many_threads_opening_at_once_exactly_one_migrates(database_url: str) -> None:
    database = Database.connect(database_url)
    migrated: list[bool] = []
    barrier = threading.Barrier(4)

    def open_it() -> None:
        barrier.wait()
        migrated.append(migrate(database.engine))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.dispose()
    assert sorted(migrated) == [False, False, False, True]


def test_a_newer_schema_is_refused_with_the_remedy(database_url: str) -> None:
    with Ledger.open(database_url) as ledger, ledger.transaction() as session:
        session.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(LedgerTooNewError, match=r"schema 9999.*Upgrade the software"):
        Ledger.open(database_url)


def test_prefects_own_database_is_refused(database_url: str) -> None:
    database = Database.connect(database_url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE flow_run (id int)"))
    database.dispose()
    with pytest.raises(ServerUnsuitableError, match="CREATE DATABASE coinswarm"):
        Ledger.open(database_url)


def test_a_database_that_does_not_answer_is_said_to_be_away_and_no_password_is_shown() -> None:
    with pytest.raises(StoreUnavailableError, match="COINSWARM_DATABASE_URL") as caught:
        Ledger.open("postgresql://user:hush@127.0.0.1:1/coinswarm")
    assert "hush" not in str(caught.value)


def test_a_missing_database_is_said_to_be_missing(database_url: str) -> None:
    missing = sa.make_url(database_url).set(database="not-there").render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailableError, match="Create the database"):
        Ledger.open(missing)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "no url at all"])
def test_anything_but_postgres_is_refused(url: str) -> None:
    with pytest.raises(ServerUnsuitableError, match="postgresql://"):
        Ledger.open(url)
