"""What a back-fill has to do: which windows of a range are consolidated already, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.market import Market
from memory import MemoryConnection
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchivedSpanRow, Ledger, WindowStatus
from memory.window import Window
from tasks.lateness import LATE, OTHER_SETTINGS, fed_lines, late_spans
from tasks.learning import learning_of
from tasks.workspace import Workspace

CONSOLIDATED = "consolidated"
NEW = "new"
SEALED = "sealed"
EMPTY = "empty"

_BY_WEIGHT = (OTHER_SETTINGS, NEW, LATE, SEALED, CONSOLIDATED)
"""What a window is where its encoders say different things: the first of them that one says."""
_DUE = frozenset({OTHER_SETTINGS, NEW, LATE, SEALED})


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """A window, and what a back-fill finds of it.

    Attributes
    ----------
    state
        `CONSOLIDATED` (nothing is to be done), `EMPTY` (nothing can be), or why it is to be consolidated: `NEW`,
        `LATE` records, `OTHER_SETTINGS` than the present ones, or `SEALED` (its input was lost; it may be there again).
    replayed
        Whether the market is to be replayed first.
    beside
        Whether it is no window of the range: those of other settings come along, since knowledge of different settings
        is never mixed.
    """

    window: Window
    state: str
    replayed: bool = False
    beside: bool = False

    @property
    def is_due(self) -> bool:
        """Whether there is something to do."""
        return self.state in _DUE

    def describe(self) -> str:
        """What is planned, in a few words."""
        words = [self.state]
        if self.replayed:
            words.append("the market is replayed first")
        if self.beside:
            words.append("beside the range")
        return ", ".join(words)


def plan_backfill(workspace: Workspace, windows: Sequence[Window], market: Market | None) -> list[PlannedWindow]:
    """Compare ledger, archive and Redis with what is asked for; reads only.

    A window is left alone where the generations of all its encoders are of the present settings, not stale, and Redis
    holds nothing beyond their archives. Cost: some milliseconds a window.

    Parameters
    ----------
    windows
        The windows of the range.
    market
        What is to be replayed in those that are not consolidated; None where nothing is.
    """
    ledger, namespace = workspace.ledger, workspace.namespace
    lines = {record.line: record.encoder_id for record in fed_lines(ledger, namespace)}
    statuses = {
        (status.window, encoder_id): status
        for line, encoder_id in lines.items()
        for status in ledger.windows.list(line)
        if status.generation is not None
    }
    digest = learning_of(workspace.settings).digest
    beside = {
        window
        for (window, _), status in statuses.items()
        if status.settings_hash != digest and status.sealed_since is None
    } - set(windows)
    wanted = sorted({*windows, *beside})
    archived = {(span.window, span.encoder_id): span for span in ledger.windows.spans(namespace)}
    retired = _retired_encoders(ledger, namespace)

    async def beyond_archive(mem: MemoryConnection) -> set[tuple[Window, str]]:
        encoders = {*(await mem.encoders.ids()), *(encoder_id for _, encoder_id in archived)} - retired
        spans = [
            archived.get((window, encoder_id)) or _not_archived(window, encoder_id)
            for window in wanted
            for encoder_id in sorted(encoders)
        ]
        return {(span.window, span.encoder_id) for span in await late_spans(mem, spans)}

    late = workspace.with_memory(beyond_archive)
    found: dict[Window, set[str]] = {window: set() for window in wanted}
    for window, encoder_id in {*statuses, *archived, *late}:
        if window in found and encoder_id not in retired:
            status = statuses.get((window, encoder_id))
            found[window].add(_state(status, (window, encoder_id) in late, digest))
    plan = []
    for window in wanted:
        state = next((state for state in _BY_WEIGHT if state in found[window]), EMPTY)
        replayed = (
            market is not None
            and state != CONSOLIDATED
            and window not in beside
            and market.has_decisions(window.start, window.end)
        )
        plan.append(PlannedWindow(window, NEW if replayed and state == EMPTY else state, replayed, window in beside))
    return plan


def _not_archived(window: Window, encoder_id: str) -> ArchivedSpanRow:
    return ArchivedSpanRow(window=window, encoder_id=encoder_id, rows=0, recorded_cut=None, consolidated=False)


def _state(status: WindowStatus | None, late: bool, digest: str) -> str:
    """What a window is for one encoder, of which something is recorded or archived."""
    if status is None:
        return NEW
    if status.sealed_since is not None:
        return SEALED
    if status.settings_hash != digest:
        return OTHER_SETTINGS
    return LATE if late or status.stale_since is not None else CONSOLIDATED


def _retired_encoders(ledger: Ledger, namespace: str) -> set[str]:
    """Encoders whose line was replaced: it stays as it was, whatever is recorded with them."""
    return {
        record.encoder_id
        for record in ledger.lines.list(namespace)
        if record.algorithm_version == ALGORITHM_VERSION and record.state == "RETIRED"
    }
