"""Pruning of STRATEGY memories: by Sharpe ratio, access, age and how often they acted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np
import pytest

from memory.learning.context import ProjectionContext
from memory.learning.pruning import ACCESSED, GRACE, SHARPE, UNJUDGED, PruneDecision
from memory.learning.settings import DEFAULT_SETTINGS
from memory.learning.statistics import Drawdown, Moments
from memory.learning.strategies import ALL_REGIMES, StrategyCell, StrategyState
from memory.learning.strategy_memory import project_strategies
from memory.learning.strategy_pruning import decide_strategy_pruning, kept_strategies
from memory.records import to_ms
from memory.window import Window

FIRST = Window.of_date(date(2021, 6, 17))
CONTEXT = ProjectionContext("enc", "replay", "default/enc/1", datetime(2021, 6, 18, tzinfo=UTC))
MEMORY = CONTEXT.memory_id("s", "momentum")


def cell(mean: float, regime: str = ALL_REGIMES, *, active: int = 100, seen: Window = FIRST) -> StrategyCell:
    """An agent with such a mean block return, alternating by 1 % about it."""
    returns = mean + 0.01 * np.where(np.arange(100) % 2, 1.0, -1.0)
    tossed = returns[:, None] * np.random.default_rng(1).choice([-1.0, 1.0], (100, 100))
    return StrategyCell(
        agent="momentum",
        regime=regime,
        known_ms=to_ms(FIRST.end),
        seen_ms=to_ms(seen.end),
        windows=1,
        experiences=3000,
        decisions=3000,
        net=Moments.of(returns),
        gross=Moments.of(returns),
        active=active,
        wins=active // 2,
        drawdown=Drawdown.of(returns),
        turnover=0.0,
        turnover_decisions=0,
        random_total=tossed.sum(axis=0),
        random_squares=(tossed**2).sum(axis=0),
    )


def decide(*cells: StrategyCell, days: int, access: int = 0) -> PruneDecision:
    window = Window.of_date(FIRST.start.date() + timedelta(days=days))
    state = StrategyState(block_minutes=30, cells=cells)
    (decision,) = decide_strategy_pruning(state, window, {MEMORY: access}, CONTEXT)
    return decision


def test_a_losing_strategy_goes_after_its_grace():
    assert decide(cell(-1e-3), days=6).rules == (GRACE,)
    gone = decide(cell(-1e-3), days=7)
    assert not gone.kept
    assert gone.rules == ()
    assert gone.pattern_id == MEMORY


def test_a_good_strategy_stays():
    assert decide(cell(4e-3), days=90).rules == (SHARPE,)


def test_what_may_be_luck_goes_however_high_its_raw_sharpe_ratio_is():
    lucky = decide(cell(1e-3), days=90)
    assert lucky.raw_sharpe is not None
    assert lucky.raw_sharpe > 10
    assert lucky.sharpe == pytest.approx(0.0)
    assert not lucky.kept


def test_the_share_of_random_agents_that_would_pass_stands_beside_the_decision():
    # A prior as wide as a strong agent's record lets many random agents pass; one of no spread lets none.
    assert decide(cell(1e-3), days=90).random_share == 0.0
    strong = decide(cell(4e-3), days=90)
    assert strong.random_share is not None
    assert 0.2 < strong.random_share < 0.6


def test_one_good_regime_is_enough_if_it_was_active_there():
    losing = cell(-1e-3)
    assert decide(losing, cell(4e-3, "QUIET"), days=90).action == "QUIET"
    assert not decide(losing, cell(4e-3, "QUIET", active=7), days=90).kept


def test_accesses_keep_a_strategy():
    assert decide(cell(-1e-3), days=90, access=101).rules == (ACCESSED,)
    assert not decide(cell(-1e-3), days=90, access=100).kept


def test_a_strategy_that_hardly_acted_is_not_judged_while_it_is_about():
    assert decide(cell(-1e-3, active=19), days=30).rules == (UNJUDGED,)
    assert not decide(cell(-1e-3, active=19), days=31).kept


def test_thresholds_are_settings():
    strict = msgspec.structs.replace(DEFAULT_SETTINGS, prune_sharpe=1000.0)
    state = StrategyState(block_minutes=30, cells=(cell(4e-3),))
    window = Window.of_date(date(2021, 9, 1))
    (decision,) = decide_strategy_pruning(state, window, {}, CONTEXT, strict)
    assert not decision.kept


@pytest.mark.parametrize(("mean", "count"), [(4e-3, 1), (-1e-3, 0)])
def test_only_kept_strategies_are_published(mean: float, count: int):
    state = StrategyState(block_minutes=30, cells=(cell(mean),))
    context = replace(CONTEXT, valid_from=datetime(2021, 9, 1, tzinfo=UTC))
    decisions = decide_strategy_pruning(state, Window.of_date(date(2021, 9, 1)), {}, context)
    assert len(kept_strategies(project_strategies(state, context), decisions)) == count
