"""Redis and Postgres over TLS: what is trusted works, and what is not is refused at once, with the reason."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

import memory
from memory import Settings
from memory.embedded import check_database, check_redis
from memory.errors import ServerUnsuitableError, StoreUnavailableError
from memory.ledger.database import Database
from memory.store.acl import users
from memory.store.servers import with_credentials

sys.path.insert(0, str(Path(__file__).parent))
from tls_proxy import Certificates, make_certificates, tls_before


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def redis_port(servers: Any, certificates: Certificates) -> Iterator[int]:
    with tls_before(urlsplit(servers.redis_url).path, certificates) as port:
        yield port


@pytest.fixture(scope="module")
def postgres_port(servers: Any, certificates: Certificates) -> Iterator[int]:
    query = sa.make_url(servers.database_url).query
    with tls_before(f"{query['host']}/.s.PGSQL.{query['port']}", certificates, postgres=True) as port:
        yield port


async def test_a_memory_works_over_tls_as_a_restricted_user(
    redis_port: int, certificates: Certificates, namespace: str, as_user: Callable[..., str], make: Any, build: Any
) -> None:
    jobs = as_user(users(namespace)[0])
    user, password = urlsplit(jobs).username, urlsplit(jobs).password
    plain = f"rediss://localhost:{redis_port}/0?ssl_ca_certs={certificates.authority}"
    url = with_credentials(plain, str(user), str(password))
    async with memory.connect(redis_url=url, namespace=namespace) as mem:
        await mem.episodic.add_many([make(minute) for minute in range(40)])
        for minute in range(40):  # The near cache takes over on a connection of its own, over TLS too.
            found = await mem.retrieval.retrieve_similar_experiences(build["vector"](minute), agent_id="momentum")
            assert found[0].memory.step == minute
        await mem.fence.raise_to(1)  # A transaction, on a connection of redis-py.


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("localhost", "", "is not trusted: .*issuer"),
        ("127.0.0.1", "?ssl_ca_certs={ca}", "is not trusted: .*not valid for '127.0.0.1'"),
        ("localhost", "?ssl_ca_certs={other}", "is not trusted"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_refused_at_once(
    host: str, options: str, said: str, redis_port: int, certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path).authority
    asked = options.format(ca=certificates.authority, other=other)
    url = f"rediss://user:canary@{host}:{redis_port}/0{asked}"
    with pytest.raises(ServerUnsuitableError, match=said) as caught:
        async with memory.connect(redis_url=url, settings=Settings(redis_timeout_s=60.0)):
            pass
    assert "ssl_ca_certs" in caught.value.remedy
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "content", "said"), [("nowhere.pem", None, "No such file"), ("odd.pem", "no PEM", "NO_CERTIFICATE")]
)
async def test_a_file_of_certificates_that_cannot_be_read_is_told_at_once(
    redis_port: int, tmp_path: Path, place: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / place).write_text(content)
    url = f"rediss://user:canary@localhost:{redis_port}?ssl_ca_certs={tmp_path / place}"
    with pytest.raises(ServerUnsuitableError, match=f"certificates or keys .* cannot be read .{said}") as caught:
        async with memory.connect(redis_url=url, settings=Settings(redis_timeout_s=60.0)):
            pass
    with pytest.raises(ServerUnsuitableError, match=said):
        await asyncio.to_thread(check_redis, url)
    assert "ssl_ca_certs" in caught.value.remedy
    assert "canary" not in str(caught.value)


async def test_a_server_that_speaks_tls_alone_is_asked_for_by_another_url(redis_port: int) -> None:
    brief = Settings(redis_timeout_s=0.5)
    url = f"redis://:canary@127.0.0.1:{redis_port}"
    with pytest.raises(StoreUnavailableError, match="rediss://"):
        async with memory.connect(redis_url=url, settings=brief):
            pass
    with pytest.raises(StoreUnavailableError, match="rediss://"):
        await asyncio.to_thread(check_redis, url)


async def test_a_wrong_password_over_tls_is_named_without_it(redis_port: int, certificates: Certificates) -> None:
    url = f"rediss://user:canary@localhost:{redis_port}/0?ssl_ca_certs={certificates.authority}"
    with pytest.raises(ServerUnsuitableError, match="refused the user or password") as caught:
        async with memory.connect(redis_url=url):
            pass
    assert "canary" not in str(caught.value)


async def test_tls_to_a_server_that_speaks_none_ends_in_the_hint_that_it_may_not(own_redis: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own_redis.stop()
    own_redis.start("--port", str(port), "--bind", "127.0.0.1")
    brief = Settings(redis_timeout_s=0.5)
    with pytest.raises(StoreUnavailableError, match="Check that it runs, speaks TLS") as caught:
        async with memory.connect(redis_url=f"rediss://:canary@127.0.0.1:{port}", settings=brief):
            pass
    assert "canary" not in str(caught.value)


def database(port: int, options: str) -> str:
    return f"postgresql://coinswarm:canary@localhost:{port}/coinswarm?{options}"


def test_the_ledger_works_over_verified_tls(postgres_port: int, certificates: Certificates) -> None:
    url = database(postgres_port, f"sslmode=verify-full&sslrootcert={certificates.authority}")
    assert check_database(url).encoding == "UTF8"
    opened = Database.connect(url)
    with opened.transaction() as session:
        assert session.execute(sa.text("SELECT 1")).scalar() == 1
    opened.dispose()


def test_a_ledger_whose_certificate_is_not_trusted_is_refused_with_the_reason(
    postgres_port: int, tmp_path: Path
) -> None:
    url = database(postgres_port, f"sslmode=verify-full&sslrootcert={make_certificates(tmp_path).authority}")
    with pytest.raises(StoreUnavailableError, match="certificate verify failed") as caught:
        check_database(url)
    assert "canary" not in str(caught.value)
    opened = Database.connect(url)
    with pytest.raises(StoreUnavailableError, match="certificate verify failed") as caught, opened.transaction() as own:
        own.execute(sa.text("SELECT 1"))
    assert "canary" not in str(caught.value)
    opened.dispose()
