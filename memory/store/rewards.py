"""Rewards of a window's experiences, without vectors and features: what the quality of the next ones is judged by."""

from __future__ import annotations

from typing import NamedTuple

from memory.records import to_ms
from memory.store.codec import unpack_body
from memory.store.keys import source_tag
from memory.store.scan import select
from memory.store.windows import OpenMemory
from memory.window import Window


class KnownReward(NamedTuple):
    """A reward, its cell and its time: product, code of the regime in REGIMES, when it was known, and how much."""

    product_id: str
    regime: int
    known_at_ms: int
    reward: float


async def read_rewards(
    mem: OpenMemory, window: Window, source: str, encoder_id: str | None = None
) -> dict[str, KnownReward]:
    """Rewards of all experiences of a source that a window holds, by memory id; of all encoders unless one is named.

    About 25 microseconds and 250 bytes an experience; searches beside it stay quick, because pages are small.

    Raises
    ------
    StoreUnavailableError
        Redis went away, or a page got lost: read again.
    """
    selection = select(start_ms=to_ms(window.start), end_ms=to_ms(window.end), tags=[source_tag(source)])
    found: dict[str, KnownReward] = {}
    for schema in await mem.episodic.schemas(encoder_id):
        async for rows in mem.reader.rows(schema, selection):
            for row in rows:
                key, body = mem.keys.parse_episodic(row.key), unpack_body(row.body)
                found[key.memory_id] = KnownReward(key.product_id, body.regime, row.known_ms, float(body.reward))
    return found
