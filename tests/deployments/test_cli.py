"""The command line as a user runs it: what it prints, where, with which exit code, and what it leaves running."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
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
from memory.ledger import Ledger
from tests.deployments.command_line import (
    COINSWARM,
    COMMAND_TIMEOUT_S,
    NIGHT,
    Ended,
    Used,
    coinswarm,
    flows_here,
    processes_naming,
    surroundings,
)
from tests.deployments.refusals import REFUSALS, Refused, candles, made_places

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def nightly(used: Used) -> Ended:
    assert used.recorded.code == 0, used.recorded.stderr
    return used.run("run", "nightly", "--date", NIGHT, "--json", "--param", "queries=50")


# --- what it is for --------------------------------------------------------------------------------------------


def test_a_sample_day_is_recorded_into_an_empty_home_and_nothing_is_left_running(used: Used) -> None:
    assert used.recorded.code == 0, used.recorded.stderr
    table = dict(line.strip().rsplit(maxsplit=1) for line in used.recorded.stdout.splitlines() if line.strip())
    assert (table["stored"], table["duplicates"], table["dead letters"]) == ("21,600", "0", "0")
    assert "record from market" in used.recorded.stderr
    assert used.left_running == {}


def test_the_nightly_job_prints_one_object_with_all_counts_and_nothing_else(nightly: Ended) -> None:
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


def test_the_night_records_from_the_inbox_and_adds_nothing_to_the_replay(nightly: Ended) -> None:
    recording = nightly.json()["recording"]
    assert (recording["source"], recording["stored"]) == ("inbox", 0)


def test_patterns_prints_a_list_of_all_current_patterns_in_full(used: Used, nightly: Ended) -> None:
    patterns = used.type("patterns", "--json").json()["patterns"]
    assert len(patterns) == nightly.json()["patterns"]
    assert len({pattern["pattern_id"] for pattern in patterns}) == len(patterns)
    for pattern in patterns:
        assert len(pattern["concept_vector"]) == 256
        assert pattern["description"]
        assert pattern["conditions"]
        assert {outcome["action"] for outcome in pattern["outcomes"]} == {"LONG", "SHORT", "FLAT"}


def test_patterns_of_a_time_before_the_window_ended_are_none(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    assert used.type("patterns", "--json", "--as-of", "2021-06-17T23:59:59").json()["patterns"] == []
    assert used.type("patterns", "--json", "--as-of", "2021-06-18").json()["patterns"]


def test_the_table_of_patterns_shows_as_many_as_asked_for(used: Used, nightly: Ended) -> None:
    shown = used.type("patterns", "--limit", "2")
    assert shown.code == 0
    total = nightly.json()["patterns"]
    assert f"{total} patterns, strongest first" in shown.stdout
    assert shown.stdout.count("occurrences; best trade") == 2
    assert f"--limit {total}" in shown.stdout


def test_one_pattern_is_told_whole_with_its_clusters_and_lineage(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    first = used.type("patterns", "--sort", "support", "--json").json()["patterns"][0]
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


def test_patterns_are_chosen_and_written_as_values(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    everything = used.type("patterns", "--json").json()["patterns"]
    regime = everything[0]["regime"]
    wanted = [item["pattern_id"] for item in everything if item["regime"] == regime]
    rows = used.type("patterns", "--regime", regime.lower(), "--csv").stdout.splitlines()
    assert [row.split(",")[0] for row in rows] == ["pattern_id", *wanted]


# --- when did we see this before -------------------------------------------------------------------------------

AT_NOON = ("search", "--product", "BTC-USDT", "--at", f"{NIGHT}T12:00")
NOON = f"{NIGHT}T12:00:00+00:00"


def test_a_state_of_history_is_searched_with_as_of_its_time(used: Used, nightly: Ended) -> None:
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


def test_what_came_later_is_shown_where_it_is_asked_for(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    found = used.type(*AT_NOON, "--as-of", "now", "--agent", "momentum", "--json").json()
    assert found["as_of"] == "now"
    assert found["experiences"][0]["distance"] < 1e-6  # The state itself, which the agent met.
    assert {item["agent_id"] for item in found["experiences"]} == {"momentum"}
    assert 0 < len(found["patterns"]) <= 5
    assert all(item["known"] for item in found["estimates"])


def test_the_first_line_says_as_of_when_the_answer_is(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    lines = used.type(*AT_NOON).stdout.splitlines()
    assert lines[0].startswith(f"As of {NIGHT} 12:00 UTC, the time of the state: nothing that became known later")
    assert lines[-1].startswith("Over 15 min nothing is to be said of actions: ")
    lines = used.type(*AT_NOON, "--as-of", "2021-06-18", "--regime", "quiet", "--top", "3").stdout.splitlines()
    assert "is in this answer up to then" in lines[0]
    assert sum("QUIET" in line for line in lines) >= 3
    assert any("within reach" in line for line in lines)
    assert lines[-1].startswith("Over 15 min")


def test_a_remembered_state_finds_others_than_itself(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    own = used.type(*AT_NOON, "--as-of", "now", "--top", "1", "--json").json()["experiences"][0]
    by_id = used.type("search", own["memory_id"], "--no-patterns", "--as-of", "now", "--json").json()
    assert len(by_id["experiences"]) == 10
    assert own["memory_id"] not in {item["memory_id"] for item in by_id["experiences"]}
    assert by_id["experiences"][0]["timestamp"] == own["timestamp"]  # Other agents met it as well.
    assert used.type("search", own["memory_id"], "--json").json()["as_of"] == own["timestamp"]


def test_a_pattern_finds_what_is_like_it(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    pattern = used.type("patterns", "--json").json()["patterns"][0]
    found = used.type("search", pattern["pattern_id"], "--json").json()
    assert found["as_of"] == "now"
    assert found["experiences"][0]["distance"] < pattern["reach"]
    assert pattern["pattern_id"] not in {item["pattern_id"] for item in found["patterns"]}
    assert found["estimates"][0]["pattern_id"] == pattern["pattern_id"]


def test_a_filter_that_leaves_nothing_says_what_there_is(used: Used, nightly: Ended) -> None:
    assert nightly.code == 0
    found = used.type(*AT_NOON, "--agent", "nobody", "--json").json()
    assert found["experiences"] == []
    assert "breakout, hold, mean_reversion, momentum, random" in found["notes"][0]
    shared = used.type(*AT_NOON, "--shared", "--json").json()
    assert (shared["shared"], shared["experiences"]) == (True, [])
    assert "No shared experience" in shared["notes"][0]


def test_whoever_looks_is_not_counted(used: Used, nightly: Ended) -> None:
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


def test_status_counts_what_the_memory_holds_and_how_the_last_runs_ended(used: Used, nightly: Ended) -> None:
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


def test_the_report_of_a_night_is_written_again_to_the_same_place(used: Used, nightly: Ended) -> None:
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
    explained = used.type("explain", result["decision"], "-n", "demo", "--json").json()
    assert explained["decision"]["agent_id"] == "momentum"
    assert explained["replay"]["status"] == "equal", explained["replay"]


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


@pytest.fixture(scope="module")
def places(used: Used, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the names in braces stand for."""
    with made_places(used, tmp_path_factory.mktemp("places")) as made:
        yield made


@pytest.fixture(scope="module")
def refused(used: Used, nightly: Ended, places: dict[str, str]) -> Refused:
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


def test_what_was_refused_changed_nothing(used: Used, nightly: Ended, refused: Refused) -> None:
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
