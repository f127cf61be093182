"""The trading agent: follows a market bar by bar, asks its memory, decides, and records what came of it.

Its loop is the same live and in a replay; what differs is where the ticks come from. Everything is asked as of the
decision's own time, so that a decision can be taken again, and a replay sees nothing of its future.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal

import memory
from agents.books import Books, TradingReport
from agents.connecting import Feed, check_encoder, encoder_of, follow, present_of, register_encoder
from agents.encoder import StateEncoder
from agents.episodes import EpisodeBook, Taken
from agents.experiences import Costs
from agents.feed import Tick
from agents.hearing import Hearing
from agents.pattern import ActivePattern, PatternAgent
from agents.recorder import ExperienceRecorder
from agents.regime_detection import RegimeDetectionAgent
from agents.replay import MarketReplay, State
from agents.strategies import (
    Choice,
    Situation,
    Strategy,
    as_strategy,
    baseline_called,
    checked_choice,
    replay_run_id,
)
from agents.telling import Teller
from agents.tracing import announcement_of, check_finite, trace_of
from memory import MemoryConnection
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.messages import LIVE_RUN, AgentMemoryMessage
from memory.records import Action, Side
from memory.retrieval.hits import Hit
from memory.validation import validate_identifier
from memory.working import WorkingMemory

_log = logging.getLogger(__name__)

TOP_K = 10
"""Experiences that are read of each kind, where the agent reads for its strategy."""
MAX_STEPS = 86_400
"""Steps of an episode, which never lasts longer than a day: one a second."""
KEEP = Action(Side.HOLD, 0.0)


class TradingAgent:
    """Acts on a market through a strategy, and records what it lives through.

    Parameters
    ----------
    mem
        An open memory.
    strategy
        A baseline agent, a policy with `select_action`, or a function of a `Situation`; by default the baseline agent
        that is called `agent_id`.
    recorder
        Where experiences go. It is its caller's to open and close.
    agent_id
        Whose experiences they are; by default the baseline's name.
    encoder
        The encoder of the states; by default the one that the memory is asked in.
    costs
        What trading costs; by default 2 basis points a side and half the spread.
    regimes
        Says what regime to believe in; the rule's label where None.
    patterns
        Says which patterns a state is in; where None, what other agents' PATTERN messages say.
    source, run_id
        Of the experiences. By default live, and of a replay "replay" and the id that `agents.simulation` gives the same
        market, encoder, strategy and costs.
    whole_episodes
        Whether experiences are recorded when their episode has ended, with its returns, or each two bars after its
        decision, without. By default the former in replays, the latter live: what happened an hour ago can then be
        remembered, and a crash loses two bars.
    hears
        Whether messages of other agents are read.
    announces
        Whether changes of the own position are told to all as EXPERIENCE messages; those that are dated too far ahead
        of the server's clock wait (`agents.telling`).
    traces
        Whether each experience is recorded with the trace of its decision.
    top_k
        Experiences of each kind that are read for a strategy that does not read itself.
    """

    def __init__(
        self,
        mem: MemoryConnection,
        strategy: object = None,
        *,
        recorder: ExperienceRecorder,
        agent_id: str | None = None,
        encoder: StateEncoder | None = None,
        costs: Costs | None = None,
        regimes: RegimeDetectionAgent | None = None,
        patterns: PatternAgent | None = None,
        source: str | None = None,
        run_id: str | None = None,
        whole_episodes: bool | None = None,
        hears: bool = True,
        announces: bool = False,
        traces: bool = True,
        top_k: int = TOP_K,
    ) -> None:
        self.strategy: Strategy = as_strategy(baseline_called(agent_id) if strategy is None else strategy)
        self.agent_id = validate_identifier(self.strategy.name if agent_id is None else agent_id, "agent_id")
        self.report = TradingReport()
        self._mem = mem
        self._encoder = encoder
        self._costs = costs or Costs(basis_points=mem.settings.cost_bp)
        self._regimes = regimes
        self._patterns = patterns
        self._source, self._run_id = source, run_id
        self._whole = whole_episodes
        self._hears, self._announces, self._traces = hears, announces, traces
        self._top_k = top_k
        self._books = Books(self._new_book, recorder, self.report)
        self._hearing: Hearing | None = None
        self._teller = Teller(mem)
        self._running = False

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        redis_url: str | None = None,
        *,
        agent_id: str,
        strategy: object = None,
        namespace: str | None = None,
        encoder: StateEncoder | None = None,
        destination: str = "inbox",
        **options: Any,
    ) -> AsyncIterator[TradingAgent]:
        """An agent with a memory and a recorder of its own: ``async with TradingAgent.connect(url, agent_id="hold")``.

        Leaving the block writes what waits to be written. A process that is told to terminate (SIGTERM) does so, too.

        Parameters
        ----------
        redis_url, namespace
            As `memory.connect`.
        destination
            As `ExperienceRecorder`: the inbox, or episodic memory at once.
        options
            As the constructor's.
        """
        if destination not in ("inbox", "episodic"):
            raise InvalidQueryError(
                f"destination is {destination!r}.", remedy="Use 'inbox' or 'episodic'.", argument="destination"
            )
        async with memory.connect(
            redis_url=redis_url, namespace=namespace, encoder_id=None if encoder is None else encoder.id_
        ) as mem:
            into: Literal["inbox", "episodic"] = "inbox" if destination == "inbox" else "episodic"
            async with ExperienceRecorder(mem, destination=into) as recorder:
                yield cls(mem, strategy, recorder=recorder, agent_id=agent_id, encoder=encoder, **options)

    # --- following a market ----------------------------------------------------------------------------------

    async def run(self, feed: Feed) -> TradingReport:
        """Follow a feed to its end, and record all that was lived through; returns the report.

        Cost: 0.1 ms a decision with its reward and trace, 0.6 ms a decision time where messages are heard, and what the
        strategy asks of the memory.

        Cancelled, it ends its episodes and hands over what is complete, as at the feed's end.

        Parameters
        ----------
        feed
            A replay, or ticks in order of time (`agents.feed.live_ticks` makes them of candles).

        Raises
        ------
        MarketDataError
            A bar is malformed, or does not come after the one before.
        EncoderError
            The memory's vectors, or those of a replay, are another encoder's.
        InvalidRecordError
            A state holds NaN, or the strategy's answer is no decision.
        StoreUnavailableError
            In a replay: Redis cannot be reached. Live agents go on without memory, and the report counts how often.
        """
        if self._running:
            raise InvalidQueryError(
                f"agent {self.agent_id} follows a feed already.",
                remedy="Make one agent for each feed.",
                argument="feed",
            )
        self._running = True
        try:
            await self._prepare(feed)
            with present_of(feed):
                try:
                    async for ticks in follow(feed):
                        if self._hearing is not None and ticks:
                            minds = {tick.product_id: self.working(tick.product_id) for tick in ticks}
                            await self._hearing.listen(ticks[-1].timestamp, minds)
                            self.report.heard = self._hearing.heard
                        for tick in ticks:
                            await self.on_tick(tick)
                finally:
                    try:
                        await self.finish()
                    finally:
                        if self._hearing is not None:
                            await self._hearing.close()
        finally:
            self._running = False
        return self.report

    async def on_tick(self, tick: Tick) -> Choice | None:
        """Take one product's next bar: reward the decision before it, and decide; None where nothing is decided."""
        book = await self._books.arrive(tick)
        if tick.state is None:
            self.report.cold += tick.acts
            return None
        return await self._decide(book, tick.state) if tick.acts else None

    async def finish(self) -> None:
        """End all episodes, and hand what is complete to the recorder; what no bar followed is not recorded.

        Messages that wait still for the server's clock go to the dead letters.
        """
        await self._books.finish()
        await self._teller.close()

    def working(self, product_id: str) -> WorkingMemory:
        """What the agent has in mind of a product."""
        return self._books.of(product_id).working

    def position(self, product_id: str) -> float:
        """Exposure in a product, -1 to 1."""
        return self._books.of(product_id).position

    # --- deciding --------------------------------------------------------------------------------------------

    async def _decide(self, book: EpisodeBook, state: State) -> Choice:
        check_finite(state)
        working = book.working
        messages = () if self._hearing is None else self._hearing.fresh(state.product_id)
        try:
            await self._believe(working, state)
            matches = await self._match(working, state)
            own, shared = await self._read(state) if self.strategy.reads else ((), ())
            situation = self._situation(book, state, own, shared, matches, messages)
            choice = checked_choice(await self.strategy.choose(situation))
        except StoreUnavailableError as error:
            if self._source != "live":
                raise
            self.report.without_memory += 1
            _log.warning("%s decides about %s without its memory: %s", self.agent_id, state.product_id, error)
            working.believe(state.regime, state.regime_confidence, state.timestamp)
            working.activate({})
            situation = self._situation(book, state, (), (), (), messages)
            choice = await self._choose_alone(situation)
        before, after = book.position, choice.action.target(book.position)
        trace = trace_of(situation, choice, self.strategy, self._known_encoder.id_) if self._traces else None
        pattern_ids = working.active_patterns
        book.take(Taken(state, choice.action, choice.confidence, before, after, situation.step, pattern_ids, trace))
        self.report.decisions += 1
        if self._announces:
            told = [announcement_of(situation, choice, after)] if after != before else []
            await self._announce(told, state.timestamp)
        return choice

    async def _choose_alone(self, situation: Situation) -> Choice:
        """Decide while the memory is away: by the strategy where it does not ask, else keep what is."""
        try:
            return checked_choice(await self.strategy.choose(situation))
        except StoreUnavailableError:
            return Choice(KEEP, 0.0)

    async def _believe(self, working: WorkingMemory, state: State) -> None:
        if self._regimes is None:
            working.believe(state.regime, state.regime_confidence, state.timestamp)
            return
        belief = await self._regimes.follow(state)
        working.believe(belief.regime, belief.confidence, state.timestamp)

    async def _match(self, working: WorkingMemory, state: State) -> tuple[ActivePattern, ...]:
        if self._patterns is not None:
            return await self._patterns.observe(state, working)
        if self._hearing is not None:
            working.activate(self._hearing.patterns(state.product_id))
        return ()

    async def _read(self, state: State) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
        """Own and shared experiences most like a state, as of its time."""
        as_of = state.timestamp
        own, shared = await asyncio.gather(
            self._mem.retrieval.retrieve_similar_experiences(
                state.vector, agent_id=self.agent_id, product_id=state.product_id, as_of=as_of, top_k=self._top_k
            ),
            self._mem.shared.retrieve_shared_experiences(
                state.vector,
                product_id=state.product_id,
                as_of=as_of,
                exclude_agent_id=self.agent_id,
                top_k=self._top_k,
            ),
        )
        return tuple(own), tuple(shared)

    def _situation(
        self,
        book: EpisodeBook,
        state: State,
        own: Sequence[Hit],
        shared: Sequence[Hit],
        matches: tuple[ActivePattern, ...],
        messages: tuple[AgentMemoryMessage, ...],
    ) -> Situation:
        working = book.working
        return Situation(
            agent_id=self.agent_id,
            source=working.source,
            run_id=working.run_id,
            step=book.step,
            state=state,
            position=book.position,
            as_of=state.timestamp,
            regime=working.current_regime or state.regime,
            regime_confidence=working.regime_confidence,
            previous_regimes=tuple(spell.regime for spell in working.previous_regimes),
            own=tuple(own),
            shared=tuple(shared),
            patterns=matches,
            messages=messages,
            working=working,
        )

    # --- messages --------------------------------------------------------------------------------------------

    async def _announce(self, messages: Sequence[AgentMemoryMessage], at: datetime) -> None:
        try:
            await self._teller.tell(messages, at)
        except StoreUnavailableError as error:
            if self._source != "live":
                raise
            _log.warning("%s could not tell of its position: %s", self.agent_id, error)

    # --- books -----------------------------------------------------------------------------------------------

    async def _prepare(self, feed: Feed) -> None:
        """What the experiences belong to, and the encoder that they are of."""
        if isinstance(feed, MarketReplay):
            self._encoder = self._encoder or feed.encoder
            if feed.encoder.id_ != self._encoder.id_:
                raise InvalidQueryError(
                    f"the replay's states are those of encoder {feed.encoder.id_}, the agent's of {self._encoder.id_}.",
                    remedy="Give the agent the replay's encoder.",
                    argument="encoder",
                )
            self._source = self._source or "replay"
            self._run_id = self._run_id or self.replay_run_id(feed)
        self._source = self._source or "live"
        self._run_id = self._run_id or LIVE_RUN
        self._encoder = self._encoder or await encoder_of(self._mem)
        await check_encoder(self._mem, self._encoder.id_)
        await register_encoder(self._mem, self._encoder)
        self._whole = self._source != "live" if self._whole is None else self._whole
        if self._hears:
            tolerates = self._source == "live"
            self._hearing = Hearing(self._mem, self.agent_id, self._run_id, tolerates=tolerates)

    def replay_run_id(self, replay: MarketReplay) -> str:
        """Id of this agent's replay of a market: that of a simulation of the same, with this agent alone."""
        return replay_run_id(self.agent_id, self.strategy, replay, self._costs)

    @property
    def _known_encoder(self) -> StateEncoder:
        if self._encoder is None:
            raise InvalidQueryError(
                "the agent follows no feed yet.", remedy="Call run(feed), or give it an encoder.", argument="encoder"
            )
        return self._encoder

    def _new_book(self, product_id: str) -> EpisodeBook:
        working = WorkingMemory(
            self.agent_id,
            product_id,
            source=self._source or "live",
            run_id=self._run_id or LIVE_RUN,
            encoder_id=self._known_encoder.id_,
            max_steps=MAX_STEPS,
        )
        return EpisodeBook(working, self._costs, whole=bool(self._whole))
