"""Commands that must fail, what each is given, and what its one line must say."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from memory.embedded.redis_server import ping
from memory.embedded.wheels import find_programs
from tests.deployments.command_line import NIGHT, Used


@dataclass(frozen=True)
class Refusal:
    """A command that must fail, and what its one line must say: what is wrong, and what to do."""

    words: tuple[str, ...]
    says: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


RECORD = ("run", "record_experiences", "--json", "--param", "source=market")
ON_NIGHT = (*RECORD, "--date", NIGHT)
ALL_FLOWS = ("record_experiences", "consolidate_memories", "update_transitions", "prune_memories", "nightly")
# Names in braces stand for what `made_places` makes.
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


@contextmanager
def made_places(used: Used, root: Path) -> Iterator[dict[str, str]]:
    """What the refused commands are given: broken files, another home, servers that are not there or unfit."""
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
