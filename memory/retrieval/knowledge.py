"""What is known of a regime: what it looks like, what follows it, and which strategies have worked there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from memory.records import (
    REGIMES,
    SOURCES,
    PerformanceMetrics,
    RegimeMemory,
    SemanticType,
    StrategyMemory,
    to_ms,
)
from memory.retrieval.context import QuestionContext
from memory.store.snapshots import StoredVersion

ALL_PRODUCTS = "ALL"
"""Product of REGIME memories that pool all products (`memory.learning.transition_matrices.ALL_PRODUCTS`)."""
MIN_BLOCKS = 8
"""Blocks below which a Sharpe ratio names no strategy: as few as give no interval either (METHODS 6)."""
LARGEST_SHARPE = 1e6
"""Bound of an annualised Sharpe ratio that a question may ask for: more than any market shows, and finite."""
_EULER = 0.5772156649015329
_SAME = 1e-9
"""Rows of probabilities that differ by less are one row that was computed in two ways."""


@dataclass(frozen=True, slots=True)
class NextRegimes:
    """What follows a regime once it ends.

    Attributes
    ----------
    probability
        Of each other regime, likeliest first; they sum to 1.
    given
        The regimes that it is conditioned on, in time order, the current one last.
    order
        2 where the regime before the current one counts, 1 where only the current one does: none was given, or nothing
        was seen of that path.
    spells
        Spells of the current regime, with a known beginning, that the figures come from.
    typical_duration_s
        Median length of such a spell; None where fewer than half are known to have ended.
    """

    probability: dict[str, float]
    given: tuple[str, ...]
    order: int
    spells: int
    typical_duration_s: float | None


@dataclass(frozen=True, slots=True)
class StrategyHit:
    """A strategy that has worked in a regime.

    Attributes
    ----------
    memory
        The strategy; over all products that its agent traded.
    performance
        Its figures in the regime.
    score
        What strategies are ordered and chosen by: the annualised Sharpe ratio, net of costs, of the shrunk mean; of the
        mean as it was where nothing is known of how it shrinks.
    raw_sharpe
        That of the mean as it was: shown beside it, since most of what a few nights show is luck.
    luck_excluded
        Whether the nightly job found it applicable there: active often enough, and a Sharpe ratio above 0 that is no
        luck at the level of its settings.
    deflated_probability
        Probability that its true Sharpe ratio exceeds what the best of as many strategies without skill would show, by
        its Sharpe ratio as it was and the spread of those that are known. Returns count as normal, since memories hold
        no higher moments.
    """

    memory: StrategyMemory
    performance: PerformanceMetrics
    score: float
    raw_sharpe: float | None
    luck_excluded: bool
    deflated_probability: float


@dataclass(frozen=True, slots=True)
class RegimeKnowledge:
    """What is known of a regime.

    Attributes
    ----------
    regime
        The regime that was asked about.
    memory
        Its memory: of the product that was asked about, or, where that has none or none was named, of all products
        pooled (`memory.product_id` says which, "ALL" being the pooled one); None where it was never seen.
    transitions
        What follows it; None without a memory.
    strategies
        Those that qualify, best first.
    strategies_known
        How many strategies have figures there, qualified or not.
    statement
        What the strategies amount to, in a sentence.
    """

    regime: str
    memory: RegimeMemory | None
    transitions: NextRegimes | None
    strategies: tuple[StrategyHit, ...]
    strategies_known: int
    statement: str


class KnowledgeSearch:
    """Finds what is known of a regime.

    Parameters
    ----------
    min_sharpe
        Annualised net Sharpe ratio that a strategy must exceed where a question names none.
    """

    def __init__(self, context: QuestionContext, min_sharpe: float) -> None:
        self._context = context
        self._min_sharpe = min_sharpe

    async def of_regime(
        self,
        regime: str,
        path: Sequence[str],
        top_k: int,
        product_id: str | None,
        source: str | None,
        as_of: datetime | None,
        min_sharpe: float | None = None,
    ) -> RegimeKnowledge:
        """What is known of a regime; arguments are checked. What is returned is counted as accessed."""
        bar = self._min_sharpe if min_sharpe is None else min_sharpe
        regimes, strategies = await self._known(as_of)
        chosen = choose_regime(regimes, regime, product_id, source)
        if chosen is not None:
            source = cast(RegimeMemory, chosen.memory).source
        judged = _judge(_of_one_source(strategies, source), regime)
        ranked = [item for item in judged if _qualifies(item, bar)][:top_k]
        self._context.access.note(
            [item.key.memory_id for item in ([] if chosen is None else [chosen])]
            + [item.version.key.memory_id for item in ranked],
            as_of or datetime.now(UTC),
        )
        past = as_of is not None
        memory = None if chosen is None else cast(RegimeMemory, chosen.copy(as_of=past))
        return RegimeKnowledge(
            regime=regime,
            memory=memory,
            transitions=None if memory is None else next_regimes(memory, path),
            strategies=tuple(_strategy_hit(item, judged, regime, past) for item in ranked),
            strategies_known=len(judged),
            statement=_statement(regime, judged, bar),
        )

    async def _known(self, as_of: datetime | None) -> tuple[Sequence[StoredVersion], Sequence[StoredVersion]]:
        context = self._context
        encoder_id = context.encoder_id or await context.encoder()
        if encoder_id is None:
            return (), ()
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        kinds = (SemanticType.REGIME, SemanticType.STRATEGY)
        as_of_ms = None if as_of is None else to_ms(as_of)
        found = await context.semantic.snapshots.known(encoder_id, kinds, as_of_ms)
        return found[SemanticType.REGIME], found[SemanticType.STRATEGY]


def choose_regime(
    versions: Sequence[StoredVersion], regime: str, product_id: str | None, source: str | None
) -> StoredVersion | None:
    """The memory of a regime that serves a question; None where there is none.

    Of one source: the one asked for, else the first of live, replay and backtest that knows the regime. Of the product,
    else of all products pooled.
    """
    for own_source in SOURCES if source is None else (source,):
        by_product: dict[str, StoredVersion] = {}
        for version in versions:
            memory = cast(RegimeMemory, version.memory)
            if memory.regime_name == regime and memory.source == own_source:
                by_product.setdefault(memory.product_id, version)
        found = by_product.get(product_id or ALL_PRODUCTS) or by_product.get(ALL_PRODUCTS)
        if found is not None:
            return found
    return None


def next_regimes(memory: RegimeMemory, path: Sequence[str]) -> NextRegimes:
    """What follows a regime, given the regimes before it, oldest first.

    The memory's second-order row serves where the path's last other regime has one; it is backed off to the first-order
    row already, in proportion to how often that path was seen (`memory.learning.transition_matrices.path_tensor`), and
    equals it where it never was.
    """
    first = memory.transition_probability
    before = next((name for name in reversed(path) if name != memory.regime_name), None)
    second = None if before is None else memory.path_probability.get(before)
    seen = second is not None and any(abs(second.get(name, 0.0) - first.get(name, 0.0)) > _SAME for name in REGIMES)
    row = second if second is not None and seen else first
    ordered = sorted(row.items(), key=lambda item: (-item[1], REGIMES.index(item[0])))
    return NextRegimes(
        probability=dict(ordered),
        given=(before, memory.regime_name) if before is not None and seen else (memory.regime_name,),
        order=2 if seen else 1,
        spells=memory.spells,
        typical_duration_s=memory.typical_duration,
    )


# --- strategies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """A strategy's figures in a regime; the Sharpe ratio that it is judged by is -infinity where there is none."""

    version: StoredVersion
    performance: PerformanceMetrics
    sharpe: float

    @property
    def raw(self) -> str:
        """The Sharpe ratio as it was, in brackets; nothing where it is judged by that one."""
        shrunk, raw = self.performance.shrunk_sharpe_ratio, self.performance.sharpe_ratio
        return "" if shrunk is None or raw is None else f" (raw {raw:.2f})"


