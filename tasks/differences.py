"""What a comparison finds: single differences, and how many of each sort."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MISSING, EXTRA, OTHER, BEHIND, LOST, DAMAGED = "missing", "extra", "other", "behind", "lost", "damaged"
WHATS = {
    MISSING: "Redis lacks it",
    EXTRA: "the ledger knows nothing of it",
    OTHER: "it is not as the ledger has it",
    BEHIND: "what follows from newer input was not folded or published yet",
    LOST: "an archived file is gone or damaged",
    DAMAGED: "a row of the ledger does not match its digest",
}
"""What can be wrong, and what that means."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be.

    Attributes
    ----------
    what
        One of `WHATS`.
    part
        Where: `document`, `list` (of a line's versions), `stamp`, `windows`, `current line`, `succession`, `aliases`,
        `encoder`, `current encoder`, `line`, `fold`, `publication`, `archive`, or a table of the ledger.
    line
        Knowledge line, or encoder id, or empty where it is about neither.
    kind, memory_id, field
        Of a document: what it is, whose, and which of its fields.
    window
        Window after which it was learned, or which is concerned.
    valid_from
        Of a document: from when on it was known.
    seen
        What there is to say about it.
    """

    what: str
    part: str
    line: str = ""
    kind: str = ""
    memory_id: str = ""
    field: str = ""
    window: str = ""
    valid_from: str = ""
    seen: str = ""


@dataclass(slots=True)
class Findings:
    """All differences: how many of each sort, and the first of them.

    Attributes
    ----------
    limit
        How many are listed.
    checked
        How much was looked at, by name.
    """

    limit: int
    total: int = 0
    listed: list[Difference] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)

    def add(self, difference: Difference) -> None:
        """Count a difference, and list it as long as there is room."""
        self.total += 1
        name = f"{difference.part} {difference.what}"
        self.counts[name] = self.counts.get(name, 0) + 1
        if len(self.listed) < self.limit:
            self.listed.append(difference)

    def count(self, name: str, number: int = 1) -> None:
        """Note that something was looked at."""
        self.checked[name] = self.checked.get(name, 0) + number

    def as_dict(self) -> dict[str, Any]:
        """As plain values, the empty ones left out."""
        return {
            "differences": self.total,
            "by_sort": dict(sorted(self.counts.items())),
            "listed": [
                {name: value for name, value in asdict(item).items() if value} | {"means": WHATS[item.what]}
                for item in self.listed
            ],
            "checked": dict(sorted(self.checked.items())),
        }
