"""Registration on a real Prefect server: everything is there after one call, and a second one changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments import deploy, deploying
from deployments.console import Console
from deployments.deploying import Registered, parameter_form, register
from deployments.registry import DRAIN, Deployment, deployments
from deployments.results import ResultsError, save_block
from deployments.work_pools import WorkPoolError, template
from memory.settings import Settings

WEBHOOK = "http://127.0.0.1:9/hidden-token"


@pytest.fixture
def few(namespace: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Deployment, ...]:
    """A registry of a night, its drain and one that is started by hand."""
    chosen = {("nightly", ""), ("record_experiences", DRAIN), ("verify_memory", "")}
    found = tuple(each for each in deployments(namespace) if (each.flow, each.purpose) in chosen)
    declare(found, monkeypatch)
    return found


def declare(found: tuple[Deployment, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry hold these."""
    monkeypatch.setattr(deploying, "deployments", lambda _, left_out: found)


@pytest.fixture
def settings(namespace: str) -> Settings:
    """Settings of a namespace of its own."""
    return Settings(namespace=namespace)


@pytest.fixture
def client(prefect_server: str) -> Iterator[Any]:
    """What the UI sees."""
    from prefect.client.orchestration import get_client

    assert prefect_server
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def pool(namespace: str) -> str:
    """A work pool of its own."""
    return f"pool-{namespace}"


@pytest.fixture
def registered(settings: Settings, pool: str, few: tuple[Deployment, ...], client: Any) -> Registered:
    """What the first registration did."""
    assert few
    return register(settings, pool=pool)


def test_the_first_registration_brings_all_of_it(
    registered: Registered, few: tuple[Deployment, ...], pool: str, client: Any
) -> None:
    assert client.read_work_pool(pool).type == "process"
    for declared in few:
        found = client.read_deployment_by_name(declared.full_name)
        assert found.id == registered.deployments[declared.full_name]
        assert (found.work_pool_name, found.entrypoint) == (pool, declared.entrypoint)
        assert found.global_concurrency_limit.limit == declared.at_once
        assert found.concurrency_options.collision_strategy == declared.collision
        assert [schedule.schedule.cron for schedule in found.schedules] == ([declared.cron] if declared.cron else [])
        assert all(schedule.schedule.timezone == "UTC" and schedule.active for schedule in found.schedules)
        assert found.parameters == declared.parameters


def test_the_second_registration_changes_nothing(
    registered: Registered, settings: Settings, pool: str, client: Any
) -> None:
    again = register(settings, pool=pool)
    assert (again.created, again.changed, again.removed) == ([], [], [])
    assert (again.deployments, again.automations) == (registered.deployments, registered.automations)


def test_what_a_person_chose_in_the_ui_stays(
    registered: Registered, settings: Settings, pool: str, few: tuple[Deployment, ...], client: Any
) -> None:
    night = next(each for each in few if each.flow == "nightly")
    found = client.read_deployment_by_name(night.full_name)
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    client.pause_deployment(found.id)
    name, automation = next(iter(registered.automations.items()))
    client.pause_automation(automation)
    assert register(settings, pool=pool).changed == []
    found = client.read_deployment_by_name(night.full_name)
    assert (found.paused, found.schedules[0].active) == (True, False)
    assert not client.read_automations_by_name(name)[0].enabled


