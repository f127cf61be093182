"""A home of its own, the `coinswarm up` in it, and what agents lived through there."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser_strikes
from planted_partitions import SIZES, lived
from strikes import REACHED, Strikes

import memory
from agents.fitting import default_encoder
from deployments.up_worker import MARK, run_processes
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.process import processes_with
from memory.ledger import Ledger
from tasks.recording import register_encoder

COINSWARM = Path(sys.executable).parent / "coinswarm"
RIG = Path(__file__).parent
SHARED_RIG = RIG.parents[1] / "rig"
TIMEOUT_S = 120.0
_TAIL = 30
_POLL_S = 0.05


class BrowserHome:
    """Starts, strikes and ends `coinswarm up`, and asks the memory that it serves.

    Parameters
    ----------
    folder
        Where the home and all else of it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home.at(folder / "home")
        self.strikes = Strikes(folder / "strikes")
        self.strikes.folder.mkdir()
        self.process: subprocess.Popen[str] | None = None
        self.printed: dict[str, Any] = {}

    # --- up ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it; returns once it says that all is well."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COINSWARM_", "PREFECT_"))}
        environment = {
            **kept,
            "COINSWARM_HOME": str(self.home.directory),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(RIG), str(SHARED_RIG), os.environ.get("PYTHONPATH")])),
            browser_strikes.VARIABLE: str(self.strikes.folder),
        }
        errors = self.folder / "stderr"
        with errors.open("w") as said:
            self.process = subprocess.Popen(
                [COINSWARM, "up", "--json"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, errors.read_text()
        self.printed = json.loads(line)

    def end(self) -> None:
        """Have it end, and wait until nothing is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        wait_for(lambda: not self.processes(), "all of the home's processes to end")

    def processes(self) -> set[int]:
        """All that work for the home."""
        found = set(processes_with(MARK, str(self.home.directory)))
        status = embedded.home_status(self.home.directory)
        return found | {pid for pid in (status.supervisor_pid, *(server.pid for server in status.servers)) if pid}

    @property
    def ui_url(self) -> str:
        """Where the UI is."""
        return str(self.printed["ui"])

    @property
    def login(self) -> str:
        """What the UI asks for."""
        return Path(self.printed["login_file"]).read_text(encoding="utf-8").strip()

    def log_tails(self) -> str:
        """The last lines of what servers, worker and runs have logged."""
        tails = []
        for name in ("up", "worker", "flows", "prefect"):
            log = self.home.log(name)
            if log.exists():
                with log.open(encoding="utf-8", errors="replace") as lines:
                    tails.append(f"--- {log.name}\n{''.join(deque(lines, _TAIL))}")
        return "\n".join(tails)

    # --- runs --------------------------------------------------------------------------------------------------

    def until_held(self) -> None:
        """Wait until a run stands in the partition that was told to wait."""
        wait_for((self.strikes.folder / REACHED).exists, "a run to reach the partition that holds it")
        self.strikes.tell(REACHED, None)

    def kill_run(self, run: str) -> None:
        """SIGKILL to all processes that carry out a run."""
        pids = [pid for pid, carried in run_processes(self.home).items() if carried == run]
        assert pids, f"no process carries out run {run}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    # --- memory ------------------------------------------------------------------------------------------------

    @contextmanager
    def servers(self) -> Iterator[tuple[str, str]]:
        """URLs of its Redis and its ledger."""
        with embedded.open_session(self.home.directory, ("redis", "postgres")) as session:
            redis_url, database_url = session.endpoints.redis_url, session.endpoints.database_url
            assert redis_url is not None
            assert database_url is not None
            yield redis_url, database_url

    def remember(self, namespace: str, day: dt.date) -> None:
        """Put a day into episodic memory, as a recording does."""

        async def add(mem: memory.MemoryConnection) -> None:
            await register_encoder(mem, default_encoder())
            report = await mem.episodic.add_many(lived(day, default_encoder().id_))
            assert len(report.stored) == sum(SIZES)

        self._ask(namespace, add)

    def send(self, namespace: str, day: dt.date) -> None:
        """Have the agent write a day to its inbox."""

        async def append(mem: memory.MemoryConnection) -> None:
            await register_encoder(mem, default_encoder())
            assert len(await mem.inbox.append_many(lived(day, default_encoder().id_))) == sum(SIZES)

        self._ask(namespace, append)

    def digests(self, namespace: str) -> tuple[str, str]:
        """Digests of all knowledge of a namespace, in the ledger and in Redis."""

        async def held(mem: memory.MemoryConnection) -> str:
            return await mem.semantic.digest()

        with self.servers() as (_, database_url), Ledger.open(database_url) as ledger:
            return ledger.digest(namespace).digest, self._ask(namespace, held)

    def runs(self, namespace: str, flow: str) -> list[tuple[str, str | None]]:
        """End and Prefect's id of each run of a flow in the ledger, oldest first."""
        with self.servers() as (_, database_url), Ledger.open(database_url) as ledger:
            found = sorted(ledger.runs.list(namespace), key=lambda run: run.started_at)
            return [(run.status, run.flow_run_id) for run in found if run.flow == flow]

    def _ask(self, namespace: str, question: Callable[[memory.MemoryConnection], Any]) -> Any:
        async def call(redis_url: str) -> Any:
            async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
                return await question(mem)

        # A loop of Playwright's runs in the thread of the tests.
        with self.servers() as (redis_url, _), ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(asyncio.run, call(redis_url)).result()


def wait_for(holds: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something holds; AssertionError where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)
