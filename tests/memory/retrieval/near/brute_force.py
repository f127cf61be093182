"""Rows to be searched, and what a search of every one of them finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memory.records import PHASES, from_ms, market_phase
from memory.retrieval.near import anchors
from memory.retrieval.near import rows as rows_module
from memory.retrieval.near.arena import NEVER_MS
from memory.retrieval.near.rows import AgentRows, StoredRow
from memory.retrieval.near.search import Question

DIMENSION = 24
HOUR_MS = 3_600_000
PRODUCTS = ("BTC", "ETH", "XRP")


def unit(vectors: Any) -> Any:
    scaled = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def clustered(count: int, centres: int, spread: float, generator: np.random.Generator, dimension: int = 64) -> Any:
    """Unit vectors around random centres; a spread of 0 makes copies of them, a large one hides them."""
    middles = unit(generator.standard_normal((centres, dimension)))
    noise = unit(generator.standard_normal((count, dimension)))
    return unit(middles[generator.integers(0, centres, count)] + spread * noise)


@contextlib.contextmanager
def always_anchored() -> Iterator[None]:
    """Rows that are settled meanwhile get anchors, however few there are and however little anchors gain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "ANCHORED_FROM", 1)
        patch.setattr(rows_module, "UNEXPLAINED", -1.0)
        patch.setattr(anchors, "FEW_LEFT", -1.0)
        patch.setattr(anchors, "WORTH_KEEPING", 1.0)
        patch.setattr(anchors, "GAIN", 1e-9)
        yield


def settled(
    held: list[StoredRow], *, anchored: bool, vector_type: str = "FLOAT32", dimension: int = DIMENSION
) -> AgentRows:
    """Rows ready to be searched, by anchors or as they are by themselves."""
    rows = AgentRows(vector_type, dimension, len(held))
    rows.fill(held)
    with always_anchored() if anchored else contextlib.nullcontext():
        rows.settle()
    return rows


def row(
    number: int, vector: Any, *, scope: tuple[str, int] = ("BTC", 0), dtype: str = "<f4", **changes: Any
) -> StoredRow:
    made = StoredRow(
        key=f"ns:episodic:a:{scope[0]}:{number}:{number:032x}".encode(),
        body=b"body",
        vector=vector.astype(dtype).tobytes(),
        product_id=scope[0],
        timestamp_ms=number * HOUR_MS,
        regime=scope[1],
        feature_schema="",
        known_ms=number * HOUR_MS,
        recorded_ms=number,
        expires_ms=NEVER_MS,
        reward=0.0,
    )
    return made._replace(**changes)


def brute_force(
    held: list[StoredRow], question: Question, now_ms: int, dtype: str = "<f4"
) -> list[tuple[float, bytes]]:
    found = []
    for item in held:
        phase = PHASES.index(market_phase(from_ms(item.timestamp_ms)))
        fits = (
            question.product_id in (None, item.product_id)
            and question.regime in (None, item.regime)
            and question.phase in (None, phase)
            and (question.since_ms is None or item.timestamp_ms >= question.since_ms)
            and (question.until_ms is None or item.timestamp_ms < question.until_ms)
            and (question.as_of_ms is None or item.known_ms <= question.as_of_ms)
            and (question.min_reward is None or item.reward >= question.min_reward)
            and item.expires_ms > now_ms
        )
        if fits:
            vector = np.frombuffer(item.vector, dtype).astype(np.float64)
            query = question.vector.astype(np.float64)
            found.append((1.0 - float(vector @ query) / float(np.linalg.norm(vector)), item.key.split(b":")[-1]))
    return sorted(found)[: question.top_k]


def check(rows: AgentRows, held: list[StoredRow], question: Question, now_ms: int = 0, dtype: str = "<f4") -> None:
    """What is found is what brute force finds; rounding may only swap neighbours of different vectors."""
    found = rows.nearest(question, now_ms)
    everything = brute_force(held, replace(question, top_k=len(held)), now_ms, dtype)
    expected = [distance for distance, _ in everything[: question.top_k]]
    true_distance = {name: distance for distance, name in everything}
    names = [rows.key(slot).split(b":")[-1] for slot in found.slots]
    assert len(names) == len(set(names)) == len(expected)
    np.testing.assert_allclose(found.distances, expected, atol=1e-6)
    np.testing.assert_allclose([true_distance[name] for name in names], expected, atol=1e-6)
    ordered = list(zip(found.distances, names, strict=True))
    assert ordered == sorted(ordered)
    assert not found.vectors.flags.writeable
    stored_as = {item.key.split(b":")[-1]: np.frombuffer(item.vector, dtype).astype(np.float32) for item in held}
    assert all(np.array_equal(vector, stored_as[name]) for vector, name in zip(found.vectors, names, strict=True))


def stored(number: int, palette: Any, generator: np.random.Generator) -> StoredRow:
    """A record of a number: its key is always the same, the rest is drawn."""
    return row(
        number,
        palette[generator.integers(len(palette))],
        scope=(PRODUCTS[number % 3], int(generator.integers(5))),
        known_ms=int(generator.integers(30)) * HOUR_MS,
        expires_ms=(NEVER_MS, NEVER_MS, 5, 10)[generator.integers(4)],
        reward=float(generator.choice([-1.0, 0.0, 0.5])),
    )
