"""The command line as a user runs it: what it prints, where, with which exit code, and what it leaves running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import memory
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.market import Market
from agents.snapshot import MarketSnapshot
from memory import Action, Side, embedded
from memory.embedded.redis_server import ping
from memory.embedded.wheels import find_programs
from memory.ledger import Ledger

pytestmark = pytest.mark.slow

COINSWARM = Path(sys.executable).parent / "coinswarm"
NIGHT = "2021-06-17"
COUNTS = {
    "experiences",
    "states",
    "clusters",
    "patterns_new",
    "patterns_confirmed",
    "patterns_faded",
    "null_confirmation_rate",
    "noise_share",
    "transitions",
    "pruned",
}
STEPS = ["record", "consolidate", "update transitions", "prune", "benchmark", "report"]
COMMAND_TIMEOUT_S = 240


def surroundings(home: Path, **environment: str) -> dict[str, str]:
    """The environment of a user who has set nothing but the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COINSWARM_", "PREFECT_"))}
    return {**kept, "COINSWARM_HOME": str(home), **environment}


@dataclass(frozen=True)
class Process:
    """What a process left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one line on stdout."""
        assert self.code == 0, self.stderr
        assert self.stdout.count("\n") == 1
        return json.loads(self.stdout)


def coinswarm(home: Path, *arguments: str, **environment: str) -> Process:
    """A command in a process of its own."""
    done = subprocess.run(
        [COINSWARM, *arguments],
        env=surroundings(home, **environment),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return Process(done.returncode, done.stdout, done.stderr)


def processes_naming(home: Path) -> dict[int, str]:
    """Processes whose command line names a home."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if str(home) in words:
            found[int(path.parent.name)] = words
    return found


@dataclass(frozen=True)
class Used:
    """A home after its first recording; its servers stay up, so that the commands that follow find them."""

    home: Path
    recorded: Process
    left_running: dict[int, str]
    endpoints: embedded.Endpoints
    typed: Any

    def run(self, *arguments: str, **environment: str) -> Process:
        """Run a command in a process of its own, as a user does."""
        return coinswarm(self.home, *arguments, **environment)

    def type(self, *words: str, **environment: str) -> Any:
        """Run a command in this process, which is sooner; its flows talk to the home's Prefect."""
        return self.typed(*words, **{"COINSWARM_HOME": str(self.home), **environment})


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, typed: Any) -> Iterator[Used]:
    home = tmp_path_factory.mktemp("cli") / "home"
    recorded = coinswarm(home, "run", "record_experiences", "--date", NIGHT, "--param", "source=market")
    left_running = processes_naming(home)
    with (
        embedded.open_session(home, timeout_s=120, services=("redis", "postgres", "prefect")) as session,
        flows_here(home, session.endpoints),
    ):
        yield Used(home, recorded, left_running, session.endpoints, typed)
    assert processes_naming(home) == {}


@contextmanager
def flows_here(home: Path, endpoints: embedded.Endpoints) -> Iterator[None]:
    """Flows of this process talk to a home's Prefect server, whose address they would find in the environment."""
    from prefect.logging.configuration import setup_logging
    from prefect.settings import temporary_settings

    from deployments.local import QUIET, send_what_waits

    @contextmanager
    def running_already(*_: Any, **__: Any) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch, temporary_settings(embedded.prefect_environment(home, endpoints)):
        for name in os.environ:
            if name.startswith("COINSWARM_"):
                patch.delenv(name)
        patch.setattr("deployments.running.local_stack", running_already)
        # Prefect sets logging up when a flow is first run, which would be while a command's stderr is looked at; a
        # console that is there already hears of its level by the same call.
        for name, value in QUIET.items():
            patch.setenv(name, value)
        setup_logging()
        yield
        send_what_waits()


@pytest.fixture(scope="module")
def nightly(used: Used) -> Process:
    assert used.recorded.code == 0, used.recorded.stderr
    return used.run("run", "nightly", "--date", NIGHT, "--json")


# --- what it is for --------------------------------------------------------------------------------------------


