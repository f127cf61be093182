"""Every deployment, declared once: what of a memory runs by itself, when, and how many at once.

`deployments(namespace)` has one deployment for each flow of `FLOWS`, named as the namespace (`nightly/default`), and
beside them those that are a flow with a purpose of its own (`record_experiences/default.drain`). `deploying.register`
brings them to a Prefect server; `prefect.yaml` is written from the same list. Nothing here imports Prefect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.policy.extra import INSTALL, has_policy_extra
from flows import FLOWS
from memory.errors import CoinswarmError
from memory.settings import Settings

TAG = "coinswarm"
"""On every deployment of this project, and so on every run of one."""
DRAIN = "drain"
"""The purpose of the deployment that empties the inboxes."""

POLICY = "policy"
"""The extra that brings torch."""

Collision = Literal["ENQUEUE", "CANCEL_NEW"]
"""What becomes of a run that finds all slots of its deployment taken: it waits, or it is cancelled."""


class UnknownDeploymentError(CoinswarmError):
    """A deployment that is not declared."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of a namespace.

    Attributes
    ----------
    namespace
        Name of the memory that its runs work on.
    flow
        Name of the flow.
    description
        What the Prefect UI says of it.
    purpose
        Distinguishes deployments of one flow; empty for the one that has the flow's own defaults.
    cron
        When it runs by itself, UTC; None for one that is started by hand or by an event.
    settings
        Parameters other than their defaults, beside the namespace.
    tags
        Tags beside the project's and the namespace's.
    at_once
        How many of its runs may be under way.
    collision
        What becomes of one more.
    """

    namespace: str
    flow: str
    description: str
    purpose: str = ""
    cron: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    at_once: int = 1
    collision: Collision = "ENQUEUE"

    @property
    def name(self) -> str:
        """Name beside the flow's: the namespace, and the purpose where there is one. Namespaces hold no dot."""
        return f"{self.namespace}.{self.purpose}" if self.purpose else self.namespace

    @property
    def full_name(self) -> str:
        """The name by which Prefect finds it, such as ``nightly/default``."""
        return f"{self.flow}/{self.name}"

    @property
    def entrypoint(self) -> str:
        """Where the flow is imported from: a module's path, so it does not matter where a worker stands."""
        return f"flows.{self.flow}.{self.flow}"

    @property
    def schedule_slug(self) -> str:
        """Name of its schedule, by which a changed one replaces the old."""
        return f"{TAG}-{self.purpose or self.flow}".replace("_", "-")

    @property
    def parameters(self) -> dict[str, Any]:
        """What each run is given unless it is told otherwise; the flow takes one model, named `parameters`."""
        return {"parameters": {"namespace": self.namespace, **self.settings}}

    @property
    def all_tags(self) -> list[str]:
        """All tags, sorted."""
        return sorted({TAG, namespace_tag(self.namespace), *self.tags})


@dataclass(frozen=True, slots=True)
class _Plan:
    """What sets a flow's own deployment apart from one that is started by hand."""

    cron: str | None = None
    tags: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""
    """Extra of this package that its runs import, where they need one."""


# All in UTC, where no hour is left out or comes twice. Windows end at midnight, so the nightly run comes first; what is
# large keeps out of its way and of each other's.
_PLANS: dict[str, _Plan] = {
    "nightly": _Plan("10 0 * * *", ("nightly", "scheduled")),
    "backup_memory": _Plan("30 1 * * *", ("keeping", "scheduled")),
    "janitor": _Plan("30 3 * * 0", ("keeping", "scheduled")),
    "restore_drill": _Plan("0 4 1 * *", ("keeping", "scheduled")),
    "train_agents": _Plan("0 5 * * 0", ("policy", "scheduled"), extra=POLICY),
    "evaluate_agents": _Plan("0 8 * * 0", ("policy", "scheduled"), extra=POLICY),
    "record_experiences": _Plan(tags=("recording",)),
    "benchmark_memory": _Plan(tags=("checking",)),
    "verify_memory": _Plan(tags=("checking",)),
}


def deployments(namespace: str, *, left_out: Collection[str] = ()) -> tuple[Deployment, ...]:
    """All deployments of a namespace, in the order of `FLOWS`.

    What needs an extra that is left out has no schedule: where workers lack it, each run would fail.
    """
    return tuple(_of(namespace, left_out))


def extras_left_out(settings: Settings, *, in_containers: bool = False) -> frozenset[str]:
    """Extras whose flows are not scheduled, for `up` and `deploy` alike.

    Parameters
    ----------
    settings
        `schedule_training` decides where it is set.
    in_containers
        Whether runs are in containers, whose image need not hold what is installed here, and by itself holds no torch.
    """
    scheduled = settings.schedule_training
    if scheduled is None:
        scheduled = has_policy_extra() and not in_containers
    return frozenset() if scheduled else frozenset({POLICY})


def unscheduled(left_out: Collection[str]) -> list[str]:
    """Flows that run by themselves, but not where these extras are left out."""
    return [flow for flow, plan in _PLANS.items() if plan.cron is not None and plan.extra in left_out]


def told_unscheduled(settings: Settings, again: str, *, in_containers: bool = False) -> str:
    """In one line, what does not run by itself for want of torch, why, and how it would; empty where all does.

    Parameters
    ----------
    settings, in_containers
        As for `extras_left_out`.
    again
        The command that schedules them once torch is there.
    """
    flows = " and ".join(unscheduled(extras_left_out(settings, in_containers=in_containers)))
    if not flows:
        return ""
    if settings.schedule_training is False:
        return f"Not scheduled: {flows}, as COINSWARM_SCHEDULE_TRAINING says."
    if in_containers:
        return (
            f"Not scheduled: {flows}, which need an image with torch: --build-arg EXTRAS=jobs,scale,policy. "
            f"Then run {again} again with COINSWARM_SCHEDULE_TRAINING=true."
        )
    return (
        f"Not scheduled: {flows}, which need torch. {INSTALL} Then run {again} again; where only the workers have it, "
        "with COINSWARM_SCHEDULE_TRAINING=true."
    )


def _of(namespace: str, left_out: Collection[str]) -> Iterator[Deployment]:
    for flow, description in FLOWS.items():
        plan = _PLANS.get(flow, _Plan())
        cron = None if plan.extra in left_out else plan.cron
        yield Deployment(
            namespace, flow, description, cron=cron, settings=plan.settings, tags=plan.tags or ("by-hand",)
        )
        if flow == "record_experiences":
            yield Deployment(
                namespace,
                flow,
                "Drain the agents' inboxes into episodic memory, and tell of regime changes and of the age of what is "
                "known. A drain that finds another under way is cancelled: the next one comes in minutes.",
                purpose=DRAIN,
                # Two minutes past each fifth: out of the way of what starts on the hour and at ten past it.
                cron="2-59/5 * * * *",
                settings={"source": "inbox"},
                tags=("recording", "scheduled"),
                collision="CANCEL_NEW",
            )


def deployment(namespace: str, flow: str, purpose: str = "") -> Deployment:
    """One deployment of a namespace.

    Raises
    ------
    UnknownDeploymentError
        None is declared for the flow and purpose.
    """
    for found in deployments(namespace):
        if (found.flow, found.purpose) == (flow, purpose):
            return found
    named = ", ".join(sorted(each.full_name for each in deployments(namespace)))
    raise UnknownDeploymentError(
        f"there is no deployment of {flow!r} for {purpose or 'itself'!r}.", remedy=f"Choose one of {named}."
    )


def namespace_tag(namespace: str) -> str:
    """The tag of all deployments of a namespace."""
    return f"{TAG}:{namespace}"
