"""Brings work pool, deployments, limits and automations to a Prefect server; the same call twice changes nothing.

What is on the server is compared with what is declared, and only what differs is written: ids stay, runs that are
scheduled stay, and so does what a person chose there: a deployment or a schedule that is paused, an automation that is
switched off, schedules of their own, the pool's limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deployments import results
from deployments.automations import bring_automations
from deployments.local import PrefectUnavailableError
from deployments.registry import TAG, Deployment, deployments, extras_left_out, namespace_tag
from deployments.work_pools import PoolType, WorkPoolError, check_reach, default_pool, job_variables, template
from flows import parameters_of
from memory.errors import CoinswarmError
from memory.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

_PAGE = 200
"""Deployments that are read at once, the most that the server gives."""
_DETAIL_CHARACTERS = 300


class RegistrationError(CoinswarmError):
    """What the Prefect server refuses."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What is on the server after a registration.

    Attributes
    ----------
    pool, pool_type
        The work pool that the deployments run in.
    deployments
        Id of each deployment by its full name.
    automations
        Id of each automation by its name.
    created, changed, removed
        Names of what was not there before, of what differed, and of what was ours and is not declared any more.
    """

    pool: str
    pool_type: PoolType
    deployments: dict[str, UUID]
    automations: dict[str, UUID]
    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def register(
    settings: Settings,
    *,
    pool: str | None = None,
    pool_type: PoolType = "process",
    template_path: Path | None = None,
) -> Registered:
    """Bring the deployments of the settings' namespace to the Prefect server of this process's environment.

    Call it inside `local_stack`, or where PREFECT_API_URL says which server. A second call finds everything in place:
    ids stay what they were. Takes about two seconds.

    Parameters
    ----------
    settings
        Namespace, webhook, results and the like.
    pool
        Name of the work pool; `coinswarm`, or `coinswarm-TYPE`, where empty.
    pool_type
        What its workers are.
    template_path
        Base job template other than the project's own.

    Raises
    ------
    WorkPoolError
        The pool exists with another type, or its runs could not reach what is configured.
    ResultsError
        Results cannot be kept where the settings say.
    RegistrationError
        The server refuses something.
    PrefectUnavailableError
        The server does not answer, or does not let this process in.
    """
    base = template(pool_type, template_path)
    check_reach(settings, pool_type, base)
    with _answers(), _client() as client:
        done = Registered(pool or default_pool(pool_type), pool_type, {}, {})
        _bring_pool(client, done, base)
        results.save_block(settings)
        left_out = extras_left_out(settings, in_containers=pool_type != "process")
        declared = deployments(settings.namespace, left_out=left_out)
        variables = job_variables(settings, pool_type)
        for deployment in declared:
            _bring_deployment(client, done, deployment, variables)
        _remove_undeclared(client, done, settings.namespace)
        brought = bring_automations(client, settings, done.deployments)
        done.automations.update(brought.ids)
        done.created.extend(f"automation {name!r}" for name in brought.created)
        done.changed.extend(f"automation {name!r}" for name in brought.changed)
        done.removed.extend(f"automation {name!r}" for name in brought.removed)
    return done


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@contextmanager
def _answers() -> Iterator[None]:
    """Say in one line what the server's refusal means."""
    import httpx
    from prefect.exceptions import ObjectAlreadyExists

    try:
        yield
    except ObjectAlreadyExists as error:
        raise RegistrationError(
            "somebody else registers at the same time: what was not there a moment ago is.", remedy="Run it again."
        ) from error
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise PrefectUnavailableError(
                f"the Prefect server at {_server(error.request.url)} does not let this process in ({code}).",
                remedy="Set PREFECT_API_AUTH_STRING to the server's own.",
            ) from error
        detail = " ".join(error.response.text.split())[:_DETAIL_CHARACTERS]
        raise RegistrationError(
            f"the Prefect server refuses {error.request.method} {error.request.url.path} ({code}): {detail}.",
            remedy="Where it is of another version than this install, bring both to the same; its log has more.",
        ) from error
    except httpx.TransportError as error:
        raise PrefectUnavailableError(
            f"the Prefect server does not answer: {error or type(error).__name__}.",
            remedy="Check that it runs and that COINSWARM_PREFECT_API_URL ends in /api; unset it for an embedded one.",
        ) from error


def _server(url: Any) -> str:
    return f"{url.scheme}://{url.host}:{url.port}"


def _bring_pool(client: SyncPrefectClient, done: Registered, base: Mapping[str, Any]) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    description = f"Runs of the {TAG} deployments."
    try:
        found = client.read_work_pool(done.pool)
    except ObjectNotFound:
        made = WorkPoolCreate(
            name=done.pool, type=done.pool_type, description=description, base_job_template=dict(base)
        )
        client.create_work_pool(made)
        done.created.append(f"work pool {done.pool}")
        return
    if found.type != done.pool_type:
        raise WorkPoolError(
            f"the work pool {done.pool} exists with the type {found.type}, and a pool keeps its type.",
            remedy=f"Name another with --pool, or give --type {found.type}.",
        )
    if found.base_job_template != base:
        client.update_work_pool(done.pool, WorkPoolUpdate(base_job_template=dict(base)))
        done.changed.append(f"work pool {done.pool}")


