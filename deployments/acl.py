"""`coinswarm acl`: users of Redis for a namespace, their passwords in files, and their rules printed or applied."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
from redis.exceptions import RedisError

from deployments.console import Console
from deployments.local import load_settings
from memory.errors import CoinswarmError
from memory.roots import CREDENTIALS
from memory.secret_files import read_secret_file
from memory.secrets import remember
from memory.settings import Settings
from memory.store.acl import User, apply_users, lets_anybody_in, users
from memory.store.keys import drill_namespace
from memory.store.link import RedisLink
from memory.store.refusals import unreachable
from memory.store.sentinel import server_url
from memory.store.servers import address_of, named_replicas, split_urls, with_credentials

PASSWORD_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class PasswordFileError(CoinswarmError):
    """A file of a password that others can read."""


class EmbeddedUsersError(CoinswarmError):
    """Users for the embedded Redis, which has none but its owner."""


def acl(
    agents: Sequence[str], namespace: str | None, folder: Path | None, console: Console, *, apply: bool
) -> dict[str, Any]:
    """The users of a namespace with their rules; passwords that are missing are made.

    Returns
    -------
    dict
        ``users`` (name, role, line of an ACL file, password file and, where applied, URL file), ``applied`` (servers),
        ``lasting`` (whether each of these wrote the rules down), ``open`` (servers that let anybody in without them).
    """
    settings = load_settings(namespace)
    name = settings.namespace
    made = users(name, agents, also=[drill_namespace(name)])
    place = (settings.home / CREDENTIALS / name) if folder is None else folder
    passwords = [_password(place, user, console) for user in made]
    result: dict[str, Any] = {
        "namespace": name,
        "users": [
            {
                "user": user.name,
                "role": user.role,
                "line": user.line(password),
                "password_file": str(_file(place, user, "password")),
            }
            for user, password in zip(made, passwords, strict=True)
        ],
        "applied": [],
        "lasting": None,
        "open": [],
    }
    if apply:
        chosen = list(zip(made, passwords, strict=True))
        if settings.redis_url is None:
            raise EmbeddedUsersError(
                "the embedded Redis has one user: whoever owns its socket.",
                remedy="Set COINSWARM_REDIS_URL to a server of your own, as a user who may run ACL.",
            )
        url = settings.redis_url.get_secret_value()
        applied, unlocked = asyncio.run(_apply(url, settings, chosen))
        for entry, (user, password) in zip(result["users"], chosen, strict=True):
            path = _file(place, user, "url")
            _write_private(path, with_credentials(url, user.name, password))
            entry["url_file"] = str(path)
        result |= {"applied": list(applied), "lasting": all(applied.values()), "open": unlocked}
    return result


def show_acl(result: dict[str, Any], out: rich.console.Console) -> None:
    """Lines of an ACL file, which hold the hashes of passwords; or what was applied, and where the URLs are."""
    if not result["applied"]:
        for entry in result["users"]:
            out.print(entry["line"], highlight=False, soft_wrap=True, markup=False)
        return
    out.print(
        f"Applied at {', '.join(result['applied'])}. Give each process its own, as COINSWARM_REDIS_URL_FILE:",
        highlight=False,
        soft_wrap=True,
    )
    for entry in result["users"]:
        out.print(f"  {entry['user']}  {entry['url_file']}", highlight=False, soft_wrap=True)
    for address in result["open"]:
        out.print(
            f"{address} still lets anybody in: its default user has no password, and these rights bind nobody. Close "
            "it: ACL SETUSER default off, or a password for its administrator.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not result["lasting"]:
        out.print(
            "A server there has no ACL file, and forgets these users when it restarts: set `aclfile` in its "
            "configuration and apply them again, or put the printed lines (without --apply) into that file."
        )


async def _apply(url: str, settings: Settings, chosen: Sequence[tuple[User, str]]) -> tuple[dict[str, bool], list[str]]:
    """Give all servers the users, each its own: neither replicas nor whoever takes over copy them from the primary.

    Returns
    -------
    tuple
        Whether each server, by its address, wrote the rules down; and the addresses of those that let anybody in.
    """
    timeout_s = settings.redis_timeout_s
    named = settings.redis_replica_urls.get_secret_value() if settings.redis_replica_urls else ""
    try:
        primary = await server_url(url, timeout_s)
    except RedisError as error:
        raise unreachable(error, address_of(url)) from error
    followers = [url] if primary != url else []
    places = [primary, *await named_replicas([*followers, *split_urls(named)], timeout_s)]
    applied: dict[str, bool] = {}
    unlocked: list[str] = []
    for place in dict.fromkeys(places):
        link = RedisLink(place, timeout_s=timeout_s)
        await link.open()
        try:
            applied[link.address] = await apply_users(link, chosen)
            if await lets_anybody_in(link):
                unlocked.append(link.address)
        finally:
            await link.close()
    return applied, unlocked


def _file(place: Path, user: User, kind: str) -> Path:
    return place / f"{user.name}.{kind}"


def _password(place: Path, user: User, console: Console) -> str:
    """The password in a user's file; a new one where there is none."""
    path = _file(place, user, "password")
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(PASSWORD_BYTES))
        console.say(f"new password: {path}")
    if path.stat().st_mode & _OTHERS:
        raise PasswordFileError(f"others may read or write {path}.", remedy=f"chmod 600 {path}")
    password = read_secret_file(path, f"the password of {user.name}")
    remember(password)
    return password


def _write_private(path: Path, content: str) -> None:
    """Write a file for its owner alone, in one step."""
    for folder in reversed((path.parent, *path.parent.parents)):
        folder.mkdir(mode=0o700, exist_ok=True)  # `parents` would leave those above open to others.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"{content}\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)
