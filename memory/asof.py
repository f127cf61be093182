"""As of when: the bound on what a question may see, and the guard that a replay of history puts around it.

Inside ``with replaying(clock):`` every question to a memory must be bounded: by an ``as_of``, or by a memory that is
locked to a time (`mem.at(t)`), neither later than the replay's present. A question that forgot its bound would read
the future, and is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.validation import validate_timestamp


@dataclass(slots=True)
class ReplayClock:
    """The present of a replay.

    Attributes
    ----------
    now
        Aware UTC; the replay moves it on, decision by decision. Nothing known later may be asked for.
    """

    now: datetime


_replay: ContextVar[ReplayClock | None] = ContextVar("coinswarm_replay", default=None)


@contextmanager
def replaying(clock: ReplayClock) -> Iterator[ReplayClock]:
    """Within this block (and the tasks started in it) no question may see what was not known at ``clock.now``."""
    token = _replay.set(clock)
    try:
        yield clock
    finally:
        _replay.reset(token)


def replayed_present() -> datetime | None:
    """The present of the replay around this code; None where nothing is replayed."""
    clock = _replay.get()
    return None if clock is None else clock.now


def check_time(value: object, name: str) -> datetime:
    """The value as an aware UTC time, or InvalidQueryError that names the argument."""
    try:
        return validate_timestamp(value, name)
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument=name) from error


def check_lock(as_of: object, locked_to: datetime | None) -> datetime:
    """The time as an aware one that lies no later than a lock, or InvalidQueryError."""
    as_of = check_time(as_of, "as_of")
    if locked_to is not None and as_of > locked_to:
        raise InvalidQueryError(
            f"as_of {as_of.isoformat()} lies after {locked_to.isoformat()}, to which this memory is locked.",
            remedy="Ask as of an earlier time, or through a memory that is not locked.",
            argument="as_of",
        )
    return as_of


def bounded(as_of: datetime | None, locked_to: datetime | None) -> datetime | None:
    """The time that a question is answered as of; None for all that is known.

    Raises
    ------
    InvalidQueryError
        `as_of` is no aware time, lies after the lock or the present of the replay, or is missing inside a replay.
    """
    as_of = locked_to if as_of is None else check_lock(as_of, locked_to)
    clock = _replay.get()
    if clock is None:
        return as_of
    if as_of is None:
        raise InvalidQueryError(
            f"without as_of a question inside a replay (present: {clock.now.isoformat()}) would see the future.",
            remedy="Pass as_of, or ask through mem.at(t).",
            argument="as_of",
        )
    if as_of > clock.now:
        raise InvalidQueryError(
            f"as_of {as_of.isoformat()} lies after {clock.now.isoformat()}, the present of the replay.",
            remedy="Ask as of the present of the replay, or earlier.",
            argument="as_of",
        )
    return as_of
