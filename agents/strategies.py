"""What a trading agent decides by: a baseline agent, a policy that asks the memory itself, or any function.

All of them are given the same `Situation`, and come to a `Choice`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, cast

from agents.baselines import Agent, Decision, baseline_agents
from agents.experiences import Costs
from agents.pattern import ActivePattern
from agents.replay import MarketReplay, State
from agents.simulation import run_id
from memory.decisions import DecisionTrace
from memory.errors import InvalidRecordError
from memory.messages import AgentMemoryMessage
from memory.records import Action
from memory.retrieval.hits import Hit
from memory.validation import validate_action, validate_number
from memory.working import WorkingMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that an agent may decide by.

    Attributes
    ----------
    agent_id, source, run_id, step
        Whose decision it is, and what it belongs to.
    state, position
        The state, and the exposure before the decision, -1 to 1.
    as_of
        The time that the memory is asked as of: the state's own.
    regime, regime_confidence
        What the agent takes the regime for; the rule's label and its share of the vote where it has no detector.
    previous_regimes
        Regimes that it believed in before, oldest first.
    own, shared
        Its own experiences most like this, and others' in the shared pool; empty where the strategy reads for itself.
    patterns
        Patterns that the state is in, surest first.
    messages
        What was heard since the decision before.
    working
        The agent's working memory of the product.
    """

    agent_id: str
    source: str
    run_id: str
    step: int
    state: State
    position: float
    as_of: datetime
    regime: str
    regime_confidence: float
    previous_regimes: tuple[str, ...]
    own: tuple[Hit, ...]
    shared: tuple[Hit, ...]
    patterns: tuple[ActivePattern, ...]
    messages: tuple[AgentMemoryMessage, ...]
    working: WorkingMemory


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided, how sure the strategy is (0 to 1), and what it rested on where the strategy says that
    itself."""

    action: Action
    confidence: float
    trace: DecisionTrace | None = None


class Strategy(Protocol):
    """What a trading agent needs of a strategy.

    Attributes
    ----------
    name
        What traces call it: an id.
    reads
        Whether the agent shall read own and shared experiences for it.
    """

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> bool: ...

    def parameters(self) -> dict[str, Any]:
        """All that its decisions depend on beside the situation, JSON-ready: part of a replay's run id."""
        ...

    async def choose(self, situation: Situation) -> Choice:
        """Decide."""
        ...


class Policy(Protocol):
    """A policy that asks the memory itself; `agents.policy.policy.MemoryAugmentedPolicy` is one."""

    @property
    def last_trace(self) -> DecisionTrace | None: ...

    def parameters(self) -> Mapping[str, Any]: ...

    async def select_action(
        self,
        state: State,
        agent_id: str,
        product_id: str | None = None,
        regime: str | None = None,
        *,
        position: float = 0.0,
        as_of: datetime | None = None,
        source: str = "live",
        run_id: str = "live",
        step: int = 0,
    ) -> tuple[Action, float]: ...


Decide = Callable[[Situation], Decision | Awaitable[Decision]]


@dataclass(frozen=True, slots=True)
class BaselineStrategy:
    """Decides as a baseline agent does: by state and position alone."""

    agent: Agent
    reads: bool = False

    @property
    def name(self) -> str:
        """The baseline's id."""
        return self.agent.agent_id

    def parameters(self) -> dict[str, Any]:
        """The baseline's parameters."""
        return self.agent.parameters()

    async def choose(self, situation: Situation) -> Choice:
        """What the baseline decides."""
        decision = self.agent.decide(situation.state, situation.position)
        return Choice(decision.action, decision.confidence)


