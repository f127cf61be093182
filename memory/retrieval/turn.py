"""Commands of one turn of the event loop: equal ones that read are sent once, and share the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from memory.store.link import Command

SHARED = frozenset({"FT.SEARCH", "GET", "HGET", "HMGET"})
"""Commands that read, and whose equal ones may share an answer."""


class AbandonedError(Exception):
    """The caller that sent a shared command was cancelled, or its deadline passed."""


class Turn:
    """The shared commands that were sent in this turn of the event loop."""

    def __init__(self) -> None:
        self._sent: dict[Command, asyncio.Future[Any]] = {}
        self._began = False

    def begin(self) -> None:
        """To be called before anything is sent.

        That is before the connection asks for its own end of the turn, at which it writes: what has left is never
        joined, since its answer may be older than the question.
        """
        if not self._began:
            self._began = True
            asyncio.get_running_loop().call_soon(self._end)

    def equal(self, command: Command) -> asyncio.Future[Any] | None:
        """The answer to come of an equal command of this turn that may be shared; None where there is none."""
        return self._sent.get(command) if command[0] in SHARED else None

    def leaves(self, command: Command, answer: asyncio.Future[Any]) -> None:
        """Say that a command is sent."""
        if command[0] in SHARED:
            self._sent[command] = answer

    def _end(self) -> None:
        self._began = False
        self._sent.clear()


async def joined(equal: asyncio.Future[Any]) -> Any:
    """The answer of a command that another caller sends in this turn."""
    own: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def pass_on(answered: asyncio.Future[Any]) -> None:
        if own.done():
            return
        if answered.cancelled() or isinstance(answered.exception(), TimeoutError):
            own.set_exception(AbandonedError())
        elif (error := answered.exception()) is not None:
            # Each caller raises an error of its own: a traceback belongs to one.
            own.set_exception(type(error)(*error.args))
        else:
            own.set_result(answered.result())

    equal.add_done_callback(pass_on)
    return await own
