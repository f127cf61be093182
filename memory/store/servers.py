"""Which server a URL means, however it is written: addresses, lists of them, users and their passwords."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from memory.store.refusals import unreachable
from memory.store.sentinel import SentinelUrl, following_pool, replica_urls

URL_FORMS = "redis://host:6379, rediss://host:6379, unix:///path/to/redis.sock or redis+sentinel://host:26379,host:26379/service"
_NEXT_URL = re.compile(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)")
_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^:/?#@]*)(?::[^/?#]*)?@")
_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?(?P<rest>.*)", re.DOTALL)


def split_urls(text: str) -> tuple[str, ...]:
    """The URLs of a list that commas separate; a URL of Sentinel holds commas itself."""
    return tuple(url.strip() for url in _NEXT_URL.split(text)) if text else ()


def with_credentials(url: str, user: str, password: str) -> str:
    """The same server as another user.

    Raises
    ------
    ValueError
        It is no URL.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None:
        raise ValueError("this is no URL")
    return f"{parts['scheme']}://{quote(user, safe='')}:{quote(password, safe='')}@{parts['rest']}"


def address_of(url: str) -> str:
    """Where a URL leads, without user, password and options: for messages, whatever the URL is."""
    try:
        if SentinelUrl.is_one(url):
            return SentinelUrl.parse(url).address
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}"
    except ValueError:
        return "a URL that cannot be read"


def user_of(url: str) -> str:
    """The user whom a URL names; ``default`` where it names none, as Redis has it."""
    found = _USER.match(url)
    named = dict(parse_qsl(url.partition("?")[2])).get("username")
    return unquote(found[1]) if found and found[1] else named or "default"


async def named_replicas(urls: Sequence[str], timeout_s: float) -> list[str]:
    """URLs of replicas; in place of one of Sentinel all replicas that it knows to be up at this moment.

    Raises
    ------
    StoreUnavailableError
        No Sentinel answers.
    """
    found: list[str] = []
    for url in urls:
        try:
            found += await replica_urls(url, timeout_s)
        except RedisError as error:
            raise unreachable(error, address_of(url)) from error
    return found


def connection_pool(url: str, *, size: int, connect_timeout_s: float) -> BlockingConnectionPool:
    """A pool of redis-py whose callers wait for a connection; of Sentinel's, each leads to the primary of its moment.

    Raises
    ------
    ValueError
        The URL cannot be read. What the error says may hold a part of its password.
    """
    options: dict[str, Any] = {
        "max_connections": size,
        "timeout": None,
        "protocol": 3,
        "socket_timeout": None,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if not url.startswith("unix://"):
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if SentinelUrl.is_one(url):
        return following_pool(SentinelUrl.parse(url), connect_timeout_s, options)
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(url, **options)
    return pool


def database_of(pool: ConnectionPool) -> int:
    """Number of the database that the connections of a pool select."""
    return int(pool.connection_kwargs.get("db") or 0)
