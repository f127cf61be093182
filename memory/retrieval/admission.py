"""Callers in line for a shared connection, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class WaitingLine:
    """Those who wait because too many commands are in flight.

    Parameters
    ----------
    limit
        Commands that may be in flight.
    in_flight
        How many are.
    watch
        Called where somebody waits: sees to it that `move` is called once fewer are in flight.

    Attributes
    ----------
    closed
        Whether nothing is sent any more: whoever waits is let through, to find that out.
    """

    def __init__(self, limit: int, in_flight: Callable[[], int], watch: Callable[[], None]) -> None:
        self._limit = limit
        self._in_flight = in_flight
        self._watch = watch
        self._line: deque[asyncio.Future[None]] = deque()
        self._admitted = 0
        self.closed = True

    def __len__(self) -> int:
        return len(self._line)

    @property
    def full(self) -> bool:
        """Whether a newcomer has to wait."""
        return bool(self._line) or self._free() <= 0

    async def admission(self) -> None:
        """Wait until fewer commands are in flight; those who came first go first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._watch()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._admitted -= 1
                self.move()
            raise
        self._admitted -= 1
        # It may join another's command, and then another has its place.
        asyncio.get_running_loop().call_soon(self.move)

    def move(self) -> None:
        """Admit those who may go."""
        while self._line and (self._free() > 0 or self.closed):
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                self._admitted += 1
        if self._line:
            self._watch()

    def _free(self) -> int:
        return self._limit - self._in_flight() - self._admitted
