"""What a cluster is given: the jobs of the template, and the objects that stand around them, fit one another."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from deployments.work_pools import TEMPLATES, default_pool, template

Manifest = dict[str, Any]
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture(scope="module")
def objects() -> dict[str, Manifest]:
    """The objects of `kubernetes.yaml` by their kind."""
    text = (TEMPLATES / "kubernetes.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """Defaults of the template's variables."""
    declared = template("kubernetes")["variables"]["properties"]
    return {name: each.get("default") for name, each in declared.items()}


def job() -> Manifest:
    """The job of the template."""
    found: Manifest = template("kubernetes")["job_configuration"]["job_manifest"]
    return found


def pods(objects: dict[str, Manifest]) -> dict[str, Manifest]:
    """What a run and the worker are, as pods."""
    return {
        "run": job()["spec"]["template"]["spec"],
        "worker": objects["Deployment"]["spec"]["template"]["spec"],
    }


@pytest.mark.parametrize("name", ["run", "worker"])
def test_a_namespace_that_enforces_the_restricted_standard_takes_the_pods(
    objects: dict[str, Manifest], name: str
) -> None:
    pod = pods(objects)[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [each["securityContext"] for each in pod["containers"]] == [RESTRICTED]
    assert objects["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", ["run", "worker"])
def test_pods_write_into_volumes_alone(objects: dict[str, Manifest], name: str) -> None:
    pod = pods(objects)[name]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert mounts["tmp"]["mountPath"] == "/tmp"
    assert mounts["secrets"]["readOnly"] is True


@pytest.mark.parametrize("name", ["run", "worker"])
def test_services_of_the_namespace_set_no_variables_of_prefect(objects: dict[str, Manifest], name: str) -> None:
    assert pods(objects)[name]["enableServiceLinks"] is False


def test_a_pod_that_is_taken_away_is_not_replaced_while_it_hands_its_run_back() -> None:
    # It schedules its run again itself; another pod of the same job would be a second one of the same run.
    assert (job()["spec"]["backoffLimit"], job()["spec"]["podReplacementPolicy"]) == (0, "Failed")


def test_runs_hold_no_token_of_the_cluster() -> None:
    assert job()["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_worker_makes_and_watches_jobs_of_its_namespace_and_reads_no_secret(objects: dict[str, Manifest]) -> None:
    allowed = {
        (resource, verb)
        for rule in objects["Role"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    looks = {(resource, verb) for resource in ("jobs", "pods") for verb in ("get", "list", "watch")}
    assert allowed == looks | {("jobs", "create"), ("jobs", "delete"), ("pods/log", "get")}
    bound = objects["RoleBinding"]
    account = objects["ServiceAccount"]["metadata"]
    assert [(each["name"], each["namespace"]) for each in bound["subjects"]] == [
        (account["name"], account["namespace"])
    ]
    assert (bound["roleRef"]["kind"], bound["roleRef"]["name"]) == ("Role", objects["Role"]["metadata"]["name"])
    assert pods(objects)["worker"]["serviceAccountName"] == account["name"]


def test_the_worker_watches_no_more_than_the_namespace_that_it_may(objects: dict[str, Manifest]) -> None:
    given = {each["name"]: each for each in pods(objects)["worker"]["containers"][0]["env"]}
    watched = given["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"]
    assert watched["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"


def test_jobs_find_what_lies_around_them(objects: dict[str, Manifest], variables: dict[str, Any]) -> None:
    namespace = objects["Namespace"]["metadata"]["name"]
    assert {each["metadata"]["namespace"] for kind, each in objects.items() if kind != "Namespace"} == {namespace}
    assert variables["namespace"] == namespace
    assert variables["home_claim"] == objects["PersistentVolumeClaim"]["metadata"]["name"]
    worker = pods(objects)["worker"]
    assert variables["image"] == worker["containers"][0]["image"]
    secrets = {volume["secret"]["secretName"] for volume in worker["volumes"] if "secret" in volume}
    assert secrets == {variables["secret_name"]}


def test_the_worker_serves_the_pool_that_deploy_makes(objects: dict[str, Manifest]) -> None:
    container = pods(objects)["worker"]["containers"][0]
    arguments = container["args"]
    assert arguments[arguments.index("--pool") + 1] == default_pool("kubernetes")
    assert arguments[arguments.index("--type") + 1] == "kubernetes"


def test_the_worker_is_given_its_password_as_a_file_alone(objects: dict[str, Manifest]) -> None:
    worker = pods(objects)["worker"]
    given = {each["name"]: each.get("value") for each in worker["containers"][0]["env"]}
    path = PurePosixPath(given["PREFECT_API_AUTH_STRING_FILE"] or "")
    mounted = {mount["name"]: mount["mountPath"] for mount in worker["containers"][0]["volumeMounts"]}
    assert str(path.parent) == mounted["secrets"]
    held = [item["path"] for volume in worker["volumes"] if "secret" in volume for item in volume["secret"]["items"]]
    assert held == [path.name], "the worker needs neither Redis nor Postgres"


def test_the_objects_travel_with_the_package() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"pools/*.yaml"' in text
