"""Scoring what a drain stores: each window, encoder and source against its own past, which is read once a drain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memory import MemoryConnection
from memory.learning import ALGORITHM_VERSION, serial
from memory.learning.quality import QUALITY, QualitySettings, QualitySummary, Rewards, score_memories
from memory.ledger import Ledger, line_id
from memory.records import REGIMES, EpisodicMemory
from memory.store.codec import ms_rounded_up
from memory.store.rewards import KnownReward, read_rewards
from memory.window import Window

GROUPS_KEPT = 8
"""Windows (of an encoder and source) whose rewards are kept at a time: inboxes are drained oldest first, so that two
days are under way at once, and a backlog of months does not fill the memory."""


class _Group(NamedTuple):
    """What is scored together; the encoder is empty where the namespace has none yet."""

    window: Window
    encoder_id: str
    source: str


def quality_history(
    ledger: Ledger, namespace: str, encoder_id: str, source: str, window: Window
) -> list[QualitySummary]:
    """What the windows before one say about rewards, of one encoder and source."""
    line = line_id(namespace, encoder_id, ALGORITHM_VERSION)
    earlier = [known for known, _ in ledger.windows.with_current(line) if known < window]
    found = []
    for known in earlier[-QualitySettings().trailing_days :]:
        generation = ledger.windows.current_generation(line, known, kinds=(QUALITY,))
        if generation is not None:
            found += [
                serial.decode(item.payload, QualitySummary)
                for item in generation.of_kind(QUALITY)
                if item.partition_key == source
            ]
    return found


@dataclass(slots=True)
class _Past:
    """What a group is compared with: rewards that are stored, by memory id, and the windows before."""

    stored: dict[str, KnownReward]
    history: list[QualitySummary]


class DrainScorer:
    """Scores the batches of one drain.

    Of each window that a batch touches, what was stored before is read once, as long as no more than `GROUPS_KEPT` are
    drained at a time; what the drain stores itself is added as it goes. Cost: 25 microseconds for each experience of
    the window, once, then 30 ms for a batch of some thousands. Memory: 250 bytes for each experience.
    """

    def __init__(self, mem: MemoryConnection, ledger: Ledger) -> None:
        self._mem = mem
        self._ledger = ledger
        self._past: OrderedDict[_Group, _Past] = OrderedDict()

    async def score(self, batch: Iterable[EpisodicMemory]) -> None:
        """Set the quality of validated experiences, in place; those whose time of knowing is open are left as they are.

        An experience is compared with all that is stored and with the others of its batch, never with itself.
        """
        for group, members in (await self._groups(batch)).items():
            past = await self._past_of(group)
            before = _rewards(group.source, past.stored, {memory.memory_id for memory in members})
            score_memories(members, past.history, before if len(before) else None)

    async def note_stored(self, batch: Iterable[EpisodicMemory], stored: Collection[str]) -> None:
        """Those of a scored batch that are stored now, by their ids, are the past of the batches that follow."""
        for group, members in (await self._groups(batch)).items():
            past = self._past.get(group)
            if past is None:
                continue  # It is read, these included, when it is next asked for.
            for memory in members:
                if memory.memory_id in stored and memory.known_at is not None:
                    regime, known_ms = REGIMES.index(memory.regime), ms_rounded_up(memory.known_at)
                    reward = KnownReward(memory.product_id, regime, known_ms, memory.reward)
                    past.stored[memory.memory_id] = reward

    async def _past_of(self, group: _Group) -> _Past:
        past = self._past.get(group)
        if past is None:
            encoder_id = group.encoder_id or None
            stored = await read_rewards(self._mem, group.window, group.source, encoder_id)
            history: list[QualitySummary] = []
            if encoder_id is not None:
                history = quality_history(self._ledger, self._mem.namespace, encoder_id, group.source, group.window)
            past = self._past[group] = _Past(stored, history)
        self._past.move_to_end(group)
        while len(self._past) > GROUPS_KEPT:
            self._past.popitem(last=False)
        return past

    async def _groups(self, batch: Iterable[EpisodicMemory]) -> dict[_Group, list[EpisodicMemory]]:
        current = await self._mem.encoders.current() or ""
        groups: dict[_Group, list[EpisodicMemory]] = {}
        for memory in batch:
            if memory.known_at is None:
                # Live, a reward is known when it has arrived; the store's clock is the judge of that.
                continue
            group = _Group(Window.containing(memory.timestamp), memory.encoder_id or current, memory.source)
            groups.setdefault(group, []).append(memory)
        return groups


def _rewards(source: str, known: Mapping[str, KnownReward], without: Collection[str]) -> Rewards:
    """Rewards as they are compared with, but for some."""
    kept = [reward for memory_id, reward in known.items() if memory_id not in without]
    products = tuple(sorted({reward.product_id for reward in kept}))
    position = {product_id: number for number, product_id in enumerate(products)}
    return Rewards(
        source=source,
        products=products,
        product=np.array([position[reward.product_id] for reward in kept], dtype=np.int64),
        regime=np.array([reward.regime for reward in kept], dtype=np.int64),
        known_at_ms=np.array([reward.known_at_ms for reward in kept], dtype=np.int64),
        reward=np.array([reward.reward for reward in kept], dtype=np.float64),
    )
