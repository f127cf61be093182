"""`coinswarm acl` makes passwords once, prints their hashes, and gives the users to the server."""

from __future__ import annotations

import asyncio
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import rich.console

import memory
from deployments.acl import EmbeddedUsersError, PasswordFileError, acl, show_acl
from deployments.console import Console
from memory.errors import AccessDeniedError
from memory.store.acl import password_hash


@pytest.fixture
def own(servers: Any, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The environment of an administrator, and its home; the users are gone afterwards."""
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path))
    monkeypatch.setenv("COINSWARM_REDIS_URL", servers.redis_url)
    monkeypatch.setenv("COINSWARM_NAMESPACE", namespace)
    yield tmp_path
    with redis.Redis.from_url(servers.redis_url) as admin:
        for role in ("jobs", "reader", "agent.hold"):
            admin.execute_command("ACL", "DELUSER", f"{namespace}.{role}")


def call(*, apply: bool = False, folder: Path | None = None) -> dict[str, Any]:
    return acl(["hold"], None, folder, Console(as_json=True), apply=apply)


def test_what_is_printed_holds_hashes_and_the_files_are_their_owners(own: Path, namespace: str) -> None:
    result = call()
    assert [entry["user"] for entry in result["users"]] == [
        f"{namespace}.jobs",
        f"{namespace}.reader",
        f"{namespace}.agent.hold",
    ]
    for entry in result["users"]:
        path = Path(entry["password_file"])
        password = path.read_text().strip()
        assert len(password) > 40
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE((own / "acl").stat().st_mode) == 0o700
        assert password not in str(result)
        assert f"user {entry['user']} on {password_hash(password)} -@all " in entry["line"]
    assert call() == result


def test_printed_lines_are_the_rules_character_by_character(own: Path) -> None:
    result, out = call(), Console().out
    with out.capture() as shown:
        show_acl(result, out)
    assert shown.get().splitlines() == [entry["line"] for entry in result["users"]]


def test_applied_users_work_by_the_url_in_their_file_and_do_no_more_than_their_part(
    own: Path, servers: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call(apply=True)
    assert (len(result["applied"]), result["lasting"]) == (1, False)
    # A server whose owner has no password, as an embedded one: rights bind nobody there, and that is said.
    lets_anybody_in = urlsplit(servers.redis_url).password is None
    assert result["open"] == (result["applied"] if lets_anybody_in else [])
    shown = io.StringIO()
    show_acl(result, rich.console.Console(file=shown, width=400))
    assert (f"{result['applied'][0]} still lets anybody in" in shown.getvalue()) == lets_anybody_in
    assert call(apply=True) == result
    url_file = Path(result["users"][2]["url_file"])
    assert stat.S_IMODE(url_file.stat().st_mode) == 0o600
    monkeypatch.delenv("COINSWARM_REDIS_URL")
    monkeypatch.setenv("COINSWARM_REDIS_URL_FILE", str(url_file))

    async def live() -> None:
        async with memory.connect() as mem:
            await mem.inbox.append({"agent_id": "hold"})
            with pytest.raises(AccessDeniedError):
                await mem.inbox.append({"agent_id": "momentum"})

    asyncio.run(live())
    with pytest.raises(AccessDeniedError, match="may not administer users"):
        call(apply=True)


def test_a_password_that_others_can_read_is_refused(own: Path, namespace: str) -> None:
    folder = own / "given"
    call(folder=folder)
    path = folder / f"{namespace}.reader.password"
    path.chmod(0o644)
    with pytest.raises(PasswordFileError, match="chmod 600"):
        call(folder=folder)


def test_the_embedded_redis_takes_no_users(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COINSWARM_REDIS_URL")
    with pytest.raises(EmbeddedUsersError, match="COINSWARM_REDIS_URL"):
        call(apply=True)


def test_a_password_of_ones_own_is_used(own: Path, namespace: str) -> None:
    folder = own / "given"
    folder.mkdir()
    path = folder / f"{namespace}.jobs.password"
    path.write_text("one of my own\n")
    path.chmod(0o600)
    assert password_hash("one of my own") in call(folder=folder)["users"][0]["line"]
