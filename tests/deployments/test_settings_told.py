"""Settings that cannot be are told before anything is started, in one line, and without the secret that they hold."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from deployments.doctor_servers import check_archive
from deployments.examination import Examination
from deployments.homes import filesystem_of, home_problem
from deployments.local import SettingsError
from deployments.reaching import Reached
from memory.settings import Settings
from tests.deployments.conftest import Typed

COMMANDS = (("status",), ("doctor",), ("up",), ("deploy",), ("patterns",), ("run", "nightly"), ("metrics", "--once"))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_home_that_cannot_be_is_one_line_for_every_command(
    typed: Typed, tmp_path: Path, words: tuple[str, ...], below: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    told = typed(*words, COINSWARM_HOME=str(tmp_path / "file" / below))
    assert (told.code, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert f"the home {tmp_path}/file/{below} cannot be made: {tmp_path}/file is no folder." in told.stderr
    assert "COINSWARM_HOME" in told.stderr


def test_a_home_that_is_not_there_yet_may_be_looked_at_and_is_not_made(typed: Typed, tmp_path: Path) -> None:
    told = typed(
        "status",
        "--json",
        COINSWARM_HOME=str(tmp_path / "a" / "home"),
        COINSWARM_REDIS_URL="",
        COINSWARM_DATABASE_URL="",
    )
    assert {server["state"] for server in told.json()["servers"]} == {"unused"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_own_is_none_to_make_a_home_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere: what the kernel would tell another user.
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    assert problem_of(tmp_path / "home").endswith(f"cannot be made: this user may not write in {tmp_path}.")
    assert problem_of(tmp_path) == ""


def problem_of(home: Path, *, embedded: bool = True) -> str:
    found = home_problem(home, embedded=embedded)
    assert found is None or "COINSWARM_HOME" in found[1]
    return "" if found is None else found[0]


@pytest.mark.parametrize("below", ["", "/a/home"])
def test_a_home_that_this_user_may_not_look_into_names_the_one_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    home = Path(f"{tmp_path}{below}")
    mine = pwd.getpwuid(os.geteuid()).pw_name
    where = f"{tmp_path} belongs" if below else "it belongs"
    assert problem_of(home).startswith(
        f"the home {home} cannot be read: {where} to {mine} (uid {os.geteuid()}) (mode 0700)"
    )


def test_a_home_of_another_user_is_refused_where_servers_are_to_run_in_it(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert problem_of(tmp_path, embedded=False) == ""
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    for word in ("status", "doctor"):
        told = typed(word, COINSWARM_HOME=str(tmp_path), COINSWARM_REDIS_URL="", COINSWARM_DATABASE_URL="")
        assert (told.code, told.stdout, told.stderr.count("\n")) == (1, "", 1)
        assert f"the home {tmp_path} belongs to {owner} (uid " in told.stderr
        assert "and this is uid 4000000" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["/proc", "/proc/x/home", "/sys/x"])
def test_files_of_the_kernel_are_none_to_make_a_home_of(home: str) -> None:
    assert "is of the kernel (" in problem_of(Path(home))


def test_the_file_system_of_a_path_is_that_of_the_deepest_mount_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("27 1 8:1 / / rw - ext4 /dev/vda rw", f"28 27 0:2 / {tmp_path}/a\\040b rw master:1 - xfs none rw")
    (tmp_path / "mounts").write_text("\n".join(lines))
    monkeypatch.setattr("deployments.homes.MOUNTS", tmp_path / "mounts")
    assert [filesystem_of(tmp_path / name) for name in ("c", "a b", "a b/c")] == ["ext4", "xfs", "xfs"]
    monkeypatch.setattr("deployments.homes.MOUNTS", tmp_path / "nowhere")
    assert filesystem_of(tmp_path) == ""


@pytest.mark.parametrize("words", [("up",), ("deploy",), ("doctor",)], ids=" ".join)
@pytest.mark.parametrize(
    "address",
    [
        "hooks.example/c4nary",
        "ftp://hooks.example/c4nary",
        "https:///c4nary",
        "http://hooks.example:x/c4nary",
        "https://a b/c4nary",
    ],
)
def test_an_address_of_alerts_that_is_none_is_told_without_it(
    typed: Typed, words: tuple[str, ...], address: str
) -> None:
    told = typed(*words, COINSWARM_WEBHOOK_URL=address)
    assert (told.code, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert "COINSWARM_WEBHOOK_URL: must be an address that begins with https:// or http://" in told.stderr
    assert "c4nary" not in told.stderr


def test_a_flow_that_meets_such_an_address_does_not_show_it_either() -> None:
    with pytest.raises(ValueError, match="webhook_url") as refused:
        Settings(webhook_url="hooks.example/c4nary")
    assert "c4nary" not in str(refused.value)


@pytest.mark.parametrize("address", ["https://hooks.example/T/B?x=1", "http://[::1]:8080/x", "http://127.0.0.1/x"])
def test_an_address_of_alerts_is_taken_as_it_is(address: str) -> None:
    found = Settings(webhook_url=address).webhook_url
    assert found is not None
    assert found.get_secret_value() == address


@pytest.mark.parametrize("words", [("up",), ("deploy",), ("doctor",), ("backup",)], ids=" ".join)
@pytest.mark.parametrize("url", ["foo://bar", "s3://bucket/backups", "file://relative", "file://user@host/backups"])
def test_a_place_of_snapshots_that_is_no_folder_is_told(typed: Typed, words: tuple[str, ...], url: str) -> None:
    told = typed(*words, COINSWARM_BACKUP_URL=url)
    assert (told.code, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert f"COINSWARM_BACKUP_URL={url}: must be a folder" in told.stderr


@pytest.mark.parametrize("url", ["/srv/backups", "file:///srv/backups"])
def test_a_folder_of_snapshots_is_a_path_or_a_file_url(url: str) -> None:
    assert Settings(backup_url=url).backups_path == Path("/srv/backups")


@pytest.mark.parametrize("words", [("up",), ("deploy",)], ids=" ".join)
@pytest.mark.parametrize("name", ["ARCHIVE_URL", "RESULTS_URL"])
def test_a_place_of_an_unknown_protocol_is_told_before_anything_starts(
    typed: Typed, tmp_path: Path, words: tuple[str, ...], name: str
) -> None:
    told = typed(*words, COINSWARM_HOME=str(tmp_path / "home"), **{f"COINSWARM_{name}": "foo://bar"})
    assert (told.code, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert f"COINSWARM_{name}" in told.stderr
    assert "Protocol not known: foo" in told.stderr
    assert not (tmp_path / "home").exists()


def test_doctor_looks_at_the_place_of_results() -> None:
    def seen(url: str | None) -> list[str]:
        reached = Reached.nowhere(Settings(), SettingsError("nobody looked.", remedy="Look."))
        checks = check_archive(Examination(Settings(results_url=url), reached))
        return [check.status.value for check in checks if check.name == "results"]

    assert [seen(url) for url in (None, "/srv/results", "foo://bar")] == [[], ["ok"], ["fail"]]
