"""Paths of flow parameters stay under the configured folders, whatever way they try to leave them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.roots import PACKAGE_DATA, PathOutsideRootsError, checked_path, trust
from memory.settings import Settings


@pytest.fixture
def world(tmp_path: Path) -> tuple[Settings, Path]:
    """Settings of a home, and a folder beside it that no setting names."""
    (tmp_path / "home").mkdir()
    (tmp_path / "history").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("secret")
    return Settings(home=tmp_path / "home", history=tmp_path / "history", data_roots=(tmp_path / "more",)), elsewhere


def test_paths_under_the_configured_folders_are_taken(world: tuple[Settings, Path]) -> None:
    settings, _ = world
    assert settings.history is not None
    for path in (settings.home / "backups" / "new", settings.history, settings.data_roots[0] / "x", PACKAGE_DATA[0]):
        assert checked_path(path, settings, what="it") == path.resolve()
        assert checked_path(str(path), settings, what="it") == path.resolve()


@pytest.mark.parametrize(
    "path",
    [
        "{elsewhere}/file",
        "{home}/../elsewhere/file",
        "{home}/sub/../../elsewhere",
        "{home}-other/file",
        "/etc/passwd",
        "/",
        "relative",
        "../relative",
        "~/file",
        "~nobody-of-this-name/file",
        "{home}/link/file",
        "{home}/link-to-link",
        "{home}/file\0.parquet",
        "{home}/" + "n" * 300,
    ],
)
def test_whatever_leads_elsewhere_is_refused(world: tuple[Settings, Path], path: str) -> None:
    settings, elsewhere = world
    (settings.home / "link").symlink_to(elsewhere)
    (settings.home / "link-to-link").symlink_to(settings.home / "link" / "file")
    named = path.format(home=settings.home, elsewhere=elsewhere)
    if len(path) > 255:
        assert checked_path(named, settings, what="it") == Path(named)  # Under the home: the one who opens it is told.
        return
    with pytest.raises(PathOutsideRootsError, match=r"^the parameter market "):
        checked_path(named, settings, what="the parameter market")


def test_the_refusal_names_the_setting_in_one_line(world: tuple[Settings, Path]) -> None:
    settings, elsewhere = world
    with pytest.raises(PathOutsideRootsError) as caught:
        checked_path(elsewhere, settings, what="the target")
    assert "COINSWARM_DATA_ROOTS" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loop_of_links_is_refused(world: tuple[Settings, Path]) -> None:
    settings, _ = world
    (settings.home / "a").symlink_to(settings.home / "b")
    (settings.home / "b").symlink_to(settings.home / "a")
    with pytest.raises(PathOutsideRootsError):
        checked_path(settings.home / "a" / "x", settings, what="it")


def test_history_and_samples_are_not_written_to(world: tuple[Settings, Path]) -> None:
    settings, _ = world
    assert settings.history is not None
    for path in (settings.history / "x", PACKAGE_DATA[0] / "x"):
        with pytest.raises(PathOutsideRootsError, match="write to"):
            checked_path(path, settings, what="it", writing=True)
    assert checked_path(settings.home / "x", settings, what="it", writing=True) == settings.home / "x"


@pytest.mark.parametrize("folder", ["redis", "postgres", "postgres/18", "prefect/auth-string", "locks", "acl/default"])
def test_the_servers_own_files_are_nobodys(world: tuple[Settings, Path], folder: str) -> None:
    settings, _ = world
    with pytest.raises(PathOutsideRootsError, match="belongs to the servers"):
        checked_path(settings.home / folder, settings, what="it")


def test_a_glob_is_checked_before_its_first_wildcard(world: tuple[Settings, Path]) -> None:
    settings, elsewhere = world
    inside = settings.home / "candles" / "*_1m.parquet"
    assert checked_path(inside, settings, what="it", pattern=True) == inside
    for path in (elsewhere / "*", settings.home / "*" / ".." / ".." / "elsewhere" / "*", Path("/*")):
        with pytest.raises(PathOutsideRootsError):
            checked_path(path, settings, what="it", pattern=True)


def test_what_the_owner_names_is_trusted_from_then_on(
    world: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, elsewhere = world
    monkeypatch.setenv("COINSWARM_HOME", str(settings.home))
    monkeypatch.setenv("COINSWARM_DATA_ROOTS", "/somewhere")
    trust(elsewhere / "*.parquet")
    trust(elsewhere / "*.parquet")
    assert os.environ["COINSWARM_DATA_ROOTS"] == f"/somewhere:{elsewhere}"
    assert checked_path(elsewhere / "file", Settings(), what="it") == elsewhere / "file"
    with pytest.raises(PathOutsideRootsError):
        checked_path(elsewhere.parent / "other", Settings(), what="it")
