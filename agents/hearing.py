"""What an agent hears: messages of others, taken in at the decision that they were told by, and never before."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from memory import MemoryConnection
from memory.agent_state import AgentState, said_of_sender
from memory.errors import StoreUnavailableError
from memory.messages import AgentMemoryMessage, MessageType
from memory.store.message_reader import MessageReader
from memory.working import WINDOW, WorkingMemory


class Hearing:
    """Reads one agent's messages, and hands them out decision by decision.

    A message that is dated later than the decision waits: agents of one market are not all at the same bar, and nobody
    may hear of a bar before its own decision about it. One dated at the decision's own time is heard where it has come
    by then, else at the next decision: a replay is repeatable where who tells goes before who hears. A message is
    acknowledged when it is received, so an agent that is killed while some wait does not hear those again.

    Parameters
    ----------
    mem
        An open memory.
    agent_id, run_id
        Who hears, and in which run.
    tolerates
        Whether Redis may be away: then nothing is heard until it is back.

    Attributes
    ----------
    heard
        Messages received.
    """

    def __init__(self, mem: MemoryConnection, agent_id: str, run_id: str, *, tolerates: bool) -> None:
        self.heard = 0
        self._tolerates = tolerates
        self._reader: MessageReader = mem.messages.read(agent_id, run_id=run_id, wait=False)
        self._waiting: list[AgentMemoryMessage] = []
        self._fresh: dict[str, deque[AgentMemoryMessage]] = {}
        self._patterns: dict[str, dict[str, float]] = {}

    async def listen(self, now: datetime, minds: dict[str, WorkingMemory]) -> None:
        """Take in what was told up to a decision time; one round trip.

        Parameters
        ----------
        now
            The decision time.
        minds
            Working memories by product: a message is kept in that of its product, or in all where it names none.
        """
        try:
            await self._reader.handle(self._keep)
        except StoreUnavailableError:
            if not self._tolerates:
                raise
        ready = [message for message in self._waiting if _dated(message) <= now]
        self._waiting = [message for message in self._waiting if _dated(message) > now]
        for message in sorted(ready, key=lambda item: (_dated(item), item.sender_agent_id, item.message_id)):
            self._take_in(message, minds)

    def fresh(self, product_id: str) -> tuple[AgentMemoryMessage, ...]:
        """What was taken in about a product since this was asked last; the last `memory.working.WINDOW` of it.

        While nothing is decided (the product is cold, say) nobody asks, and older messages give way.
        """
        return tuple(self._fresh.pop(product_id, ()))

    def patterns(self, product_id: str) -> dict[str, float]:
        """Patterns that others say a product is in, and how sure they are; the last word on each counts."""
        return dict(self._patterns.get(product_id, {}))

    async def close(self) -> None:
        """Hand back what was not taken in."""
        await self._reader.close()

    async def _keep(self, message: AgentMemoryMessage) -> None:
        # What a message says of its sender is looked at here: one that makes no sense goes the way of all messages
        # whose handling fails, to the dead letters in the end, and never stops the agent.
        if said := said_of_sender(message):
            AgentState(agent_id=message.sender_agent_id, timestamp=_dated(message), **said)
        self._waiting.append(message)
        self.heard += 1

    def _take_in(self, message: AgentMemoryMessage, minds: dict[str, WorkingMemory]) -> None:
        about = message.data.get("product_id")
        for product_id, mind in minds.items():
            if about in (None, product_id):
                mind.hear(message)
                self._fresh.setdefault(product_id, deque(maxlen=WINDOW)).append(message)
        pattern_id, confidence = message.data.get("pattern_id"), message.data.get("match_confidence")
        if message.message_type == MessageType.PATTERN and isinstance(about, str) and isinstance(pattern_id, str):
            active = self._patterns.setdefault(about, {})
            if message.data.get("entered") and isinstance(confidence, float):
                active[pattern_id] = min(max(confidence, 0.0), 1.0)
            else:
                active.pop(pattern_id, None)


def _dated(message: AgentMemoryMessage) -> datetime:
    """The message's time, which every message has that was sent."""
    if message.timestamp is None:
        raise ValueError(f"message {message.message_id} was received without a time")
    return message.timestamp
