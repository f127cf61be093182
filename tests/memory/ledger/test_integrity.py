"""Whoever changes the ledger behind the software's back is found out, whichever column it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.ledger import (
    AliasRow,
    CorrelationRow,
    EventRow,
    FencingToken,
    Ledger,
    ManifestEntry,
    PatternRow,
    Projection,
    PruneDecision,
    RegimeRow,
    ScorecardMetric,
    StrategyRow,
    TransitionRow,
)
from memory.ledger.models import Base
from memory.window import Window

DAY, NEXT = Window.of_date(date(2021, 6, 17)), Window.of_date(date(2021, 6, 18))
NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
ROWS = Projection(
    patterns=[
        PatternRow(
            item_id="p-1",
            payload=b"p",
            status="confirmed",
            published=True,
            source="replay",
            regime="VOLATILE",
            product_ids=("BTC-USD",),
            support=4,
            states=40,
            windows_seen=2,
            first_seen=NOON,
            last_seen=NOON,
            broad=False,
            demoted=False,
            expected_return=1e-4,
            best_action="LONG",
            description="volume doubled",
        )
    ],
    transitions=[
        TransitionRow(
            item_id="all.QUIET.CRISIS",
            payload=b"t",
            product_id="all",
            from_regime="QUIET",
            to_regime="CRISIS",
            count=3.0,
            probability=0.25,
            step_probability=0.1,
            step_s=60.0,
        )
    ],
    regimes=[
        RegimeRow(
            item_id="all.QUIET",
            payload=b"r",
            product_id="all",
            regime="QUIET",
            states=100,
            share=0.4,
            typical_duration_s=60.0,
            spells=9,
        )
    ],
    strategies=[
        StrategyRow(
            item_id="momentum",
            payload=b"s",
            agent_id="momentum",
            source="replay",
            applicable_regimes=("TRENDING",),
            sharpe_ratio=1.5,
            mean_return=1e-5,
            win_rate=0.5,
            n=1440,
        )
    ],
    correlations=[
        CorrelationRow(
            item_id="a.b",
            payload=b"c",
            product_a="BTC-USD",
            product_b="ETH-USD",
            regime="QUIET",
            bar_minutes=5,
            lag=1,
            correlation=0.5,
            low=0.4,
            high=0.6,
            n=288,
            claimed=True,
        )
    ],
    aliases=[AliasRow(alias_id="p-0", pattern_id="p-1")],
    prune_decisions=[
        PruneDecision(memory_id="p-1", memory_type="PATTERN", kept=True, rules=("grace",), details={"share": 0.4})
    ],
)

EXEMPT: dict[str, set[str]] = {
    # How the work went.
    "fold_checkpoints": {"id", "full", "run_id", "created_at", "stamp"},
    "generations": {"id", "number", "settings_hash", "recorded_cut", "counts", "run_id", "token", "created_at"},
    "summaries": {"id", "input_digest", "settings_hash", "columns", "run_id", "created_at"},
    "encoders": {"created_at"},
    "knowledge_lines": {"created_at"},
    "windows": {"stale_since", "stale_reason", "sealed_reason"},
    "scorecards": {"input_digest"},
    "pattern_aliases": {"reason"},
}
"""Columns that are no knowledge; keys that lead to other rows are left out beside them."""
TABLES = (
    "patterns",
    "transitions",
    "regimes",
    "strategies",
    "correlations",
    "pattern_aliases",
    "pattern_events",
    "prune_decisions",
    "scorecards",
    "scorecard_metrics",
    "fold_checkpoints",
    "fold_items",
    "generations",
    "summaries",
    "windows",
    "encoders",
    "knowledge_lines",
)


@pytest.fixture
def night(ledger: Ledger, token: FencingToken, line: str) -> str:
    """A line with a row in every table of knowledge, and nothing that is not known."""
    ledger.lines.save_encoder(token, "encoder-1", b"encoder", dimension=256, fitted_until=NOON)
    staged = ledger.staging.stage(
        token, line, DAY, kind="patterns", partition_key="k", input_digest="i", settings_hash="s", payload=b"summary"
    )
    entry = ManifestEntry(kind="patterns", partition_key="k", digest=staged.digest)
    ledger.windows.commit_generation(token, line, DAY, settings_hash="s", entries=[entry])
    base = ledger.folds.save_checkpoint(
        token, line, "patterns", DAY, input_digest="g", base=None, changed={"a": b"1", "b": b"1"}
    )
    ledger.folds.save_checkpoint(
        token, line, "patterns", NEXT, input_digest="h", base=base, changed={"a": b"2"}, removed=["b"]
    )
    ledger.projections.save(token, line, DAY, ROWS)
    event = EventRow(
        kind="MERGED", pattern_id="p-1", other_id="p-2", label=1, states=9, cosine=0.9, threshold=0.8, rule="null"
    )
    ledger.events.save(token, line, DAY, [event])
    metric = ScorecardMetric(
        metric="ic", target="return", predictor="patterns", horizon_minutes=5, value=0.1, low=0.0, high=0.2, n=48
    )
    ledger.scorecards.save(token, line, DAY, b"card", [metric])
    return line


def other_value(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Something else of the column's type."""
    if column.name == "state":
        return sa.literal("RETIRED")
    if isinstance(column.type, sa.types.TypeDecorator):
        day: sa.ColumnElement[Any] = sa.literal_column("interval '1 day'")
        now: sa.ColumnElement[Any] = sa.cast(sa.func.coalesce(column, sa.func.clock_timestamp()), sa.TIMESTAMP(True))
        return sa.cast(column, sa.Date) + 1 if isinstance(column.type.impl_instance, sa.Date) else now + day
    if isinstance(column.type, sa.LargeBinary):
        return column.op("||")(sa.literal(b"x", sa.LargeBinary()))
    if isinstance(column.type, sa.ARRAY):
        return sa.func.array_append(column, "other")
    if isinstance(column.type, sa.JSON):
        return sa.cast(sa.literal('{"other": [["a", "b", "c"]], "partitions": []}'), column.type.__class__)
    if isinstance(column.type, sa.Boolean):
        return ~column
    if isinstance(column.type, sa.Text):
        return column.op("||")(sa.literal("x", sa.Text()))
    return column + 1


