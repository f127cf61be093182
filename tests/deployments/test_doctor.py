"""`coinswarm doctor` on what is well, on what is broken, and on what was never used."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
import sqlalchemy as sa

import memory
from deployments.console import Console
from deployments.doctor import doctor, show_checks
from memory import embedded
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchivedFile, ArchiveReference, FencingToken, Ledger, ManifestEntry
from memory.ledger.migrations import HEAD, VERSION_TABLE
from memory.records import Action, EpisodicMemory, Side
from memory.window import Window

WINDOW = Window.of_date(date(2021, 6, 17))
SILENT = Console(as_json=True)


def examined(namespace: str) -> dict[str, dict[str, Any]]:
    """The checks by name."""
    result = doctor(namespace, SILENT)
    for check in result["checks"]:
        assert bool(check["remedy"]) == (check["status"] != "ok"), check
    statuses = [check["status"] for check in result["checks"]]
    assert result["status"] == next(status for status in ("fail", "warn", "ok") if status in statuses)
    return {check["name"]: check for check in result["checks"]}


@pytest.fixture
def run(typed: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command in this process, with nothing configured but what is given."""

    def command(*arguments: str, **environment: str) -> Any:
        for name in [name for name in os.environ if name.startswith(("COINSWARM_", "PREFECT_"))]:
            monkeypatch.delenv(name)
        return typed("doctor", *arguments, **environment)

    return command


@pytest.fixture
def token(ledger: Ledger, configured: str) -> FencingToken:
    run_id = ledger.runs.start("consolidate_memories", configured, {}, lease_s=60)
    return ledger.fence.acquire(configured, run_id, flow="consolidate_memories", lease_s=60)


def record_one(servers: Any, namespace: str) -> None:
    async def record() -> None:
        vector = np.zeros(256, np.float32)
        vector[3] = 1.0
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await mem.encoders.register("rff-1", fitted_until=WINDOW.start - timedelta(days=1), definition={})
            await mem.episodic.add(
                EpisodicMemory(
                    agent_id="momentum",
                    timestamp=WINDOW.start,
                    state_vector=vector,
                    action=Action(Side.BUY),
                    reward=0.1,
                    product_id="BTC-USD",
                    regime="QUIET",
                    source="replay",
                    encoder_id="rff-1",
                    known_at=WINDOW.start + timedelta(minutes=1),
                )
            )

    asyncio.run(record())


# --- never used, and away --------------------------------------------------------------------------------------


def test_a_home_that_was_never_used_is_well_and_stays_untouched(run: Any, tmp_path: Path) -> None:
    done = run("--json", COINSWARM_HOME=str(tmp_path / "home"))
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert (result["status"], result["counts"]["fail"]) == ("ok", 0)
    assert "not used yet" in result["checks"][0]["seen"]
    assert list(tmp_path.iterdir()) == []


def test_to_look_is_not_to_load_prefect() -> None:
    # It would log each step a second time, and take longer to load than all checks together.
    code = "import sys, deployments.doctor, deployments.status, deployments.upgrading; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n"


def test_a_redis_that_is_away_is_one_finding_and_the_rest_is_looked_at(
    run: Any, servers: Any, ledger: Ledger, namespace: str, tmp_path: Path
) -> None:
    assert ledger.schema_revision == HEAD
    environment = {
        "COINSWARM_HOME": str(tmp_path / "home"),
        "COINSWARM_REDIS_URL": f"unix://{tmp_path}/nobody.sock",
        "COINSWARM_DATABASE_URL": servers.database_url,
        "COINSWARM_REDIS_TIMEOUT_S": "0.3",
    }
    done = run("-n", namespace, "--json", **environment)
    assert done.code == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert (checks["redis"]["status"], "COINSWARM_REDIS_URL" in checks["redis"]["remedy"]) == ("fail", True)
    assert {checks[name]["status"] for name in ("ledger", "lock", "nightly", "archive")} == {"ok"}

    plain = run("-n", namespace, **environment)
    assert plain.code == 1
    assert "\x1b" not in plain.stdout
    first = next(line for line in plain.stdout.splitlines() if "cannot be reached" in line)
    assert first.startswith("fail  redis")
    assert "1 failed" in plain.stdout.splitlines()[-1]


