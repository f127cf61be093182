"""`prefect.yaml`: the registry in Prefect's own words, for those who deploy with `prefect deploy --all`.

Written by `coinswarm deploy --write prefect.yaml`, and held equal to the registry by a test. It has what Prefect's
command knows: deployments with schedules, parameters and limits, and the work pools to choose from; no automations.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import yaml

from deployments.registry import Deployment, deployments
from deployments.work_pools import POOL_TYPES, PoolType, default_pool, job_variables
from memory.settings import Settings

FILE = "prefect.yaml"
_HEADER = """\
# Written by `coinswarm deploy --write prefect.yaml` from deployments/registry.py; change that, not this.
#
# `coinswarm deploy` does all of it in one step: work pool, deployments, limits, automations. With Prefect's own tools:
#   prefect work-pool create {process} --type process --base-job-template deployments/pools/process.json
#   prefect --no-prompt deploy --all
#   prefect worker start --pool {process} --type process
# For containers, make the pool of that type from its template, and let deployments name `*docker` or `*kubernetes`:
#   prefect work-pool create {docker} --type docker --base-job-template deployments/pools/docker.json
#   prefect work-pool create {kubernetes} --type kubernetes --base-job-template deployments/pools/kubernetes.json
# `coinswarm deploy --type docker` also refuses what containers cannot reach, and gives runs this machine's settings.
# `train_agents` and `evaluate_agents` need the extra `policy` at the workers: take out their schedules where it is not.
# Workers import the flows by module path from where this project is installed: nothing is built or pulled.
"""


def render(namespace: str = "default", pool_type: PoolType = "process") -> str:
    """The text of `prefect.yaml` for a namespace, with all other settings at their defaults."""
    # Whatever this process is configured with, the file is the same.
    settings = Settings.model_construct(namespace=namespace)
    parts = [
        _HEADER.format(**{kind: default_pool(kind) for kind in POOL_TYPES}),
        "name: coinswarm-memory\nbuild: []\npush: []\npull: []\n",
        "definitions:\n  work_pools:\n",
    ]
    for kind in POOL_TYPES:
        pool = {"name": default_pool(kind), "job_variables": job_variables(settings, "process")}
        parts.append(f"    {kind}: &{kind}\n{_indented(pool, 6)}")
    parts.append("\ndeployments:\n")
    parts.extend(_entry(each, pool_type) for each in deployments(namespace))
    return "".join(parts)


def _entry(deployment: Deployment, pool_type: PoolType) -> str:
    entry: dict[str, Any] = {
        "name": deployment.name,
        "version": version("coinswarm-memory"),
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": deployment.all_tags,
        "parameters": deployment.parameters,
        "concurrency_limit": {"limit": deployment.at_once, "collision_strategy": deployment.collision},
        "schedules": [],
    }
    if deployment.cron is not None:
        entry["schedules"] = [{"cron": deployment.cron, "timezone": "UTC", "slug": deployment.schedule_slug}]
    lines = _indented(entry, 4)
    return f"  -{lines[3:]}    work_pool: *{pool_type}\n"


def _indented(value: dict[str, Any], width: int) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return "".join(f"{' ' * width}{line}\n" for line in text.splitlines())
