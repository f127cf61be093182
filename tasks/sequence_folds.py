"""Folds whose state is one summary a source: transitions, regimes, strategies, correlations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from memory.learning import serial
from memory.learning.packed_correlations import PackedCorrelations, fold_packed
from memory.learning.regime_memory import RegimeSummary, fold_regimes
from memory.learning.strategies import StrategySummary, fold_strategies
from memory.learning.transitions import TransitionSummary, fold_transitions
from memory.ledger import Checkpoint, CurrentGeneration, FencingToken, Ledger
from memory.window import Window
from tasks.consolidation import CORRELATIONS, REGIME_STATES, STRATEGIES, TRANSITIONS

Summary = TransitionSummary | RegimeSummary | StrategySummary | PackedCorrelations


@dataclass(frozen=True, slots=True)
class SequenceFold:
    """A fold whose state is one summary a source.

    Attributes
    ----------
    fold
        State (None for the empty one) and a window's summary to the next state.
    read, write
        Summaries and states from bytes and to bytes.
    """

    kind: str
    fold: Callable[[Any, Any], Any]
    read: Callable[[bytes], Summary]
    write: Callable[[Any], bytes] = serial.encode


STRATEGY_FOLD = SequenceFold(STRATEGIES, fold_strategies, lambda data: serial.decode(data, StrategySummary))
CORRELATION_FOLD = SequenceFold(CORRELATIONS, fold_packed, PackedCorrelations, lambda packed: packed.data)
TRANSITION_FOLD = SequenceFold(TRANSITIONS, fold_transitions, lambda data: serial.decode(data, TransitionSummary))
REGIME_FOLD = SequenceFold(REGIME_STATES, fold_regimes, lambda data: serial.decode(data, RegimeSummary))


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
            {source: fold.read(data) for source, data in sorted(loaded.items.items())},
        )

    def add(self, ledger: Ledger, token: FencingToken, line: str, generation: CurrentGeneration) -> None:
        """Fold one window more, and keep its checkpoint."""
        changed = {}
        for item in generation.of_kind(self.fold.kind):
            summary = self.fold.read(item.payload)
            folded = self.fold.fold(self.states.get(item.partition_key), summary)
            changed[item.partition_key] = self.fold.write(folded)
        self.base = ledger.folds.save_checkpoint(
            token,
            line,
            self.fold.kind,
            generation.generation.window,
            input_digest=generation.generation.manifest_digest,
            base=self.base,
            changed=changed,
        )
        self.states |= {source: self.fold.read(data) for source, data in changed.items()}

    def by_source(self) -> Iterator[tuple[str, Any]]:
        """Each source with its state, in order."""
        yield from sorted(self.states.items())
