"""What the Prefect server does by itself: a silent run, a crash, a failed night, old knowledge, a change of regime.

A real server with the automations that ship, more impatient ones, and a real receiver of alerts. The runs' states and
events are what workers and flows would report.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import fault_loop
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.states import AwaitingRetry, Completed, Crashed, Failed, Pending, Running, Scheduled

from agents.regime_belief import REGIME_CHANGE_EVENT
from deployments.automations import Watch, bring_automations
from deployments.deploying import register
from deployments.registry import DRAIN, deployment
from deployments.work_pools import template
from memory import embedded
from memory.settings import Settings
from tasks.freshness_events import FRESH_EVENT

pytestmark = pytest.mark.faults

IMPATIENT = Watch(heartbeat_s=10.0, by_hand_s=600.0, fresh_s=10.0, pending_s=25.0, settled_s=10.0, stays_s=30.0)
"""Ten seconds are the least that Prefect waits for what does not come."""
SETTLING = replace(IMPATIENT, pending_s=600.0, settled_s=30.0, stays_s=45.0)
TIMEOUT_S = 90.0
NIGHT = dt.datetime(2021, 6, 18, 0, 10, tzinfo=dt.UTC)


@dataclass
class Receiver:
    """Takes alerts, as a chat service does."""

    received: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def about(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:
        """Alerts of a kind that have these values."""
        return [each for each in self.received if each["kind"] == kind and wanted.items() <= each.items()]


@dataclass
class Scene:
    """A namespace on the server.

    Attributes
    ----------
    namespace, settings, deployments, client
        The namespace, its settings, ids of its deployments, and what the UI does.
    receiver
        Where its alerts arrive.
    log
        Reads all that the server has logged.
    """

    namespace: str
    settings: Settings
    deployments: Mapping[str, UUID]
    client: SyncPrefectClient
    receiver: Receiver
    log: Callable[[], str]

    def begin(self, flow: str, purpose: str = "") -> UUID:
        """A run of a deployment as its schedule plans it, taken up by a worker."""
        name = deployment(self.namespace, flow, purpose).full_name
        found = self.client.read_deployment_by_name(name)
        run = self.client.create_flow_run_from_deployment(found.id, state=Scheduled(scheduled_time=NIGHT)).id
        self.go_on(run)
        return run

    def go_on(self, run: UUID) -> None:
        """A worker takes the run up, and its flow begins."""
        for state in (Pending(), Running()):
            self.client.set_flow_run_state(run, state)

    def report(self, run: UUID, *states: Any) -> None:
        """A worker reports how a run ended, or several of its states."""
        for state in states:
            self.client.set_flow_run_state(run, state)

    def heartbeat(self, run: UUID) -> None:
        """The sign of life of a run, as Prefect's engine gives it."""
        found = self.client.read_flow_run(run)
        emit_event(
            event="prefect.flow-run.heartbeat",
            resource={"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": found.name},
            related=[
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in found.tags
            ],
        )

    def state(self, run: UUID) -> str:
        """Name of the state that a run is in."""
        return str(self.client.read_flow_run(run).state.name)


def until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Wait until something is so; what it is then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[Receiver, str]]:
    """A receiver of alerts and its address, which holds a secret as those of chat services do."""
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.paths.append(self.path)
            taken.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield taken, f"http://127.0.0.1:{server.server_port}/hidden-{uuid.uuid4().hex}"
        server.shutdown()


@pytest.fixture(scope="module")
def scene(prefect_server: str, servers: Any, receiver: tuple[Receiver, str]) -> Iterator[Scene]:
    """All deployments and automations of a namespace, a crashed run being scheduled again once."""
    assert prefect_server
    taken, url = receiver
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    settings = Settings(namespace=namespace, webhook_url=url, crash_restarts=1)
    registered = register(settings)
    log = servers.home / "logs" / "prefect.log"
    with get_client(sync_client=True) as client:
        bring_automations(client, settings, registered.deployments, IMPATIENT)
        yield Scene(namespace, settings, registered.deployments, client, taken, lambda: log.read_text(encoding="utf-8"))


