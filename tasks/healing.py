"""Whether Redis still holds what an archive held: then a lost or damaged archive can be written again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from memory.ledger import ArchiveReference, content_digest
from memory.records import to_ms
from memory.tables import ExperienceTable, StateTable, WindowData

_Table = TypeVar("_Table", StateTable, ExperienceTable)


def is_whole(fresh: WindowData, reference: ArchiveReference, seen_until: datetime | None) -> bool:
    """Whether what Redis holds of a window has all that an archive of it held, proved by the digest of the content.

    Parameters
    ----------
    fresh
        What Redis holds.
    reference
        The archive that cannot be read.
    seen_until
        Latest time of recording of what was archived; None where that is not known. What came later is left out of
        the comparison.

    Returns
    -------
    False where it cannot be proved: late records that changed when a state became known hide that it is whole.
    """
    if len(fresh.experiences) < reference.experiences.rows:
        return False
    if content_digest(fresh) == reference.content_digest:
        return True
    if seen_until is None:
        return False
    cut_ms = to_ms(seen_until)
    before = WindowData(_until(fresh.states, cut_ms), _until(fresh.experiences, cut_ms))
    return len(before.states) > 0 and content_digest(before) == reference.content_digest


def _until(table: _Table, cut_ms: int) -> _Table:
    """The rows that were recorded up to a time, as if no other had ever been there."""
    kept = table.take(np.flatnonzero(table.recorded_at_ms <= cut_ms))
    for codes, names in (("agent", "agents"), ("product", "products"), ("run", "runs")):
        if hasattr(kept, codes):
            used, recoded = np.unique(getattr(kept, codes), return_inverse=True)
            known = getattr(kept, names)
            recoded = recoded.astype(np.int64).reshape(-1)
            changes: dict[str, Any] = {names: tuple(known[code] for code in used), codes: recoded}
            kept = replace(kept, **changes)
    return kept
