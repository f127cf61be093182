"""Fixtures that every room uses: real Redis and Postgres, started once for the whole run."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import sqlalchemy as sa
from hypothesis import settings

from memory import embedded
from tests.thoroughness import PROFILE

if TYPE_CHECKING:
    from memory import MemoryConnection
    from memory.ledger import Ledger
    from memory.store.acl import User


# The servers that these variables name are those of the whole run; what a test starts is told by itself where they are.
_REDIS_URL, _DATABASE_URL = "COINSWARM_REDIS_URL", "COINSWARM_DATABASE_URL"
for _name in (_REDIS_URL, _DATABASE_URL):
    if _name in os.environ:
        os.environ[f"SUITE_{_name}"] = os.environ.pop(_name)

# What helpers of the tests assert is told as fully as what tests do.
pytest.register_assert_rewrite(*(f"tests.{room}" for room in ("agents", "deployments", "flows", "memory")))

# Properties that name no number of examples of their own are tried on three times as many as by default.
settings.register_profile(PROFILE, max_examples=300)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: one that is begun last would keep one process busy when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@dataclass(frozen=True)
class Servers:
    """Where the servers of this test run listen.

    Attributes
    ----------
    home
        Of the Prefect server, which takes long to start and some of a core to run: processes that take whole files
        share one. Those that take single tests do not: they might register all deployments at once. Each has a Redis
        and a Postgres of its own, elsewhere.
    """

    redis_url: str
    database_url: str
    home: Path


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Redis with search and Postgres: those that COINSWARM_*_URL name, else embedded ones in a home of their own."""
    redis_url, database_url = (os.environ.get(f"SUITE_{name}") for name in (_REDIS_URL, _DATABASE_URL))
    words, ours = getattr(request.config, "workerinput", {}).get("mainargv", ()), tmp_path_factory.getbasetemp()
    prefect_home = (ours.parent if any("loadfile" in word for word in words) else ours) / "prefect-home"
    home = Path(tempfile.mkdtemp(prefix="coinswarm-test-"))
    try:
        if redis_url and database_url:
            # Tests make engines of their own of it; SQLAlchemy would look for another driver.
            driven = sa.make_url(database_url).set(drivername="postgresql+psycopg")
            yield Servers(redis_url, driven.render_as_string(hide_password=False), prefect_home)
            return
        with embedded.open_session(home, ("redis", "postgres")) as session:
            assert session.endpoints.redis_url is not None
            assert session.endpoints.database_url is not None
            # Every publication waits until the log is on the disk, up to a second; what a crash leaves is tested on
            # servers of their own.
            with redis.Redis.from_url(session.endpoints.redis_url) as client:
                client.config_set("appendonly", "no")
            yield Servers(session.endpoints.redis_url, session.endpoints.database_url, prefect_home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server(servers: Servers) -> Iterator[str]:
    """A real Prefect server, which other processes of the suite may use too; flows of this process talk to it."""
    from prefect.settings import temporary_settings

    from deployments.local import send_what_waits

    with embedded.open_session(servers.home, ("prefect",), timeout_s=120) as session:
        environment = embedded.prefect_environment(servers.home, session.endpoints)
        with temporary_settings(dict(environment)):
            assert session.endpoints.prefect_api_url is not None
            yield session.endpoints.prefect_api_url
            send_what_waits()


@pytest.fixture(scope="session")
def as_user(servers: Servers) -> Iterator[Callable[[User], str]]:
    """The shared Redis's URL as a user with the rights that `coinswarm acl` gives it."""
    from memory.store.acl import password_hash
    from memory.store.servers import with_credentials

    made = set()
    with redis.Redis.from_url(servers.redis_url) as admin:

        def make(user: User) -> str:
            password = f"password-of-{user.name}"
            admin.execute_command("ACL", "SETUSER", user.name, "reset", "on", password_hash(password), *user.rules())
            made.add(user.name)
            return with_credentials(servers.redis_url, user.name, password)

        yield make
        for name in made:
            admin.execute_command("ACL", "DELUSER", name)


@pytest.fixture(scope="session")
def as_jobs(as_user: Callable[[User], str]) -> Callable[[str], str]:
    """The shared Redis's URL as the user of a namespace's jobs, and of those whose names go on from its with a dash."""
    from memory.store.acl import Permission, users

    def make(namespace: str) -> str:
        jobs = users(namespace)[0]
        return as_user(replace(jobs, root=Permission(jobs.root.commands, (*jobs.root.keys, f"~{namespace}-*"))))

    return make


@pytest.fixture
def configured(
    servers: Servers, as_jobs: Callable[[str], str], namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The environment of a process that works in a namespace of its own, as its jobs; returns the namespace."""
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COINSWARM_REDIS_URL", as_jobs(namespace))
    monkeypatch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
    monkeypatch.setenv("COINSWARM_NAMESPACE", namespace)
    return namespace


@pytest.fixture
def namespace() -> str:
    """A namespace that nobody else uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def mem(servers: Servers, namespace: str) -> AsyncIterator[MemoryConnection]:
    """An open memory on the shared Redis, in a namespace of its own."""
    import memory

    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as connection:
        yield connection


@pytest.fixture
def ledger(servers: Servers) -> Iterator[Ledger]:
    """The ledger on the shared Postgres, migrated."""
    from memory.ledger import Ledger

    with Ledger.open(servers.database_url) as opened:
        yield opened


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A fresh, empty database on the shared Postgres."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        yield sa.make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    finally:
        admin.dispose()


@pytest.fixture(scope="session")
def history() -> Path:
    """Folder of the larger market history, or a skip that says how to get it."""
    folder = os.environ.get("COINSWARM_HISTORY")
    if not folder or not Path(folder).is_dir():
        pytest.skip("COINSWARM_HISTORY names no folder of market history")
    return Path(folder)