def test_a_sample_day_is_recorded_into_an_empty_home_and_nothing_is_left_running(used: Used) -> None:
    assert used.recorded.code == 0, used.recorded.stderr
    table = dict(line.strip().rsplit(maxsplit=1) for line in used.recorded.stdout.splitlines() if line.strip())
    assert (table["stored"], table["duplicates"], table["dead letters"]) == ("21,600", "0", "0")
    assert "record from market" in used.recorded.stderr
    assert used.left_running == {}


def test_the_nightly_job_prints_one_object_with_all_counts_and_nothing_else(nightly: Process) -> None:
    result = nightly.json()
    assert result["window"] == NIGHT
    assert set(result) >= COUNTS
    assert (result["experiences"], result["states"]) == (21_600, 4_320)
    assert min(result["clusters"], result["patterns_new"], result["transitions"]) > 0
    assert 0 < result["noise_share"] < 1
    assert list(result["seconds"]) == STEPS
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert Path(result["report"]).read_text().startswith("<!DOCTYPE html>")
    assert nightly.stderr == ""


def test_the_night_records_from_the_inbox_and_adds_nothing_to_the_replay(nightly: Process) -> None:
    recording = nightly.json()["recording"]
    assert (recording["source"], recording["stored"]) == ("inbox", 0)


def test_patterns_prints_a_list_of_all_current_patterns_in_full(used: Used, nightly: Process) -> None:
    patterns = used.type("patterns", "--json").json()
    assert len(patterns) == nightly.json()["patterns"]
    assert len({pattern["pattern_id"] for pattern in patterns}) == len(patterns)
    for pattern in patterns:
        assert len(pattern["concept_vector"]) == 256
        assert pattern["description"]
        assert pattern["conditions"]
        assert {outcome["action"] for outcome in pattern["outcomes"]} == {"LONG", "SHORT", "FLAT"}


