"""Two runs never write to one namespace at once: the second waits, or says whom it would have to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from memory.errors import NamespaceBusyError
from memory.ledger import Ledger
from tasks.runs import ledger_run

SHORT_LEASE_S = 2.0


class Nothing(BaseModel):
    """Parameters of a run that has none."""


def write(namespace: str) -> str:
    """A run that takes the right to write, and gives it back."""
    with ledger_run("consolidate_memories", Nothing(), namespace, writes=True) as run:
        return run.run_id


@contextmanager
def holding(namespace: str, servers: Any) -> Iterator[Callable[[], bool]]:
    """Another run holds the namespace, until the function is called or the block ends."""
    with Ledger.open(servers.database_url) as ledger:
        run_id = ledger.runs.start("consolidate_memories", namespace, {}, lease_s=60)
        token = ledger.fence.acquire(namespace, run_id, flow="consolidate_memories", lease_s=60)
        yield lambda: ledger.fence.release(token)
        ledger.fence.release(token)
        ledger.runs.finish(run_id, {})


def test_a_run_that_may_not_wait_fails_and_names_the_run_that_holds_the_namespace(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_LOCK_WAIT_S", "0")
    with holding(configured, servers):
        with Ledger.open(servers.database_url) as ledger:
            holder = ledger.fence.holder(configured)
        assert holder is not None
        with pytest.raises(NamespaceBusyError, match=holder.run_id):
            write(configured)
    assert write(configured)


def test_a_run_waits_for_the_one_before_it_longer_than_its_own_lease_and_is_not_taken_for_dead(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_LEASE_S", str(SHORT_LEASE_S))
    waited_s = 1.5 * SHORT_LEASE_S
    with holding(configured, servers) as release:
        timer = threading.Timer(waited_s, release)
        timer.start()
        begun = time.monotonic()
        run_id = write(configured)
        assert time.monotonic() - begun >= waited_s
        timer.join()
    with Ledger.open(servers.database_url) as ledger:
        run = ledger.runs.get(run_id)
    assert run is not None
    assert run.status == "SUCCEEDED"
