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

import msgspec
import pytest
from older_ledger import older_snapshot
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

import memory
from flows.backup_memory import Parameters as BackupParameters
from flows.backup_memory import backup_memory
from flows.consolidate_memories import Parameters, consolidate_memories
from flows.janitor import Parameters as JanitorParameters
from flows.janitor import janitor
from flows.restore_drill import Parameters as DrillParameters
from flows.restore_drill import restore_drill
from flows.restore_memory import Parameters as RestoreParameters
from flows.restore_memory import restore_memory
from flows.update_transitions import Parameters as TransitionParameters
from flows.update_transitions import update_transitions
from memory.backup.dropping import held_in
from memory.backup.keyspace import AT, BEFORE
from memory.backup.manifest import MANIFEST, encode_manifest, read_manifest, sealed
from memory.backup.writing import part_of
from memory.errors import SnapshotError
from memory.keeping.expired import DRILLS
from memory.ledger import Archive, FencingToken, Ledger
from memory.reporting.artifacts import artifact_key
from memory.roots import PathOutsideRootsError
from memory.settings import Settings
from memory.store.acl import User, users
from memory.store.keys import drill_namespace
from memory.store.unfinished import DRILL, PLACE, RestoreMark, restoring
from tasks.backing_up import Backup, begin_snapshot

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


def damaged_copy(kept: BackedUp, copy: Path) -> Path:
    """A copy of the snapshot with one bit of an experience changed."""
    shutil.copytree(kept.snapshot, copy)
    file = copy / "redis" / "episodic-00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    return copy


def restored_runs(namespace: str, servers: Any) -> int:
    """How many runs a restore has brought into a namespace."""
    with Ledger.open(servers.database_url) as ledger:
        return sum(run.flow != "restore_memory" for run in ledger.runs.list(namespace))


def markdown_of(name: str, namespace: str) -> str:
    """The newest artifact of a name."""
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(name, namespace)])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    return str(found.data)


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
    assert restored_runs(elsewhere, servers) == result["ledger"]["runs"]
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
    with Ledger.open(servers.database_url) as ledger:
        assert ledger.runs.last(kept.namespace, "restore_memory", "FAILED") is None


def test_a_dry_run_changes_nothing(kept: BackedUp, elsewhere: str, servers: Any) -> None:
    result = restore(kept, elsewhere, dry_run=True)
    assert result["redis"] == kept.result["redis"]
    assert held(elsewhere, servers) == []


def test_a_damaged_snapshot_is_refused_before_anything_is_written(kept: BackedUp, elsewhere: str, servers: Any) -> None:
    copy = damaged_copy(kept, kept.home / "damaged")
    with pytest.raises(SnapshotError, match=f"{copy}/redis/episodic-00000.parquet was changed or damaged"):
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


def test_a_drill_that_fails_drops_what_it_restored_and_keeps_what_it_found(kept: BackedUp, servers: Any) -> None:
    forged = kept.home / "backups" / "forged"
    shutil.copytree(kept.snapshot, forged)
    other = msgspec.structs.replace(read_manifest(kept.snapshot), ledger_digest="another")
    (forged / MANIFEST).write_bytes(encode_manifest(sealed(other)))
    with pytest.raises(SnapshotError, match="differs from the snapshot: the knowledge in the ledger"):
        restore_drill(DrillParameters(namespace=kept.namespace, snapshot=str(forged)))
    scratch = drill_namespace(kept.namespace)
    assert held(scratch, servers) == []
    with Ledger.open(servers.database_url) as ledger:
        assert ledger.fence.holder(scratch) is None
        run = ledger.runs.last(kept.namespace, "restore_drill", "FAILED")
    assert run is not None
    assert "the knowledge in the ledger" in str(run.error)
    shown = markdown_of("drill", kept.namespace)
    assert "The snapshot could not be restored" in shown
    assert "the knowledge in the ledger" in shown
    assert "All that the drill had restored was dropped again" in shown


def test_a_damaged_snapshot_fails_its_drill_before_anything_is_restored(kept: BackedUp, servers: Any) -> None:
    copy = damaged_copy(kept, kept.home / "backups" / "broken")
    with pytest.raises(SnapshotError, match="was changed or damaged"):
        restore_drill(DrillParameters(namespace=kept.namespace, snapshot=str(copy)))
    assert "Nothing had been restored" in markdown_of("drill", kept.namespace)
    scratch = drill_namespace(kept.namespace)
    assert held(scratch, servers) == []
    assert asyncio.run(announced(scratch, servers)) == 0