def test_a_silent_run_is_crashed_and_scheduled_again_for_the_same_night_but_not_for_ever(scene: Scene) -> None:
    run = scene.begin("nightly")
    scene.heartbeat(run)
    until(lambda: scene.state(run) == "Crashed", "the silent run to be marked")
    until(lambda: scene.state(run) == "AwaitingRetry", "the crashed run to be scheduled again")
    assert scene.client.read_flow_run(run).expected_start_time == NIGHT
    (first,) = until(lambda: scene.receiver.about("failed-run", flow_run=str(run)), "the alert")
    assert first["text"].endswith("It is scheduled again.")
    assert (first["state"], first["scheduled_again"], first["flow"]) == ("Crashed", True, "nightly")
    scene.go_on(run)
    scene.report(run, Crashed(message="Process exited with status code: -9."))
    until(lambda: len(scene.receiver.about("failed-run", flow_run=str(run))) == 2, "the second alert")
    second = scene.receiver.about("failed-run", flow_run=str(run))[1]
    assert (second["attempt"], second["scheduled_again"]) == (2, False)
    time.sleep(IMPATIENT.settled_s + 10)
    assert scene.state(run) == "Crashed"


def test_a_run_that_no_worker_can_begin_again_is_left_crashed(scene: Scene) -> None:
    run = scene.begin("nightly")
    scene.report(run, Crashed(message="Process exited with status code: -9."))
    until(lambda: scene.state(run) == "AwaitingRetry", "the crashed run to be scheduled again")
    scene.report(run, Pending())
    scene.report(run, Crashed(message="Failed to submit flow run to infrastructure: ImageNotFound: no such image"))
    until(lambda: len(scene.receiver.about("failed-run", flow_run=str(run))) == 2, "the second alert")
    second = scene.receiver.about("failed-run", flow_run=str(run))[1]
    # It began once, which by itself would entitle it to another start.
    assert (second["attempt"], second["scheduled_again"]) == (1, False)
    time.sleep(IMPATIENT.settled_s + 10)
    assert scene.state(run) == "Crashed"


def test_a_run_that_dies_whenever_it_starts_is_given_up_and_told_once_more_also_after_a_retry(scene: Scene) -> None:
    run = scene.begin("nightly")
    for attempt in range(2):
        # It ran once, and never since: how often it ran alone would entitle it to another start for ever.
        scene.report(run, Crashed(message="Process exited with status code: -9."))
        until(lambda: scene.state(run) == "AwaitingRetry", "the crashed run to be scheduled again")
        scene.report(run, Pending(), Crashed(message="Process exited with status code: 1."))
        until(lambda: scene.state(run) == "Failed", "the run to be given up")
        told = 2 * (attempt + 1)
        until(lambda told=told: len(scene.receiver.about("failed-run", flow_run=str(run))) == told, "the alerts")
        if attempt == 0:
            scene.report(run, AwaitingRetry(), Pending())
    time.sleep(IMPATIENT.stays_s + 10)
    assert scene.state(run) == "Failed"
    alerts = scene.receiver.about("failed-run", flow_run=str(run))
    assert [(each["state"], each["scheduled_again"]) for each in alerts] == [("Crashed", True), ("Failed", False)] * 2
    assert "It crashed 2 times" in alerts[-1]["message"]
    assert "then Retry" in alerts[-1]["text"]


