"""Tables of the report that need more than a loop over the data: transitions, strategies, correlations, scorecard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from memory.records import REGIMES, CorrelationMemory, PatternMemory, PerformanceMetrics, RegimeMemory, StrategyMemory
from memory.reporting.data import VOLATILITY, BaseRate, LineageEvent, PruneDecision, ScorecardEntry, ScorecardNight

POOLED_PRODUCTS = ("", "*", "ALL")
"""Product ids that stand for all products together."""

ALL_REGIMES = "ALL"
"""Name under which figures over all regimes are listed; an empty regime means the same."""


@dataclass(frozen=True, slots=True)
class TransitionTable:
    """Transitions of one product, or of all together: rows are where the market was, columns where it went."""

    title: str
    regimes: tuple[str, ...]
    rows: tuple[RegimeMemory, ...]
    spells: int
    step_s: float


def transition_tables(regimes: Iterable[RegimeMemory]) -> list[TransitionTable]:
    """One table a product, all products together first; regimes in their usual order."""
    by_product: dict[str, list[RegimeMemory]] = {}
    for memory in regimes:
        by_product.setdefault("" if memory.product_id in POOLED_PRODUCTS else memory.product_id, []).append(memory)
    tables = []
    for product in sorted(by_product):
        rows = tuple(sorted(by_product[product], key=lambda memory: regime_order(memory.regime_name)))
        reached = {name for memory in rows for name in memory.transition_probability}
        names = tuple(sorted({memory.regime_name for memory in rows} | reached, key=regime_order))
        title = product or "all products together"
        tables.append(TransitionTable(title, names, rows, sum(memory.spells for memory in rows), rows[0].step_s))
    return tables


def regime_order(name: str) -> tuple[int, str]:
    """Sort key: all regimes together first, then the known ones in their usual order, then others by name."""
    if name in ("", ALL_REGIMES):
        return -1, name
    return (REGIMES.index(name) if name in REGIMES else len(REGIMES)), name


def strategy_regimes(strategies: Iterable[StrategyMemory]) -> list[str]:
    """Regimes that any strategy has figures for, in their usual order."""
    return sorted({name for strategy in strategies for name in strategy.performance}, key=regime_order)


def sorted_strategies(strategies: Iterable[StrategyMemory]) -> list[StrategyMemory]:
    """Strategies by agent and name."""
    return sorted(strategies, key=lambda memory: (memory.agent_id, memory.strategy_name, memory.memory_id))


def largest_mean(strategies: Iterable[StrategyMemory]) -> float:
    """Largest absolute mean return of any cell: the full depth of the table's tint."""
    means = [abs(figures.mean_return) for strategy in strategies for figures in strategy.performance.values()]
    return max(means, default=0.0)


def random_shares(decisions: Iterable[PruneDecision]) -> Callable[[StrategyMemory], float | None]:
    """Find the share of a strategy's random agents that pass the Sharpe rule; None where it was not judged."""
    shares = {decision.memory_id: decision.random_share for decision in decisions}
    return lambda strategy: shares.get(strategy.memory_id)


@dataclass(frozen=True, slots=True)
class Story:
    """The events of a pattern that are shown, and how many are left out after the first of them."""

    shown: tuple[LineageEvent, ...]
    left_out: int


def story(events: Sequence[LineageEvent], most: int) -> Story:
    """How a pattern began, and what happened to it last; `most` events at most, and at least two."""
    if len(events) <= most:
        return Story(tuple(events), 0)
    return Story((events[0], *events[len(events) - most + 1 :]), len(events) - most)


@dataclass(frozen=True, slots=True)
class CorrelationTable:
    """Correlations at lag 0 of one bar length: a row a pair of products, a column a regime."""

    bar_minutes: int
    regimes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CorrelationMemory | None, ...]], ...]


