"""The Prefect server of a home: real, reachable by its clients, and closed to everybody else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memory.embedded import Session, home_status, open_session, prefect_environment
from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.prefect_server import PrefectServer, free_port
from memory.errors import EmbeddedServerError

FLOW = """
from prefect import flow, task

@task
def double(number: int) -> int:
    return 2 * number

@flow(persist_result=True)
def answer() -> int:
    return double(21)

print("answer:", answer())
"""


@dataclass(frozen=True)
class Asked:
    """A server that was asked for on a port that is taken, and then on another one."""

    session: Session
    taken: int
    refusals: tuple[EmbeddedServerError, ...]
    port: int


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    home, refusals = tmp_path_factory.mktemp("home"), []
    with (
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener,
        # Servers that others have started, without a port in mind.
        open_session(home, ("redis",)),
    ):
        taken = listener.getsockname()[1]
        for _ in range(2):
            with pytest.raises(EmbeddedServerError) as refused:
                open_session(home, ("prefect",), options=EmbeddedOptions(prefect_port=taken))
            refusals.append(refused.value)
        port = free_port()
        options = EmbeddedOptions(prefect_port=port)
        with open_session(home, ("prefect",), timeout_s=120, options=options) as session:
            yield Asked(session, taken, tuple(refusals), port)


@pytest.fixture(scope="module")
def session(asked: Asked) -> Session:
    return asked.session


def api(session: Session) -> str:
    assert session.endpoints.prefect_api_url is not None
    return session.endpoints.prefect_api_url


def status_of(url: str, *, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def test_a_flow_runs_with_the_environment_of_its_clients(session: Session) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FLOW],
        env={**os.environ, **prefect_environment(session.home, session.endpoints)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "answer: 42" in result.stdout
    storage = Home.at(session.home).prefect_data / "storage"
    contents = [json.loads(path.read_text()) for path in storage.rglob("*") if path.is_file()]
    kinds = [content["metadata"]["serializer"]["type"] for content in contents if isinstance(content, dict)]
    assert set(kinds) == {"json"}


def test_who_has_no_password_is_refused(session: Session) -> None:
    assert status_of(f"{api(session)}/admin/version")[0] == 401


def test_a_request_without_a_token_against_forgery_is_refused(session: Session) -> None:
    assert status_of(f"{api(session)}/flows/filter", data=b"{}")[0] == 403


def test_pages_of_other_origins_get_no_permission(session: Session) -> None:
    _, foreign = status_of(f"{api(session)}/health", Origin="http://evil.example")
    assert "access-control-allow-origin" not in foreign
    own = api(session).removesuffix("/api")
    _, mine = status_of(f"{api(session)}/health", Origin=own)
    assert mine["access-control-allow-origin"] == own


def test_the_pages_know_where_the_server_is(session: Session) -> None:
    with urllib.request.urlopen(api(session).removesuffix("/api") + "/ui-settings", timeout=30) as response:
        assert json.load(response)["api_url"] == api(session)


def test_the_password_is_in_no_argument_and_in_a_file_for_its_owner_alone(session: Session) -> None:
    secret = prefect_environment(session.home, session.endpoints)["PREFECT_API_AUTH_STRING"]
    path = Home.at(session.home).prefect_data / "auth-string"
    assert path.read_text() == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server = next(server for server in home_status(session.home).servers if server.name == "prefect")
    assert secret not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert secret not in server.log.read_text()


def test_without_a_prefect_server_there_is_no_environment_for_it(home: Path) -> None:
    with open_session(home, ("redis",)) as session, pytest.raises(ValueError, match="'prefect'"):
        prefect_environment(home, session.endpoints)


def test_a_loopback_interface_that_is_down_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_where_it_is_down(taken: socket.socket, address: Any) -> None:
        # What the kernel answers in a network namespace of its own (unshare --net), whose loopback is down.
        if taken.family == socket.AF_INET:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        connect(taken, address)

    monkeypatch.setattr(socket.socket, "connect", connect_where_it_is_down)
    with pytest.raises(EmbeddedServerError, match=r"127\.0\.0\.1 \(Network is unreachable\)") as refused:
        open_session(home, ("redis", "prefect"))
    assert "ip link set lo up" in refused.value.remedy
    assert not home.exists()


def test_a_port_that_is_taken_is_reported_before_anything_is_started_and_another_one_may_be_asked_for(
    asked: Asked,
) -> None:
    assert len(asked.refusals) == 2
    for refused in asked.refusals:
        assert f"port {asked.taken} of 127.0.0.1 is taken by another program" in str(refused)
    assert asked.session.endpoints.prefect_api_url == f"http://127.0.0.1:{asked.port}/api"


def test_a_server_that_died_comes_back_on_the_port_that_its_users_know(tmp_path: Path) -> None:
    server = PrefectServer(Home.at(tmp_path), tmp_path, EmbeddedOptions())
    list(server.prepare())
    known = server.url
    (Home.at(tmp_path).prefect_data / "port.json").unlink()
    list(server.prepare())
    assert server.url == known


def test_a_restarted_server_keeps_its_port_and_password(tmp_path: Path) -> None:
    # The port is chosen before the server starts, so no second start is needed to see it.
    server = PrefectServer(Home.at(tmp_path), tmp_path, EmbeddedOptions())
    list(server.prepare())
    first, secret = server.url, server.environment()["PREFECT_SERVER_API_AUTH_STRING"]
    again = PrefectServer(Home.at(tmp_path), tmp_path, EmbeddedOptions())
    list(again.prepare())
    assert again.url == first
    assert again.environment()["PREFECT_SERVER_API_AUTH_STRING"] == secret
    chosen = PrefectServer(Home.at(tmp_path), tmp_path, EmbeddedOptions(prefect_port=4201))
    list(chosen.prepare())
    assert chosen.url == "http://127.0.0.1:4201/api"
