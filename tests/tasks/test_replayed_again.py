"""A market is known by its name: candles that changed under it are refused before anything is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agents.market import SAMPLE_FOLDER
from memory import EpisodicMemory, MemoryConnection
from memory.errors import MarketDataError
from memory.window import Window
from tasks.recording import replay_market
from tasks.workspace import Workspace, open_workspace

WINDOW = Window.of_date(dt.date(2021, 6, 17))
FILE = "binance_BTC-USDT_1m.parquet"


@pytest.fixture
def workspace(configured: str) -> Iterator[Workspace]:
    with open_workspace(configured) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few hours of candles."""
    monkeypatch.setenv("COINSWARM_DATA_ROOTS", str(tmp_path))
    save(tmp_path, candles())
    return tmp_path


def candles(name: str = FILE) -> pl.DataFrame:
    start, end = WINDOW.start - dt.timedelta(hours=5), WINDOW.start + dt.timedelta(hours=1)
    return pl.read_parquet(SAMPLE_FOLDER / name).filter(pl.col("timestamp").is_between(start, end))


def save(folder: Path, frame: pl.DataFrame, name: str = FILE) -> None:
    frame.write_parquet(folder / name)


def replayed(workspace: Workspace, folder: Path) -> dict[str, Any]:
    counts: dict[str, Any] = replay_market.fn(workspace.namespace, WINDOW, str(folder), None, None, 0.0)
    return counts


def test_the_same_candles_again_store_nothing_and_another_product_the_rest(workspace: Workspace, folder: Path) -> None:
    first = replayed(workspace, folder)
    again = replayed(workspace, folder)
    assert (again["stored"], again["duplicates"]) == (0, first["stored"])
    save(folder, candles(other := FILE.replace("BTC", "ETH")), other)
    more = replayed(workspace, folder)
    assert (more["duplicates"], more["stored"] > 0, more["dead_letters"]) == (first["stored"], True, 0)


def test_a_replay_leaves_a_trace_of_each_agents_last_change_of_position(workspace: Workspace, folder: Path) -> None:
    counts = replayed(workspace, folder)
    lived = workspace.with_memory(changes)
    last = {item.agent_id: item for item in sorted(lived, key=lambda item: item.timestamp)}
    assert set(counts["last_decisions"]) == set(last) >= {"hold", "random"}
    assert counts["traces"] == len(last)
    for agent_id, decision_id in counts["last_decisions"].items():
        trace = workspace.with_memory(lambda mem, wanted=decision_id: mem.decisions.get(wanted))
        assert trace is not None
        assert (trace.decision_id, trace.agent_id) == (last[agent_id].memory_id, agent_id)
        assert (trace.action, trace.position_before) == (last[agent_id].action, last[agent_id].position_before)
        assert trace.features == last[agent_id].features
        assert (trace.own, trace.shared, trace.patterns, trace.knowledge) == ((), (), (), ())
    assert replayed(workspace, folder)["last_decisions"] == counts["last_decisions"]


@pytest.mark.parametrize("each", [0, 1440])
def test_how_many_decisions_are_traced_is_a_setting(
    configured: str, folder: Path, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    monkeypatch.setenv("COINSWARM_REPLAY_TRACES", str(each))
    with open_workspace(configured) as workspace:
        counts = replayed(workspace, folder)
        assert counts["traces"] == (len(workspace.with_memory(changes)) if each else 0)


def test_what_is_too_bad_to_be_stored_leaves_no_trace(workspace: Workspace, folder: Path) -> None:
    counts = replay_market.fn(workspace.namespace, WINDOW, str(folder), None, None, 1.0)
    assert counts["stored"] == 0
    assert (counts["traces"], counts["last_decisions"]) == (0, {})


async def changes(mem: MemoryConnection) -> list[EpisodicMemory]:
    """The experiences in which an agent changed its position."""
    pages = mem.episodic.read_window(WINDOW.start, WINDOW.end)
    return [item async for page in pages for item in page if item.position_before != item.position_after]


def test_a_day_that_went_on_since_is_refused_too(workspace: Workspace, folder: Path) -> None:
    whole = candles()
    save(folder, whole.head(len(whole) - 20))
    assert replayed(workspace, folder)["stored"] > 0
    save(folder, whole)
    with pytest.raises(MarketDataError, match="unfinished day"):
        replayed(workspace, folder)
    assert workspace.with_memory(lambda mem: mem.dead_letters.count()) == 0


def test_changed_candles_are_refused_and_no_dead_letter_is_written(workspace: Workspace, folder: Path) -> None:
    assert replayed(workspace, folder)["stored"] > 0
    prices = [pl.col(name) * 1.01 for name in ("open", "high", "low", "close")]
    save(folder, candles().with_columns(prices))
    with pytest.raises(MarketDataError, match=r"other candles before .*as run binance-") as refused:
        replayed(workspace, folder)
    assert "COINSWARM_NAMESPACE" in refused.value.remedy
    assert workspace.with_memory(lambda mem: mem.dead_letters.count()) == 0


def test_what_is_forgotten_first_may_be_recorded_anew(workspace: Workspace, folder: Path) -> None:
    run_id = replayed(workspace, folder)["run"]
    save(folder, candles().with_columns([pl.col(name) * 1.01 for name in ("open", "high", "low", "close")]))
    workspace.with_memory(lambda mem: mem.episodic.forget(run_id=run_id))
    counts = replayed(workspace, folder)
    assert (counts["stored"] > 0, counts["dead_letters"]) == (True, 0)
