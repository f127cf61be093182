"""Recording: replay a market through the agents, or drain what agents put into their inboxes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
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
from agents.tracing import traces_of
from memory import MemoryConnection
from memory.decisions import DecisionTrace
from memory.errors import EncoderError, InvalidRecordError, MarketDataError, StoreUnavailableError
from memory.learning.quality import score_memories
from memory.ledger import Ledger
from memory.records import VECTOR_DIMENSION, EpisodicMemory, experience_id
from memory.store.dead_letters import Refusal
from memory.store.encoders import unpack_encoder
from memory.store.episodic import StoreReport
from memory.store.inbox import InboxEntry
from memory.validation import validate_experience, validate_identifier
from memory.window import Window
from tasks.markets import open_encoder, open_market
from tasks.retry import retried
from tasks.scoring import DrainScorer, quality_history
from tasks.workspace import open_workspace

_log = logging.getLogger(__name__)

CONSUMER = "drain"
"""All drains read as one, since one works at a time: inboxes would keep the name of every process that ever did."""
COMPARED = 16
"""Experiences of a replay that are compared with what was recorded of it before: a few milliseconds."""
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

    def refuse(self, reason: Exception | Refusal) -> None:
        """Count a record that went to the dead letters."""
        self.dead_letters += 1
        self.dead_letter_reasons[getattr(reason, "field", type(reason).__name__)] += 1

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

    The same market, window, encoder, agents and costs give the same records: doing it again stores nothing. The last
    changes of position leave traces (`replay_traces` of the settings); `last_decisions` of what it returns are the ids
    of the latest of each agent.

    Raises
    ------
    MarketDataError
        The market cannot be read, has no candle in the window, or has other ones than when it was recorded.
    EncoderError
        The encoder was fitted on data later than the window's start.
    """
    with open_workspace(namespace) as workspace:
        settings = workspace.settings
        fitted = open_encoder(encoder, market, settings)
        agents = baseline_agents(settings.seed)
        simulated = simulate(
            open_market(market, products),
            window.start,
            window.end,
            agents,
            fitted,
            costs=Costs(basis_points=settings.cost_bp),
        )
        experiences = list(simulated.experiences())
        traces = traces_of(simulated, agents, settings.replay_traces)
        history = quality_history(workspace.ledger, namespace, fitted.id_, simulated.source, window)
        score_memories(experiences, history)
        counts = RecordCounts()
        traced: list[DecisionTrace] = []

        async def store(mem: MemoryConnection) -> None:
            await register_encoder(mem, fitted)
            await _refuse_changed(mem, experiences)
            report = await mem.episodic.add_many(experiences, min_quality=min_quality)
            counts.add(report)
            counts.shared += await _share(mem, experiences, report)
            traced.extend(await _trace(mem, traces, report))
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
            "traces": len(traced),
            "last_decisions": {trace.agent_id: trace.decision_id for trace in traced},
        }


async def _trace(mem: MemoryConnection, traces: Sequence[DecisionTrace], report: StoreReport) -> list[DecisionTrace]:
    """Store the traces of decisions whose experiences are stored; returns those that are there, in order."""
    kept = {*report.stored, *report.duplicates}
    there = [
        trace
        for trace in traces
        if experience_id(trace.source, trace.run_id, trace.agent_id, trace.product_id, trace.timestamp, trace.step)
        in kept
    ]
    traced = await mem.decisions.add_many(there)
    for item in traced.rejections:
        _log.warning("A decision is recorded without its trace: %s", item.error)
    refused = {item.position for item in traced.rejections}
    return [trace for position, trace in enumerate(there) if position not in refused]


async def _refuse_changed(mem: MemoryConnection, experiences: Sequence[EpisodicMemory]) -> None:
    """MarketDataError where a replay brings other content than was recorded of it before, by a look at some of it.

    A market is known by its name: the ids of its records say nothing of the candles. All of a changed day would go to
    the dead letters, and push out others.
    """
    for item in experiences[:: max(1, len(experiences) // COMPARED)]:
        place = (item.source, item.run_id, item.agent_id, item.product_id, item.timestamp, item.step)
        stored = await mem.episodic.get(
            experience_id(*place), agent_id=item.agent_id, product_id=item.product_id, timestamp=item.timestamp
        )
        if stored is not None and _lived(stored) != _lived(item):
            raise MarketDataError(
                f"{item.product_id} at {item.timestamp.isoformat()} was recorded with other candles before (of an "
                f"unfinished day, perhaps), as run {item.run_id}.",
                remedy="Record changed candles into a namespace of their own (COINSWARM_NAMESPACE), or forget that run "
                f"first (mem.episodic.forget(run_id={item.run_id!r})).",
            )


def _lived(memory: EpisodicMemory) -> tuple[Any, ...]:
    """What candles decide of an experience, up to the end of its episode; a feature that is no number equals itself."""
    features = repr(sorted(memory.features.items()))
    return memory.regime, memory.action, memory.reward, memory.price, features, memory.cumulative_return


@retried()
def drain_inbox(namespace: str, encoder: str | None, min_quality: float) -> dict[str, Any]:
    """Store everything that waits in the agents' inboxes; what is stored is acknowledged last.

    Killed anywhere, the next drain takes up what was not acknowledged, and stores nothing twice.
    """
    counts = RecordCounts()
    with open_workspace(namespace) as workspace:
        ledger = workspace.ledger

        async def drain(mem: MemoryConnection) -> None:
            encoders: dict[str, StateEncoder] = {}
            scorer = DrainScorer(mem, ledger)
            # One drain works at a time: what another left behind is taken over at once.
            while entries := await mem.inbox.read(
                CONSUMER, count=DRAIN_SIZE, idle=timedelta(0), on_refused=counts.refuse
            ):
                try:
                    kept, refused = await _store(mem, ledger, scorer, entries, encoder, encoders, min_quality, counts)
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
    scorer: DrainScorer,
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
    await scorer.score(good)
    report = await mem.episodic.add_many(good, min_quality=min_quality, arrived=True)
    await scorer.note_stored(good, {*report.stored, *report.duplicates})
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


@retried()
def was_ever_recorded(namespace: str) -> bool:
    """Whether a memory holds, or has learned from, anything that anybody lived through.

    False in a new home alone: of a memory that Redis has lost the ledger knows archived windows or knowledge lines, and
    where all that came in was refused there are dead letters. Cost: some milliseconds.
    """
    with open_workspace(namespace) as workspace:
        ledger = workspace.ledger
        if ledger.lines.list(namespace) or ledger.windows.spans(namespace):
            return True

        async def held(mem: MemoryConnection) -> int:
            return await mem.episodic.count(at_least=True) or await mem.dead_letters.count()

        return workspace.with_memory(held) > 0


async def register_encoder(mem: MemoryConnection, encoder: StateEncoder) -> None:
    """Make an encoder known to the namespace, with all that is needed to encode again."""
    await mem.encoders.register(
        encoder.id_, fitted_until=encoder.fitted_until_, definition=msgspec.json.decode(encoder.to_json())
    )


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
