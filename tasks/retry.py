"""What every task has in common: what is tried again, and one thread for linear algebra."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from threadpoolctl import threadpool_limits

from memory.errors import ArchiveError, StoreUnavailableError

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
    if isinstance(error, ArchiveError):
        cause = error.__cause__
        return isinstance(cause, OSError) and cause.errno not in _LASTING
    return isinstance(error, StoreUnavailableError)


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task that failed is to be tried again."""
    return may_pass(state.result(raise_on_failure=False))


def retried(*, run_name: str | None = None) -> Callable[[Callable[Parameters, Result]], Task[Parameters, Result]]:
    """A task that is tried again where a server was away, and never cached: the ledger knows what is done.

    It thinks with one thread of BLAS, in whatever process it runs (`one_thread`).

    Parameters
    ----------
    run_name
        Name of its runs, with the names of its parameters in braces.
    """

    def made(function: Callable[Parameters, Result]) -> Task[Parameters, Result]:
        @wraps(function)
        def single(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with one_thread():
                return function(*args, **kwargs)

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


class _Limit:
    """How many blocks of this process want one thread; the limit is the process's, and goes with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._limits: threadpool_limits | None = None

    def enter(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._limits is None:
                self._limits = threadpool_limits(1)

    def leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and OpenMP of this process use one thread until the last such block ends.

    The last bits of sums depend on the number of threads: what enters the ledger is computed with one. Blocks may
    overlap in any way, in any threads.
    """
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()
