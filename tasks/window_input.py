"""What a window is made of: what Redis holds of it, joined with what was archived before, and archived as one.

The window passes through in parts, so that the memory it takes does not grow with it: each part is joined with what is
archived of its product and written away before the next one is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType

from memory import MemoryConnection
from memory.errors import ArchiveError, ArchiveUnavailableError, SealedWindowError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchiveReference, FencingToken, Ledger, WindowJoin
from memory.store.encoders import EncoderRecord, pack_encoder
from memory.store.windows import window_parts
from memory.tables import WindowData
from memory.window import Window
from tasks.healing import ContentProof
from tasks.progress import announce
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ArchivedInput:
    """What a window holds of one encoder and source, archived.

    Attributes
    ----------
    line
        Knowledge line that it belongs to.
    reference
        Where it lies.
    recorded_cut_ms, known_at_ms
        Latest time of recording among what was read, whether or not it was archived before; latest time at which
        something in it became known.
    states_by_regime
        Distinct states of each regime that has any.
    """

    line: str
    reference: ArchiveReference
    recorded_cut_ms: int
    known_at_ms: int
    states_by_regime: Mapping[str, int]


def archive_inputs(workspace: Workspace, token: FencingToken, window: Window) -> list[ArchivedInput]:
    """Archive what Redis holds of a window and what was archived of it before; in order of encoders and sources.

    The encoders are kept in the ledger, and the archives noted there, each as soon as it is whole. Nothing is found
    where neither Redis nor the archive holds anything of the window.

    Raises
    ------
    SealedWindowError
        Neither Redis nor the archive holds the window whole: it is sealed in each line that consolidated it.
    StoreUnavailableError
        Redis went away, or the window changed under the reader's eyes: read it again.
    ArchiveUnavailableError
        The archive cannot be reached or written to: nothing is said about what it holds.

    Memory: one part of the window (`memory.store.windows.PART_ROWS` experiences), what is archived of its product, and
    a row group of the files. Cost: about 0.1 ms an experience.
    """
    with WindowArchiver(workspace, token, window) as archiver:
        workspace.with_memory(lambda mem: _read(mem, window, archiver))
        archiver.take_what_is_archived_alone()
        return sorted(archiver.inputs, key=lambda found: (found.reference.encoder_id, found.reference.source))


async def _read(mem: MemoryConnection, window: Window, archiver: WindowArchiver) -> None:
    async for part in window_parts(mem, window):
        encoder_id = part.states.encoder_id
        if encoder_id not in archiver.lines:
            archiver.begin_encoder(encoder_id, await mem.encoders.get(encoder_id))
        archiver.append(part)
    archiver.end_source()


class WindowArchiver:
    """A window on its way from Redis into the archive; a context manager that leaves nothing half written behind.

    Attributes
    ----------
    inputs
        What is archived by now.
    lines
        Knowledge line of each encoder that was met.
    """

    def __init__(self, workspace: Workspace, token: FencingToken, window: Window) -> None:
        self._workspace = workspace
        self._token = token
        self._window = window
        self._intake: _SourceIntake | None = None
        self._open = ExitStack()
        self.inputs: list[ArchivedInput] = []
        self.lines: dict[str, str] = {}

    def begin_encoder(self, encoder_id: str, record: EncoderRecord | None) -> None:
        """Make sure of an encoder's line, and keep the encoder where it is registered."""
        ledger = self._workspace.ledger
        self.lines[encoder_id] = ledger.lines.ensure(self._token, encoder_id, ALGORITHM_VERSION)
        if record is not None:
            keep_encoder(ledger, self._token, record)

    def append(self, part: WindowData) -> None:
        """Take the next part; those of one encoder and source follow each other, in the order of `window_parts`."""
        encoder_id, source = part.states.encoder_id, part.states.source
        if self._intake is None or (self._intake.encoder_id, self._intake.source) != (encoder_id, source):
            self.end_source()
            self._intake = self._begin(encoder_id, source)
        self._intake.append(part)

    def end_source(self) -> None:
        """The last part of an encoder and source was taken: note where they are archived."""
        if self._intake is None:
            return
        archived = self._intake.close()
        self._workspace.ledger.windows.save_archive(self._token, archived.reference)
        self.inputs.append(archived)
        self._intake = None
        self._open.close()

    def take_what_is_archived_alone(self) -> None:
        """What Redis holds nothing of any more is taken from the archive, and proved to be whole by that."""
        ledger, namespace = self._workspace.ledger, self._workspace.namespace
        met = {(found.reference.encoder_id, found.reference.source) for found in self.inputs}
        encoders = {record.encoder_id for record in ledger.lines.list(namespace)}
        for encoder_id in sorted(encoders):
            for reference in ledger.windows.archives(namespace, self._window, encoder_id):
                if (encoder_id, reference.source) not in met:
                    if encoder_id not in self.lines:
                        self.begin_encoder(encoder_id, None)
                    self._intake = self._begin(encoder_id, reference.source)
                    self.end_source()

    def _begin(self, encoder_id: str, source: str) -> _SourceIntake:
        found = self._workspace.ledger.windows.archives(self._workspace.namespace, self._window, encoder_id)
        reference = next((archive for archive in found if archive.source == source), None)
        return self._open.enter_context(
            _SourceIntake(
                self._workspace, self._token, self._window, self.lines[encoder_id], encoder_id, source, reference
            )
        )

    def __enter__(self) -> WindowArchiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()


