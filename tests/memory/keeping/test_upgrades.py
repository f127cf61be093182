"""What another version of the software left: seen without changing it, and brought up to date while nobody works."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import memory
from memory.embedded.home import HOME_VERSION, POSTGRES_MAJOR
from memory.errors import LedgerTooNewError
from memory.keeping import upgrades
from memory.keeping.errors import KeepingError
from memory.keeping.upgrades import (
    BY_HAND,
    CURRENT,
    NEWER,
    PENDING,
    ledger_database,
    look_at_home,
    look_at_ledger,
    look_at_lines,
    look_at_prefect,
    look_at_redis,
    migrate_ledger,
    runs_under_way,
    worst,
)
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Ledger
from memory.ledger.migrate import alembic_config
from memory.ledger.migrations import HEAD, VERSION_TABLE


def test_an_older_ledger_is_migrated_once_and_not_while_a_run_is_under_way(database_url: str) -> None:
    from alembic import command

    with ledger_database(database_url) as database:
        assert look_at_ledger(database).found == "none yet"
        with database.engine.begin() as connection:
            command.upgrade(alembic_config(connection), "0001")
        before = look_at_ledger(database)
        assert (before.found, before.wanted, before.state) == ("0001", HEAD, PENDING)
        assert "0002: " in before.todo
        assert "0003: " in before.todo
        assert look_at_ledger(database) == before  # Looking changes nothing.
        run = sa.text(
            "INSERT INTO runs (run_id, namespace, flow, status, parameters, host, process_id, lease_s) "
            "VALUES ('r', 'n', 'nightly', 'RUNNING', '{}', 'elsewhere', 1, :lease_s)"
        )
        with database.engine.begin() as connection:
            connection.execute(run, {"lease_s": 600})
        with pytest.raises(KeepingError, match="nightly of namespace 'n' on elsewhere"):
            migrate_ledger(database)
        assert look_at_ledger(database) == before
        with database.engine.begin() as connection:  # Its lease is over: it has died.
            connection.execute(sa.text("UPDATE runs SET heartbeat_at = now() - interval '1 hour'"))
        assert runs_under_way(database) == []
        assert migrate_ledger(database)
        assert look_at_ledger(database).state == CURRENT
        assert not migrate_ledger(database)


def test_a_newer_ledger_is_named_and_left_alone(database_url: str) -> None:
    Ledger.open(database_url).close()
    with ledger_database(database_url) as database:
        with database.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        found = look_at_ledger(database)
        assert (found.found, found.state) == ("9999", NEWER)
        with pytest.raises(LedgerTooNewError):
            migrate_ledger(database)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (None, CURRENT),
        ({"version": HOME_VERSION, "postgres": POSTGRES_MAJOR}, CURRENT),
        ({"version": HOME_VERSION + 1, "postgres": POSTGRES_MAJOR}, NEWER),
        ({"version": HOME_VERSION, "postgres": POSTGRES_MAJOR - 1}, BY_HAND),
    ],
)
def test_a_home_tells_which_version_wrote_it(tmp_path: Path, content: dict[str, int] | None, state: str) -> None:
    if content is not None:
        (tmp_path / "home.json").write_text(json.dumps(content))
    assert look_at_home(tmp_path).state == state
    assert not (tmp_path / "locks").exists()


def test_the_database_of_prefect_is_compared_with_the_prefect_that_is_installed(tmp_path: Path) -> None:
    assert look_at_prefect(tmp_path).found == "none yet"
    (tmp_path / "prefect").mkdir()
    (head,) = upgrades._prefect_heads()
    (earlier,) = (upgrades._prefect_scripts().get_revision(head).down_revision,)
    for revision, state in ((head, CURRENT), (earlier, PENDING), ("ffffffffffff", NEWER)):
        with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
            database.execute("DELETE FROM alembic_version")
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        assert look_at_prefect(tmp_path).state == state


@pytest.mark.parametrize(("version", "state"), [(ALGORITHM_VERSION, CURRENT), ("0", BY_HAND), ("999", NEWER)])
def test_a_line_of_another_algorithm_is_named(ledger: Ledger, namespace: str, version: str, state: str) -> None:
    assert look_at_lines(ledger, namespace)[0].found == "none yet"
    run_id = ledger.runs.start("consolidate_memories", namespace, {}, lease_s=60)
    token = ledger.fence.acquire(namespace, run_id, flow="consolidate_memories", lease_s=60)
    ledger.lines.ensure(token, "enc", version)
    (line,) = look_at_lines(ledger, namespace)
    assert (line.found, line.state) == (f"algorithm {version}", state)


async def test_indexes_of_another_layout_are_named(mem: memory.MemoryConnection) -> None:
    assert (await look_at_redis(mem)).found == "none yet"
    for name, state in (("v1", CURRENT), ("v0", BY_HAND), ("v2", NEWER)):
        index = f"{mem.namespace}:episodic:{name}:enc"
        await mem.link.execute("FT.CREATE", index, "ON", "HASH", "PREFIX", 1, f"{index}:", "SCHEMA", "x", "TAG")
        assert (await look_at_redis(mem)).state == state


def test_the_packages_that_are_installed_are_compared_with_those_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {finding.part for finding in upgrades.look_at_packages()}
    assert {"software", "python", "prefect"} <= names
    asked = upgrades.metadata.requires
    changed = ['redis<1 ; extra == "jobs"', "numpy>=1"]
    monkeypatch.setattr(
        upgrades.metadata, "requires", lambda name: changed if name == upgrades.DISTRIBUTION else asked(name)
    )
    (redis,) = [finding for finding in upgrades.look_at_packages() if finding.state != CURRENT]
    assert (redis.part, redis.wanted, redis.todo) == ("redis", "<1", "pip install 'redis<1'")


def test_the_state_that_needs_most_attention_comes_first() -> None:
    def finding(state: str) -> Any:
        return upgrades.Finding("part", "1", "1", state)

    assert worst([finding(CURRENT), finding(PENDING), finding(BY_HAND)]) == PENDING
    assert worst([finding(NEWER), finding(PENDING)]) == NEWER
    assert worst([]) == CURRENT
