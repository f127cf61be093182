"""Which windows of a line have to be consolidated again, and what Redis holds that no archive does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from memory import MemoryConnection
from memory.ledger import Archive, FencingToken, Ledger
from memory.window import Window

MAX_LATE_WINDOWS = 7
"""Windows with late records that one run consolidates again, oldest first; the others wait for the next run."""
LATE, OTHER_SETTINGS = "late records", "other settings"


@dataclass(frozen=True, slots=True)
class ArchivedSpan:
    """What is archived of a window, of one encoder.

    Attributes
    ----------
    rows
        Experiences in the archive.
    recorded_cut
        Latest time of recording that its consolidation has seen; None where that is not known.
    """

    window: Window
    encoder_id: str
    rows: int
    recorded_cut: datetime | None


def archived_spans(ledger: Ledger, namespace: str, until: datetime | None = None) -> list[ArchivedSpan]:
    """What was consolidated of the windows that ended at a time or before (all where None), in order."""
    cuts: dict[tuple[Window, str], datetime | None] = {}
    for record in ledger.lines.list(namespace):
        for status in ledger.windows.list(record.line):
            if status.generation is not None and (until is None or status.window.end <= until):
                key = (status.window, record.encoder_id)
                known = [cut for cut in (cuts.get(key), status.recorded_cut) if cut is not None]
                cuts[key] = max(known, default=None)
    return [
        ArchivedSpan(
            window,
            encoder_id,
            sum(item.experiences.rows for item in ledger.windows.archives(namespace, window, encoder_id)),
            cuts[window, encoder_id],
        )
        for window, encoder_id in sorted(cuts)
    ]


async def held_beyond_archive(mem: MemoryConnection, span: ArchivedSpan) -> tuple[int, bool]:
    """Experiences that Redis holds of a window and encoder, and whether some of them are not archived.

    Both signs count: more records than the archive has (some were recorded while it was read), and records that came
    after it (the older ones may be pruned already).
    """
    count = partial(mem.episodic.count, since=span.window.start, until=span.window.end, encoder_id=span.encoder_id)
    held = await count()
    if not held or held > span.rows or span.recorded_cut is None:
        return held, held > 0
    return held, await count(recorded_after=span.recorded_cut) > 0


async def mark_late_windows(
    mem: MemoryConnection, ledger: Ledger, token: FencingToken, lines: Sequence[str], spans: Sequence[ArchivedSpan]
) -> None:
    """Mark the windows of some lines stale that hold more than their archive."""
    encoders = {line.split("/")[1]: line for line in lines}
    for span in spans:
        if span.encoder_id in encoders and (await held_beyond_archive(mem, span))[1]:
            ledger.windows.mark_stale(token, encoders[span.encoder_id], span.window, LATE)


def windows_to_consolidate_again(
    ledger: Ledger, archive: Archive, token: FencingToken, line: str, present: Window, settings_hash: str
) -> list[Window]:
    """Windows of a line, beside the present one, whose generation is out of date; in order.

    All that were consolidated with other settings are among them: knowledge of different settings is never mixed. Of
    those with late records only so many as one run may take, and none whose archive is lost: their summaries stand.
    """
    other, late = [], []
    for status in ledger.windows.list(line):
        if status.window == present or status.generation is None:
            continue
        if status.settings_hash != settings_hash:
            ledger.windows.mark_stale(token, line, status.window, OTHER_SETTINGS)
            other.append(status.window)
        elif status.stale_since is not None:
            references = ledger.windows.archives(token.namespace, status.window, line.split("/")[1])
            if all(archive.exists(reference) for reference in references):
                late.append(status.window)
    return sorted([*other, *late[:MAX_LATE_WINDOWS]])