@pytest.fixture
def broken(scene: Scene, prefect_server: str, servers: Any, tmp_path: Path) -> Iterator[UUID]:
    """A deployment in a pool of its own, whose worker's install breaks, as `fault_loop` says.

    The server waits longer with it than with the others: once a worker has looked for hooks, it reports a crash again.
    """
    bring_automations(scene.client, scene.settings, scene.deployments, SETTLING)
    pool = f"{scene.namespace}-broken"
    scene.client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template("process")))
    found = scene.client.read_deployment_by_name(deployment(scene.namespace, "verify_memory").full_name)
    changed = DeploymentUpdate(work_pool_name=pool, entrypoint="fault_loop.verify_memory")
    scene.client.update_deployment(found.id, changed)
    environment = {
        **os.environ,
        **embedded.prefect_environment(servers.home, embedded.Endpoints(None, None, prefect_server)),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        fault_loop.VARIABLE: str(tmp_path / "broken"),
    }
    words = ["worker", "start", "--type", "process", "--pool", pool, "--install-policy", "never"]
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield found.id
        finally:
            worker.terminate()
            worker.wait(TIMEOUT_S)
            bring_automations(scene.client, scene.settings, scene.deployments, IMPATIENT)


def test_a_deployment_whose_install_breaks_is_begun_as_often_as_allowed_and_then_left(
    scene: Scene, broken: UUID
) -> None:
    run = scene.client.create_flow_run_from_deployment(broken, state=Scheduled()).id
    until(lambda: scene.state(run) == "Failed", "the run to be given up", 3 * TIMEOUT_S)
    time.sleep(SETTLING.stays_s + 10)
    states = sorted(scene.client.read_flow_run_states(run), key=lambda state: state.timestamp)
    names = [state.name for state in states]
    assert [names.count(name) for name in ("Pending", "Running", "Crashed", "AwaitingRetry", "Failed")] == [
        2,
        1,
        2,
        1,
        1,
    ]
    assert names[-1] == "Failed"
    assert "then Retry" in str(states[-1].message)
    alerts = scene.receiver.about("failed-run", flow_run=str(run))
    assert [(each["state"], each["scheduled_again"]) for each in alerts] == [("Crashed", True), ("Failed", False)]


def test_a_run_that_never_began_is_not_scheduled_again_and_told_with_what_to_do(scene: Scene) -> None:
    name = deployment(scene.namespace, "verify_memory").full_name
    found = scene.client.read_deployment_by_name(name)
    run = scene.client.create_flow_run_from_deployment(found.id, state=Scheduled(scheduled_time=NIGHT)).id
    scene.report(run, Pending(), Crashed(message="Process exited with status code: 1."))
    (alert,) = until(lambda: scene.receiver.about("failed-run", flow_run=str(run)), "the alert")
    assert (alert["attempt"], alert["scheduled_again"]) == (0, False)
    assert "It never began" in alert["text"]
    assert scene.state(run) == "Crashed"


def test_a_run_whose_container_cannot_start_is_crashed_and_told_and_begins_all_the_same_once_it_can(
    scene: Scene,
) -> None:
    name = deployment(scene.namespace, "rebuild_memory").full_name
    found = scene.client.read_deployment_by_name(name)
    run = scene.client.create_flow_run_from_deployment(found.id, state=Scheduled(scheduled_time=NIGHT)).id
    scene.report(run, Pending())
    until(lambda: scene.state(run) == "Crashed", "the run that does not begin to be marked")
    assert "a secret or an image that is missing" in str(scene.client.read_flow_run(run).state.message)
    (alert,) = until(lambda: scene.receiver.about("failed-run", flow_run=str(run)), "the alert")
    assert (alert["attempt"], alert["scheduled_again"]) == (0, False)
    scene.report(run, Running(), Completed())
    assert scene.state(run) == "Completed"


def test_a_run_that_gives_signs_of_life_is_left_alone(scene: Scene) -> None:
    run = scene.begin("verify_memory")
    for _ in range(6):
        scene.heartbeat(run)
        time.sleep(IMPATIENT.heartbeat_s / 2)
        assert scene.state(run) == "Running"


def test_a_failed_night_is_told_once_with_its_reason(scene: Scene) -> None:
    run = scene.begin("nightly")
    reason = 'WindowError: window 2021-06-17 holds "no" experience\nof anyone & is <empty>.'
    scene.report(run, Failed(message=reason))
    (alert,) = until(lambda: scene.receiver.about("failed-run", flow_run=str(run)), "the alert")
    assert (alert["message"], alert["namespace"]) == (reason, scene.namespace)
    assert (alert["state"], alert["scheduled_again"]) == ("Failed", False)
    assert alert["text"].startswith(f"coinswarm {scene.namespace}: nightly (")
    assert reason in alert["text"]
    assert alert["scheduled"].startswith("2021-06-18 00:10:00")


