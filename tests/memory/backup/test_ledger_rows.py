"""All rows of a namespace leave the ledger and come back under another name, those of tables to come as well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from memory.backup.ledger_dump import dump_table, read_table
from memory.backup.ledger_load import Move, delete_fences, delete_rows, load_tables, rows_held
from memory.backup.ledger_rows import NOT_KEPT, OwnedTable, owned_tables
from memory.errors import FencedOutError, SnapshotError
from memory.ledger import FencingToken, Ledger
from memory.ledger.models import Base
from memory.ledger.models.base import UtcTimestamp, WindowDate
from memory.window import Window

CHOICES = {
    ("runs", "status"): "SUCCEEDED",
    ("knowledge_lines", "state"): "LIVE",
    ("pattern_aliases", "reason"): "MERGED",
}
"""Values of columns that take some only."""
POLICIES = "/somewhere/policies"


class Worlds:
    """Namespaces with a row in every table."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.made: list[str] = []

    def name(self) -> str:
        """A namespace that is emptied in the end."""
        self.made.append(f"t-{uuid.uuid4().hex[:12]}")
        return self.made[-1]

    def filled(self) -> str:
        """A namespace with a row in every table, each referring to those before it."""
        namespace = self.name()
        rows: dict[str, Any] = {}
        with self.ledger.transaction() as session:
            for owned in owned_tables():
                values = {
                    column.name: value(owned.table, column, namespace, rows)
                    for column in owned.table.columns
                    if column.identity is None and column.name not in owned.late
                }
                made = sa.insert(owned.table).values(values).returning(*owned.table.columns)
                rows[owned.name] = session.execute(made).mappings().one()
            for owned in owned_tables():
                for name in owned.late:
                    (key,) = owned.table.columns[name].foreign_keys
                    late = {name: rows[key.column.table.name][key.column.name]}
                    session.execute(sa.update(owned.table).where(owned.rows_of(namespace)).values(late))
        return namespace

    def token(self, namespace: str) -> FencingToken:
        """The right to write to a namespace."""
        run_id = self.ledger.runs.start("restore_memory", namespace, {}, lease_s=60)
        return self.ledger.fence.acquire(namespace, run_id, flow="restore_memory", lease_s=60)

    def rows(self, namespace: str, *, without: str = "") -> dict[str, list[dict[str, Any]]]:
        """All rows of a namespace, by table."""
        with self.ledger.transaction() as session:
            return {
                owned.name: [
                    dict(row)
                    for row in session.execute(sa.select(owned.table).where(owned.rows_of(namespace))).mappings()
                    if row.get("run_id") != without or owned.name != "runs"
                ]
                for owned in owned_tables()
            }


def value(table: sa.Table, column: sa.Column[Any], namespace: str, rows: dict[str, Any]) -> Any:
    """A value for a column: of the row that it refers to, or one that has its name in it."""
    if (table.name, column.name) in CHOICES:
        return CHOICES[table.name, column.name]
    for key in column.foreign_keys:
        return rows[key.column.table.name][key.column.name]
    if column.name == "namespace":
        return namespace
    if column.name == "line":
        return f"{namespace}/rff-1/1"
    if column.name in ("states_path", "experiences_path"):
        return f"{namespace}/2021-06-17/{column.name}-abc.parquet"
    if (table.name, column.name) == ("trained_policies", "path"):
        return f"{POLICIES}/{namespace}/p.npz"
    if column.name == "training_id":
        return f"training-{uuid.uuid4().hex}"
    kinds: tuple[tuple[type[Any], Any], ...] = (
        (JSONB, {column.name: [1, 2.5, "tab\t\\ \u20ac", None], "small": 1e-9}),
        (ARRAY, ["a,b", 'quote"d', "\\"]),
        (UtcTimestamp, datetime(2021, 6, 17, 1, 2, 3, 456789, tzinfo=UTC)),
        (WindowDate, Window.of_date(date(2021, 6, 17))),
        (sa.LargeBinary, bytes(range(256))),
        (sa.Boolean, True),
        (sa.BigInteger, 2**40 + 1),
        (sa.Double, 0.1 + 0.2),
        (sa.Text, f"{column.name}\n\t\\N {uuid.uuid4().hex}"),
    )
    return next(made for kind, made in kinds if isinstance(column.type, kind))


@pytest.fixture
def worlds(ledger: Ledger) -> Iterator[Worlds]:
    made = Worlds(ledger)
    yield made
    with ledger.transaction() as session:
        for namespace in made.made:
            delete_rows(session, namespace)
            delete_fences(session, namespace)


def dumped(worlds: Worlds, namespace: str, folder: Path) -> dict[str, Path]:
    """A file of each table."""
    files = {owned.name: folder / f"{owned.name}.parquet" for owned in owned_tables()}
    with worlds.ledger.snapshot() as session:
        for owned in owned_tables():
            assert dump_table(session, owned, namespace, str(files[owned.name])) == 1
    return files


def moved(source: str, target: str) -> Move:
    return Move(source, target, f"{POLICIES}/{source}", f"/elsewhere/{target}")


def test_every_table_of_the_ledger_belongs_to_a_namespace() -> None:
    assert {owned.name for owned in owned_tables()} == set(Base.metadata.tables) - NOT_KEPT