def test_patterns_of_a_time_before_the_window_ended_are_none(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    assert used.type("patterns", "--json", "--as-of", "2021-06-17T23:59:59").json() == []
    assert used.type("patterns", "--json", "--as-of", "2021-06-18").json() != []


def test_the_table_of_patterns_shows_as_many_as_asked_for(used: Used, nightly: Process) -> None:
    shown = used.type("patterns", "--limit", "2")
    assert shown.code == 0
    total = nightly.json()["patterns"]
    assert f"{total} patterns, strongest first" in shown.stdout
    assert shown.stdout.count("occurrences; best trade") == 2
    assert f"--limit {total}" in shown.stdout


def test_one_pattern_is_told_whole_with_its_clusters_and_lineage(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    first = used.type("patterns", "--sort", "support", "--json").json()[0]
    whole = used.type("patterns", first["pattern_id"], "--json").json()
    assert {name: whole[name] for name in first} == first
    assert sum(whole["products"].values()) == whole["states"] == sum(item["states"] for item in whole["clusters"])
    assert [item["window"] for item in whole["clusters"]] == [NIGHT]
    assert {event["kind"] for event in whole["lineage"]} >= {"FOUNDED", "PROMOTED"}
    explained = used.type("explain", first["pattern_id"], "--json").json()
    assert explained["lines"][0]["events"] == whole["lineage"]
    shown = used.type("patterns", first["pattern_id"], "--as-of", "2021-06-18T12:00")
    assert shown.code == 0
    assert all(item["feature"] in shown.stdout for item in first["conditions"])
    assert "FOUNDED" in shown.stdout


def test_patterns_are_chosen_and_written_as_values(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    everything = used.type("patterns", "--json").json()
    regime = everything[0]["regime"]
    wanted = [item["pattern_id"] for item in everything if item["regime"] == regime]
    rows = used.type("patterns", "--regime", regime.lower(), "--csv").stdout.splitlines()
    assert [row.split(",")[0] for row in rows] == ["pattern_id", *wanted]


# --- when did we see this before -------------------------------------------------------------------------------

AT_NOON = ("search", "--product", "BTC-USDT", "--at", f"{NIGHT}T12:00")
NOON = f"{NIGHT}T12:00:00+00:00"


def test_a_state_of_history_is_searched_with_as_of_its_time(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    found = used.type(*AT_NOON, "--top", "20", "--json").json()
    assert (found["as_of"], found["state"]["product_id"]) == (NOON, "BTC-USDT")
    assert len(found["experiences"]) == 20
    assert all(item["known_at"] <= NOON for item in found["experiences"])
    distances = [item["distance"] for item in found["experiences"]]
    assert distances == sorted(distances)
    assert found["patterns"] == []  # The night that found them had not come yet.
    assert [item["action"] for item in found["estimates"]] == ["LONG", "SHORT", "FLAT"]
    assert not any(item["known"] for item in found["estimates"])  # Half a day makes no base rate.
    assert all(item["age_s"] >= 60 and item["reward_bp"] == 1e4 * item["reward"] for item in found["experiences"])


def test_what_came_later_is_shown_where_it_is_asked_for(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    found = used.type(*AT_NOON, "--as-of", "now", "--agent", "momentum", "--json").json()
    assert found["as_of"] == "now"
    assert found["experiences"][0]["distance"] < 1e-6  # The state itself, which the agent met.
    assert {item["agent_id"] for item in found["experiences"]} == {"momentum"}
    assert 0 < len(found["patterns"]) <= 5
    assert all(item["known"] for item in found["estimates"])


def test_the_first_line_says_as_of_when_the_answer_is(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    lines = used.type(*AT_NOON).stdout.splitlines()
    assert lines[0].startswith(f"As of {NIGHT} 12:00 UTC, the time of the state: nothing that became known later")
    assert lines[-1].startswith("Over 15 min nothing is to be said of actions: ")
    lines = used.type(*AT_NOON, "--as-of", "2021-06-18", "--regime", "quiet", "--top", "3").stdout.splitlines()
    assert "is in this answer up to then" in lines[0]
    assert sum("QUIET" in line for line in lines) >= 3
    assert any("within reach" in line for line in lines)
    assert lines[-1].startswith("Over 15 min")


def test_a_remembered_state_finds_others_than_itself(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    own = used.type(*AT_NOON, "--as-of", "now", "--top", "1", "--json").json()["experiences"][0]
    by_id = used.type("search", own["memory_id"], "--no-patterns", "--as-of", "now", "--json").json()
    assert len(by_id["experiences"]) == 10
    assert own["memory_id"] not in {item["memory_id"] for item in by_id["experiences"]}
    assert by_id["experiences"][0]["timestamp"] == own["timestamp"]  # Other agents met it as well.
    assert used.type("search", own["memory_id"], "--json").json()["as_of"] == own["timestamp"]


def test_a_pattern_finds_what_is_like_it(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    pattern = used.type("patterns", "--json").json()[0]
    found = used.type("search", pattern["pattern_id"], "--json").json()
    assert found["as_of"] == "now"
    assert found["experiences"][0]["distance"] < pattern["reach"]
    assert pattern["pattern_id"] not in {item["pattern_id"] for item in found["patterns"]}
    assert found["estimates"][0]["pattern_id"] == pattern["pattern_id"]


def test_a_filter_that_leaves_nothing_says_what_there_is(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    found = used.type(*AT_NOON, "--agent", "nobody", "--json").json()
    assert found["experiences"] == []
    assert "breakout, hold, mean_reversion, momentum, random" in found["notes"][0]
    shared = used.type(*AT_NOON, "--shared", "--json").json()
    assert (shared["shared"], shared["experiences"]) == (True, [])
    assert "No shared experience" in shared["notes"][0]


def test_whoever_looks_is_not_counted(used: Used, nightly: Process) -> None:
    assert nightly.code == 0
    for as_of in ("now", "2021-06-18T12:00"):
        assert used.type(*AT_NOON, "--as-of", as_of, "--json").json()["patterns"]

    async def counts() -> dict[str, int]:
        async with memory.connect(redis_url=used.endpoints.redis_url) as mem:
            days = (datetime.now(UTC) + timedelta(days=1), datetime(2021, 6, 19, tzinfo=UTC))
            return {name: count for day in days for name, count in (await mem.access.all_counts(day)).items()}

    assert asyncio.run(counts()) == {}


# --- what could not be stored ----------------------------------------------------------------------------------


def test_a_letter_is_stored_once_after_its_cause_is_gone(used: Used) -> None:
    encoder = StateEncoder.from_json(default_encoder().to_json())
    encoder.name = "ours"
    del encoder.__dict__["id_"]  # Worked out once, from the name too.
    at = datetime(2021, 6, 17, 12, tzinfo=UTC)
    state = MarketSnapshot.of_market(Market.sample("binance", ["BTC-USDT"]), "BTC-USDT", at).state(default_encoder())
    lived = {
        **{"agent_id": "scout", "product_id": "BTC-USDT", "timestamp": at, "regime": state.regime, "reward": 1e-4},
        **{"action": Action(Side.BUY, 0.5), "features": dict(state.features), "encoder_id": encoder.id_},
    }

    async def append() -> None:
        async with memory.connect(redis_url=used.endpoints.redis_url, namespace="letters") as mem:
            await mem.inbox.append(lived)

    def drained() -> tuple[int, int, int]:
        result = used.type("run", "record_experiences", "--namespace", "letters", "--json").json()
        return result["stored"], result["duplicates"], result["dead_letters"]

    asyncio.run(append())
    assert drained() == (0, 0, 1)
    (letter,) = used.type("deadletters", "list", "-n", "letters", "--json").json()["letters"]
    assert (letter["agent_id"], letter["field"]) == ("scout", "encoder_id")
    folder = used.home / "encoders"
    folder.mkdir(exist_ok=True)
    encoder.save(folder / f"{encoder.id_}.json")
    assert used.type("deadletters", "retry", letter["entry_id"], "-n", "letters", "--json").json()["to_inbox"] == 1
    assert drained() == (1, 0, 0)
    assert used.type("deadletters", "retry", letter["entry_id"], "-n", "letters").code == 1
    asyncio.run(append())
    assert drained() == (0, 1, 0)


# --- how it goes on --------------------------------------------------------------------------------------------


def test_status_counts_what_the_memory_holds_and_how_the_last_runs_ended(used: Used, nightly: Process) -> None:
    status = used.type("status", "--json").json()
    assert (status["memory"]["experiences"], status["ledger"]["windows"]) == (21_600, 1)
    assert (status["ledger"]["newest_window"], status["knowledge"]["window"]) == (NIGHT, NIGHT)
    assert status["memory"]["semantic"]["PATTERN"] == nightly.json()["patterns"]
    assert {flow["flow"]: flow["last"]["status"] for flow in status["flows"] if flow["last"]}["nightly"] == "SUCCEEDED"
    assert {server["name"]: server["state"] for server in status["servers"]} == dict.fromkeys(
        ("redis", "postgres", "prefect"), "ready"
    )
    table = used.type("status")
    assert table.code == 0
    assert "21,600" in table.stdout


def test_the_report_of_a_night_is_written_again_to_the_same_place(used: Used, nightly: Process) -> None:
    path = Path(nightly.json()["report"])
    before = path.stat().st_mtime_ns
    assert used.type("report", "--date", NIGHT, "--json").json() == {"window": NIGHT, "path": str(path)}
    assert path.stat().st_mtime_ns > before


def test_the_demo_replays_a_night_into_a_memory_of_its_own(used: Used) -> None:
    result = used.type("demo", "--nights", "1", "--json").json()
    assert result["namespace"] == "demo"
    (night,) = result["nights"]
    assert (night["window"], night["experiences"]) == (NIGHT, 21_600)
    assert night["recording"]["stored"] == 21_600
    assert Path(result["report"]).is_file()


def test_a_range_of_dates_gives_one_result_a_date(used: Used) -> None:
    words = ("record_experiences", "--from", NIGHT, "--to", "2021-06-18", "--namespace", "range", "--json")
    result = used.type("run", *words, "--param", "source=market", "--param", 'products=["BTC-USDT"]').json()
    assert result["flow"] == "record_experiences"
    assert [(run["window"], run["stored"]) for run in result["runs"]] == [(NIGHT, 7200), ("2021-06-18", 7200)]


def test_candles_with_holes_are_replayed_around_them(used: Used, tmp_path: Path) -> None:
    at = pl.col("timestamp")
    hole = at.is_between(
        pl.datetime(2021, 6, 17, 12, time_zone="UTC"), pl.datetime(2021, 6, 17, 12, 59, time_zone="UTC")
    )
    folder = candles(tmp_path / "holes", lambda frame: frame.filter(~hole))
    words = ("record_experiences", "--date", NIGHT, "--namespace", "holes", "--json")
    result = used.type("run", *words, "--param", "source=market", "--param", f"market={folder}").json()
    assert result["gaps"] == 1
    assert 0 < result["states"] < 1440 - 60 + 1
    assert result["stored"] == result["experiences"] > 0


# --- what it refuses -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """A command that must fail, and what its one line must say: what is wrong, and what to do."""

    words: tuple[str, ...]
    says: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


RECORD = ("run", "record_experiences", "--json", "--param", "source=market")
ON_NIGHT = (*RECORD, "--date", NIGHT)
ALL_FLOWS = ("record_experiences", "consolidate_memories", "update_transitions", "prune_memories", "nightly")
# Names in braces stand for what the fixture `places` makes.
REFUSALS: Mapping[str, Refusal] = {
    "unknown flow": Refusal(("run", "nigthly", "--json"), ("'nigthly'", *ALL_FLOWS)),
    "unknown command": Refusal(("nigthly",), ("'nigthly'", "coinswarm --help")),
    "unknown option": Refusal(("run", "nightly", "--json", "--dat", NIGHT), ("--dat", "coinswarm run --help")),
    "unknown parameter": Refusal(
        ("run", "nightly", "--json", "--param", "windows=3"),
        ("'windows'", "source", "market", "products", "queries", "namespace", "start", "end"),
    ),
    "parameter without a value": Refusal(
        ("run", "nightly", "--json", "--param", "queries"), ("'queries'", "name=value")
    ),
    "wrong value": Refusal(
        ("run", "nightly", "--json", "--param", "queries=many"),
        ("queries=many", "valid integer", "Queries of each kind"),
    ),
    "bad date": Refusal(("run", "nightly", "--json", "--date", "2021-13-01"), ("'2021-13-01'", "like 2021-06-17")),
    "bad date in a parameter": Refusal(
        (*RECORD, "--param", "date=yesterday"), ("date=yesterday", "such as 2021-06-17")
    ),
    "bad time": Refusal(("patterns", "--json", "--as-of", "then"), ("'then'", "like 2021-06-18T12:34")),
    "date without candles": Refusal((*RECORD, "--date", "2021-08-01"), ("2021-08-01", "2021-07-10", "Choose a date")),
    "date without experiences": Refusal(
        ("run", "consolidate_memories", "--json", "--date", "2021-06-25"),
        ("2021-06-25", "coinswarm run record_experiences --date 2021-06-25"),
    ),
    "span off the grid": Refusal(
        (*RECORD, "--param", "start=2021-06-17T00:30:00Z", "--param", "end=2021-06-18T00:30:00Z"),
        ("2021-06-17T00:30:00", "Windows are UTC days, such as 2021-06-17T00:00:00"),
    ),
    "range backwards": Refusal(
        (*RECORD, "--from", "2021-06-19", "--to", NIGHT), ("runs backwards", "earlier date first")
    ),
    "half a range": Refusal((*RECORD, "--from", "2021-06-19"), ("--from and --to",)),
    "market path that is not there": Refusal(
        (*ON_NIGHT, "--param", "market=/nowhere/at/all"), ("/nowhere/at/all", "history:NAME")
    ),
    "text among the candles": Refusal(
        (*ON_NIGHT, "--param", "market={text}"), ("row 8", "close is 'n/a'", "column of floats")
    ),
    "unsorted candles": Refusal(
        (*ON_NIGHT, "--param", "market={unsorted}"), ("row 12", "comes after", "Sort the candles")
    ),
    "no parquet": Refusal(
        (*ON_NIGHT, "--param", "market={no_parquet}"), ("cannot be read as parquet", "Give the path")
    ),
    "namespace that keys cannot hold": Refusal((*ON_NIGHT, "--namespace", "No:Colons"), ("'No:Colons'", "a-z, 0-9")),
    "such a namespace where nothing is run": Refusal(
        ("patterns", "--json", "--namespace", "No:Colons"), ("'No:Colons'", "a-z, 0-9")
    ),
    "such a namespace in the environment": Refusal(
        ("status", "--json"), ("COINSWARM_NAMESPACE", "a-z, 0-9"), (("COINSWARM_NAMESPACE", "No:Colons"),)
    ),
    "setting that cannot be": Refusal(
        ("status", "--json"), ("COINSWARM_LEASE_S=soon", "valid number"), (("COINSWARM_LEASE_S", "soon"),)
    ),
    "home of a newer version": Refusal(
        ("run", "nightly", "--json"), ("version 99", "Upgrade"), (("COINSWARM_HOME", "{newer_home}"),)
    ),
    "Redis where nothing listens": Refusal(
        ("run", "nightly", "--json", "--date", NIGHT),
        ("redis://127.0.0.1:{port}", "COINSWARM_REDIS_URL"),
        (("COINSWARM_REDIS_URL", "redis://127.0.0.1:{port}"),),
    ),
    "Redis without search": Refusal(
        ("run", "nightly", "--json", "--date", NIGHT),
        ("has no search", "Redis 8"),
        (("COINSWARM_REDIS_URL", "unix://{bare_redis}"),),
    ),
    "database that does not exist": Refusal(
        ("run", "consolidate_memories", "--json", "--date", NIGHT),
        ('"nowhere" does not exist', "COINSWARM_DATABASE_URL"),
        (("COINSWARM_DATABASE_URL", "{database}"),),
    ),
    "database that is none of Postgres": Refusal(
        ("patterns", "--json"),
        ("mysql", "COINSWARM_DATABASE_URL"),
        (("COINSWARM_DATABASE_URL", "mysql://host/coinswarm"),),
    ),
    "Prefect where nothing listens": Refusal(
        ("run", "nightly", "--json", "--date", NIGHT),
        ("http://127.0.0.1:{port}/api", "COINSWARM_PREFECT_API_URL"),
        (("COINSWARM_PREFECT_API_URL", "http://127.0.0.1:{port}/api"),),
    ),
    "search without a state": Refusal(("search", "--json"), ("no state is named", "--at 2021-06-18T12:34")),
    "search with a product that is not there": Refusal(
        ("search", "--json", "--product", "BTC-USD", "--at", NIGHT), ("no product BTC-USD", "BTC-USDT, DOT-USDT")
    ),
    "search with a time without candles": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-08-01"), ("2021-08-01", "2021-07-10")
    ),
    "search with a time just behind the last candle": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-07-10T18:30"), ("in the 5 minutes", "17:57")
    ),
    "search with a time that is none": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "noon"), ("'noon'", "like 2021-06-18T12:34")
    ),
    "search before the encoder was known": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-06-16T12:00"), ("fitted on data up to 2021-06-17",)
    ),
    "search with an id that is not there": Refusal(
        ("search", "--json", "p-nobody"), ("'p-nobody'", "21,600 experiences", "default")
    ),
    "search in an empty namespace": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-06-18", "-n", "empty"), ("'empty'", "default")
    ),
    "search in a regime that is none": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-06-18", "--regime", "calm"), ("'CALM'", "QUIET")
    ),
    "search over a horizon that is none": Refusal(
        ("search", "--json", "--product", "BTC-USDT", "--at", "2021-06-18", "--horizon", "7"), ("7", "1, 5, 15, 60")
    ),
    "pattern that is not there": Refusal(
        ("patterns", "--json", "p-nobody"), ("'p-nobody'", "'coinswarm patterns' lists them")
    ),
    "patterns of a regime that is none": Refusal(("patterns", "--json", "--regime", "calm"), ("'CALM'", "MIXED")),
    "patterns by an order that is none": Refusal(("patterns", "--json", "--sort", "luck"), ("'luck'", "'sharpe'")),
    "patterns as values and as JSON": Refusal(("patterns", "--json", "--csv"), ("--csv", "excludes --json")),
    "report of a memory without nights": Refusal(
        ("report", "--json", "--namespace", "empty"), ("'empty'", "coinswarm run nightly")
    ),
    "report of a night that was not consolidated": Refusal(
        ("report", "--json", "--date", "2021-06-25"), ("2021-06-25", "coinswarm run nightly --date 2021-06-25")
    ),
}


IN_PROCESSES = {"unknown flow", "date without candles", "home of a newer version", "Prefect where nothing listens"}
"""Refusals that are seen from outside, by a process's exit code and streams; the last two are those of the servers."""


def candles(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """A folder with the sample's Bitcoin, changed."""
    sample = Path(__file__).parents[2] / "agents" / "data" / "sample" / "binance_BTC-USDT_1m.parquet"
    folder.mkdir()
    change(pl.read_parquet(sample)).write_parquet(folder / sample.name)
    return folder


@pytest.fixture(scope="module")
def places(used: Used, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the refused commands are given: broken files, another home, servers that are not there or unfit."""
    root = tmp_path_factory.mktemp("places")
    as_text = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("n/a")).otherwise(pl.col("close").cast(pl.String))
    text = candles(root / "text", lambda frame: frame.with_columns(as_text.alias("close")))
    unsorted = candles(root / "unsorted", lambda frame: pl.concat([frame[:10], frame[20:21], frame[10:20], frame[21:]]))
    no_parquet = candles(root / "no-parquet", lambda frame: frame[:1])
    next(no_parquet.iterdir()).write_text("timestamp,close\n2021-06-17,1\n")
    newer = root / "newer"
    newer.mkdir()
    (newer / "home.json").write_text('{"version": 99}')
    assert used.endpoints.database_url is not None
    bare = root / "bare.sock"
    program = [find_programs().redis_server, "--port", "0", "--unixsocket", bare, "--save", "", "--dir", root]
    # Bound, but not listening: nobody answers on this port, and nobody else can take it.
    with socket.socket() as taken, (root / "bare.log").open("wb") as log:
        taken.bind(("127.0.0.1", 0))
        redis_without_search = subprocess.Popen(program, stdout=log, stderr=log)
        try:
            while ping(bare) != b"+PONG":
                assert redis_without_search.poll() is None, (root / "bare.log").read_text()
                time.sleep(0.02)
            yield {
                "text": str(text),
                "unsorted": str(unsorted),
                "no_parquet": str(no_parquet),
                "newer_home": str(newer),
                "port": str(taken.getsockname()[1]),
                "bare_redis": str(bare),
                "database": used.endpoints.database_url.replace("/coinswarm?", "/nowhere?"),
            }
        finally:
            redis_without_search.terminate()
            redis_without_search.wait(timeout=20)


class Refused:
    """What refused commands said; each is run once, when it is first asked for."""

    def __init__(self, used: Used, places: Mapping[str, str]) -> None:
        self._used, self._places = used, places
        self._said: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._said:
            refusal = REFUSALS[name]
            words = [word.format_map(self._places) for word in refusal.words]
            environment = {key: value.format_map(self._places) for key, value in refusal.environment}
            run = self._used.run if name in IN_PROCESSES else self._used.type
            self._said[name] = run(*words, **environment)
        return self._said[name]


@pytest.fixture(scope="module")
def refused(used: Used, nightly: Process, places: dict[str, str]) -> Refused:
    assert nightly.code == 0, nightly.stderr
    return Refused(used, places)


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_input_ends_in_one_line_that_says_what_to_do(name: str, refused: Refused, places: dict[str, str]) -> None:
    output = refused[name]
    assert output.code in {1, 2}
    assert output.stdout == ""
    (line,) = output.stderr.splitlines()
    assert line.startswith("coinswarm: ")
    assert line.endswith(".")
    for words in REFUSALS[name].says:
        assert words.format_map(places) in line


def test_what_was_refused_changed_nothing(used: Used, nightly: Process, refused: Refused) -> None:
    assert all(refused[name].code for name in REFUSALS)
    status = used.type("status", "--json").json()
    assert (status["memory"]["experiences"], status["ledger"]["windows"]) == (21_600, 1)
    assert status["memory"]["semantic"]["PATTERN"] == nightly.json()["patterns"]


def test_an_interrupt_ends_in_one_line_and_a_failed_run(used: Used) -> None:
    words = ("run", "record_experiences", "--date", NIGHT, "--param", "source=market", "--namespace", "interrupted")
    assert used.endpoints.database_url is not None
    with (
        Ledger.open(used.endpoints.database_url) as ledger,
        subprocess.Popen(
            [COINSWARM, *words, "--json"],
            env=surroundings(used.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        while (run := ledger.runs.last("interrupted", "record_experiences")) is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode == 130
        assert stdout == ""
        assert stderr == "coinswarm: interrupted; run the same command again to take up where it stopped.\n"
        ended = ledger.runs.get(run.run_id)
        assert ended is not None
        assert ended.status == "FAILED"
