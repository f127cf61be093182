"""What would go with a container: archive, snapshots, results and policies that no volume of the template holds."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.work_pools import PoolType, WorkPoolError, check_reach, template
from memory.settings import Settings

HOME = "/var/lib/coinswarm"
OFF_MACHINE: tuple[PoolType, ...] = ("docker", "kubernetes")
FOLDERS = ("archive_url", "backup_url", "results_url")


def settings(**other: Any) -> Settings:
    """Settings that every machine can work with, unless told otherwise."""
    everywhere = {
        "redis_url": "rediss://redis.example",
        "database_url": "postgresql://db.example/coinswarm",
        "prefect_api_url": "https://prefect.example/api",
        "archive_url": "s3://bucket/archive",
        "results_url": "s3://bucket/results",
        "backup_url": f"{HOME}/backups",
    }
    return Settings(**{**everywhere, **other})


def mounting(pool_type: PoolType, *folders: str, **how: Any) -> dict[str, Any]:
    """The project's template of a type, whose containers have the secrets and volumes at these folders."""
    base = template(pool_type)
    if pool_type == "docker":
        ends = ":ro" if how.get("readOnly") else ""
        volumes = ["/etc/coinswarm/secrets:/run/secrets/coinswarm:ro"]
        base["variables"]["properties"]["volumes"]["default"] = [
            *volumes,
            *(f"volume-{number}:{folder}{ends}" for number, folder in enumerate(folders)),
        ]
    else:
        pod = base["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        pod["containers"][0]["volumeMounts"] = [{"name": "home", "mountPath": folder, **how} for folder in folders]
    return base


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
@pytest.mark.parametrize("setting", FOLDERS)
@pytest.mark.parametrize("url", [f"{HOME}/of-mine", f"file://{HOME}/of-mine", "/mnt/elsewhere/mine"])
def test_what_lies_in_a_volume_of_the_template_is_accepted(pool_type: PoolType, setting: str, url: str) -> None:
    check_reach(settings(**{setting: url}), pool_type, mounting(pool_type, HOME, "/mnt/elsewhere"))


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
@pytest.mark.parametrize("setting", FOLDERS)
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "not set"),
        ("/srv/mine", "no volume of the template holds /srv/mine"),
        ("file:///srv/mine", "no volume of the template holds /srv/mine"),
        (f"{HOME}-other", f"no volume of the template holds {HOME}-other"),
    ],
)
def test_what_would_go_with_the_container_is_refused(
    pool_type: PoolType, setting: str, url: str | None, reason: str
) -> None:
    with pytest.raises(WorkPoolError, match=f"COINSWARM_{setting.upper()}: {reason}") as refused:
        check_reach(settings(**{setting: url}), pool_type)
    assert str(refused.value).count("COINSWARM_") == 1


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
def test_policies_in_a_home_that_no_volume_holds_are_refused(pool_type: PoolType) -> None:
    told = settings(backup_url="/mnt/snapshots")
    with pytest.raises(WorkPoolError, match=f"COINSWARM_HOME: policies .*{HOME}"):
        check_reach(told, pool_type, mounting(pool_type, "/mnt/snapshots"))
    check_reach(told, pool_type, mounting(pool_type, "/mnt/snapshots", HOME))


@pytest.mark.parametrize("pool_type", OFF_MACHINE)
def test_a_volume_that_may_not_be_written_to_holds_nothing(pool_type: PoolType) -> None:
    with pytest.raises(WorkPoolError, match="COINSWARM_HOME"):
        check_reach(settings(), pool_type, mounting(pool_type, HOME, readOnly=True))


def test_a_volume_that_goes_with_its_pod_holds_nothing() -> None:
    base = template("kubernetes")
    pod = base["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "home", "emptyDir": {}}]
    with pytest.raises(WorkPoolError, match="COINSWARM_HOME"):
        check_reach(settings(), "kubernetes", base)


def test_a_docker_volume_without_a_name_is_new_each_time() -> None:
    base = template("docker")
    base["variables"]["properties"]["volumes"]["default"] = [HOME]
    with pytest.raises(WorkPoolError, match="COINSWARM_HOME"):
        check_reach(settings(), "docker", base)
