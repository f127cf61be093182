"""A plain Python model of what was published, and what questions must find in it as of any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np

from memory.records import SemanticMemory, SemanticType
from memory.retrieval.knowledge import ALL_PRODUCTS
from tests.memory.retrieval.conftest import (
    correlation_memory,
    pattern_memory,
    performance,
    regime_memory,
    strategy_memory,
    unit_vector,
)

DAY = datetime(2021, 6, 17, tzinfo=UTC)
HOUR = timedelta(hours=1)
MS = timedelta(milliseconds=1)
LINES = ("ns/rff-1/1", "ns/rff-1/2", "ns/rff-1/10")
SOURCES = ("live", "replay", "backtest")
PRODUCTS = ("BTC-USDT", "BTC", "ETH-USDT")
NAMES = ("QUIET", "VOLATILE")
BAR_SHARPE, BAR_BLOCKS = 1.5, 8
SIMILARITY = 0.88
TIMES = tuple(DAY + hour * HOUR for hour in range(4))
AROUND = sorted({time + step for time in TIMES for step in (-MS, timedelta(0), MS)})
STATES = [unit_vector(seed) for seed in range(4)]
ASKED = [STATES[0], STATES[2], unit_vector(77)]


@dataclass(frozen=True)
class Pattern:
    kind: ClassVar = SemanticType.PATTERN
    name: str
    state: int
    regime: str
    products: tuple[str, ...]
    expected: float

    @property
    def memory_id(self) -> str:
        return self.name

    def build(self, line: str) -> SemanticMemory:
        return pattern_memory(
            self.name,
            line=line,
            concept_vector=STATES[self.state],
            regime=self.regime,
            product_ids=self.products,
            expected_return=self.expected,
        )


@dataclass(frozen=True)
class Chain:
    kind: ClassVar = SemanticType.REGIME
    regime: str
    product: str
    source: str
    state: int
    spells: int

    @property
    def memory_id(self) -> str:
        return f"r-{self.product}-{self.regime}-{self.source}"

    def build(self, line: str) -> SemanticMemory:
        return regime_memory(
            self.regime,
            self.product,
            line=line,
            memory_id=self.memory_id,
            source=self.source,
            concept_vector=STATES[self.state],
            spells=self.spells,
        )


@dataclass(frozen=True)
class Strategy:
    kind: ClassVar = SemanticType.STRATEGY
    agent: str
    source: str
    figures: tuple[tuple[str, float | None, int], ...]

    @property
    def memory_id(self) -> str:
        return f"s-{self.agent}-{self.source}"

    def build(self, line: str) -> SemanticMemory:
        figures = {regime: performance(sharpe, blocks) for regime, sharpe, blocks in self.figures}
        return strategy_memory(self.agent, figures, line=line, memory_id=self.memory_id, source=self.source)


@dataclass(frozen=True)
class Correlation:
    kind: ClassVar = SemanticType.CORRELATION
    products: tuple[str, str]
    regime: str
    bar: int
    value: float
    claimed: bool

    @property
    def memory_id(self) -> str:
        return f"c-{'-'.join(self.products)}-{self.regime}-{self.bar}"

    def build(self, line: str) -> SemanticMemory:
        return correlation_memory(
            *self.products,
            self.value,
            line=line,
            memory_id=self.memory_id,
            regime=self.regime,
            bar=self.bar,
            claimed=self.claimed,
        )


Content = Pattern | Chain | Strategy | Correlation
KINDS = tuple(SemanticType)


@dataclass(frozen=True)
class Known:
    """A version as the model has it."""

    content: Content
    valid_from: datetime


@dataclass
class Model:
    """What was published: for each line and kind, everything that was known from each time on."""

    published: dict[tuple[str, str], dict[datetime, dict[str, Content]]] = field(default_factory=dict)
    line: str | None = None

    def publish(self, line: str, kinds: Sequence[str], time: datetime, contents: Sequence[Content]) -> None:
        for kind in kinds:
            self.published.setdefault((line, kind), {})[time] = {
                content.memory_id: content for content in contents if content.kind == kind
            }
        if contents and self.line is None:
            self.line = line

    def replace_from(self, line: str, kinds: Sequence[str], since: datetime | None) -> None:
        for kind in kinds:
            times = self.published.get((line, kind), {})
            for time in [time for time in times if since is None or time >= since]:
                del times[time]

    def known(self, kind: str, as_of: datetime | None) -> list[Known]:
        """What is known of a kind at a time, by id, and since when."""
        times = self.published.get((self.line or "", kind), {})
        reached = [time for time in sorted(times) if as_of is None or time <= as_of]
        if not reached:
            return []
        found = []
        for memory_id, content in sorted(times[reached[-1]].items()):
            since = reached[-1]
            for time in reversed(reached):
                if times[time].get(memory_id) != content:
                    break
                since = time
            found.append(Known(content, since))
        return found

    # --- answers -------------------------------------------------------------------------------------------------

    def patterns(self, asked: int, product: str | None, regime: str | None, as_of: datetime | None) -> list[Known]:
        fit = [
            item
            for item in self.known(SemanticType.PATTERN, as_of)
            if product in (None, *item.content.products)  # type: ignore[union-attr]
            and regime in (None, item.content.regime)  # type: ignore[union-attr]
        ]
        return sorted(fit, key=lambda item: (distance(item, asked), item.content.memory_id))

    def chain(self, regime: str, product: str | None, source: str | None, as_of: datetime | None) -> Known | None:
        known = {item.content.memory_id: item for item in self.known(SemanticType.REGIME, as_of)}
        for own in SOURCES if source is None else (source,):
            for place in (product or ALL_PRODUCTS, ALL_PRODUCTS):
                found = known.get(f"r-{place}-{regime}-{own}")
                if found is not None:
                    return found
        return None

    def strategies(
        self, regime: str, source: str | None, as_of: datetime | None
    ) -> tuple[list[tuple[Known, float]], int]:
        """Those that qualify, best first, and how many have figures."""
        known = self.known(SemanticType.STRATEGY, as_of)
        for own in SOURCES if source is None else (source,):
            of_source = [item for item in known if item.content.source == own]  # type: ignore[union-attr]
            if of_source:
                break
        else:
            return [], 0
        figures = [
            (item, sharpe, blocks)
            for item in of_source
            for name, sharpe, blocks in item.content.figures  # type: ignore[union-attr]
            if name == regime
        ]
        good = [
            (item, sharpe)
            for item, sharpe, blocks in figures
            if sharpe is not None and sharpe > BAR_SHARPE and blocks >= BAR_BLOCKS
        ]
        return sorted(good, key=lambda entry: (-entry[1], entry[0].content.memory_id)), len(figures)

    def correlations(self, product: str, asked: dict[str, Any], as_of: datetime | None) -> list[Known]:
        fit = [
            item
            for item in self.known(SemanticType.CORRELATION, as_of)
            if product in item.content.products  # type: ignore[union-attr]
            and asked.get("regime", item.content.regime) == item.content.regime  # type: ignore[union-attr]
            and asked.get("bar_minutes", item.content.bar) == item.content.bar  # type: ignore[union-attr]
            and (item.content.claimed or not asked.get("claimed_only", False))  # type: ignore[union-attr]
        ]
        return sorted(fit, key=lambda item: (-abs(item.content.value), item.content.memory_id))  # type: ignore[union-attr]


def distance(item: Known, asked: int) -> float:
    state: Any = STATES[item.content.state]  # type: ignore[union-attr]
    return 1.0 - round(float(np.dot(state.astype(float), ASKED[asked].astype(float))), 9)


def shown(memories: Sequence[SemanticMemory], line: str) -> list[tuple[Any, ...]]:
    """What memories say, in order, in a form that can be compared with `wanted`."""
    return [(memory_content(item, line), item.valid_from, item.valid_to) for item in memories]


def wanted(items: Sequence[Known], line: str) -> list[tuple[Any, ...]]:
    return [(memory_content(item.content.build(line), line), item.valid_from, None) for item in items]


def memory_content(item: SemanticMemory, line: str) -> tuple[Any, ...]:
    """All fields but those that say when it was valid, and how often it was asked for."""
    beside = ("valid_from", "valid_to", "last_accessed", "access_count")
    names = sorted(name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()) if name not in beside)
    values = (getattr(item, name) for name in names)
    assert item.line == line
    return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)
