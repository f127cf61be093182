"""The market analyst: watches all products of a market, believes in regimes, finds patterns, and warns.

It trades nothing. What it finds out reaches the trading agents as messages: REGIME_CHANGE where a belief changes,
PATTERN where one begins or ends, WARNING where a crisis begins, or a product has had no bar for too long.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import memory
from agents.connecting import Feed, encoder_of, follow, present_of
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES
from agents.feed import Tick
from agents.pattern import PatternAgent
from agents.regime_belief import RegimeBelief
from agents.regime_detection import RegimeDetectionAgent
from agents.replay import State
from agents.telling import Teller
from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.messages import EVERYBODY, AgentMemoryMessage, MessageType
from memory.records import Regime
from memory.validation import validate_identifier

_log = logging.getLogger(__name__)

SILENCE = timedelta(minutes=GAP_MINUTES)
"""A product without a bar for longer has a gap: episodes end, and what was believed of it is old."""
SILENCE_IMPORTANCE = 0.5


@dataclass(slots=True)
class AnalysisReport:
    """What an analyst saw and told.

    Attributes
    ----------
    states
        States that were judged.
    changes
        Changes of regime, by product.
    patterns
        States that were in some pattern.
    warnings
        Warnings sent.
    without_memory
        Live decision times that were not, or not wholly, judged because Redis was away.
    """

    states: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    patterns: int = 0
    warnings: int = 0
    without_memory: int = 0


class MarketAnalysisAgent:
    """Judges every state of a feed, and tells the others.

    Parameters
    ----------
    mem
        An open memory.
    encoder
        Encoder of the states.
    agent_id
        Who tells.
    source, run_id
        What its messages belong to: live, or a replay's own run.
    options
        Further arguments of `RegimeDetectionAgent`, such as `on_change`.
    """

    def __init__(
        self,
        mem: MemoryConnection,
        encoder: StateEncoder,
        *,
        agent_id: str = "analyst",
        source: str = "live",
        run_id: str = "live",
        **options: Any,
    ) -> None:
        self.agent_id = validate_identifier(agent_id, "agent_id")
        self.report = AnalysisReport()
        self.regimes = RegimeDetectionAgent(mem, encoder, agent_id=agent_id, source=source, run_id=run_id, **options)
        self.patterns = PatternAgent(mem, agent_id=agent_id, encoder_id=encoder.id_, source=source, run_id=run_id)
        self._mem = mem
        self._source, self._run_id = source, run_id
        self._last: dict[str, datetime] = {}
        self._silent: set[str] = set()
        self._noted: dict[str, datetime] = {}
        self._unsent: list[AgentMemoryMessage] = []
        self._teller = Teller(mem)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        redis_url: str | None = None,
        *,
        agent_id: str = "analyst",
        namespace: str | None = None,
        encoder: StateEncoder | None = None,
        **options: Any,
    ) -> AsyncIterator[MarketAnalysisAgent]:
        """An analyst with a memory of its own: ``async with MarketAnalysisAgent.connect(url) as analyst``."""
        encoder_id = None if encoder is None else encoder.id_
        async with memory.connect(redis_url=redis_url, namespace=namespace, encoder_id=encoder_id) as mem:
            yield cls(mem, encoder or await encoder_of(mem), agent_id=agent_id, **options)

    async def run(self, feed: Feed) -> AnalysisReport:
        """Follow a feed to its end; errors as `RegimeDetectionAgent.detect_regime`.

        A live analyst goes on where Redis is away, and the report counts how often: what it found out meanwhile is told
        when Redis is back.
        """
        with present_of(feed):
            try:
                async for ticks in follow(feed):
                    try:
                        await self.on_ticks(ticks)
                    except StoreUnavailableError as error:
                        if self._source != "live":
                            raise
                        self.report.without_memory += 1
                        _log.warning("%s goes on without its memory: %s", self.agent_id, error)
            finally:
                await self.close()
        return self.report

    async def close(self) -> None:
        """Put what it never could send into the dead letters; a feed that was followed to its end does so itself."""
        for teller in (self._teller, self.regimes, self.patterns):
            await teller.close()

    async def on_ticks(self, ticks: Sequence[Tick]) -> list[RegimeBelief]:
        """Judge the bars of one decision time; returns what is believed of those with a state.

        Where Redis is away it raises, and what could not be sent, changes and warnings alike, goes out with the next
        decision time. So does what is dated too far ahead of the server's clock (`agents.telling`).
        """
        self._unsent += self._silences(ticks)
        beliefs = []
        for tick in ticks:
            if tick.state is None or not tick.acts:
                continue
            try:
                belief = await self.regimes.follow(tick.state)
            finally:
                # A belief changes even where nobody could be told: the warning must not be lost with the error.
                self._note(tick.state)
            self.report.states += 1
            self.report.patterns += bool(await self.patterns.observe(tick.state))
            beliefs.append(belief)
        if self._last:
            self.report.warnings += await self._teller.tell(self._unsent, max(self._last.values()))
            self._unsent = []
        return beliefs

    def _note(self, state: State) -> None:
        """Count a change of belief at a state, once, and prepare the warning where a crisis begins with it."""
        belief = self.regimes.belief(state.product_id)
        if belief is None or not belief.changed or belief.timestamp != state.timestamp:
            return
        if self._noted.get(state.product_id) == state.timestamp:
            return  # The same bar is judged again.
        self._noted[state.product_id] = state.timestamp
        self.report.changes[state.product_id] = self.report.changes.get(state.product_id, 0) + 1
        if belief.regime == Regime.CRISIS:
            self._unsent.append(self._crisis(belief))

    def _silences(self, ticks: Sequence[Tick]) -> list[AgentMemoryMessage]:
        """Warnings about products that have had no bar for too long, one for each silence."""
        for tick in ticks:
            self._last[tick.product_id] = tick.timestamp
            self._silent.discard(tick.product_id)
        if not ticks:
            return []
        now = max(tick.timestamp for tick in ticks)
        found = [name for name, last in sorted(self._last.items()) if now - last > SILENCE and name not in self._silent]
        self._silent.update(found)
        return [
            self._warning(
                f"{product_id} has had no bar since {self._last[product_id].isoformat()}.",
                {"product_id": product_id, "reason": "silence", "last": self._last[product_id].isoformat()},
                SILENCE_IMPORTANCE,
                now,
            )
            for product_id in found
        ]

    def _crisis(self, belief: RegimeBelief) -> AgentMemoryMessage:
        return self._warning(
            f"{belief.product_id} is in a crisis: {belief.confidence:.0%} sure; it was {belief.before}.",
            {"product_id": belief.product_id, "reason": "crisis", "crisis_confidence": belief.confidence},
            1.0,
            belief.timestamp,
        )

    def _warning(self, insight: str, data: dict[str, Any], importance: float, at: datetime) -> AgentMemoryMessage:
        return AgentMemoryMessage(
            sender_agent_id=self.agent_id,
            message_type=MessageType.WARNING,
            insight=insight,
            recipient_agent_ids=(EVERYBODY,),
            data=data,
            importance=importance,
            timestamp=at,
            source=self._source,
            run_id=self._run_id,
        )
