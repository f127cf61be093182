"""What a Prefect server says of this project's deployments, over its HTTP interface.

Prefect's own client would take longer to import than everything here takes to ask; nothing is changed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from deployments.registry import DRAIN, TAG, namespace_tag
from memory.embedded.home import Home
from memory.embedded.prefect_server import read_secret
from memory.errors import CoinswarmError
from memory.secrets import mask, redacted

TIMEOUT_S = 3.0
"""Longest wait for one answer: whoever looks at a state does not want to wait for a server that hangs."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PAGE = 200
_FAILED_PAGE = 50
"""Latest failed runs that are asked for: one of each flow is shown."""
_ONLINE = "ONLINE"


class PrefectLookError(CoinswarmError):
    """A Prefect server that does not answer, or not as expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """One deployment.

    Attributes
    ----------
    name
        Such as ``nightly/default``.
    paused
        Whether a person has paused it, or all of its schedules.
    scheduled
        Whether it has a schedule.
    ready
        Whether a worker polls for its runs.
    next_run
        When its next run is due; None where none is scheduled.
    inactive
        Ids of its schedules that are paused.
    """

    name: str
    flow: str
    pool: str | None
    paused: bool
    scheduled: bool
    ready: bool
    next_run: datetime | None
    inactive: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A run of a deployment that failed or crashed, by the server's word.

    Attributes
    ----------
    run_id
        Its id there.
    status
        FAILED or CRASHED, the type of its state.
    message
        What its state says; empty where it says nothing.
    at
        Since when it is in that state, UTC.
    began
        When its flow began first; of one that never did, as of a container that could not be started, when it ended.
    due
        When it was to begin: its window follows from that.
    parameters
        What the flow was to be given, as the server keeps it.
    """

    run_id: str
    flow: str
    status: str
    message: str
    at: datetime
    began: datetime
    due: datetime
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectState:
    """What a server says.

    Attributes
    ----------
    url
        Of its interface, without a password.
    closed
        Whether it refuses who names no password.
    deployments
        Of the namespace, by name.
    workers
        Workers that are online, by name, in the pools of those deployments.
    late_runs
        Runs of theirs that are due and that no worker has begun.
    failed_runs
        The latest of theirs that failed or crashed and that nothing has taken up again, in no order; in the namespace,
        as a person may have named another one in the form.
    """

    url: str
    version: str
    closed: bool
    deployments: Sequence[DeploymentState] = ()
    workers: Sequence[str] = ()
    late_runs: int = 0
    failed_runs: Sequence[FailedRun] = ()

    def next_runs(self) -> dict[str, datetime]:
        """When the next run of each flow is due, by flow."""
        due: dict[str, datetime] = {}
        for deployment in self.deployments:
            if deployment.next_run is not None:
                due[deployment.flow] = min(deployment.next_run, due.get(deployment.flow, deployment.next_run))
        return due


def credentials(api_url: str, home: Home) -> httpx.Auth | None:
    """What a client of a server authenticates with: the home's own password, or that of the environment."""
    named = os.environ.get("PREFECT_API_AUTH_STRING")
    if named is None and home.prefect_data.is_dir() and _is_here(api_url):
        try:
            named = read_secret(home)
        except FileNotFoundError:
            return None
    if named is None:
        return None
    user, _, password = named.strip().partition(":")
    return httpx.BasicAuth(user, password)


def _is_here(api_url: str) -> bool:
    """Whether a URL leads to this machine; not so one that cannot be read."""
    try:
        return urlsplit(api_url).hostname in LOOPBACK
    except ValueError:
        return False


