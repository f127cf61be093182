"""Users, supervisors and servers that are killed, and homes that the next start repairs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from memory.embedded import home_status, open_session
from memory.embedded import session as session_module
from memory.embedded.home import Home
from memory.embedded.process import ProcessIdentity

#: Redis flushes its log every second: what was written longer ago than this must survive anything.
FLUSHED_S = 1.2


def write_memory(redis_url: str, name: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.set(name, "kept")


def has_memory(redis_url: str | None, name: str) -> bool:
    assert redis_url is not None
    with redis.Redis.from_url(redis_url) as server:
        return bool(server.get(name) == b"kept")


def ledger(database_url: str | None) -> psycopg.Connection[tuple[object, ...]]:
    assert database_url is not None
    return psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True)


def server_pids(home: Path) -> dict[str, int]:
    return {server.name: server.pid for server in home_status(home).servers if server.pid is not None}


def supervisor(home: Path) -> ProcessIdentity:
    identity = ProcessIdentity.read(Home.at(home).run_file)
    assert identity is not None
    return identity


def test_two_first_starts_at_once_make_one_supervisor_and_both_work(home: Path, start_user: Callable[..., Any]) -> None:
    users = [start_user("redis,postgres") for _ in range(4)]
    reports = [user.report() for user in users]
    assert len({report["supervisor"] for report in reports}) == 1
    assert len({report["redis_url"] for report in reports}) == 1
    for number, report in enumerate(reports):
        write_memory(report["redis_url"], f"user-{number}")
        assert has_memory(reports[0]["redis_url"], f"user-{number}")
    log = Home.at(home).log("supervisor").read_text()
    assert log.count("serving") == 1
    assert [user.leave() for user in users] == [0, 0, 0, 0]


def test_servers_stop_after_the_last_user_was_killed(
    home: Path, start_user: Callable[..., Any], wait: Callable[..., None], lock_holders: Callable[[Path], set[int]]
) -> None:
    first, second = start_user(), start_user()
    url = first.report()["redis_url"]
    second.report()
    write_memory(url, "a")
    first.kill()
    time.sleep(0.5)
    assert has_memory(url, "a")
    second.kill()
    wait(lambda: not lock_holders(home), "the servers to stop after their last user")
    with open_session(home, ("redis",)) as session:
        assert has_memory(session.endpoints.redis_url, "a")


def test_servers_end_with_a_supervisor_that_was_killed_and_the_next_start_has_all_data(
    home: Path, start_user: Callable[..., Any], wait: Callable[..., None]
) -> None:
    user = start_user("redis,postgres")
    report = user.report()
    write_memory(report["redis_url"], "before")
    with ledger(report["database_url"]) as connection:
        connection.execute("CREATE TABLE before AS SELECT 1 AS number")
    servers = [ProcessIdentity.of(pid) for pid in server_pids(home).values()]
    assert len(servers) == 2
    supervisor(home).signal(signal.SIGKILL)
    wait(lambda: not any(server and server.is_alive() for server in servers), "the servers to follow their supervisor")
    with open_session(home) as session:
        assert home_status(home).supervisor_pid not in {None, report["supervisor"]}
        assert has_memory(session.endpoints.redis_url, "before")
        with ledger(session.endpoints.database_url) as connection:
            assert connection.execute("SELECT number FROM before").fetchone() == (1,)


def test_a_user_goes_on_with_the_same_addresses_once_a_killed_supervisor_was_replaced(
    home: Path, start_user: Callable[..., Any]
) -> None:
    report = start_user().report()
    supervisor(home).signal(signal.SIGKILL)
    with open_session(home, ("redis",)) as session:
        assert session.endpoints.redis_url == report["redis_url"]
        write_memory(report["redis_url"], "again")


def test_killed_servers_users_and_supervisor_together_lose_nothing_older_than_a_second(
    home: Path, start_user: Callable[..., Any]
) -> None:
    user = start_user("redis,postgres")
    report = user.report()
    write_memory(report["redis_url"], "before")
    with ledger(report["database_url"]) as connection:
        connection.execute("CREATE TABLE before AS SELECT 1 AS number")
    time.sleep(FLUSHED_S)
    servers = server_pids(home)
    supervisor(home).signal(signal.SIGKILL)
    for pid in servers.values():
        os.kill(pid, signal.SIGKILL)
    user.kill()
    # Left behind: run.json, sockets, postmaster.pid, process records, all of them of processes that are no more.
    assert (home / "run.json").exists()
    with open_session(home) as session:
        assert has_memory(session.endpoints.redis_url, "before")
        with ledger(session.endpoints.database_url) as connection:
            assert connection.execute("SELECT number FROM before").fetchone() == (1,)


def test_a_stale_postmaster_pid_that_names_a_living_stranger_does_not_keep_postgres_from_starting(home: Path) -> None:
    open_session(home, ("postgres",)).close()
    pid_file = home / "postgres" / "18" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n5432\n/nowhere\n\n0 0\nready\n")
    with open_session(home, ("postgres",)) as session, ledger(session.endpoints.database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_orphan_that_did_not_follow_its_supervisor_is_stopped_cleanly_before_its_data_is_used(
    home: Path, start_user: Callable[..., Any]
) -> None:
    user = start_user()
    url = user.report()["redis_url"]
    write_memory(url, "in its memory")
    orphan = ProcessIdentity.of(server_pids(home)["redis"])
    assert orphan is not None
    os.kill(orphan.pid, signal.SIGSTOP)  # it cannot act on the signal that it gets when its supervisor dies
    user.kill()
    supervisor(home).signal(signal.SIGKILL)
    assert orphan.is_alive()
    with open_session(home, ("redis",)) as session:
        assert not orphan.is_alive()
        # Written less than a second ago, so only a clean end has it on disk.
        assert has_memory(session.endpoints.redis_url, "in its memory")


def test_a_process_record_whose_pid_belongs_to_a_stranger_now_harms_nobody(home: Path) -> None:
    open_session(home, ("redis",)).close()
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    try:
        identity = ProcessIdentity.of(stranger.pid)
        assert identity is not None
        identity.write(Home.at(home).process_record("redis"))
        with open_session(home, ("redis",)):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_is_killed_is_started_again_under_its_users(home: Path, wait: Callable[..., None]) -> None:
    with open_session(home) as session:
        url = session.endpoints.redis_url
        assert url is not None
        write_memory(url, "before")
        time.sleep(FLUSHED_S)
        before = server_pids(home)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            servers = {server.name: server for server in home_status(home).servers}
            return all(server.state == "ready" and server.pid != before[name] for name, server in servers.items())

        wait(is_back, "both servers to be started again")
        assert has_memory(url, "before")
        with ledger(session.endpoints.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_kill_while_the_database_is_created_leaves_nothing_half_made(
    home: Path, start_user: Callable[..., Any], wait: Callable[..., None]
) -> None:
    user = start_user("postgres")
    wait(lambda: (home / "postgres" / "18.new" / "global").exists(), "the database to be half made")
    supervisor(home).signal(signal.SIGKILL)
    user.kill()
    assert not (home / "postgres" / "18").exists()
    with open_session(home, ("postgres",)) as session, ledger(session.endpoints.database_url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("coinswarm",)
    assert not (home / "postgres" / "18.new").exists()


def test_a_supervisor_that_is_asked_to_stop_does_so_cleanly_and_the_next_session_starts_another(
    home: Path, start_user: Callable[..., Any], wait: Callable[..., None]
) -> None:
    report = start_user().report()
    write_memory(report["redis_url"], "a")
    old = supervisor(home)
    old.signal(signal.SIGTERM)
    with open_session(home, ("redis",)) as session:  # waits for the end of the old one
        assert not old.is_alive()
        assert has_memory(session.endpoints.redis_url, "a")


def test_the_status_of_a_home_whose_supervisor_does_not_answer_names_it_and_no_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_STATUS_PATIENCE_S", 0.2)
    with open_session(home, ("redis",)):
        identity = supervisor(home)
        identity.signal(signal.SIGSTOP)
        try:
            status = home_status(home)
        finally:
            identity.signal(signal.SIGCONT)
        assert (status.supervisor_pid, status.servers) == (identity.pid, ())
        assert home_status(home).servers != ()


def test_servers_stop_when_their_home_is_removed_and_a_new_home_in_its_place_works(home: Path) -> None:
    session = open_session(home, ("redis",))
    old = supervisor(home)
    shutil.rmtree(home)
    with open_session(home, ("redis",)) as again:
        assert not old.is_alive()
        assert again.endpoints.redis_url is not None
        write_memory(again.endpoints.redis_url, "new")
    session.close()


def test_servers_stop_when_their_sockets_were_removed_and_the_next_session_has_new_ones(home: Path) -> None:
    session = open_session(home, ("redis",))
    old = supervisor(home)
    runtime = home_status(home).runtime_directory
    assert runtime is not None
    shutil.rmtree(runtime)
    with open_session(home, ("redis",)) as again:
        assert not old.is_alive()
        assert again.endpoints.redis_url is not None
        write_memory(again.endpoints.redis_url, "new")
    session.close()


def test_the_death_of_one_home_does_not_touch_another(
    home: Path, tmp_path: Path, start_user: Callable[..., Any], stop_servers: Callable[[Path], None]
) -> None:
    other = tmp_path / "other"
    try:
        user = start_user(directory=other)
        url = user.report()["redis_url"]
        with open_session(home, ("redis",)) as session:
            assert session.endpoints.redis_url != url
            supervisor(home).signal(signal.SIGKILL)
        write_memory(url, "here")
        assert has_memory(url, "here")
        assert user.leave() == 0
    finally:
        stop_servers(other)
