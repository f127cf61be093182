"""Each question with arguments that can be answered, at every door that knows it; and what a refusal must say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from memory import BatchedMemoryRetrieval, MemoryConnection, MemoryRetrievalService, SharedMemoryPool
from memory.errors import InvalidQueryError
from tests.memory.retrieval.bad_input.bad_values import DAY, unit_vector
from tests.memory.retrieval.redis_processes import RedisProcess

PRESENT = DAY + timedelta(days=2)

LONGEST_MESSAGE = 500
"""No refusal repeats 10 kB of what it was given."""

STATE = unit_vector(3)
VALID: dict[str, dict[str, Any]] = {
    "retrieve_similar_experiences": {"state_vector": STATE, "agent_id": "momentum"},
    "retrieve_async": {"state_vector": STATE, "agent_id": "momentum"},
    "retrieve_patterns": {"state_vector": STATE},
    "find_similar_pattern": {"state_vector": STATE},
    "estimate": {"state_vector": STATE, "action": "LONG", "horizon": 5},
    "retrieve_regime_knowledge": {"current_regime": "QUIET"},
    "retrieve_similar_regimes": {"feature_vector": STATE},
    "retrieve_correlations": {"product_id": "BTC-USDT"},
    "retrieve_shared_experiences": {"state_vector": STATE},
}
HOLDERS: dict[str, type] = {
    **dict.fromkeys(VALID, MemoryRetrievalService),
    "retrieve_async": BatchedMemoryRetrieval,
    "retrieve_shared_experiences": SharedMemoryPool,
}
QUESTIONS = [
    (question, argument)
    for question in VALID
    for argument in inspect.signature(getattr(HOLDERS[question], question)).parameters
    if argument != "self"
]


@dataclass(frozen=True)
class Opened:
    """A memory behind all its doors, each of which was used before, and what was sent by all of them."""

    mem: MemoryConnection
    doors: tuple[Any, ...]
    sent: Callable[[], dict[str, int]]

    def ask(self, question: str) -> list[Callable[..., Any]]:
        """One question at each of the doors that know it."""
        return [getattr(door, question) for door in self.doors if hasattr(door, question)]


def count_commands(server: RedisProcess) -> dict[str, int]:
    """Commands that the server was sent so far, by name; INFO counts for nothing, since that is how it is asked."""
    lines = server.ask("INFO", "commandstats").split("\r\n")
    counts = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if "calls=" in line}
    return {name: count for name, count in counts.items() if name != "cmdstat_info"}


def complaint(error: InvalidQueryError, argument: str) -> str | None:
    """What a refusal lacks; None where it lacks nothing."""
    text = str(error)
    if error.argument != argument:
        return f"names {error.argument}: {text}"
    if argument not in error.message:
        return f"does not say that it is {argument}: {text}"
    if not text.endswith(f" {error.remedy}") or not error.remedy.endswith(".") or len(error.remedy) < len("Swap them."):
        return f"has no remedy: {text}"
    if len(text) > LONGEST_MESSAGE:
        return f"is {len(text)} characters long"
    if not text.isprintable():
        return f"cannot be printed: {text!r}"
    return None