@pytest.mark.parametrize("name", TABLES)
def test_a_change_of_any_column_shows(ledger: Ledger, token: FencingToken, night: str, name: str) -> None:
    table = Base.metadata.tables[name]
    before = ledger.digest(token.namespace)
    assert list(ledger.damaged(night)) == []
    keys = {column.name for column in table.columns if column.foreign_keys} | {"line", "namespace"}
    if name in ("scorecards", "generations", "windows"):
        keys.add("window")  # other rows lead to it
    columns = [column for column in table.columns if column.name not in keys | EXEMPT.get(name, set())]
    assert columns
    for column in columns:
        with taken_back(ledger) as session:
            values = {column: other_value(column)}
            changed = session.execute(sa.update(table).where(of_test(table, night)).values(values))
            assert changed.rowcount >= 1  # type: ignore[attr-defined]
            damaged = any(ledger.damaged(night))
            assert damaged or ledger.digest(token.namespace) != before, f"{name}.{column.name}"
    assert ledger.digest(token.namespace) == before


@contextmanager
def taken_back(ledger: Ledger) -> Iterator[Session]:
    """A transaction whose changes are gone at its end."""
    with ledger.transaction() as session:
        savepoint = session.begin_nested()
        yield session
        savepoint.rollback()


def of_test(table: sa.Table, line: str) -> sa.ColumnElement[bool]:
    if table.name == "fold_checkpoints":
        return (table.c.line == line) & (table.c.window == NEXT)
    if "line" in table.columns:
        return table.c.line == line
    if "namespace" in table.columns:
        return table.c.namespace == line.partition("/")[0]
    checkpoints = Base.metadata.tables["fold_checkpoints"]
    own = sa.select(checkpoints.c.id).where(checkpoints.c.line == line, checkpoints.c.window == NEXT)
    return table.c.checkpoint_id.in_(own) & table.c.payload.is_not(None)


def test_damage_names_the_row(ledger: Ledger, token: FencingToken, night: str) -> None:
    with ledger.transaction() as session:
        session.execute(sa.text("UPDATE patterns SET support = 5 WHERE line = :line"), {"line": night})
        session.execute(sa.text("UPDATE summaries SET payload = 'other' WHERE line = :line"), {"line": night})
        session.execute(
            sa.text(
                "DELETE FROM fold_items USING fold_checkpoints c WHERE checkpoint_id = c.id AND c.line = :line "
                "AND item_key = 'b'"
            ),
            {"line": night},
        )
    found = {(damage.table, damage.key) for damage in ledger.damaged(night)}
    assert found == {
        ("patterns", "p-1 after 2021-06-17"),
        ("summaries", "patterns k of 2021-06-17"),
        ("fold_checkpoints", "fold patterns after 2021-06-17"),
    }


def test_damage_is_found_on_every_page(
    ledger: Ledger, token: FencingToken, night: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (regime,) = ROWS.regimes or ()
    rows = [
        RegimeRow(
            **{**{name: getattr(regime, name) for name in regime.__slots__}, "item_id": f"r-{n}", "payload": b"r"}
        )
        for n in range(5)
    ]
    ledger.projections.save(token, night, DAY, Projection(regimes=rows))
    with ledger.transaction() as session:
        session.execute(sa.text("UPDATE regimes SET spells = 7 WHERE line = :line"), {"line": night})
    monkeypatch.setattr("memory.ledger.integrity.PAGE_ROWS", 2)
    assert [damage.key.partition(" ")[0] for damage in ledger.damaged(night)] == [f"r-{n}" for n in range(5)]
