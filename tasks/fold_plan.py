"""What a fold has to do: the windows in force, the first of them that is stale, and what each is scored on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from memory.errors import ArchiveError, ArchiveUnavailableError, LineError
from memory.learning import ALGORITHM_VERSION, serial
from memory.learning.knowledge import FoldState
from memory.learning.projection import build_predictions
from memory.learning.scorecard import DEFAULT_SETTINGS as SCORECARD_SETTINGS
from memory.learning.scorecard import score_window
from memory.learning.scores import Scorecard
from memory.learning.settings import LearningSettings, settings_hash
from memory.ledger import ArchivedTable, ArchiveReference, Checkpoint, Ledger, WindowStatus
from memory.window import Window
from tasks.consolidation import PATTERNS
from tasks.part_reading import joined_states
from tasks.workspace import Workspace

REMEMBERED_WINDOWS = 5
"""Windows whose states stand for remembered neighbours in the scorecard: enough of them, and a bounded cost."""
REMEMBERED_STATES = 200_000
"""States that they hold at most, as long as more than one is remembered: 200 MB of vectors."""
SEALED = "sealed"
"""Name among the counts of a checkpoint: whether its window was folded without its states."""


class LostArchiveError(ArchiveError):
    """An archive that a fold has to read is lost or damaged: its window has to be consolidated again, or sealed.

    Attributes
    ----------
    window
        The window.
    """

    def __init__(self, message: str, *, remedy: str, window: Window) -> None:
        self.window = window
        super().__init__(message, remedy=remedy)

    def __reduce__(self) -> tuple[Callable[..., LostArchiveError], tuple[str, str, Window]]:
        return _lost, (self.message, self.remedy, self.window)


def _lost(message: str, remedy: str, window: Window) -> LostArchiveError:
    return LostArchiveError(message, remedy=remedy, window=window)


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """Windows of a line that some folds are made of, and where they have to begin.

    Attributes
    ----------
    windows
        All windows in force, in order, with the digest of their generation's manifest.
    sealed
        Those among them whose states are no longer to be had: they are folded without being scored.
    left_out
        Windows that are not in force: consolidated with other settings, and sealed since.
    first
        The first window to fold again; None where all folds are up to date.
    last_folded
        The last window that the first of the folds has a checkpoint of.
    dropped
        Whether a window was folded that is no longer in force.
    """

    windows: Mapping[Window, str]
    sealed: frozenset[Window]
    left_out: tuple[Window, ...]
    first: Window | None
    last_folded: Window | None
    dropped: bool

    @property
    def to_fold(self) -> list[Window]:
        """Windows to fold, in order."""
        return [] if self.first is None else [window for window in self.windows if window >= self.first]

    @property
    def is_refold(self) -> bool:
        """Whether something that was folded before is folded again."""
        return self.first is not None and self.last_folded is not None and self.last_folded >= self.first


def plan_fold(ledger: Ledger, line: str, kinds: Sequence[str], digest: str, *, refold: bool = False) -> FoldPlan:
    """Compare what is folded with what is to be folded.

    A window is stale where its checkpoint was made from another generation, where it was sealed (or is no longer)
    since, and where a window before it is stale. The ledger alone decides, never what a file system says at the moment.

    Parameters
    ----------
    kinds
        Names of the folds; the first of them leads.
    digest
        Names the present settings: windows with others are in force only as long as they can be consolidated again.
    refold
        Begin with the first window in any case.

    Raises
    ------
    LineError
        No window is in force: all were consolidated with other settings, and are sealed. What they taught stays.
    """
    statuses = {status.window: status for status in ledger.windows.list(line)}
    digests = dict(ledger.windows.with_current(line))
    windows = {window: digests[window] for window in sorted(digests) if not _is_left_out(statuses[window], digest)}
    left_out = tuple(sorted(window for window in digests if window not in windows))
    if left_out and not windows:
        raise LineError(
            f"all {len(left_out)} windows of {line} are of other settings, and their archives are lost.",
            remedy="Go back to the former COINSWARM_LEARNING, or restore the archives; what is known stays as it is.",
        )
    sealed = frozenset(window for window in windows if statuses[window].sealed_since is not None)
    stale: set[Window] = set(windows) if refold else set()
    folded: set[Window] = set()
    last_folded = None
    for kind in kinds:
        checkpoints = {checkpoint.window: checkpoint for checkpoint in ledger.folds.checkpoints(line, kind)}
        folded |= set(checkpoints)
        if kind == kinds[0]:
            last_folded = max(checkpoints, default=None)
        for window in {*windows, *checkpoints}:
            checkpoint = checkpoints.get(window)
            resealed = kind == PATTERNS and checkpoint is not None and _was_sealed(checkpoint) != (window in sealed)
            if checkpoint is None or checkpoint.input_digest != windows.get(window) or resealed:
                stale.add(window)
    return FoldPlan(
        windows=windows,
        sealed=sealed,
        left_out=left_out,
        first=min(stale, default=None),
        last_folded=last_folded,
        dropped=not folded <= set(windows),
    )


def _was_sealed(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.counts.get(SEALED))


def _is_left_out(status: WindowStatus, digest: str) -> bool:
    return status.sealed_since is not None and status.settings_hash != digest


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores what was known before each window on its states.

    Memory: the states of the window and of those remembered, once each; of no window twice, and no experiences.
    """

    workspace: Workspace
    line: str
    settings: LearningSettings

    def score(
        self, plan: FoldPlan, window: Window, before: FoldState, before_digest: str
    ) -> tuple[dict[str, Scorecard], str]:
        """Scorecards of a window by source, and a digest of all that they follow from.

        What was computed from the same before is taken from the ledger. A sealed window has none.

        Parameters
        ----------
        before, before_digest
            What was known before the window, and the digest of that state in the ledger.

        Raises
        ------
        LostArchiveError
            An archive that has to be read is lost or damaged.
        """
        if window in plan.sealed:
            return {}, settings_hash(SEALED)
        unsealed = [known for known in plan.windows if known < window and known not in plan.sealed]
        remembered = _bounded({known: self._references(known) for known in unsealed[-REMEMBERED_WINDOWS:]})
        scored = self._references(window)
        digest = self._digest({**remembered, window: scored}, before_digest)
        kept = self.workspace.ledger.scorecards.find(self.line, window, digest)
        if kept is not None:
            return serial.decode(kept, dict[str, Scorecard]), digest
        cards = {}
        for reference in sorted(scored, key=lambda found: found.source):
            past = [found for known in remembered.values() for found in known if found.source == reference.source]
            with self._opened(reference) as table:
                today = table.states()
            cards[reference.source] = score_window(
                build_predictions(before, source=reference.source),
                today,
                joined_states(past, self._opened),
                window,
                learning=self.settings,
            )
        return cards, digest

    def _references(self, window: Window) -> Sequence[ArchiveReference]:
        return self.workspace.ledger.windows.archives_of(self.line, window)

    def _digest(self, references: Mapping[Window, Sequence[ArchiveReference]], before_digest: str) -> str:
        inputs = [
            [window.name, found.source, found.content_digest]
            for window, all_of_it in references.items()
            for found in all_of_it
        ]
        names = (ALGORITHM_VERSION, before_digest, settings_hash(self.settings, SCORECARD_SETTINGS))
        return hashlib.sha256(msgspec.json.encode((names, inputs))).hexdigest()

    @contextmanager
    def _opened(self, reference: ArchiveReference) -> Iterator[ArchivedTable]:
        try:
            with self.workspace.archive.opened_states(reference) as table:
                yield table
        except ArchiveUnavailableError:
            raise
        except ArchiveError as error:
            raise LostArchiveError(error.message, remedy=error.remedy, window=reference.window) from error


def _bounded(windows: Mapping[Window, Sequence[ArchiveReference]]) -> dict[Window, Sequence[ArchiveReference]]:
    """The latest of some windows in order: as many as hold `REMEMBERED_STATES` together, and one in any case."""
    kept: list[Window] = []
    states = 0
    for window in sorted(windows, reverse=True):
        states += sum(found.states.rows for found in windows[window])
        if kept and states > REMEMBERED_STATES:
            break
        kept.append(window)
    return {window: windows[window] for window in reversed(kept)}
