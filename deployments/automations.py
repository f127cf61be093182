"""Automations: what the Prefect server does by itself when a run dies, a night fails, knowledge ages, a regime changes.

Each has a name that stays, by which it is found again. One that is as declared is left alone, together with what the
server has counted for it; one that a person switched off stays off. Alerts need COINSWARM_WEBHOOK_URL, which Prefect
keeps encrypted in a block.

======================  =============================================================================================
no heartbeat            a run of a deployment that misses four heartbeats is marked as crashed
never began             a run of a deployment that a worker took up and that does not begin is marked as crashed: a pod
                        that finds no room, secret or image waits for ever, and holds the place of the next run
no heartbeat by hand    a run of one of our flows from anywhere else, which may beat as slowly as Prefect's default
crashed run again       a crashed run is scheduled again, as the button Retry does: the same run, so the same window;
                        not one that the worker could not begin. Alert
crashed run given up    a run that crashed more often than it is scheduled again is marked as failed
failed run              alert: a run has failed or timed out
crashed run             alert: a run has crashed, and stays so
knowledge old           alert: no drain has seen fresh knowledge for a while, whatever the reason
drain at regime change  the event ``coinswarm.regime-change`` starts a drain of the inboxes
======================  =============================================================================================

How often a run has begun tells how often it was scheduled again only where its process lives until the flow begins. One
that dies while it starts, as with a broken install, would be scheduled again without end; so crashes are counted too.

Drains are neither scheduled again nor told of: another one follows within minutes, and all of them failing is old
knowledge. That alert is a dead man's switch: drains emit ``coinswarm.knowledge-fresh`` while knowledge is young enough,
and the server misses it when nights fail, when Redis is away, and when no worker runs at all.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agents.regime_belief import REGIME_CHANGE_EVENT
from deployments.registry import DRAIN, TAG, deployment, namespace_tag
from deployments.webhook import bring_webhook, old_payload, remove_webhook, run_payload
from flows import FLOWS
from memory.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

HEARTBEATS_MISSED = 4
"""One more than the three that a busy server or a short break of the network may cost."""
BY_HAND_S = 660.0
"""A run that was not started by a deployment has Prefect's own interval of 180 s, unless it was told another."""
FRESH_WITHIN_S = 3600.0
"""Twelve drains: a restart, or one that takes longer than usual, is no alarm."""
PENDING_S = 1800.0
"""A container's image may have to be fetched first, and a machine to be started for it."""
SETTLED_S = 60.0
"""How long after a crash a run is scheduled again: all that was under way with it has been reported by then.

A worker looks for hooks of the flow first, in a process that imports it, and takes up no run that it still holds: one
with a limit of runs would end of that.
"""
STAYS_S = 120.0
"""How long after a crash a run that nobody took up again is told: twice as long."""
COUNTED_S = 86_400.0
"""Crashes of a run count together for a day: starting may take long, as where an image must be fetched first."""
_PAGE = 200
_CRASHED = "prefect.flow-run.Crashed"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_NOT_BEGUN = "Failed to submit flow run to infrastructure"
"""What a worker says of a run that it could not begin: no such image, no engine of containers, no such program."""
_NEVER_BEGAN = (
    "A worker took it up {minutes:g} minutes ago, and it has not begun. See the worker's log and, where it runs in a "
    "container, what keeps that from starting: no room, a secret or an image that is missing (kubectl get events)."
)
_GIVEN_UP = (
    "It crashed {crashes} times, at least once before its flow began, and is not scheduled again. See its log and that "
    "of its worker, mend what they name (coinswarm doctor looks at the packages that are installed there), then Retry: "
    "it goes on where it stopped, in the same window."
)
_TAKEN_UP = ("AwaitingRetry", "Scheduled", "Pending", "Running", "Completed", "Failed", "Cancelled")
_TAKEN = ("Pending", "Submitting", "InfrastructurePending")
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended")


@dataclass(frozen=True, slots=True)
class Watch:
    """How patient the server is, in seconds.

    Attributes
    ----------
    heartbeat_s
        Silence after which a run of a deployment is taken for crashed.
    by_hand_s
        The same for any other run of our flows.
    fresh_s
        How long the server waits for word that knowledge is fresh.
    pending_s
        How long a run that a worker took up may need until it begins.
    settled_s
        How long after a crash a run is scheduled again.
    stays_s
        How long after a crash a run that was not is told; longer than `settled_s` by what the server takes for that.
    """

    heartbeat_s: float
    by_hand_s: float = BY_HAND_S
    fresh_s: float = FRESH_WITHIN_S
    pending_s: float = PENDING_S
    settled_s: float = SETTLED_S
    stays_s: float = STAYS_S

    @classmethod
    def of(cls, settings: Settings) -> Watch:
        """As the settings say."""
        return cls(HEARTBEATS_MISSED * settings.heartbeat_s)


