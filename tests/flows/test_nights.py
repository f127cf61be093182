"""The nightly job on real sample nights: what comes out, twice the same, and nothing lost when it is interrupted."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import memory
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.nightly import Parameters as NightlyParameters
from flows.nightly import nightly
from flows.record_experiences import Parameters as RecordParameters
from flows.record_experiences import record_experiences
from flows.update_transitions import Parameters as TransitionParameters
from flows.update_transitions import update_transitions
from memory.errors import MarketDataError, WindowError
from memory.ledger import Ledger
from memory.records import SemanticType

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

FIRST, SECOND = dt.date(2021, 6, 17), dt.date(2021, 6, 18)
COUNTS = (
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
)
PRODUCTS = ("BTC-USDT", "ETH-USDT")
"""As few as have a correlation; the whole sample is what the command line is tried on."""
EXPERIENCES, STATES = 2 * 5 * 1440, 2 * 1440
"""Of a night: of five agents, and of the market."""


def digests(namespace: str, servers: Any) -> tuple[str, str]:
    """Digest of all knowledge in the ledger and in Redis."""

    async def semantic() -> str:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return str(await mem.semantic.digest())

    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace).digest, asyncio.run(semantic())


def run_night(namespace: str, day: dt.date) -> dict[str, Any]:
    given = NightlyParameters(namespace=namespace, date=day, source="market", products=list(PRODUCTS), queries=20)
    return nightly(given)


@dataclass(frozen=True)
class TwoNights:
    """Both nights of two products, run as they come: namespace, and what each returned."""

    namespace: str
    first: dict[str, Any]
    second: dict[str, Any]


@pytest.fixture(scope="module")
def night_after_night(
    servers: Any, as_jobs: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoNights]:
    """The sample's two nights, as the jobs' user of Redis; its home is configured until the module's tests end."""
    assert prefect_server
    namespace = f"t-two-{uuid.uuid4().hex[:8]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("two-nights")))
        patch.setenv("COINSWARM_REDIS_URL", as_jobs(namespace))
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        yield TwoNights(namespace, run_night(namespace, FIRST), run_night(namespace, SECOND))


def test_two_nights_end_in_knowledge_and_the_same_night_again_changes_nothing(
    night_after_night: TwoNights, servers: Any
) -> None:
    namespace, first, second = night_after_night.namespace, night_after_night.first, night_after_night.second
    for result, day in ((first, FIRST), (second, SECOND)):
        assert result["window"] == day.isoformat()
        assert set(COUNTS) <= set(result)
        assert (result["experiences"], result["states"]) == (EXPERIENCES, STATES)
        assert result["clusters"] > 0
        assert Path(result["report"]).is_file()
        json.dumps(result, allow_nan=False)
    assert first["patterns_confirmed"] == 0
    assert second["patterns"] >= first["patterns"]

    before = digests(namespace, servers)
    again = run_night(namespace, SECOND)
    assert again["recording"]["stored"] == 0
    assert again["recording"]["duplicates"] == EXPERIENCES
    assert {name: again[name] for name in COUNTS} == {name: second[name] for name in COUNTS}
    assert digests(namespace, servers) == before


async def _known(servers: Any, namespace: str, as_of: dt.datetime | None) -> dict[str, int]:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        source = mem.semantic if as_of is None else mem.at(as_of).semantic
        return {kind.value: len(await source.current(kind)) for kind in SemanticType}


def test_knowledge_of_a_night_is_not_known_before_its_window_ends(night_after_night: TwoNights, servers: Any) -> None:
    end = dt.datetime(2021, 6, 18, tzinfo=dt.UTC)
    before = asyncio.run(_known(servers, night_after_night.namespace, end - dt.timedelta(milliseconds=1)))
    assert set(before.values()) == {0}
    after = asyncio.run(_known(servers, night_after_night.namespace, end))
    assert all(count > 0 for count in after.values())


def test_windows_consolidated_out_of_order_end_in_the_same_knowledge(
    configured: str, servers: Any, record: Callable[..., None]
) -> None:
    other = f"{configured}-b"
    for namespace, order in ((configured, (FIRST, SECOND)), (other, (SECOND, FIRST))):
        record(namespace, (FIRST, SECOND), PRODUCTS, hours=8)
        for day in order:
            consolidate_memories(ConsolidateParameters(namespace=namespace, date=day))
            update_transitions(TransitionParameters(namespace=namespace, date=day))
    assert all(count > 0 for count in asyncio.run(_known(servers, other, None)).values())
    assert digests(configured, servers) == digests(other, servers)


def test_a_window_without_experiences_is_refused_with_the_command_that_records_it(configured: str) -> None:
    with pytest.raises(WindowError, match="coinswarm run record_experiences --date 2021-06-17"):
        consolidate_memories(ConsolidateParameters(namespace=configured, date=FIRST))


def test_a_night_in_a_memory_that_nothing_was_ever_recorded_in_completes_and_says_so(
    configured: str, ledger: Ledger
) -> None:
    state = nightly(NightlyParameters(namespace=configured, date=FIRST), return_state=True)
    assert (state.is_completed(), (state.message or "").startswith("nothing was recorded here yet")) == (True, True)
    result = state.result()
    assert (result["window"], result["experiences"], result["note"]) == (FIRST.isoformat(), 0, state.message)
    json.dumps(result, allow_nan=False)
    assert {run.flow: run.status for run in ledger.runs.list(configured)} == {
        "nightly": "SUCCEEDED",
        "record_experiences": "SUCCEEDED",
    }


def test_a_night_in_which_nobody_lived_fails_once_anything_was_recorded(
    configured: str, record: Callable[..., None]
) -> None:
    record(configured, (FIRST,), hours=1)
    with pytest.raises(WindowError, match=r"window 2021-06-18 .* holds no experience"):
        nightly(NightlyParameters(namespace=configured, date=SECOND))


def test_a_date_without_candles_is_refused_with_the_span_of_the_market(configured: str) -> None:
    with pytest.raises(MarketDataError, match="2021-07-10"):
        record_experiences(RecordParameters(namespace=configured, date=dt.date(2021, 8, 1), source="market"))


def test_transitions_of_a_window_that_was_not_consolidated_are_refused(configured: str) -> None:
    with pytest.raises(WindowError, match="consolidate_memories"):
        update_transitions(TransitionParameters(namespace=configured, date=FIRST))


def test_a_failed_run_is_a_failed_row_with_its_error(configured: str, servers: Any) -> None:
    with pytest.raises(WindowError):
        consolidate_memories(ConsolidateParameters(namespace=configured, date=FIRST))
    with Ledger.open(servers.database_url) as ledger:
        run = ledger.runs.last(configured, "consolidate_memories")
    assert run is not None
    assert run.status == "FAILED"
    assert "holds no experience" in (run.error or "")


def test_the_coinbase_day_with_its_gap_runs_through(configured: str) -> None:
    result = nightly(
        NightlyParameters(
            namespace=configured,
            date=dt.date(2018, 4, 4),
            source="market",
            market="coinbase",
            products=["BTC-USD", "ETH-USD"],
            queries=20,
        )
    )
    assert 0 < result["states"] < STATES
    assert result["recording"]["cold_states"] > 0
    assert Path(result["report"]).is_file()