class _SourceIntake:
    """One encoder and source of a window: what is read goes into a new archive with what is archived already.

    An archive that is lost or damaged is replaced by what is read, where that is proved to be all that it held.
    """

    def __init__(
        self,
        workspace: Workspace,
        token: FencingToken,
        window: Window,
        line: str,
        encoder_id: str,
        source: str,
        reference: ArchiveReference | None,
    ) -> None:
        self.encoder_id, self.source = encoder_id, source
        self._ledger, self._token, self._window, self._line = workspace.ledger, token, window, line
        self._open = ExitStack()
        self._writer = self._open.enter_context(
            workspace.archive.writer(workspace.namespace, window, encoder_id, source)
        )
        self._recorded_ms: list[int] = []
        self._lost: ArchiveError | None = None
        self._proof: ContentProof | None = None
        self._join = WindowJoin(self._writer)
        if reference is not None:
            archived = self._open.enter_context(closing(workspace.archive.parts(reference)))
            try:
                self._join = WindowJoin(self._writer, archived)
            except ArchiveUnavailableError:
                raise
            except ArchiveError as error:
                self._lost = error
                seen_until = _seen_until(workspace.ledger, workspace.namespace, window, encoder_id)
                self._proof = ContentProof(reference, seen_until)

    def append(self, part: WindowData) -> None:
        """Take a part that was read."""
        self._recorded_ms.append(int(part.experiences.recorded_at_ms.max()))
        if self._proof is not None:
            self._proof.update(part)
        self._join.append(part)

    def close(self) -> ArchivedInput:
        """The archive of all parts and of what was archived before; SealedWindowError where that cannot be had."""
        if self._lost is not None and self._proof is not None:
            if not self._proof.holds():
                self._refuse(self._lost)
            announce(f"the archive of {self._window.name} is lost or damaged, and is written again from Redis")
        reference = self._join.close()
        counts = self._writer.counts
        return ArchivedInput(
            line=self._line,
            reference=reference,
            # What was recorded again after it was pruned is archived with its first time, but was seen now.
            recorded_cut_ms=max([counts.recorded_at_ms, *self._recorded_ms]),
            known_at_ms=counts.known_at_ms,
            states_by_regime=counts.states_by_regime,
        )

    def _refuse(self, lost: ArchiveError) -> None:
        _seal(self._ledger, self._token, self._window, self.encoder_id, lost.message)
        raise SealedWindowError(
            f"window {self._window.name} was consolidated before, its archive cannot be read, and Redis no longer "
            f"holds all of it: {lost.message}",
            remedy="Its summaries stand as they are. Restore the archive, and consolidate the window again.",
        ) from lost

    def __enter__(self) -> _SourceIntake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()


def keep_encoder(ledger: Ledger, token: FencingToken, record: EncoderRecord) -> None:
    """Keep what a window was encoded with beside it: knowledge of it cannot be asked without."""
    ledger.lines.save_encoder(
        token,
        record.encoder_id,
        pack_encoder(record),
        dimension=record.dimension,
        fitted_until=record.fitted_until,
    )


def _seal(ledger: Ledger, token: FencingToken, window: Window, encoder_id: str, reason: str) -> None:
    for record in ledger.lines.list(token.namespace):
        if record.encoder_id != encoder_id:
            continue
        if ledger.windows.current_generation(record.line, window, kinds=()) is not None:
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
