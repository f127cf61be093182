"""The digest: equal for equal knowledge however it came about, different for any difference in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date

import pytest
import sqlalchemy as sa

from memory.errors import InvalidQueryError
from memory.ledger import (
    AliasRow,
    EventRow,
    FencingToken,
    Ledger,
    ManifestEntry,
    Projection,
    PruneDecision,
    RegimeRow,
    ScorecardMetric,
)
from memory.ledger.models import Fence
from memory.window import Window

DAY = Window.of_date(date(2021, 6, 17))
NEXT = Window.of_date(date(2021, 6, 18))


def regime(payload: bytes = b"r") -> RegimeRow:
    return RegimeRow(
        item_id="all.QUIET",
        payload=payload,
        product_id="all",
        regime="QUIET",
        states=1,
        share=0.5,
        typical_duration_s=600.0,
        spells=2,
    )


def commit(ledger: Ledger, token: FencingToken, line: str, payload: bytes = b"1") -> None:
    staged = ledger.staging.stage(
        token,
        line,
        DAY,
        kind="patterns",
        partition_key="k",
        input_digest=payload.hex(),
        settings_hash="s",
        payload=payload,
    )
    entry = ManifestEntry(kind="patterns", partition_key="k", digest=staged.digest)
    ledger.windows.commit_generation(token, line, DAY, settings_hash="s", entries=[entry])


def checkpoint(ledger: Ledger, token: FencingToken, line: str, value: bytes = b"v", new: int = 1) -> None:
    ledger.folds.save_checkpoint(
        token, line, "patterns", DAY, input_digest="g", base=None, changed={"k": value}, counts={"new": new}
    )


def night(ledger: Ledger, token: FencingToken) -> str:
    """A whole night's knowledge."""
    line = ledger.lines.ensure(token, "encoder-1", "1")
    commit(ledger, token, line)
    checkpoint(ledger, token, line)
    decision = PruneDecision(memory_id="p-1", memory_type="PATTERN", kept=True, rules=("grace",), details={"share": 1})
    ledger.lines.save_encoder(token, "encoder-1", b"encoder", dimension=256, fitted_until=None)
    ledger.events.save(token, line, DAY, [EventRow(kind="FOUNDED", pattern_id="p-1")])
    alias = AliasRow(alias_id="p-0", pattern_id="p-1")
    ledger.projections.save(
        token, line, DAY, Projection(regimes=[regime()], prune_decisions=[decision], aliases=[alias])
    )
    metric = ScorecardMetric(metric="ic", target="return", predictor="patterns", horizon_minutes=5, value=0.1)
    ledger.scorecards.save(token, line, DAY, b"card", [metric])
    return line


def acquire(ledger: Ledger, namespace: str) -> FencingToken:
    return ledger.fence.acquire(namespace, f"run of {namespace}", flow="nightly", lease_s=60)


def acquire_again(ledger: Ledger, namespace: str) -> FencingToken:
    with ledger.transaction() as session:
        session.execute(sa.update(Fence).where(Fence.namespace == namespace).values(released=True))
    return acquire(ledger, namespace)


def test_another_namespace_with_the_same_knowledge_has_the_same_digest(ledger: Ledger, namespace: str) -> None:
    digests = []
    for suffix in ("-a", "-b"):
        night(ledger, acquire(ledger, namespace + suffix))
        digests.append(ledger.digest(namespace + suffix))
    assert digests[0] == digests[1]
    assert len(digests[0].parts) == 14


def test_work_that_changes_no_knowledge_changes_no_digest(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace)
    line = night(ledger, token)
    before = ledger.digest(namespace)
    ledger.fence.release(token)
    token = acquire(ledger, namespace)
    ledger.runs.start("nightly", namespace, {}, lease_s=60)
    ledger.access.save(token, line, DAY, {"p-1": 3})
    ledger.windows.mark_stale(token, line, DAY, "late records")
    commit(ledger, token, line, b"with late records")
    commit(ledger, token, line)
    ledger.projections.add_aliases(token, line, NEXT, [AliasRow(alias_id="x", pattern_id="p-1")])
    ledger.truncate_from(token, line, DAY)
    night(ledger, token)
    assert ledger.digest(namespace) == before


