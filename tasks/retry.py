"""What every task has in common: what is tried again, and one thread for linear algebra."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from threadpoolctl import ThreadpoolController

from memory.errors import ArchiveUnavailableError, StoreUnavailableError
from memory.secrets import hide_secrets
from tasks.log_fields import TaskFields

RETRIES = 3
RETRY_DELAYS_S = [2.0, 5.0, 15.0]
JITTER = 0.5

_LASTING = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENAMETOOLONG,
    }
)
"""What a storage answers that will answer the same in half a minute."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def may_pass(error: object) -> bool:
    """Whether a failure may pass by itself: Redis or Postgres was away, or the archive's storage did not answer."""
    if isinstance(error, ArchiveUnavailableError):
        cause = error.__cause__
        return isinstance(cause, OSError) and cause.errno not in _LASTING
    return isinstance(error, StoreUnavailableError)


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task that failed is to be tried again."""
    return may_pass(state.result(raise_on_failure=False))


def retried(*, run_name: str | None = None) -> Callable[[Callable[Parameters, Result]], Task[Parameters, Result]]:
    """A task that is tried again where a server was away, and never cached: the ledger knows what is done.

    It thinks with one thread of BLAS, in whatever process it runs (`one_thread`). Its log lines say what they are about
    (`tasks.log_fields`), and one tells how long each attempt took and what it failed of.

    Parameters
    ----------
    run_name
        Name of its runs, with the names of its parameters in braces.
    """

    def made(function: Callable[Parameters, Result]) -> Task[Parameters, Result]:
        fields, name = TaskFields(function), function.__name__
        log = logging.getLogger(function.__module__)

        @wraps(function)
        def single(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with fields.of(args, kwargs), one_thread():
                begun = time.perf_counter()
                try:
                    result = function(*args, **kwargs)
                except Exception as error:
                    hide_secrets(error)  # Prefect keeps, shows and sends what it says.
                    # Prefect logs the traceback as an error, but not the partition: its line is outside this context.
                    log.info("%s: failed after %.1f s: %s", name, time.perf_counter() - begun, error)
                    raise
                log.info("%s: %.1f s", name, time.perf_counter() - begun)
                return result

        made_of = task(
            cache_policy=NO_CACHE,
            task_run_name=run_name,
            retries=RETRIES,
            retry_delay_seconds=RETRY_DELAYS_S,
            retry_jitter_factor=JITTER,
            retry_condition_fn=is_transient,
        )
        return made_of(single)

    return made


_OWN_LIMIT: Mapping[str, Any] = {"user_api": "openmp", "threading_layer": ["openmp", "intel", "gnu"]}
"""Libraries whose number of threads belongs to the thread that asks; that of all others is the process's."""


class _SharedLimit:
    """How many blocks of this process want one thread of the libraries that all its threads share.

    threadpoolctl lets one thread at a time decide about those. Blocks come and go in many: a thread of its own decides
    for all of them, as long as there is one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._ended = threading.Event()
        self._decider: threading.Thread | None = None

    def enter(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                begun, self._ended = threading.Event(), threading.Event()
                hold = partial(self._hold, begun, self._ended)
                self._decider = threading.Thread(target=hold, name="one-thread", daemon=True)
                self._decider.start()
                begun.wait()

    def leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks and self._decider is not None:
                self._ended.set()
                self._decider.join()

    @staticmethod
    def _hold(begun: threading.Event, ended: threading.Event) -> None:
        try:
            every = ThreadpoolController()
            own = {library.filepath for library in every.select(**_OWN_LIMIT).lib_controllers}
            shared = [library.filepath for library in every.lib_controllers if library.filepath not in own]
            with every.select(filepath=shared).limit(limits=1):
                begun.set()
                ended.wait()
        finally:
            begun.set()


_SHARED = _SharedLimit()


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and OpenMP use one thread for what this thread computes until the block ends.

    The last bits of sums depend on the number of threads: what enters the ledger is computed with one. Blocks may
    overlap in any way, in any threads: what these share goes back to what it was when the last block ends.
    """
    _SHARED.enter()
    try:
        with ThreadpoolController().select(**_OWN_LIMIT).limit(limits=1):
            yield
    finally:
        _SHARED.leave()
