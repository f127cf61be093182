"""What a look at a real Prefect server tells of a namespace's deployments."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import rich.console

from deployments.console import Console
from deployments.doctor import doctor
from deployments.metrics import read_once
from deployments.prefect_state import Looked, PrefectLook, PrefectLookError, credentials, look
from deployments.registry import TAG, namespace_tag
from deployments.status import show_status, status
from memory.embedded.home import Home
from memory.embedded.prefect_server import read_secret
from memory.ledger import Ledger
from memory.settings import Settings

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)


@pytest.fixture
def deployed(prefect_server: str, namespace: str) -> dict[str, str]:
    """Two deployments of a namespace, one with a paused schedule; ids of a run that waits and of a run of neither."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.states import Completed, Scheduled

    tags = [TAG, namespace_tag(namespace)]
    with get_client(sync_client=True) as client:
        ids = {}
        for flow, active in (("nightly", True), ("janitor", False)):
            flow_id = client.create_flow_from_name(f"{flow}-{namespace}")
            schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="10 0 * * *"), active=active)
            ids[flow] = client.create_deployment(flow_id, namespace, schedules=[schedule], tags=tags)
        waiting = client.create_flow_run_from_deployment(ids["nightly"], state=Scheduled(scheduled_time=SOON))
        alone = client.create_flow_run(_flow(namespace), state=Completed())
    return {"waiting": str(waiting.id), "alone": str(alone.id)}


def _flow(namespace: str) -> Any:
    from prefect import flow

    return flow(name=f"alone-{namespace}")(lambda: None)


@pytest.fixture
def home(servers: Any) -> Home:
    """The home of the test's servers, whose password a look finds."""
    return Home.at(servers.home)


def test_deployments_are_told_with_their_next_runs(
    prefect_server: str, deployed: dict[str, str], home: Home, namespace: str
) -> None:
    found = look(prefect_server, home, namespace, [deployed["waiting"], deployed["alone"]])
    assert found.problem is None
    state = found.state
    assert state is not None
    assert state.closed
    assert state.version.startswith("3.")
    janitor, nightly = state.deployments
    assert (nightly.name, nightly.paused, nightly.scheduled) == (f"nightly-{namespace}/{namespace}", False, True)
    assert nightly.next_run is not None
    assert nightly.next_run <= SOON
    assert (janitor.paused, janitor.next_run) == (True, None)
    assert (len(janitor.inactive), nightly.inactive) == (1, [])
    assert state.next_runs() == {f"nightly-{namespace}": nightly.next_run}
    assert (state.workers, state.late_runs) == ([], 0)
    assert found.from_deployments == {deployed["waiting"]: True, deployed["alone"]: False}


