"""What a server says of its part in replication, and points in the history of a primary's writes."""

from __future__ import annotations

from dataclasses import dataclass

from memory.store.link import Command

ASK_REPLICATION: Command = ("INFO", "replication", "persistence")


@dataclass(frozen=True, slots=True)
class WriteToken:
    """A point in the primary's history of writes: whoever has come to it holds everything written before.

    Attributes
    ----------
    history
        The history's name: a primary that restarts, or takes over, begins another one.
    offset
        Bytes written since it began.
    """

    history: str
    offset: int


@dataclass(frozen=True, slots=True)
class Replication:
    """What a server says about its part in replication."""

    primary: bool
    history: str
    earlier_history: str
    took_over_at: int
    """Offset at which its history went over from the earlier one; -1 where it never did."""
    offset: int
    link_up: bool
    busy: bool
    """Loading, or receiving a copy of the primary's data."""

    @classmethod
    def parse(cls, info: bytes | str) -> Replication:
        """From the answer to ``INFO replication persistence``."""
        text = info.decode() if isinstance(info, bytes) else info
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        primary = facts["role"] == "master"
        return cls(
            primary=primary,
            history=facts["master_replid"],
            earlier_history=facts.get("master_replid2", ""),
            took_over_at=int(facts.get("second_repl_offset", -1)),
            offset=int(facts["master_repl_offset"] if primary else facts["slave_repl_offset"]),
            link_up=facts.get("master_link_status") == "up",
            busy=facts.get("loading", "0") != "0"
            or facts.get("async_loading", "0") != "0"
            or facts.get("master_sync_in_progress", "0") != "0",
        )

    def holds(self, token: WriteToken) -> bool:
        """Whether everything before the token is here."""
        known = token.history == self.history or (
            token.history == self.earlier_history and token.offset < self.took_over_at
        )
        return known and self.offset >= token.offset
