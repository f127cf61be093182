"""Names of patterns as they were known before windows are folded again: what tells where they lead afterwards."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from memory.learning import serial
from memory.learning.knowledge import FoldState


class KnownName(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What identifies a published pattern: who it is, where it lay, and in which windows it was seen."""

    pattern_id: str
    encoder_id: str
    source: str
    partition: str
    place: npt.NDArray[np.float64]
    seen: tuple[str, ...]
    published: bool = True

    @property
    def windows(self) -> frozenset[str]:
        """Names of the windows that it was seen in."""
        return frozenset(self.seen)


class KnownNames(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All published patterns of a state, by what identifies them: some 2 KB each, where a state has ten times that."""

    names: tuple[KnownName, ...]

    @classmethod
    def of(cls, state: FoldState) -> KnownNames:
        """The names that agents may hold of what a state knows."""
        published = [state.patterns[key] for key in sorted(state.patterns) if state.patterns[key].published]
        return cls(
            names=tuple(
                KnownName(
                    pattern_id=pattern.pattern_id,
                    encoder_id=pattern.encoder_id,
                    source=pattern.source,
                    partition=pattern.partition,
                    place=pattern.place,
                    seen=tuple(sorted(pattern.windows)),
                )
                for pattern in published
            )
        )

    def to_bytes(self) -> bytes:
        """As the ledger keeps it."""
        return serial.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> KnownNames:
        """What `to_bytes` wrote."""
        return serial.decode(data, cls)

    @property
    def patterns(self) -> dict[str, KnownName]:
        """The patterns by id, as `memory.learning.patterns.aliases_after_refold` asks for them."""
        return {known.pattern_id: known for known in self.names}
