"""What runs that died left behind: it takes space and does no harm, so it is told and is no difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memory import MemoryConnection
from memory.ledger import Ledger
from memory.ledger.archive import Archive
from tasks.workspace import Workspace

DOCUMENTS, SUMMARIES, REPLACED, WAITING, FILES = (
    "staged documents",
    "staged summaries",
    "replaced archives",
    "waiting archives",
    "unknown files",
)
_HARMLESS = "they do no harm and only take space: the janitor removes them once they are old"
MEANINGS: dict[str, tuple[str, str]] = {
    DOCUMENTS: (
        "documents in Redis that a publication wrote and never made known",
        "the next publication of the line removes them",
    ),
    SUMMARIES: ("summaries in the ledger that no generation uses", _HARMLESS),
    REPLACED: ("archives that no generation names, and that newer ones replaced", _HARMLESS),
    WAITING: (
        "archives that no generation names yet, the newest of their windows",
        "the next consolidation of their windows takes them up",
    ),
    FILES: ("files in the archive that the ledger knows nothing of", _HARMLESS),
}
"""What can be left behind: what it is, and what becomes of it."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that was left behind.

    Attributes
    ----------
    what
        One of `MEANINGS`.
    where
        Knowledge line, or namespace.
    number, size_bytes
        How many there are, and what they take; None where that was not looked at.
    """

    what: str
    where: str
    number: int
    size_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, with what it means and what is to be done."""
        means, remedy = MEANINGS[self.what]
        size = {} if self.size_bytes is None else {"bytes": self.size_bytes}
        return {
            "what": self.what,
            "where": self.where,
            "number": self.number,
            **size,
            "means": means,
            "remedy": remedy,
        }


def find_leftovers(workspace: Workspace) -> list[Leftover]:
    """All that runs of a namespace left behind, by kind and place. To be called while nobody writes.

    Cost: a few queries, and a listing of the namespace's part of the archive.

    Raises
    ------
    ArchiveUnavailableError
        The place of the archive cannot be reached.
    """
    ledger, namespace = workspace.ledger, workspace.namespace
    lines = [record.line for record in ledger.lines.list(namespace)]

    async def staged(mem: MemoryConnection) -> list[Leftover]:
        return [Leftover(DOCUMENTS, line, len(await mem.semantic.leftovers(line))) for line in lines]

    found = workspace.with_memory(staged)
    found += [Leftover(SUMMARIES, line, *ledger.staging.unused(line)) for line in lines]
    found += _archives(ledger, namespace)
    found.append(_files(ledger, workspace.archive, namespace))
    return [leftover for leftover in found if leftover.number]


def _archives(ledger: Ledger, namespace: str) -> list[Leftover]:
    unnamed = ledger.windows.unnamed_archives(namespace)
    found = []
    for what, wanted in ((REPLACED, False), (WAITING, True)):
        sizes = [
            reference.states.bytes + reference.experiences.bytes for reference, newest in unnamed if newest is wanted
        ]
        found.append(Leftover(what, namespace, len(sizes), sum(sizes)))
    return found


def _files(ledger: Ledger, archive: Archive, namespace: str) -> Leftover:
    known = ledger.windows.archive_paths(namespace)
    sizes = [size for path, size in archive.files(namespace).items() if path not in known]
    return Leftover(FILES, namespace, len(sizes), sum(sizes))