def test_a_postgres_that_is_away_is_one_finding_and_redis_is_looked_at(
    servers: Any, configured: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COINSWARM_DATABASE_URL", f"postgresql://nobody@/coinswarm?host={tmp_path}")
    record_one(servers, configured)
    checks = examined(configured)
    assert (checks["ledger"]["status"], "COINSWARM_DATABASE_URL" in checks["ledger"]["remedy"]) == ("fail", True)
    assert checks["episodic index"]["seen"].startswith("1 experiences in 1 index")
    assert "nightly" not in checks


def test_a_malformed_url_is_a_finding(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_REDIS_URL", "http://localhost")
    monkeypatch.setenv("COINSWARM_DATABASE_URL", "sqlite:///x")
    checks = examined(configured)
    assert (checks["redis"]["status"], checks["ledger"]["status"]) == ("fail", "fail")


# --- the ledger ------------------------------------------------------------------------------------------------


def test_experiences_that_no_night_learned_from_are_pointed_out(servers: Any, configured: str) -> None:
    assert examined(configured)["nightly"]["status"] == "ok"
    record_one(servers, configured)
    nightly = examined(configured)["nightly"]
    learns = f"coinswarm run backfill --from 2021-06-17 --to 2021-06-17 --namespace {configured}"
    assert (nightly["status"], nightly["remedy"]) == ("warn", learns)
    assert "of 1 experiences those of 2021-06-17 wait" in nightly["seen"]


def test_a_night_that_failed_is_named_with_the_command_that_repeats_it(ledger: Ledger, configured: str) -> None:
    run_id = ledger.runs.start("nightly", configured, {}, window=WINDOW, lease_s=60)
    ledger.runs.fail(run_id, "StoreUnavailableError: Redis was away")
    nightly = examined(configured)["nightly"]
    assert (nightly["status"], "Redis was away" in nightly["seen"]) == ("fail", True)
    assert nightly["remedy"] == f"coinswarm run nightly --namespace {configured} --date 2021-06-17"


@pytest.mark.parametrize(("nights_ago_h", "status"), [((49, 73), "warn"), ((49,), "ok"), ((20, 44), "ok")])
def test_a_night_that_is_long_ago_was_missed_where_nights_were_regular(
    ledger: Ledger, servers: Any, configured: str, nights_ago_h: tuple[int, ...], status: str
) -> None:
    for hours in nights_ago_h:
        began = datetime.now(UTC) - timedelta(hours=hours)
        window = Window.of_date(began.date() - timedelta(days=1))
        run_id = ledger.runs.start("nightly", configured, {}, window=window, lease_s=60)
        ledger.runs.finish(run_id, {})
        with ledger.transaction() as session:
            session.execute(
                sa.text("UPDATE runs SET started_at = :began WHERE run_id = :run"), {"began": began, "run": run_id}
            )
    nightly = examined(configured)["nightly"]
    assert (nightly["status"], f"{nights_ago_h[0]}.0 h ago" in nightly["seen"]) == (status, True)
    assert ("a night was missed" in nightly["seen"]) is (status == "warn")


def test_who_holds_the_namespace_is_said(ledger: Ledger, configured: str, token: FencingToken) -> None:
    lock = examined(configured)["lock"]
    assert (lock["status"], token.run_id in lock["seen"], str(os.getpid()) in lock["seen"]) == ("ok", True, True)
    ledger.fence.release(token)
    assert examined(configured)["lock"]["seen"] == "free"


def test_a_lock_whose_holder_died_is_left_behind(ledger: Ledger, servers: Any, configured: str) -> None:
    program = (
        "import sys; from memory.ledger import Ledger; ledger = Ledger.open(sys.argv[1]); "
        "run = ledger.runs.start('nightly', sys.argv[2], {}, lease_s=3600); "
        "ledger.fence.acquire(sys.argv[2], run, flow='nightly', lease_s=3600); sys.stdout.flush(); "
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, servers.database_url, configured], check=False, timeout=60)
    checks = examined(configured)
    assert (checks["lock"]["status"], "left behind" in checks["lock"]["seen"]) == ("warn", True)
    assert (checks["nightly"]["status"], "dead: its process ended without a word" in checks["nightly"]["seen"]) == (
        "fail",
        True,
    )
    assert checks["lock"]["remedy"].startswith(f"coinswarm run nightly --namespace {configured}: ")


def test_a_ledger_older_than_its_redis_would_be_fenced_out(servers: Any, configured: str, token: FencingToken) -> None:
    async def write(value: int) -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            await mem.fence.raise_to(value)

    asyncio.run(write(token.value))
    assert "fence" not in examined(configured)
    asyncio.run(write(token.value + 1000))
    fence = examined(configured)["fence"]
    assert (fence["status"], "rebuild_memory" in fence["remedy"]) == ("fail", True)


def test_a_line_that_redis_does_not_hold_as_it_was_published_is_found(
    configured: str, token: FencingToken, ledger: Ledger
) -> None:
    assert examined(configured)["knowledge"]["seen"] == "nothing was published yet"
    line = ledger.lines.ensure(token, "rff-1", ALGORITHM_VERSION)
    assert examined(configured)["knowledge"]["status"] == "ok"
    ledger.folds.save_checkpoint(
        token, line, "published-knowledge", WINDOW, input_digest="d", base=None, changed={}, stamp="0" * 32
    )
    check = examined(configured)["knowledge"]
    assert (check["status"], line in check["seen"], "rebuild_memory" in check["remedy"]) == ("fail", True, True)


def test_a_line_of_another_version_that_is_still_read_is_something_to_look_at(
    configured: str, token: FencingToken, ledger: Ledger
) -> None:
    ledger.lines.ensure(token, "rff-1", "1")
    check = examined(configured)["knowledge"]
    assert (check["status"], "start_line" in check["remedy"]) == ("warn", True)


def test_a_database_without_a_ledger_is_left_without_one(
    configured: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_DATABASE_URL", database_url)
    check = examined(configured)["ledger"]
    assert (check["status"], "no ledger yet" in check["seen"]) == ("ok", True)
    engine = sa.create_engine(sa.make_url(database_url).set(drivername="postgresql+psycopg"))
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize(("revision", "status", "remedy"), [("0000", "warn", "migrates"), ("9999", "fail", "Upgrade")])
def test_a_schema_of_another_version_is_named_and_left_alone(
    configured: str, database_url: str, monkeypatch: pytest.MonkeyPatch, revision: str, status: str, remedy: str
) -> None:
    Ledger.open(database_url).close()
    engine = sa.create_engine(sa.make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = :new"), {"new": revision})
    monkeypatch.setenv("COINSWARM_DATABASE_URL", database_url)
    check = examined(configured)["ledger"]
    assert (check["status"], remedy in check["remedy"], HEAD in check["seen"]) == (status, True, True)
    with engine.connect() as connection:
        assert connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) == revision
    engine.dispose()


# --- the archive -----------------------------------------------------------------------------------------------


def test_an_archive_that_cannot_be_a_folder_fails(
    configured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COINSWARM_ARCHIVE_URL", f"file://{tmp_path}/file/archive")
    check = examined(configured)["archive"]
    assert (check["status"], "COINSWARM_ARCHIVE_URL" in check["remedy"]) == ("fail", True)


def test_an_archive_of_an_unknown_kind_fails(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_ARCHIVE_URL", "nowhere://bucket/archive")
    assert examined(configured)["archive"]["status"] == "fail"


def test_an_archive_in_another_store_is_reached(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_ARCHIVE_URL", f"memory://{configured}")
    assert examined(configured)["archive"]["status"] == "ok"


def test_files_of_consolidated_windows_that_are_gone_are_missed(
    ledger: Ledger, configured: str, token: FencingToken, tmp_path: Path
) -> None:
    line = ledger.lines.ensure(token, "rff-1", "1")
    folder = tmp_path / "home" / "archive"
    folder.mkdir(parents=True)
    files = [ArchivedFile(f"{name}.parquet", name[0] * 64, 1, 4) for name in ("a", "b")]
    for file in files:
        (folder / file.path).write_bytes(b"data")
    reference = ArchiveReference(
        namespace=configured,
        window=WINDOW,
        encoder_id="rff-1",
        source="replay",
        content_digest="c" * 64,
        states=files[0],
        experiences=files[1],
    )
    ledger.windows.save_archive(token, reference)
    ledger.windows.commit_generation(
        token,
        line,
        WINDOW,
        settings_hash="s",
        entries=[ManifestEntry(kind="patterns", partition_key="p", digest=None)],
        archives=[reference],
    )
    assert examined(configured)["archived windows"]["status"] == "ok"
    (folder / files[1].path).unlink()
    check = examined(configured)["archived windows"]
    assert (check["status"], WINDOW.name in check["seen"]) == ("fail", True)


# --- how it is shown -------------------------------------------------------------------------------------------


def test_each_check_is_a_line_and_each_remedy_another_whatever_they_hold() -> None:
    result = {
        "namespace": "ns",
        "home": "/home",
        "counts": {"ok": 1, "warn": 0, "fail": 1},
        "checks": [
            {"name": "redis", "status": "ok", "seen": "well [bold]not markup[/bold]", "remedy": ""},
            {"name": "memory", "status": "fail", "seen": "x" * 300, "remedy": "Do [this]."},
        ],
    }
    out = rich.console.Console(width=80, record=True, force_terminal=False)
    with out.capture() as captured:
        show_checks(result, out)
    lines = captured.get().splitlines()
    assert len(lines) == 4
    assert lines[0] == "ok    redis   well [bold]not markup[/bold]"
    assert lines[1] == f"fail  memory  {'x' * 300}"
    assert lines[2].strip() == "-> Do [this]."


# --- embedded servers ------------------------------------------------------------------------------------------


@pytest.fixture
def used_home(tmp_path: Path) -> Iterator[Path]:
    """A home whose Redis has held something, and runs no more."""
    home = tmp_path / "home"
    with embedded.open_session(home, ("redis",)):
        pass
    yield home
    assert embedded.home_status(home).servers == ()


@pytest.mark.slow
def test_embedded_servers_with_data_are_started_for_it_and_stop_again(run: Any, used_home: Path) -> None:
    done = run("--json", COINSWARM_HOME=str(used_home))
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.code == 0, done.stdout
    assert "redis" in checks["servers"]["seen"]
    assert "started for this" in checks["servers"]["seen"]
    assert "GiB free" in checks["disk"]["seen"]
    assert checks["ledger"]["seen"] == "nothing was learned here yet"
    assert not (used_home / "postgres").exists()
    assert embedded.home_status(used_home).servers == ()


@pytest.mark.slow
def test_embedded_servers_that_run_are_used(run: Any, used_home: Path) -> None:
    with embedded.open_session(used_home, ("redis",)):
        done = run("--json", COINSWARM_HOME=str(used_home))
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "they ran before" in checks["servers"]["seen"]


@pytest.mark.slow
def test_a_home_of_a_newer_version_is_a_finding(run: Any, used_home: Path) -> None:
    content = json.loads((used_home / "home.json").read_text())
    (used_home / "home.json").write_text(json.dumps({**content, "version": 999}))
    done = run("--json", COINSWARM_HOME=str(used_home))
    (used_home / "home.json").write_text(json.dumps(content))
    assert done.code == 1
    assert json.loads(done.stdout)["checks"][0]["status"] == "fail"