CHANGES: dict[str, Callable[[Ledger, FencingToken, str], None]] = {
    "windows": lambda ledger, token, line: commit(ledger, token, line, b"2"),
    "folds": lambda ledger, token, line: checkpoint(ledger, token, line, b"w"),
    "folds/counts": lambda ledger, token, line: checkpoint(ledger, token, line, new=2),
    "regimes": lambda ledger, token, line: ledger.projections.save(
        token, line, DAY, Projection(regimes=[regime(b"s")])
    ),
    "aliases": lambda ledger, token, line: ledger.projections.save(token, line, DAY, Projection(aliases=[])),
    "prune_decisions": lambda ledger, token, line: ledger.projections.save(
        token, line, DAY, Projection(prune_decisions=[])
    ),
    "windows/sealed": lambda ledger, token, line: ledger.windows.seal(token, line, DAY, "lost"),
    "events": lambda ledger, token, line: ledger.events.save(token, line, DAY, []),
    "scorecards": lambda ledger, token, line: ledger.scorecards.save(token, line, DAY, b"other", []),
}


@pytest.mark.parametrize("part", CHANGES)
def test_any_difference_in_knowledge_shows_in_its_part(ledger: Ledger, namespace: str, part: str) -> None:
    token = acquire(ledger, namespace)
    line = night(ledger, token)
    before = ledger.digest(namespace)
    CHANGES[part](ledger, token, line)
    after = ledger.digest(namespace)
    assert after.digest != before.digest
    differing = {name for name, digest in after.parts.items() if before.parts[name] != digest}
    assert f"encoder-1/1/{part.partition('/')[0]}" in differing
    assert differing <= {f"encoder-1/1/{name}" for name in (part.partition("/")[0], "scorecard_metrics")}


def test_encoders_and_the_succession_of_lines_are_knowledge_of_the_namespace(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace)
    line = night(ledger, token)
    before, of_line = ledger.digest(namespace), ledger.digest(namespace, [line])
    ledger.lines.save_encoder(token, "encoder-2", b"another", dimension=256, fitted_until=None)
    assert ledger.digest(namespace).parts["encoders"] != before.parts["encoders"]
    new = ledger.lines.ensure(token, "encoder-2", "1")
    built = ledger.digest(namespace)
    ledger.lines.activate(token, new, current_from=NEXT.end)
    assert ledger.digest(namespace).parts["lines"] not in (before.parts["lines"], built.parts["lines"])
    assert ledger.digest(namespace, [line]) == of_line


def test_names_that_folding_again_left_behind_are_told_beside_the_digest(ledger: Ledger, namespace: str) -> None:
    """A clean run has none of them: they tell how the work went."""
    token = acquire(ledger, namespace)
    line = night(ledger, token)
    before = ledger.digest(namespace)
    ledger.projections.add_aliases(token, line, DAY, [AliasRow(alias_id="x", pattern_id="p-1")])
    after = ledger.digest(namespace)
    assert after == before
    assert after.beside != before.beside


def test_the_rows_behind_a_digest_say_what_differs(ledger: Ledger, namespace: str) -> None:
    lines = [night(ledger, acquire(ledger, namespace + suffix)) for suffix in ("-a", "-b")]
    token = acquire_again(ledger, f"{namespace}-b")
    ledger.projections.save(token, lines[1], DAY, Projection(regimes=[regime(b"other")]))
    rows = [set(ledger.digest_rows(line, "regimes")) for line in lines]
    assert [json.loads(row)[:3] for row in rows[0] ^ rows[1]] == [["all.QUIET", "2021-06-17", False]] * 2
    assert ledger.digest_rows(lines[0], "patterns") == []
    with pytest.raises(InvalidQueryError, match="'nothing' is no part"):
        ledger.digest_rows(lines[0], "nothing")


def test_the_digest_of_one_line_leaves_the_others_out(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace)
    line = night(ledger, token)
    before = ledger.digest(namespace, [line])
    ledger.lines.ensure(token, "encoder-2", "1")
    assert ledger.digest(namespace, [line]) == before
    assert ledger.digest(namespace) != before
