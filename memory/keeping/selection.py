"""Which experiences leave a memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from memory.errors import InvalidQueryError
from memory.records import EpisodicMemory
from memory.validation import validate_identifier


@dataclass(frozen=True, slots=True)
class Selection:
    """Which experiences: of an agent, a product or both, decided in [since, until), with the vectors of one encoder.

    The namespace's current encoder where none is named. With `as_of`, only what was known then: experiences by their
    `known_at`, cumulative returns and the ends of episodes by their `return_known_at`.
    """

    agent_id: str | None = None
    product_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    encoder_id: str | None = None
    as_of: datetime | None = None

    def __post_init__(self) -> None:
        if self.agent_id is None and self.product_id is None:
            raise InvalidQueryError(
                "nothing says whose experiences are meant.",
                remedy="Name an agent (--agent), a product (--product), or both.",
                argument="agent",
            )
        for name in ("agent_id", "product_id", "encoder_id"):
            value = getattr(self, name)
            if value is not None:
                validate_identifier(value, name)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidQueryError(
                f"since {self.since.isoformat()} does not lie before until {self.until.isoformat()}.",
                remedy="Swap them (--from and --to).",
                argument="since",
            )

    def known(self, experiences: Sequence[EpisodicMemory]) -> list[EpisodicMemory]:
        """What was known of some experiences by `as_of`; all of it where that is not given."""
        if self.as_of is None:
            return list(experiences)
        found = []
        for item in experiences:
            if item.known_at is None or item.known_at > self.as_of:
                continue
            if item.return_known_at is None or item.return_known_at > self.as_of:
                # That an episode has ended is known with its return.
                item = replace(item, cumulative_return=None, return_known_at=None, terminal=False)
            found.append(item)
        return found
