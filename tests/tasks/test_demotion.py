"""A pattern whose predictions fail, night after night, is demoted where agents read it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

import memory
from memory.records import Action, EpisodicMemory, Regime, SemanticType, Side
from memory.tables import TRAILING_VOLATILITY
from memory.window import Window
from tasks.groups import KNOWLEDGE

USUAL, WILD = 5e-4, 1e-2
"""Volatility a minute, and what it was on the first day where the pattern was."""
LONG_VISIT, SHORT_VISIT = 50, 12
"""Minutes at the place of the pattern: on the first day, which its figures follow for long, and on the others."""
VISITS, OTHER_VISITS = (0, 120, 240), (70, 190, 310)
NIGHTS = 7


def minutes(window: Window, number: int) -> list[EpisodicMemory]:
    """Six hours with three visits to each of two places: the first is wild on the first day, and usual later."""
    rng = np.random.default_rng((11, number))
    place, other = np.random.default_rng(11).standard_normal((2, 256))
    length = SHORT_VISIT if number else LONG_VISIT
    there, elsewhere = np.zeros((2, 361), dtype=bool)
    for begin in VISITS:
        there[begin : begin + length] = True
    for begin in OTHER_VISITS:
        elsewhere[begin : begin + SHORT_VISIT] = True
    spread = np.where(there & (number == 0), WILD, USUAL)
    prices = 100 * np.exp(np.cumsum(rng.standard_normal(361) * spread))
    noise = rng.standard_normal((361, 256))
    lived = []
    for minute in range(360):
        scale = 0.25 if there[minute] or elsewhere[minute] else 1.0
        vector = place * there[minute] + other * elsewhere[minute] + scale * noise[minute]
        at = window.start + dt.timedelta(minutes=minute)
        lived.append(
            EpisodicMemory(
                agent_id="scout",
                timestamp=at,
                state_vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                action=Action(Side.BUY, 0.5),
                reward=0.0,
                product_id="P",
                regime=Regime.QUIET,
                encoder_id="enc",
                source="replay",
                run_id="r",
                known_at=at + dt.timedelta(minutes=1),
                price=float(prices[minute]),
                features={TRAILING_VOLATILITY: USUAL},
            )
        )
    return lived


def test_a_pattern_whose_predictions_fail_is_demoted_in_redis(days: Any) -> None:
    for number in range(NIGHTS):
        days.store(minutes(days.window(number), number))
        days.consolidate(number)
    days.fold()
    days.publish(KNOWLEDGE)

    async def read(mem: memory.MemoryConnection) -> tuple[list[Any], list[Any]]:
        early = mem.at(days.window(2).end).semantic
        return await early.current(SemanticType.PATTERN), await mem.semantic.current(SemanticType.PATTERN)

    before, now = days.with_memory(read)
    first = max(before, key=lambda pattern: pattern.states)
    assert (len(before), first.windows_seen) == (2, 3)
    (failed,) = [pattern for pattern in now if pattern.pattern_id == first.pattern_id]
    assert not first.demoted
    assert failed.demoted
    assert (failed.best_action, failed.expected_return) == (None, 0.0)
    kinds = [event.kind for _, event in days.ledger.events.of(days.line, failed.pattern_id)]
    assert "DEMOTED" in kinds
