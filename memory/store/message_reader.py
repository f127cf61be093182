"""Reading messages: an iterator that acknowledges each message when its caller comes back for the next."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TypeVar

from redis.exceptions import RedisError

from memory.asof import replayed_present
from memory.errors import CoinswarmError, InvalidQueryError, StoreUnavailableError
from memory.messages import LIVE_RUN, AgentMemoryMessage, pack_message
from memory.store.dead_letters import MESSAGES, DeadLetters, Refusal
from memory.store.message_bell import MessageBell
from memory.store.message_mailbox import Delivery, Mailbox, MailFilter, Missed
from memory.store.message_report import ReaderReport

__all__ = ["MessageReader", "ReaderReport"]

_log = logging.getLogger(__name__)

MAX_DELIVERIES = 5
"""A message that was handed out so often and never acknowledged goes to the dead letters."""
LEASE = timedelta(seconds=15)
"""A message that a killed process had in hand is handed out again after this long."""
PATIENCE = timedelta(minutes=1)
"""How long Redis may be away before a reader raises: a restart with millions of memories takes that long."""
REMEMBERED = 10_000
"""Ids of handled messages that a reader remembers, should their acknowledgement have been lost."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
REPLAY_PAUSE_S = 0.05
"""Pause between two looks of a reader that waits inside a replay: nothing rings when the replay's clock moves on."""
RETRY_DELAY = timedelta(seconds=0.5)
"""Pause before a message whose handling failed is tried again; it doubles each time."""

Handler = Callable[[AgentMemoryMessage], Awaitable[object]]
OnMissed = Callable[[Missed], None]
Result = TypeVar("Result")


