"""Whether Redis still holds what an archive held: then a lost or damaged archive can be written again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from memory.ledger import ArchiveReference, ContentHash
from memory.records import to_ms
from memory.tables import WindowData


class ContentProof:
    """Whether what is read of a window has all that an archive of it held, proved by the digest of the content.

    Parameters
    ----------
    reference
        The archive that cannot be read.
    seen_until
        Latest time of recording of what was archived; None where that is not known. What came later is left out of a
        second comparison, as if it had never been there.

    Cost: a hash or two of what is read; no row is kept.
    """

    def __init__(self, reference: ArchiveReference, seen_until: datetime | None) -> None:
        self._reference = reference
        self._cut_ms = None if seen_until is None else to_ms(seen_until)
        self._everything = ContentHash(reference.encoder_id, reference.source)
        self._before = ContentHash(reference.encoder_id, reference.source)
        self._experiences = 0

    def update(self, part: WindowData) -> None:
        """Takes in what was read, in the order of `memory.store.windows.window_parts`."""
        self._experiences += len(part.experiences)
        self._everything.update(part)
        if self._cut_ms is not None:
            seen = _as_it_was(part, self._cut_ms)
            # Nothing that is left of a part is nothing that was there.
            if len(seen.states) or len(seen.experiences):
                self._before.update(seen)

    def holds(self) -> bool:
        """Whether it is whole.

        False where that cannot be proved: a late record that speaks for a state (its memory id is the smallest) and
        does not agree with those before it hides that it is whole.
        """
        if self._experiences < self._reference.experiences.rows:
            return False
        wanted = self._reference.content_digest
        return wanted in (self._everything.hexdigest(), self._before.hexdigest())


def _as_it_was(part: WindowData, cut_ms: int) -> WindowData:
    """A part without what was recorded after a time: each state is known as early as its experiences of then say."""
    states = part.states.take(np.flatnonzero(part.states.recorded_at_ms <= cut_ms))
    experiences = part.experiences.take(np.flatnonzero(part.experiences.recorded_at_ms <= cut_ms))
    known: dict[tuple[str, int], int] = {}
    for product, timestamp_ms, known_ms in zip(
        experiences.product.tolist(), experiences.timestamp_ms.tolist(), experiences.known_at_ms.tolist(), strict=True
    ):
        state = experiences.products[product], timestamp_ms
        known[state] = min(known.get(state, known_ms), known_ms)
    known_at_ms = [
        known[states.products[product], timestamp_ms]
        for product, timestamp_ms in zip(states.product.tolist(), states.timestamp_ms.tolist(), strict=True)
    ]
    return WindowData(replace(states, known_at_ms=np.array(known_at_ms, dtype=np.int64)), experiences)