def _of_one_source(strategies: Sequence[StoredVersion], source: str | None) -> list[StoredVersion]:
    """Those of a source, or of the first of live, replay and backtest that has any."""
    for own_source in SOURCES if source is None else (source,):
        found = [version for version in strategies if cast(StrategyMemory, version.memory).source == own_source]
        if found:
            return found
    return []


def _judge(strategies: Sequence[StoredVersion], regime: str) -> list[_Judged]:
    """Strategies with figures in a regime, highest Sharpe ratio first, shrunk where it is known; ties by memory id."""
    judged = []
    for version in strategies:
        performance = cast(StrategyMemory, version.memory).performance.get(regime)
        if performance is not None:
            shrunk = performance.shrunk_sharpe_ratio
            ratio = performance.sharpe_ratio if shrunk is None else shrunk
            judged.append(_Judged(version, performance, -math.inf if ratio is None else ratio))
    judged.sort(key=lambda item: (-item.sharpe, item.version.key.memory_id))
    return judged


def _qualifies(item: _Judged, min_sharpe: float) -> bool:
    return item.sharpe > min_sharpe and item.performance.blocks >= MIN_BLOCKS


def _statement(regime: str, judged: Sequence[_Judged], min_sharpe: float) -> str:
    if not judged:
        return f"No strategy is known in {regime}."
    bar = f"an annualised net Sharpe ratio above {min_sharpe:g} over at least {MIN_BLOCKS} blocks"
    good = [item for item in judged if _qualifies(item, min_sharpe)]
    best = (good or judged)[0]
    name = cast(StrategyMemory, best.version.memory).strategy_name
    over = f"over {best.performance.blocks} blocks of {best.performance.block_minutes} minutes"
    count = f"{len(judged)} strateg{'y' if len(judged) == 1 else 'ies'} known in {regime}"
    if good:
        have = "has" if len(good) == 1 else "have"
        return f"{len(good)} of {count} {have} {bar}: {name} {best.sharpe:.2f}{best.raw} {over}."
    if math.isinf(best.sharpe):
        return f"None of {count} has {bar}: none has a Sharpe ratio yet."
    return f"None of {count} has {bar}: the best, {name}, has {best.sharpe:.2f}{best.raw} {over}."


