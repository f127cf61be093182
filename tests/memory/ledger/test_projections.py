"""Projected rows: versions by window, idempotent, searchable; aliases and prune decisions."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import ConflictingRecordError
from memory.ledger import (
    AliasRow,
    CorrelationRow,
    FencingToken,
    Ledger,
    PatternRow,
    Projection,
    PruneDecision,
    RegimeRow,
    StrategyRow,
    TransitionRow,
    VersionRow,
)
from memory.ledger.models import PatternVersion
from memory.window import Window
from tests.thoroughness import examples

SEEN = datetime(2021, 6, 17, 12, 30, tzinfo=UTC)


def day(index: int) -> Window:
    return Window.of_date(date(2021, 6, 17) + timedelta(days=index))


def pattern(item_id: str, payload: bytes = b"p", **changes: Any) -> PatternRow:
    row = PatternRow(
        item_id=item_id,
        payload=payload,
        status="confirmed",
        published=True,
        source="replay",
        regime="VOLATILE",
        product_ids=("BTC-USD", "ETH-USD"),
        support=4,
        states=40,
        windows_seen=2,
        first_seen=SEEN,
        last_seen=SEEN,
        broad=False,
        demoted=False,
        expected_return=1e-4,
        best_action="LONG",
        description="volume doubled",
    )
    return dataclasses.replace(row, **changes)


def save_patterns(ledger: Ledger, token: FencingToken, line: str, index: int, *rows: PatternRow) -> None:
    ledger.projections.save(token, line, day(index), Projection(patterns=rows))


def versions(ledger: Ledger, line: str) -> int:
    with ledger.transaction() as session:
        return (
            session.scalar(sa.select(sa.func.count()).select_from(PatternVersion).where(PatternVersion.line == line))
            or 0
        )


def test_rows_of_every_kind_come_back_as_they_were_saved(ledger: Ledger, token: FencingToken, line: str) -> None:
    rows: dict[str, Any] = {
        "patterns": [pattern("p-1")],
        "transitions": [
            TransitionRow(
                item_id="all.QUIET.CRISIS",
                payload=b"t",
                product_id="all",
                from_regime="QUIET",
                to_regime="CRISIS",
                count=3.0,
                probability=0.25,
                step_probability=None,
                step_s=60.0,
            )
        ],
        "regimes": [
            RegimeRow(
                item_id="all.QUIET",
                payload=b"r",
                product_id="all",
                regime="QUIET",
                states=100,
                share=0.4,
                typical_duration_s=None,
                spells=9,
            )
        ],
        "strategies": [
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
        "correlations": [
            CorrelationRow(
                item_id="c",
                payload=b"c",
                product_a="BTC-USD",
                product_b="ETH-USD",
                regime="QUIET",
                bar_minutes=1,
                lag=-2,
                correlation=0.7,
                low=0.6,
                high=0.8,
                n=48,
                claimed=True,
            )
        ],
    }
    ledger.projections.save(token, line, day(0), Projection(**rows))
    for (row,) in rows.values():
        assert ledger.projections.as_of(type(row), line) == [row]


def test_patterns_are_as_they_stood_after_each_window(ledger: Ledger, token: FencingToken, line: str) -> None:
    one, two, grown = pattern("p-1"), pattern("p-2"), pattern("p-1", support=5)
    save_patterns(ledger, token, line, 0, one)
    save_patterns(ledger, token, line, 1, one, two)
    save_patterns(ledger, token, line, 2, grown)
    save_patterns(ledger, token, line, 3, grown, two)
    found = [ledger.projections.as_of(PatternRow, line, day(index)) for index in range(-1, 4)]
    assert found == [[], [one], [one, two], [grown], [grown, two]]
    assert ledger.projections.history(PatternRow, line, "p-2") == [(day(1), two), (day(2), None), (day(3), two)]


def test_an_unchanged_pattern_costs_no_row(ledger: Ledger, token: FencingToken, line: str) -> None:
    for index in range(5):
        save_patterns(ledger, token, line, index, pattern("p-1"))
    assert versions(ledger, line) == 1


def test_a_changed_column_alone_makes_a_version(ledger: Ledger, token: FencingToken, line: str) -> None:
    save_patterns(ledger, token, line, 0, pattern("p-1"))
    save_patterns(ledger, token, line, 1, pattern("p-1", status="faded"))
    assert [row.status for row in ledger.projections.as_of(PatternRow, line)] == ["faded"]


def test_saving_the_same_again_keeps_later_windows(ledger: Ledger, token: FencingToken, line: str) -> None:
    save_patterns(ledger, token, line, 0, pattern("p-1"))
    save_patterns(ledger, token, line, 1, pattern("p-2"))
    save_patterns(ledger, token, line, 0, pattern("p-1"))
    assert [row.item_id for row in ledger.projections.as_of(PatternRow, line)] == ["p-2"]


def test_saving_something_else_drops_later_windows(ledger: Ledger, token: FencingToken, line: str) -> None:
    save_patterns(ledger, token, line, 0, pattern("p-1"))
    save_patterns(ledger, token, line, 1, pattern("p-2"))
    save_patterns(ledger, token, line, 0, pattern("p-3"))
    assert [row.item_id for row in ledger.projections.as_of(PatternRow, line)] == ["p-3"]


def test_a_kind_that_is_not_named_is_left_alone(ledger: Ledger, token: FencingToken, line: str) -> None:
    save_patterns(ledger, token, line, 0, pattern("p-1"))
    ledger.projections.save(token, line, day(0), Projection(transitions=[]))
    assert len(ledger.projections.as_of(PatternRow, line)) == 1


states = st.lists(st.dictionaries(st.sampled_from(["p-1", "p-2", "p-3"]), st.binary(max_size=2)), max_size=6)


@settings(max_examples=examples(10, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nights=states, again=st.integers(0, 5))
def test_any_history_of_saving_ends_as_one_clean_run_would(
    ledger: Ledger, token: FencingToken, line: str, nights: list[dict[str, bytes]], again: int
) -> None:
    ledger.truncate_from(token, line, day(0))
    rows = [[pattern(key, payload) for key, payload in night.items()] for night in nights]
    for index, night in enumerate(rows):
        save_patterns(ledger, token, line, index, *night)
    clean = ledger.digest(token.namespace)
    ledger.truncate_from(token, line, day(again))
    for index, night in list(enumerate(rows))[max(0, again - 1) :]:
        save_patterns(ledger, token, line, index, *reversed(night))
    for index, night in enumerate(rows):
        found = ledger.projections.as_of(PatternRow, line, day(index))
        assert found == sorted(night, key=lambda row: row.item_id)
    assert ledger.digest(token.namespace) == clean


def test_two_rows_with_one_id_are_refused(ledger: Ledger, token: FencingToken, line: str) -> None:
    with pytest.raises(ConflictingRecordError, match="share an id"):
        save_patterns(ledger, token, line, 0, pattern("p-1"), pattern("p-1", support=9))


def test_patterns_are_searched_and_the_best_supported_come_first(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    rows = (
        pattern("p-1", support=3),
        pattern("p-2", support=9, regime="QUIET"),
        pattern("p-3", support=5, product_ids=("LTC-USD",), published=False),
    )
    save_patterns(ledger, token, line, 0, *rows)
    search = ledger.projections.patterns
    assert [row.item_id for row in search(line)] == ["p-2", "p-3", "p-1"]
    assert [row.item_id for row in search(line, limit=1)] == ["p-2"]
    assert [row.item_id for row in search(line, regime="QUIET")] == ["p-2"]
    assert [row.item_id for row in search(line, product_id="LTC-USD")] == ["p-3"]
    assert [row.item_id for row in search(line, published=True, minimum_support=4)] == ["p-2"]
    assert search(line, status="faded") == []


def test_an_id_is_followed_through_merges_to_where_it_leads_now(ledger: Ledger, token: FencingToken, line: str) -> None:
    aliases = [AliasRow(alias_id="p-1", pattern_id="p-2")]
    ledger.projections.save(token, line, day(0), Projection(aliases=aliases))
    aliases.append(AliasRow(alias_id="p-2", pattern_id="p-3"))
    ledger.projections.save(token, line, day(1), Projection(aliases=aliases))
    assert ledger.projections.resolve(line, "p-1") == "p-3"
    assert ledger.projections.resolve(line, "p-9") == "p-9"
    assert ledger.projections.aliases(line, day(0)) == aliases[:1]
    ledger.truncate_from(token, line, day(1))
    assert ledger.projections.resolve(line, "p-1") == "p-2"


def test_an_alias_that_moves_on_comes_back_when_its_move_is_taken_back(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    ledger.projections.save(token, line, day(0), Projection(aliases=[AliasRow(alias_id="a", pattern_id="b")]))
    ledger.projections.save(token, line, day(1), Projection(aliases=[AliasRow(alias_id="a", pattern_id="c")]))
    assert ledger.projections.resolve(line, "a") == "c"
    ledger.truncate_from(token, line, day(1))
    assert ledger.projections.resolve(line, "a") == "b"


def test_ids_of_an_earlier_fold_survive_folding_again(ledger: Ledger, token: FencingToken, line: str) -> None:
    ledger.projections.add_aliases(token, line, day(1), [AliasRow(alias_id="old", pattern_id="p-1")])
    ledger.truncate_from(token, line, day(0))
    assert ledger.projections.resolve(line, "old") == "p-1"
    assert [alias.reason for alias in ledger.projections.aliases(line)] == ["REFOUNDED"]


def test_aliases_in_a_circle_end(ledger: Ledger, token: FencingToken, line: str) -> None:
    circle = [AliasRow(alias_id="a", pattern_id="b"), AliasRow(alias_id="b", pattern_id="a")]
    ledger.projections.save(token, line, day(0), Projection(aliases=circle))
    assert ledger.projections.resolve(line, "a") == "b"


def test_prune_decisions_replace_earlier_ones_of_the_window(ledger: Ledger, token: FencingToken, line: str) -> None:
    first = PruneDecision(memory_id="p-1", memory_type="PATTERN", kept=True, rules=("grace",), details={"sharpe": 0.2})
    second = dataclasses.replace(first, kept=False, rules=())
    for decision in (first, second):
        ledger.projections.save(token, line, day(0), Projection(prune_decisions=[decision]))
    assert ledger.projections.prune_decisions(line, day(0)) == [second]
    ledger.projections.save(token, line, day(0), Projection(prune_decisions=[]))
    assert ledger.projections.prune_decisions(line, day(0)) == []


def test_versions_are_streamed_item_by_item_in_order_of_time(
    ledger: Ledger, token: FencingToken, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids in the order of their code points, whatever the database's collation; in pages as small as one item."""
    save_patterns(ledger, token, line, 0, pattern("b"), pattern("A"))
    save_patterns(ledger, token, line, 1, pattern("b", b"changed"), pattern("A"), pattern("a"))
    save_patterns(ledger, token, line, 2, pattern("A"), pattern("a"))
    everything = [
        VersionRow(item_id="A", window=day(0), removed=False, payload=b"p"),
        VersionRow(item_id="a", window=day(1), removed=False, payload=b"p"),
        VersionRow(item_id="b", window=day(0), removed=False, payload=b"p"),
        VersionRow(item_id="b", window=day(1), removed=False, payload=b"changed"),
        VersionRow(item_id="b", window=day(2), removed=True, payload=None),
    ]
    assert list(ledger.projections.versions(PatternRow, line)) == everything
    later = [version for version in everything if version.window >= day(1)]
    assert list(ledger.projections.versions(PatternRow, line, day(1))) == later
    monkeypatch.setattr("memory.ledger.projections.VERSION_PAGE_BYTES", 1)
    assert list(ledger.projections.versions(PatternRow, line)) == everything
    assert list(ledger.projections.versions(RegimeRow, line)) == []


def test_other_work_goes_on_while_versions_are_streamed(ledger: Ledger, token: FencingToken, line: str) -> None:
    save_patterns(ledger, token, line, 0, pattern("p-1"), pattern("p-2"))
    stream = ledger.projections.versions(PatternRow, line)
    assert next(stream).item_id == "p-1"
    with ledger.transaction(token):
        ledger.projections.add_aliases(token, line, day(0), [AliasRow(alias_id="x", pattern_id="p-1")])
    assert [version.item_id for version in stream] == ["p-2"]
    assert len(ledger.projections.aliases(line)) == 1