def test_a_file_holds_each_value_as_the_ledger_does(worlds: Worlds, tmp_path: Path) -> None:
    namespace = worlds.filled()
    files = dumped(worlds, namespace, tmp_path)
    (row,) = worlds.rows(namespace)["patterns"]
    ((held,),) = read_table(files["patterns"])
    assert held == row | {"window": date(2021, 6, 17)}


def test_all_rows_come_back_under_another_name_beside_the_originals(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    before = worlds.rows(source)
    token = worlds.token(target)
    loaded = load_tables(worlds.ledger, token, moved(source, target), dumped(worlds, source, tmp_path))
    assert set(loaded.values()) == {1}
    after = worlds.rows(target, without=token.run_id)
    for owned in owned_tables():
        if owned.name == "training_steps":
            continue  # Named by its content: the row that is there is the same.
        (old,), (new,) = before[owned.name], after[owned.name]
        changes = {name for name in old if old[name] != new[name]}
        assert changes == expected_changes(owned)
        assert source not in repr([new[name] for name in new if not isinstance(new[name], dict)])
    assert worlds.rows(source) == before


def expected_changes(owned: OwnedTable) -> set[str]:
    named = {"namespace", "line", "run_id", "states_path", "experiences_path", "path"} & set(owned.columns)
    return named | {identity.column for identity in owned.identities}


def test_a_run_that_was_under_way_is_left_out(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    worlds.ledger.runs.start("backup_memory", source, {}, lease_s=60)
    path = tmp_path / "runs.parquet"
    with worlds.ledger.snapshot() as session:
        runs = next(owned for owned in owned_tables() if owned.name == "runs")
        assert dump_table(session, runs, source, str(path)) == 1
    assert load_tables(worlds.ledger, worlds.token(target), moved(source, target), {"runs": path}) == {"runs": 1}


def test_a_snapshot_that_holds_a_run_under_way_comes_in_without_it(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    path = dumped(worlds, source, tmp_path)["runs"]
    table = pq.read_table(path)
    status = table.schema.get_field_index("status")
    pq.write_table(table.set_column(status, table.schema.field(status), [["RUNNING"]]), path)
    assert load_tables(worlds.ledger, worlds.token(target), moved(source, target), {"runs": path}) == {"runs": 0}


def test_rows_refer_to_one_another_as_they_did(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    token = worlds.token(target)
    load_tables(worlds.ledger, token, moved(source, target), dumped(worlds, source, tmp_path))
    found = worlds.rows(target)
    assert found["windows"][0]["current_generation_id"] == found["generations"][0]["id"]
    assert found["generation_archives"][0]["archive_id"] == found["archives"][0]["id"]
    assert found["fold_items"][0]["checkpoint_id"] == found["fold_checkpoints"][0]["id"]


def test_loading_again_leaves_one_of_each(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    files, token = dumped(worlds, source, tmp_path), worlds.token(target)
    for _ in range(2):
        load_tables(worlds.ledger, token, moved(source, target), files)
    counts = {name: len(rows) for name, rows in worlds.rows(target, without=token.run_id).items()}
    assert counts == {name: int(name != "training_steps") for name in counts}


def test_what_the_database_numbers_next_is_behind_what_was_loaded(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    token = worlds.token(target)
    load_tables(worlds.ledger, token, moved(source, target), dumped(worlds, source, tmp_path))
    later = worlds.rows(worlds.filled())["summaries"][0]["id"]
    assert later > worlds.rows(target)["summaries"][0]["id"] > worlds.rows(source)["summaries"][0]["id"]


def test_a_run_that_was_overtaken_loads_nothing(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    token = worlds.token(target)
    worlds.ledger.fence.release(token)
    with pytest.raises(FencedOutError):
        load_tables(worlds.ledger, token, moved(source, target), dumped(worlds, source, tmp_path))
    with worlds.ledger.transaction() as session:
        assert rows_held(session, target) == {}


def test_a_table_that_this_ledger_lacks_is_named(worlds: Worlds, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="rows of dreams"):
        load_tables(worlds.ledger, worlds.token(worlds.name()), moved("a", "b"), {"dreams": tmp_path / "dreams"})


def test_what_a_namespace_holds_is_counted_and_goes_wholly(worlds: Worlds) -> None:
    namespace, other = worlds.filled(), worlds.filled()
    kept = worlds.rows(other)
    with worlds.ledger.transaction() as session:
        assert set(rows_held(session, namespace)) >= {"patterns", "generations", "archives", "trained_policies"}
        assert delete_rows(session, namespace) == len(owned_tables())
        assert rows_held(session, namespace) == {}
    assert worlds.rows(other) == kept


def test_rows_of_another_namespaces_line_do_not_come_in(worlds: Worlds, tmp_path: Path) -> None:
    source, target = worlds.filled(), worlds.name()
    files = dumped(worlds, source, tmp_path)
    with pytest.raises(SnapshotError, match=f"line '{source}/rff-1/1', which is another namespace's"):
        load_tables(worlds.ledger, worlds.token(target), moved("elsewhere", target), files)
    with worlds.ledger.transaction() as session:
        assert rows_held(session, target) == {}


@pytest.mark.parametrize("path", ["source/../../etc/x.parquet", "source//etc/x.parquet", "../x.parquet"])
def test_an_archived_file_that_leads_out_of_the_archive_is_refused(path: str) -> None:
    with pytest.raises(SnapshotError, match="outside of the archive"):
        moved("source", "target").archive_path(path)
