"""What an agent tells the others, where its clock is ahead of the server's: what is dated too far ahead waits.

A live message whose timestamp lies further ahead of the server's clock than clocks may differ is refused by the server
(`memory.store.messages`). An agent that acts on bars cannot date it otherwise, and must not stop for it. So it keeps
the message and sends it with its next decisions, as soon as the server's clock allows. One that is refused at
`MAX_TRIES` decision times goes to the dead letters. It is told once, in the log, that messages wait.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from memory import MemoryConnection
from memory.errors import FutureMessageError, StoreUnavailableError
from memory.messages import LIVE_RUN, AgentMemoryMessage, pack_message
from memory.store.dead_letters import UNSENT, Refusal

_log = logging.getLogger(__name__)

MAX_TRIES = 5
"""Decision times at which a message is sent before it is a dead letter; as often as one is handed to its reader."""


@dataclass(slots=True)
class _Waiting:
    """A message that is dated ahead of the server's clock: at how many decision times that was so, and the last."""

    message: AgentMemoryMessage
    tries: int
    last: datetime


class Teller:
    """Sends one agent's messages.

    Parameters
    ----------
    mem
        An open memory.

    Attributes
    ----------
    dead
        Messages that went to the dead letters.
    """

    def __init__(self, mem: MemoryConnection) -> None:
        self.dead = 0
        self._mem = mem
        self._waiting: list[_Waiting] = []
        self._told = False

    @property
    def waiting(self) -> int:
        """Messages that wait for the server's clock."""
        return len(self._waiting)

    async def tell(self, messages: Sequence[AgentMemoryMessage], at: datetime) -> int:
        """Send what waits and some messages, in this order; returns how many were sent. Nothing costs nothing.

        Parameters
        ----------
        at
            The decision time: one that is refused again at the same one has not been tried more often.

        Raises
        ------
        InvalidRecordError
            A message is malformed; nothing was sent. Or it belongs to a replay, and lies after its present.
        StoreUnavailableError
            Redis cannot be reached: what waits goes on waiting, and telling the same again is safe.
        """
        queue = {item.message.message_id: item for item in self._waiting}
        everything = [*(item.message for item in self._waiting), *messages]
        if not everything:
            return 0
        try:
            await self._mem.messages.send_many(everything)
        except FutureMessageError as error:
            refused = [message for message in everything if message.message_id in error.message_ids]
            if any(message.run_id != LIVE_RUN for message in refused):
                raise
            if not self._told:
                self._told = True
                _log.warning("Messages of %s wait for the server's clock: %s", refused[0].sender_agent_id, error)
            for message in refused:
                item = queue.setdefault(
                    message.message_id, _Waiting(message, 0, datetime.min.replace(tzinfo=at.tzinfo))
                )
                if at > item.last:
                    item.tries, item.last = item.tries + 1, at
            kept = [queue[message.message_id] for message in refused]
            await self._bury([item.message for item in kept if item.tries >= MAX_TRIES])
            self._waiting = [item for item in kept if item.tries < MAX_TRIES]
            return len(everything) - len(refused)
        self._waiting, self._told = [], False
        return len(everything)

    async def close(self) -> None:
        """Put what waits still into the dead letters: nobody would send it any more."""
        try:
            await self._bury([item.message for item in self._waiting])
        except StoreUnavailableError as error:
            _log.warning("Messages that waited were never sent: %d. %s", len(self._waiting), error)
        self._waiting = []

    async def _bury(self, messages: Iterable[AgentMemoryMessage]) -> None:
        refusals = [
            Refusal(
                pack_message(message),
                f"timestamp {message.timestamp} lay too far ahead of the server's clock to be sent in time.",
                "timestamp",
                message.sender_agent_id,
            )
            for message in messages
        ]
        if not refusals:
            return
        await self._mem.dead_letters.add(refusals, origin=UNSENT)
        self.dead += len(refusals)
        _log.warning(
            "Messages of %s are dead letters, as they were dated ahead of the server's clock: %d.",
            refusals[0].agent_id,
            len(refusals),
        )