class MessageReader:
    """Messages for one agent, as ``async for message in reader``; made by `Messages.read`.

    A message is acknowledged when the next one is asked for, so a process that is killed in between is handed it again.
    ``async with`` also hands back what is still in hand when the block ends, and counts an error of the block against
    the message that it was about. One task iterates at a time; cancelling it loses nothing.

    Parameters
    ----------
    mailbox, bell, dead_letters
        What it reads from, what wakes it, and where broken messages go.
    mail
        What it hears.
    start
        First timestamp where it never read before.
    waits
        Whether it waits for more; None: except inside a replay.
    batch
        Messages in hand at a time.
    patience
        How long Redis may be away; None: `PATIENCE` where it waits, and no longer than the link's deadline elsewhere.
    on_missed
        Is told of messages that this reader will never see.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        bell: MessageBell,
        dead_letters: DeadLetters,
        mail: MailFilter,
        *,
        start: datetime | None,
        waits: bool | None,
        batch: int,
        patience: timedelta | None,
        on_missed: OnMissed | None,
    ) -> None:
        self._mailbox = mailbox
        self._bell = bell
        self._dead_letters = dead_letters
        self._mail = mail
        self._start = start
        self._waits = waits
        self._batch = batch
        self._patience = patience
        self._on_missed = on_missed
        self._current: Delivery | None = None
        self._ready: deque[Delivery] = deque()
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._taking: asyncio.Task[bool] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._ends: dict[str, str] = {}
        self._next_due_s: float | None = None
        self._iterating = False
        self._closed = False
        self._report = ReaderReport()

    # --- the iterator ----------------------------------------------------------------------------------------

    def __aiter__(self) -> MessageReader:
        return self

    async def __anext__(self) -> AgentMemoryMessage:
        """Acknowledge the message before, and return the next one.

        Raises
        ------
        StopAsyncIteration
            Nothing further is known, where the reader does not wait; or it was closed.
        StoreUnavailableError
            Redis was away for longer than the reader's patience. The same reader can go on afterwards.
        InvalidQueryError
            Another task iterates over this reader.
        """
        if self._iterating:
            raise InvalidQueryError(
                f"two tasks iterate over one reader of {self._mailbox.agent_id!r}.",
                remedy="Give each a reader of its own: mem.messages.read(...); they share the messages.",
                argument="reader",
            )
        self._iterating = True
        try:
            return await self._next()
        finally:
            self._iterating = False

    async def _next(self) -> AgentMemoryMessage:
        while not self._closed:
            if self._ready:
                await self._finish()
            elif self._current is not None:
                self._note_handled(self._current)  # Acknowledged with what is taken next, in one round trip.
            while self._ready:
                delivery = self._ready.popleft()
                self._current = delivery
                if delivery.message.message_id in self._handled:
                    await self._finish()  # Handled before; only the acknowledgement was lost.
                    continue
                self._report.received += 1
                self._report.again += delivery.deliveries > 1
                return delivery.message
            if await self._take() or self._ready:
                continue
            if not self._is_waiting():
                break
            await self._wait()
        raise StopAsyncIteration

    def _is_waiting(self) -> bool:
        return replayed_present() is None if self._waits is None else self._waits

    @property
    def current(self) -> Delivery | None:
        """The message that was returned last and is not acknowledged yet, with how often it was handed out."""
        return self._current

    def report(self) -> ReaderReport:
        """What became of messages so far."""
        return self._report

    # --- what becomes of a message ---------------------------------------------------------------------------

    async def acknowledge(self) -> None:
        """Say that the message in hand is dealt with, without asking for the next one."""
        await self._finish()

    async def fail(self, error: BaseException) -> None:
        """Say that handling the message in hand failed: it comes again, and goes to the dead letters the fifth time."""
        delivery, self._current = self._current, None
        if delivery is None:
            return
        reason = f"{type(error).__name__}: {error}"
        if delivery.deliveries >= MAX_DELIVERIES:
            await self._patiently(lambda: self._bury_failed(delivery, reason))
            return
        self._report.failed += 1
        delay = RETRY_DELAY * 2 ** (delivery.deliveries - 1)
        await self._patiently(lambda: self._mailbox.hand_back([delivery.member], note=reason, delay=delay, counts=True))

    async def handle(self, handler: Handler) -> ReaderReport:
        """Hand each message to a coroutine function; one that raises is tried again later, and others go on.

        After `MAX_DELIVERIES` failures the message goes to the dead letters with the last error. Returns where the
        reader does not wait and nothing further is known; otherwise it ends by being cancelled.
        """
        async for message in self:
            try:
                await handler(message)
            except Exception as error:  # noqa: BLE001 - whatever the handler raises is kept with the message
                _log.warning("Handling message %s for %s failed: %r", message.message_id, self._mailbox.agent_id, error)
                await self.fail(error)
        return self._report

    # --- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> MessageReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, StoreUnavailableError):
                await self.fail(error)
        except StoreUnavailableError as unsaid:  # The block's own error tells more; the lease ends by itself.
            _log.warning("That a message for %s failed was not written down: %s", self._mailbox.agent_id, unsaid)
        finally:
            await self.close()

    async def close(self) -> None:
        """Hand back what is in hand and not acknowledged, at once and without counting it as a failure."""
        if self._closed:
            return
        self._closed = True
        if self._renewing is not None:
            self._renewing.cancel()
        if self._taking is not None:
            # What it fails with concerns nobody any more; what it took is handed back below.
            await asyncio.gather(self._taking, return_exceptions=True)
        held = [*([] if self._current is None else [self._current]), *self._ready]
        self._current = None
        self._ready.clear()
        try:
            await self._mailbox.hand_back([delivery.member for delivery in held])
        except StoreUnavailableError as error:
            # Their lease ends by itself, and they are handed out again.
            _log.warning("%d messages for %s were not handed back: %s", len(held), self._mailbox.agent_id, error)

    # --- internals -------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Acknowledge the message in hand."""
        delivery = self._current
        if delivery is None:
            return
        self._note_handled(delivery)
        await self._patiently(lambda: self._mailbox.acknowledge([delivery.member]))
        self._current = None

    def _note_handled(self, delivery: Delivery) -> None:
        known = self._handled
        if delivery.message.message_id not in known:
            known[delivery.message.message_id] = None
            self._report.handled += 1
            while len(known) > REMEMBERED:
                known.popitem(last=False)

    async def _take(self) -> bool:
        """Take what there is in hand; whether to look again at once."""
        bound = self._bound()
        earlier, self._taking = self._taking, None
        if earlier is not None and earlier.done() and not earlier.cancelled() and earlier.exception() is not None:
            earlier = None  # Nobody waited for it any more when it failed.
        task = earlier or asyncio.get_running_loop().create_task(self._patiently(lambda: self._take_once(bound)))
        self._taking = task
        # Cancelled while an answer is on its way, the task brings in what the server has handed out.
        more = await asyncio.shield(task)
        self._taking = None
        return more

    async def _take_once(self, bound: datetime | None) -> bool:
        done = self._current
        taken = await self._mailbox.take(
            self._batch,
            self._mail,
            start=self._start,
            bound=bound,
            acknowledge=[] if done is None else [done.member],
        )
        self._current = None
        self._ends = taken.ends
        self._next_due_s = taken.next_due_s
        self._report.skipped += taken.skipped
        for item in taken.missed:
            self._tell(item)
        for broken in taken.unreadable:
            refusal = Refusal(broken.packed, str(broken.error), broken.error.field, broken.sender_agent_id)
            await self._dead_letters.add([refusal], origin=MESSAGES)
            await self._mailbox.acknowledge([broken.member])
            self._report.dead += 1
        for delivery in taken.deliveries:
            if delivery.deliveries > MAX_DELIVERIES:
                await self._bury_failed(delivery, delivery.note or "never acknowledged")
            else:
                self._ready.append(delivery)
        if self._ready and self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(
                _keep_leases(weakref.ref(self), self._mailbox.lease.total_seconds() / 3), name="messages: leases"
            )
        return taken.more

    async def _bury_failed(self, delivery: Delivery, reason: str) -> None:
        """To the dead letters, and out of the mailbox; killed in between, the letter is listed once all the same."""
        refusal = Refusal(
            pack_message(delivery.message),
            f"Handed out {MAX_DELIVERIES} times and never dealt with: {reason}",
            "handler",
            self._mailbox.agent_id,
        )
        await self._dead_letters.add([refusal], origin=f"{MESSAGES}:{self._mailbox.reader}")
        await self._mailbox.acknowledge([delivery.member])
        self._report.dead += 1
        _log.warning(
            "Message %s for %s is a dead letter: %s", delivery.message.message_id, self._mailbox.agent_id, reason
        )

    async def _wait(self) -> None:
        """Until there may be something: it arrived, or a lease ends (of another process of this agent, perhaps)."""
        if replayed_present() is not None:
            # The bell would ring at once for what is dated after the present, again and again.
            await asyncio.sleep(REPLAY_PAUSE_S)
            return
        limit_s = self._mailbox.lease.total_seconds()
        if self._next_due_s is not None:
            limit_s = min(limit_s, self._next_due_s)
        await self._patiently(lambda: self._bell.wait(self._ends, limit_s))

    def _bound(self) -> datetime | None:
        """The replay's present, which bounds what is known in it."""
        present = replayed_present()
        if present is not None and self._mailbox.run_id == LIVE_RUN:
            raise InvalidQueryError(
                "a replay does not read live messages: its positions are those of the live agent.",
                remedy="Name the replay's run_id, or look back with mem.messages.history(...).",
                argument="run_id",
            )
        return present

    def _tell(self, missed: Missed) -> None:
        self._report.miss(missed)
        if self._on_missed is not None:
            self._on_missed(missed)
        _log.warning(
            "%s missed up to %d messages of %s (%s): it reads too rarely, or too little is kept "
            "(COINSWARM_MESSAGE_LIMIT, COINSWARM_MESSAGE_RETENTION_DAYS).",
            self._mailbox.agent_id,
            missed.number,
            missed.sender_agent_id,
            missed.reason,
        )

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """What a call brings, made again while Redis is away for less than this reader's patience."""
        loop = asyncio.get_running_loop()
        patience = self._patience
        if patience is None:
            patience = PATIENCE if self._is_waiting() else timedelta(0)
        deadline = loop.time() + patience.total_seconds()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                if self._closed or loop.time() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _held(self) -> list[str]:
        return [*([] if self._current is None else [self._current.member]), *(item.member for item in self._ready)]

    async def _renew(self) -> None:
        """Begin the leases of what is in hand anew; what another process was handed meanwhile is left to it."""
        members = self._held()
        held = await self._mailbox.renew(members)
        lost = set(members) - held
        self._ready = deque(item for item in self._ready if item.member not in lost)


async def _keep_leases(reference: weakref.ref[MessageReader], pause_s: float) -> None:
    """Renew a reader's leases for as long as somebody holds the reader."""
    while True:
        await asyncio.sleep(pause_s)
        reader = reference()
        if reader is None or reader._closed:
            return
        try:
            await reader._renew()
        except (CoinswarmError, RedisError) as error:
            _log.warning("The leases of %s were not renewed: %s", reader._mailbox.agent_id, error)
        del reader
