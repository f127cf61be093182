"""Exports hold what Redis has let go of, as the archive keeps it, each experience once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import memory
from memory.keeping.archived_experiences import ArchivedExperiences
from memory.keeping.export_folder import Manifest
from memory.keeping.moving import export_experiences, import_experiences
from memory.keeping.selection import Selection
from memory.ledger import Archive, ArchiveReference, FencingToken, Ledger
from memory.store.windows import read_window_data
from memory.window import Window
from tests.memory.keeping.export_world import ENCODER, MINUTES, START, filled, id_of, lived, said, stored

WINDOW = Window.containing(START)
GONE = 13
"""Minutes that Redis has let go of."""
LEFT_OUT = ("next_state_vector", "cumulative_return", "return_known_at", "pattern_ids", "other_agent_actions")
"""What the archive does not keep."""


@dataclass
class Archived:
    """A memory whose day is archived, with its first minutes gone from Redis."""

    mem: memory.MemoryConnection
    ledger: Ledger
    archive: Archive
    token: FencingToken
    reference: ArchiveReference
    before: dict[str, dict[str, Any]]

    def reader(self) -> ArchivedExperiences:
        return ArchivedExperiences(self.ledger, self.archive, self.mem.namespace)

    async def export(self, target: Path, **wanted: Any) -> Manifest:
        selection = Selection(**({"agent_id": "momentum"} | wanted))
        return await export_experiences(self.mem, selection, target, said, self.reader())


@pytest.fixture
async def archived(mem: memory.MemoryConnection, ledger: Ledger, tmp_path: Path) -> Archived:
    other = [replace(item, agent_id="hold") for item in lived()]
    await filled(mem, [*lived(), *other, *lived(product="ETH-USD")])
    token = ledger.fence.acquire(mem.namespace, "run", flow="consolidate", lease_s=60)
    ledger.lines.ensure(token, ENCODER, "1")
    data = (await read_window_data(mem, WINDOW))[ENCODER, "replay"]
    archive = Archive(f"file://{tmp_path}/archive")
    reference = archive.write(mem.namespace, WINDOW, data)
    ledger.windows.save_archive(token, reference)
    before = await stored(mem, agent_id="momentum")
    await mem.episodic.forget(before=START + timedelta(minutes=GONE))
    return Archived(mem, ledger, archive, token, reference, before)


def rows(folder: Path, prefix: str) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob(f"{prefix}-*")) for row in pq.read_table(path).to_pylist()]


async def test_what_redis_let_go_of_comes_from_the_archive_and_each_experience_once(
    archived: Archived, tmp_path: Path
) -> None:
    manifest = await archived.export(tmp_path / "out")
    assert manifest.counts == {"experiences": 2 * (MINUTES - 1 - GONE), "decisions": 0, "archived": 2 * GONE}
    kept, gone = ([row["memory_id"] for row in rows(tmp_path / "out", name)] for name in ("experiences", "archived"))
    assert sorted(kept + gone) == sorted(archived.before)
    assert {row["agent_id"] for row in rows(tmp_path / "out", "archived")} == {"momentum"}


async def test_an_experience_of_the_archive_is_what_it_was_but_for_what_the_archive_does_not_keep(
    archived: Archived, servers: Any, tmp_path: Path
) -> None:
    await archived.export(tmp_path / "out", product_id="BTC-USD")
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{archived.mem.namespace}-b") as other:
        first = await import_experiences(other, tmp_path / "out", said)
        again = await import_experiences(other, tmp_path / "out", said)
        assert (first.stored, first.duplicates, first.refused) == (MINUTES - 1, 0, {})
        assert (again.stored, again.duplicates, again.refused) == (0, MINUTES - 1, {})
        found = await stored(other)
    early = {id_of(item) for item in lived() if item.timestamp < START + timedelta(minutes=GONE)}
    unlike = {
        name
        for memory_id in early
        for name, value in found[memory_id].items()
        if value != archived.before[memory_id][name]
    }
    assert unlike == set(LEFT_OUT)
    whole = found.keys() - early
    assert {name: found[name] for name in whole} == {name: archived.before[name] for name in whole}


async def test_a_memory_that_holds_an_experience_in_full_takes_none_of_the_archive_for_it(
    archived: Archived, servers: Any, tmp_path: Path
) -> None:
    await archived.export(tmp_path / "out", product_id="BTC-USD")
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{archived.mem.namespace}-b") as other:
        await filled(other)
        full = await stored(other)
        imported = await import_experiences(other, tmp_path / "out", said)
        assert (imported.stored, imported.duplicates, imported.refused) == (0, MINUTES - 1, {})
        assert await stored(other) == full


async def test_as_of_a_time_what_became_known_later_is_in_neither_part(archived: Archived, tmp_path: Path) -> None:
    as_of = START + timedelta(minutes=GONE + 5)
    await archived.export(tmp_path / "out", product_id="BTC-USD", as_of=as_of)
    everything = [row for part in ("experiences", "archived") for row in rows(tmp_path / "out", part)]
    wanted = {id_of(item) for item in lived() if item.known_at is not None and item.known_at <= as_of}
    assert {row["memory_id"] for row in everything} == wanted
    assert max(row["known_at"] for row in everything) == as_of
    # Returns of the first hour became known after it.
    assert {row["cumulative_return"] for row in everything} == {None}


async def test_a_span_bounds_what_comes_from_the_archive(archived: Archived, tmp_path: Path) -> None:
    span = {"since": START + timedelta(minutes=3), "until": START + timedelta(minutes=6)}
    manifest = await archived.export(tmp_path / "out", product_id="ETH-USD", **span)
    assert (manifest.counts["experiences"], manifest.counts["archived"]) == (0, 3)
    assert [row["timestamp"].minute for row in rows(tmp_path / "out", "archived")] == [3, 4, 5]


async def test_a_window_whose_archive_is_damaged_is_named_and_the_rest_exported(
    archived: Archived, tmp_path: Path
) -> None:
    path = tmp_path / "archive" / archived.reference.states.path
    path.write_bytes(path.read_bytes()[:-1])
    manifest = await archived.export(tmp_path / "out")
    assert manifest.missing == (f"{WINDOW.name} (replay)",)
    assert manifest.counts["archived"] == 0
    assert manifest.counts["experiences"] > 0


async def test_windows_archived_in_the_vectors_of_another_encoder_only_are_counted(
    archived: Archived, tmp_path: Path
) -> None:
    await archived.mem.encoders.register("enc-2", fitted_until=START, definition={})
    later = [replace(item, encoder_id="enc-2", run_id="later") for item in lived()]
    await archived.mem.episodic.add_many(later)
    reader = archived.reader()
    manifest = await export_experiences(
        archived.mem, Selection("momentum", encoder_id="enc-2"), tmp_path / "out", said, reader
    )
    assert manifest.counts == {"experiences": MINUTES - 1, "decisions": 0, "archived": 0}
    assert reader.elsewhere == {ENCODER: 1}