@dataclass(frozen=True, slots=True)
class PolicyStrategy:
    """Decides by a policy, which reads the memory itself and says what it read."""

    policy: Policy
    reads: bool = False

    @property
    def name(self) -> str:
        """What the policy's traces call it, or the name of its class."""
        return str(getattr(self.policy, "name", type(self.policy).__name__))

    def parameters(self) -> dict[str, Any]:
        """The policy's parameters."""
        return dict(self.policy.parameters())

    async def choose(self, situation: Situation) -> Choice:
        """What the policy selects."""
        action, confidence = await self.policy.select_action(
            situation.state,
            situation.agent_id,
            situation.state.product_id,
            situation.regime,
            position=situation.position,
            as_of=situation.as_of,
            source=situation.source,
            run_id=situation.run_id,
            step=situation.step,
        )
        return Choice(action, confidence, self.policy.last_trace)


@dataclass(frozen=True, slots=True)
class FunctionStrategy:
    """Decides by a function of the situation, which may be a coroutine function.

    Parameters
    ----------
    function
        Returns a `Decision`.
    name
        What traces call it.
    fixed
        Its parameters, JSON-ready: two functions of the same name that decide differently must differ here.
    """

    function: Decide
    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reads: bool = True

    def parameters(self) -> dict[str, Any]:
        """The name, and what was given."""
        return {"function": self.name, **self.fixed}

    async def choose(self, situation: Situation) -> Choice:
        """What the function decides; InvalidRecordError where that is no decision."""
        answer = self.function(situation)
        decision = await answer if inspect.isawaitable(answer) else answer
        if not isinstance(decision, Decision):
            raise InvalidRecordError(
                f"strategy {self.name} returned {type(decision).__name__}.",
                remedy="Return agents.baselines.Decision(action, confidence).",
                field="action",
            )
        return Choice(decision.action, decision.confidence)


def as_strategy(value: object) -> Strategy:
    """A strategy from a baseline agent, a policy, a function, or a strategy itself.

    Raises
    ------
    InvalidRecordError
        It is none of them.
    """
    if hasattr(value, "choose"):
        return cast(Strategy, value)
    if hasattr(value, "select_action"):
        return PolicyStrategy(cast(Policy, value))
    if hasattr(value, "decide"):
        return BaselineStrategy(cast(Agent, value))
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__).strip("<>_") or "function"
        return FunctionStrategy(cast(Decide, value), name)
    raise InvalidRecordError(
        f"{type(value).__name__} is no strategy.",
        remedy="Give a baseline agent, a policy with select_action, or a function of a Situation.",
        field="strategy",
    )


def checked_choice(choice: Choice) -> Choice:
    """The choice, or InvalidRecordError that names what is wrong with it."""
    validate_action(choice.action, "action")
    validate_number(choice.confidence, "confidence", 0.0, 1.0)
    return choice


def baseline_called(agent_id: str | None) -> Agent:
    """The baseline agent of that id; InvalidRecordError where there is none."""
    named = {agent.agent_id: agent for agent in baseline_agents()}
    if agent_id not in named:
        raise InvalidRecordError(
            f"agent {agent_id!r} has no strategy.",
            remedy=f"Give it one, or call it {', '.join(sorted(named))} for that baseline.",
            field="strategy",
        )
    return named[agent_id]


def replay_run_id(agent_id: str, strategy: Strategy, replay: MarketReplay, costs: Costs) -> str:
    """Id of one agent's replay of a market: that of a simulation of the same, with this agent alone."""
    return run_id(replay.market, [_Named(agent_id, strategy)], replay.encoder, costs, replay.bar_share)


@dataclass(frozen=True, slots=True)
class _Named:
    """An agent as a run's id knows it: by its id and parameters."""

    agent_id: str
    strategy: Strategy

    def parameters(self) -> dict[str, Any]:
        """The strategy's parameters."""
        return self.strategy.parameters()

    def decide(self, state: State, position: float) -> Decision:
        """Refused: it stands for an agent, and decides nothing."""
        raise InvalidRecordError(
            f"{self.agent_id} stands for a run's id and does not decide about {state.product_id} at {position}.",
            remedy="Let the agent itself decide.",
            field="agent_id",
        )
