"""Which patterns a command is about, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memory.records import PatternMemory


class Status(StrEnum):
    """What patterns can be chosen by."""

    NEW = "new"
    CONFIRMED = "confirmed"
    FADED = "faded"
    DEMOTED = "demoted"


class Sort(StrEnum):
    """What patterns can be sorted by."""

    NET = "net"
    SUPPORT = "support"
    SHARPE = "sharpe"
    CONFIDENCE = "confidence"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which patterns are wanted, and in which order.

    Attributes
    ----------
    text
        Words that all occur in the description, the names of its features, or the id; whatever the case.
    sort
        ``net``: by the shrunk net mean of the best trade, those that failed or faded last, as the report does.
        ``support``: most occurrences first. ``sharpe``: net Sharpe ratio of the best trade. ``confidence``: q-value of
        it, smallest first. ``newest``: founded last.
    """

    regime: str | None = None
    product_id: str | None = None
    status: Status | None = None
    min_support: int = 0
    text: str = ""
    sort: Sort = Sort.NET

    def admits(self, pattern: PatternMemory) -> bool:
        """Whether a pattern is wanted."""
        described = " ".join(
            (
                pattern.pattern_id,
                pattern.description,
                *(f"{item.feature} {item.phrase}" for item in pattern.conditions),
            )
        ).lower()
        return (
            self.regime in (None, pattern.regime)
            and (self.product_id is None or self.product_id in pattern.product_ids)
            and (self.status is None or self.status == (Status.DEMOTED if pattern.demoted else pattern.status))
            and pattern.support >= self.min_support
            and all(word in described for word in self.text.lower().split())
        )
