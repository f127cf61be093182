"""What a reader of messages counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory.store.message_mailbox import Missed


@dataclass(slots=True)
class ReaderReport:
    """What became of messages since a reader was made.

    Attributes
    ----------
    received, handled
        Handed to the caller, and acknowledged.
    again
        Of those received, how many had been handed out before.
    failed, dead
        Failed handlings that will be tried again, and messages that went to the dead letters.
    skipped
        Left out by type or importance.
    missed
        Those that this reader will never see, by sender.
    """

    received: int = 0
    handled: int = 0
    again: int = 0
    failed: int = 0
    dead: int = 0
    skipped: int = 0
    missed: dict[str, int] = field(default_factory=dict)

    def miss(self, missed: Missed) -> None:
        """Count messages that this reader will never see."""
        self.missed[missed.sender_agent_id] = self.missed.get(missed.sender_agent_id, 0) + missed.number
