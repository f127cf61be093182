"""What Prefect's server says of deployments, worker and runs; and what `up` has to tell it of runs that died."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from deployments.local import PrefectUnavailableError
from deployments.registry import namespace_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

PAGE = 200
"""Objects of one answer of Prefect's server, which gives no more."""
UNDER_WAY = ("RUNNING", "PENDING", "CANCELLING")
"""Types of states in which a process of a run lives, or is about to."""
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """One deployment.

    Attributes
    ----------
    name
        `flow/deployment`, as Prefect's commands take it.
    ready
        Whether a worker asks for its runs.
    scheduled
        Whether it has a schedule that is active.
    next_run
        When Prefect is to start it next, UTC; in the past where that is overdue, None where nothing is planned.
    """

    name: str
    ready: bool
    scheduled: bool
    next_run: datetime | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run that is under way, or was.

    Attributes
    ----------
    id
        Its id.
    name
        Flow and name of the run.
    state
        Name of its state.
    ended
        Whether that is the last one.
    since
        Since when it is in it, UTC.
    worker
        Name of the worker that took it; None where none has yet.
    """

    id: UUID
    name: str
    state: str
    ended: bool
    since: datetime
    worker: str | None


@contextmanager
def prefect_client(api_url: str) -> Iterator[SyncPrefectClient]:
    """Talk to the Prefect server of the environment.

    Raises
    ------
    PrefectUnavailableError
        It does not answer, or refuses this process.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            yield client
    except ObjectNotFound as error:
        raise PrefectUnavailableError(
            f"the Prefect server at {api_url} no longer knows what was registered with it.",
            remedy="End coinswarm up and start it again: it registers everything.",
        ) from error
    except httpx.HTTPStatusError as error:
        if error.response.status_code == _UNAUTHORIZED:
            raise PrefectUnavailableError(
                f"the Prefect server at {api_url} wants a password, and refuses that of this process.",
                remedy="Set PREFECT_API_AUTH_STRING to the user:password that it was started with.",
            ) from error
        raise PrefectUnavailableError(
            f"the Prefect server at {api_url} refuses {error.request.method} {error.request.url.path} "
            f"with {error.response.status_code}.",
            remedy="Look at its log.",
        ) from error
    except httpx.HTTPError as error:
        raise PrefectUnavailableError(
            f"the Prefect server at {api_url} does not answer ({error or type(error).__name__}).",
            remedy="Look at its log, and whether it runs.",
        ) from error


def deployments_of(client: SyncPrefectClient, pool: str, namespace: str) -> list[DeploymentFacts]:
    """The deployments of a namespace in a work pool, by name, and when each runs next. A request for each of them."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        FlowFilter,
        FlowFilterId,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import DeploymentStatus

    found = client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[namespace_tag(namespace)])),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        limit=PAGE,
    )
    ids = list({deployment.flow_id for deployment in found})
    flows = client.read_flows(flow_filter=FlowFilter(id=FlowFilterId(any_=ids)), limit=PAGE) if ids else []
    names = {flow.id: flow.name for flow in flows}
    facts = [
        DeploymentFacts(
            name=f"{names[deployment.flow_id]}/{deployment.name}",
            ready=deployment.status == DeploymentStatus.READY,
            scheduled=not deployment.paused and any(schedule.active for schedule in deployment.schedules),
            next_run=_next_run(client, deployment.id),
        )
        for deployment in found
    ]
    return sorted(facts, key=lambda item: item.name)


def _next_run(client: SyncPrefectClient, deployment: UUID) -> datetime | None:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    planned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    runs = client.read_flow_runs(
        flow_run_filter=planned,
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=1,
    )
    times = [run.next_scheduled_start_time for run in runs if run.next_scheduled_start_time is not None]
    return times[0].astimezone(UTC) if times else None


def worker_is_online(client: SyncPrefectClient, pool: str, worker: str, since: datetime) -> bool:
    """Whether Prefect has heard of a worker since a time."""
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
    from prefect.client.schemas.objects import WorkerStatus

    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    found = client.read_workers_for_work_pool(pool, worker_filter=online, limit=PAGE)
    heard = [item.last_heartbeat_time for item in found if item.name == worker]
    return any(time is not None and time >= since for time in heard)


def runs_under_way(client: SyncPrefectClient, pool: str) -> list[RunFacts]:
    """The runs of a work pool that have begun and not ended, oldest first."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    kinds = [StateType(name) for name in UNDER_WAY]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=PAGE,
    )
    return [_facts(run) for run in found]


def run_of(client: SyncPrefectClient, run: UUID) -> RunFacts:
    """What became of a run."""
    return _facts(client.read_flow_run(run))


def _facts(run: FlowRun) -> RunFacts:
    worker = run.labels.get("prefect.worker.name")
    state = run.state
    return RunFacts(
        id=run.id,
        name=run.name,
        state=str(state.name) if state is not None else "",
        ended=state is not None and state.is_final(),
        since=state.timestamp if state is not None else datetime.now(UTC),
        worker=None if worker is None else str(worker),
    )


def lost(
    runs: Collection[RunFacts], alive: Collection[str], worker: str, *, alone: bool, before: datetime
) -> list[RunFacts]:
    """Those of some runs that are under way by Prefect's word, and of which no process is left on this machine.

    Parameters
    ----------
    runs
        What Prefect takes for being under way.
    alive
        Ids of the runs that have a process here.
    worker
        Name of this machine's worker.
    alone
        Whether no other worker can have taken a run: so it is where the server is embedded. Otherwise runs count that
        carry the worker's name.
    before
        Runs that have changed their state since may be on their way to a process.
    """
    return [
        run
        for run in runs
        if str(run.id) not in alive and run.since < before and (run.worker == worker or (alone and run.worker is None))
    ]


def mark_crashed(client: SyncPrefectClient, run: RunFacts, why: str) -> None:
    """Tell Prefect that a run has crashed; it gives back the slots that the run held."""
    from prefect.states import Crashed

    client.set_flow_run_state(run.id, Crashed(message=why), force=True)


def in_words(next_run: datetime | None, now: datetime) -> str:
    """When something runs next: `in 21 h`, `in 4 min`, `due`; nothing where that is not planned."""
    if next_run is None:
        return ""
    left = next_run - now
    if left <= timedelta(0):
        return "due"
    if left < timedelta(minutes=90):
        return f"in {max(1, round(left / timedelta(minutes=1)))} min"
    if left < timedelta(hours=48):
        return f"in {round(left / timedelta(hours=1))} h"
    return f"in {round(left / timedelta(days=1))} days"
