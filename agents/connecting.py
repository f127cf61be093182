"""How an agent gets what it needs: the encoder that its memory is asked in, and the ticks of whatever feed it has."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from agents.encoder import StateEncoder
from agents.feed import Tick, replay_ticks
from agents.fitting import default_encoder
from agents.replay import MarketReplay, State
from memory import MemoryConnection
from memory.asof import replaying
from memory.errors import AccessDeniedError, EncoderError

_log = logging.getLogger(__name__)

Feed = MarketReplay | AsyncIterable[list[Tick]] | Iterable[list[Tick]]
"""What agents follow: a replay, which is the present while they do, or ticks from anywhere."""


async def follow(feed: Feed) -> AsyncIterator[list[Tick]]:
    """The ticks of a feed, one decision time after the other."""
    if isinstance(feed, MarketReplay):
        for ticks in replay_ticks(feed):
            yield ticks
    elif isinstance(feed, AsyncIterable):
        async for ticks in feed:
            yield ticks
    else:
        for ticks in feed:
            yield ticks


@contextmanager
def present_of(feed: Feed) -> Iterator[None]:
    """Within this block the present is that of the feed: of a replay, no question may see beyond it."""
    if isinstance(feed, MarketReplay):
        with replaying(feed.clock):
            yield
    else:
        yield


async def each_state(
    feed: Feed, act: Callable[[State], Awaitable[object]], close: Callable[[], Awaitable[None]]
) -> int:
    """Give each state of a feed that a decision may be taken on to `act`, one after the other; returns how many.

    Meanwhile the present is that of the feed. `close` is called in the end, however that comes; an error of `act` ends
    the feed.
    """
    given = 0
    with present_of(feed):
        try:
            async for ticks in follow(feed):
                for tick in ticks:
                    if tick.state is not None and tick.acts:
                        await act(tick.state)
                        given += 1
        finally:
            await close()
    return given


async def check_encoder(mem: MemoryConnection, encoder_id: str) -> bool:
    """Whether the memory holds anything to ask; EncoderError where it is asked in another encoder than this one."""
    asked_in = mem.encoder_id or await mem.encoders.current()
    if asked_in is not None and asked_in != encoder_id:
        raise EncoderError(
            f"the memory is asked in encoder {asked_in}, and this agent's states are those of {encoder_id}.",
            remedy=f"Use memory.connect(encoder_id={encoder_id!r}), or give the agent the other encoder.",
        )
    return asked_in is not None


async def encoder_of(mem: MemoryConnection) -> StateEncoder:
    """The encoder that a memory is asked in, as it is registered there; the one that ships while nothing is recorded.

    Raises
    ------
    EncoderError
        It is registered without a definition that this software can read, or not at all.
    """
    shipped = default_encoder()
    encoder_id = mem.encoder_id or await mem.encoders.current()
    if encoder_id is None or encoder_id == shipped.id_:
        return shipped
    record = await mem.encoders.get(encoder_id)
    if record is None:
        raise EncoderError(
            f"encoder {encoder_id} is not registered in namespace {mem.namespace}.",
            remedy="Give the agent the encoder itself (encoder=StateEncoder.load(path)).",
        )
    return StateEncoder.from_json(msgspec.json.encode(record.definition).decode())


async def register_encoder(mem: MemoryConnection, encoder: StateEncoder) -> None:
    """Make an encoder known to the memory, with all that is needed to encode again, where it is not yet.

    A Redis user who may not leaves it to the jobs, which register what they know when it is first recorded in.
    """
    if await mem.encoders.get(encoder.id_) is not None:
        return
    definition = msgspec.json.decode(encoder.to_json())
    try:
        await mem.encoders.register(encoder.id_, fitted_until=encoder.fitted_until_, definition=definition)
    except AccessDeniedError:
        _log.warning(
            "Encoder %s is not registered in namespace %s, and this user may not register it: the jobs know it if it "
            "is shipped, or lies in their home's encoders folder.",
            encoder.id_,
            mem.namespace,
        )
