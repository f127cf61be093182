"""Homes: their paths, their version, their locks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.embedded.home import (
    HOME_VERSION,
    SOCKET_PATH_LIMIT,
    FileLock,
    Home,
    make_private_directory,
    read_json,
    runtime_directory,
    write_json,
)
from memory.errors import EmbeddedServerError, HomeTooNewError

path_parts = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=250).filter(
    lambda part: part not in {".", ".."}
)


@given(parts=st.lists(path_parts, min_size=1, max_size=12), base=st.sampled_from(["", "/tmp", "/" + "x" * 150]))
def test_sockets_fit_however_long_and_strange_the_paths_are(parts: list[str], base: str) -> None:
    home = Home(Path("/", *parts))
    directory = runtime_directory(home, {"XDG_RUNTIME_DIR": base})
    assert len(os.fsencode(directory / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT
    assert directory == runtime_directory(home, {"XDG_RUNTIME_DIR": base})


@given(parts=st.lists(st.lists(path_parts, min_size=1, max_size=3), min_size=2, max_size=2, unique_by=tuple))
def test_no_two_homes_share_a_socket_directory(parts: list[list[str]]) -> None:
    first, second = (runtime_directory(Home(Path("/", *each)), {}) for each in parts)
    assert first != second


def test_the_runtime_directory_of_another_user_is_not_taken(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    own = tmp_path / "run"
    own.mkdir()
    assert runtime_directory(home, {"XDG_RUNTIME_DIR": "/proc/1"}).parent != Path("/proc/1")
    if len(str(own)) < 60:
        assert runtime_directory(home, {"XDG_RUNTIME_DIR": str(own)}).parent == own


def test_a_home_reached_through_a_link_is_the_same_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Home.at(tmp_path / "link") == Home.at(tmp_path / "real")


def test_a_new_home_is_for_its_owner_alone_and_carries_its_version(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    home.create()
    home.stamp()
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700
    content = read_json(home.version_file)
    assert content is not None
    assert content["version"] == HOME_VERSION


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    directory.chmod(0o755)
    Home.at(directory).create()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_newer_version_is_refused_and_an_equal_one_is_not(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    write_json(home.version_file, {"version": HOME_VERSION})
    home.check_version()
    write_json(home.version_file, {"version": HOME_VERSION + 1})
    with pytest.raises(HomeTooNewError):
        home.check_version()


def test_a_version_file_without_a_version_is_refused(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    write_json(home.version_file, {"version": "one"})
    with pytest.raises(EmbeddedServerError, match="names no version"):
        home.check_version()


def test_a_file_in_the_place_of_a_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot be used") as caught:
        Home.at(tmp_path / "home").create()
    assert "COINSWARM_HOME" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to someone else")
def test_the_home_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(EmbeddedServerError, match="belongs to uid 12345"):
        Home.at(directory).create()


def test_sharers_exclude_one_who_wants_the_lock_alone(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.try_shared()
    assert second.try_shared()
    assert not third.try_exclusive()
    first.close()
    assert not third.try_exclusive()
    second.close()
    assert third.try_exclusive()
    third.close()


def test_a_lock_lives_on_in_a_child_that_inherited_it(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert lock.try_exclusive()
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,)
    )
    lock.close()
    assert not other.try_exclusive()
    child.communicate(b"\n")
    assert other.try_exclusive()
    other.close()


def test_a_lock_notices_that_its_file_was_removed_or_replaced(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.still_in_place()
    (tmp_path / "lock").unlink()
    assert not lock.still_in_place()
    FileLock(tmp_path / "lock").close()
    assert not lock.still_in_place()
    lock.close()


def test_a_half_written_file_reads_as_none(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert read_json(path) is None
    path.write_text('{"pid": 1')
    assert read_json(path) is None
    write_json(path, {"pid": 1})
    assert read_json(path) == {"pid": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_directory_that_was_open_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(0o777)
    make_private_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to someone else")
def test_the_private_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(EmbeddedServerError, match="uid 12345"):
        make_private_directory(directory)
