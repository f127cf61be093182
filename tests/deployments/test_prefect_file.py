"""`prefect.yaml` and the registry say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import deploy
from deployments.prefect_file import FILE, render
from deployments.registry import deployments
from deployments.work_pools import POOL_TYPES, default_pool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """The file that ships."""
    found: dict[str, Any] = yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))
    return found


def test_the_file_is_what_the_registry_says() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == render(), "run `coinswarm deploy --write prefect.yaml`"


def test_it_has_each_deployment_with_schedule_and_limit(content: dict[str, Any]) -> None:
    for entry, declared in zip(content["deployments"], deployments("default"), strict=True):
        assert (entry["name"], entry["entrypoint"]) == (declared.name, declared.entrypoint)
        assert entry["concurrency_limit"] == {"limit": declared.at_once, "collision_strategy": declared.collision}
        assert [each["cron"] for each in entry["schedules"]] == ([declared.cron] if declared.cron else [])
        assert all(each["timezone"] == "UTC" and each["slug"] for each in entry["schedules"])


def test_nothing_is_built_or_pulled(content: dict[str, Any]) -> None:
    assert [content[step] for step in ("build", "push", "pull")] == [[], [], []]


def test_it_names_pools_of_all_types(content: dict[str, Any]) -> None:
    pools = content["definitions"]["work_pools"]
    assert {kind: pool["name"] for kind, pool in pools.items()} == {kind: default_pool(kind) for kind in POOL_TYPES}
    assert all(entry["work_pool"] == pools["process"] for entry in content["deployments"])


def test_settings_of_this_process_do_not_enter_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render()
    monkeypatch.setenv("COINSWARM_WEBHOOK_URL", "http://localhost/secret")
    monkeypatch.setenv("COINSWARM_HEARTBEAT_S", "99")
    monkeypatch.setenv("COINSWARM_RESULTS_URL", "/somewhere")
    assert render() == before


def test_writing_it_twice_changes_it_once(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert deploy.write(path, "other")["changed"]
    assert not deploy.write(path, "other")["changed"]
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"][0]["name"] == "other"
