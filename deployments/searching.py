"""`coinswarm search`: what the memory knows of a state of market history, or of one that it remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.connecting import encoder_of
from agents.features import GAP_MINUTES
from agents.fitting import default_encoder
from agents.snapshot import MarketSnapshot
from deployments.local import load_settings
from deployments.patterns import outline, plain
from memory import MemoryConnection
from memory.errors import EncoderError, InvalidQueryError, MarketDataError, PastExpiredError
from memory.learning.estimation import ESTIMATE_ACTIONS
from memory.records import MIXED, EpisodicMemory, PatternMemory, Vector
from memory.reporting import wording
from memory.reporting.ranking import title
from memory.retrieval.hits import Hit, PatternHit
from memory.roots import trust
from memory.store.access import uncounted
from memory.tables import TRAILING_VOLATILITY
from tasks.markets import open_market

if TYPE_CHECKING:
    from tasks.workspace import Workspace

NOW = "now"
"""As of when the answer is that holds all that is known."""
NEAREST = 50
"""Experiences that are looked at to say what there is where a filter leaves none."""
PATTERNS_SHOWN = 5
MARKET, EXPERIENCE, PATTERN = "market", "experience", "pattern"
BASIS_POINTS = 1e4


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which state is searched with: a memory's, or that of a product of a market at a time."""

    memory_id: str | None = None
    market: str = "binance"
    product_id: str | None = None
    at: datetime | None = None

    def check(self) -> None:
        """InvalidQueryError unless it names one state."""
        if self.memory_id is not None and (self.product_id is not None or self.at is not None):
            raise InvalidQueryError(
                "a memory's id and --product or --at name two states.",
                remedy="Give the id alone, or the product and the time.",
                argument="memory_id",
            )
        if self.memory_id is None and (self.product_id is None or self.at is None):
            raise InvalidQueryError(
                "no state is named.",
                remedy="Give the id of an experience or pattern, or --product BTC-USDT --at 2021-06-18T12:34.",
                argument="memory_id",
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """What is wanted of the answer.

    Attributes
    ----------
    agent_id, regime, market_phase
        Only experiences of these.
    top
        Experiences wanted.
    as_of
        The time, or `NOW`; None for that of the state, so that nobody sees the future by accident.
    shared
        Ask the shared pool, not what all agents remember themselves.
    patterns
        Whether to look for patterns too.
    horizon
        Minutes over which actions are estimated.
    """

    agent_id: str | None = None
    regime: str | None = None
    market_phase: str | None = None
    top: int = 10
    as_of: datetime | str | None = None
    shared: bool = False
    patterns: bool = True
    horizon: int = 15


@dataclass(frozen=True, slots=True)
class Known:
    """A state that is searched with; times and figures are None where it has none."""

    kind: str
    name: str
    vector: Vector
    encoder_id: str
    time: datetime | None
    memory_id: str | None = None
    product_id: str | None = None
    regime: str | None = None
    regime_confidence: float | None = None
    price: float | None = None
    trailing_volatility: float | None = None


def search(namespace: str | None, wanted: Wanted, limits: Limits) -> dict[str, Any]:
    """What is remembered of states like one, and what is expected of it.

    Nothing is counted as accessed, since it is no agent that asks. Cost: some 50 ms, the reading of a market's file
    (half a second a year of minutes), and a scan of the keys where an experience is named (half a second a million).

    Raises
    ------
    InvalidQueryError
        No state is named, or an unknown one; a filter cannot be.
    MarketDataError
        No such market or product, or no candle at that time.
    EncoderError
        Nothing is recorded that a state could be compared with, or the encoder was fitted on data later than the
        answer's time.
    """
    wanted.check()
    snapshot = None if wanted.memory_id is not None else _snapshot(wanted)
    settings = load_settings(namespace)
    from tasks.workspace import open_workspace

    with open_workspace(settings.namespace) as workspace, uncounted():

        async def find(mem: MemoryConnection) -> Known:
            if snapshot is not None:
                return await _encoded(mem, workspace, snapshot)
            return await _remembered(mem, workspace, wanted.memory_id or "", limits.as_of)

        state = workspace.with_memory(find)
        return workspace.with_memory(lambda mem: _answer(mem, state, limits), encoder_id=state.encoder_id)


# --- the state -------------------------------------------------------------------------------------------------


def _snapshot(wanted: Wanted) -> MarketSnapshot:
    """The market as it was known at the time; MarketDataError where no bar ended within the minutes before it."""
    if wanted.product_id is None or wanted.at is None:
        raise AssertionError("checked before")
    if "/" in wanted.market or Path(wanted.market).exists():
        trust(wanted.market)  # Whoever types a command names files of their own.
    market = open_market(wanted.market, [wanted.product_id])
    snapshot = MarketSnapshot.of_market(market, wanted.product_id, wanted.at)
    if wanted.at - snapshot.timestamp > timedelta(minutes=GAP_MINUTES):
        candles = market.products[wanted.product_id]
        raise MarketDataError(
            f"{wanted.product_id} of market {market.name} has no candle in the {GAP_MINUTES} minutes before "
            f"{wording.moment(wanted.at)}; the last one before it ended {wording.moment(snapshot.timestamp)}.",
            remedy=f"Its candles end from {wording.moment(candles.first_decision)} to "
            f"{wording.moment(candles.last_decision)}, with holes.",
        )
    return snapshot


async def _encoded(mem: MemoryConnection, workspace: Workspace, snapshot: MarketSnapshot) -> Known:
    """The state of a snapshot in the encoder that the namespace is asked in."""
    encoder_id = await mem.encoders.current()
    if encoder_id is None:
        raise EncoderError(
            f"nothing is recorded in namespace '{mem.namespace}', so that no encoder is chosen and nothing to find.",
            remedy=f"Record a day first, or name another namespace; namespaces with runs: {_namespaces(workspace)}.",
        )
    if encoder_id != default_encoder().id_ and await mem.encoders.get(encoder_id) is None:
        raise EncoderError(
            f"the vectors in namespace '{mem.namespace}' are of encoder {encoder_id}, which is not registered, so that "
            "no state of a market can be compared with them.",
            remedy="Search with the id of an experience or pattern, whose vector is stored.",
        )
    encoder = await encoder_of(mem)
    state = snapshot.state(encoder)
    return Known(
        kind=MARKET,
        name=f"{state.product_id} at {wording.moment(state.timestamp)} UTC",
        vector=state.vector,
        encoder_id=encoder_id,
        time=state.timestamp,
        product_id=state.product_id,
        regime=state.regime,
        regime_confidence=state.regime_confidence,
        price=state.price,
        trailing_volatility=state.features.get(TRAILING_VOLATILITY),
    )


async def _remembered(
    mem: MemoryConnection, workspace: Workspace, memory_id: str, as_of: datetime | str | None
) -> Known:
    """The state of an experience, or the place of a pattern."""
    semantic = mem.at(as_of).semantic if isinstance(as_of, datetime) else mem.semantic
    for line in await mem.semantic.current_lines():
        pattern = await semantic.get(memory_id, line=line)
        if isinstance(pattern, PatternMemory):
            return _of_pattern(pattern)
    try:
        experience = await mem.episodic.get(memory_id)
    except InvalidQueryError:
        experience = None  # It cannot be an experience's id, and it is no pattern's.
    if experience is not None:
        return _of_experience(experience)
    held = [await mem.semantic.counts(line=line) for line in await mem.semantic.current_lines()]
    raise InvalidQueryError(
        f"namespace '{mem.namespace}' holds no experience and no pattern '{memory_id[:80]}'.",
        remedy=f"It holds {wording.plural(await mem.episodic.count(), 'experience')} and "
        f"{wording.plural(sum(counts['PATTERN'] for counts in held), 'pattern')}, which 'coinswarm patterns' lists; "
        f"namespaces with runs: {_namespaces(workspace)}.",
        argument="memory_id",
    )


def _of_experience(found: EpisodicMemory) -> Known:
    return Known(
        kind=EXPERIENCE,
        name=f"experience {found.memory_id} of {found.agent_id}: {found.product_id} at "
        f"{wording.moment(found.timestamp)} UTC",
        vector=found.state_vector,
        encoder_id=found.encoder_id,
        time=found.timestamp,
        memory_id=found.memory_id,
        product_id=found.product_id,
        regime=found.regime,
        price=found.price,
        trailing_volatility=found.features.get(TRAILING_VOLATILITY),
    )


def _of_pattern(found: PatternMemory) -> Known:
    return Known(
        kind=PATTERN,
        name=f"pattern {found.pattern_id}",
        vector=found.concept_vector,
        encoder_id=found.encoder_id,
        time=None,
        memory_id=found.pattern_id,
        regime=None if found.regime == MIXED else found.regime,
    )


def _namespaces(workspace: Workspace) -> str:
    return ", ".join(workspace.ledger.runs.namespaces()) or "none"


# --- the answer ------------------------------------------------------------------------------------------------


async def _answer(mem: MemoryConnection, state: Known, limits: Limits) -> dict[str, Any]:
    as_of = state.time if limits.as_of is None else limits.as_of
    bound = as_of if isinstance(as_of, datetime) else None
    hits = await _experiences(mem, state, limits, bound)
    filters = {"agent": limits.agent_id, "regime": limits.regime, "phase": limits.market_phase}
    result: dict[str, Any] = {
        "namespace": mem.namespace,
        "as_of": NOW if bound is None else bound.isoformat(),
        "as_of_says": as_of_says(state, bound),
        "state": {name: plain(value) for name, value in asdict(state).items() if name != "vector"},
        "filters": {name: value for name, value in filters.items() if value is not None},
        "shared": limits.shared,
        "experiences": [_experience(hit, bound or datetime.now(UTC)) for hit in hits],
        "patterns": [],
        "estimates": [],
        "notes": [] if hits else [await _why_none(mem, state, limits, bound)],
    }
    try:
        if limits.patterns:
            result["patterns"] = [_pattern(hit) for hit in await _patterns(mem, state, bound)]
        result["estimates"] = [
            plain(
                await mem.retrieval.estimate(
                    state.vector,
                    action,
                    limits.horizon,
                    regime=state.regime,
                    as_of=bound,
                    trailing_volatility=state.trailing_volatility or None,
                )
            )
            for action in ESTIMATE_ACTIONS
        ]
    except PastExpiredError as error:
        result["notes"].append(f"Patterns and estimates are missing: {error}")
    return result


async def _experiences(
    mem: MemoryConnection, state: Known, limits: Limits, as_of: datetime | None, *, filtered: bool = True
) -> list[Hit]:
    """The nearest experiences; the one that is searched with is not among them."""
    own = state.memory_id if state.kind == EXPERIENCE else None
    most = mem.settings.max_top_k
    wanted = limits.top if filtered else min(NEAREST, most)
    ask = mem.shared.retrieve_shared_experiences if limits.shared else mem.retrieval.retrieve_similar_experiences
    hits = await ask(
        state.vector,
        agent_id=limits.agent_id if filtered else None,
        regime=limits.regime if filtered else None,
        market_phase=limits.market_phase if filtered else None,
        as_of=as_of,
        top_k=wanted if own is None or wanted >= most else wanted + 1,
    )
    return [hit for hit in hits if hit.memory.memory_id != own][:wanted]


async def _patterns(mem: MemoryConnection, state: Known, as_of: datetime | None) -> list[PatternHit]:
    """The nearest patterns; the one that is searched with is not among them."""
    wanted = min(PATTERNS_SHOWN, mem.settings.max_top_k)
    hits = await mem.retrieval.retrieve_patterns(
        state.vector, as_of=as_of, top_k=min(wanted + (state.kind == PATTERN), mem.settings.max_top_k)
    )
    return [hit for hit in hits if hit.memory.memory_id != state.memory_id][:wanted]


async def _why_none(mem: MemoryConnection, state: Known, limits: Limits, as_of: datetime | None) -> str:
    """Why no experience was found, and what there is."""
    pool = "shared " if limits.shared else ""
    then = "known as of then" if as_of is not None else "known"
    others = await _experiences(mem, state, limits, as_of, filtered=False)
    if others:
        agents = ", ".join(sorted({hit.memory.agent_id for hit in others}))
        regimes = ", ".join(sorted({hit.memory.regime for hit in others}))
        return (
            f"No {pool}experience that the filters leave is {then}; without them, the {len(others)} nearest are of "
            f"{agents}, in {regimes}."
        )
    count = await (mem.shared.count() if limits.shared else mem.episodic.count())
    if as_of is not None and count:
        return f"No {pool}experience was {then}; {count:,} became known later, which --as-of now shows."
    return f"No {pool}experience is {then} in encoder {state.encoder_id}."


def as_of_says(state: Known, as_of: datetime | None) -> str:
    """As of when the answer is, and what that means for what came after the state."""
    if as_of is None:
        after = f", what came after {wording.moment(state.time)} UTC included" if state.time is not None else ""
        return f"As of now: all that is known{after}."
    at = f"As of {wording.moment(as_of)} UTC"
    nothing_later = "nothing that became known later is in this answer"
    if state.time is None:
        return f"{at}: {nothing_later}."
    if as_of > state.time:
        return f"{at}: what came after the state, of {wording.moment(state.time)} UTC, is in this answer up to then."
    if as_of < state.time:
        return f"{at}, before the state, of {wording.moment(state.time)} UTC: {nothing_later}."
    return f"{at}, the time of the state: {nothing_later}."


def _experience(hit: Hit, present: datetime) -> dict[str, Any]:
    found = hit.memory
    return {
        "distance": hit.distance,
        "memory_id": found.memory_id,
        "timestamp": found.timestamp.isoformat(),
        "age_s": (present - found.timestamp).total_seconds(),
        "agent_id": found.agent_id,
        "product_id": found.product_id,
        "regime": found.regime,
        "market_phase": found.market_phase,
        "side": found.action.side.value,
        "size": found.action.size,
        "position_after": found.position_after,
        "reward": found.reward,
        "reward_bp": BASIS_POINTS * found.reward,
        "cumulative_return": found.cumulative_return,
        "known_at": None if found.known_at is None else found.known_at.isoformat(),
        "quality": found.quality,
        "source": found.source,
        "run_id": found.run_id,
    }


def _pattern(hit: PatternHit) -> dict[str, Any]:
    found = hit.memory
    return {
        "distance": hit.distance,
        "within_reach": hit.distance <= found.reach,
        "valid_from": found.valid_from.isoformat(),
        "title": title(found),
        **outline(found),
    }
