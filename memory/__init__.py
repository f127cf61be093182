"""The memory of multi-agent trading systems: episodic memory in Redis, semantic memory learned from it every night.

.. code-block:: python

    import memory

    async with memory.connect() as mem:
        await mem.episodic.add(experience)
        hits = await mem.retrieval.retrieve_similar_experiences(state_vector, product_id="BTC-USDT", top_k=10)

Names are loaded when first used, so that ``import memory`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memory.agent_state import AgentState
    from memory.asof import ReplayClock, replaying
    from memory.connection import MemoryConnection, PastMemory, connect
    from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead
    from memory.learning.estimates import Estimate
    from memory.messages import AgentMemoryMessage, MessageType
    from memory.records import (
        Action,
        CorrelationMemory,
        EpisodicMemory,
        MarketPhase,
        PatternMemory,
        PerformanceMetrics,
        Regime,
        RegimeMemory,
        SemanticMemory,
        SemanticType,
        Side,
        StrategyMemory,
    )
    from memory.retrieval.batching import BatchedMemoryRetrieval
    from memory.retrieval.correlations import CorrelationHit
    from memory.retrieval.freshness import Freshness
    from memory.retrieval.hits import Hit, PatternHit
    from memory.retrieval.knowledge import RegimeKnowledge
    from memory.retrieval.ranking import RelevanceWeights
    from memory.retrieval.regimes import RegimeHits
    from memory.retrieval.replicas import LoadBalancedMemoryRetrieval, ReplicaPolicy, WriteToken
    from memory.retrieval.service import MemoryRetrievalService
    from memory.retrieval.shared import SharedMemoryPool
    from memory.settings import Settings
    from memory.store.access import uncounted
    from memory.store.message_log import MessageHistory
    from memory.store.recording import StoreReport
    from memory.window import Window
    from memory.working import WorkingMemory

_HOMES = {
    "connect": "memory.connection",
    "ReplayClock": "memory.asof",
    "replaying": "memory.asof",
    "uncounted": "memory.store.access",
    "MemoryConnection": "memory.connection",
    "PastMemory": "memory.connection",
    "Action": "memory.records",
    "AgentMemoryMessage": "memory.messages",
    "AgentState": "memory.agent_state",
    "BatchedMemoryRetrieval": "memory.retrieval.batching",
    "CorrelationHit": "memory.retrieval.correlations",
    "CorrelationMemory": "memory.records",
    "DecisionTrace": "memory.decisions",
    "KnowledgeRead": "memory.decisions",
    "MemoryRead": "memory.decisions",
    "MessageHistory": "memory.store.message_log",
    "MessageType": "memory.messages",
    "EpisodicMemory": "memory.records",
    "Estimate": "memory.learning.estimates",
    "Freshness": "memory.retrieval.freshness",
    "MarketPhase": "memory.records",
    "PatternMemory": "memory.records",
    "PerformanceMetrics": "memory.records",
    "Regime": "memory.records",
    "RegimeMemory": "memory.records",
    "SemanticMemory": "memory.records",
    "SemanticType": "memory.records",
    "Side": "memory.records",
    "StrategyMemory": "memory.records",
    "Hit": "memory.retrieval.hits",
    "LoadBalancedMemoryRetrieval": "memory.retrieval.replicas",
    "MemoryRetrievalService": "memory.retrieval.service",
    "ReplicaPolicy": "memory.retrieval.replicas",
    "RegimeHits": "memory.retrieval.regimes",
    "RegimeKnowledge": "memory.retrieval.knowledge",
    "RelevanceWeights": "memory.retrieval.ranking",
    "PatternHit": "memory.retrieval.hits",
    "Settings": "memory.settings",
    "SharedMemoryPool": "memory.retrieval.shared",
    "StoreReport": "memory.store.recording",
    "Window": "memory.window",
    "WorkingMemory": "memory.working",
    "WriteToken": "memory.retrieval.replicas",
}

__all__ = [
    "Action",
    "AgentMemoryMessage",
    "AgentState",
    "BatchedMemoryRetrieval",
    "CorrelationHit",
    "CorrelationMemory",
    "DecisionTrace",
    "EpisodicMemory",
    "Estimate",
    "Freshness",
    "Hit",
    "KnowledgeRead",
    "LoadBalancedMemoryRetrieval",
    "MarketPhase",
    "MemoryConnection",
    "MemoryRead",
    "MemoryRetrievalService",
    "MessageHistory",
    "MessageType",
    "PastMemory",
    "PatternHit",
    "PatternMemory",
    "PerformanceMetrics",
    "Regime",
    "RegimeHits",
    "RegimeKnowledge",
    "RegimeMemory",
    "RelevanceWeights",
    "ReplayClock",
    "ReplicaPolicy",
    "SemanticMemory",
    "SemanticType",
    "Settings",
    "SharedMemoryPool",
    "Side",
    "StoreReport",
    "StrategyMemory",
    "Window",
    "WorkingMemory",
    "WriteToken",
    "connect",
    "replaying",
    "uncounted",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'memory' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
