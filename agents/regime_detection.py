"""Which regime it is: what the rule says, what memory says of states like this one, and how sure one may be.

The rule's label is one for all; what is here is what an agent *believes*. The rule labels a decision by the half-hour
before it. An agent asks the memory for the states that were most like this one and what *they* turned into, and joins
both by probabilities that were fitted to the past (`agents.regime_calibration`). Its confidence is the probability
that the rule's label half an hour later is the regime that it names: the label of the very minutes that it is about to
act in.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

import memory
from agents.catalogue import FEATURE_NAMES
from agents.connecting import Feed, check_encoder, each_state, encoder_of
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES
from agents.regime_belief import RegimeBelief, change_message
from agents.regime_calibration import AHEAD_MINUTES, RegimeCalibration, default_calibration
from agents.regime_history import EMBARGO_MINUTES, MIN_DAYS, NEIGHBOURS
from agents.replay import State
from agents.snapshot import DEFAULT_LOOKBACK_PERIODS, MarketSnapshot
from agents.telling import Teller
from memory import MemoryConnection
from memory.errors import EncoderError, InvalidQueryError, StoreUnavailableError
from memory.records import REGIMES
from memory.validation import validate_choice, validate_identifier, validate_number

SWITCH_MARGIN = 0.35
"""How much more probable another regime must be than the believed one before the belief changes. Chosen in the second
half of May 2018 on Bitfinex: beliefs last some 15 minutes then, and are right in one point less than at 0.1."""
FORGET_MINUTES = AHEAD_MINUTES
"""A belief that was not renewed for so long is forgotten: what comes then is a first belief, and no change."""
PREVIOUS_KEPT = 16
"""Earlier regimes of a product that are kept."""


@dataclass(slots=True)
class _Spell:
    """How long the rule's label of a product has lasted."""

    regime: str
    since: datetime
    last: datetime


OnChange = Callable[[RegimeBelief], Awaitable[None] | None]