def test_the_latest_runs_that_failed_are_told_and_those_that_wait_again_are_not(
    prefect_server: str, deployed: dict[str, str], home: Home, namespace: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Crashed, Failed, Pending, Running

    def begun(client: Any, deployment: str, *states: Any, **given: Any) -> str:
        parameters = {"parameters": given} if given else {}
        found = client.read_deployment_by_name(f"{deployment}-{namespace}/{namespace}")
        run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        for state in states:
            client.set_flow_run_state(run.id, state, force=True)
        return str(run.id)

    with get_client(sync_client=True) as client:
        never = begun(client, "nightly", Pending(), Crashed(message="no such image"), source="inbox")
        begun(client, "nightly", Pending(), Crashed(message="no such image"), AwaitingRetry(scheduled_time=SOON))
        begun(client, "nightly", Failed(message="of another memory"), namespace="elsewhere")
        failed = begun(client, "janitor", Pending(), Running(), Failed(message="refused"), namespace=namespace)
    state = look(prefect_server, home, namespace).state
    assert state is not None
    found = {run.run_id: run for run in state.failed_runs}
    assert set(found) == {never, failed}
    first, second = found[never], found[failed]
    assert (first.flow, first.status, first.message) == (f"nightly-{namespace}", "CRASHED", "no such image")
    assert (first.began, first.parameters) == (first.at, {"source": "inbox"})
    assert (second.status, second.message) == ("FAILED", "refused")
    assert second.due <= second.began < second.at


def run_in(namespace: str, flow: str, state: Any) -> str:
    """A deployment of a flow, and a run of it in a state; the run's id in Prefect."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        made = client.create_deployment(
            client.create_flow_from_name(flow), namespace, tags=[TAG, namespace_tag(namespace)]
        )
        given = {"namespace": namespace, "source": "market", "date": "2021-06-17"}
        run = client.create_flow_run_from_deployment(made, parameters={"parameters": given})
        client.set_flow_run_state(run.id, state, force=True)
    return str(run.id)


def test_a_run_that_only_prefect_knows_of_is_a_failure_until_the_ledger_has_a_later_one(
    ledger: Ledger, home: Home, configured: str, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Crashed

    monkeypatch.setenv("PREFECT_API_AUTH_STRING", read_secret(home))
    monkeypatch.setenv("COINSWARM_PREFECT_API_URL", prefect_server)
    ledger.runs.finish(ledger.runs.start("nightly", configured, {}, lease_s=60), {})
    run_id = run_in(configured, "nightly", Crashed(message="Flow run process exited\nwith code -9"))
    result = status(configured)
    (failure,) = result["failures"]
    assert (failure["flow"], failure["run_id"], failure["flow_run_id"]) == ("nightly", None, run_id)
    assert (failure["status"], failure["window"]) == ("CRASHED", "2021-06-17")
    retry, again = failure["retry"]
    assert retry.endswith(f"flow-run retry {run_id}")
    assert again == f"coinswarm run nightly --namespace {configured} --date 2021-06-17 --param source=market"
    out = rich.console.Console(width=200, record=True, force_terminal=False)
    show_status(result, out)
    page = out.export_text()
    assert "nightly of 2021-06-17 crashed at" in page
    assert "before the ledger knew of it: Flow run process exited with code -9" in page
    assert result["flows"][0]["last"]["status"] == "SUCCEEDED"
    told = [check for check in doctor(configured, Console(as_json=True))["checks"] if check["name"] == "runs"]
    assert [(check["status"].value, check["remedy"]) for check in told] == [("warn", again)]
    failed = f'coinswarm_flow_failed{{flow="nightly",namespace="{configured}"}}'
    assert f"{failed} 1.0" in read_once(Settings(), [configured])
    ledger.runs.finish(ledger.runs.start("nightly", configured, {}, lease_s=60), {})
    assert status(configured)["failures"] == []
    assert f"{failed} 0.0" in read_once(Settings(), [configured])


def test_another_namespace_has_none_of_them(prefect_server: str, deployed: dict[str, str], home: Home) -> None:
    found = look(prefect_server, home, "t-nobody")
    assert found.state is not None
    assert found.state.deployments == []


def test_without_the_password_it_is_a_problem_that_names_the_remedy(prefect_server: str) -> None:
    for auth in (None, httpx.BasicAuth("coinswarm", "wrong")):
        with (
            PrefectLook(prefect_server, auth) as server,
            pytest.raises(PrefectLookError, match="PREFECT_API_AUTH_STRING"),
        ):
            server.state("default")


def test_the_environment_names_a_password_before_the_home_does(
    prefect_server: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "coinswarm:wrong")
    found = look(prefect_server, home, "default")
    assert found.state is None
    assert found.problem is not None
    # A home's password is for its own server, and is told to no other machine.
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    assert credentials("http://elsewhere.example:4200/api", home) is None


def test_where_no_server_is_named_there_is_nothing_to_say(home: Home) -> None:
    assert look(None, home, "default") == Looked()


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'"3.8.8"', b"[1]"])
def test_a_server_that_is_none_of_prefect_is_a_problem(home: Home, answer: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = look(f"http://127.0.0.1:{server.server_port}/api", home, "default")
        server.shutdown()
    assert found.problem is not None
    assert "COINSWARM_PREFECT_API_URL" in found.problem.remedy


@pytest.mark.parametrize(
    "url", ["http://me:c4nary-word@127.0.0.1:9/api", "http://[::1/api", "http://127.0.0.1:99999/api", "ftp://x", "word"]
)
def test_a_server_that_is_away_or_cannot_be_is_a_problem_that_shows_no_password(home: Home, url: str) -> None:
    found = look(url, home, "default")
    assert found.problem is not None
    assert "COINSWARM_PREFECT_API_URL" in found.problem.remedy
    assert "c4nary-word" not in str(found.problem)
