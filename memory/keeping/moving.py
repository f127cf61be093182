"""Experiences of one agent or product out of a memory, as files that any tool reads, and into one again.

Both work in pieces of bounded size, and are harmless to repeat: an export is there as a whole or not at all, and what
an import finds stored already it does not store again, since ids derive from what makes an experience the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from memory.backup.seen import Seen
from memory.connection import MemoryConnection
from memory.errors import ConflictingRecordError
from memory.keeping.archived_experiences import ArchivedExperiences
from memory.keeping.errors import KeepingError
from memory.keeping.experience_table import (
    EXPERIENCE_SCHEMA,
    TRACE_SCHEMA,
    experiences_from_arrow,
    experiences_to_arrow,
    in_order,
    traces_from_arrow,
    traces_to_arrow,
)
from memory.keeping.export_folder import Manifest, NewExport, read_manifest, row_groups
from memory.keeping.selection import Selection
from memory.records import EpisodicMemory, experience_id, to_ms
from memory.store.codec import FeatureSchema
from memory.store.encoders import pack_encoder, unpack_encoder
from memory.validation import validate_identifier

EXPERIENCES, DECISIONS, ARCHIVED, ENCODERS = "experiences", "decisions", "archived", "encoders"
"""Names of the parts of an export; the files begin with them."""
PIECE_ROWS = 20_000
"""Experiences read and written at a time, unless a single minute holds more: some 100 MB."""
TRACES_AT_ONCE = 500
KEYS_AT_ONCE = 1000
_SHORTEST = timedelta(minutes=1)
_DAY = timedelta(days=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
Announce = Callable[[str], None]


async def export_experiences(
    mem: MemoryConnection,
    selection: Selection,
    target: Path,
    announce: Announce,
    archived: ArchivedExperiences | None = None,
) -> Manifest:
    """Write the experiences selected to a folder, with their encoder and decision traces.

    What Redis holds is written in full; what only the archive holds, as far as the archive keeps it, to files of its
    own. Agents may record meanwhile; of what they record in the span, some may be in it. About 0.2 ms a record, and the
    memory of `PIECE_ROWS` records, or of one archived window of one product.

    Parameters
    ----------
    archived
        Where what Redis has let go of is read; it is left out where None.

    Raises
    ------
    KeepingError
        The folder exists, no such encoder was ever recorded with, or nothing is selected: nothing is left behind.
    StoreUnavailableError
        Redis went away; export again.
    """
    encoder_id = await _exported_encoder(mem, selection, archived)
    with NewExport(target) as export:
        counts: Counter[str] = Counter({EXPERIENCES: 0, DECISIONS: 0, ARCHIVED: 0})
        schemas: dict[str, list[str]] = {}
        seen = Seen()
        total = await _count(mem, selection, encoder_id, None, None)
        async for piece in _pieces(mem, selection, encoder_id):
            seen.add([item.memory_id.encode() for item in piece])
            _append(export, EXPERIENCES, piece, schemas)
            counts[EXPERIENCES] += len(piece)
            counts[DECISIONS] += await _export_traces(mem, piece, export)
            announce(f"{counts[EXPERIENCES]:,} of {total:,} experiences")
        # Redis first: what it lets go of meanwhile is in the archive, or was written already.
        for piece in () if archived is None else archived.pieces(selection, encoder_id, seen):
            _append(export, ARCHIVED, piece, schemas)
            counts[ARCHIVED] += len(piece)
            announce(f"{counts[ARCHIVED]:,} more from the archive")
        if not counts[EXPERIENCES] + counts[ARCHIVED]:
            raise KeepingError(
                f"namespace {mem.namespace} holds no such experiences with encoder {encoder_id}.",
                remedy="Look at the agent, product and dates; `coinswarm status` counts what is there.",
            )
        encoders = {encoder_id: await _export_encoder(mem, encoder_id, export)}
        return export.finish(
            Manifest(
                namespace=mem.namespace,
                software=version("coinswarm-memory"),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                selection={
                    "agent_id": selection.agent_id,
                    "product_id": selection.product_id,
                    "since": None if selection.since is None else selection.since.isoformat(),
                    "until": None if selection.until is None else selection.until.isoformat(),
                    "as_of": None if selection.as_of is None else selection.as_of.isoformat(),
                    "encoder_id": encoder_id,
                },
                encoders=encoders,
                feature_schemas=schemas,
                counts=dict(counts),
                missing=tuple(archived.missing) if archived is not None else (),
            )
        )


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an export.

    Attributes
    ----------
    stored, duplicates
        Experiences that are new, and that were there already.
    refused
        How many experiences and traces were refused, by the reason; the experiences are in the dead letters.
    decisions
        Traces that are new.
    encoders
        What the namespace knew of each encoder: `known`, `new` (the namespace was empty) or `beside` others.
    """

    stored: int
    duplicates: int
    refused: Mapping[str, int]
    decisions: int
    encoders: Mapping[str, str]


