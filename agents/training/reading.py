"""Reading what a training needs from an open memory, and sharing what is good enough for the pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from agents.policy.inputs import Bools
from agents.policy.knowledge import knowledge_of, no_knowledge
from agents.policy.layout import InputLayout
from agents.training.data import TrainingData
from memory import MemoryConnection
from memory.errors import PastExpiredError
from memory.records import REGIMES, SOURCES, PatternMemory, RegimeMemory, SemanticType, from_ms
from memory.retrieval.knowledge import choose_regime
from memory.store.snapshots import StoredVersion
from memory.store.windows import read_window_data
from memory.tables import WindowData
from memory.window import Window

_DAY_MS = 86_400_000
SHARE_BATCH = 500
"""Experiences offered to the pool at a time."""


async def read_windows(
    mem: MemoryConnection, layout: InputLayout, windows: Iterable[Window], source: str | None
) -> list[WindowData]:
    """What the windows hold of the layout's encoder, in order; of one source.

    Parameters
    ----------
    source
        live, replay or backtest; the one with the most experiences where None, ties in that order.
    """
    found = [await read_window_data(mem, window) for window in windows]
    if source is None:
        counts = {
            name: sum(len(tables[key].experiences) for tables in found if (key := (layout.encoder_id, name)) in tables)
            for name in SOURCES
        }
        source = max(SOURCES, key=lambda name: counts[name])
    key = (layout.encoder_id, source)
    return [tables[key] for tables in found if key in tables]


async def add_knowledge(mem: MemoryConnection, layout: InputLayout, data: TrainingData) -> tuple[TrainingData, int]:
    """The data with what was known of each state's regime and pattern as of its day, and how many states have any.

    As of the first state of each UTC day: knowledge is published by the day, so a later state of the day knew no less.
    What has left Redis counts as unknown. Nothing is counted as accessed: nobody acted on it.
    """
    values, mask = no_knowledge(len(data.states))
    days = data.states.timestamp_ms // _DAY_MS
    for day in np.unique(days).tolist():
        rows = np.flatnonzero(days == day)
        as_of_ms = int(data.states.timestamp_ms[rows].min())
        await mem.encoders.check_as_of(layout.encoder_id, from_ms(as_of_ms))
        try:
            known = await mem.semantic.snapshots.known(
                layout.encoder_id, (SemanticType.REGIME, SemanticType.PATTERN), as_of_ms
            )
        except PastExpiredError:
            continue
        patterns = [cast(PatternMemory, version.memory) for version in known[SemanticType.PATTERN]]
        near = _patterns_of(data.states.vectors[rows], patterns, mem.settings.pattern_similarity)
        regimes: dict[tuple[int, int], RegimeMemory | None] = {}
        for row, (pattern, distance) in zip(rows.tolist(), near, strict=True):
            scope = int(data.states.regime[row]), int(data.states.product[row])
            if scope not in regimes:
                regimes[scope] = _regime_of(known[SemanticType.REGIME], REGIMES[scope[0]], data.products[scope[1]])
            values[row], mask[row] = knowledge_of(
                regimes[scope],
                pattern,
                distance,
                trailing_volatility=float(data.states.trailing_volatility[row]),
            )
    return data.with_knowledge(values, mask), int(mask.any(axis=1).sum())


def _regime_of(versions: Sequence[StoredVersion], regime: str, product_id: str) -> RegimeMemory | None:
    chosen = choose_regime(versions, regime, product_id, None)
    return None if chosen is None else cast(RegimeMemory, chosen.memory)


def _patterns_of(
    vectors: npt.NDArray[Any], patterns: Sequence[PatternMemory], least_cosine: float
) -> list[tuple[PatternMemory | None, float | None]]:
    """The pattern that each state is an occurrence of, by the rule of `find_similar_pattern`, and its distance."""
    if not patterns:
        return [(None, None)] * len(vectors)
    ordered = sorted(patterns, key=lambda pattern: pattern.memory_id)
    places = np.stack([pattern.concept_vector for pattern in ordered]).astype(np.float64)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    cosines = vectors.astype(np.float64) @ places.T
    reaches = np.array([pattern.reach for pattern in ordered])
    within: Bools = (cosines >= least_cosine) & (1.0 - cosines <= reaches)
    best = np.where(within, cosines, -np.inf).argmax(axis=1)
    return [
        (ordered[column], float(1.0 - cosines[row, column])) if within[row, column] else (None, None)
        for row, column in enumerate(best.tolist())
    ]


@dataclass(slots=True)
class PublicationCounts:
    """What became of the experiences that were offered to the pool."""

    shared: int = 0
    duplicates: int = 0
    below_quality: int = 0
    unscored: int = 0
    refused: int = 0


async def publish_experiences(
    mem: MemoryConnection, start: datetime, end: datetime, *, encoder_id: str, source: str | None = None
) -> PublicationCounts:
    """Offer the experiences decided in [start, end) to the shared pool; those of enough quality enter it.

    The pool says what is enough (COINSWARM_SHARED_MIN_QUALITY), and from when on each is there: replayed ones from
    their own `known_at`. Again it shares nothing new. Cost: 0.2 ms an experience.
    """
    counts = PublicationCounts()
    begin = max(start, end - timedelta(days=mem.settings.shared_retention_days))
    async for page in mem.episodic.read_window(begin, end, encoder_id=encoder_id, source=source, with_next_state=True):
        counts.unscored += sum(item.quality is None for item in page)
        good = [item for item in page if item.quality is not None and item.quality >= mem.settings.shared_min_quality]
        counts.below_quality += sum(item.quality is not None for item in page) - len(good)
        for first in range(0, len(good), SHARE_BATCH):
            report = await mem.shared.add_shared_experiences(good[first : first + SHARE_BATCH])
            counts.shared += len(report.stored)
            counts.duplicates += len(report.duplicates)
            counts.refused += len(report.rejections)
    return counts