def _strategy_hit(item: _Judged, judged: Sequence[_Judged], regime: str, past: bool) -> StrategyHit:
    memory = cast(StrategyMemory, item.version.copy(as_of=past))
    return StrategyHit(
        memory=memory,
        performance=memory.performance[regime],
        score=item.sharpe,
        raw_sharpe=item.performance.sharpe_ratio,
        luck_excluded=regime in memory.applicable_regimes,
        deflated_probability=_deflated(item, judged),
    )


def _deflated(item: _Judged, judged: Sequence[_Judged]) -> float:
    """Deflated Sharpe ratio of one of several strategies.

    D. H. Bailey and M. Lopez de Prado, "The Deflated Sharpe Ratio", Journal of Portfolio Management 40 (2014), with the
    skewness and kurtosis of the normal distribution; per block, not annualised.
    """
    ratios = [_raw_per_block(other) for other in judged if other.performance.sharpe_ratio is not None]
    normal = statistics.NormalDist()
    trials = len(ratios)
    bar = 0.0
    if trials > 1:
        spread = math.sqrt(statistics.variance(ratios))
        first, second = normal.inv_cdf(1 - 1 / trials), normal.inv_cdf(1 - 1 / (trials * math.e))
        bar = spread * ((1 - _EULER) * first + _EULER * second)
    ratio = _raw_per_block(item)
    error = math.sqrt((1 + ratio**2 / 2) / max(item.performance.blocks - 1, 1))
    return normal.cdf((ratio - bar) / error)


def _raw_per_block(item: _Judged) -> float:
    """The Sharpe ratio of a block as it was: shrinking has drawn luck off already, and it must not count twice."""
    raw = item.performance.sharpe_ratio
    return (item.sharpe if raw is None else raw) / math.sqrt(item.performance.periods_per_year)