async def import_experiences(
    mem: MemoryConnection, folder: Path, announce: Announce, *, as_agent: str | None = None
) -> Imported:
    """Store what an export holds: under the same ids, each once, known from the same times.

    What came from an archive is stored where the namespace does not hold it already, maybe in full. All files are
    checked before anything is stored. Killed, it is completed by importing again. About 0.3 ms a record.

    Parameters
    ----------
    as_agent
        Give the experiences to this agent instead: as experiences of runs named `RUN.AGENT` after the one who lived
        through them, without the traces of decisions that this agent never took.

    Raises
    ------
    KeepingError
        It is no whole export, a damaged one, or one of newer software; or it has an encoder that the namespace has
        differently. Nothing is stored.
    StoreUnavailableError
        Redis went away; import again.
    """
    if as_agent is not None:
        validate_identifier(as_agent, "as_agent")
    announce("checking the files")
    manifest = read_manifest(folder)
    encoders = {
        encoder_id: await _import_encoder(mem, folder, encoder_id, about)
        for encoder_id, about in sorted(manifest.encoders.items())
    }
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    total = manifest.counts[EXPERIENCES] + manifest.counts.get(ARCHIVED, 0)
    for name in (*manifest.named(EXPERIENCES), *manifest.named(ARCHIVED)):
        for table in row_groups(folder / name, EXPERIENCE_SCHEMA):
            piece = _unpacked(folder / name, table, manifest, as_agent)
            fresh = await _not_held(mem, piece) if name.startswith(ARCHIVED) else piece
            report = await mem.episodic.add_many(fresh, arrived=True)
            counts["stored"] += len(report.stored)
            counts["duplicates"] += len(report.duplicates) + len(piece) - len(fresh)
            refused.update(_reason(rejection.error) for rejection in report.rejections)
            announce(f"{sum(counts.values()):,} of {total:,} experiences")
    for name in manifest.named(DECISIONS) if as_agent is None else ():
        for table in row_groups(folder / name, TRACE_SCHEMA):
            told = await mem.decisions.add_many(traces_from_arrow(table))
            counts["decisions"] += len(told.stored)
            refused.update(_reason(rejection.error) for rejection in told.rejections)
    return Imported(counts["stored"], counts["duplicates"], dict(refused), counts["decisions"], encoders)


# --- exporting -------------------------------------------------------------------------------------------------


async def _exported_encoder(mem: MemoryConnection, selection: Selection, archived: ArchivedExperiences | None) -> str:
    """The encoder whose vectors are exported: the one that is selected, else the namespace's current one."""
    known = {*await mem.encoders.ids(), *(() if archived is None else archived.encoders())}
    encoder_id = selection.encoder_id or await mem.encoders.current()
    if encoder_id is None or not known:
        raise KeepingError(f"namespace {mem.namespace} holds no experiences.", remedy="Record some first.")
    if encoder_id not in known:
        raise KeepingError(
            f"nothing is recorded with encoder {encoder_id!r} in namespace {mem.namespace}.",
            remedy=f"Choose one of {', '.join(sorted(known))} (--encoder), or none for the current one.",
        )
    return encoder_id


async def _pieces(mem: MemoryConnection, selection: Selection, encoder_id: str) -> AsyncIterator[list[EpisodicMemory]]:
    """The experiences selected, in time, some at a time: spans are halved until one holds few enough."""
    until = selection.until or datetime.now(UTC) + _DAY
    waiting = [(selection.since or _EARLIEST, until)]
    while waiting:
        start, end = waiting.pop()
        count = await _count(mem, selection, encoder_id, start, end)
        if count > PIECE_ROWS and end - start > _SHORTEST:
            middle = start + (end - start) / 2
            waiting += [(middle, end), (start, middle)]
        elif count:
            found = [
                item
                async for page in mem.episodic.read_window(
                    start,
                    end,
                    encoder_id=encoder_id,
                    agent_id=selection.agent_id,
                    product_id=selection.product_id,
                    with_next_state=True,
                )
                for item in page
            ]
            if known := selection.known(found):
                yield in_order(known)