class PrefectLook:
    """An open look at a server; use it in a ``with`` block.

    Parameters
    ----------
    api_url
        Its interface: a URL that ends in /api; a password in it is not shown.
    auth
        What to authenticate with; None for a server that is open.
    """

    def __init__(self, api_url: str, auth: httpx.Auth | None) -> None:
        self.url = redacted(api_url.rstrip("/"))
        self._base = api_url.rstrip("/")
        self._auth = auth
        # A proxy of the environment does not lead to this machine.
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=not _is_here(api_url))
        self._headers: dict[str, str] = {}

    def __enter__(self) -> PrefectLook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def state(self, namespace: str) -> PrefectState:
        """Everything of one namespace's deployments. Some dozen requests, a few milliseconds each.

        Raises
        ------
        PrefectLookError
            The server does not answer, or does not let this process in.
        """
        version, closed = self._version()
        self._headers = self._forgery_token()
        found = self._ask(
            "/deployments/filter",
            {"deployments": {"tags": {"all_": [TAG, namespace_tag(namespace)]}}, "limit": _PAGE, "sort": "NAME_ASC"},
        )
        names = self._flow_names(sorted({item["flow_id"] for item in found}))
        states = sorted((self._deployment(item, names) for item in found), key=lambda state: state.name)
        pools = sorted({state.pool for state in states if state.pool is not None})
        return PrefectState(
            url=self.url,
            version=version,
            closed=closed,
            deployments=states,
            workers=sorted({worker for pool in pools for worker in self._workers(pool)}),
            late_runs=self._late([item["id"] for item in found]),
            failed_runs=self._failed(namespace, found, names),
        )

    def deployment_of_run(self, flow_run_id: str) -> str | None:
        """Id of the deployment that a run came from; None where the server knows no such run, or it came from none."""
        try:
            answer = self._send("GET", f"/flow_runs/{uuid.UUID(flow_run_id)}")
        except ValueError:
            return None
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        deployment: str | None = self._decoded(answer).get("deployment_id")
        return deployment

    # --- single questions ------------------------------------------------------------------------------------

    def _version(self) -> tuple[str, bool]:
        """Its version, and whether it keeps out who names no password."""
        bare = self._send("GET", "/admin/version", auth=None)
        if bare.status_code == httpx.codes.UNAUTHORIZED:
            return self._decoded(self._send("GET", "/admin/version")), True
        return self._decoded(bare), False

    def _forgery_token(self) -> dict[str, str]:
        """Headers with which the server takes questions, where it guards itself against forged requests."""
        client = str(uuid.uuid4())
        answer = self._send("GET", f"/csrf-token?client={client}")
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            return {}
        return {"Prefect-Csrf-Token": self._decoded(answer)["token"], "Prefect-Csrf-Client": client}

    def _flow_names(self, flow_ids: Sequence[str]) -> dict[str, str]:
        if not flow_ids:
            return {}
        found = self._ask("/flows/filter", {"flows": {"id": {"any_": list(flow_ids)}}, "limit": _PAGE})
        return {item["id"]: item["name"] for item in found}

    def _deployment(self, item: Mapping[str, Any], names: Mapping[str, str]) -> DeploymentState:
        schedules = item.get("schedules") or []
        active = [schedule for schedule in schedules if schedule.get("active")]
        flow = names.get(item["flow_id"], "")
        return DeploymentState(
            name=f"{flow}/{item['name']}",
            flow=flow,
            pool=item.get("work_pool_name"),
            paused=bool(item.get("paused")) or (bool(schedules) and not active),
            scheduled=bool(schedules),
            ready=item.get("status") == "READY",
            next_run=self._next_run(item["id"]) if active else None,
            # Of a deployment that is paused as a whole they are not what keeps it from running.
            inactive=[] if item.get("paused") else [each["id"] for each in schedules if not each.get("active")],
        )

    def _next_run(self, deployment_id: str) -> datetime | None:
        found = self._ask(
            "/flow_runs/filter",
            {
                "flow_runs": {
                    "deployment_id": {"any_": [deployment_id]},
                    "state": {"type": {"any_": ["SCHEDULED"]}},
                },
                "sort": "EXPECTED_START_TIME_ASC",
                "limit": 1,
            },
        )
        return datetime.fromisoformat(found[0]["expected_start_time"]) if found else None

    def _workers(self, pool: str) -> list[str]:
        found = self._ask(f"/work_pools/{pool}/workers/filter", {"limit": _PAGE})
        return [item["name"] for item in found if item["status"] == _ONLINE]

    def _late(self, deployment_ids: Sequence[str]) -> int:
        if not deployment_ids:
            return 0
        runs = {"deployment_id": {"any_": list(deployment_ids)}, "state": {"name": {"any_": ["Late"]}}}
        return int(self._ask("/flow_runs/count", {"flow_runs": runs}))

    def _failed(
        self, namespace: str, deployments: Sequence[Mapping[str, Any]], flow_names: Mapping[str, str]
    ) -> list[FailedRun]:
        flows = {item["id"]: flow_names.get(item["flow_id"], "") for item in deployments}
        drains = [item["id"] for item in deployments if item["name"] == f"{namespace}.{DRAIN}"]
        # Drains come every few minutes: where each of them fails, they would leave no room for anything else.
        parts = [drains, [key for key in flows if key not in drains]]
        found = [run for part in parts if part for run in self._ask("/flow_runs/filter", _failed_runs(part))]
        return [
            FailedRun(
                run_id=run["id"],
                flow=flows[run["deployment_id"]],
                status=run["state"]["type"],
                message=run["state"].get("message") or "",
                at=datetime.fromisoformat(run["state"]["timestamp"]),
                began=datetime.fromisoformat(run["start_time"] or run["state"]["timestamp"]),
                due=datetime.fromisoformat(run["expected_start_time"]),
                parameters=_given(run["parameters"]),
            )
            for run in found
            if _given(run["parameters"]).get("namespace", namespace) == namespace
        ]

    # --- the line --------------------------------------------------------------------------------------------

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._decoded(self._send("POST", path, json=body))

    def _send(self, method: str, path: str, *, auth: Any = ..., **content: Any) -> httpx.Response:
        chosen = self._auth if auth is ... else auth
        try:
            return self._client.request(method, f"{self._base}{path}", auth=chosen, headers=self._headers, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrefectLookError(
                f"no Prefect server answers at {self.url} ({type(error).__name__}: {mask(str(error))}).",
                remedy="Check that it runs and that COINSWARM_PREFECT_API_URL ends in /api; coinswarm up starts one.",
            ) from error

    def _decoded(self, answer: httpx.Response) -> Any:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PrefectLookError(
                f"the Prefect server at {self.url} does not let this process in ({answer.status_code}).",
                remedy="Set PREFECT_API_AUTH_STRING to its user:password.",
            )
        try:
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise _strange(self.url, str(answer.status_code)) from error


def _failed_runs(deployment_ids: Sequence[str]) -> dict[str, Any]:
    """The question for the latest failed runs of some deployments."""
    return {
        "flow_runs": {
            "deployment_id": {"any_": list(deployment_ids)},
            "state": {"type": {"any_": ["FAILED", "CRASHED"]}},
        },
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": _FAILED_PAGE,
    }


def _given(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a flow was given: it takes one model, named `parameters`."""
    given = parameters.get("parameters")
    return given if isinstance(given, Mapping) else {}


def _strange(url: str, what: str) -> PrefectLookError:
    return PrefectLookError(
        f"the server at {url} answers ({what}), and not as Prefect does.",
        remedy="Check that COINSWARM_PREFECT_API_URL leads to a Prefect server and ends in /api.",
    )


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at Prefect came to: a state, or why there is none; neither where nothing runs here."""

    state: PrefectState | None = None
    problem: CoinswarmError | None = None
    from_deployments: Mapping[str, bool] = field(default_factory=dict)
    """Of some runs of Prefect, by id, whether they came from a deployment: those can be retried there."""


def look(api_url: str | None, home: Home, namespace: str, flow_run_ids: Sequence[str] = ()) -> Looked:
    """What the server at a URL says of a namespace, and whether some runs came from deployments; never raises.

    Parameters
    ----------
    api_url
        None where no server runs and none is configured.
    flow_run_ids
        Prefect's ids of runs to look up.
    """
    if api_url is None:
        return Looked()
    with PrefectLook(api_url, credentials(api_url, home)) as server:
        try:
            state = server.state(namespace)
            return Looked(state, None, {run: server.deployment_of_run(run) is not None for run in flow_run_ids})
        except CoinswarmError as error:
            return Looked(problem=error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # JSON of another form than Prefect's.
            return Looked(problem=_strange(server.url, type(error).__name__))
