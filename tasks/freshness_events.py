"""Word to Prefect of how old knowledge is: while it is young enough, each drain says so, and silence is the alarm."""

from __future__ import annotations

import datetime as dt
from typing import Any

from prefect.events import emit_event
from prefect.settings import get_current_settings

from memory import MemoryConnection
from tasks.retry import retried
from tasks.workspace import open_workspace

FRESH_EVENT = "coinswarm.knowledge-fresh"
"""Of the resource ``coinswarm.<namespace>``: its newest knowledge is younger than the setting `knowledge_max_age_h`."""


@retried()
def tell_freshness(namespace: str) -> dict[str, Any]:
    """Emit the event where knowledge is fresh; the newest window, its age in hours, and whether it is fresh.

    An age counts from when the newest window became known. Where nothing was published yet, nothing is told, and so
    nothing is missed either.
    """
    with open_workspace(namespace) as workspace:

        async def look(mem: MemoryConnection) -> dict[str, Any]:
            found = await mem.freshness()
            limit = dt.timedelta(hours=workspace.settings.knowledge_max_age_h)
            return {
                "window": found.window.name if found.window is not None else None,
                "age_h": round(found.age_s / 3600, 2) if found.age_s is not None else None,
                "fresh": not found.older_than(limit),
            }

        seen = workspace.with_memory(look)
    # Without a server to send it to, Prefect would start one of its own for the event.
    if seen["fresh"] and get_current_settings().api.url is not None:
        emit_event(
            event=FRESH_EVENT,
            resource={
                "prefect.resource.id": f"coinswarm.{namespace}",
                "prefect.resource.name": namespace,
                "coinswarm.namespace": namespace,
            },
            payload=seen,
        )
    return seen
