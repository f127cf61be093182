"""Recording: replay a market through the agents, or drain what agents put into their inboxes."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np

from agents.baselines import baseline_agents
from agents.encoder import StateEncoder
from agents.experiences import Costs
from agents.fitting import default_encoder
from agents.simulation import simulate
from memory import MemoryConnection
from memory.errors import EncoderError, InvalidRecordError, StoreUnavailableError
from memory.learning import ALGORITHM_VERSION, serial
from memory.learning.quality import QUALITY, QualitySettings, QualitySummary, Rewards, score_memories
from memory.ledger import Ledger, line_id
from memory.records import VECTOR_DIMENSION, EpisodicMemory
from memory.store.encoders import unpack_encoder
from memory.store.episodic import StoreReport
from memory.store.inbox import InboxEntry
from memory.validation import validate_experience, validate_identifier
from memory.window import Window
from tasks.markets import open_encoder, open_market
from tasks.retry import retried
from tasks.workspace import open_workspace

DRAIN_SIZE = 5000
"""Entries taken from the inboxes at a time: some seconds of work, and 20 MB."""


@dataclass(slots=True)
class RecordCounts:
    """What became of the experiences of one recording."""

    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    below_quality: int = 0
    shared: int = 0
    dead_letter_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, report: StoreReport) -> None:
        """Add what the store said of a batch."""
        self.stored += len(report.stored)
        self.duplicates += len(report.duplicates)
        self.below_quality += len(report.below_quality)
        for item in report.rejections:
            self.refuse(item.error)

    def refuse(self, error: Exception) -> None:
        """Count a record that went to the dead letters."""
        self.dead_letters += 1
        self.dead_letter_reasons[getattr(error, "field", type(error).__name__)] += 1

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {**asdict(self), "dead_letter_reasons": dict(self.dead_letter_reasons)}


@retried()
def replay_market(
    namespace: str,
    window: Window,
    market: str,
    products: Sequence[str] | None,
    encoder: str | None,
    min_quality: float,
) -> dict[str, Any]:
    """Let the baseline agents act on one window of a market, and store what they lived through.

    The same market, window, encoder, agents and costs give the same records: doing it again stores nothing.

    Raises
    ------
    MarketDataError
        The market cannot be read, or has no candle in the window.
    EncoderError
        The encoder was fitted on data later than the window's start.
    """
    with open_workspace(namespace) as workspace:
        settings = workspace.settings
        fitted = open_encoder(encoder, market, settings)
        simulated = simulate(
            open_market(market, products),
            window.start,
            window.end,
            baseline_agents(settings.seed),
            fitted,
            costs=Costs(basis_points=settings.cost_bp),
        )
        experiences = list(simulated.experiences())
        history = quality_history(workspace.ledger, namespace, fitted.id_, simulated.source, window)
        score_memories(experiences, history)
        counts = RecordCounts()

        async def store(mem: MemoryConnection) -> None:
            await register_encoder(mem, fitted)
            report = await mem.episodic.add_many(experiences, min_quality=min_quality)
            counts.add(report)
            counts.shared += await _share(mem, experiences, report)
            # What the run says that it recorded is there after a crash of the server, too.
            await mem.link.on_disk()

        workspace.with_memory(store)
        return {
            **counts.as_dict(),
            "experiences": len(experiences),
            "states": simulated.counts.states,
            "cold_states": simulated.counts.cold,
            "gaps": simulated.counts.gaps,
            "unrewarded_states": simulated.counts.unrewarded,
            "run": simulated.run_id,
            "encoder": fitted.id_,
        }


@retried()
def drain_inbox(namespace: str, encoder: str | None, min_quality: float) -> dict[str, Any]:
    """Store everything that waits in the agents' inboxes; what is stored is acknowledged last.

    Killed anywhere, the next drain takes up what was not acknowledged, and stores nothing twice.
    """
    counts = RecordCounts()
    consumer = f"{socket.gethostname()}-{os.getpid()}"
    with open_workspace(namespace) as workspace:
        ledger = workspace.ledger

        async def drain(mem: MemoryConnection) -> None:
            encoders: dict[str, StateEncoder] = {}
            # One drain works at a time: what another left behind is taken over at once.
            while entries := await mem.inbox.read(consumer, count=DRAIN_SIZE, idle=timedelta(0)):
                try:
                    kept, refused = await _store(mem, ledger, entries, encoder, encoders, min_quality, counts)
                except (StoreUnavailableError, EncoderError):
                    # Not the entries' fault: it must not bring them nearer to the dead letters.
                    await mem.inbox.hand_back(entries)
                    raise
                await mem.inbox.reject(refused)
                await mem.inbox.acknowledge(kept)
            await mem.link.on_disk()

        workspace.with_memory(drain)
    return counts.as_dict()


async def _store(
    mem: MemoryConnection,
    ledger: Ledger,
    entries: Sequence[InboxEntry],
    encoder: str | None,
    encoders: dict[str, StateEncoder],
    min_quality: float,
    counts: RecordCounts,
) -> tuple[list[InboxEntry], list[tuple[InboxEntry, InvalidRecordError]]]:
    """Store what can be stored of some entries; returns those that are dealt with, and those to reject and why."""
    good: list[EpisodicMemory] = []
    kept: list[InboxEntry] = []
    refused: list[tuple[InboxEntry, InvalidRecordError]] = []
    for entry in entries:
        try:
            good.append(await _experience(mem, ledger, entry, encoder, encoders))
            kept.append(entry)
        except InvalidRecordError as error:
            refused.append((entry, error))
    await _score(mem, ledger, mem.namespace, good)
    report = await mem.episodic.add_many(good, min_quality=min_quality, arrived=True)
    counts.add(report)
    counts.shared += await _share(mem, good, report)
    for _, reason in refused:
        counts.refuse(reason)
    return kept, refused


async def _share(mem: MemoryConnection, experiences: Sequence[EpisodicMemory], report: StoreReport) -> int:
    """Share what a batch stored, where the settings say so; returns how many are new in the pool."""
    if not mem.settings.share_on_record:
        return 0
    kept = {*report.stored, *report.duplicates}
    shared = await mem.shared.add_shared_experiences([item for item in experiences if item.memory_id in kept])
    return len(shared.stored)


async def register_encoder(mem: MemoryConnection, encoder: StateEncoder) -> None:
    """Make an encoder known to the namespace, with all that is needed to encode again."""
    await mem.encoders.register(
        encoder.id_, fitted_until=encoder.fitted_until_, definition=msgspec.json.decode(encoder.to_json())
    )


def quality_history(
    ledger: Ledger, namespace: str, encoder_id: str, source: str, window: Window
) -> list[QualitySummary]:
    """What the windows before one say about rewards, of one encoder and source."""
    line = line_id(namespace, encoder_id, ALGORITHM_VERSION)
    earlier = [known for known, _ in ledger.windows.with_current(line) if known < window]
    found = []
    for known in earlier[-QualitySettings().trailing_days :]:
        generation = ledger.windows.current_generation(line, known)
        if generation is not None:
            found += [
                serial.decode(item.payload, QualitySummary)
                for item in generation.of_kind(QUALITY)
                if item.partition_key == source
            ]
    return found


async def _experience(
    mem: MemoryConnection,
    ledger: Ledger,
    entry: InboxEntry,
    encoder: str | None,
    encoders: dict[str, StateEncoder],
) -> EpisodicMemory:
    """The experience of an inbox entry, encoded where it came without a vector, and checked."""
    state_vector = next_state_vector = fitted = None
    encoder_id = entry.fields.get("encoder_id") or None
    if entry.needs_encoding:
        fitted = await _encoder_of(mem, ledger, encoder_id, encoder, encoders)
        encoder_id = fitted.id_
        try:
            state_vector = fitted.encode(entry.features)
            next_state_vector = fitted.encode(entry.next_features) if entry.next_features else None
        except EncoderError as error:
            raise InvalidRecordError(error.message, remedy=error.remedy, field="features") from error
    experience = entry.to_experience(
        state_vector=state_vector, next_state_vector=next_state_vector, encoder_id=encoder_id
    )
    vector = experience.state_vector
    dimension = len(vector) if isinstance(vector, np.ndarray) and vector.ndim == 1 else VECTOR_DIMENSION
    validate_experience(experience, dimension)
    if experience.source == "live":
        arrived_at = max(entry.arrived_at, experience.timestamp)
        experience.known_at = max(experience.known_at or arrived_at, arrived_at)
    if fitted is not None:
        try:
            fitted.check_as_of(experience.timestamp)
        except EncoderError as error:
            raise InvalidRecordError(error.message, remedy=error.remedy, field="timestamp") from error
    return experience


async def _encoder_of(
    mem: MemoryConnection,
    ledger: Ledger,
    named: Any,
    parameter: str | None,
    encoders: dict[str, StateEncoder],
) -> StateEncoder:
    """The encoder that an entry names, else that of the flow's parameter, else the namespace's current one.

    What an agent names is an id, never a path, and where there is none of that id its entry is at fault. A parameter
    that cannot be used is no entry's fault: EncoderError.
    """
    if named is None:
        wanted = parameter or await mem.encoders.current() or default_encoder().id_
        return await _encoder(mem, ledger, wanted, encoders)
    try:
        return await _encoder(mem, ledger, validate_identifier(named, "encoder_id"), encoders)
    except EncoderError as error:
        raise InvalidRecordError(error.message, remedy=error.remedy, field="encoder_id") from error


async def _encoder(
    mem: MemoryConnection, ledger: Ledger, encoder_id: str, encoders: dict[str, StateEncoder]
) -> StateEncoder:
    if encoder_id not in encoders:
        record = await mem.encoders.get(encoder_id)
        kept = ledger.lines.encoder(mem.namespace, encoder_id) if record is None else None
        if kept is not None:
            # Redis lost it, and the ledger has kept it since a window of it was consolidated.
            record = await mem.encoders.restore(unpack_encoder(kept.payload))
        if record is not None:
            encoders[encoder_id] = StateEncoder.from_json(msgspec.json.encode(record.definition).decode())
        else:
            encoders[encoder_id] = open_encoder(encoder_id, "binance", mem.settings)
            await register_encoder(mem, encoders[encoder_id])
    return encoders[encoder_id]


async def _score(mem: MemoryConnection, ledger: Ledger, namespace: str, experiences: Iterable[EpisodicMemory]) -> None:
    """Score a batch: each window, encoder and source against its own past."""
    groups: dict[tuple[Window, str, str], list[EpisodicMemory]] = {}
    current = await mem.encoders.current() or ""
    for experience in experiences:
        if experience.known_at is None:
            # Live, a reward is known when it has arrived; the store's clock is the judge of that.
            continue
        key = (Window.containing(experience.timestamp), experience.encoder_id or current, experience.source)
        groups.setdefault(key, []).append(experience)
    for (window, encoder_id, source), group in groups.items():
        own = {experience.memory_id for experience in group}
        before = [
            experience
            async for page in mem.episodic.read_window(window.start, window.end, source=source)
            for experience in page
            if experience.memory_id not in own
        ]
        history = quality_history(ledger, namespace, encoder_id, source, window) if encoder_id else []
        score_memories(group, history, Rewards.of_memories(before) if before else None)
