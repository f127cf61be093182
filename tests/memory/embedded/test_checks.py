"""Configured servers: which are taken, which are refused, and why."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import redis

from memory.embedded import check_configured, check_database, check_redis, open_session
from memory.embedded.checks import (
    DatabaseFacts,
    RedisFacts,
    judge_database,
    judge_redis,
    parse_version,
    search_version,
)
from memory.embedded.redis_server import ping
from memory.embedded.session import Endpoints
from memory.embedded.wheels import find_programs
from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError
from memory.secrets import redacted
from memory.store.servers import with_credentials

GOOD_REDIS = RedisFacts(
    version=(8, 2, 3),
    search_version=(8, 2, 0),
    cluster=False,
    database=0,
    maxmemory_policy="noeviction",
    append_only=True,
)
GOOD_DATABASE = DatabaseFacts(version=140_012, encoding="UTF8", read_only=False, holds_prefect=False)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with open_session(tmp_path_factory.mktemp("home")) as session:
        yield session.endpoints


@pytest.fixture
def bare_redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis without search."""
    socket = tmp_path / "r.sock"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_programs().redis_server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", tmp_path],
            stdout=log,
            stderr=log,
        )
    try:
        while ping(socket) != b"+PONG":
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_the_embedded_redis_is_suitable(endpoints: Endpoints) -> None:
    assert endpoints.redis_url is not None
    facts = check_redis(endpoints.redis_url)
    assert facts.version >= (8, 2)
    assert facts.search_version == (2, 10, 5)
    assert (facts.maxmemory_policy, facts.append_only, facts.cluster) == ("noeviction", True, False)


def test_the_embedded_postgres_is_suitable(endpoints: Endpoints) -> None:
    assert endpoints.database_url is not None
    assert check_database(endpoints.database_url).version // 10_000 == 18


def test_a_redis_without_search_is_refused(bare_redis: str) -> None:
    with pytest.raises(ServerUnsuitableError, match="has no search") as caught:
        check_redis(bare_redis)
    assert "Redis 8" in caught.value.remedy


def test_a_redis_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="cannot be used") as caught:
        check_redis(f"unix://{tmp_path}/nobody.sock")
    assert "COINSWARM_REDIS_URL" in caught.value.remedy


def test_a_redis_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ServerUnsuitableError, match="redis://host"):
        check_redis("http://localhost:6379")


def test_a_redis_url_with_a_database_number_is_refused(endpoints: Endpoints) -> None:
    with pytest.raises(ServerUnsuitableError, match="database 3"):
        check_redis(f"{endpoints.redis_url}?db=3")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": (7, 0, 15)}, "version 7.0.15; at least 7.2"),
        ({"search_version": None}, "has no search"),
        ({"search_version": (2, 8, 4)}, "has search 2.8.4; at least 2.10"),
        ({"search_version": (2, 10, 5), "cluster": True}, "answers from one shard only"),
        ({"database": 1}, "names database 1"),
    ],
)
def test_an_unsuitable_redis_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ServerUnsuitableError, match=reason) as caught:
        judge_redis(dataclasses.replace(GOOD_REDIS, **change), "redis://somewhere")
    assert "redis://somewhere" in caught.value.message
    assert caught.value.remedy


def test_a_cluster_with_the_search_of_redis_8_is_taken() -> None:
    judge_redis(dataclasses.replace(GOOD_REDIS, cluster=True), "redis://somewhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 130_014}, "version 13; at least 14"),
        ({"read_only": True}, "is read-only"),
        ({"encoding": "LATIN1"}, "in LATIN1"),
        ({"holds_prefect": True}, "Prefect's own"),
    ],
)
def test_an_unsuitable_database_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    judge_database(GOOD_DATABASE, "somewhere")
    with pytest.raises(ServerUnsuitableError, match=reason):
        judge_database(dataclasses.replace(GOOD_DATABASE, **change), "somewhere")


def test_the_database_of_prefect_is_recognised(endpoints: Endpoints) -> None:
    assert endpoints.database_url is not None
    address = endpoints.database_url.replace("+psycopg", "", 1)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE DATABASE prefects")
    other = address.replace("/coinswarm?", "/prefects?", 1)
    with psycopg.connect(other, autocommit=True) as connection:
        for table in ("flow_run", "task_run", "deployment"):
            connection.execute(f"CREATE TABLE {table} (id int)")
    with pytest.raises(ServerUnsuitableError, match="Prefect's own"):
        check_database(other)


def test_a_database_that_does_not_exist_is_unavailable(endpoints: Endpoints) -> None:
    assert endpoints.database_url is not None
    with pytest.raises(StoreUnavailableError, match="does not exist"):
        check_database(endpoints.database_url.replace("/coinswarm?", "/nothing?", 1))


def test_a_user_who_may_not_ask_what_a_redis_is_may_use_it_all_the_same(endpoints: Endpoints) -> None:
    assert endpoints.redis_url is not None
    with redis.Redis.from_url(endpoints.redis_url) as admin:
        admin.execute_command("ACL", "SETUSER", "quiet", "on", ">pw", "~*", "+@all", "-info")
    url = with_credentials(endpoints.redis_url, "quiet", "pw")
    with pytest.raises(AccessDeniedError, match=r"the user quiet of .* may not run INFO\."):
        check_redis(url)
    check_configured(url, None)


def test_the_first_of_several_hosts_may_be_away(endpoints: Endpoints, tmp_path: Path) -> None:
    assert endpoints.database_url is not None
    runtime = parse_qs(urlsplit(endpoints.database_url).query)["host"][0]
    check_configured(None, f"postgresql+psycopg://coinswarm@/coinswarm?host={tmp_path}&host={runtime}:5432")


@pytest.mark.parametrize("url", ["mysql://localhost/coinswarm", "sqlite:///x.db", "coinswarm"])
def test_a_database_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ServerUnsuitableError, match="not one of Postgres"):
        check_database(url)


def test_a_password_never_reaches_a_message() -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        check_redis("redis://user:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreUnavailableError) as caught_too:
        check_database("postgresql://user:hunter2@127.0.0.1:1/coinswarm")
    assert "hunter2" not in str(caught_too.value)


def test_urls_without_a_password_are_shown_as_they_are() -> None:
    assert redacted("redis://:secret@h:1/0") == "redis://:***@h:1/0"
    assert redacted("unix:///tmp/r.sock") == "unix:///tmp/r.sock"


@pytest.mark.parametrize(
    ("text", "version"), [("8.2.3", (8, 2, 3)), ("7.4", (7, 4)), ("8.0-rc1", (8,)), ("255.255.255", (255, 255, 255))]
)
def test_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_the_version_of_search_is_found_among_the_modules() -> None:
    modules = {"modules": [{"name": "vectorset", "ver": 1}, {"name": "search", "ver": 21_005}]}
    assert search_version(modules) == (2, 10, 5)
    assert search_version({"modules": [{"name": "search", "ver": 80_200}]}) == (8, 2, 0)
    assert search_version({"modules": {"name": "search", "ver": 21_005}}) == (2, 10, 5)
    assert search_version({"modules": [{"name": "vectorset", "ver": 1}]}) is None
    assert search_version({}) is None