def _states(*names: str) -> set[str]:
    """Events of runs that come into states of these names."""
    return {f"prefect.flow-run.{name}" for name in names}


def name_of(namespace: str, what: str) -> str:
    """Name of an automation of a namespace."""
    return f"{TAG} {namespace}: {what}"


def declared(
    settings: Settings, ids: Mapping[str, UUID], webhook: UUID | None, watch: Watch | None = None
) -> list[AutomationCore]:
    """All automations of the settings' namespace.

    Parameters
    ----------
    settings
        Namespace, and how often a crashed run is scheduled again.
    ids
        Id of each deployment by its full name.
    webhook
        Id of the block with the address of alerts; without it there are none.
    watch
        How patient the server is; as the settings say where empty.
    """
    return list(_declared(settings, ids, webhook, watch or Watch.of(settings)))


def _declared(
    settings: Settings, ids: Mapping[str, UUID], webhook: UUID | None, watch: Watch
) -> Iterator[AutomationCore]:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    from tasks.freshness_events import FRESH_EVENT

    namespace = settings.namespace
    tags = [TAG, namespace_tag(namespace)]
    ours: dict[str, str | list[str]] = {
        "prefect.resource.role": "tag",
        "prefect.resource.id": f"prefect.tag.{namespace_tag(namespace)}",
    }
    runs: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}

    def unless(
        expect: set[str],
        within_s: float,
        *,
        after: set[str],
        match: dict[str, Any] = runs,
        related: dict[str, Any] = ours,
    ) -> EventTrigger:
        """Fires where a run that one thing happened to is not heard of otherwise for a while; either may come again."""
        return EventTrigger(
            posture=Posture.Proactive,
            after=after,
            expect=after | expect,
            match=match,
            match_related=related,
            for_each={"prefect.resource.id"},
            within=dt.timedelta(seconds=within_s),
        )

    def crash(message: str) -> ChangeFlowRunState:
        return ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message, force=False)

    def mute(within_s: float) -> ChangeFlowRunState:
        return crash(f"No heartbeat for {within_s:g} s: its process is gone, or cannot reach the Prefect server.")

    yield AutomationCore(
        name=name_of(namespace, "no heartbeat"),
        description="A run of a deployment that gives no sign of life is marked as crashed.",
        tags=tags,
        trigger=unless(_states(*_ENDED), watch.heartbeat_s, after={_HEARTBEAT}),
        actions=[mute(watch.heartbeat_s)],
    )
    yield AutomationCore(
        name=f"{TAG}: no heartbeat by hand",
        description="The same for a run that no deployment started, and for flows within another.",
        tags=[TAG],
        trigger=unless(
            _states(*_ENDED),
            watch.by_hand_s,
            after={_HEARTBEAT},
            related={"prefect.resource.role": "flow", "prefect.resource.name": sorted(FLOWS)},
        ),
        actions=[mute(watch.by_hand_s)],
    )
    yield AutomationCore(
        name=name_of(namespace, "never began"),
        description="A run of a deployment that a worker took up and that does not begin is marked as crashed.",
        tags=tags,
        trigger=unless(
            _states(*_TAKEN_UP, *_ENDED, "AwaitingConcurrencySlot"), watch.pending_s, after=_states(*_TAKEN)
        ),
        actions=[crash(_NEVER_BEGAN.format(minutes=watch.pending_s / 60))],
    )
    drain = deployment(namespace, "record_experiences", DRAIN)
    watched: dict[str, str | list[str]] = {
        "prefect.resource.role": "deployment",
        "prefect.resource.id": [
            f"prefect.deployment.{found}" for name, found in ids.items() if name != drain.full_name
        ],
    }

    def told(payload: str) -> list[CallWebhook]:
        return [] if webhook is None else [CallWebhook(block_document_id=webhook, payload=payload)]

    if settings.crash_restarts:
        restarts = settings.crash_restarts
        # How often it has run: a run that never began is not tried again and again, and neither is one that no worker
        # could begin again, which leaves the count as it was.
        again: dict[str, str | list[str]] = {
            **runs,
            "prefect.run-count": [str(number) for number in range(1, restarts + 1)],
            "prefect.state-message": f"!{_NOT_BEGUN}*",
        }
        yield AutomationCore(
            name=name_of(namespace, "crashed run again"),
            description=f"A crashed run is scheduled again, {restarts} times at most, and told.",
            tags=tags,
            # A worker reports the end of a process twice, some seconds apart: the second report would strike down the
            # run that was scheduled again at the first. So the server waits until nothing more is heard of it.
            trigger=unless(_states(*_TAKEN_UP), watch.settled_s, after={_CRASHED}, match=again, related=watched),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="It crashed, and is taken up where it stopped.",
                    force=False,
                ),
                *told(run_payload(namespace, again=True)),
            ],
        )
        yield AutomationCore(
            name=name_of(namespace, "crashed run given up"),
            description=f"A run that crashed {restarts + 1} times is marked as failed, and not scheduled again.",
            tags=tags,
            # Counted from the first crash, which is none of the threshold. Without an event to start after, the server
            # would not count again for the rest of the day once it has fired, and a run that is retried meanwhile would
            # crash without end. Failed comes before the run would be scheduled again, and keeps it from being so.
            trigger=EventTrigger(
                posture=Posture.Reactive,
                after={_CRASHED},
                expect={_CRASHED},
                match=again,
                match_related=watched,
                for_each={"prefect.resource.id"},
                threshold=restarts,
                within=dt.timedelta(seconds=COUNTED_S),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.FAILED, name="Failed", message=_GIVEN_UP.format(crashes=restarts + 1), force=False
                )
            ],
        )
    yield AutomationCore(
        name=name_of(namespace, "drain at regime change"),
        description="What agents lived through when the market's regime changed is stored at once.",
        tags=tags,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={REGIME_CHANGE_EVENT},
            match=ResourceSpecification({"coinswarm.namespace": namespace}),
        ),
        actions=[
            RunDeployment(source="selected", deployment_id=ids[drain.full_name], parameters=None, job_variables=None)
        ],
    )
    if webhook is None:
        return
    yield AutomationCore(
        name=name_of(namespace, "failed run"),
        description="Tells of each run of a deployment, drains apart, that failed or timed out.",
        tags=tags,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect=_states("Failed", "TimedOut"),
            match=runs,
            match_related=watched,
            for_each={"prefect.resource.id"},
            # One end that is reported twice is told once.
            within=dt.timedelta(seconds=watch.settled_s),
        ),
        actions=[*told(run_payload(namespace, again=False))],
    )
    yield AutomationCore(
        name=name_of(namespace, "crashed run"),
        description="Tells of each run of a deployment, drains apart, that crashed and is not scheduled again.",
        tags=tags,
        trigger=unless(_states(*_TAKEN_UP), watch.stays_s, after={_CRASHED}, related=watched),
        actions=[*told(run_payload(namespace, again=False))],
    )
    yield AutomationCore(
        name=name_of(namespace, "knowledge old"),
        description=f"Tells when no drain has seen knowledge younger than {settings.knowledge_max_age_h:g} hours.",
        tags=tags,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={FRESH_EVENT},
            expect={FRESH_EVENT},
            match=ResourceSpecification({"prefect.resource.id": f"{TAG}.{namespace}"}),
            for_each={"prefect.resource.id"},
            within=dt.timedelta(seconds=watch.fresh_s),
        ),
        actions=[*told(old_payload(namespace))],
    )


