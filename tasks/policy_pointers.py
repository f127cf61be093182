"""Which trained policy an agent's strategy stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from memory.ledger import Ledger
from memory.records import StrategyMemory
from memory.window import Window


def with_policies(
    ledger: Ledger, namespace: str, window: Window, memories: Iterable[StrategyMemory]
) -> list[StrategyMemory]:
    """The strategies of a window with the checkpoint that their agent may have acted with, where one was trained.

    It is the newest of the strategy's encoder whose data ended at the window's start or before: one that was trained on
    the window itself did not act in it.

    Which one it is follows from the ledger alone, but from what the ledger holds at the time of the fold: a window that
    was folded before a training and is folded again after it may name the newer policy. Nothing else depends on it, and
    publishing again folds nothing (`tasks.rebuilding`).
    """
    found = []
    for memory in memories:
        policy = ledger.training.policy_at(namespace, memory.agent_id, window.start, encoder_id=memory.encoder_id)
        found.append(memory if policy is None else replace(memory, policy_checkpoint=policy.checkpoint_id))
    return found
