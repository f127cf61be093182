"""The shared pool, asked plainly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RETENTION = timedelta(days=30)
GOOD = 0.9


def steps(hits: Any) -> set[int]:
    return {hit.memory.step for hit in hits}


async def shared(pool: Any, question: Any, **asked: Any) -> set[int]:
    return steps(await pool.retrieve_shared_experiences(question, **{"top_k": 100, **asked}))