@dataclass(frozen=True, slots=True)
class Brought:
    """What `bring_automations` did.

    Attributes
    ----------
    ids
        Id of each automation by its name.
    created, changed, removed
        Names of what was not there before, of what differed, and of what is not declared any more.
    """

    ids: dict[str, UUID]
    created: list[str]
    changed: list[str]
    removed: list[str]


def bring_automations(
    client: SyncPrefectClient, settings: Settings, deployment_ids: Mapping[str, UUID], watch: Watch | None = None
) -> Brought:
    """Bring all automations of the settings' namespace to the server, and the address of alerts."""
    done = Brought({}, [], [], [])
    webhook = bring_webhook(settings)
    present: dict[str, Any] = {}
    for found in list(_ours(client, settings.namespace)):
        # Names need not be unique: two that register at the same moment leave two of each.
        if present.setdefault(found.name, found) is not found:
            client.delete_automation(found.id)
            done.removed.append(found.name)
    for wanted in declared(settings, deployment_ids, webhook, watch):
        found = present.pop(wanted.name, None)
        if found is None:
            done.ids[wanted.name] = client.create_automation(wanted)
            done.created.append(wanted.name)
            continue
        done.ids[wanted.name] = found.id
        kept = wanted.model_copy(update={"enabled": found.enabled})
        # The server forgets what it has counted for an automation that is written again.
        if _as_declared(found) != _as_declared(kept):
            client.update_automation(found.id, kept)
            done.changed.append(wanted.name)
    for name, found in present.items():
        client.delete_automation(found.id)
        done.removed.append(name)
    if webhook is None:
        remove_webhook(client, settings.namespace)
    return done


def _as_declared(automation: AutomationCore) -> dict[str, Any]:
    fields = {"name", "description", "enabled", "tags", "trigger", "actions"}
    return automation.model_dump(include=fields)


def _ours(client: SyncPrefectClient, namespace: str) -> Iterator[Any]:
    """The automations of a namespace, and those that all namespaces share."""
    for offset in range(0, 100 * _PAGE, _PAGE):
        page = client.read_automations(limit=_PAGE, offset=offset)
        for found in page:
            if found.name.startswith((name_of(namespace, ""), f"{TAG}: ")):
                yield found
        if len(page) < _PAGE:
            return
