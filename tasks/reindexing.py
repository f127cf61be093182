"""Reindexing: the steps by which one way of indexing takes another's place, each of which may be repeated."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from agents.catalogue import FEATURE_NAMES, FEATURES, QUOTE_FEATURES
from agents.encoder import StateEncoder
from memory import MemoryConnection
from memory.errors import EncoderError, ReindexError
from memory.records import Vector
from memory.settings import Settings
from memory.store.indexes import IndexSchema
from memory.store.layout import Layout, choose
from memory.store.reindex_job import ReindexJob, text_of
from memory.store.reindexing import Reindexer
from memory.store.revectoring import Encode
from tasks.markets import open_encoder
from tasks.progress import announce, begin
from tasks.recording import register_encoder
from tasks.retry import retried
from tasks.runs import LedgerRun
from tasks.workspace import open_workspace

BUILD_POLL_S = 1.0
REFUSED_SHOWN = 20
"""Keys of records that could not be encoded anew that a result lists; Redis keeps all of them."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of index of a namespace: small plain values that can go to another process.

    Attributes
    ----------
    token
        Fencing token of the run.
    family
        ``episodic`` or ``shared``.
    encoder_id, successor_id
        Encoder whose index is changed; encoder to take its place, where that is the change.
    layout, algorithm, vector_type
        How the new index is to be.
    """

    namespace: str
    token: int
    family: str
    encoder_id: str
    successor_id: str | None
    layout: Layout
    algorithm: str
    vector_type: str

    def reindexer(self, mem: MemoryConnection) -> Reindexer:
        """What carries it out."""
        family = mem.indexes.experiences if self.family == "episodic" else mem.indexes.pool
        return Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, family, token=self.token)

    async def encode(self, mem: MemoryConnection) -> Encode | None:
        """The new encoder as a function; None where the encoder stays."""
        if self.successor_id is None:
            return None
        record = await mem.encoders.get(self.successor_id)
        if record is None:
            raise ReindexError(
                f"encoder {self.successor_id} is not registered in {self.namespace}.",
                remedy="Run reindex_memory with the encoder's id or file.",
            )
        return encoding(StateEncoder.from_json(msgspec.json.encode(record.definition).decode()))


def encoding(encoder: StateEncoder) -> Encode:
    """An encoder as a function of named columns; features that it does not know are left aside."""

    def encode(names: tuple[str, ...], values: npt.NDArray[np.float64]) -> Vector:
        missing = [name for name in FEATURE_NAMES if name not in names and name not in QUOTE_FEATURES]
        if missing:
            raise EncoderError(
                f"the features lack {', '.join(missing)}.", remedy="Record all features that agents.features computes."
            )
        columns = {name: column for column, name in enumerate(names)}
        matrix = np.empty((len(values), len(FEATURES)))
        for position, spec in enumerate(FEATURES):
            column = columns.get(spec.name)
            matrix[:, position] = spec.neutral if column is None else values[:, column]
        return np.asarray(encoder.transform(matrix))

    return encode


@retried()
def plan_changes(
    namespace: str,
    token: int,
    encoder: str | None,
    layout: str | None,
    algorithm: str | None,
    vector_type: str | None,
) -> list[Change]:
    """The changes that the choices ask for, those under way included; see `shape_settings` for what is not chosen.

    A new encoder is registered. Raises EncoderError where it cannot be opened.
    """
    with open_workspace(namespace) as workspace:
        fitted = None if encoder is None else open_encoder(encoder, "binance", workspace.settings)

        async def plan(mem: MemoryConnection) -> list[Change]:
            async def change(family: str, encoder_id: str, successor_id: str | None) -> Change:
                schema = await mem.indexes.episodic(encoder_id) if encoder_id else None
                settings = shape_settings(workspace.settings, schema, layout, algorithm, vector_type)
                shape: tuple[Layout, str] = choose(settings) if family == "episodic" else ("single", "FLAT")
                return Change(namespace, token, family, encoder_id, successor_id, *shape, settings.vector_type)

            present = await mem.indexes.encoder_ids()
            for encoder_id in present:
                for family in (mem.indexes.experiences, mem.indexes.pool):
                    for name in await mem.indexes.restore(family, encoder_id):
                        announce(f"{name} was missing and is built again")
            own = (await change("episodic", "", None)).reindexer(mem)
            jobs = {encoder_id: await own.job(encoder_id) for encoder_id in present}
            if fitted is None:
                # An encoder that has a successor is left as it is: its index is there for its last clients only.
                stay = [name for name, job in jobs.items() if job is None or not job.changes_encoder]
                return [await change("episodic", encoder_id, None) for encoder_id in stay]
            await register_encoder(mem, fitted)
            current = await mem.encoders.current()
            leading = [name for name, job in jobs.items() if job is not None and job.target.encoder_id == fitted.id_]
            old = sorted({*leading, *([current] if current is not None else [])} - {fitted.id_})
            # The pool first: it is there when the experiences make the encoder the current one.
            return [await change(family, name, fitted.id_) for name in old for family in ("shared", "episodic")]

        return workspace.with_memory(plan)


@retried()
def begin_change(change: Change) -> dict[str, Any] | None:
    """Let writers know of the new index, or take up the change that is under way; None where nothing has to change."""

    async def start(mem: MemoryConnection, reindexer: Reindexer) -> ReindexJob | None:
        if change.successor_id is None:
            return await reindexer.begin(
                change.encoder_id, layout=change.layout, algorithm=change.algorithm, vector_type=change.vector_type
            )
        return await reindexer.begin_encoder(
            change.encoder_id,
            change.successor_id,
            await mem.encoders.dimension(change.successor_id),
            layout=change.layout,
            algorithm=change.algorithm,
            vector_type=change.vector_type,
        )

    job = _with_reindexer(change, start)
    return None if job is None else {"change": text_of(job), "phase": job.phase}


@retried()
def fill_index(change: Change) -> dict[str, Any]:
    """Give the records that were there before their new vectors."""

    async def fill(mem: MemoryConnection, reindexer: Reindexer) -> ReindexJob:
        encode = await change.encode(mem)
        job = await _job(reindexer, change)
        async for reached in reindexer.fill(job, encode):
            job = reached
            begin(f"{text_of(job)}: {job.looked_at:,} experiences looked at, {job.converted:,} given a vector")
        if encode is not None:
            job = await reindexer.drain(job, encode)
        return job

    job = _with_reindexer(change, fill)
    return {
        "experiences": job.looked_at,
        "converted": job.converted,
        "refused": job.refused,
        "next_states_lost": job.next_states_lost,
    }


@retried()
def build_index(change: Change) -> dict[str, Any]:
    """Wait until the new index holds what the old one holds, and see that it does."""
    while True:
        share = _with_reindexer(change, _progress(change))
        if share >= 1.0:
            break
        begin(f"building the index: {share:.0%}")
        time.sleep(BUILD_POLL_S)

    async def verify(_: MemoryConnection, reindexer: Reindexer) -> int:
        job = await _job(reindexer, change)
        return await reindexer.verify(job) if job.phase == "filling" else 0

    return {"indexed": _with_reindexer(change, verify)}


@retried()
def swap_index(change: Change) -> dict[str, Any]:
    """Make the new index the one in use."""

    async def swap(mem: MemoryConnection, reindexer: Reindexer) -> dict[str, Any]:
        job = await reindexer.swap(await _job(reindexer, change), await change.encode(mem))
        refused = await reindexer.refused(change.encoder_id)
        return {"index": job.target.name, "refused_examples": dict(sorted(refused.items())[:REFUSED_SHOWN])}

    return _with_reindexer(change, swap)


@retried()
def retire_index(change: Change) -> None:
    """Drop the old index; what still uses it asks the new one."""

    async def retire(mem: MemoryConnection, reindexer: Reindexer) -> None:
        await reindexer.retire(await _job(reindexer, change), await change.encode(mem))

    _with_reindexer(change, retire)


@retried()
def clean_records(change: Change) -> None:
    """Take the old vectors from the records."""

    async def clean(_: MemoryConnection, reindexer: Reindexer) -> None:
        job = await reindexer.job(change.encoder_id)
        if job is not None:
            await reindexer.clean(job)

    _with_reindexer(change, clean)


@retried()
def abandon_changes(namespace: str, token: int) -> list[str]:
    """Give up all changes that were not swapped in yet; returns what they were."""

    async def abandon(mem: MemoryConnection) -> list[str]:
        given_up = []
        for family in ("episodic", "shared"):
            for encoder_id in await mem.indexes.encoder_ids():
                change = Change(namespace, token, family, encoder_id, None, "single", "FLAT", "FLOAT32")
                job = await change.reindexer(mem).abandon(encoder_id)
                given_up += [] if job is None else [f"{family}: {text_of(job)}"]
        return given_up

    with open_workspace(namespace) as workspace:
        return workspace.with_memory(abandon)


def wait_for_clients(run: LedgerRun, seconds: float) -> None:
    """Give whoever is in the middle of using the old index the time to end."""
    with run.steps.step("wait for clients of the old index"):
        time.sleep(seconds)


def shape_settings(
    settings: Settings, schema: IndexSchema | None, layout: str | None, algorithm: str | None, vector_type: str | None
) -> Settings:
    """Settings that say how an index shall be.

    Where nothing is chosen, the settings as they are. Where something is, all else stays as the index has it, so that
    one choice does not undo an earlier one; a partitioned index has no algorithm to keep, since graphs are its nature.
    """
    chosen = {"index_layout": layout, "vector_algorithm": algorithm, "vector_type": vector_type}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not chosen or schema is None:
        return settings.model_copy(update=chosen)
    kept = {"index_layout": schema.layout, "vector_type": schema.vector_type}
    if not schema.partitioned:
        kept["vector_algorithm"] = schema.algorithm
    return settings.model_copy(update={**kept, **chosen})


def _with_reindexer(change: Change, work: Callable[[MemoryConnection, Reindexer], Awaitable[Result]]) -> Result:
    async def call(mem: MemoryConnection) -> Result:
        return await work(mem, change.reindexer(mem))

    with open_workspace(change.namespace) as workspace:
        return workspace.with_memory(call)


def _progress(change: Change) -> Callable[[MemoryConnection, Reindexer], Awaitable[float]]:
    async def progress(_: MemoryConnection, reindexer: Reindexer) -> float:
        return await reindexer.progress(await _job(reindexer, change))

    return progress


async def _job(reindexer: Reindexer, change: Change) -> ReindexJob:
    job = await reindexer.job(change.encoder_id)
    if job is None:
        raise ReindexError(
            f"the change of the index of {change.encoder_id} is not under way any more.",
            remedy="Another run ended it: look at its result, and start again where it is still needed.",
        )
    return job
