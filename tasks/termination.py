"""SIGTERM while an event loop runs: heard as surely as Ctrl-C, which asyncio sees to itself."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_until_told_to_end(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`, but what a handler of SIGTERM raises ends it wherever it was raised.

    A flow is ended by an exception that Prefect's handler raises. In a callback of the event loop, or while data is
    taken in, asyncio takes it for an error of that callback: it is logged at most, the connection is given up, and the
    work goes on, tried again where need be. Here the coroutine is cancelled too, and the handler called once more when
    the loop has ended. Without a handler, or outside the main thread, nothing is different.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return asyncio.run(main)
    told: list[int] = []

    async def whole() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int, frame: FrameType | None) -> None:
            told.append(number)
            loop.call_soon_threadsafe(task.cancel)
            handler(number, frame)

        signal.signal(signal.SIGTERM, end)
        try:
            return await main
        finally:
            signal.signal(signal.SIGTERM, handler)

    try:
        return asyncio.run(whole())
    finally:
        if told:
            handler(told[0], None)
