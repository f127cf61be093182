"""What a window is made of: what Redis holds of it, joined with what was archived before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from memory import MemoryConnection
from memory.errors import ArchiveError, ArchiveUnavailableError, SealedWindowError
from memory.ledger import FencingToken, Ledger, merge
from memory.store.encoders import EncoderRecord, pack_encoder
from memory.store.windows import read_window_data
from memory.tables import WindowData
from memory.window import Window
from tasks.healing import is_whole
from tasks.progress import announce
from tasks.workspace import Workspace


async def read_window(
    mem: MemoryConnection, window: Window
) -> tuple[dict[tuple[str, str], WindowData], dict[str, EncoderRecord]]:
    """What Redis holds of a window, and the encoders of it that are registered."""
    found = await read_window_data(mem, window)
    encoders = {encoder_id: await mem.encoders.get(encoder_id) for encoder_id in sorted({key for key, _ in found})}
    return found, {encoder_id: record for encoder_id, record in encoders.items() if record is not None}


def keep_encoder(ledger: Ledger, token: FencingToken, record: EncoderRecord) -> None:
    """Keep what a window was encoded with beside it: knowledge of it cannot be asked without."""
    ledger.lines.save_encoder(
        token,
        record.encoder_id,
        pack_encoder(record),
        dimension=record.dimension,
        fitted_until=record.fitted_until,
    )


def joined_with_archive(
    workspace: Workspace, token: FencingToken, window: Window, encoder_id: str, fresh: Mapping[str, WindowData]
) -> dict[str, WindowData]:
    """What was read and what was archived, by source; a window whose archive is lost and cannot be mended is sealed.

    Raises
    ------
    SealedWindowError
        Neither Redis nor the archive holds the window whole.
    ArchiveUnavailableError
        The archive cannot be reached: nothing is said about what it holds.
    """
    ledger, joined = workspace.ledger, dict(fresh)
    seen_until = _seen_until(ledger, workspace.namespace, window, encoder_id)
    for reference in ledger.windows.archives(workspace.namespace, window, encoder_id):
        source = reference.source
        try:
            data = workspace.archive.read(reference)
        except ArchiveUnavailableError:
            raise
        except ArchiveError as error:
            if source in fresh and is_whole(fresh[source], reference, seen_until):
                announce(f"the archive of {window.name} is lost or damaged, and is written again from Redis")
                continue
            _seal(ledger, token, window, encoder_id, error.message)
            raise SealedWindowError(
                f"window {window.name} was consolidated before, its archive cannot be read, and Redis no longer holds "
                f"all of it: {error.message}",
                remedy="Its summaries stand as they are. Restore the archive, and consolidate the window again.",
            ) from error
        joined[source] = merge(data, fresh[source]) if source in fresh else data
    return joined


def _seal(ledger: Ledger, token: FencingToken, window: Window, encoder_id: str, reason: str) -> None:
    for record in ledger.lines.list(token.namespace):
        if record.encoder_id == encoder_id and ledger.windows.current_generation(record.line, window) is not None:
            ledger.windows.seal(token, record.line, window, reason)


def _seen_until(ledger: Ledger, namespace: str, window: Window, encoder_id: str) -> datetime | None:
    """Latest time of recording that a generation of a window has seen; None where that is not known."""
    cuts = [
        status.recorded_cut
        for record in ledger.lines.list(namespace)
        if record.encoder_id == encoder_id
        for status in ledger.windows.list(record.line, window, window)
        if status.recorded_cut is not None
    ]
    return max(cuts, default=None)
