"""Which windows have to be consolidated again, and what Redis holds that no archive does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from memory import MemoryConnection
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchivedSpanRow, FencingToken, Ledger, LineRecord, WindowStatus
from memory.window import Window
from tasks.retry import retried
from tasks.runs import TaskContext

LATE, OTHER_SETTINGS = "late records", "other settings"
COUNTED_AT_ONCE = 16
"""Windows whose records are counted at the same time: enough to hide the way to the server, too few to hold it up."""

ArchivedSpan = ArchivedSpanRow


@dataclass(frozen=True, slots=True)
class Outdated:
    """Windows, beside that of a run, whose generation is out of date.

    Attributes
    ----------
    again
        Those that the run is to consolidate again, in order.
    waiting
        Those with late records that are left to the next run.
    sealed
        Those that cannot be consolidated again: their input is no longer to be had in full.
    """

    again: tuple[Window, ...]
    waiting: tuple[Window, ...]
    sealed: tuple[Window, ...]


def fed_lines(ledger: Ledger, namespace: str) -> list[LineRecord]:
    """Lines of a namespace that this software can consolidate windows for, by name."""
    return [
        record
        for record in ledger.lines.list(namespace)
        if record.algorithm_version == ALGORITHM_VERSION and record.state != "RETIRED"
    ]


def lines_to_fold(context: TaskContext) -> list[str]:
    """Lines that this software can fold and that hold a window; what a killed run left unfolded is among them."""
    with context.open() as workspace:
        return [
            record.line
            for record in fed_lines(workspace.ledger, context.namespace)
            if workspace.ledger.windows.with_current(record.line)
        ]


def archived_spans(ledger: Ledger, namespace: str, until: datetime | None = None) -> list[ArchivedSpanRow]:
    """What was consolidated of the windows that ended at a time or before (all where None), in order."""
    return [span for span in ledger.windows.spans(namespace, until) if span.consolidated]


async def held_beyond_archive(mem: MemoryConnection, span: ArchivedSpanRow) -> tuple[int, bool]:
    """Experiences that Redis holds of a window and encoder, and whether some of them are not archived.

    Both signs count: more records than the archive has (some were recorded while it was read), and records that came
    after it (the older ones may be pruned already).
    """
    count = partial(mem.episodic.count, since=span.window.start, until=span.window.end, encoder_id=span.encoder_id)
    held = await count()
    if not held or held > span.rows or span.recorded_cut is None:
        return held, held > 0
    return held, await count(recorded_after=span.recorded_cut) > 0


async def late_spans(mem: MemoryConnection, spans: Sequence[ArchivedSpanRow]) -> list[ArchivedSpanRow]:
    """Those of some spans of which Redis holds more than their archive. About a millisecond a window."""
    late = []
    for start in range(0, len(spans), COUNTED_AT_ONCE):
        chunk = spans[start : start + COUNTED_AT_ONCE]
        found = await asyncio.gather(*(held_beyond_archive(mem, span) for span in chunk))
        late += [span for span, (_, beyond) in zip(chunk, found, strict=True) if beyond]
    return late


@retried()
def find_outdated(context: TaskContext) -> Outdated:
    """Windows, beside the run's own, that late records or a change of settings made out of date; in all lines.

    All that were consolidated with other settings are among them: knowledge of different settings is never mixed. Of
    those with late records only so many as the setting `late_windows` says, the oldest. What is out of date is noted
    in the ledger, so that no window is forgotten.
    """
    with context.open() as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        spans = archived_spans(ledger, context.namespace)
        late = workspace.with_memory(lambda mem: late_spans(mem, spans))
        lines, digest, present = fed_lines(ledger, context.namespace), context.settings().digest, context.as_window()
        found = []
        for record in lines:
            beyond = {span.window for span in late if span.encoder_id == record.encoder_id}
            found += [each for each in _of_line(ledger, token, record, beyond, digest) if each[0] != present]
    sealed = {window for window, reason in found if reason is None}
    other = {window for window, reason in found if reason == OTHER_SETTINGS}
    late_ones = sorted({window for window, reason in found if reason == LATE} - other - sealed)
    bound = workspace.settings.late_windows
    return Outdated(
        again=tuple(sorted({*(other - sealed), *late_ones[:bound]})),
        waiting=tuple(late_ones[bound:]),
        sealed=tuple(sorted(sealed)),
    )


def _of_line(
    ledger: Ledger, token: FencingToken, record: LineRecord, late: set[Window], digest: str
) -> list[tuple[Window, str | None]]:
    """Windows of a line that are out of date, and why; no reason where they are sealed."""
    found: list[tuple[Window, str | None]] = []
    for status in ledger.windows.list(record.line):
        if status.generation is None:
            continue
        reason = _reason(status, late, digest)
        if reason is not None and status.stale_since is None:
            ledger.windows.mark_stale(token, record.line, status.window, reason)
        if reason is not None:
            found.append((status.window, None if status.sealed_since is not None else reason))
    return found


def _reason(status: WindowStatus, late: set[Window], digest: str) -> str | None:
    if status.settings_hash != digest:
        return OTHER_SETTINGS
    return LATE if status.window in late or status.stale_since is not None else None
