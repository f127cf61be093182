"""The files for a Redis of one's own say what the embedded one does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.redis_server import DURABLE_DIRECTIVES, RedisServer, ping, quoted
from memory.embedded.wheels import find_programs

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"


def directives(text: str) -> dict[str, str]:
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    names = [name for name, _ in lines]
    assert len(names) == len(set(names)), "a directive is given twice"
    return {name: value.strip('"') for name, value in lines}


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    server = RedisServer(Home(tmp_path), tmp_path, EmbeddedOptions(), find_programs())
    return directives(server.configuration())


@pytest.fixture(params=["redis.conf", "redis-volatile.conf"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[redis.Redis]:
    """A server with one of the files, on a socket, and without what only a Redis with built-in search understands."""
    lines = (DEPLOYMENTS / request.param).read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("search-", "port ", "bind "))]
    socket = tmp_path / "r.sock"
    configuration = tmp_path / "r.conf"
    configuration.write_text("\n".join([*kept, "port 0", f"unixsocket {socket}", f"dir {tmp_path}", ""]))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([find_programs().redis_server, configuration], stdout=log, stderr=log)
    try:
        while ping(socket) != b"+PONG":
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_both_files_are_understood_by_redis(running: redis.Redis, request: pytest.FixtureRequest) -> None:
    durable = "redis.conf" in request.node.name
    assert running.config_get("appendonly")["appendonly"] == ("yes" if durable else "no")
    assert running.config_get("maxmemory-policy")["maxmemory-policy"] == ("noeviction" if durable else "allkeys-lru")


def test_the_durable_file_and_the_embedded_server_agree(embedded: dict[str, str]) -> None:
    own = directives((DEPLOYMENTS / "redis.conf").read_text())
    for name, value in DURABLE_DIRECTIVES:
        assert own[name] == value, name
        assert embedded[name] == value, name


def test_the_durable_file_and_the_embedded_search_agree(embedded: dict[str, str]) -> None:
    own = directives((DEPLOYMENTS / "redis.conf").read_text())
    arguments = embedded["loadmodule"].split()
    module = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert own["search-timeout"] == module["TIMEOUT"]
    assert own["search-on-timeout"].upper() == module["ON_TIMEOUT"]
    assert own["search-default-dialect"] == module["DEFAULT_DIALECT"]
    assert own["search-max-doctablesize"] == module["MAXDOCTABLESIZE"]


def test_the_volatile_file_says_what_it_loses() -> None:
    text = (DEPLOYMENTS / "redis-volatile.conf").read_text()
    assert "WHAT IT LOSES" in text
    own = directives(text)
    assert (own["appendonly"], own["save"], own["maxmemory-policy"]) == ("no", "", "allkeys-lru")


@given(st.text(st.characters(codec="utf-8")))
def test_a_quoted_argument_is_one_line_of_ascii_that_reads_back_as_it_was(text: str) -> None:
    result = quoted(text)
    assert result.isascii()
    assert result.isprintable()
    inner = result[1:-1]
    decoded = bytearray()
    while inner:
        if inner.startswith("\\x"):
            decoded.append(int(inner[2:4], 16))
            inner = inner[4:]
        elif inner.startswith("\\"):
            decoded += inner[1].encode()
            inner = inner[2:]
        else:
            assert inner[0] != '"'
            decoded += inner[0].encode()
            inner = inner[1:]
    assert decoded.decode() == text
