"""`coinswarm status`: what it shows of servers, memory, flows and failures, whatever answers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rich.console

import memory
from deployments.console import Console
from deployments.status import age_text, disk_use, knowledge_line, show_status, status
from deployments.up_state import UpState, write_up
from deployments.watching import watched
from memory import SemanticType
from memory.ledger import Ledger
from memory.store.health_server import size_text
from memory.window import Window

WINDOW = Window.of_date(date(2021, 6, 17))


def shown(result: Any) -> str:
    out = rich.console.Console(width=200, record=True, force_terminal=False)
    with out.capture() as captured:
        show_status(result, out)
    return captured.get()


def publish_empty(servers: Any, namespace: str, windows: dict[Window, datetime]) -> None:
    """A line that was published through some windows."""

    async def run() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await mem.encoders.register("rff-1", fitted_until=WINDOW.start, definition={})
            await mem.indexes.ensure_semantic("rff-1")
            await mem.fence.raise_to(1)
            line = f"{namespace}/rff-1/1"
            await mem.semantic.set_current_line(line, "rff-1", token=1)
            await mem.semantic.publish_versions(
                [],
                line=line,
                kinds=(SemanticType.PATTERN,),
                token=1,
                since=None,
                horizon=None,
                windows={SemanticType.PATTERN: windows},
            )

    asyncio.run(run())


def test_an_empty_namespace_is_shown_whole(configured: str, ledger: Ledger) -> None:
    assert not ledger.runs.list(configured)
    result = status(None)
    json.dumps(result, allow_nan=False)
    assert result["namespace"] == configured
    assert [(server["name"], server["state"]) for server in result["servers"]] == [
        ("redis", "ready"),
        ("postgres", "ready"),
        ("prefect", "unused"),
    ]
    assert result["memory"]["experiences"] == result["memory"]["dead_letters"] == 0
    assert (result["flows"], result["failures"], result["problems"]) == ([], [], {})
    assert result["knowledge"]["age_s"] is None
    page = shown(result)
    assert "nothing was published yet" in page
    assert f"Nothing was ever run or recorded in '{configured}'" in page
    assert "digest" not in result


def test_what_failed_is_shown_with_the_command_that_does_it_again(ledger: Ledger, configured: str) -> None:
    given = {"namespace": configured, "source": "market"}
    whole = ledger.runs.start("nightly", configured, given, window=WINDOW, lease_s=60)
    part = ledger.runs.start("consolidate_memories", configured, {}, window=WINDOW, lease_s=60)
    ledger.runs.fail(part, "ArchiveError: gone [bold]")
    ledger.runs.fail(whole, "ArchiveError: gone [bold]")
    ledger.runs.finish(ledger.runs.start("verify_memory", configured, {}, lease_s=60), {})
    result = status(configured)
    flows = {flow["flow"]: flow for flow in result["flows"]}
    assert flows["verify_memory"]["last_success"]["run_id"] == flows["verify_memory"]["last"]["run_id"]
    assert flows["nightly"]["last_success"] is None
    again = f"coinswarm run nightly --namespace {configured} --date 2021-06-17 --param source=market"
    assert [(each["flow"], each["retry"], each["part_of"]) for each in result["failures"]] == [
        ("nightly", [again], None),
        ("consolidate_memories", [], "nightly"),
    ]
    lines = shown(result).splitlines()
    (named,) = [number for number, line in enumerate(lines) if line.startswith("nightly of 2021-06-17 failed")]
    assert "ArchiveError: gone [bold]" in lines[named]
    assert lines[named + 1] == f"  -> {again}"


def test_how_old_knowledge_is(servers: Any, configured: str) -> None:
    publish_empty(servers, configured, {WINDOW: datetime.now(UTC) - timedelta(hours=30)})
    found = status(configured)["knowledge"]
    assert (found["window"], found["windows"], found["too_old"], found["live"]) == ("2021-06-17", 1, True, False)
    assert found["age_s"] == pytest.approx(30 * 3600, abs=120)
    assert "of 2021-06-17, known for 30.0 h" in knowledge_line(found)
    assert knowledge_line(found).endswith("nothing is recorded live")
    assert knowledge_line({**found, "live": True}).endswith("too old")


@pytest.mark.parametrize("away", ["redis", "postgres"])
def test_a_server_that_is_away_is_down_and_the_other_is_shown(
    configured: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, away: str
) -> None:
    urls = {
        "redis": ("COINSWARM_REDIS_URL", f"unix://{tmp_path}/nobody.sock"),
        "postgres": ("COINSWARM_DATABASE_URL", f"postgresql://me:c4nary-word@/coinswarm?host={tmp_path}"),
    }
    monkeypatch.setenv(*urls[away])
    monkeypatch.setenv("COINSWARM_REDIS_TIMEOUT_S", "0.2")
    result = status(configured)
    states = {server["name"]: server["state"] for server in result["servers"]}
    assert states == {"redis": "ready", "postgres": "ready", "prefect": "unused", away: "down"}
    part = {"redis": "memory", "postgres": "ledger"}
    assert result[part[away]] is None
    assert all(result[part[name]] is not None for name in part if name != away)
    page = shown(result)
    assert "down" in page
    assert "c4nary-word" not in page + json.dumps(result)


def test_a_prefect_server_that_is_configured_and_away_is_said_to_be_down(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_PREFECT_API_URL", "http://127.0.0.1:9/api")
    result = status(configured)
    assert result["servers"][2]["state"] == "down"
    assert "COINSWARM_PREFECT_API_URL" in result["problems"]["prefect"]
    assert result["memory"] is not None


def test_a_ledger_of_other_software_is_a_problem_and_is_left_alone(
    configured: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa

    from memory.ledger.migrations import VERSION_TABLE

    with Ledger.open(database_url) as opened, opened.transaction() as session:
        session.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    monkeypatch.setenv("COINSWARM_DATABASE_URL", database_url)
    result = status(configured)
    assert "9999" in result["problems"]["ledger"]
    assert "Upgrade" in result["problems"]["ledger"]
    assert result["servers"][1]["state"] != "down"


def test_digests_are_added_where_they_are_wanted(configured: str, ledger: Ledger) -> None:
    result = status(configured, digest=True)
    assert result["ledger_digest"] == ledger.digest(configured).digest
    assert len(result["digest"]) == 64
    assert result["digest"] in shown(result)


def test_a_home_that_was_never_used_stays_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COINSWARM_REDIS_URL", "COINSWARM_DATABASE_URL", "COINSWARM_PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path / "home"))
    result = status(None)
    assert {server["state"] for server in result["servers"]} == {"unused"}
    assert (result["memory"], result["ledger"], result["disk"]) == (None, None, {})
    assert "unused" in shown(result)
    assert list(tmp_path.iterdir()) == []


def test_servers_that_an_up_is_about_to_start_are_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COINSWARM_REDIS_URL", "COINSWARM_DATABASE_URL", "COINSWARM_PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path))
    texts = dict.fromkeys(("ui_url", "api_url", "login_file", "metrics_url", "pool", "worker", "logs"), "")
    begun = UpState(pid=os.getpid(), state="starting", namespace="default", started_at=datetime.now(UTC), **texts)
    write_up(tmp_path, begun)
    result = status(None)
    assert {server["state"] for server in result["servers"]} == {"starting"}
    assert "coinswarm up is starting" in shown(result)
    write_up(tmp_path, replace(begun, state="stopping"))
    assert {server["state"] for server in status(None)["servers"]} == {"unused"}


# --- again and again -------------------------------------------------------------------------------------------


def test_a_setting_that_is_no_json_is_refused_in_a_line(typed: Any, tmp_path: Path) -> None:
    output = typed("status", COINSWARM_HOME=str(tmp_path), COINSWARM_LEARNING="{bad")
    assert output.code == 1
    assert output.stderr.startswith("coinswarm: COINSWARM_LEARNING is no JSON object")
    assert output.stderr.count("\n") == 1


def test_watching_prints_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = iter(({"n": 1}, {"n": 2}))
    watched(Console(as_json=True), lambda: next(rounds), lambda *_: None, every_s=0.0, rounds=2)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"n": 1}, {"n": 2}]


def test_watching_ends_quietly_when_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    def look() -> dict[str, int]:
        raise KeyboardInterrupt

    watched(Console(as_json=True), look, lambda *_: None, every_s=0.0)
    assert capsys.readouterr().out == ""


# --- words -----------------------------------------------------------------------------------------------------


def test_what_a_home_takes_is_counted_by_its_folders(tmp_path: Path) -> None:
    (tmp_path / "archive" / "deep").mkdir(parents=True)
    (tmp_path / "archive" / "deep" / "a.parquet").write_bytes(b"x" * 100_000)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "b.log").write_bytes(b"x" * 10)
    (tmp_path / "elsewhere").symlink_to("/usr")
    found = disk_use(tmp_path)
    assert list(found)[:2] == ["archive", "logs"]
    measured = subprocess.run(["du", "-s", "-B1", tmp_path / "archive"], capture_output=True, text=True, check=True)
    assert 0 < found["archive"] <= int(measured.stdout.split()[0])
    assert found["archive"] >= 100_000
    assert sum(found.values()) < 1_000_000
    assert disk_use(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 min"), (5400, "90 min"), (93_600, "26.0 h"), (864_000, "10 days")]
)
def test_spans_are_told_in_their_own_units(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (4096, "4 KiB"), (5 << 20, "5 MiB"), (3 << 30, "3.0 GiB")])
def test_sizes_are_told_in_their_own_units(size: int, text: str) -> None:
    assert size_text(size) == text
