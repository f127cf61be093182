"""What a session promises while nothing goes wrong."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from memory.embedded import EmbeddedOptions, home_status, open_session
from memory.embedded.home import SOCKET_PATH_LIMIT, Home, runtime_directory
from memory.errors import EmbeddedServerError, HomeTooNewError, UnsupportedPlatformError


def connect(database_url: str | None) -> psycopg.Connection[tuple[object, ...]]:
    assert database_url is not None
    return psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True)


def client(redis_url: str | None) -> redis.Redis:
    assert redis_url is not None
    return redis.Redis.from_url(redis_url, decode_responses=True)


def test_redis_searches_vectors_in_dialect_two_and_fails_rather_than_return_a_part(home: Path) -> None:
    with open_session(home, ("redis",)) as session, client(session.endpoints.redis_url) as server:
        schema = (
            "scope",
            "TAG",
            "v",
            "VECTOR",
            "FLAT",
            "6",
            "TYPE",
            "FLOAT32",
            "DIM",
            "2",
            "DISTANCE_METRIC",
            "COSINE",
        )
        server.execute_command("FT.CREATE", "index", "PREFIX", "1", "m:", "SCHEMA", *schema)
        for name, vector in {"m:near": b"\0\0\x80?\0\0\0\0", "m:far": b"\0\0\0\0\0\0\x80?"}.items():
            server.hset(name, mapping={"scope": "a", "v": vector})
        # Without dialect 2 as the server's default, this query would be a syntax error.
        found = server.execute_command(
            "FT.SEARCH", "index", "(@scope:{a})=>[KNN 1 @v $q]", "PARAMS", "2", "q", b"\0\0\x80?\0\0\0\0", "NOCONTENT"
        )
        assert found["results"][0]["id"] == "m:near" if isinstance(found, dict) else found[1] == "m:near"
        assert server.info("modules")["search_timeout_policy"] == "fail"


def test_redis_is_durable_evicts_nothing_and_has_the_memory_limit_that_was_set(home: Path) -> None:
    options = EmbeddedOptions(redis_maxmemory_bytes=123_456_789)
    with open_session(home, ("redis",), options=options) as session, client(session.endpoints.redis_url) as server:
        names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save", "port")
        assert server.config_get(*names) == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": "123456789",
            "maxmemory-policy": "noeviction",
            "save": "",
            "port": "0",
        }


def test_the_database_is_utf8_sorts_the_same_everywhere_and_listens_on_no_network(home: Path) -> None:
    with open_session(home, ("postgres",)) as session, connect(session.endpoints.database_url) as connection:
        row = connection.execute(
            "SELECT current_database(), pg_encoding_to_char(encoding), datlocprovider::text, datlocale,"
            " current_setting('listen_addresses'), current_setting('fsync'), current_setting('server_version_num')::int"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        assert row[:6] == ("coinswarm", "UTF8", "b", "C.UTF-8", "", "on")
        assert isinstance(row[6], int)
        assert row[6] // 10_000 == 18


def test_data_outlives_a_clean_stop(home: Path) -> None:
    with open_session(home) as session:
        with client(session.endpoints.redis_url) as server:
            server.set("kept", "yes")
        with connect(session.endpoints.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with open_session(home) as session:
        with client(session.endpoints.redis_url) as server:
            assert server.get("kept") == "yes"
        with connect(session.endpoints.database_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_nothing_is_left_when_the_last_session_has_closed(home: Path, lock_holders: Callable[[Path], set[int]]) -> None:
    with open_session(home):
        status = home_status(home)
        assert {server.name: server.state for server in status.servers} == {"redis": "ready", "postgres": "ready"}
        assert {server.name: server.version for server in status.servers} == {"redis": "8.2.3", "postgres": "18.4"}
        runtime = status.runtime_directory
    assert not lock_holders(home)
    assert runtime is not None
    assert not runtime.exists()
    assert home_status(home).supervisor_pid is None
    assert not (home / "run.json").exists()


def test_a_second_session_shares_the_servers_and_keeps_them_when_the_first_one_closes(home: Path) -> None:
    first = open_session(home, ("redis",))
    supervisor = home_status(home).supervisor_pid
    with open_session(home, ("redis",)) as second:
        assert second.endpoints == first.endpoints
        first.close()
        assert home_status(home).supervisor_pid == supervisor
        with client(second.endpoints.redis_url) as server:
            assert server.ping()
    assert home_status(home).supervisor_pid is None


def test_closing_twice_is_harmless(home: Path) -> None:
    session = open_session(home, ("redis",))
    session.close()
    session.close()
    assert home_status(home).supervisor_pid is None


def test_the_running_supervisor_starts_a_server_that_is_wanted_later(home: Path) -> None:
    with open_session(home, ("redis",)) as first:
        assert first.endpoints.database_url is None
        supervisor = home_status(home).supervisor_pid
        with open_session(home, ("postgres",)) as second, connect(second.endpoints.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert home_status(home).supervisor_pid == supervisor


def test_servers_linger_for_as_long_as_the_option_says(home: Path, wait: Callable[..., None]) -> None:
    linger_s = 1.0
    open_session(home, ("redis",), options=EmbeddedOptions(linger_s=linger_s)).close()
    closed = time.monotonic()
    supervisor = home_status(home).supervisor_pid
    assert supervisor is not None
    wait(lambda: home_status(home).supervisor_pid is None, "the servers to stop")
    assert time.monotonic() - closed >= linger_s / 2


def test_a_home_with_a_path_of_two_hundred_characters_works(
    tmp_path: Path, stop_servers: Callable[[Path], None]
) -> None:
    # Blanks, quotes and letters beyond ASCII go into redis.conf as well.
    name = 'a home with "quotes", a \\ and ümläute '
    home = tmp_path / name / ("x" * (200 - len(str(tmp_path)) - len(name) - 2))
    assert len(str(home)) == 200
    try:
        with open_session(home) as session:
            with client(session.endpoints.redis_url) as server:
                assert server.config_get("dir")["dir"] == str(home / "redis")
            with connect(session.endpoints.database_url) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
                assert row == (str(home / "postgres" / "18"),)
            runtime = home_status(home).runtime_directory
            assert runtime is not None
            assert all(len(str(path)) <= SOCKET_PATH_LIMIT for path in runtime.iterdir())
    finally:
        stop_servers(home)


def test_only_the_owner_can_reach_the_sockets_and_the_data(home: Path) -> None:
    with open_session(home):
        runtime = home_status(home).runtime_directory
        assert runtime is not None
        for directory in (runtime, home, home / "redis", home / "postgres" / "18", home / "locks", home / "logs"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


def test_a_socket_directory_that_someone_else_put_there_is_refused(home: Path, tmp_path: Path) -> None:
    runtime = runtime_directory(Home.at(home), os.environ)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    runtime.symlink_to(elsewhere)
    try:
        with pytest.raises(EmbeddedServerError, match="is needed for the servers' sockets") as caught:
            open_session(home, ("redis",), timeout_s=20)
        assert "XDG_RUNTIME_DIR" in str(caught.value)
        assert not list(elsewhere.iterdir())
    finally:
        runtime.unlink()


def test_a_home_of_a_newer_version_is_refused_untouched(home: Path) -> None:
    home.mkdir()
    (home / "home.json").write_text('{"version": 99}')
    with pytest.raises(HomeTooNewError, match="version 99") as caught:
        open_session(home)
    assert "Upgrade" in caught.value.remedy
    assert [path.name for path in home.iterdir()] == ["home.json"]


def test_without_the_wheels_a_session_is_refused_before_anything_is_created(home: Path) -> None:
    with pytest.raises(UnsupportedPlatformError, match="not installed") as caught:
        open_session(home, locate=lambda name: None)
    assert "COINSWARM_REDIS_URL" in caught.value.remedy
    assert not home.exists()


def test_an_unknown_service_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="redis, postgres, prefect"):
        open_session(home, ("mysql",))
    assert not home.exists()


def test_a_server_that_does_not_start_is_reported_with_the_end_of_its_log(home: Path) -> None:
    with open_session(home, ("redis",)) as session, client(session.endpoints.redis_url) as server:
        server.set("a", "b")
    manifest = home / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("this is no manifest\n")
    with pytest.raises(EmbeddedServerError, match="Invalid AOF manifest file format") as caught:
        open_session(home, ("redis",))
    assert str(home / "logs" / "redis.log") in str(caught.value)


def test_a_session_that_cannot_wait_any_longer_says_for_what(home: Path, wait: Callable[..., None]) -> None:
    with pytest.raises(EmbeddedServerError, match="waited 0 s"):
        open_session(home, ("redis",), timeout_s=0)
    wait(lambda: home_status(home).supervisor_pid is None, "the unused supervisor to end")


def test_the_package_is_light_to_import() -> None:
    program = "import sys, memory.embedded; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert not {"sqlalchemy", "prefect", "psycopg", "polars", "torch"} & set(result.stdout.split())
