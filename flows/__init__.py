"""What runs and in what order: one file a flow. `FLOWS` names them; `load` imports one.

`parameters_of` gives a flow's parameters without importing it, and with it Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.parameters import NamespaceParameters

FLOWS: dict[str, str] = {
    "record_experiences": "Replay market history, or drain the agents' inboxes, into episodic memory.",
    "consolidate_memories": "Turn a window's experiences into patterns, strategies and correlations.",
    "update_transitions": "Count how regimes follow one another, and what each looks like.",
    "prune_memories": "Forget what is old and archived; list what the fold pruned and why.",
    "verify_memory": "Compare what Redis holds with what the ledger says; names every difference.",
    "rebuild_memory": "Publish all that the ledger knows again: in place, or as of a time into another namespace.",
    "start_line": "Learn everything again with a new encoder or algorithm, and let that take over in one step.",
    "backfill": "Consolidate a range of dates, some windows at once; fold and publish once, at its end.",
    "reindex_memory": "Change how experiences are indexed or encoded, without downtime.",
    "benchmark_memory": "Measure latency, concurrency and recall on real memories.",
    "train_agents": "Train a policy for an agent on what all agents lived through; weekly.",
    "evaluate_agents": "Does memory help: policies with and without it, rules and agents on history, with intervals.",
    "backup_memory": "Write a snapshot of the whole memory while agents go on; keeps the newest few.",
    "restore_memory": "Restore a snapshot into an empty namespace, verify it, and go on from there.",
    "restore_drill": "Restore the newest snapshot into a namespace of its own, compare, and drop that again; monthly.",
    "janitor": "Remove what nothing needs any more: old runs, replaced archives, reports, logs; knowledge stays.",
    "nightly": "All of it for one night, with the scorecard and the report.",
}


def parameters_of(name: str) -> type[NamespaceParameters]:
    """The model of a flow's parameters; KeyError for an unknown name. Some milliseconds: Prefect is not imported."""
    if name not in FLOWS:
        raise KeyError(name)
    model: type[NamespaceParameters] = import_module(f"flows.forms.{name}").Parameters
    return model


def load(name: str) -> tuple[Callable[[Any], dict[str, Any]], type[NamespaceParameters]]:
    """The flow of a name and the model of its parameters; KeyError for an unknown name."""
    if name not in FLOWS:
        raise KeyError(name)
    return getattr(import_module(f"flows.{name}"), name), parameters_of(name)
