"""Rows that an older version of the software wrote come in as they are after its ledger was upgraded in place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from older_ledger import OlderLedger

from memory.backup.ledger_dump import dump_table, read_table
from memory.backup.ledger_load import load_tables, rows_held
from memory.backup.ledger_rows import owned_tables
from memory.backup.ledger_upgrade import SCHEMA, check_revision, upgraded_rows
from memory.errors import SnapshotError
from memory.ledger import Ledger
from memory.ledger.migrate import migrate
from memory.ledger.migrations import HEAD
from tests.memory.backup.test_ledger_rows import Worlds, moved

OLDER = ["0001", "0002"]


@pytest.fixture
def older(database_url: str) -> Iterator[OlderLedger]:
    """A ledger in a database of its own."""
    with Ledger.open(database_url) as ledger:
        yield OlderLedger(ledger)


def written(files: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Rows of files, by table, those without any left out."""
    found = {name: [row for page in read_table(path) for row in page] for name, path in files.items()}
    return {name: rows for name, rows in found.items() if rows}


@pytest.mark.parametrize("revision", OLDER)
def test_rows_of_an_older_schema_are_what_an_upgrade_in_place_makes_of_them(
    older: OlderLedger, ledger: Ledger, revision: str, tmp_path: Path
) -> None:
    namespace = Worlds(older.ledger).filled()
    older.go_back(revision)
    folders = [tmp_path / name for name in ("old", "upgraded", "in-place")]
    for folder in folders:
        folder.mkdir()
    files = older.dump(namespace, folders[0])
    assert len(files) < len(owned_tables())
    upgraded = upgraded_rows(ledger, namespace, revision, files, folders[1])
    assert migrate(older.engine)
    in_place = {owned.name: folders[2] / f"{owned.name}.parquet" for owned in owned_tables()}
    with older.ledger.snapshot() as session:
        for owned in owned_tables():
            dump_table(session, owned, namespace, str(in_place[owned.name]))
    assert written(dict(upgraded.files)) == written(in_place)
    assert upgraded.digest == older.ledger.digest(namespace).digest


@pytest.mark.parametrize("revision", OLDER)
def test_upgraded_rows_come_in_under_another_name_and_nothing_else_is_left(
    older: OlderLedger, ledger: Ledger, revision: str, tmp_path: Path
) -> None:
    source, target = Worlds(older.ledger).filled(), f"t-{uuid.uuid4().hex[:12]}"
    older.go_back(revision)
    (tmp_path / "old").mkdir()
    upgraded = upgraded_rows(ledger, source, revision, older.dump(source, tmp_path / "old"), tmp_path)
    worlds = Worlds(ledger)
    worlds.made.append(target)
    loaded = load_tables(ledger, worlds.token(target), moved(source, target), dict(upgraded.files))
    assert loaded == dict.fromkeys(upgraded.files, 1)
    assert ledger.digest(target).digest == upgraded.digest
    with ledger.transaction() as session:
        assert rows_held(session, source) == {}
        schemas = sa.inspect(session.connection()).get_schema_names()
    assert SCHEMA not in schemas
    assert ledger.schema_revision == HEAD


def test_rows_that_are_of_another_schema_than_they_say_are_refused(
    older: OlderLedger, ledger: Ledger, tmp_path: Path
) -> None:
    namespace = Worlds(older.ledger).filled()
    files = older.dump(namespace, tmp_path)
    with pytest.raises(SnapshotError, match="do not fit the schema that it says they are of"):
        upgraded_rows(ledger, namespace, "0001", files, tmp_path)


def test_a_schema_without_migrations_is_refused_with_the_software_that_wrote_it() -> None:
    with pytest.raises(SnapshotError, match=f"schemas up to {HEAD}") as caught:
        check_revision("9999", "7.1", Path("/there"))
    assert "version 7.1 of the software" in str(caught.value)


def test_a_user_who_may_not_create_a_schema_is_told_what_to_grant(
    older: OlderLedger, database_url: str, tmp_path: Path
) -> None:
    namespace, role = Worlds(older.ledger).filled(), f"t_{uuid.uuid4().hex[:12]}"
    older.go_back("0002")
    files = older.dump(namespace, tmp_path)
    with older.engine.begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE {role}"))
    try:
        poor = sa.make_url(database_url).update_query_dict({"options": f"-c role={role}"})
        migrate(older.engine)
        with older.engine.begin() as connection:
            connection.execute(sa.text(f"GRANT SELECT ON coinswarm_schema TO {role}"))
        with (
            Ledger.open(poor.render_as_string(hide_password=False)) as ledger,
            pytest.raises(SnapshotError, match="may not create a schema"),
        ):
            upgraded_rows(ledger, namespace, "0002", files, tmp_path)
    finally:
        with older.engine.begin() as connection:
            connection.execute(sa.text(f"REVOKE ALL ON coinswarm_schema FROM {role}"))
            connection.execute(sa.text(f"DROP ROLE {role}"))