def correlation_tables(correlations: Sequence[CorrelationMemory]) -> list[CorrelationTable]:
    """One table of simultaneous correlations a bar length, shortest bars first."""
    tables = []
    for bar in sorted({memory.bar_minutes for memory in correlations}):
        now = [memory for memory in correlations if memory.bar_minutes == bar and memory.lag == 0]
        if not now:
            continue
        cells = {(memory.products, memory.regime): memory for memory in now}
        names = tuple(sorted({memory.regime for memory in now}, key=regime_order))
        pairs = sorted({memory.products for memory in now})
        rows = tuple((" – ".join(pair), tuple(cells.get((pair, name)) for name in names)) for pair in pairs)
        tables.append(CorrelationTable(bar, names, rows))
    return tables


def leads(correlations: Iterable[CorrelationMemory]) -> list[CorrelationMemory]:
    """Correlations at another lag than 0 that are claimed, strongest first."""
    claimed = [memory for memory in correlations if memory.lag != 0 and memory.claimed]
    return sorted(claimed, key=lambda memory: (-abs(memory.correlation), memory.memory_id))


@dataclass(frozen=True, slots=True)
class ScorecardRow:
    """One predictor of last night's scorecard: its entry for each (outcome, horizon), None where it has none."""

    predictor: str
    entries: tuple[ScorecardEntry | None, ...]


def scorecard_rows(
    entries: Iterable[ScorecardEntry], predictors: Sequence[str], columns: Sequence[tuple[str, int]]
) -> list[ScorecardRow]:
    """Scores of one night, or of all of them together, as a table."""
    cells = {(entry.predictor, entry.outcome, entry.horizon_minutes): entry for entry in entries}
    return [ScorecardRow(name, tuple(cells.get((name, *column)) for column in columns)) for name in predictors]


def scorecard_columns(cards: Iterable[ScorecardNight]) -> list[tuple[str, int]]:
    """Outcomes and horizons that were scored, volatility (where memory knows most) first."""
    present = {(entry.outcome, entry.horizon_minutes) for card in cards for entry in card.entries}
    return sorted(present, key=lambda column: (column[0] != VOLATILITY, column))


def column_groups(columns: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Outcomes above their horizons: each with the number of columns that it spans."""
    return [(outcome, len(list(group))) for outcome, group in groupby(columns, key=itemgetter(0))]


def base_rate_lookup(rates: Iterable[BaseRate]) -> Callable[[PatternMemory, str, int], BaseRate | None]:
    """Find the base rate of a pattern's partition by action and horizon; rates without a source serve all sources."""
    table = {(rate.source, rate.regime, rate.action, rate.horizon_minutes): rate for rate in rates}

    def find(pattern: PatternMemory, action: str, horizon_minutes: int) -> BaseRate | None:
        cell = (pattern.regime, action, horizon_minutes)
        return table.get((pattern.source, *cell)) or table.get(("", *cell))

    return find


NO_RULE = "no rule keeps it"
_RULE_TEXTS = {
    "sharpe": "Sharpe above the limit",
    "accessed": "used often of late",
    "grace": "still young",
    "unjudged": "too rare to judge, seen of late",
}


def rule_text(rule: str) -> str:
    """A rule of pruning in words."""
    return _RULE_TEXTS.get(rule, rule.replace("_", " "))


def rule_counts(decisions: Iterable[PruneDecision]) -> list[tuple[str, int]]:
    """(rule, memories that it keeps), most used first, and at the end those that none keeps.

    A memory may be kept by several rules at once.
    """
    counts: dict[str, int] = {}
    removed = 0
    for decision in decisions:
        removed += decision.removed
        for rule in decision.rules if not decision.removed else ():
            counts[rule] = counts.get(rule, 0) + 1
    kept = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    return [*((rule_text(rule), count) for rule, count in kept), *([(NO_RULE, removed)] if removed else [])]


def total_trades(figures: PerformanceMetrics) -> str:
    """Basis of a performance figure in words."""
    return f"{figures.n:,} experiences in {figures.blocks:,} blocks of {figures.block_minutes} minutes"
