"""Runs: started, alive, finished, failed, and found dead."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from memory.errors import FencedOutError, InvalidRecordError
from memory.ledger import Ledger
from memory.ledger.models import Run
from memory.window import Window

NOTICED_WITHIN_S = 10.0


def start(ledger: Ledger, namespace: str, lease_s: float = 60, flow: str = "nightly") -> str:
    return ledger.runs.start(flow, namespace, {"date": "2021-06-17"}, lease_s=lease_s)


def test_a_started_run_is_listed_with_what_it_was_started_with(ledger: Ledger, namespace: str, window: Window) -> None:
    run_id = ledger.runs.start("nightly", namespace, {"k": [1, None]}, window=window, lease_s=60, flow_run_id="p-1")
    run = ledger.runs.get(run_id)
    assert run is not None
    assert (run.status, run.parameters, run.window, run.flow_run_id) == ("RUNNING", {"k": [1, None]}, window, "p-1")
    assert run.started_at.utcoffset() is not None
    assert ledger.runs.list(namespace, window=window) == [run]


def test_a_finished_run_keeps_result_and_report(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace)
    ledger.runs.finish(run_id, {"experiences": 21600}, report_path="/reports/x.html")
    run = ledger.runs.last(namespace, "nightly", status="SUCCEEDED")
    assert run is not None
    assert (run.run_id, run.result, run.report_path) == (run_id, {"experiences": 21600}, "/reports/x.html")
    assert run.finished_at is not None


def test_runs_are_listed_latest_first_by_flow(ledger: Ledger, namespace: str) -> None:
    first, second = start(ledger, namespace), start(ledger, namespace)
    start(ledger, namespace, flow="backfill")
    assert [run.run_id for run in ledger.runs.list(namespace, flow="nightly")] == [second, first]


def test_namespaces_that_anything_ran_in_are_known(ledger: Ledger, namespace: str) -> None:
    assert namespace not in ledger.runs.namespaces()
    start(ledger, namespace)
    start(ledger, namespace)
    assert list(ledger.runs.namespaces()).count(namespace) == 1


def test_a_failed_run_keeps_its_reason(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace)
    ledger.runs.fail(run_id, "the archive cannot be written")
    run = ledger.runs.get(run_id)
    assert run is not None
    assert (run.status, run.error) == ("FAILED", "the archive cannot be written")


def test_a_run_without_heartbeat_is_found_dead_and_loses_its_right_to_write(ledger: Ledger, namespace: str) -> None:
    dead = start(ledger, namespace, lease_s=0.1)
    token = ledger.fence.acquire(namespace, dead, flow="nightly", lease_s=60)
    alive = start(ledger, namespace)
    time.sleep(0.3)
    assert [run.run_id for run in ledger.runs.reconcile(namespace)] == [dead]
    assert ledger.runs.reconcile(namespace) == []
    with pytest.raises(FencedOutError, match="taken for dead"):
        ledger.fence.check(token)
    run = ledger.runs.get(alive)
    assert run is not None
    assert run.status == "RUNNING"


def test_a_run_taken_for_dead_cannot_go_on(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace, lease_s=0.05)
    time.sleep(0.2)
    ledger.runs.reconcile(namespace)
    with pytest.raises(FencedOutError, match="it is DEAD"):
        ledger.runs.heartbeat(run_id)
    with pytest.raises(FencedOutError):
        ledger.runs.finish(run_id, {})
    ledger.runs.fail(run_id, "noticed late")
    run = ledger.runs.get(run_id)
    assert run is not None
    assert (run.status, run.error) == ("DEAD", "noticed late")


def test_reconciling_leaves_other_namespaces_alone(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace, lease_s=0.05)
    time.sleep(0.2)
    assert ledger.runs.reconcile(f"{namespace}-x") == []
    assert [run.run_id for run in ledger.runs.reconcile(namespace)] == [run_id]


def test_keep_alive_outlives_many_leases(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace, lease_s=1.5)
    token = ledger.fence.acquire(namespace, run_id, flow="nightly", lease_s=1.5)
    with ledger.keep_alive(run_id, 1.5, token) as alive:
        time.sleep(2)
        assert ledger.runs.reconcile(namespace) == []
        assert alive.lost is None
    holder = ledger.fence.holder(namespace)
    assert holder is not None
    assert not holder.expired


def test_keep_alive_says_when_the_run_was_taken_for_dead(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace, lease_s=0.4)
    with ledger.keep_alive(run_id, 0.4) as alive:
        ledger.runs.fail(run_id, "stopped by hand")
        deadline = time.monotonic() + NOTICED_WITHIN_S
        while alive.lost is None:
            assert time.monotonic() < deadline, "the heartbeat has not noticed"
            time.sleep(0.02)
    assert isinstance(alive.lost, FencedOutError)


# --- read as they are now --------------------------------------------------------------------------------------


def rewritten(ledger: Ledger, run_id: str, **values: object) -> str:
    """The run as another process would have left it."""
    with ledger.transaction() as session:
        session.execute(sa.update(Run).where(Run.run_id == run_id).values(**values))
    return run_id


@pytest.fixture(scope="module")
def ended() -> int:
    """Number of a process of this host that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait(timeout=30)
    return process.pid


