"""The retry policy of tasks: only what may pass by itself is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from memory.errors import StoreUnavailableError

RETRIES = 3
RETRY_DELAYS_S = [2.0, 5.0, 15.0]
JITTER = 0.5

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: Redis or Postgres could not be reached."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreUnavailableError)


def retried(*, run_name: str | None = None) -> Callable[[Callable[Parameters, Result]], Task[Parameters, Result]]:
    """A task that is tried again where a server was away, and never cached: the ledger knows what is done.

    Parameters
    ----------
    run_name
        Name of its runs, with the names of its parameters in braces.
    """
    return task(
        cache_policy=NO_CACHE,
        task_run_name=run_name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAYS_S,
        retry_jitter_factor=JITTER,
        retry_condition_fn=is_transient,
    )
