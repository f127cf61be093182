"""How contestants of an evaluation learn; free of torch."""

from __future__ import annotations

from agents.evaluation.settings import PERMUTED, REGULARISED, WITH_ESTIMATES, WITH_MEMORY, WITHOUT_MEMORY
from agents.training.settings import LearnerSettings, MemoryUse

MEMORY_USES = {
    WITH_MEMORY: MemoryUse.RETRIEVE,
    WITHOUT_MEMORY: MemoryUse.NONE,
    PERMUTED: MemoryUse.RETRIEVE,
    WITH_ESTIMATES: MemoryUse.RETRIEVE,
    REGULARISED: MemoryUse.REGULARISE,
}
HALF_LIFE_DECISIONS = 4.0
"""Decisions after which a reward counts half: values then reach over an hour at 15 minutes, as far as outcomes do."""
GAMMA = 0.5 ** (1.0 / HALF_LIFE_DECISIONS)


def learner_settings(contestant: str, batch: int) -> LearnerSettings:
    """How a contestant learns: all alike but for the use of memory."""
    return LearnerSettings(memory_use=MEMORY_USES[contestant].value, gamma=GAMMA, batch=batch, threads=1)
