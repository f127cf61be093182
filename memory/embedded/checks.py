"""Whether servers that were configured, instead of embedded ones, can hold the memory and its ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memory.database_encoding import check_encoding
from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError
from memory.secrets import mask, redacted

#: WAITAOF, which a durable write waits for, came with Redis 7.2.
MINIMUM_REDIS = (7, 2)
#: FLOAT16 vectors came with search 2.10.
MINIMUM_SEARCH = (2, 10)
#: From this search version on (that of Redis 8), a cluster answers from all of its shards.
CLUSTER_SEARCH = (8, 0)
#: The oldest Postgres that the ledger is meant for; older ones get no more fixes.
MINIMUM_POSTGRES = 14
_CONNECT_TIMEOUT_S = 10
_INSTALL_REDIS = (
    "Use Redis 8 or newer, which has search built in, or unset COINSWARM_REDIS_URL to use the embedded server."
)
_INSTALL_POSTGRES = "Use Postgres 14 or newer, or unset COINSWARM_DATABASE_URL to use the embedded server."


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a Redis server says about itself."""

    version: tuple[int, ...]
    search_version: tuple[int, ...] | None
    """None where it has no search."""
    cluster: bool
    database: int
    maxmemory_policy: str
    append_only: bool


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a Postgres server says about itself."""

    version: int
    """As ``server_version_num`` has it: 180004 is 18.4."""
    encoding: str
    read_only: bool
    holds_prefect: bool


def check_configured(redis_url: str | None, database_url: str | None) -> None:
    """Ask servers that are configured whether they can be used, before others are started beside them.

    A Redis user who may not ask what the server is passes: whoever made that user has chosen the server. Takes one
    round trip each; where nobody listens that is told at once.

    Parameters
    ----------
    redis_url, database_url
        None for one that is not configured, or not needed.

    Raises
    ------
    ServerUnsuitableError, StoreUnavailableError
        As `check_redis` and `check_database`.
    """
    if redis_url is not None:
        with contextlib.suppress(AccessDeniedError):
            check_redis(redis_url)
    if database_url is not None:
        check_database(database_url)


def check_redis(url: str) -> RedisFacts:
    """Return what the Redis at ``url`` is, where it can hold the memory. Takes one round trip.

    Eviction and persistence are reported, not judged: a volatile server (``redis-volatile.conf``) is a choice.

    Raises
    ------
    ServerUnsuitableError
        It is too old, has no search or an old one, is a cluster whose search is partial, or the URL names a database
        that cannot be indexed.
    AccessDeniedError
        The user may not call INFO.
    StoreUnavailableError
        It cannot be reached, or refuses us.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from memory.store.refusals import refused_connection, tls_hint, translated, unreachable
    from memory.store.sentinel import SentinelUrl, server_url
    from memory.store.servers import URL_FORMS, address_of

    address = address_of(url)
    try:
        client = redis.Redis.from_url(
            asyncio.run(server_url(url, _CONNECT_TIMEOUT_S)) if SentinelUrl.is_one(url) else url,
            socket_timeout=_CONNECT_TIMEOUT_S,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # What it says may hold a part of the password.
        raise ServerUnsuitableError(
            f"The Redis URL {redacted(url)!r} cannot be used.", remedy=f"Write it as {URL_FORMS}."
        ) from None
    except redis.RedisError as error:
        raise unreachable(error, address) from error
    with client:
        try:
            with client.pipeline(transaction=False) as pipeline:
                for section in ("server", "cluster", "memory", "persistence", "modules"):
                    pipeline.info(section)
                server, cluster, memory, persistence, modules = pipeline.execute()
        except redis.RedisError as error:
            if (refused := refused_connection(error, address)) is not None:
                raise refused from error
            if isinstance(denied := translated(error, address), AccessDeniedError):
                raise denied from error
            if isinstance(error, redis.BusyLoadingError):
                raise unreachable(error, address) from error
            raise StoreUnavailableError(
                f"Redis at {redacted(url)} cannot be used: {str(error).rstrip('.')}.",
                remedy=f"Check that it runs, and that COINSWARM_REDIS_URL leads to it{tls_hint(error, address)}.",
            ) from error
        database = int(client.connection_pool.connection_kwargs.get("db") or 0)
    facts = RedisFacts(
        version=parse_version(server["redis_version"]),
        search_version=search_version(modules),
        cluster=bool(int(cluster.get("cluster_enabled", 0))),
        database=database,
        maxmemory_policy=str(memory.get("maxmemory_policy", "unknown")),
        append_only=bool(int(persistence.get("aof_enabled", 0))),
    )
    judge_redis(facts, redacted(url))
    return facts


def judge_redis(facts: RedisFacts, where: str) -> None:
    """Raise ServerUnsuitableError unless a Redis of these facts, which messages call ``where``, can hold the memory."""
    if facts.version < MINIMUM_REDIS:
        raise ServerUnsuitableError(
            f"Redis at {where} is version {_dotted(facts.version)}; at least {_dotted(MINIMUM_REDIS)} is needed.",
            remedy=_INSTALL_REDIS,
        )
    if facts.search_version is None:
        raise ServerUnsuitableError(
            f"Redis at {where} (version {_dotted(facts.version)}) has no search.", remedy=_INSTALL_REDIS
        )
    if facts.search_version < MINIMUM_SEARCH:
        raise ServerUnsuitableError(
            f"Redis at {where} has search {_dotted(facts.search_version)}; "
            f"at least {_dotted(MINIMUM_SEARCH)} is needed.",
            remedy=_INSTALL_REDIS,
        )
    if facts.cluster and facts.search_version < CLUSTER_SEARCH:
        raise ServerUnsuitableError(
            f"Redis at {where} is a cluster with search {_dotted(facts.search_version)}, "
            "which answers from one shard only.",
            remedy=f"Use one with search {_dotted(CLUSTER_SEARCH)} or newer, as Redis 8's own builds have it, or a "
            "server that is no cluster.",
        )
    if facts.database != 0:
        raise ServerUnsuitableError(
            f"The Redis URL {where} names database {facts.database}, and search indexes database 0 only.",
            remedy="Leave the number out of the URL; namespaces keep memories apart.",
        )


def check_database(url: str) -> DatabaseFacts:
    """Return what the Postgres at ``url`` is, where it can hold the ledger. Takes one connection and one query.

    Parameters
    ----------
    url
        As SQLAlchemy or libpq writes it: ``postgresql+psycopg://`` or ``postgresql://``.

    Raises
    ------
    ServerUnsuitableError
        It is too old, a read-only replica, not in UTF-8, or the database is Prefect's own.
    StoreUnavailableError
        It cannot be reached, or refuses us.
    """
    import psycopg
    import sqlalchemy as sa

    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in {"postgresql", "postgres"} or not rest:
        raise ServerUnsuitableError(
            f"The database URL {redacted(url)!r} is not one of Postgres.",
            remedy="Write it as postgresql+psycopg://user@host:5432/coinswarm.",
        )
    try:
        # Read as the ledger reads it, which has forms of its own, such as for several hosts.
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        _, options = parsed.get_dialect()().create_connect_args(parsed)
        options["connect_timeout"] = _CONNECT_TIMEOUT_S
        with psycopg.connect(**options, autocommit=True) as connection:
            encoding = connection.info.parameter_status("server_encoding") or "an unknown encoding"
            row = connection.execute(
                "SELECT current_setting('server_version_num')::int,"
                " pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool,"
                " to_regclass('flow_run') IS NOT NULL AND to_regclass('task_run') IS NOT NULL"
                " AND to_regclass('deployment') IS NOT NULL"
            ).fetchone()
    except (psycopg.ProgrammingError, sa.exc.ArgumentError, ValueError):
        # What it says of a URL may hold a part of the password.
        raise ServerUnsuitableError(
            f"The database URL {redacted(url)!r} cannot be read.",
            remedy="Write it as postgresql://user:password@host:5432/coinswarm?sslmode=verify-full; in a password "
            "write %40 for @.",
        ) from None
    except psycopg.Error as error:
        raise StoreUnavailableError(
            f"Postgres at {redacted(url)} cannot be used: {mask(' '.join(str(error).split())).rstrip('.?')}.",
            remedy="Check that it runs, and that COINSWARM_DATABASE_URL leads to a database that exists.",
        ) from error
    assert row is not None
    version, read_only, holds_prefect = row
    facts = DatabaseFacts(version, encoding, read_only, holds_prefect)
    judge_database(facts, redacted(url))
    return facts


def judge_database(facts: DatabaseFacts, where: str) -> None:
    """Raise ServerUnsuitableError unless a database of these facts can hold the ledger."""
    if facts.version < MINIMUM_POSTGRES * 10_000:
        raise ServerUnsuitableError(
            f"Postgres at {where} is version {facts.version // 10_000}; at least {MINIMUM_POSTGRES} is needed.",
            remedy=_INSTALL_POSTGRES,
        )
    if facts.read_only:
        raise ServerUnsuitableError(
            f"Postgres at {where} is read-only.", remedy="Point COINSWARM_DATABASE_URL at the primary."
        )
    check_encoding(facts.encoding, where)
    if facts.holds_prefect:
        raise ServerUnsuitableError(
            f"The database at {where} is Prefect's own.",
            remedy="Create a database for the ledger beside it (CREATE DATABASE coinswarm) and name that one.",
        )


def parse_version(text: str) -> tuple[int, ...]:
    """Return ``8.2.3`` as (8, 2, 3). What follows the first part that is no number is left out."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def search_version(modules: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the version of search in redis-py's parsed ``INFO modules``; None where it is not there.

    Modules number themselves as one integer: 21005 is 2.10.5, 80200 is 8.2.0.
    """
    listed = modules.get("modules", [])
    for module in listed if isinstance(listed, list) else [listed]:
        if module.get("name") in {"search", "searchlight"}:
            number = int(module["ver"])
            return number // 10_000, number // 100 % 100, number % 100
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