def test_a_registry_that_changed_is_brought_up_to_date_with_the_same_ids(
    registered: Registered,
    settings: Settings,
    pool: str,
    few: tuple[Deployment, ...],
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = tuple(
        replace(each, cron="20 0 * * *", description="Later.") if each.flow == "nightly" else each
        for each in few
        if each.flow != "verify_memory"
    )
    changed = tuple(replace(each, cron=None) if each.purpose == DRAIN else each for each in changed)
    declare(changed, monkeypatch)
    again = register(settings, pool=pool)
    names = {each.flow: each.full_name for each in few}
    # Which runs are watched changes with the deployments that there are.
    watching = {
        f"automation 'coinswarm {settings.namespace}: {what}'" for what in ("crashed run again", "crashed run given up")
    }
    assert set(again.changed) == {each.full_name for each in changed} | watching
    assert again.removed == [names["verify_memory"]]
    night = client.read_deployment_by_name(names["nightly"])
    assert night.id == registered.deployments[names["nightly"]]
    assert (night.description, [each.schedule.cron for each in night.schedules]) == ("Later.", ["20 0 * * *"])
    assert client.read_deployment_by_name(names["record_experiences"]).schedules == []


def test_alerts_come_and_go_with_the_address_that_is_kept_secret(
    registered: Registered, settings: Settings, pool: str, client: Any
) -> None:
    told = Settings(namespace=settings.namespace, webhook_url=WEBHOOK)
    alerts = {f"coinswarm {settings.namespace}: {what}" for what in ("failed run", "crashed run", "knowledge old")}
    assert {name for name in register(told, pool=pool).automations if name in alerts} == alerts
    block = f"coinswarm-alerts-{settings.namespace}"
    shown = client.read_block_document_by_name(block, "webhook", include_secrets=False)
    assert WEBHOOK not in shown.model_dump_json()
    assert client.read_block_document_by_name(block, "webhook").data["url"] == WEBHOOK
    assert set(register(settings, pool=pool).removed) == {f"automation {name!r}" for name in alerts}


def test_an_automation_that_two_made_at_once_is_left_but_one(
    registered: Registered, settings: Settings, pool: str, client: Any
) -> None:
    from prefect.events.schemas.automations import AutomationCore

    name = f"coinswarm {settings.namespace}: no heartbeat"
    (first,) = client.read_automations_by_name(name)
    client.create_automation(AutomationCore(**first.model_dump(exclude={"id"})))
    assert register(settings, pool=pool).removed == [f"automation {name!r}"]
    assert len(client.read_automations_by_name(name)) == 1


@pytest.mark.usefixtures("few")
def test_results_in_a_bucket_have_a_block_that_runs_are_told(namespace: str, pool: str, client: Any) -> None:
    done = register(Settings(namespace=namespace, results_url="memory://results"), pool=pool)
    block = f"coinswarm-results-{namespace}"
    saved = client.read_block_document_by_name(block, "remote-file-system")
    assert saved.data["basepath"] == "memory://results"
    for found in done.deployments.values():
        environment = client.read_deployment(found).job_variables["env"]
        assert environment["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] == f"remote-file-system/{block}"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("url", "reason"), [("nowhere://x", "Install"), ("block:s3-bucket/none", "does not have")])
def test_results_that_cannot_be_kept_there_are_refused(url: str, reason: str, namespace: str) -> None:
    with pytest.raises(ResultsError, match=reason):
        save_block(Settings(namespace=namespace, results_url=url))


def test_a_pool_keeps_its_type(registered: Registered, settings: Settings, pool: str) -> None:
    shared = {
        "redis_url": "redis://redis.example",
        "database_url": "postgresql://db.example/x",
        "prefect_api_url": "http://prefect.example/api",
        "archive_url": "memory://archive",
        "results_url": "memory://results",
        "backup_url": "/var/lib/coinswarm/backups",
    }
    with pytest.raises(WorkPoolError, match="exists with the type process"):
        register(Settings(namespace=settings.namespace, **shared), pool=pool, pool_type="docker")


@pytest.mark.parametrize("pool_type", ["docker", "kubernetes"])
def test_the_server_takes_templates_of_types_whose_workers_are_elsewhere(
    pool_type: Any, pool: str, client: Any
) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    made = WorkPoolCreate(name=pool, type=pool_type, base_job_template=template(pool_type))
    assert client.create_work_pool(made).base_job_template == template(pool_type)


def test_the_form_is_that_of_the_flow_and_describes_each_parameter() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.verify_memory import verify_memory

    form = parameter_form("verify_memory")
    assert form == parameter_schema(verify_memory).model_dump(exclude_unset=True)
    (model,) = form["definitions"].values()
    assert all(entry["description"] for entry in model["properties"].values())


@pytest.mark.parametrize(
    ("pool_type", "template_path", "results_url", "error"),
    [
        ("docker", None, None, WorkPoolError),
        ("ecs", None, None, WorkPoolError),
        ("process", Path("nowhere.json"), None, WorkPoolError),
        ("process", None, "block:nothing", ResultsError),
    ],
)
def test_what_cannot_be_is_refused_before_a_server_is_started(
    pool_type: str,
    template_path: Path | None,
    results_url: str | None,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("COINSWARM_HOME", str(home))
    if results_url is not None:
        monkeypatch.setenv("COINSWARM_RESULTS_URL", results_url)
    with pytest.raises(error):
        deploy.deploy(None, None, pool_type, template_path, Console())
    assert not home.exists()