def _append(export: NewExport, prefix: str, piece: list[EpisodicMemory], schemas: dict[str, list[str]]) -> None:
    """Write a piece, and note the names of its features."""
    export.append(prefix, experiences_to_arrow(piece))
    for names in {tuple(item.features) for item in piece if item.features}:
        schema = FeatureSchema.of(names)
        schemas[schema.schema_id] = list(schema.names)


async def _count(
    mem: MemoryConnection, selection: Selection, encoder_id: str, since: datetime | None, until: datetime | None
) -> int:
    return await mem.episodic.count(
        agent_id=selection.agent_id,
        product_id=selection.product_id,
        since=since or selection.since,
        until=until or selection.until,
        as_of=selection.as_of,
        encoder_id=encoder_id,
    )


async def _export_traces(mem: MemoryConnection, piece: list[EpisodicMemory], export: NewExport) -> int:
    written = 0
    for start in range(0, len(piece), TRACES_AT_ONCE):
        ids = [item.memory_id for item in piece[start : start + TRACES_AT_ONCE]]
        traces = [trace for trace in await mem.decisions.get_many(ids) if trace is not None]
        if traces:
            export.append(DECISIONS, traces_to_arrow(traces))
            written += len(traces)
    return written


async def _export_encoder(mem: MemoryConnection, encoder_id: str, export: NewExport) -> dict[str, Any]:
    record = await mem.encoders.get(encoder_id)
    if record is None:
        return {"dimension": await mem.encoders.dimension(encoder_id), "file": None}
    name = f"{ENCODERS}/{encoder_id}.json"
    export.add(name, pack_encoder(record))
    return {"dimension": record.dimension, "fitted_until": record.fitted_until.isoformat(), "file": name}


# --- importing -------------------------------------------------------------------------------------------------


async def _import_encoder(mem: MemoryConnection, folder: Path, encoder_id: str, about: Mapping[str, Any]) -> str:
    """Make an encoder known; whether it was, is the namespace's first, or stands beside others from now on."""
    known = await mem.encoders.ids()
    schema = await mem.indexes.episodic(encoder_id)
    if schema is not None and schema.dimension != about["dimension"]:
        raise KeepingError(
            f"vectors of encoder {encoder_id} have {about['dimension']} dimensions, and {schema.dimension} in "
            f"namespace {mem.namespace}.",
            remedy="Import into a namespace of its own (--namespace).",
        )
    if about["file"] is not None:
        path = folder / about["file"]
        try:
            record = unpack_encoder(path.read_bytes())
        except msgspec.MsgspecError as error:
            raise KeepingError(f"{path} holds no encoder: {error}.", remedy="Export again.") from error
        try:
            await mem.encoders.restore(record)
        except ConflictingRecordError as error:
            raise KeepingError(
                f"namespace {mem.namespace} has another encoder {encoder_id}: vectors of the two cannot be compared.",
                remedy="Import into a namespace of its own (--namespace).",
            ) from error
    if encoder_id in known:
        return "known"
    return "beside" if known else "new"


async def _not_held(mem: MemoryConnection, piece: list[EpisodicMemory]) -> list[EpisodicMemory]:
    """Experiences out of an archive that the namespace does not hold: one that it has in full is not to be doubted."""
    keys = [mem.keys.episodic(item.agent_id, item.product_id, to_ms(item.timestamp), _id_of(item)) for item in piece]
    held: list[int] = []
    for start in range(0, len(keys), KEYS_AT_ONCE):
        held += await mem.link.pipeline([("EXISTS", key) for key in keys[start : start + KEYS_AT_ONCE]])
    return [item for item, is_held in zip(piece, held, strict=True) if not is_held]


def _id_of(item: EpisodicMemory) -> str:
    return item.memory_id or experience_id(
        item.source, item.run_id, item.agent_id, item.product_id, item.timestamp, item.step
    )


def _unpacked(path: Path, table: pa.Table, manifest: Manifest, agent_id: str | None) -> list[EpisodicMemory]:
    try:
        return experiences_from_arrow(table, manifest.feature_schemas, agent_id=agent_id)
    except (KeyError, ValueError) as error:
        raise KeepingError(f"{path} holds what is no experience: {error}.", remedy="Export again.") from error


def _reason(error: Exception) -> str:
    """Why something was refused, without the record that it is about: equal reasons are counted together."""
    if isinstance(error, ConflictingRecordError):
        return "other content is stored under the same id"
    return str(getattr(error, "field", "")) + ": " + str(getattr(error, "remedy", error))
