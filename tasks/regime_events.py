"""Prefect events of what agents found out: agents know no Prefect, they broadcast; here it becomes an event.

A change of regime is the event ``coinswarm.regime-change`` of the resource ``coinswarm.<namespace>.<product>``, so that
an automation can start a drain, a retraining or a page to the person on duty. Each change is one event, however often
it is forwarded: the event's id is the message's.
"""

from __future__ import annotations

from uuid import UUID

from prefect.events import emit_event
from prefect.settings import get_current_settings

from agents.regime_belief import REGIME_CHANGE_EVENT
from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.messages import AgentMemoryMessage, MessageType
from tasks.retry import retried
from tasks.workspace import open_workspace

FORWARDER = "prefect-events"
"""Who reads the broadcasts for Prefect: one place in the messages, whoever forwards."""


@retried()
def forward_regime_changes(namespace: str) -> int:
    """Emit an event for each change of regime that was broadcast live since this was done last; returns how many.

    Where events go nowhere (no Prefect server is configured), nothing is read, and the changes wait for one that does.
    """
    forwarded = 0
    with open_workspace(namespace) as workspace:

        async def forward(mem: MemoryConnection) -> None:
            nonlocal forwarded
            forwarded = await forward_all(mem)

        workspace.with_memory(forward)
    return forwarded


async def forward_all(mem: MemoryConnection, *, wait: bool = False) -> int:
    """As `forward_regime_changes`, for a memory that is open; with `wait` it goes on until it is cancelled."""
    # Without a server to send them to, Prefect would start one of its own for the events.
    if get_current_settings().api.url is None:
        return 0
    forwarded = 0

    async def forward(message: AgentMemoryMessage) -> None:
        nonlocal forwarded
        emit(message, mem.namespace)
        forwarded += 1

    async with mem.messages.read(FORWARDER, message_types=(MessageType.REGIME_CHANGE,), wait=wait) as reader:
        await reader.handle(forward)
    return forwarded


def emit(message: AgentMemoryMessage, namespace: str) -> None:
    """Emit the event of one REGIME_CHANGE message.

    Raises
    ------
    StoreUnavailableError
        Prefect did not take it; it is forwarded again.
    """
    product = str(message.data.get("product_id", "unknown"))
    event = emit_event(
        event=REGIME_CHANGE_EVENT,
        resource={
            "prefect.resource.id": f"coinswarm.{namespace}.{product}",
            "prefect.resource.name": product,
            "coinswarm.namespace": namespace,
            "coinswarm.regime": str(message.data.get("new_regime", "unknown")),
        },
        occurred=message.timestamp,
        payload={**message.data, "insight": message.insight, "sender": message.sender_agent_id},
        id=UUID(message.message_id),
    )
    if event is None:
        raise StoreUnavailableError(
            f"Prefect did not take the event of message {message.message_id}.",
            remedy="See its log; the change is forwarded again.",
        )
