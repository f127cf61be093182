"""Experiences exported and imported: nothing is lost, nothing stored twice, and nothing damaged taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import memory
from memory.decisions import DecisionTrace, MemoryRead
from memory.errors import InvalidQueryError
from memory.keeping import export_folder, moving
from memory.keeping.errors import KeepingError
from memory.keeping.moving import export_experiences, import_experiences
from memory.keeping.selection import Selection
from memory.records import EpisodicMemory
from memory.settings import Settings
from memory.store.decisions import pack_trace
from tests.memory.keeping.export_world import ENCODER, MINUTES, START, filled, id_of, lived, said, stored


def trace(experience: EpisodicMemory) -> DecisionTrace:
    return DecisionTrace(
        decision_id=id_of(experience),
        agent_id=experience.agent_id,
        product_id=experience.product_id,
        timestamp=experience.timestamp,
        as_of=experience.timestamp,
        encoder_id=experience.encoder_id,
        features=dict(experience.features),
        state_vector=experience.state_vector,
        regime=experience.regime,
        regime_confidence=1.0,
        position_before=0.0,
        policy="momentum",
        action=experience.action,
        confidence=experience.confidence,
        source=experience.source,
        run_id=experience.run_id,
        step=experience.step,
        line=None,
        own=(MemoryRead(memory_id="0" * 32, distance=0.5, known_at=experience.timestamp),),
        shared=(),
        patterns=(),
        knowledge=(),
        messages=(),
    )


@pytest.fixture
def opened(servers: Any, namespace: str) -> Callable[..., memory.MemoryConnection]:
    """Opens other namespaces than that of `mem`, by a word in their name."""

    def call(word: str, **settings: Any) -> memory.MemoryConnection:
        return memory.connect(
            redis_url=servers.redis_url, namespace=f"{namespace}-{word}", settings=Settings(**settings)
        )

    return call


async def test_what_was_imported_is_what_was_exported_and_again_adds_nothing(
    mem: memory.MemoryConnection, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PIECE_ROWS", 7)  # Several pieces: next states lie across their edges too.
    await filled(mem, lived() + lived("random"))
    told = [trace(item) for item in lived() if item.step % 2]
    assert len((await mem.decisions.add_many(told)).stored) == len(told)
    before = await stored(mem, agent_id="momentum")
    manifest = await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)
    assert manifest.counts == {"experiences": MINUTES - 1, "decisions": len(told), "archived": 0}
    assert pq.ParquetFile(tmp_path / "out" / "experiences-0000.parquet").num_row_groups > 3
    async with opened("b") as other:
        first = await import_experiences(other, tmp_path / "out", said)
        again = await import_experiences(other, tmp_path / "out", said)
        assert (first.stored, first.duplicates, first.decisions, first.refused) == (MINUTES - 1, 0, len(told), {})
        assert (again.stored, again.duplicates, again.decisions, again.refused) == (0, MINUTES - 1, 0, {})
        assert (first.encoders, again.encoders) == ({ENCODER: "new"}, {ENCODER: "known"})
        assert await stored(other) == before
        ids = [item.decision_id for item in told]
        moved = [pack_trace(item) for item in await other.decisions.get_many(ids) if item is not None]
        assert moved == [pack_trace(item) for item in told]
        assert await other.encoders.get(ENCODER) == await mem.encoders.get(ENCODER)


async def test_importing_where_it_came_from_adds_nothing_whatever_the_type_of_its_vectors(
    opened: Any, tmp_path: Path
) -> None:
    async with opened("half", vector_type="FLOAT16") as half:
        await filled(half)
        await export_experiences(half, Selection(product_id="BTC-USD"), tmp_path / "out", said)
        imported = await import_experiences(half, tmp_path / "out", said)
        assert (imported.stored, imported.duplicates, imported.refused) == (0, MINUTES - 1, {})


async def test_a_product_and_a_span_are_what_is_exported(mem: memory.MemoryConnection, tmp_path: Path) -> None:
    await filled(mem, lived() + lived(product="ETH-USD"))
    span = Selection(None, "ETH-USD", START + timedelta(minutes=5), START + timedelta(minutes=9))
    await export_experiences(mem, span, tmp_path / "out", said)
    table = pq.read_table(tmp_path / "out" / "experiences-0000.parquet")
    assert table.column("product_id").to_pylist() == ["ETH-USD"] * 4
    assert [time.minute for time in table.column("timestamp").to_pylist()] == [5, 6, 7, 8]
    # The last one's next state lies beyond the span, and is written out.
    assert table.column("next_memory_id").to_pylist()[:3] == table.column("memory_id").to_pylist()[1:]
    assert table.column("next_memory_id")[3].as_py() is None
    assert len(table.column("next_state_vector")[3].as_py()) == 256
    names = json.loads((tmp_path / "out" / "manifest.json").read_text())["feature_schemas"]
    schema, values = table.column("feature_schema")[0].as_py(), table.column("features")[0].as_py()
    assert dict(zip(names[schema], values, strict=True)) == {"a": 1 / 3, "b": 5.0}


async def test_another_agent_takes_over_what_was_lived_through_beside_its_own(
    mem: memory.MemoryConnection, tmp_path: Path
) -> None:
    await filled(mem, lived() + lived("heir"))
    await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)
    for stored_now in (MINUTES - 1, 0):
        imported = await import_experiences(mem, tmp_path / "out", said, as_agent="heir")
        assert (imported.stored, imported.refused, imported.decisions) == (stored_now, {}, 0)
    assert await mem.episodic.count(agent_id="heir", run_id="sample.momentum") == MINUTES - 1
    assert await mem.episodic.count(agent_id="heir") == 2 * (MINUTES - 1)


async def test_an_encoder_that_the_namespace_has_otherwise_is_refused_and_another_one_stands_beside(
    mem: memory.MemoryConnection, opened: Any, tmp_path: Path
) -> None:
    await filled(mem)
    await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)
    async with opened("b") as other:
        await other.encoders.register(ENCODER, fitted_until=START, definition={"kind": "another"})
        with pytest.raises(KeepingError, match="another encoder enc-1"):
            await import_experiences(other, tmp_path / "out", said)
        assert await other.episodic.count() == 0
    async with opened("c") as other:
        await other.encoders.register("mine", fitted_until=START, definition={})
        await other.encoders.set_current("mine")
        imported = await import_experiences(other, tmp_path / "out", said)
        assert imported.encoders == {ENCODER: "beside"}
        assert await other.encoders.current() == "mine"
        assert await other.episodic.count(encoder_id=ENCODER) == MINUTES - 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda out: (out / "experiences-0000.parquet").write_bytes(b"PAR1"), "experiences-0000.parquet is damaged"),
        (lambda out: (out / "encoders" / "enc-1.json").unlink(), "enc-1.json is missing"),
        (lambda out: (out / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda out: (out / "manifest.json").write_text("{"), "cannot be read"),
        (lambda out: edited(out, version=export_folder.VERSION + 1), "reads up to"),
        (lambda out: edited(out, format="another"), "cannot be read"),
        (lambda out: edited(out, files=[{"name": "../x", "sha256": "", "bytes": 0}], encoders={}), "outside of"),
        (lambda out: edited(out, encoders={"e": {"dimension": 256, "file": "/etc/passwd"}}), "does not list"),
        (lambda out: edited(out, counts={}), "does not count"),
        (lambda out: edited(out, namespace=7), "cannot be read"),
        (lambda out: forged(out, "experiences-0000.parquet", pq.write_table), "other columns"),
        (lambda out: forged(out, "encoders/enc-1.json", lambda _, path: path.write_text("{}")), "no encoder"),
    ],
)
async def test_what_is_damaged_or_newer_is_refused_before_anything_is_stored(
    opened: Any, exported: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(exported)
    async with opened("b") as other:
        with pytest.raises(KeepingError, match=message):
            await import_experiences(other, exported, said)
        assert await other.episodic.count() == 0


async def test_an_export_of_the_first_layout_is_read(opened: Any, exported: Path) -> None:
    edited(exported, version=1, counts={"experiences": MINUTES - 1, "decisions": 0})
    async with opened("b") as other:
        assert (await import_experiences(other, exported, said)).stored == MINUTES - 1


def edited(out: Path, **changes: Any) -> None:
    path = out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def forged(out: Path, name: str, write: Callable[[Any, Path], object]) -> None:
    """Replace a file by another one, with its checksum in the manifest."""
    write(pa.table({"x": [1]}), out / name)
    content = (out / name).read_bytes()
    files = json.loads((out / "manifest.json").read_text())["files"]
    for file in files:
        if file["name"] == name:
            file |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edited(out, files=files)


@pytest.fixture
async def exported(mem: memory.MemoryConnection, tmp_path: Path) -> Path:
    """A folder with an export."""
    await filled(mem)
    await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)
    return tmp_path / "out"


async def test_an_export_is_there_whole_or_not_at_all(mem: memory.MemoryConnection, tmp_path: Path) -> None:
    await filled(mem)

    def fail(_text: str) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await export_experiences(mem, Selection("momentum"), tmp_path / "out", fail)
    with pytest.raises(KeepingError, match="no such experiences"):
        await export_experiences(mem, Selection("nobody"), tmp_path / "out", said)
    assert list(tmp_path.iterdir()) == []
    # What a killed one left is written over.
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "experiences-0007.parquet").write_bytes(b"half")
    await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(KeepingError, match="is not empty"):
        await export_experiences(mem, Selection("momentum"), tmp_path / "out", said)


async def test_an_encoder_that_nothing_is_recorded_with_is_refused_with_those_that_there_are(
    mem: memory.MemoryConnection, tmp_path: Path
) -> None:
    with pytest.raises(KeepingError, match="Record some first"):
        await export_experiences(mem, Selection("momentum", encoder_id="nope"), tmp_path / "out", said)
    await filled(mem)
    with pytest.raises(KeepingError, match=r"'nope'.*Choose one of enc-1"):
        await export_experiences(mem, Selection("momentum", encoder_id="nope"), tmp_path / "out", said)
    assert list(tmp_path.iterdir()) == []


def test_one_export_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    with (
        export_folder.NewExport(tmp_path / "out"),
        pytest.raises(KeepingError, match="another export"),
    ):
        export_folder.NewExport(tmp_path / "out")


def test_a_selection_names_an_agent_or_a_product_and_a_span_that_is_one() -> None:
    with pytest.raises(InvalidQueryError, match="whose experiences"):
        Selection()
    with pytest.raises(InvalidQueryError, match="does not lie before"):
        Selection("a", None, START, START)
