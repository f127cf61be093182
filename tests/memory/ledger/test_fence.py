"""Who may write: one holder, a lease by the database's clock, tokens that stop an overtaken run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import Protocol

import pytest

from memory.errors import FencedOutError, NamespaceBusyError
from memory.ledger import FencingToken, Ledger
from memory.ledger.fence import guard
from memory.window import Window


class Servers(Protocol):
    """What the fixture `servers` gives."""

    database_url: str


def acquire(ledger: Ledger, namespace: str, run_id: str, lease_s: float = 60, wait_s: float = 0) -> FencingToken:
    return ledger.fence.acquire(namespace, run_id, flow="nightly", lease_s=lease_s, wait_s=wait_s)


def test_a_second_run_fails_naming_the_holder(ledger: Ledger, namespace: str) -> None:
    acquire(ledger, namespace, "run-1")
    with pytest.raises(NamespaceBusyError, match=r"run run-1 \(nightly on .*, since 20") as caught:
        acquire(ledger, namespace, "run-2")
    assert "lease runs out by itself" in str(caught.value)


def test_namespaces_do_not_stand_in_each_others_way(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, f"{namespace}-a", "run-1")
    second = acquire(ledger, f"{namespace}-b", "run-2")
    assert second.value > first.value


def test_a_waiting_run_gets_the_namespace_when_it_is_given_back(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, namespace, "run-1")
    timer = threading.Timer(0.3, ledger.fence.release, (first,))
    timer.start()
    second = acquire(ledger, namespace, "run-2", wait_s=10)
    timer.join()
    assert second.value > first.value


def test_who_acquires_a_namespace_learns_of_whom(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, namespace, "run-1")
    acquire(ledger, f"{namespace}/inbox", "run-2")
    ledger.fence.release(first)
    second = acquire(ledger, namespace, "run-3")
    assert (first.previous, second.previous) == (0, first.value)


def test_waiting_ends_after_the_setting(ledger: Ledger, namespace: str) -> None:
    acquire(ledger, namespace, "run-1")
    began = time.monotonic()
    with pytest.raises(NamespaceBusyError, match=r"waited 0\.4 s"):
        acquire(ledger, namespace, "run-2", wait_s=0.4)
    assert time.monotonic() - began >= 0.4


def test_a_lease_that_ran_out_is_overtaken(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, namespace, "run-1", lease_s=0.2)
    second = acquire(ledger, namespace, "run-2", wait_s=10)
    assert second.value > first.value
    ledger.fence.check(second)
    with pytest.raises(FencedOutError, match=r"run-1 was overtaken by run run-2 \(nightly"):
        ledger.fence.check(first)


def test_renewing_keeps_others_out(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace, "run-1", lease_s=0.3)
    ledger.fence.renew(token, 60)
    with pytest.raises(NamespaceBusyError):
        acquire(ledger, namespace, "run-2", wait_s=0.5)


def test_an_overtaken_run_can_neither_renew_nor_release(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, namespace, "run-1", lease_s=0.1)
    second = acquire(ledger, namespace, "run-2", wait_s=10)
    with pytest.raises(FencedOutError):
        ledger.fence.renew(first, 60)
    assert not ledger.fence.release(first)
    ledger.fence.check(second)


def test_a_lease_that_ran_out_holds_while_nobody_took_it(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace, "run-1", lease_s=0.05)
    time.sleep(0.2)
    ledger.fence.check(token)
    ledger.fence.renew(token, 60)


def test_a_released_token_writes_no_more(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace, "run-1")
    assert ledger.fence.release(token)
    with pytest.raises(FencedOutError, match="gave it back"):
        ledger.lines.ensure(token, "encoder-1", "1")


def test_a_token_of_one_namespace_cannot_write_to_anothers_line(ledger: Ledger, namespace: str, window: Window) -> None:
    token = acquire(ledger, f"{namespace}-a", "run-1")
    other = acquire(ledger, f"{namespace}-b", "run-2")
    line = ledger.lines.ensure(other, "encoder-1", "1")
    with pytest.raises(FencedOutError, match="may not write to line"):
        ledger.folds.truncate_from(token, line, window)


def test_an_overtaker_waits_until_a_writing_transaction_has_ended(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace, "run-1", lease_s=0.2)
    order: list[str] = []

    def overtake() -> None:
        acquire(ledger, namespace, "run-2", wait_s=10)
        order.append("overtaken")

    with ledger.transaction(token):
        thread = threading.Thread(target=overtake)
        thread.start()
        time.sleep(0.6)
        order.append("committed")
    thread.join()
    assert order == ["committed", "overtaken"]


def test_partitions_of_one_run_write_side_by_side(ledger: Ledger, namespace: str) -> None:
    token = acquire(ledger, namespace, "run-1")
    inside = threading.Barrier(2, timeout=10)

    def write() -> None:
        with ledger.transaction(token):
            inside.wait()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside.broken


def test_only_one_of_many_gets_the_namespace(ledger: Ledger, namespace: str) -> None:
    got: list[str] = []
    barrier = threading.Barrier(6)

    def contend(run_id: str) -> None:
        barrier.wait()
        try:
            acquire(ledger, namespace, run_id)
        except NamespaceBusyError:
            return
        got.append(run_id)

    threads = [threading.Thread(target=contend, args=(f"run-{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_tokens_move_past_a_value_seen_elsewhere(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, f"{namespace}-a", "run-1")
    ledger.fence.advance_past(first.value + 1000)
    ledger.fence.advance_past(first.value)
    assert acquire(ledger, f"{namespace}-b", "run-2").value > first.value + 1000


STOPPED_WRITER = """
import os, signal, sys
from memory.errors import FencedOutError, StoreUnavailableError
from memory.ledger import FencingToken, Ledger
from memory.window import Window
from datetime import date

url, namespace, value, line = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
token = FencingToken(namespace, value, "run-1")
with Ledger.open(url) as ledger:
    def stage(key):
        ledger.staging.stage(token, line, Window.of_date(date(2021, 6, 17)), kind="patterns", partition_key=key,
                             input_digest="i", settings_hash="s", payload=b"stopped")
    try:
        with ledger.transaction(token):
            stage("one")
            print("inside", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    except StoreUnavailableError:
        print("lost the connection", flush=True)
    try:
        stage("two")
    except FencedOutError:
        print("fenced out", flush=True)
"""


def test_a_process_stopped_within_a_transaction_neither_blocks_nor_writes(
    ledger: Ledger, servers: Servers, namespace: str
) -> None:
    token = acquire(ledger, namespace, "run-1", lease_s=1)
    line = ledger.lines.ensure(token, "encoder-1", "1")
    command = [sys.executable, "-c", STOPPED_WRITER, servers.database_url, namespace, str(token.value), line]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "inside"
        successor = acquire(ledger, namespace, "run-2", wait_s=20)
        writer.send_signal(signal.SIGCONT)
        assert writer.stdout.read().split("\n")[:2] == ["lost the connection", "fenced out"]
    finally:
        writer.kill()
        writer.wait()
    assert ledger.staging.discard(successor, line) == 0


def test_the_guard_is_what_stops_an_overtaken_write(ledger: Ledger, namespace: str) -> None:
    first = acquire(ledger, namespace, "run-1", lease_s=0.1)
    acquire(ledger, namespace, "run-2", wait_s=10)
    with pytest.raises(FencedOutError), ledger.transaction() as session:
        guard(session, first)