def test_a_run_whose_process_is_gone_reads_as_dead_wherever_it_is_read_and_nothing_is_written(
    ledger: Ledger, namespace: str, ended: int
) -> None:
    ledger.runs.finish(start(ledger, namespace), {})
    dead = rewritten(ledger, start(ledger, namespace), process_id=ended)
    read = ledger.runs.get(dead)
    assert read is not None
    assert (read.status, read.error, read.finished_at) == ("DEAD", "its process ended without a word", None)
    assert ledger.runs.last(namespace, "nightly") == read
    assert ledger.runs.list(namespace, status="DEAD") == [read]
    assert ledger.runs.list(namespace, status="RUNNING") == []
    assert ledger.runs.latest(namespace) == ledger.runs.latest(namespace, "FAILED", "DEAD") == {"nightly": read}
    assert ledger.runs.counts(namespace) == {"nightly": {"DEAD": 1, "SUCCEEDED": 1}}
    with ledger.transaction() as session:
        assert session.scalar(sa.select(Run.status).where(Run.run_id == dead)) == "RUNNING"


def test_a_run_of_another_host_is_dead_once_its_lease_is_over(ledger: Ledger, namespace: str, ended: int) -> None:
    elsewhere = {"host": "elsewhere/1", "process_id": ended}
    fresh = rewritten(ledger, start(ledger, namespace), **elsewhere)
    silent = rewritten(ledger, start(ledger, namespace, lease_s=0.01, flow="backfill"), **elsewhere)
    time.sleep(0.05)
    found = {run.run_id: (run.status, run.error) for run in ledger.runs.list(namespace)}
    assert found == {fresh: ("RUNNING", None), silent: ("DEAD", "no heartbeat within the lease")}
    assert ledger.runs.counts(namespace) == {"backfill": {"DEAD": 1}, "nightly": {"RUNNING": 1}}


def test_what_is_read_before_the_reconciler_comes_is_what_it_leaves(ledger: Ledger, namespace: str, ended: int) -> None:
    rewritten(ledger, start(ledger, namespace), process_id=ended)
    start(ledger, namespace, lease_s=0.01, flow="backfill")
    start(ledger, namespace, flow="janitor")
    ledger.runs.fail(start(ledger, namespace), "no room")
    time.sleep(0.05)
    before, counted = ledger.runs.list(namespace), ledger.runs.counts(namespace)
    assert [run.flow for run in ledger.runs.reconcile(namespace)] == ["nightly", "backfill"]
    after = [replace(run, finished_at=None) for run in ledger.runs.list(namespace)]
    assert after == [replace(run, finished_at=None) for run in before]
    assert ledger.runs.counts(namespace) == counted


def test_a_run_that_ends_while_others_are_read_is_not_taken_for_dead(
    ledger: Ledger, namespace: str, ended: int
) -> None:
    run_id = rewritten(ledger, start(ledger, namespace), process_id=ended)
    with ledger.transaction():
        ledger.runs.finish(run_id, {})
        (read,) = ledger.runs.list(namespace)
    assert (read.status, read.error) == ("SUCCEEDED", None)


def test_a_result_that_is_not_json_is_refused_and_the_run_goes_on(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace)
    with pytest.raises(InvalidRecordError, match="JSON"):
        ledger.runs.finish(run_id, {"rate": float("nan")})
    ledger.runs.heartbeat(run_id)


@pytest.mark.parametrize("value", ["nul \x00", {"nested": ["\x00"]}])
def test_a_text_that_postgres_cannot_hold_is_refused(ledger: Ledger, namespace: str, value: object) -> None:
    with pytest.raises(InvalidRecordError, match="Postgres cannot hold"):
        ledger.runs.start("nightly", namespace, {"k": value}, lease_s=60)


def test_a_run_fails_with_whatever_text_its_error_had(ledger: Ledger, namespace: str) -> None:
    run_id = start(ledger, namespace)
    ledger.runs.fail(run_id, "file a\x00b\udcff is bad")
    run = ledger.runs.get(run_id)
    assert run is not None
    assert run.error == "file a\ufffdb? is bad"
