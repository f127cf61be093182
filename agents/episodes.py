"""An agent's decisions about one product, until their rewards are known and their episode has ended.

The rules are those of `agents.simulation`: a UTC day is a session, which begins flat and counts its own steps; a
decision is rewarded over the next bar, and one without a next bar within five minutes is not recorded; a gap, a cold
state or the end of the day ends the episode. So a day that an agent followed bar by bar becomes, bit for bit, the
records that a simulation of that day makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from agents.experiences import Costs, settle
from agents.features import GAP_MINUTES
from agents.feed import Tick
from agents.replay import State
from memory.decisions import DecisionTrace
from memory.errors import MarketDataError
from memory.records import Action, EpisodicMemory
from memory.working import WorkingMemory

GAP = timedelta(minutes=GAP_MINUTES)


@dataclass(slots=True)
class Taken:
    """A decision that was taken, and waits for the next bar."""

    state: State
    action: Action
    confidence: float
    position_before: float
    position_after: float
    step: int
    pattern_ids: tuple[str, ...]
    trace: DecisionTrace | None


@dataclass(slots=True)
class Finished:
    """An experience that is complete, and the trace of its decision."""

    experience: EpisodicMemory
    trace: DecisionTrace | None


class EpisodeBook:
    """Books one product's decisions.

    Parameters
    ----------
    working
        The agent's working memory of the product; its steps are this book's.
    costs
        What trading costs.
    whole
        Whether experiences come when their episode has ended, with its returns; else each as soon as it is known
        whether it was the episode's last, without returns.

    Attributes
    ----------
    position
        Exposure, -1 to 1.
    step
        Index of the next decision within its session.
    settled, unrewarded, episodes
        Decisions that were rewarded, those that no bar followed, and episodes that ended.
    """

    def __init__(self, working: WorkingMemory, costs: Costs, *, whole: bool) -> None:
        self.working = working
        self.position = 0.0
        self.step = 0
        self.settled = self.unrewarded = self.episodes = 0
        self._costs = costs
        self._whole = whole
        self._pending: Taken | None = None
        self._held: list[Finished] = []
        self._session: date | None = None
        self._last: datetime | None = None

    async def arrive(self, tick: Tick) -> list[Finished]:
        """Take the next bar: reward the decision before it, and end the episode where it does not go on.

        Raises
        ------
        MarketDataError
            The bar does not come after the one before.
        """
        if self._last is not None and tick.timestamp <= self._last:
            raise MarketDataError(
                f"the bar of {tick.product_id} at {tick.timestamp.isoformat()} comes after that of "
                f"{self._last.isoformat()}.",
                remedy="Give each bar once, in order of time.",
            )
        gap = self._last is not None and tick.timestamp - self._last > GAP
        self._last = tick.timestamp
        finished: list[Finished] = []
        if gap:
            finished += await self.finish()
        elif self._pending is not None:
            finished += self._settle(self._pending, tick)
            self._pending = None
        new_session = tick.timestamp.date() != self._session
        if not gap and (new_session or tick.state is None or not tick.acts):
            finished += await self.finish()
        if new_session:
            self._session, self.step = tick.timestamp.date(), 0
        return finished

    def take(self, taken: Taken) -> None:
        """Book a decision on the bar that came last."""
        self._pending = taken
        self.position = taken.position_after

    async def finish(self) -> list[Finished]:
        """End the episode; a decision that waits for a bar stays without a reward."""
        known: datetime | None = None
        if self._pending is not None:
            # That no bar follows is certain only when none has come for so long: nobody knew the return before.
            known = self._pending.state.timestamp + GAP
            self.unrewarded += 1
            self._pending = None
        self.position = 0.0
        # The records with the episode's returns; where each went its way alone, they are there for these numbers only.
        records = await self.working.complete_episode(None, completed_at=known)
        if records:
            self.episodes += 1
        held, self._held = self._held, []
        if self._whole:
            return [Finished(record, item.trace) for record, item in zip(records, held, strict=True)]
        for item in held:
            item.experience.terminal, item.experience.return_known_at = True, known
        return held

    def _settle(self, taken: Taken, tick: Tick) -> list[Finished]:
        """Book what a decision brought; returns experiences that are complete by that."""
        state = taken.state
        before, after = taken.position_before + 0.0, taken.position_after + 0.0
        gross, cost, reward = (
            float(values[0, 0])
            for values in settle(
                np.array([[before]]),
                np.array([[after]]),
                np.array([state.price]),
                np.array([tick.price]),
                np.array([np.nan if state.spread is None else state.spread]),
                self._costs,
            )
        )
        record = self.working.observe(
            state,
            action=taken.action,
            reward=reward,
            next_state=tick.state,
            known_at=tick.timestamp,
            step=taken.step,
            confidence=taken.confidence,
            position_before=before,
            position_after=after,
            gross_return=gross,
            cost=cost,
            pattern_ids=taken.pattern_ids,
        )
        # A record carries the rule's label, of which there is one for all; what the agent believed is in the trace.
        record.regime = state.regime
        self.step += 1
        self.settled += 1
        earlier, self._held = ([], self._held) if self._whole else (self._held, [])
        self._held.append(Finished(record, taken.trace))
        return earlier
