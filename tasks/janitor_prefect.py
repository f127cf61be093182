"""What may leave Prefect's own database: flow runs of one namespace that ended long ago, and their artifacts.

Everything goes through Prefect's client, so that it works on any server and any database. The server removes task runs
and states with their flow run, and its logs a moment later. Events are its own to remove: its vacuum service does, by
default after seven days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

PAGE = 200
"""Rows of one answer: the largest that Prefect's server gives by default."""
RUNS_AT_ONCE = 50
"""Flow runs whose artifacts are asked for together."""


def ended_runs(namespace: str, flows: Sequence[str], before: datetime, default_namespace: str) -> list[str]:
    """Ids of the runs of some flows, on one namespace, that ended before a time.

    Parameters
    ----------
    flows
        Names of flows.
    default_namespace
        What a run worked on that names no namespace.
    """
    ended = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES, key=str))),
        end_time=FlowRunFilterEndTime.model_validate({"before_": before}),
    )
    found: list[str] = []
    offset = 0
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
                flow_run_filter=ended,
                sort=FlowRunSort.ID_DESC,
                limit=PAGE,
                offset=offset,
            )
            found += [str(run.id) for run in page if _namespace_of(run, default_namespace) == namespace]
            offset += len(page)
            if len(page) < PAGE:
                return sorted(found)


def artifacts_of(run_ids: Sequence[str]) -> list[str]:
    """Ids of the artifacts that some flow runs left."""
    found: list[str] = []
    with get_client(sync_client=True) as client:
        for some in _pieces(run_ids):
            wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(item) for item in some]))
            offset = 0
            while True:
                page = client.read_artifacts(artifact_filter=wanted, limit=PAGE, offset=offset)
                found += [str(artifact.id) for artifact in page]
                offset += len(page)
                if len(page) < PAGE:
                    break
    return found


def drop_artifacts(ids: Sequence[str]) -> int:
    """Remove artifacts by id; returns how many were there."""
    return _drop(ids, lambda client, item: client.delete_artifact(item))


def drop_runs(ids: Sequence[str]) -> int:
    """Remove flow runs by id, with task runs, states and logs; returns how many were there."""
    return _drop(ids, lambda client, item: client.delete_flow_run(item))


def _drop(ids: Sequence[str], delete: Callable[[SyncPrefectClient, UUID], None]) -> int:
    dropped = 0
    with get_client(sync_client=True) as client:
        for item in ids:
            try:
                delete(client, UUID(item))
            except ObjectNotFound:
                continue  # Another janitor was first, or a run that was killed had removed it.
            dropped += 1
    return dropped


def _namespace_of(run: FlowRun, default: str) -> str:
    given = run.parameters.get("parameters")
    return str(given.get("namespace", default)) if isinstance(given, dict) else default


def _pieces(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), RUNS_AT_ONCE):
        yield ids[start : start + RUNS_AT_ONCE]
