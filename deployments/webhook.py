"""Alerts: what is sent where COINSWARM_WEBHOOK_URL says, and the block of Prefect that keeps that address.

Payloads are Jinja, rendered by the server when an automation fires. Each is one JSON object: `text` is what chat
services show, the rest is for programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from uuid import UUID

from deployments.registry import TAG
from memory.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_RUN = """\
{%- set message = event.resource["prefect.state-message"] or "no reason given" -%}
{%- set state = event.resource["prefect.state-name"] -%}
{%- set attempt = event.resource["prefect.run-count"] | int -%}
{%- set link = flow_run | ui_url -%}
{
  "text": {{ ("coinswarm NAMESPACE: " ~ flow.name ~ " (" ~ flow_run.name ~ ") " ~ state ~ ": " ~ message
    ~ TOLD) | tojson }},
  "kind": "failed-run",
  "namespace": "NAMESPACE",
  "flow": {{ flow.name | tojson }},
  "state": {{ state | tojson }},
  "message": {{ message | tojson }},
  "attempt": {{ attempt | tojson }},
  "scheduled_again": AGAIN,
  "flow_run": {{ flow_run.id | string | tojson }},
  "scheduled": {{ flow_run.expected_start_time | string | tojson }},
  "url": {{ (link | string if link else none) | tojson }}
}
"""
_AGAIN = '" It is scheduled again."'
_NEVER_BEGAN = (
    '(" It never began: see the log of its worker, mend what that names, then Retry."'
    ' if state == "Crashed" and attempt == 0 else "")'
)
_OLD = """\
{%- set last = event.payload.window | default("none") -%}
{
  "text": {{ ("coinswarm NAMESPACE: knowledge is old, or nobody looks. Fresh knowledge, of " ~ last
    ~ ", was seen last at " ~ event.occurred.strftime("%Y-%m-%d %H:%M")
    ~ " UTC. Look at the last nightly run, and whether a worker runs.") | tojson }},
  "kind": "knowledge-old",
  "namespace": "NAMESPACE",
  "window": {{ last | string | tojson }},
  "age_h_when_seen": {{ event.payload.age_h | default(none) | tojson }},
  "last_seen": {{ event.occurred | string | tojson }}
}
"""


def run_payload(namespace: str, *, again: bool) -> str:
    """The alert of a run that came to nothing.

    Parameters
    ----------
    again
        Whether it is scheduled again by itself.
    """
    told = _AGAIN if again else _NEVER_BEGAN
    return _RUN.replace("NAMESPACE", namespace).replace("TOLD", told).replace("AGAIN", "true" if again else "false")


def old_payload(namespace: str) -> str:
    """The alert of knowledge that is old."""
    return _OLD.replace("NAMESPACE", namespace)


def webhook_block_name(namespace: str) -> str:
    """Name of the Prefect block, of type `webhook`, that holds the address of alerts."""
    return f"{TAG}-alerts-{namespace}"


def bring_webhook(settings: Settings) -> UUID | None:
    """Have the server keep the address of alerts, encrypted; the block's id, None where there is no address."""
    if settings.webhook_url is None:
        return None
    from prefect.blocks.webhook import Webhook

    block = Webhook(
        url=settings.webhook_url,
        method="POST",
        headers={"Content-Type": "application/json"},  # type: ignore[arg-type]
    )
    return cast("UUID", block.save(webhook_block_name(settings.namespace), overwrite=True))


def remove_webhook(client: SyncPrefectClient, namespace: str) -> None:
    """Have the server forget the address of alerts, where it has one."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_block_document_by_name(webhook_block_name(namespace), "webhook", include_secrets=False)
    except ObjectNotFound:
        return
    if found.id is not None:
        client.delete_block_document(found.id)
