"""Keeps a run's heartbeat and its lease alive from a thread, while the run thinks."""

from __future__ import annotations

import threading
from types import TracebackType

from memory.errors import FencedOutError, StoreUnavailableError
from memory.ledger.fence import FenceRepository
from memory.ledger.rows import FencingToken
from memory.ledger.runs import RunRepository

BEATS_A_LEASE = 4
"""Heartbeats within one lease: a few may fail without the run being taken for dead."""


class KeepAlive:
    """Context manager: renews heartbeat and lease every `lease_s / 4` seconds until the block ends.

    A lost lease does not interrupt the block (nothing can, safely): its next write raises FencedOutError, and
    `lost` says so before. While Postgres is away the thread goes on trying, since the lease may still hold.
    """

    def __init__(
        self,
        runs: RunRepository,
        fence: FenceRepository,
        run_id: str,
        lease_s: float,
        token: FencingToken | None = None,
    ) -> None:
        self._runs, self._fence = runs, fence
        self._run_id, self._lease_s, self._token = run_id, lease_s, token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{run_id[:8]}", daemon=True)
        self.lost: FencedOutError | None = None
        self.last_error: StoreUnavailableError | None = None

    def __enter__(self) -> KeepAlive:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._lease_s / BEATS_A_LEASE):
            try:
                self._runs.heartbeat(self._run_id)
                if self._token is not None:
                    self._fence.renew(self._token, self._lease_s)
            except FencedOutError as error:
                self.lost = error
                return
            except StoreUnavailableError as error:
                self.last_error = error
