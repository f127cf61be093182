"""Backups and restores as flows: a night later the copy knows what the original would, and a drill leaves nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import memory
from flows.backup_memory import Parameters as BackupParameters
from flows.backup_memory import backup_memory
from flows.consolidate_memories import Parameters, consolidate_memories
from flows.restore_drill import Parameters as DrillParameters
from flows.restore_drill import restore_drill
from flows.restore_memory import Parameters as RestoreParameters
from flows.restore_memory import restore_memory
from flows.update_transitions import Parameters as TransitionParameters
from flows.update_transitions import update_transitions
from memory.backup.dropping import held_in
from memory.backup.manifest import read_manifest
from memory.errors import SnapshotError
from memory.ledger import Archive, Ledger
from memory.roots import PathOutsideRootsError
from memory.settings import Settings
from memory.store.acl import User, users
from memory.store.keys import drill_namespace

AsUser = Callable[[User], str]

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


@dataclass(frozen=True)
class BackedUp:
    """The small world after its first night, and a snapshot of it."""

    namespace: str
    home: Path
    days: tuple[dt.date, ...]
    snapshot: Path
    result: dict[str, Any]


def night(namespace: str, day: dt.date) -> None:
    """What the nightly job learns of a day."""
    consolidate_memories(Parameters(namespace=namespace, date=day))
    update_transitions(TransitionParameters(namespace=namespace, date=day))


def configure(patch: pytest.MonkeyPatch, servers: Any, as_user: AsUser, home: Path, namespace: str) -> None:
    """The environment of the namespace's jobs, with rights in the drill's namespace and in `elsewhere`."""
    jobs = users(namespace, also=[drill_namespace(namespace)])[0]
    keys = (*jobs.root.keys, f"~{namespace}-*")
    patch.setenv("COINSWARM_HOME", str(home))
    patch.setenv("COINSWARM_REDIS_URL", as_user(replace(jobs, root=replace(jobs.root, keys=keys))))
    patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
    patch.setenv("COINSWARM_NAMESPACE", namespace)


@pytest.fixture(scope="module")
def world(
    servers: Any,
    as_user: AsUser,
    prefect_server: str,
    record: Callable[..., None],
    consolidated_small: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> BackedUp:
    """The first night of the small world in a namespace of its own, with both days recorded, and a snapshot of it."""
    assert prefect_server
    namespace, home = f"t-kept-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        configure(patch, servers, as_user, home, namespace)
        record(namespace, consolidated_small.days)
        night(namespace, consolidated_small.days[0])
        policies = home / "policies" / namespace
        policies.mkdir(parents=True)
        (policies / "p-1.npz").write_bytes(b"weights")
        result = backup_memory(BackupParameters(namespace=namespace))
    return BackedUp(namespace, home, consolidated_small.days, Path(result["snapshot"]), result)


@pytest.fixture
def kept(world: BackedUp, servers: Any, as_user: AsUser, monkeypatch: pytest.MonkeyPatch) -> BackedUp:
    """The world, with its home and namespace configured; a test that changes something in it undoes it."""
    configure(monkeypatch, servers, as_user, world.home, world.namespace)
    return world


@pytest.fixture
def elsewhere(kept: BackedUp) -> str:
    """A namespace with nothing in it."""
    return f"{kept.namespace}-{uuid.uuid4().hex[:8]}"


def restore(kept: BackedUp, namespace: str, **parameters: Any) -> dict[str, Any]:
    given = {"snapshot": str(kept.snapshot)} | parameters
    return restore_memory(RestoreParameters(namespace=namespace, **given))


def digests(namespace: str, servers: Any) -> tuple[str, str]:
    """Digests of all knowledge in the ledger and in Redis."""

    async def in_redis() -> str:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.semantic.digest()

    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace).digest, asyncio.run(in_redis())


async def announce(namespace: str, servers: Any, token: int) -> None:
    """Let a namespace's Redis have seen a run of a token."""
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        await mem.fence.raise_to(token)


async def announced(namespace: str, servers: Any) -> int:
    """The highest token that a namespace's Redis has seen."""
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        return await mem.fence.highest()


def held(namespace: str, servers: Any) -> list[str]:
    """What a namespace holds."""

    async def look() -> list[str]:
        settings = Settings(namespace=namespace)
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            with Ledger.open(servers.database_url) as ledger:
                archive = Archive(settings.archive_location)
                return await held_in(mem, ledger, archive, settings.policies_path / namespace)

    return asyncio.run(look())


def test_a_restored_memory_ends_its_next_night_as_the_original_would(
    kept: BackedUp, consolidated_small: Any, elsewhere: str, servers: Any
) -> None:
    before, highest = digests(kept.namespace, servers), read_manifest(kept.snapshot).highest_token + 500
    asyncio.run(announce(elsewhere, servers, highest))
    result = restore(kept, elsewhere)
    assert result["searches"] > 0
    assert asyncio.run(announced(elsewhere, servers)) > highest
    assert digests(elsewhere, servers) == before == (result["ledger_digest"], result["semantic_digest"])
    night(elsewhere, kept.days[1])
    assert digests(elsewhere, servers) == consolidated_small.digests()
    assert digests(kept.namespace, servers) == before
    assert (kept.home / "policies" / elsewhere / "p-1.npz").read_bytes() == b"weights"


def test_a_namespace_that_holds_something_is_refused_with_what_it_holds(kept: BackedUp, servers: Any) -> None:
    before = digests(kept.namespace, servers)
    with pytest.raises(SnapshotError, match=r"is not empty: it has .* keys of episodic in Redis"):
        restore(kept, kept.namespace)
    assert digests(kept.namespace, servers) == before


def test_a_dry_run_changes_nothing(kept: BackedUp, elsewhere: str, servers: Any) -> None:
    result = restore(kept, elsewhere, dry_run=True)
    assert result["redis"] == kept.result["redis"]
    assert held(elsewhere, servers) == []


def test_a_damaged_snapshot_is_refused_before_anything_is_written(kept: BackedUp, elsewhere: str, servers: Any) -> None:
    copy = kept.home / "damaged"
    shutil.copytree(kept.snapshot, copy)
    file = next(iter(sorted(copy.glob("redis/episodic-*.parquet"))))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(SnapshotError, match=f"{file} was changed or damaged"):
        restore(kept, elsewhere, snapshot=str(copy))
    assert held(elsewhere, servers) == []


def test_a_drill_restores_compares_and_leaves_nothing(kept: BackedUp, servers: Any) -> None:
    result = restore_drill(DrillParameters(namespace=kept.namespace))
    assert (result["snapshot"], result["searches"] > 0) == (str(kept.snapshot), True)
    scratch = drill_namespace(kept.namespace)
    assert held(scratch, servers) == []
    with Ledger.open(servers.database_url) as ledger:
        assert ledger.runs.list(scratch) == []
        run = ledger.runs.last(kept.namespace, "restore_drill", "SUCCEEDED")
    assert run is not None
    assert run.result is not None
    assert run.result["restored_in_s"] > 0


def test_paths_beyond_the_roots_are_refused(kept: BackedUp, elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(PathOutsideRootsError, match="parameter to"):
        backup_memory(BackupParameters(namespace=kept.namespace, to=str(tmp_path)))
    with pytest.raises(PathOutsideRootsError, match="parameter snapshot"):
        restore(kept, elsewhere, snapshot=str(tmp_path))
