"""How much lies in the streams of a namespace, and how many decisions were traced, in one look at the server's keys.

What agents put into streams is found by the names of its keys alone. The server leaves out those of experiences, by far
the most, before it answers: about 0.2 s of its time for a million keys, in steps of half a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from memory.records import from_ms
from memory.store.keys import Keys
from memory.store.link import RedisLink

SCAN_COUNT = 2000
"""Keys a step: about 0.5 ms of the server's time."""
_LETTERS = "[dim]"
"""What the names of decisions, inboxes, messages and mailboxes begin with, and those of experiences do not."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What waits and what was noted.

    Attributes
    ----------
    inboxes
        Entries of each agent's inbox that are not acknowledged yet; agents with an empty one are left out.
    oldest_entry
        When the oldest of them arrived; None where all are empty.
    messages
        Messages that are kept, of all agents and runs.
    message_streams, mailboxes
        Streams that hold them: one an agent and run; readers that have a place in them.
    decisions
        Decisions whose traces are kept.
    """

    inboxes: dict[str, int] = field(default_factory=dict)
    oldest_entry: datetime | None = None
    messages: int = 0
    message_streams: int = 0
    mailboxes: int = 0
    decisions: int = 0


async def tally(link: RedisLink, keys: Keys) -> Tally:
    """Count what lies in a namespace's streams. A look at the names of all keys of the server, in small steps.

    Raises
    ------
    StoreUnavailableError
        Redis cannot be reached.
    """
    inbox, messages, mailbox, decision = (
        prefix.encode() for prefix in (keys.inbox(""), keys.message_prefix, keys.mailbox_prefix, keys.decision_prefix)
    )
    streams: dict[bytes, set[bytes]] = {inbox: set(), messages: set()}
    # SCAN may name a key twice where the server's table of keys grows meanwhile.
    boxes: set[bytes] = set()
    decisions: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, names = await link.execute(
            "SCAN", cursor, "MATCH", f"{keys.namespace}:{_LETTERS}*", "COUNT", SCAN_COUNT
        )
        for name in names:
            if name.startswith(decision):
                decisions.add(name)
            elif name.startswith(mailbox):
                boxes.add(name)
            else:
                for prefix, found in streams.items():
                    if name.startswith(prefix):
                        found.add(name)
        if int(cursor) == 0:
            break
    inboxes, kept = sorted(streams[inbox]), sorted(streams[messages])
    lengths = await link.pipeline([("XLEN", name) for name in (*inboxes, *kept)])
    waiting = {name: length for name, length in zip(inboxes, lengths, strict=False) if length}
    firsts = await link.pipeline([("XRANGE", name, "-", "+", "COUNT", 1) for name in waiting])
    arrived = [from_ms(int(first[0][0].split(b"-")[0])) for first in firsts if first]
    return Tally(
        inboxes={name[len(inbox) :].decode(): length for name, length in waiting.items()},
        oldest_entry=min(arrived, default=None),
        messages=sum(lengths[len(inboxes) :]),
        message_streams=len(kept),
        mailboxes=len(boxes),
        decisions=len(decisions),
    )
