"""Root, an ordinary user, a uid without a name: all of them get the same servers."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from memory.embedded import home_status, open_session
from memory.embedded.launch import EXIT_NO_USER_NAMESPACE, EXIT_PARENT_GONE, user_to_become
from memory.embedded.process import launcher
from memory.errors import EmbeddedServerError

NOBODY = pwd.getpwnam("nobody")
NAMELESS_UID = 54_321
#: This project and what is installed beside it, for an interpreter of another place.
PACKAGES = os.pathsep.join(
    [str(Path(__file__).parents[3]), *(entry for entry in sys.path if entry.endswith("site-packages"))]
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")


def can_map_users() -> bool:
    """Whether this system lets us enter a user namespace, and has the tool that the tests do it with."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return (
        subprocess.run([unshare, "--user", "--map-root-user", "true"], capture_output=True, check=False).returncode == 0
    )


def become(uid: int, gid: int) -> Sequence[str]:
    """The prefix of a command that runs it as another user."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux) is not installed")
    return [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]


@pytest.fixture
def open_directory(stop_servers: Callable[[Path], None]) -> Iterator[Path]:
    """A directory that everybody can pass through."""
    directory = Path(tempfile.mkdtemp(prefix="coinswarm-test-"))
    directory.chmod(0o755)
    yield directory
    stop_servers(directory / "home")
    shutil.rmtree(directory)


def owned_home(parent: Path, uid: int, gid: int) -> Path:
    home = parent / "home"
    home.mkdir()
    os.chown(home, uid, gid)
    return home


@needs_root
def test_as_root_the_servers_run_as_someone_else_and_no_directory_is_opened_up(home: Path) -> None:
    modes_before = [parent.stat().st_mode for parent in home.parents]
    with open_session(home) as session:
        assert session.endpoints.redis_url is not None
        assert session.endpoints.database_url is not None
        for server in home_status(home).servers:
            assert server.pid is not None
            mapping = Path(f"/proc/{server.pid}/uid_map").read_text().split()
            assert mapping[0] != "0"
            status = Path(f"/proc/{server.pid}/status").read_text()
            effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
            assert int(effective, 16) == 0
        with redis.Redis.from_url(session.endpoints.redis_url) as server_:
            assert server_.ping()
    assert [parent.stat().st_mode for parent in home.parents] == modes_before
    assert {path.stat().st_uid for path in home.rglob("*")} == {0}


def python_for_everybody() -> str:
    """This interpreter, or the system's one of the same version, which anybody may run."""
    own = Path(sys.executable).resolve()
    try:
        if all(parent.stat().st_mode & 0o001 for parent in own.parents):
            return sys.executable
    except PermissionError:
        pass  # it is private even to us
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if not system.exists():
        pytest.skip(f"{own} lies in a private directory, and there is no {system}")
    return str(system)


@needs_root
@pytest.mark.parametrize(("uid", "gid"), [(NOBODY.pw_uid, NOBODY.pw_gid), (NAMELESS_UID, NAMELESS_UID)])
def test_an_ordinary_user_has_servers_and_data_of_their_own(
    open_directory: Path, uid: int, gid: int, start_user: Callable[..., Any]
) -> None:
    home = owned_home(open_directory, uid, gid)
    prefix, python = become(uid, gid), python_for_everybody()
    user = start_user(
        "redis,postgres", directory=home, prefix=prefix, python=python, HOME=str(home), PYTHONPATH=PACKAGES
    )
    report = user.report()
    assert report.get("uid") == uid, report
    with redis.Redis.from_url(report["redis_url"]) as server:
        server.set("a", "b")
    with psycopg.connect(report["database_url"].replace("+psycopg", "", 1)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert user.leave() == 0
    assert {path.stat().st_uid for path in home.rglob("*")} == {uid}


@needs_root
def test_another_user_cannot_reach_the_sockets(home: Path) -> None:
    with open_session(home, ("redis",)) as session:
        assert session.endpoints.redis_url is not None
        program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        path = session.endpoints.redis_url.removeprefix("unix://")
        result = subprocess.run(
            [*become(NOBODY.pw_uid, NOBODY.pw_gid), python_for_everybody(), "-c", program, path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "PermissionError" in result.stderr


@pytest.mark.skipif(not can_map_users(), reason="this system has no user namespaces, or no unshare to enter one")
def test_root_without_user_namespaces_is_told_what_to_do(home: Path) -> None:
    # Root of a namespace in which further namespaces are forbidden stands for root of a strict container.
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    program = "import sys; from memory.embedded import open_session; open_session(sys.argv[1])"
    result = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            forbid,
            "sh",
            python_for_everybody(),
            "-c",
            program,
            str(home),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": PACKAGES},
    )
    last = result.stderr.strip()
    assert result.returncode != 0
    assert "EmbeddedServerError: Postgres does not run as root" in last
    assert "user.max_user_namespaces" in last
    assert "COINSWARM_DATABASE_URL" in last


def test_root_becomes_someone_who_has_a_name() -> None:
    target = user_to_become(0)
    assert target is not None
    assert target != 0
    assert pwd.getpwuid(target).pw_name


def test_a_user_with_a_name_stays_who_they_are() -> None:
    assert user_to_become(NOBODY.pw_uid) is None


def test_a_user_without_a_name_becomes_one_who_has_one() -> None:
    assert NAMELESS_UID not in {entry.pw_uid for entry in pwd.getpwall()}
    assert user_to_become(NAMELESS_UID) not in {None, 0, NAMELESS_UID}


def test_a_program_whose_parent_is_gone_does_not_start() -> None:
    command = launcher(["/bin/echo", "started"], death_signal=15)
    command[command.index("--parent") + 1] = "1"  # as if it had been adopted by init meanwhile
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == EXIT_PARENT_GONE
    assert result.stdout == b""


def test_the_launcher_gives_signals_their_default_effect() -> None:
    # A shell starts background jobs with SIGINT ignored; Postgres and Prefect are stopped by it.
    show = "grep -E 'SigIgn|SigBlk' /proc/self/status"
    result = subprocess.run(
        ["/bin/sh", "-c", 'trap "" INT TERM; exec "$@"', "sh", *launcher(["/bin/sh", "-c", show])],
        capture_output=True,
        text=True,
        check=True,
    )
    # The C library keeps signals 32 and 33 to itself; some Pythons start programs with them ignored.
    reserved = 0b11 << 31
    masks = {line.split()[0]: int(line.split()[1], 16) & ~reserved for line in result.stdout.splitlines()}
    assert masks == {"SigIgn:": 0, "SigBlk:": 0}


def test_exit_statuses_of_the_launcher_are_apart_from_those_of_servers() -> None:
    assert {EXIT_NO_USER_NAMESPACE, EXIT_PARENT_GONE}.isdisjoint({0, 1, 2, 126, 127})


def test_errors_of_embedded_servers_carry_a_remedy() -> None:
    assert EmbeddedServerError("What.", remedy="Do this.").remedy == "Do this."
