"""Worker processes end with the run that they work for, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from tasks.worker_processes import worker_processes

LONG_S = 600.0
DEADLINE_S = 60.0

RUN = textwrap.dedent(
    """
    import os, time
    from tasks.worker_processes import worker_processes

    if __name__ == "__main__":
        with worker_processes(1, os.getpid) as pool:
            print(pool.submit(os.getpid).result(), flush=True)
            pool.submit(time.sleep, 600.0).result()
    """
)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _lives(pid)


def _broken_off(by: BaseException, job_s: float) -> tuple[int, list[Future[None]]]:
    """A block that ends by an exception while its one process is in the first of six jobs; the process, the jobs."""
    with suppress(type(by)), worker_processes(1, os.getpid) as pool:
        worker = pool.submit(os.getpid).result()
        work = [pool.submit(time.sleep, job_s) for _ in range(6)]
        while not work[0].running():
            time.sleep(0.01)
        raise by
    return worker, work


def test_a_block_that_is_broken_off_ends_its_processes_in_the_middle_of_their_work() -> None:
    worker, work = _broken_off(KeyboardInterrupt(), LONG_S)
    assert worker != os.getpid()
    assert not _lives(worker)
    assert all(isinstance(item.exception(), BrokenProcessPool) for item in work)


def test_an_error_of_the_block_lets_them_end_what_they_have_in_hand() -> None:
    worker, work = _broken_off(ValueError("an error"), 0.2)
    assert not _lives(worker)
    assert work[0].exception() is None
    assert work[-1].cancelled()


def test_processes_end_with_a_run_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        assert _lives(worker)
        run.send_signal(signal.SIGKILL)
    assert _ends(worker)
