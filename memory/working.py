"""Working memory: what an agent has in mind of its current episode, in its own process.

It holds windows of what was seen, done and earned lately, what the agent takes the regime for, which patterns match,
and what the others do. Nothing of it is stored before the episode is complete: then it becomes experiences with the
returns that only the end of the episode gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from memory.agent_state import AgentState
from memory.beliefs import Beliefs, RegimeSpell
from memory.episode import HoldsExperiences, SeenState, TakesExperiences, with_returns
from memory.errors import InvalidRecordError
from memory.messages import LIVE_RUN
from memory.records import SOURCES, Action, EpisodicMemory
from memory.validation import (
    validate_action,
    validate_choice,
    validate_identifier,
    validate_number,
    validate_timestamp,
)

if TYPE_CHECKING:
    from memory.store.recording import StoreReport

__all__ = ["AgentState", "RegimeSpell", "WorkingMemory"]

WINDOW = 100
"""States, actions, rewards, regimes and messages that are remembered."""
MAX_STEPS = 10_080
"""Steps of an episode: a week of minutes, some 25 MB with 256 dimensions."""
GAP = timedelta(minutes=5)
"""A state that follows later than this is not what the action led to (as in replays)."""


class WorkingMemory(Beliefs):
    """An agent's current episode with one product.

    Parameters
    ----------
    agent_id, product_id
        Whose it is, and what it trades; an agent that trades several products has one for each.
    source, run_id
        Of the experiences that the episode becomes.
    encoder_id
        Encoder of the states' vectors; empty for the one of the memory that they are stored in.
    episode_id
        Name of the first episode; by default its agent, product and first decision.
    window
        Length of the windows.
    max_steps
        Longest episode.

    Attributes
    ----------
    episode_id, episode_start, episode_length
        The current episode; the start is None before its first step.
    recent_states, recent_actions, recent_rewards
        The last `window` steps, oldest first, also of the episodes before.
    current_regime, regime_confidence, regime_since
        What the agent takes the regime for; None before the first belief.
    previous_regimes
        Regimes before that, oldest first.
    active_patterns, pattern_confidences
        Ids of the patterns that match, surest first.
    other_agent_states
        What is known of others, by agent.
    recent_messages
        What was heard last.
    cumulative_reward, max_drawdown
        Of the episode: the sum of rewards, and its worst drop from an earlier height, as a positive fraction.
    last_report
        What became of the records of the episode that was completed last, where they went into a store.
    """

    def __init__(
        self,
        agent_id: str,
        product_id: str,
        *,
        source: str = "live",
        run_id: str = LIVE_RUN,
        encoder_id: str = "",
        episode_id: str = "",
        window: int = WINDOW,
        max_steps: int = MAX_STEPS,
    ) -> None:
        window = _positive(window, "window")
        super().__init__(validate_identifier(agent_id, "agent_id"), window)
        self.product_id = validate_identifier(product_id, "product_id")
        self.source = validate_choice(source, "source", SOURCES)
        self.run_id = validate_identifier(run_id, "run_id")
        self.encoder_id = validate_identifier(encoder_id, "encoder_id") if encoder_id else ""
        self.episode_id = validate_identifier(episode_id, "episode_id") if episode_id else ""
        self.max_steps = _positive(max_steps, "max_steps")
        self.recent_states: deque[SeenState] = deque(maxlen=window)
        self.recent_actions: deque[Action] = deque(maxlen=window)
        self.recent_rewards: deque[float] = deque(maxlen=window)
        self.last_report: StoreReport | None = None
        self._completing = False
        self._begin()

    def _begin(self) -> None:
        self.episode_start: datetime | None = None
        self.cumulative_reward = 0.0
        self.max_drawdown = 0.0
        self._height = 0.0
        self._steps: list[EpisodicMemory] = []

    @property
    def episode_length(self) -> int:
        """Steps of the current episode."""
        return len(self._steps)

    @property
    def is_full(self) -> bool:
        """Whether the episode has to be completed before the next step."""
        return len(self._steps) >= self.max_steps

    # --- steps -----------------------------------------------------------------------------------------------

    def observe(
        self,
        state: SeenState,
        *,
        action: Action,
        reward: float,
        next_state: SeenState | None = None,
        known_at: datetime | None = None,
        step: int | None = None,
        confidence: float = 0.0,
        position_before: float | None = None,
        position_after: float | None = None,
        gross_return: float | None = None,
        cost: float | None = None,
        pattern_ids: Sequence[str] | None = None,
        other_agent_actions: Mapping[str, Action] | None = None,
        regime: str | None = None,
        regime_confidence: float | None = None,
    ) -> EpisodicMemory:
        """Remember a step once its reward is known; about 10 microseconds.

        Parameters
        ----------
        state, action, reward
            What was seen and done, and what it brought after costs, a fraction of notional.
        next_state, known_at
            What the action led to, and when that and the reward were known; by default the state of the next step and
            its time, where it follows within `GAP`.
        step
            Index of the decision; by default its index in the episode.
        confidence, position_before, position_after, gross_return, cost
            As in EpisodicMemory; the position before is by default the one after the step before.
        pattern_ids
            Patterns that matched; by default those that are active.
        other_agent_actions
            What others did; by default what is known of them at this very time and for this product.
        regime, regime_confidence
            What the agent takes the regime for; by default what it believed at this very time, else the state's. The
            record has the state's: a product has one label at a time, whatever agents make of it.

        Returns
        -------
        EpisodicMemory
            The step as it will be stored, as far as it is known yet.

        Raises
        ------
        InvalidRecordError
            The state is of another product, lies not after the step before, or the episode is full or being completed.
        """
        stamp = self._check_step(state)
        validate_action(action, "action")
        reward = validate_number(reward, "reward")
        if regime is not None:
            self.believe(regime, state.regime_confidence if regime_confidence is None else regime_confidence, stamp)
        elif self._believed_at != stamp:
            self.believe(state.regime, state.regime_confidence, stamp)
        previous = self._steps[-1] if self._steps else None
        if previous is not None and stamp - previous.timestamp <= GAP:
            if previous.next_state_vector is None:
                previous.next_state_vector = state.vector
            if previous.known_at is None:
                previous.known_at = stamp
        if position_before is None and previous is not None:
            position_before = previous.position_after
        if position_after is None and position_before is not None:
            position_after = action.target(position_before)
        if known_at is None and next_state is not None:
            known_at = next_state.timestamp
        record = EpisodicMemory(
            agent_id=self.agent_id,
            timestamp=stamp,
            state_vector=state.vector,
            action=action,
            reward=reward,
            product_id=self.product_id,
            regime=state.regime,
            next_state_vector=None if next_state is None else next_state.vector,
            pattern_ids=self.active_patterns if pattern_ids is None else tuple(pattern_ids),
            confidence=validate_number(confidence, "confidence", 0.0, 1.0),
            other_agent_actions=self._actions_at(stamp) if other_agent_actions is None else dict(other_agent_actions),
            encoder_id=self.encoder_id,
            source=self.source,
            run_id=self.run_id,
            step=len(self._steps) if step is None else step,
            known_at=known_at,
            price=state.price,
            spread=state.spread,
            gross_return=gross_return,
            cost=cost,
            position_before=position_before,
            position_after=position_after,
            features=dict(state.features),
        )
        if self.episode_start is None:
            self.episode_start = stamp
            self.episode_id = self.episode_id or f"{self.agent_id[:48]}.{self.product_id[:48]}.{stamp:%Y%m%dT%H%M%S}"
        self._steps.append(record)
        self.recent_states.append(state)
        self.recent_actions.append(action)
        self.recent_rewards.append(reward)
        self.cumulative_reward += reward
        self._height = max(self._height, self.cumulative_reward)
        self.max_drawdown = max(self.max_drawdown, self._height - self.cumulative_reward)
        return record

    async def complete_episode(
        self,
        into: HoldsExperiences | TakesExperiences | None = None,
        *,
        completed_at: datetime | None = None,
        next_episode_id: str = "",
    ) -> tuple[EpisodicMemory, ...]:
        """End the episode: its steps become experiences with their returns, and are stored; a new episode begins.

        The last one is terminal. The return of a step is the sum of rewards from it to the end, and known with the last
        reward. Beliefs, patterns, others and windows stay. Steps that were recorded as they came must not be completed
        here: they are stored already, without returns, under the same ids.

        Parameters
        ----------
        into
            A memory, whose `episodic` they go to in one batch (what became of them is in `last_report`); a recorder,
            which writes them in the background; or None, to do with them as one likes.
        completed_at
            When the last reward was known, where its step did not say so; by default now, and needed in a replay.
        next_episode_id
            Name of the next episode.

        Returns
        -------
        tuple of EpisodicMemory
            In the order of time; empty where nothing was observed.

        Raises
        ------
        InvalidRecordError
            It is not known when the last reward of a replay was known, or the episode is being completed already.
        StoreUnavailableError
            They could not be stored; the episode goes on, and may be completed again.
        """
        next_id = validate_identifier(next_episode_id, "next_episode_id") if next_episode_id else ""
        self._check_completing()
        records = with_returns(self._steps, completed_at, live=self.source == "live")
        self.last_report = None
        if records:
            self._steps[-1].known_at = records[-1].known_at  # Completed again, it gives the same records.
        if into is not None and records:
            if hasattr(into, "episodic"):
                self._completing = True
                try:
                    self.last_report = await into.episodic.add_many(records)
                finally:
                    self._completing = False
            else:
                for record in records:
                    into.record(record)
        self._begin()
        self.episode_id = next_id
        return records

    # --- internals -------------------------------------------------------------------------------------------

    def _check_completing(self) -> None:
        if self._completing:
            raise InvalidRecordError(
                "the episode is being completed.",
                remedy="Await complete_episode before the next step.",
                field="episode",
            )

    def _check_step(self, state: SeenState) -> datetime:
        self._check_completing()
        stamp = validate_timestamp(state.timestamp, "timestamp")
        if state.product_id != self.product_id:
            raise InvalidRecordError(
                f"product_id {state.product_id!r} is not what this working memory is about ({self.product_id}).",
                remedy="Have one WorkingMemory for each product.",
                field="product_id",
            )
        if self._steps and stamp <= self._steps[-1].timestamp:
            raise InvalidRecordError(
                f"timestamp {stamp.isoformat()} does not lie after {self._steps[-1].timestamp.isoformat()}, the step "
                "before.",
                remedy="Observe each decision once, in the order of time.",
                field="timestamp",
            )
        if self.is_full:
            raise InvalidRecordError(
                f"the episode has {self.max_steps} steps.",
                remedy="Complete it (complete_episode), or raise max_steps.",
                field="episode",
            )
        return stamp

    def _actions_at(self, stamp: datetime) -> dict[str, Action]:
        return {
            agent: other.action
            for agent, other in sorted(self.other_agent_states.items())
            if other.action is not None and other.acted_at == stamp and other.product_id in (None, self.product_id)
        }


def _positive(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRecordError(f"{name} is {value!r}.", remedy="Use 1 or more.", field=name)
    return value
