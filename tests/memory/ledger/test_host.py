"""A process that has ended is told from one that is only silent, and only where that can be known."""

from __future__ import annotations

import os
import subprocess
import sys

from memory.ledger import Ledger
from memory.ledger.host import host_name, is_gone


def test_a_process_of_this_host_is_gone_once_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_gone(host_name(), process.pid)
        process.communicate(b"\n", timeout=30)
    assert is_gone(host_name(), process.pid)


def test_a_killed_process_that_its_parent_has_not_asked_about_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.kill()
        # It is waited for, and stays what it is: a number without a process.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(host_name(), process.pid)


def test_nothing_is_known_of_processes_of_another_host() -> None:
    assert not is_gone(f"{host_name()}-elsewhere", 2**22 + 1)
    assert not is_gone(host_name(), os.getpid())


def test_a_killed_holder_of_this_host_does_not_block_the_next_run_until_its_lease_is_over(
    ledger: Ledger, namespace: str, servers: object
) -> None:
    program = (
        "import sys; from memory.ledger import Ledger; ledger = Ledger.open(sys.argv[1]); "
        "run = ledger.runs.start('nightly', sys.argv[2], {}, lease_s=3600); "
        "ledger.fence.acquire(sys.argv[2], run, flow='nightly', lease_s=3600); print(run, flush=True); input()"
    )
    url = servers.database_url  # type: ignore[attr-defined]
    with subprocess.Popen(
        [sys.executable, "-c", program, url, namespace], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert ledger.runs.reconcile(namespace) == []
        process.kill()
        process.wait(timeout=30)
    assert [run.run_id for run in ledger.runs.reconcile(namespace)] == [run_id]
    own = ledger.runs.start("nightly", namespace, {}, lease_s=60)
    assert ledger.fence.acquire(namespace, own, flow="nightly", lease_s=60).run_id == own
