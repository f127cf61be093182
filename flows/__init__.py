"""What runs and in what order: one file a flow. `FLOWS` names them; `load` imports one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

FLOWS: dict[str, str] = {
    "record_experiences": "Replay market history, or drain the agents' inboxes, into episodic memory.",
    "consolidate_memories": "Turn a window's experiences into patterns, strategies and correlations.",
    "update_transitions": "Count how regimes follow one another, and what each looks like.",
    "prune_memories": "Forget what is old and archived; list what the fold pruned and why.",
    "reindex_memory": "Change how experiences are indexed or encoded, without downtime.",
    "benchmark_memory": "Measure latency, concurrency and recall on real memories.",
    "nightly": "All of it for one night, with the scorecard and the report.",
}


def load(name: str) -> tuple[Callable[[Any], dict[str, Any]], type[BaseModel]]:
    """The flow of a name and the model of its parameters; KeyError for an unknown name."""
    if name not in FLOWS:
        raise KeyError(name)
    module = import_module(f"flows.{name}")
    return getattr(module, name), module.Parameters
