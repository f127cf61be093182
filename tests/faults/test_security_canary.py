"""Passwords show nowhere: not in logs, ledger, Prefect's database, reports, process lists, or what a command says."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from memory import embedded
from memory.store.acl import password_hash, users
from memory.store.servers import with_credentials

pytestmark = pytest.mark.faults

REDIS_CANARY = "canary-of-redis-3c1f"
DATABASE_CANARY = "canary-of-postgres-77ab"
WEBHOOK_CANARY = "canary-of-webhook-90de"
PRODUCT = 'products=["BTC-USDT"]'
NIGHT = ("run", "nightly", "--date", "2021-06-17", "-p", "source=market", "-p", PRODUCT, "-p", "queries=20")
LOOK_EVERY_S = 0.1


class Watch(threading.Thread):
    """Reads the command lines of all processes, over and over."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self.looks = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if "canary-of" in line:
                        self.found.add(line)
            self.looks += 1

    def end(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    watching.start()
    yield watching
    watching.end()


@pytest.fixture
def environment(servers: Any, namespace: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a process whose servers have passwords."""
    jobs = users(namespace)[0]
    with redis.Redis.from_url(servers.redis_url) as admin:
        admin.execute_command("ACL", "SETUSER", jobs.name, "reset", "on", password_hash(REDIS_CANARY), *jobs.rules())
        database = sa.make_url(servers.database_url).set(password=DATABASE_CANARY)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("COINSWARM_", "PREFECT_"))}
        found = own | {
            "COINSWARM_HOME": str(tmp_path / "home"),
            "COINSWARM_NAMESPACE": namespace,
            "COINSWARM_REDIS_URL": with_credentials(servers.redis_url, jobs.name, REDIS_CANARY),
            "COINSWARM_DATABASE_URL": database.render_as_string(hide_password=False),
            "COINSWARM_WEBHOOK_URL": f"https://hooks.example/{WEBHOOK_CANARY}",
            "OMP_NUM_THREADS": "1",
        }
        # Each command would start a Prefect server of its own; they find this one.
        with embedded.open_session(tmp_path / "home", ("prefect",), timeout_s=120):
            yield found
        admin.execute_command("ACL", "DELUSER", jobs.name)


def coinswarm(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line."""
    return subprocess.run(
        [Path(sys.executable).with_name("coinswarm"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def files_with_canaries(folder: Path) -> list[str]:
    """Files below a folder that hold a password, whatever they are: databases, pages, logs."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and b"canary-of" in path.read_bytes()
    ]


def test_a_night_and_failures_of_every_kind_leave_passwords_nowhere(
    environment: dict[str, str], servers: Any, namespace: str, tmp_path: Path, watch: Watch
) -> None:
    said: list[str] = []

    def call(*words: str, fails: bool = False, **changes: str) -> str:
        done = coinswarm(environment | changes, *words)
        said.append(f"{words}: {done.stdout} {done.stderr}")
        assert (done.returncode != 0) == fails, said[-1]
        return done.stderr

    call(*NIGHT, "--verbose")
    call("status", "--json")
    closed = f"postgresql://u:{DATABASE_CANARY}@127.0.0.1:1/d"
    failures = [
        {"COINSWARM_REDIS_URL": f"redis://u:{REDIS_CANARY}@127.0.0.1:1"},
        {"COINSWARM_REDIS_URL": with_credentials(servers.redis_url, "nobody", REDIS_CANARY)},
        {"COINSWARM_REDIS_URL": f"redis://u:canary-of#{REDIS_CANARY}/@host:1"},
        {"COINSWARM_REDIS_URL": f"redis+sentinel://u:{REDIS_CANARY}@127.0.0.1:1/service"},
        {"COINSWARM_DATABASE_URL": closed},
        {"COINSWARM_DATABASE_URL": f"postgresql://u:canary-of/{DATABASE_CANARY}@h/d"},
        {"COINSWARM_DATABASE_URL": f"{closed}?nonsense=1"},
    ]
    for number, changes in enumerate(failures):
        words = ("doctor",) if number % 2 else ("run", "verify_memory")
        last = call(*words, fails=True, COINSWARM_REDIS_TIMEOUT_S="0.5", **changes).splitlines()
        assert number % 2 or last[-1].startswith("coinswarm: "), last
    watch.end()
    assert [text for text in said if "canary-of" in text] == []
    assert watch.looks > 20
    assert watch.found == set()
    assert files_with_canaries(tmp_path / "home") == []
    assert list((tmp_path / "home" / "reports").rglob("*.html"))
    engine = sa.create_engine(servers.database_url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT r::text FROM runs r WHERE namespace = :name"), {"name": namespace})
        texts = [row[0] for row in rows]
    engine.dispose()
    assert len(texts) >= 2
    assert [text for text in texts if "canary-of" in text] == []
