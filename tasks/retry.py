"""The retry policy of tasks: only what may pass by itself is tried again."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from memory.errors import StoreUnavailableError

RETRIES = 3
RETRY_DELAYS_S = [2.0, 5.0, 15.0]
JITTER = 0.5


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: Redis or Postgres could not be reached."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreUnavailableError)
