"""Postgres going away in the middle: nothing is half-written, and the same call made again completes the work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from memory import embedded
from memory.errors import StoreUnavailableError
from memory.ledger import (
    AliasRow,
    ClusterRow,
    EventRow,
    FencingToken,
    Ledger,
    ManifestEntry,
    Projection,
    PruneDecision,
    RegimeRow,
    ScorecardMetric,
    SummaryRecord,
)
from memory.window import Window

EVENT = EventRow(kind="FOUNDED", pattern_id="p-1", label=2, states=40)
DAY, NEXT = Window.of_date(date(2021, 6, 17)), Window.of_date(date(2021, 6, 18))


@contextmanager
def cut_at(ledger: Ledger, admin: sa.Engine, statement_number: int) -> Iterator[list[str]]:
    """Has the server end the ledger's connection right before its n-th statement, commits counted as statements."""
    seen: list[str] = []
    engine = ledger._database.engine

    def count(connection: sa.Connection, statement: str) -> None:
        seen.append(statement)
        if len(seen) == statement_number:
            driver: Any = connection.connection.dbapi_connection
            with admin.connect() as killer:
                killer.execute(sa.select(sa.func.pg_terminate_backend(driver.info.backend_pid, 5000)))

    def before_statement(
        connection: sa.Connection, cursor: object, statement: str, parameters: object, context: object, many: bool
    ) -> None:
        count(connection, statement)

    def before_commit(connection: sa.Connection) -> None:
        count(connection, "COMMIT")

    sa.event.listen(engine, "before_cursor_execute", before_statement)
    sa.event.listen(engine, "commit", before_commit)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", before_statement)
        sa.event.remove(engine, "commit", before_commit)


@pytest.fixture
def admin(ledger: Ledger) -> Iterator[sa.Engine]:
    engine = sa.create_engine(ledger._database.engine.url)
    yield engine
    engine.dispose()


def stage(ledger: Ledger, token: FencingToken, line: str, payload: bytes = b"1") -> SummaryRecord:
    clusters = [ClusterRow(cluster=n, states=10, support=3, broad=False, member_digest="m") for n in range(3)]
    return ledger.staging.stage(
        token,
        line,
        DAY,
        kind="patterns",
        partition_key="k",
        input_digest=payload.hex(),
        settings_hash="s",
        payload=payload,
        clusters=clusters,
    )


def commit(ledger: Ledger, token: FencingToken, line: str) -> None:
    entry = ManifestEntry(kind="patterns", partition_key="k", digest=stage(ledger, token, line, b"2").digest)
    ledger.windows.commit_generation(token, line, DAY, settings_hash="s", entries=[entry])


def save_checkpoint(ledger: Ledger, token: FencingToken, line: str) -> None:
    base = ledger.folds.load_state(line, "patterns", before=NEXT).checkpoint
    ledger.folds.save_checkpoint(
        token, line, "patterns", NEXT, input_digest="g", base=base, changed={"a": b"2", "b": b"3"}, removed=["c"]
    )


def project(ledger: Ledger, token: FencingToken, line: str) -> None:
    row = RegimeRow(
        item_id="all.CRISIS",
        payload=b"r",
        product_id="all",
        regime="CRISIS",
        states=1,
        share=0.1,
        typical_duration_s=None,
        spells=1,
    )
    decision = PruneDecision(memory_id="p-1", memory_type="PATTERN", kept=True, rules=("grace",))
    alias = AliasRow(alias_id="p-0", pattern_id="p-1")
    ledger.projections.save(token, line, NEXT, Projection(regimes=[row], prune_decisions=[decision], aliases=[alias]))


def score(ledger: Ledger, token: FencingToken, line: str) -> None:
    metric = ScorecardMetric(metric="ic", target="return", predictor="patterns", horizon_minutes=5, value=0.1)
    ledger.scorecards.save(token, line, DAY, b"another card", [metric])


def everything_at_once(ledger: Ledger, token: FencingToken, line: str) -> None:
    with ledger.transaction(token):
        save_checkpoint(ledger, token, line)
        project(ledger, token, line)
        score(ledger, token, line)


def note_lineage(ledger: Ledger, token: FencingToken, line: str) -> None:
    ledger.events.save(token, line, NEXT, [EventRow(kind="CONFIRMED", pattern_id="p-1"), EVENT])


def truncate(ledger: Ledger, token: FencingToken, line: str) -> None:
    ledger.truncate_from(token, line, DAY)


