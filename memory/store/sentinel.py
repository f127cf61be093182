"""Redis behind Sentinel: which server is the primary is asked whenever a connection is opened.

``redis+sentinel://user:password@host:26379,host:26379/service`` names the Sentinels and the service that they watch;
``rediss+sentinel://`` speaks TLS with Sentinels and servers alike. User, password and options are those of the Redis
servers; ``sentinel_username`` and ``sentinel_password`` are options of their own. After a failover, connections that
break, or whose server takes no writes any more, are opened anew, to the new primary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT = 26379
LONGEST_ANSWER_S = 1.0
"""A Sentinel that does not answer within this is passed over: another one knows as well."""

_URL = re.compile(
    r"(?P<scheme>rediss?\+sentinel)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]+)/(?P<service>[^/?#]+)"
    r"(?:/(?P<database>\d+))?/?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:,]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a URL of Sentinel says.

    Attributes
    ----------
    sentinels
        Hosts and ports.
    service
        Name of the service, as the Sentinels' configuration has it ("mymaster").
    scheme
        ``redis`` or ``rediss``.
    credentials, database, options
        What belongs into the URL of a server, as it was written.
    sentinel_options
        User and password of the Sentinels themselves.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    scheme: str
    credentials: str = field(repr=False)
    database: int
    options: tuple[tuple[str, str], ...] = field(repr=False)
    sentinel_options: tuple[tuple[str, str], ...] = field(repr=False)

    @staticmethod
    def is_one(url: str) -> bool:
        """Whether a URL is one of Sentinel."""
        return url.partition("://")[0].lower() in SCHEMES

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Read a URL.

        Raises
        ------
        ValueError
            It cannot be read; the error holds nothing of it.
        """
        found = _URL.fullmatch(url)
        hosts = [_HOST.fullmatch(host.strip()) for host in found["hosts"].split(",")] if found else []
        if found is None or not all(hosts):
            raise ValueError("a URL of Sentinel is redis+sentinel://user:password@host:26379,host:26379/service")
        given = parse_qsl(found["options"] or "", keep_blank_values=True)
        return cls(
            sentinels=tuple((host["host"].strip("[]"), int(host["port"] or DEFAULT_PORT)) for host in hosts if host),
            service=found["service"],
            scheme=SCHEMES[found["scheme"].lower()],
            credentials=f"{found['user']}@" if found["user"] else "",
            database=int(found["database"] or 0),
            options=tuple((name, value) for name, value in given if not name.startswith("sentinel_")),
            sentinel_options=tuple(
                (name.removeprefix("sentinel_"), value) for name, value in given if name.startswith("sentinel_")
            ),
        )

    @property
    def address(self) -> str:
        """For messages: Sentinels and service, without user and password."""
        hosts = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.sentinels)
        return f"{self.scheme}+sentinel://{hosts}/{self.service}"

    def server_url(self, host: str, port: int) -> str:
        """URL of one of the service's servers."""
        options = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{self.credentials}{_bracketed(host)}:{port}/{self.database}{options}"

    async def primary(self, timeout_s: float) -> tuple[str, int]:
        """Host and port of the primary, as the first Sentinel that answers knows it: a round trip, in a new connection.

        Raises
        ------
        redis.exceptions.ConnectionError
            No Sentinel answers, or none knows a primary that is up.
        """
        sentinel = self._ask(timeout_s)
        try:
            host, port = await sentinel.discover_master(self.service)
        except ResponseError as error:
            raise RedisConnectionError(f"Sentinel refused to say where {self.service} is: {error}") from error
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return str(host), int(port)

    async def replicas(self, timeout_s: float) -> list[tuple[str, int]]:
        """Hosts and ports of the replicas that are up; errors as `primary`."""
        sentinel = self._ask(timeout_s)
        try:
            return [(str(host), int(port)) for host, port in await sentinel.discover_slaves(self.service)]
        except ResponseError as error:
            raise RedisConnectionError(f"Sentinel refused to say where {self.service} is: {error}") from error
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    def _ask(self, timeout_s: float) -> Sentinel:
        shared = parse_url(self.server_url("sentinel", DEFAULT_PORT))
        security = {name: value for name, value in shared.items() if name.startswith("ssl_")}
        patience_s = min(timeout_s / len(self.sentinels), LONGEST_ANSWER_S)
        return Sentinel(  # type: ignore[no-untyped-call]
            list(self.sentinels),
            sentinel_kwargs={
                **security,
                **dict(self.sentinel_options),
                "ssl": self.scheme == "rediss",
                "socket_timeout": patience_s,
                "socket_connect_timeout": patience_s,
                "decode_responses": True,
            },
        )


async def server_url(url: str, timeout_s: float) -> str:
    """URL of the server that a URL means now: of Sentinel's the primary, any other as it is. Errors as `primary`."""
    if not SentinelUrl.is_one(url):
        return url
    named = SentinelUrl.parse(url)
    return named.server_url(*await named.primary(timeout_s))


async def replica_urls(url: str, timeout_s: float) -> list[str]:
    """URLs of the replicas that a URL means now: of Sentinel's all that are up, any other as it is."""
    if not SentinelUrl.is_one(url):
        return [url]
    named = SentinelUrl.parse(url)
    return [named.server_url(host, port) for host, port in sorted(await named.replicas(timeout_s))]


def following_pool(named: SentinelUrl, timeout_s: float, options: dict[str, Any]) -> BlockingConnectionPool:
    """A pool of which each connection is opened to the primary of its moment."""
    described: dict[str, Any] = {**parse_url(named.server_url("unknown", 1)), **options}
    secure = described.pop("connection_class", None) is not None
    described |= {"named": named, "ask_timeout_s": timeout_s}
    return BlockingConnectionPool(connection_class=_SecureConnection if secure else _PrimaryConnection, **described)


class _PrimaryConnection(Connection):
    """A connection of redis-py that asks where the primary is before it is opened."""

    def __init__(self, *, named: SentinelUrl, ask_timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._named = named
        self._ask_timeout_s = ask_timeout_s

    async def connect(self) -> None:
        """Part of redis-py."""
        if not self.is_connected:
            self.host, self.port = await self._named.primary(self._ask_timeout_s)
        await super().connect()  # type: ignore[no-untyped-call]


class _SecureConnection(_PrimaryConnection, SSLConnection):
    """The same over TLS."""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
