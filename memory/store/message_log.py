"""Looking back at messages, as they were known at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.asof import bounded, check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.messages import LIVE_RUN, MESSAGE_TYPES, AgentMemoryMessage, unpack_message
from memory.records import to_ms
from memory.store.arguments import check_identifier, check_one_of
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.message_mailbox import position_of
from memory.validation import validate_number

PAGE_SIZE = 500
DEFAULT_HISTORY = 1000
MAX_HISTORY = 100_000


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """Messages as they were known, oldest first.

    Attributes
    ----------
    messages
        Those asked for.
    complete
        False where older ones of the span were dropped meanwhile, or left out because of `limit`.
    """

    messages: tuple[AgentMemoryMessage, ...]
    complete: bool


class MessageLog:
    """Looking back at the messages of a namespace, as of a time; no position moves.

    Parameters
    ----------
    locked_to
        Nothing that was known later is shown.
    """

    def __init__(self, link: RedisLink, keys: Keys, *, locked_to: datetime | None = None) -> None:
        self._link = link
        self._keys = keys
        self._locked_to = locked_to

    async def history(
        self,
        agent_id: str | None = None,
        *,
        since: datetime | None = None,
        as_of: datetime | None = None,
        run_id: str = LIVE_RUN,
        message_types: Collection[str] | None = None,
        min_importance: float = 0.0,
        limit: int = DEFAULT_HISTORY,
    ) -> MessageHistory:
        """What was told, as it was known at a time.

        A live message was known when it arrived, and not before its timestamp; one of a replay or backtest from its
        timestamp on.

        Parameters
        ----------
        agent_id
            Only what this agent was told; by default all.
        since
            Timestamps from then on.
        as_of
            Known by then; inside a replay it must be given.
        run_id
            The run.
        message_types, min_importance
            Which ones.
        limit
            At most the newest so many.

        Returns
        -------
        MessageHistory
            By timestamp, then sender. Cost: reads the streams of the run, one round trip for each 500 entries of the
            longest, and two more; entries that cannot be read are left out.
        """
        locked_to = self._locked_to
        as_of = bounded(as_of, locked_to)
        agent_id, run_id = check_identifier(agent_id, "agent_id"), checked_run(run_id)
        since = None if since is None else check_time(since, "since")
        kinds = checked_types(message_types)
        least = checked_importance(min_importance)
        limit = checked_count(limit, "limit", MAX_HISTORY)
        live = run_id == LIVE_RUN
        found: list[tuple[datetime, str, tuple[int, int], AgentMemoryMessage]] = []
        senders = await self.senders(run_id)
        starts = dict.fromkeys(senders, "-")
        heads = await self._link.pipeline(
            [("XRANGE", self._keys.messages(sender, run_id), "-", "+", "COUNT", 1) for sender in senders]
        )
        complete = not any(_was_preceded(entry, since) for head in heads for entry in head)
        # A live message arrives after it is dated, give or take the skew of clocks, so `as_of` bounds arrivals as well.
        end = f"{to_ms(as_of)}" if live and as_of is not None else "+"
        while starts:
            commands = [
                ("XRANGE", self._keys.messages(sender, run_id), start, end, "COUNT", PAGE_SIZE)
                for sender, start in starts.items()
            ]
            pages = await self._link.pipeline(commands)
            for sender, page in zip(list(starts), pages, strict=True):
                for entry, pairs in page:
                    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
                    message = readable(fields.get(b"c", b""), sender, run_id)
                    if message is None or message.timestamp is None:
                        continue
                    if (
                        (as_of is None or message.timestamp <= as_of)
                        and (since is None or message.timestamp >= since)
                        and (agent_id is None or message.is_for(agent_id))
                        and (not kinds or message.message_type in kinds)
                        and message.importance >= least
                    ):
                        place = position_of(entry.decode())
                        found.append((message.timestamp, sender, place, message))
                if len(page) < PAGE_SIZE:
                    del starts[sender]
                else:
                    starts[sender] = f"({page[-1][0].decode()}"
        found.sort(key=lambda item: item[:3])
        return MessageHistory(tuple(message for *_, message in found[-limit:]), complete and len(found) <= limit)

    async def senders(self, run_id: str = LIVE_RUN) -> list[str]:
        """Agents that told something in a run, sorted."""
        entries = await self._link.execute("XRANGE", self._keys.message_senders(checked_run(run_id)), "-", "+")
        return sorted(pairs[1].decode() for _, pairs in entries)


def _was_preceded(entry: tuple[bytes, list[bytes]], since: datetime | None) -> bool:
    """Whether entries of a span were dropped before the oldest that is kept; those were told before it."""
    _, pairs = entry
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    stamp = fields.get(b"t", b"")
    return fields.get(b"n") != b"1" and (since is None or not stamp.isdigit() or to_ms(since) <= int(stamp))


def readable(packed: bytes, sender: str, run_id: str) -> AgentMemoryMessage | None:
    """The message of an entry; None where it is none, or not of that sender and run: readers bury those."""
    try:
        message = unpack_message(packed)
    except InvalidRecordError:
        return None
    return message if (message.sender_agent_id, message.run_id) == (sender, run_id) else None


# --- arguments -------------------------------------------------------------------------------------------------


def needed_identifier(value: Any, name: str) -> str:
    """An id, or InvalidQueryError."""
    checked = check_identifier(value, name)
    if checked is None:
        raise InvalidQueryError(f"{name} is None.", remedy="Name it.", argument=name)
    return checked


def checked_run(value: Any) -> str:
    """The id of a run, or InvalidQueryError."""
    return needed_identifier(value, "run_id")


def checked_types(values: Collection[str] | None) -> tuple[str, ...]:
    """Some message types in order, none for all, or InvalidQueryError."""
    if values is None:
        return ()
    if isinstance(values, str) or not isinstance(values, Iterable) or not values:
        raise InvalidQueryError(
            f"message_types is {values!r}.", remedy="List some, or leave it out for all.", argument="message_types"
        )
    checked = (check_one_of(value, "message_types", MESSAGE_TYPES) for value in values)
    return tuple(sorted({value for value in checked if value is not None}))


def checked_importance(value: Any) -> float:
    """A bound on importance, or InvalidQueryError."""
    try:
        return validate_number(value, "min_importance", 0.0, 1.0)
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument="min_importance") from error


def checked_count(value: Any, name: str, most: int) -> int:
    """A number from 1 to `most`, or InvalidQueryError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidQueryError(f"{name} is {value!r}.", remedy=f"Use 1 to {most:,}.", argument=name)
    return value
