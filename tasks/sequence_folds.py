"""Folds whose state is one summary a source: transitions, regimes, strategies, correlations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from memory.learning import serial
from memory.learning.correlations import CorrelationSummary, fold_correlations
from memory.learning.regime_memory import RegimeSummary, fold_regimes
from memory.learning.strategies import StrategySummary, fold_strategies
from memory.learning.transitions import TransitionSummary, fold_transitions
from memory.ledger import Checkpoint, CurrentGeneration, FencingToken, Ledger
from memory.window import Window
from tasks.consolidation import CORRELATIONS, REGIME_STATES, STRATEGIES, TRANSITIONS

Summary = TransitionSummary | RegimeSummary | StrategySummary | CorrelationSummary


@dataclass(frozen=True, slots=True)
class SequenceFold:
    """A fold whose state is one summary a source."""

    kind: str
    summary: type[Summary]
    fold: Callable[[Any, Any], Any]


STRATEGY_FOLD = SequenceFold(STRATEGIES, StrategySummary, fold_strategies)
CORRELATION_FOLD = SequenceFold(CORRELATIONS, CorrelationSummary, fold_correlations)
TRANSITION_FOLD = SequenceFold(TRANSITIONS, TransitionSummary, fold_transitions)
REGIME_FOLD = SequenceFold(REGIME_STATES, RegimeSummary, fold_regimes)


@dataclass(slots=True)
class RunningFold:
    """A fold on its way over the windows of a line: its state is read once, and then carried along.

    Attributes
    ----------
    base
        Checkpoint of the window before; None for the empty state.
    states
        State by source. What is carried is what reading the checkpoint again would give, byte for byte.
    """

    fold: SequenceFold
    base: Checkpoint | None
    states: dict[str, Any]

    @classmethod
    def before(cls, ledger: Ledger, line: str, fold: SequenceFold, window: Window) -> RunningFold:
        """The fold as it stood before a window."""
        loaded = ledger.folds.load_state(line, fold.kind, before=window)
        return cls(
            fold,
            loaded.checkpoint,
            {source: serial.decode(data, fold.summary) for source, data in sorted(loaded.items.items())},
        )

    def add(self, ledger: Ledger, token: FencingToken, line: str, generation: CurrentGeneration) -> None:
        """Fold one window more, and keep its checkpoint."""
        changed = {}
        for item in generation.of_kind(self.fold.kind):
            summary = serial.decode(item.payload, self.fold.summary)
            folded = self.fold.fold(self.states.get(item.partition_key), summary)
            changed[item.partition_key] = serial.encode(folded)
        self.base = ledger.folds.save_checkpoint(
            token,
            line,
            self.fold.kind,
            generation.generation.window,
            input_digest=generation.generation.manifest_digest,
            base=self.base,
            changed=changed,
        )
        self.states |= {source: serial.decode(data, self.fold.summary) for source, data in changed.items()}

    def by_source(self) -> Iterator[tuple[str, Any]]:
        """Each source with its state, in order."""
        yield from sorted(self.states.items())
