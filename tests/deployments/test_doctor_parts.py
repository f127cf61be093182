"""Single checks of `coinswarm doctor`: packages, Prefect, what ran, how old knowledge is. Each fault has a remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from deployments import doctor_ledger, doctor_servers
from deployments.console import Console
from deployments.doctor import _age_of_knowledge, doctor
from deployments.doctor_servers import (
    AGAIN,
    check_prefect,
    check_servers,
    judge_prefect,
    unmet_requirements,
    while_starting,
)
from deployments.examination import Examination, attempt
from deployments.prefect_state import DeploymentState, FailedRun, PrefectState
from deployments.reaching import DOWN, READY, UNUSED, Reached, ServerState
from deployments.up_state import Phase
from memory import Freshness, Window
from memory.ledger import Ledger
from memory.settings import Settings
from memory.store.health import Check

NOW = datetime.now(UTC)
WINDOW = Window.of_date(NOW.date() - timedelta(days=1))


def case(
    *,
    live: int = 0,
    api_url: str | None = None,
    prefect: str = UNUSED,
    up: Phase | None = None,
    pid: int | None = None,
    **settings: Any,
) -> Examination:
    """An examination of servers that were not asked."""
    servers = tuple(
        ServerState(name=name, state=state, pid=pid, log=Path(f"/logs/{name}.log"))
        for name, state in (("redis", READY), ("postgres", READY), ("prefect", prefect))
    )
    reached = Reached(redis_url=None, database_url=None, prefect_api_url=api_url, servers=servers, up=up)
    return Examination(Settings(**settings), reached, experiences=live, live=live)


def by_name(checks: list[Check]) -> dict[str, Check]:
    for check in checks:
        assert check.status == "ok" or check.remedy, check
    return {check.name: check for check in checks}


# --- packages --------------------------------------------------------------------------------------------------


def test_a_package_of_another_version_is_named_with_what_is_needed() -> None:
    found = unmet_requirements(["redis>=999", "numpy>=1", 'pytest>=999; extra == "jobs"'])
    assert {text.split()[0] for text in found} == {"redis", "pytest"}
    assert any("redis" in text and ">=999 is needed" in text for text in found)


def test_what_nobody_wanted_or_installed_is_no_fault() -> None:
    assert unmet_requirements(['redis>=999; extra == "policy"', "no-such-package>=1", "not a requirement"]) == set()


def test_what_an_installed_version_needs_besides_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_servers, "CONDITIONAL_PINS", (("redis>=1", "numpy>=999"), ("redis>=999", "pytest>=999")))
    (found,) = unmet_requirements([])
    assert found.startswith("numpy")


# --- Prefect ---------------------------------------------------------------------------------------------------


def deployment(name: str = "nightly/default", **changes: Any) -> DeploymentState:
    values: dict[str, Any] = {
        "name": name,
        "flow": name.partition("/")[0],
        "pool": "coinswarm",
        "paused": False,
        "scheduled": True,
        "ready": True,
        "next_run": datetime.now(UTC) + timedelta(hours=2, minutes=1),
    }
    return DeploymentState(**{**values, **changes})


def state(**changes: Any) -> PrefectState:
    values: dict[str, Any] = {
        "url": "http://127.0.0.1:4200/api",
        "version": "3.8.8",
        "closed": True,
        "deployments": [deployment(), deployment("janitor/default", scheduled=False, next_run=None)],
        "workers": ["worker-1"],
    }
    return PrefectState(**{**values, **changes})


def test_a_server_that_is_closed_and_has_everything_is_well() -> None:
    found = by_name(judge_prefect(Settings(webhook_url="https://hooks.example/x"), state()))
    assert {check.status.value for check in found.values()} == {"ok"}
    assert set(found) == {"prefect", "deployments", "worker", "webhook"}
    assert "2 registered, 1 with a schedule; the next run is due in 2.0 h" in found["deployments"].seen
    assert "hooks.example" not in found["webhook"].seen


@pytest.mark.parametrize(
    ("changes", "name", "status", "word"),
    [
        ({"closed": False}, "prefect", "warn", "everybody"),
        ({"deployments": []}, "deployments", "warn", "none is registered"),
        ({"deployments": [deployment(paused=True)]}, "deployments", "warn", "paused: nightly/default"),
        ({"deployments": [deployment(next_run=None)]}, "deployments", "warn", "no next run is planned"),
        ({"workers": []}, "worker", "fail", "none is online"),
        ({"late_runs": 3}, "worker", "warn", "3 runs are late"),
        ({}, "webhook", "warn", "nobody is told"),
    ],
)
def test_what_keeps_runs_from_happening_is_named(changes: dict[str, Any], name: str, status: str, word: str) -> None:
    check = by_name(judge_prefect(Settings(), state(**changes)))[name]
    assert (check.status.value, word in check.seen) == (status, True), check


@pytest.mark.parametrize("configured", [True, False])
def test_commands_of_prefect_name_the_server_and_where_its_password_is(configured: bool, tmp_path: Path) -> None:
    url = "http://127.0.0.1:4200/api"
    settings = Settings(home=tmp_path / "a home", prefect_api_url=url if configured else None)
    two = deployment(paused=True, inactive=["s-1", "s-2"])
    found = by_name(judge_prefect(settings, state(deployments=[two, deployment("janitor/default")], workers=[])))
    for name, command in (
        ("deployments", "deployment schedule resume nightly/default s-1"),
        ("worker", "worker start --pool coinswarm"),
    ):
        remedy = found[name].remedy
        assert f"PREFECT_API_URL={url}" in remedy
        assert (f"PREFECT_API_AUTH_STRING=\"$(cat '{tmp_path}/a home" in remedy) is not configured
        assert command in remedy
    assert found["deployments"].remedy.count(" && ") == 1


def test_a_deployment_that_is_paused_as_a_whole_is_resumed_in_the_ui() -> None:
    found = by_name(judge_prefect(Settings(), state(deployments=[deployment(paused=True)])))
    assert "in the UI" in found["deployments"].remedy


def test_each_paused_deployment_is_a_finding_of_its_own() -> None:
    several = [deployment(f"nightly/{name}", paused=True, inactive=[name]) for name in ("a", "b")]
    found = [check for check in judge_prefect(Settings(), state(deployments=several)) if check.name == "deployments"]
    assert [f"paused: nightly/{name}." in check.seen for name, check in zip("ab", found, strict=True)] == [True, True]


def test_a_server_that_does_not_answer_is_a_finding() -> None:
    check = by_name(check_prefect(case(api_url="http://127.0.0.1:9/api", prefect=READY)))["prefect"]
    assert (check.status.value, "COINSWARM_PREFECT_API_URL" in check.remedy) == ("fail", True)


def test_no_server_matters_only_where_agents_record_live() -> None:
    assert by_name(check_prefect(case()))["prefect"].status.value == "ok"
    assert by_name(check_prefect(case(live=5, prefect=DOWN)))["prefect"].status.value == "warn"


@pytest.mark.parametrize("prefect", ["starting", "preparing", "repairing"])
def test_servers_that_start_are_said_to_and_are_no_fault(tmp_path: Path, prefect: str) -> None:
    examined = case(prefect=prefect, pid=7, home=tmp_path)
    for check in (by_name(check_servers(examined))["servers"], by_name(check_prefect(examined))["prefect"]):
        assert (check.status.value, check.remedy[: len(AGAIN)]) == ("warn", AGAIN)
        assert prefect in check.seen
    failed = by_name(check_servers(case(prefect="failed", pid=7, home=tmp_path)))["servers"]
    assert failed.remedy == "See /logs/prefect.log."


def test_what_an_up_that_starts_has_not_brought_yet_is_no_fault(tmp_path: Path) -> None:
    examined = case(up="starting", home=tmp_path)
    assert "coinswarm up is starting them" in by_name(check_servers(examined))["servers"].seen
    half = judge_prefect(examined.settings, state(workers=[], closed=False, deployments=[deployment(next_run=None)]))
    told = by_name(while_starting(examined, half))
    assert {name: check.status.value for name, check in told.items()} == dict.fromkeys(told, "warn")
    assert [name for name, check in told.items() if check.remedy == AGAIN] == ["deployments", "worker"]
    assert "none is online" in told["worker"].seen
    silent = check_prefect(case(up="starting", api_url="http://127.0.0.1:9/api", prefect=READY))
    assert by_name(silent)["prefect"].remedy == AGAIN
    assert by_name(while_starting(case(up="ready"), half))["worker"].status.value == "fail"


def test_runs_that_only_prefect_knows_of_are_named_with_the_command() -> None:
    lost = FailedRun(
        run_id="f-1",
        flow="janitor",
        status="CRASHED",
        message="no such image",
        at=NOW,
        began=NOW,
        due=NOW,
        parameters={"namespace": "crypto"},
    )
    found = by_name(judge_prefect(Settings(namespace="crypto"), state(), [lost]))["runs"]
    assert "janitor crashed" in found.seen
    assert "no such image" in found.seen
    assert (found.status.value, found.remedy) == ("warn", "coinswarm run janitor --namespace crypto")


# --- how old knowledge is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_h", "live", "status"), [(25.0, 5, "ok"), (27.0, 5, "warn"), (27.0, 0, "ok"), (None, 5, "ok")]
)
def test_old_knowledge_matters_where_agents_record_live(age_h: float | None, live: int, status: str) -> None:
    examined = case(live=live)
    examined.freshness = Freshness(
        namespace="default",
        encoder_id="rff-1",
        line=None if age_h is None else "default/rff-1/1",
        lines=(),
        window=None if age_h is None else WINDOW,
        known_at=None if age_h is None else NOW - timedelta(hours=age_h),
        age_s=None if age_h is None else age_h * 3600,
        windows=0 if age_h is None else 1,
        asked_at=NOW,
    )
    check = _age_of_knowledge(examined)
    by_name([check])
    assert check.status.value == status
    examined.settings = Settings(knowledge_max_age_h=100)
    assert _age_of_knowledge(examined).status.value == "ok"


# --- before the first night ------------------------------------------------------------------------------------

TODAY = date(2021, 7, 2)


@pytest.mark.parametrize(
    ("days", "learned", "command"),
    [
        pytest.param(("06-17", "06-20"), (), "run backfill --from 2021-06-17 --to 2021-06-20", id="history"),
        pytest.param(("06-17", "06-20"), ("06-17",), "run backfill --from 2021-06-18 --to 2021-06-20", id="the rest"),
        pytest.param(("06-17", "06-20"), ("06-19", "06-20"), None, id="all was learned"),
        pytest.param(("07-01", "07-01"), (), "run nightly", id="the last full day"),
        pytest.param(("07-01", "07-02"), (), "run nightly", id="the last full day, and today"),
        pytest.param(("06-30", "07-02"), (), "run backfill --from 2021-06-30 --to 2021-07-01", id="not today"),
        pytest.param(("07-02", "07-02"), (), None, id="only today"),
        pytest.param(None, (), None, id="tomorrow"),
    ],
)
def test_the_command_before_the_first_night_learns_from_the_days_that_there_are(
    monkeypatch: pytest.MonkeyPatch, days: tuple[str, str] | None, learned: tuple[str, ...], command: str | None
) -> None:
    def day(text: str) -> date:
        return date.fromisoformat(f"2021-{text}")

    examined = case(live=7, namespace="crypto")
    examined.reached = replace(examined.reached, redis_url="unix:///nobody.sock")
    there = None if days is None else (day(days[0]), day(days[1]))
    monkeypatch.setattr(doctor_ledger, "_days", lambda *_: there)
    check = doctor_ledger.never_ran(examined, [Window.of_date(day(text)) for text in learned], today=TODAY)
    by_name([check])
    assert check.remedy == ("" if command is None else f"coinswarm {command} --namespace crypto")


# --- what ran, of the ledger -----------------------------------------------------------------------------------


def examined(namespace: str) -> dict[str, Check]:
    found = doctor(namespace, Console(as_json=True))["checks"]
    return by_name([Check(**check) for check in found])


def test_a_flow_that_failed_is_named_with_the_command_and_not_twice_where_a_night_failed_with_it(
    ledger: Ledger, configured: str
) -> None:
    night = ledger.runs.start("nightly", configured, {}, window=WINDOW, lease_s=60)
    for flow in ("consolidate_memories", "verify_memory"):
        ledger.runs.fail(ledger.runs.start(flow, configured, {}, window=WINDOW, lease_s=60), f"{flow} went wrong")
    ledger.runs.finish(night, {})
    found = doctor(configured, Console(as_json=True))["checks"]
    failed = {check["seen"].partition(":")[0]: check["remedy"] for check in found if check["name"] == "flows"}
    assert set(failed) == {"consolidate_memories", "verify_memory"}
    assert failed["verify_memory"] == f"coinswarm run verify_memory --namespace {configured}"
    with ledger.transaction() as session:
        session.execute(
            sa.text("UPDATE runs SET status = 'FAILED', error = 'all of it' WHERE run_id = :run"), {"run": night}
        )
    found = doctor(configured, Console(as_json=True))["checks"]
    assert [check["status"].value for check in found if check["name"] == "flows"] == ["ok"]


def test_everything_that_is_looked_at_in_an_empty_namespace_is_well(ledger: Ledger, configured: str) -> None:
    found = examined(configured)
    names = {"decisions", "knowledge age", "ledger clock", "flows", "backup", "leftovers", "prefect"}
    assert names <= set(found)
    assert {found[name].status.value for name in names} == {"ok"}


def test_a_look_that_meets_an_error_is_a_finding(tmp_path: Path) -> None:
    def look() -> list[Check]:
        (tmp_path / "nobody").read_text()
        return []

    (found,) = attempt("archive", look)
    assert (found.status.value, "nobody" in found.seen, found.remedy) == ("fail", True, "Check the rights on it.")
