"""Processes that work for a run, and end with it: however it ends, none of them goes on alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

_ENDED = 1
"""Exit status of a worker whose run ended before it."""


@contextmanager
def worker_processes(number: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes for a block: ``with worker_processes(2, begin, plan) as pool: pool.submit(work, 1)``.

    A block that raises an error lets them end what they have in hand. One that is broken off (SIGTERM, Ctrl-C, a
    generator that nobody asks any more) ends them at once, in the middle of their work; so does the death of this
    process, even by SIGKILL. What a worker writes must therefore bear being broken off.

    Parameters
    ----------
    number
        Most processes; each starts when there is work for it.
    start
        Called in each of them before its first work; a function of a module, as `arguments` must be pickled for it.
    """
    # A fork would share the locks of this process's threads. The workers hold the end that is read: it closes when this
    # process closes the other one, or dies.
    context = get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    with lifeline, held:
        pool = ProcessPoolExecutor(
            number, mp_context=context, initializer=_begin, initargs=(lifeline, start, arguments)
        )
        try:
            yield pool
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            held.close()
            pool.shutdown()
            raise
        pool.shutdown()


def _begin(lifeline: Connection, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(lifeline,), name="end with the run", daemon=True).start()
    start(*arguments)


def _end_with(lifeline: Connection) -> None:
    """Wait until the run is gone, and end this process; whoever waits for it learns that from its status."""
    wait([lifeline])
    os._exit(_ENDED)