class RegimeDetectionAgent:
    """Believes one regime a product, tells when that changes, and how sure it is.

    It writes no transitions: these are counted every night from the rule's labels.

    Parameters
    ----------
    mem
        An open memory whose vectors are the encoder's.
    encoder
        The encoder, which brings the rule's statistics.
    agent_id
        Who tells of changes.
    calibration
        Probabilities fitted to the past. By default the calibration that ships, from the time on from which it was
        known; before, and with None, the rule's label with its share of the vote.
    min_days
        UTC days that the voting states must come from. With fewer the memory is too thin to be believed, and
        probabilities come from the rule's label, share, dwell and candidate alone.
    margin
        How much more probable another regime must be before the belief changes.
    broadcast
        Whether changes are sent to all agents as REGIME_CHANGE messages.
    on_change
        Called with each changed belief, after it was sent; may be a coroutine function. What it raises is raised by
        `detect_regime`: the belief has changed by then. A change that could not be sent, since Redis was away, is told
        with the next decision; one that is dated too far ahead of the server's clock waits (`agents.telling`).
    source, run_id
        What messages belong to: live, or a replay's own run.
    """

    def __init__(
        self,
        mem: MemoryConnection,
        encoder: StateEncoder,
        *,
        agent_id: str = "regime",
        calibration: RegimeCalibration | str | None = "default",
        min_days: int = MIN_DAYS,
        margin: float = SWITCH_MARGIN,
        broadcast: bool = True,
        on_change: OnChange | None = None,
        source: str = "live",
        run_id: str = "live",
    ) -> None:
        self.agent_id = validate_identifier(agent_id, "agent_id")
        self._mem = mem
        self._encoder = encoder
        self._given = calibration if isinstance(calibration, RegimeCalibration) else None
        if isinstance(calibration, str):
            validate_choice(calibration, "calibration", ("default",))
        self._default = calibration == "default"
        self._min_days = min_days
        self._margin = validate_number(margin, "margin", 0.0, 1.0)
        self._broadcast = broadcast
        self._on_change = on_change
        self._source, self._run_id = source, run_id
        self._beliefs: dict[str, RegimeBelief] = {}
        self._previous: dict[str, deque[str]] = {}
        self._spells: dict[str, _Spell] = {}
        self._untold: deque[RegimeBelief] = deque()
        self._checked = False
        self._teller = Teller(mem)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        redis_url: str | None = None,
        *,
        agent_id: str = "regime",
        namespace: str | None = None,
        encoder: StateEncoder | None = None,
        **options: Any,
    ) -> AsyncIterator[RegimeDetectionAgent]:
        """An agent with a memory of its own: ``async with RegimeDetectionAgent.connect(url) as agent``."""
        encoder_id = None if encoder is None else encoder.id_
        async with memory.connect(redis_url=redis_url, namespace=namespace, encoder_id=encoder_id) as mem:
            yield cls(mem, encoder or await encoder_of(mem), agent_id=agent_id, **options)

    async def run(self, feed: Feed) -> int:
        """Follow all states of a feed; returns how many there were."""
        return await each_state(feed, self.follow, self.close)

    async def close(self) -> None:
        """Put what it never could send into the dead letters; a feed that was followed to its end does so itself."""
        await self._teller.close()

    # --- detecting -------------------------------------------------------------------------------------------

    async def detect_regime(
        self, snapshot: MarketSnapshot, lookback_periods: int = DEFAULT_LOOKBACK_PERIODS
    ) -> tuple[str, float]:
        """The regime of a product at the snapshot's time, and the confidence in it, 0 to 1.

        Parameters
        ----------
        snapshot
            The product's last candles; those of each product in time order.
        lookback_periods
            Bars over which it is looked how long the rule's label has lasted.

        Returns
        -------
        The believed regime and the calibrated probability that the rule's label half an hour later is the same.
        `belief` has the rest. Cost: 5 ms for the state, and where memory is asked a search of 600 experiences, some
        20 ms.

        Raises
        ------
        MarketDataError
            The snapshot is cold.
        EncoderError
            The encoder or the calibration was fitted on later data, or the memory's vectors are another encoder's.
        InvalidQueryError
            The snapshot lies before the last one of its product, or after the present of a replay.
        StoreUnavailableError
            No whole answer within the deadline.
        """
        state = snapshot.state(self._encoder)
        belief = await self.assess(state, snapshot.dwell_minutes(self._encoder, lookback_periods))
        return belief.regime, belief.confidence

    async def assess(self, state: State, dwell_minutes: float) -> RegimeBelief:
        """The belief at a state, where it is at hand already; errors as `detect_regime`.

        Parameters
        ----------
        state
            A state of the agent's encoder.
        dwell_minutes
            How long the rule's label of the state has lasted.
        """
        held = self._held(state)
        if held is not None and held.timestamp == state.timestamp:
            return held
        if not self._checked:
            self._checked = await check_encoder(self._mem, self._encoder.id_)
        calibration = self._calibration(state.timestamp)
        states, vote = await self._vote(state)
        if calibration is None:
            chances = hindsight = None
        else:
            chances, hindsight = self._chances(calibration, state, dwell_minutes, vote)
        belief = self._believe(state, held, chances, hindsight, states, calibration)
        self._beliefs[state.product_id] = belief
        if belief.changed:
            self._previous.setdefault(state.product_id, deque(maxlen=PREVIOUS_KEPT)).append(str(belief.before))
            self._untold.append(belief)
        await self._tell(state.timestamp)
        return belief

    async def follow(self, state: State) -> RegimeBelief:
        """As `assess`, for states that come one after the other: how long the rule's label has lasted is told by
        them."""
        spell = self._spells.get(state.product_id)
        unbroken = spell is not None and state.timestamp - spell.last <= timedelta(minutes=GAP_MINUTES)
        if spell is None or not unbroken or spell.regime != state.regime:
            spell = _Spell(state.regime, state.timestamp, state.timestamp)
        spell.last = state.timestamp
        self._spells[state.product_id] = spell
        return await self.assess(state, (state.timestamp - spell.since).total_seconds() / 60.0)

    def belief(self, product_id: str) -> RegimeBelief | None:
        """The last belief of a product; None where there is none."""
        return self._beliefs.get(product_id)

    def previous_regimes(self, product_id: str) -> tuple[str, ...]:
        """What was believed of a product before, oldest first; the last `PREVIOUS_KEPT`."""
        return tuple(self._previous.get(product_id, ()))

    # --- what it rests on ------------------------------------------------------------------------------------

    def _held(self, state: State) -> RegimeBelief | None:
        held = self._beliefs.get(state.product_id)
        if held is None:
            return None
        if state.timestamp < held.timestamp:
            raise InvalidQueryError(
                f"{state.product_id} at {state.timestamp.isoformat()} lies before {held.timestamp.isoformat()}, which "
                "this agent has judged already.",
                remedy="Give the snapshots of a product in time order, or take another agent for another replay.",
                argument="snapshot",
            )
        forgotten = state.timestamp - held.timestamp > timedelta(minutes=FORGET_MINUTES)
        return None if forgotten else held

    def _calibration(self, timestamp: datetime) -> RegimeCalibration | None:
        if self._given is not None:
            self._given.check_as_of(timestamp)
            return self._given
        if not self._default:
            return None
        shipped = default_calibration()
        return shipped if timestamp >= shipped.fitted_until_ else None

    async def _vote(self, state: State) -> tuple[int, np.ndarray[Any, np.dtype[np.float64]] | None]:
        """How many remembered states voted, and the shares of what they turned into, shape (1, 5)."""
        as_of = state.timestamp - timedelta(minutes=EMBARGO_MINUTES)
        if as_of < self._encoder.fitted_until_:
            return 0, None
        hits = await self._mem.retrieval.retrieve_similar_regimes(
            state.vector,
            top_k=NEIGHBOURS,
            product_id=state.product_id,
            as_of=as_of,
            ahead_minutes=AHEAD_MINUTES,
        )
        told = [item for item in hits.states if item.regime_ahead is not None]
        if len({item.timestamp.date() for item in told}) < self._min_days or not told:
            return 0, None
        return len(told), np.array([[hits.vote_ahead.get(regime, 0.0) for regime in REGIMES]])

    def _chances(
        self,
        calibration: RegimeCalibration,
        state: State,
        dwell_minutes: float,
        vote: np.ndarray[Any, np.dtype[np.float64]] | None,
    ) -> tuple[list[float], list[float]]:
        """Probabilities of the regimes ahead and in hindsight, in the order of REGIMES."""
        row = np.array([[state.features[name] for name in FEATURE_NAMES]], dtype=np.float64)
        if not np.isfinite(row).all():
            column = int(np.argmin(np.isfinite(row[0])))
            raise EncoderError(
                f"feature {FEATURE_NAMES[column]} of {state.product_id} at {state.timestamp.isoformat()} is "
                f"{row[0, column]}.",
                remedy="Features must be finite; compute them with agents.features, or take a MarketSnapshot's state.",
            )
        rule = np.array([REGIMES.index(state.regime)])
        candidate = self._encoder.regimes_.candidates(row).astype(np.int64)
        share, dwell = np.array([state.regime_confidence]), np.array([dwell_minutes])
        ahead, hindsight = (
            calibration.probabilities(rule, share, dwell, candidate, vote, target=target)[0].tolist()
            for target in ("ahead", "hindsight")
        )
        return ahead, hindsight

    def _believe(
        self,
        state: State,
        held: RegimeBelief | None,
        chances: list[float] | None,
        hindsight: list[float] | None,
        states: int,
        calibration: RegimeCalibration | None,
    ) -> RegimeBelief:
        if chances is None:
            regime, confidence = state.regime, state.regime_confidence
        else:
            regime = most_probable(chances, state.regime)
            if held is not None and chances[REGIMES.index(regime)] - chances[REGIMES.index(held.regime)] < self._margin:
                regime = held.regime
            confidence = chances[REGIMES.index(regime)]
        changed = held is not None and held.regime != regime
        return RegimeBelief(
            product_id=state.product_id,
            timestamp=state.timestamp,
            regime=regime,
            confidence=confidence,
            hindsight_confidence=None if hindsight is None else hindsight[REGIMES.index(regime)],
            probabilities={} if chances is None else dict(zip(REGIMES, chances, strict=True)),
            rule=state.regime,
            rule_confidence=state.regime_confidence,
            states=states,
            calibration_id=None if calibration is None else calibration.id_,
            since=state.timestamp if held is None or changed else held.since,
            before=None if held is None else held.regime if changed else held.before,
            changed=changed,
        )

    # --- telling ---------------------------------------------------------------------------------------------

    async def _tell(self, at: datetime) -> None:
        """Tell of all changes that were not told of yet, each once."""
        if self._teller.waiting and not self._untold:
            await self._teller.tell((), at)
        while self._untold:
            belief = self._untold.popleft()
            if self._broadcast:
                message = change_message(belief, self.agent_id, source=self._source, run_id=self._run_id)
                try:
                    await self._teller.tell([message], at)
                except (StoreUnavailableError, asyncio.CancelledError):
                    self._untold.appendleft(belief)
                    raise
            if self._on_change is not None:
                answer = self._on_change(belief)
                if inspect.isawaitable(answer):
                    await answer


def most_probable(chances: list[float], rule: str) -> str:
    """The most probable regime; ties go to the rule's label, then to the order of `Regime`."""
    best = max(chances)
    tied = [regime for regime, chance in zip(REGIMES, chances, strict=True) if chance == best]
    return rule if rule in tied else tied[0]