def test_a_failed_drain_is_not_told_for_another_follows(scene: Scene) -> None:
    drain, night = scene.begin("record_experiences", DRAIN), scene.begin("prune_memories")
    for run in (drain, night):
        scene.report(run, Failed(message="Redis was away."))
    until(lambda: scene.receiver.about("failed-run", flow_run=str(night)), "the alert of the other")
    assert scene.receiver.about("failed-run", flow_run=str(drain)) == []


def test_knowledge_that_nobody_saw_fresh_for_a_while_is_told_once(scene: Scene) -> None:
    def tell() -> None:
        emit_event(
            event=FRESH_EVENT,
            resource={"prefect.resource.id": f"coinswarm.{scene.namespace}"},
            payload={"window": "2021-06-17", "age_h": 25.5, "fresh": True},
        )

    for _ in range(3):
        tell()
        time.sleep(IMPATIENT.fresh_s / 2)
        assert scene.receiver.about("knowledge-old") == []
    (alert,) = until(lambda: scene.receiver.about("knowledge-old"), "the alert")
    assert (alert["namespace"], alert["window"], alert["age_h_when_seen"]) == (scene.namespace, "2021-06-17", 25.5)
    assert "2021-06-17" in alert["text"]
    time.sleep(IMPATIENT.fresh_s + 6)
    assert len(scene.receiver.about("knowledge-old")) == 1


def test_a_change_of_regime_starts_a_drain_of_its_namespace(scene: Scene) -> None:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter, FlowRunFilterTags

    name = deployment(scene.namespace, "record_experiences", DRAIN).full_name
    drain = scene.client.read_deployment_by_name(name)
    for namespace in ("t-somebody-else", scene.namespace):
        emit_event(
            event=REGIME_CHANGE_EVENT,
            resource={
                "prefect.resource.id": f"coinswarm.{namespace}.BTC-USD",
                "coinswarm.namespace": namespace,
                "coinswarm.regime": "VOLATILE",
            },
        )

    def started() -> list[Any]:
        of = DeploymentFilter(id=DeploymentFilterId(any_=[drain.id]))
        runs = scene.client.read_flow_runs(
            deployment_filter=of, flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags())
        )
        return [
            run for run in runs if not run.auto_scheduled and run.created_by and run.created_by.type == "AUTOMATION"
        ]

    (run,) = until(started, "the drain")
    assert run.parameters["parameters"] == {"namespace": scene.namespace, "source": "inbox"}


def test_the_address_of_alerts_is_in_no_log_and_no_event(scene: Scene, receiver: tuple[Receiver, str]) -> None:
    settings = Settings(namespace=f"{scene.namespace}-deaf", webhook_url="http://127.0.0.1:9/hidden-deaf")
    registered = register(settings)
    with get_client(sync_client=True) as client:
        bring_automations(client, settings, registered.deployments, IMPATIENT)
    deaf = Scene(settings.namespace, settings, registered.deployments, scene.client, scene.receiver, scene.log)
    run = deaf.begin("verify_memory")
    deaf.report(run, Failed(message="no reason"))

    def tried() -> list[Any]:
        filter_ = {"event": {"name": ["prefect.automation.action.failed"]}, "occurred": {}}
        answer = deaf.client.request("POST", "/events/filter", json={"filter": filter_, "limit": 50})
        return [each for each in answer.json()["events"] if "Webhook call failed" in json.dumps(each["payload"])]

    failed = until(tried, "the alert to fail")
    assert "hidden" not in json.dumps(failed)
    assert all(path == f"/{receiver[1].rpartition('/')[2]}" for path in scene.receiver.paths)
    EventsWorker.drain_all(timeout=5)
    assert "hidden-" not in scene.log()
