"""Mistakes that need no server to be seen are told before one is started: nothing is made in the home, either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.policy.extra import has_policy_extra
from deployments.local import starting
from flows import parameters_of
from memory.errors import EncoderError
from memory.settings import Settings

REPLAY = ("run", "record_experiences", "--param", "source=market")
NIGHT = ("run", "nightly", "--param", "source=market", "--date", "2021-06-17")
BACKFILL = ("run", "backfill", "--param", "record=true", "--from", "2021-06-17", "--to", "2021-06-18")
EVALUATE = ("run", "evaluate_agents")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*NIGHT, "--param", "market=/nowhere/at/all"), ("/nowhere/at/all", "history:NAME")),
        ((*NIGHT, "--param", "market=history:nope"), ("'nope'", "COINSWARM_HISTORY")),
        ((*NIGHT, "--param", 'products=["DOGE-USDT"]'), ("DOGE-USDT", "BTC-USDT")),
        ((*NIGHT, "--param", "encoder=nobody"), ("'nobody'", "fit-encoder")),
        ((*REPLAY, "--date", "2021-08-01"), ("2021-08-01", "2021-07-10")),
        ((*REPLAY, "--date", "2021-06-16"), ("fitted on data up to 2021-06-17", "replay a later time")),
        # The run of each date would be refused, and those before it were for nothing.
        ((*REPLAY, "--from", "2021-07-09", "--to", "2021-07-20"), ("2021-07-20", "2021-07-10")),
        ((*REPLAY,), ("has no candle", "Choose a date")),
        ((*BACKFILL, "--param", "market=/nowhere/at/all"), ("/nowhere/at/all", "history:NAME")),
        ((*BACKFILL[:4], "--from", "2022-01-01", "--to", "2022-01-09"), ("2022-01-10", "Choose a date")),
        (("run", "reindex_memory", "--param", "encoder=nobody"), ("'nobody'", "fit-encoder")),
        (("run", "start_line", "--param", "encoder=nobody"), ("'nobody'", "fit-encoder")),
        (("run", "restore_memory", "--param", "snapshot=/nowhere"), ("/nowhere is no snapshot", "backup --list")),
        (("demo", "--nights", "24"), ("--nights", "equal to 23")),
        (("leakcheck", "--t", "2020-01-01"), ("2020-01-01", "Choose a full minute")),
        (("fit-encoder", "--market", "/nowhere", "--until", "2021-06-01"), ("/nowhere", "history:NAME")),
    ],
)
def test_files_and_dates_that_cannot_be_are_refused_before_anything_is_started(
    typed: Any, tmp_path: Path, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    done = typed(*words, COINSWARM_HOME=str(tmp_path / "home"), COINSWARM_HISTORY=str(tmp_path))
    assert done.code in (1, 2)
    assert all(part in done.stderr for part in says), done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("market=nowhere",), ("'nowhere'", "binance")),
        (("market=binance", "final=true"), ("the held-out span", "COINSWARM_HISTORY")),
    ],
)
def test_a_market_that_cannot_be_evaluated_is_refused_before_anything_is_started(
    typed: Any, tmp_path: Path, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    if not has_policy_extra():
        says = ("coinswarm-memory[policy]",)
    done = typed(*EVALUATE, *(part for word in words for part in ("--param", word)), COINSWARM_HOME=str(tmp_path / "h"))
    assert done.code == 1
    assert all(part in done.stderr for part in says), done.stderr
    assert list(tmp_path.iterdir()) == []


AWAY = {
    "COINSWARM_REDIS_URL": ("redis://me:c4nary@127.0.0.1:9", "Redis at redis://me:***@127.0.0.1:9 cannot be used"),
    "COINSWARM_DATABASE_URL": ("postgresql://me:c4nary@127.0.0.1:9/x", "Postgres at postgresql://me:***@127.0.0.1"),
    "COINSWARM_PREFECT_API_URL": ("http://127.0.0.1:9/api", "no Prefect server answers at http://127.0.0.1:9/api"),
}
"""URLs at which nobody listens, and what is told of each."""


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        *((NIGHT[:2], variable) for variable in AWAY),
        (("patterns",), "COINSWARM_REDIS_URL"),
        (("patterns",), "COINSWARM_DATABASE_URL"),
        (("deploy",), "COINSWARM_PREFECT_API_URL"),
    ],
)
def test_a_configured_server_that_is_away_is_told_before_any_other_is_started(
    typed: Any, tmp_path: Path, words: tuple[str, ...], variable: str
) -> None:
    url, says = AWAY[variable]
    done = typed(*words, **{**dict.fromkeys(AWAY, ""), "COINSWARM_HOME": str(tmp_path / "home"), variable: url})
    assert (done.code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert says in done.stderr
    assert "c4nary" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_not_configured_is_said_to_be_started(servers: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert starting(Settings(home=home)) == "Starting Redis, Postgres and Prefect"
    assert starting(Settings(home=home), ("prefect",)) == "Starting Prefect"
    configured = Settings(home=home, redis_url=servers.redis_url)
    assert starting(configured) == "Starting Postgres and Prefect"
    both = Settings(home=home, redis_url=servers.redis_url, database_url=servers.database_url)
    assert starting(both, ("redis", "postgres")) == "Reaching Redis and Postgres"
    assert not home.exists()


def test_a_backfill_may_begin_before_the_market_and_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that cannot be replayed may be consolidated already, and one without data is no error."""
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path / "home"))
    form = parameters_of("backfill")
    form.model_validate({"first": "2021-05-01", "last": "2021-06-18", "record": True}).check_inputs()
    with pytest.raises(EncoderError, match="fitted on data up to 2021-06-17"):
        form.model_validate({"first": "2021-05-01", "last": "2021-06-16", "record": True}).check_inputs()


@pytest.mark.parametrize(
    "command", ["status", "demo", "restore x", "metrics --once", "run nightly", "deadletters list"]
)
def test_an_empty_name_of_a_memory_is_refused_and_not_taken_for_the_default(
    typed: Any, tmp_path: Path, command: str
) -> None:
    done = typed(*command.split(), "-n", "", COINSWARM_HOME=str(tmp_path / "home"))
    assert done.code == 2
    assert "--namespace: it is empty: name a memory, or leave the option out" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_variable_is_that_of_a_memory_that_is_not_named(typed: Any, tmp_path: Path) -> None:
    done = typed("status", "--json", COINSWARM_HOME=str(tmp_path / "home"), COINSWARM_NAMESPACE="")
    assert done.json()["namespace"] == "default"
