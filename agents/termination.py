"""Ending in good order when the process is told to terminate (SIGTERM), where nobody else sees to it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

Closing = Callable[[], Awaitable[None]]

_held: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Closing]] = WeakKeyDictionary()
"""What each event loop still has to do before its process may end; a signal has one handler a process."""


def flush_on_termination(closing: Closing) -> Callable[[], None]:
    """Await `closing` before SIGTERM ends the process; returns a function that takes this back.

    The process then ends as it would have: killed by SIGTERM. Nothing is done outside the main thread, or where
    somebody handles SIGTERM already: whoever does is asked to close what it opened. An event loop that stands still in
    a long computation ends when it has turned once more.
    """
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    loop = asyncio.get_running_loop()
    closings = _held.get(loop)
    if closings is None:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return _nothing
        closings = _held[loop] = []
        loop.add_signal_handler(signal.SIGTERM, _begin, loop)
    closings.append(closing)

    def release() -> None:
        if closing in closings:
            closings.remove(closing)
        if not closings and _held.pop(loop, None) is not None:
            loop.remove_signal_handler(signal.SIGTERM)

    return release


def _nothing() -> None:
    """There is nothing to take back."""


def _begin(loop: asyncio.AbstractEventLoop) -> None:
    ending = loop.create_task(_end(loop), name="termination")
    _endings.add(ending)


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    try:
        await asyncio.gather(*(closing() for closing in list(_held.get(loop, ()))), return_exceptions=True)
    finally:
        if loop in _held:
            del _held[loop]
            loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


_endings: set[asyncio.Task[None]] = set()
"""Tasks that end the process; an event loop itself holds tasks weakly."""
