"""A run of a served deployment that failed half way, and the button Retry: what was finished is not done again."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import fault_served
import pytest
from fault_rig import Rig, proof, wait_for
from planted_partitions import SIZES, THIRD, lived
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings
from prefect.states import AwaitingRetry, Scheduled
from strikes import DEFECT, Strikes

from memory.window import Window

pytestmark = pytest.mark.faults

POLL_S = 1
SERVED_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Served:
    """Deployments that are served.

    Attributes
    ----------
    client
        What the UI does, it can do.
    strikes
        What runs are told, and note.
    """

    client: SyncPrefectClient
    strikes: Strikes

    def begin(self, flow: str, namespace: str, scheduled: dt.datetime, **parameters: Any) -> UUID:
        """Ask for a run of a deployment, as its schedule does."""
        deployment = self.client.read_deployment_by_name(f"{flow}/{fault_served.NAME}")
        given = {"parameters": {"namespace": namespace, **parameters}}
        return self.client.create_flow_run_from_deployment(
            deployment.id, parameters=given, state=Scheduled(scheduled_time=scheduled)
        ).id

    def retry(self, run: UUID) -> None:
        """What the button Retry does."""
        assert self.client.set_flow_run_state(run, AwaitingRetry(), force=True).status.value == "ACCEPT"

    def ended(self, run: UUID) -> str:
        """Wait for the end of a run; the name of the state that it ended in."""
        states: list[Any] = []

        def is_final() -> bool:
            states.append(self.client.read_flow_run(run).state)
            return bool(states[-1].is_final())

        wait_for(is_final, f"run {run} to end", SERVED_TIMEOUT_S)
        return str(states[-1].name)

    def remove(self, safeguards: tuple[str, ...]) -> None:
        """Take these safeguards, and no others, from the next runs."""
        (self.strikes.folder / fault_served.REMOVED).write_text("\n".join(safeguards), encoding="utf-8")


@pytest.fixture(scope="module")
def serving(shared_rig: Rig) -> Iterator[Served]:
    """Both flows, served by a process of their own as a person would serve them."""
    folder = shared_rig.folder / "served"
    folder.mkdir()
    prefect: dict[Any, Any] = {name: value for name, value in shared_rig.quiet.items() if name.startswith("PREFECT_")}
    environment = {
        **os.environ,
        **shared_rig.quiet,
        **shared_rig.environment("t-served"),
        fault_served.VARIABLE: str(folder),
        "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL_S),
    }
    log = folder / "log"
    with log.open("w", encoding="utf-8") as said, temporary_settings(prefect), get_client(sync_client=True) as client:
        server = subprocess.Popen(
            [sys.executable, fault_served.__file__],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def are_there() -> bool:
            assert server.poll() is None, log.read_text(encoding="utf-8")
            return all(_is_there(client, flow.name) for flow in fault_served.FLOWS)

        try:
            wait_for(are_there, "the flows to be served", SERVED_TIMEOUT_S)
            yield Served(client, Strikes(folder))
        finally:
            server.terminate()
            try:
                server.wait(SERVED_TIMEOUT_S)
            finally:
                # Itself, and those of its runs that it did not end.
                with suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _is_there(client: SyncPrefectClient, flow: str) -> bool:
    try:
        client.read_deployment_by_name(f"{flow}/{fault_served.NAME}")
    except ObjectNotFound:
        return False
    return True


@pytest.fixture
def served(serving: Served) -> Iterator[Served]:
    """The served deployments, told nothing yet."""
    yield serving
    serving.strikes.spare()
    serving.remove(())


def append(rig: Rig, namespace: str) -> None:
    """What was lived through comes into the agent's inbox."""
    entries = lived(rig.night.days[0])
    assert len(rig.ask(namespace, lambda mem: mem.inbox.append_many(entries))) == len(entries)


def morning_after(rig: Rig) -> dt.datetime:
    """When the night of the first day is scheduled."""
    return dt.datetime.combine(rig.night.days[1], dt.time(3), tzinfo=dt.UTC)


@pytest.mark.parametrize("removed", [("staged work",), ()], ids=["removed", "kept"])
def test_retry_takes_up_the_partition_in_which_a_served_run_failed(
    removed: tuple[str, ...], served: Served, rig: Rig, namespace: str
) -> None:
    rig.fill(namespace, lived(rig.night.days[0]))
    served.remove(removed)
    served.strikes.tell(DEFECT, THIRD)
    # No date: the window follows from when the run was scheduled for, and stays what it was.
    run = served.begin("consolidate_memories", namespace, morning_after(rig))
    assert served.ended(run) == "Failed"
    assert served.strikes.clustered() == [size for size in SIZES if size != THIRD]
    served.strikes.tell(DEFECT, None)
    served.retry(run)
    assert served.ended(run) == "Completed"
    with proof(removed):
        assert served.strikes.clustered() == [THIRD]
    with rig.ledger() as ledger:
        runs = ledger.runs.list(namespace)
    assert sorted(item.status for item in runs) == ["FAILED", "SUCCEEDED"]
    assert {item.flow_run_id for item in runs} == {str(run)}
    assert {item.window for item in runs} == {Window.of_date(rig.night.days[0])}
    if not removed:
        undisturbed = f"{namespace}-calm"
        rig.fill(undisturbed, lived(rig.night.days[0]))
        assert rig.run("consolidate", undisturbed, 0).how == "done"
        assert rig.digests(namespace) == rig.digests(undisturbed)


def test_retry_of_a_night_whose_consolidation_failed_ends_as_if_nothing_had(
    served: Served, rig: Rig, namespace: str
) -> None:
    undisturbed = f"{namespace}-calm"
    for own in (namespace, undisturbed):
        append(rig, own)
    assert rig.run("nightly", undisturbed, 0, queries=20).how == "done"
    served.strikes.tell(DEFECT, THIRD)
    run = served.begin("nightly", namespace, morning_after(rig), queries=20)
    assert served.ended(run) == "Failed"
    assert served.strikes.clustered() == [size for size in SIZES if size != THIRD]
    served.strikes.tell(DEFECT, None)
    served.retry(run)
    assert served.ended(run) == "Completed"
    assert served.strikes.clustered() == [THIRD]
    assert rig.digests(namespace) == rig.digests(undisturbed)
    assert rig.ask(namespace, lambda mem: mem.episodic.count()) == sum(SIZES)
    with rig.ledger() as ledger:
        ended = {(item.flow, item.status) for item in ledger.runs.list(namespace)}
    failed, succeeded = ({flow for flow, status in ended if status == each} for each in ("FAILED", "SUCCEEDED"))
    assert failed == {"nightly", "consolidate_memories"}
    assert succeeded > failed