def prepare(ledger: Ledger, token: FencingToken, line: str) -> None:
    """What was there before the step that is interrupted."""
    ledger.folds.save_checkpoint(
        token, line, "patterns", DAY, input_digest="g", base=None, changed={"a": b"1", "c": b"1"}
    )
    ledger.scorecards.save(token, line, DAY, b"card", [])
    ledger.events.save(token, line, DAY, [EVENT])
    ledger.events.save(token, line, NEXT, [EVENT])


STEPS = (commit, save_checkpoint, project, score, note_lineage, everything_at_once, truncate)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_cut_at_any_statement_is_done_wholly_or_not_at_all(
    ledger: Ledger,
    admin: sa.Engine,
    token: FencingToken,
    line: str,
    step: Callable[[Ledger, FencingToken, str], None],
) -> None:
    prepare(ledger, token, line)
    before = ledger.digest(token.namespace)
    cut = 0
    while True:
        cut += 1
        with cut_at(ledger, admin, cut) as seen:
            try:
                step(ledger, token, line)
            except StoreUnavailableError:
                assert ledger.digest(token.namespace) == before
                continue
        break
    assert cut == len(seen) + 1
    assert cut > 3
    done = ledger.digest(token.namespace)
    assert done != before
    step(ledger, token, line)
    assert ledger.digest(token.namespace) == done


def test_what_was_known_is_noted_wherever_a_refold_is_cut(
    ledger: Ledger, admin: sa.Engine, token: FencingToken, line: str
) -> None:
    """Either nothing was dropped yet, or the names from before are there to be kept."""
    prepare(ledger, token, line)
    before = ledger.digest(token.namespace)
    cut = 0
    while True:
        cut += 1
        with cut_at(ledger, admin, cut):
            try:
                with ledger.transaction(token):
                    ledger.refolds.begin(token, line, first=DAY, last=NEXT, payload=b"names")
                    ledger.truncate_from(token, line, DAY)
            except StoreUnavailableError:
                assert (ledger.digest(token.namespace), ledger.refolds.open(line)) == (before, None)
                continue
        break
    begun = ledger.refolds.open(line)
    assert begun is not None
    assert begun.payload == b"names"
    assert ledger.digest(token.namespace) != before


def test_a_ledger_goes_on_after_its_connections_were_lost(
    ledger: Ledger, admin: sa.Engine, token: FencingToken, line: str
) -> None:
    staged = stage(ledger, token, line)
    with ledger.transaction() as session:
        own = session.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
    with admin.connect() as killer:
        killer.execute(sa.select(sa.func.pg_terminate_backend(own, 5000)))
    assert stage(ledger, token, line) == staged


def test_an_error_inside_a_transaction_takes_all_of_it_back(ledger: Ledger, token: FencingToken, line: str) -> None:
    before = ledger.digest(token.namespace)

    def commit_half() -> None:
        with ledger.transaction(token):
            commit(ledger, token, line)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        commit_half()
    assert ledger.digest(token.namespace) == before
    commit(ledger, token, line)
    assert ledger.digest(token.namespace) != before


def test_postgres_killed_within_a_transaction_leaves_what_was_committed_before(tmp_path: Path) -> None:
    with embedded.open_session(tmp_path / "home", ("postgres",)) as session:
        assert session.endpoints.database_url is not None
        with Ledger.open(session.endpoints.database_url) as ledger:
            token = ledger.fence.acquire("default", "run-1", flow="nightly", lease_s=60)
            line = ledger.lines.ensure(token, "encoder-1", "1")
            prepare(ledger, token, line)
            before = ledger.digest("default")
            with pytest.raises(StoreUnavailableError):
                commit_while_postgres_is_killed(ledger, token, line, tmp_path / "home")
    with embedded.open_session(tmp_path / "home", ("postgres",)) as session:
        assert session.endpoints.database_url is not None
        with Ledger.open(session.endpoints.database_url) as ledger:
            assert ledger.digest("default") == before
            everything_at_once(ledger, token, line)
            assert ledger.digest("default") != before


def commit_while_postgres_is_killed(ledger: Ledger, token: FencingToken, line: str, home: Path) -> None:
    with ledger.transaction(token):
        commit(ledger, token, line)
        kill_postgres(home)
        project(ledger, token, line)


def kill_postgres(home: Path) -> None:
    """SIGKILL to the postmaster; its children end by themselves as soon as they notice."""
    (pid,) = [server.pid for server in embedded.home_status(home).servers if server.name == "postgres"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.02)