def parameter_form(flow: str) -> dict[str, Any]:
    """The schema of a flow's parameters, which the UI makes a form of; without importing the flow, which takes seconds.

    All flows take one optional model named `parameters`.
    """
    from prefect.utilities.callables import parameter_schema

    def form() -> None:
        """Stands for the flow."""

    model = parameters_of(flow) | None
    parameter = Parameter("parameters", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=model)
    form.__signature__ = Signature([parameter])  # type: ignore[attr-defined]
    return parameter_schema(form).model_dump(exclude_unset=True)


def _wanted(deployment: Deployment, pool: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What the server is to say of a deployment, in the words of its API."""
    return {
        "version": version("coinswarm-memory"),
        "description": deployment.description,
        "tags": deployment.all_tags,
        "parameters": deployment.parameters,
        "parameter_openapi_schema": parameter_form(deployment.flow),
        "enforce_parameter_schema": True,
        "entrypoint": deployment.entrypoint,
        "path": None,
        "pull_steps": [],
        "work_pool_name": pool,
        "job_variables": dict(variables),
        "concurrency_limit": deployment.at_once,
        "concurrency_options": {"collision_strategy": deployment.collision},
    }


def _present(found: DeploymentResponse) -> dict[str, Any]:
    """What the server says of a deployment, in the same words."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    return {
        "version": found.version,
        "description": found.description,
        "tags": sorted(found.tags),
        "parameters": found.parameters,
        "parameter_openapi_schema": found.parameter_openapi_schema,
        "enforce_parameter_schema": found.enforce_parameter_schema,
        "entrypoint": found.entrypoint,
        "path": found.path,
        "pull_steps": found.pull_steps or [],
        "work_pool_name": found.work_pool_name,
        "job_variables": found.job_variables,
        "concurrency_limit": limit.limit if limit is not None else None,
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options is not None else None,
    }


def _bring_deployment(
    client: SyncPrefectClient, done: Registered, deployment: Deployment, variables: Mapping[str, Any]
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    wanted = _wanted(deployment, done.pool, variables)
    try:
        found = client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        flow_id = client.create_flow_from_name(deployment.flow)
        created = client.create_deployment(flow_id, deployment.name, schedules=_schedules(deployment), **wanted)
        done.deployments[deployment.full_name] = created
        done.created.append(deployment.full_name)
        return
    done.deployments[deployment.full_name] = found.id
    differs = _present(found) != wanted
    if differs:
        client.update_deployment(found.id, DeploymentUpdate(**wanted))
    if _bring_schedule(client, found, deployment) or differs:
        done.changed.append(deployment.full_name)


def _schedules(deployment: Deployment) -> list[Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    if deployment.cron is None:
        return []
    return [DeploymentScheduleCreate(schedule=_cron(deployment.cron), slug=deployment.schedule_slug, active=True)]


def _cron(text: str) -> Any:
    from prefect.client.schemas.schedules import CronSchedule

    return CronSchedule(cron=text, timezone="UTC")


def _bring_schedule(client: SyncPrefectClient, found: DeploymentResponse, deployment: Deployment) -> bool:
    """Bring a deployment's schedule to the server, known by its slug; whether anything had to be done."""
    changed = False
    ours = None
    for schedule in found.schedules:
        if schedule.slug == deployment.schedule_slug and deployment.cron is not None:
            ours = schedule
        elif (schedule.slug or "").startswith(f"{TAG}-"):
            client.delete_deployment_schedule(found.id, schedule.id)
            changed = True
    if deployment.cron is None:
        return changed
    if ours is None:
        client.create_deployment_schedules(found.id, _schedules(deployment))
        return True
    wanted = _cron(deployment.cron)
    if ours.schedule != wanted:
        client.update_deployment_schedule(found.id, ours.id, schedule=wanted)
        changed = True
    return changed


def _remove_undeclared(client: SyncPrefectClient, done: Registered, namespace: str) -> None:
    """Remove deployments that were registered for the namespace and are not declared any more; their runs stay."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags, FlowFilter, FlowFilterId

    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG, namespace_tag(namespace)]))
    known = set(done.deployments.values())
    undeclared: list[DeploymentResponse] = []
    for offset in range(0, 100 * _PAGE, _PAGE):
        page = client.read_deployments(deployment_filter=tagged, limit=_PAGE, offset=offset)
        # Somebody's copy of a deployment has its tags, under a name of its own.
        undeclared += [
            found
            for found in page
            if found.id not in known and (found.name == namespace or found.name.startswith(f"{namespace}."))
        ]
        if len(page) < _PAGE:
            break
    if not undeclared:
        return
    flow_ids = FlowFilter(id=FlowFilterId(any_=[found.flow_id for found in undeclared]))
    names = {flow.id: flow.name for flow in client.read_flows(flow_filter=flow_ids)}
    for found in undeclared:
        client.delete_deployment(found.id)
        done.removed.append(f"{names[found.flow_id]}/{found.name}")