def test_the_janitor_names_and_drops_what_a_killed_drill_left(kept: BackedUp, servers: Any) -> None:
    scratch = drill_namespace(kept.namespace)
    with Ledger.open(servers.database_url) as ledger:
        token = ledger.fence.acquire(scratch, "killed", flow="restore_drill", lease_s=60)

        async def fill() -> None:
            with restoring(scratch):
                async with memory.connect(redis_url=servers.redis_url, namespace=scratch) as mem:
                    await mem.fence.raise_to(token.value)
                    await RestoreMark(mem.link, mem.keys, mem.fence, token.value).begin({PLACE: "x", DRILL: "1"})
                    await mem.encoders.register("e", fitted_until=dt.datetime(2021, 6, 1, tzinfo=dt.UTC), definition={})

        asyncio.run(fill())
        assert DRILLS not in expired(kept.namespace, dry_run=True)  # It holds its namespace: it may be at work.
        ledger.fence.release(token)
        assert expired(kept.namespace, dry_run=True)[DRILLS] == (1, 0)
        assert expired(kept.namespace, dry_run=False)[DRILLS] == (1, 1)
        assert DRILLS not in expired(kept.namespace, dry_run=True)
        assert ledger.fence.holder(scratch) is None
    assert held(scratch, servers) == []


def expired(namespace: str, *, dry_run: bool) -> dict[str, tuple[int, int]]:
    """What the janitor found and dropped, by sort."""
    result = janitor(JanitorParameters(namespace=namespace, dry_run=dry_run))
    return {row["what"]: (row["number"], row["dropped"]) for row in result["expired"]}


def test_a_snapshot_of_an_older_schema_is_restored_as_the_upgraded_memory_that_it_would_be(
    kept: BackedUp, elsewhere: str, servers: Any, database_url: str
) -> None:
    older = kept.home / "older"
    shutil.copytree(kept.snapshot, older)
    manifest = older_snapshot(kept.snapshot, older, database_url, "0001")
    result = restore(kept, elsewhere, snapshot=str(older))
    assert result["ledger_schema"] == "0001"
    with Ledger.open(database_url) as upgraded:  # In place, which is what the rows have to be like.
        wanted = upgraded.digest(manifest.namespace).digest
    assert digests(elsewhere, servers) == (wanted, manifest.semantic_digest)
    assert result["ledger_digest"] == wanted


def test_without_a_name_a_snapshot_goes_where_it_is_from_and_what_is_there_is_named(kept: BackedUp) -> None:
    with pytest.raises(SnapshotError, match=f"namespace '{kept.namespace}' is not empty") as caught:
        restore_memory(RestoreParameters(snapshot=str(kept.snapshot)))
    assert "--namespace" in caught.value.remedy


def test_a_backup_does_not_go_on_with_what_was_begun_before_another_run_held_the_memory(
    kept: BackedUp, servers: Any
) -> None:
    folder, namespace = kept.home / "begun" / kept.namespace, kept.namespace

    def begun(token: FencingToken) -> bool:
        """Begin a backup as its flow does."""
        backup = Backup(namespace, token.run_id, token.value, str(folder))
        resumed = bool(begin_snapshot.fn(backup, token.previous)["resumed"])
        if not resumed:  # Come as far as a run that can be taken up.
            partial = backup.partial()
            for section in (*BEFORE, *AT):
                partial.finish(part_of(section))
        ledger.fence.release(token)
        return resumed

    with Ledger.open(servers.database_url) as ledger:

        def acquired(flow: str) -> FencingToken:
            return ledger.fence.acquire(namespace, f"{flow}-run", flow=flow, lease_s=60)

        assert not begun(acquired("backup_memory"))
        assert begun(acquired("backup_memory"))
        # It waits for the memory, which another run takes first: what that one does is no part of what was begun.
        ledger.fence.release(acquired("prune_memories"))
        assert not begun(acquired("backup_memory"))


def test_paths_beyond_the_roots_are_refused(kept: BackedUp, elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(PathOutsideRootsError, match="parameter to"):
        backup_memory(BackupParameters(namespace=kept.namespace, to=str(tmp_path)))
    with pytest.raises(PathOutsideRootsError, match="parameter snapshot"):
        restore(kept, elsewhere, snapshot=str(tmp_path))
