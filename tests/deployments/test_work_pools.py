"""Work pools: templates, and what runs in containers can and cannot reach."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deployments.work_pools import (
    POOL_TYPES,
    PoolType,
    WorkPoolError,
    check_reach,
    checked_pool,
    checked_type,
    job_variables,
    template,
)
from memory.settings import Settings

EVERYWHERE = {
    "redis_url": "rediss://:hidden-1@redis.example:6379",
    "database_url": "postgresql://coinswarm:hidden-2@db.example/coinswarm",
    "prefect_api_url": "https://prefect.example/api",
    "archive_url": "s3://bucket/archive",
    "results_url": "s3://bucket/results",
    "backup_url": "/var/lib/coinswarm/backups",
}
OFF_MACHINE: tuple[PoolType, ...] = ("docker", "kubernetes")


def settings(**other: Any) -> Settings:
    """Settings that every machine can work with, unless told otherwise."""
    return Settings(**{**EVERYWHERE, **other})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x/y", "it holds '/'"),
        ("a?b#c", "it holds '#' '?'"),
        ("two\nlines", r"it holds '\n'"),
        ("", "it is empty."),
        (" ", "it is empty but for"),
        ("..", "it is empty but for"),
        ("z" * 101, "it has 101 characters, and may have 100"),
        ("Prefect-mine", "Prefect keeps names"),
    ],
)
def test_a_name_that_no_pool_can_have_is_refused_before_a_server_is_asked(typed: Any, name: str, says: str) -> None:
    done = typed("deploy", "--pool", name, "--type", "process")
    assert (done.code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"cannot be the name of a work pool: {says}" in done.stderr
    assert done.stderr.endswith("Name another with --pool, or leave it out for coinswarm.\n")


def test_a_name_may_hold_what_people_write() -> None:
    assert checked_pool("night runs (2), Zürich", "docker") == "night runs (2), Zürich"
    assert checked_pool(None, "docker") == "coinswarm-docker"


@pytest.mark.parametrize("parts", [{"job_configuration": []}, {"variables": "none"}])
def test_a_template_whose_parts_are_no_objects_is_none(tmp_path: Path, parts: dict[str, Any]) -> None:
    path = tmp_path / "template.json"
    path.write_text(json.dumps({**template("docker"), **parts}))
    with pytest.raises(WorkPoolError, match="is no base job template"):
        template("docker", path)


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_templates_declare_each_variable_that_they_use(pool_type: PoolType) -> None:
    found = template(pool_type)
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(found["job_configuration"])))
    assert used == set(found["variables"]["properties"])


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
def test_containers_read_secrets_from_files_that_are_mounted(pool_type: PoolType) -> None:
    found = template(pool_type)
    environment = found["variables"]["properties"]["env"]["default"]
    folders = {str(Path(path).parent) for name, path in environment.items() if name.endswith("_FILE")}
    assert folders == {"/run/secrets/coinswarm"}
    assert "PREFECT_HOME" in environment, "the worker's own would be given to the container"
    assert folders.pop() in json.dumps(found).replace(json.dumps(environment), "")


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
def test_workers_do_not_show_the_password_of_the_prefect_server(pool_type: PoolType) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    async def given() -> dict[str, str | None]:
        values = job_variables(settings(), pool_type)
        job = await BaseJobConfiguration.from_template_and_values(template(pool_type), values)
        job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="of-a-test"))
        return job.env

    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api", PREFECT_API_AUTH_STRING: "me:hidden-5"}):
        environment = asyncio.run(given())
    assert environment["PREFECT_API_URL"] == "http://prefect.example/api"
    assert environment["PREFECT_API_AUTH_STRING_FILE"] == "/run/secrets/coinswarm/prefect_auth"
    assert "hidden" not in json.dumps(environment)
    assert "PREFECT_API_AUTH_STRING" not in environment


def test_containers_of_kubernetes_are_not_root() -> None:
    manifest = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert manifest["securityContext"]["runAsNonRoot"] is True
    assert manifest["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_containers_of_docker_have_no_rights_and_write_to_the_home_alone() -> None:
    found = template("docker")
    given = found["variables"]["properties"]["container_create_kwargs"]["default"]
    assert (given["read_only"], given["cap_drop"], set(given["tmpfs"])) == (True, ["ALL"], {"/tmp"})
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert found["variables"]["properties"]["privileged"]["default"] is False
    writable = [each for each in found["variables"]["properties"]["volumes"]["default"] if not each.endswith(":ro")]
    assert [each.partition(":")[2] for each in writable] == ["/var/lib/coinswarm"]


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
def test_what_every_machine_reaches_is_accepted(pool_type: PoolType) -> None:
    check_reach(settings(), pool_type)


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"redis_url": None}, "COINSWARM_REDIS_URL: not set, and embedded Redis"),
        ({"database_url": None}, "COINSWARM_DATABASE_URL: not set, and embedded Postgres"),
        ({"prefect_api_url": None}, "COINSWARM_PREFECT_API_URL: not set"),
        ({"redis_url": "unix:///run/redis.sock"}, "COINSWARM_REDIS_URL: a socket of this machine"),
        ({"database_url": "postgresql:///coinswarm?host=/run/postgres"}, "COINSWARM_DATABASE_URL: a socket"),
        ({"redis_url": "redis://127.0.0.1:6379"}, "COINSWARM_REDIS_URL: 127.0.0.1 is the container itself"),
        ({"prefect_api_url": "http://localhost:4200/api"}, "COINSWARM_PREFECT_API_URL: localhost is the container"),
        ({"redis_url": "redis+sentinel://:p@a:1,localhost:2/m"}, "COINSWARM_REDIS_URL: localhost is the container"),
        ({"database_url": "postgresql://u@a,127.0.0.1:5433/d"}, "COINSWARM_DATABASE_URL: 127.0.0.1 is the container"),
        ({"database_url": "postgresql://a/d?host=/run/pg"}, "COINSWARM_DATABASE_URL: a socket"),
        ({"redis_url": "redis://:p@[::1]:6379"}, "COINSWARM_REDIS_URL: ::1 is the container"),
        ({"archive_url": "s3://key:hidden-3@bucket"}, "COINSWARM_ARCHIVE_URL: it holds credentials"),
    ],
)
def test_what_serves_one_machine_is_refused_with_the_reason(
    pool_type: PoolType, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WorkPoolError, match=re.escape(reason)) as refused:
        check_reach(settings(**changed), pool_type)
    assert "hidden" not in str(refused.value)
    assert str(refused.value).count("COINSWARM_") == 1


def test_all_reasons_are_named_at_once() -> None:
    with pytest.raises(WorkPoolError) as refused:
        check_reach(Settings(), "docker")
    assert str(refused.value).count("COINSWARM_") == 6


def test_processes_of_this_machine_work_with_whatever_it_has() -> None:
    check_reach(Settings(), "process")


def test_runs_elsewhere_are_given_the_settings_that_were_made_but_no_secret() -> None:
    given = settings(webhook_url="https://hook.example/hidden-4", learning={"min_support": 4}, late_windows=3)
    environment = job_variables(given, "docker")["env"]
    assert environment["COINSWARM_LEARNING"] == '{"min_support": 4}'
    assert environment["COINSWARM_LATE_WINDOWS"] == "3"
    assert environment["COINSWARM_ARCHIVE_URL"] == "s3://bucket/archive"
    assert "hidden" not in json.dumps(environment)
    assert not {"COINSWARM_REDIS_URL", "COINSWARM_HOME", "COINSWARM_PREFECT_API_URL"} & set(environment)


def test_settings_that_are_passed_on_are_read_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(learning={"alpha": 1.0}, share_on_record=True, data_roots="/a:/b", seed=7)
    for name, value in job_variables(given, "kubernetes")["env"].items():
        monkeypatch.setenv(name, value)
    there = Settings()
    for name in ("learning", "share_on_record", "seed", "archive_url", "results_url"):
        assert getattr(there, name) == getattr(given, name)


def test_processes_inherit_their_settings_from_the_worker() -> None:
    environment = job_variables(settings(late_windows=3), "process")["env"]
    assert {name for name in environment if name.startswith("COINSWARM_")} == {"COINSWARM_NAMESPACE"}


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_a_run_that_is_told_no_namespace_works_on_that_of_its_deployment(pool_type: PoolType) -> None:
    assert job_variables(settings(namespace="mine"), pool_type)["env"]["COINSWARM_NAMESPACE"] == "mine"


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_every_run_gives_signs_of_life_and_keeps_results_as_json(pool_type: PoolType) -> None:
    environment = job_variables(settings(heartbeat_s=45), pool_type)["env"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "45"
    assert environment["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert all(isinstance(value, str) for value in environment.values())


def test_an_unknown_type_is_refused_with_the_choices() -> None:
    with pytest.raises(WorkPoolError, match="process, docker, kubernetes"):
        checked_type("ecs")


def test_a_template_of_ones_own_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    for text in ("{", "[]", '{"variables": {}}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(WorkPoolError, match=re.escape(str(path))):
            template("docker", path)
    path.write_text(json.dumps(template("docker")), encoding="utf-8")
    assert template("docker", path) == template("docker")
