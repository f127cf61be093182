"""Baseline agents: simple strategies that act on a state, so that there is experience to learn from.

An agent is a pure function of the state and its own position: it keeps nothing between decisions, so that a day that is
replayed alone equals that day within a month.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from agents.replay import State
from memory.records import Action, Regime, Side, to_ms

FLAT = Action(Side.BUY, 0.0)
KEEP = Action(Side.HOLD, 0.0)


@dataclass(frozen=True, slots=True)
class Decision:
    """An action (a target exposure) and the agent's confidence in it, 0 to 1."""

    action: Action
    confidence: float


class Agent(Protocol):
    """What a replay needs of an agent: an id, its parameters, and decisions."""

    @property
    def agent_id(self) -> str:
        """Id of the agent."""
        ...

    def parameters(self) -> dict[str, Any]:
        """All that its decisions depend on beside the state, JSON-ready: part of the run's id."""
        ...

    def decide(self, state: State, position: float) -> Decision:
        """Act on a state, given the own exposure (-1 to 1). A pure function of both."""
        ...


@dataclass(frozen=True, slots=True)
class BaselineAgent:
    """Base of the baseline agents: frozen parameters, and the id that comes with the strategy."""

    strategy: ClassVar[str]

    @property
    def agent_id(self) -> str:
        """The strategy's name."""
        return self.strategy

    def parameters(self) -> dict[str, Any]:
        """The strategy, its version and its parameters."""
        return {"strategy": self.strategy, "version": 1, **asdict(self)}


@dataclass(frozen=True, slots=True)
class MomentumAgent(BaselineAgent):
    """Follows the drift of the last 15 and 60 minutes; stays out where moves are taken back.

    Parameters
    ----------
    entry, exit
        Mean drift, in trailing volatilities, at which a position is taken, and below which it is given up.
    """

    strategy: ClassVar[str] = "momentum"
    entry: float = 1.0
    exit: float = 0.3

    def decide(self, state: State, position: float) -> Decision:
        """Long after rises, short after falls, flat where the drift has died away."""
        drift = 0.5 * (state.features["return_15m"] + state.features["return_60m"])
        confidence = _confidence(abs(drift), self.entry)
        if state.regime == Regime.MEAN_REVERTING:
            return Decision(FLAT if position else KEEP, 1.0 - confidence)
        if abs(drift) >= self.entry:
            return Decision(_towards(drift), confidence)
        if position and drift * position < self.exit * abs(position):
            return Decision(FLAT, 1.0 - confidence)
        return Decision(KEEP, 1.0 - confidence)


@dataclass(frozen=True, slots=True)
class MeanReversionAgent(BaselineAgent):
    """Bets against the move of the last 15 minutes, half as large in volatile markets, never in a crisis or a trend.

    Parameters
    ----------
    entry, exit
        Move, in trailing volatilities, at which a position against it is taken, and below which it is given up.
    """

    strategy: ClassVar[str] = "mean_reversion"
    entry: float = 1.5
    exit: float = 0.25

    def decide(self, state: State, position: float) -> Decision:
        """Short after a sharp rise, long after a sharp fall, flat once the move is taken back."""
        move = state.features["return_15m"]
        confidence = _confidence(abs(move), self.entry)
        if state.regime in (Regime.CRISIS, Regime.TRENDING):
            return Decision(FLAT if position else KEEP, 1.0 - confidence)
        if abs(move) >= self.entry:
            return Decision(_towards(-move, 0.5 if state.regime == Regime.VOLATILE else 1.0), confidence)
        if position and -move * position < self.exit * abs(position):
            return Decision(FLAT, 1.0 - confidence)
        return Decision(KEEP, 1.0 - confidence)


@dataclass(frozen=True, slots=True)
class BreakoutAgent(BaselineAgent):
    """Trades a price at the edge of its hour's range when volume builds up, and leaves in the middle of the range.

    Parameters
    ----------
    edge
        Distance from the middle of the range (0 to 1) that counts as its edge.
    volume
        Log ratio of the last five minutes' volume to its trailing mean that confirms.
    """

    strategy: ClassVar[str] = "breakout"
    edge: float = 0.9
    volume: float = 0.25

    def decide(self, state: State, position: float) -> Decision:
        """Long at a high on heavy volume, short at a low, flat once the price has come back past the middle."""
        place = state.features["range_position_60m"]
        volume = state.features["volume_5m"]
        if abs(place) >= self.edge and volume >= self.volume:
            return Decision(_towards(place), _confidence(volume, self.volume))
        if position and place * position <= 0.0:
            return Decision(FLAT, 1.0 - abs(place))
        return Decision(KEEP, abs(place) if position else 0.5)


@dataclass(frozen=True, slots=True)
class HoldAgent(BaselineAgent):
    """Buys at its first decision and holds: what the market itself brings."""

    strategy: ClassVar[str] = "hold"

    def decide(self, state: State, position: float) -> Decision:  # noqa: ARG002 (any state will do)
        """Long once, then hold."""
        return Decision(KEEP if position == 1.0 else Action(Side.BUY, 1.0), 1.0)


@dataclass(frozen=True, slots=True)
class RandomAgent(BaselineAgent):
    """Acts at random now and then, for experience that no strategy has chosen.

    Each decision is drawn from a hash of seed, product and time: it depends on no other decision.

    Parameters
    ----------
    seed
        Seed of the hash.
    trade_share
        Share of the decisions that change the target; the others hold.
    """

    strategy: ClassVar[str] = "random"
    seed: int = 0
    trade_share: float = 0.1

    def decide(self, state: State, position: float) -> Decision:  # noqa: ARG002 (any position will do)
        """Hold, or a random target among short, flat and long, in halves or full."""
        text = f"{self.seed}\x1f{state.product_id}\x1f{to_ms(state.timestamp)}".encode()
        draw = hashlib.blake2b(text, digest_size=16).digest()
        confidence = int.from_bytes(draw[8:12], "big") / 2**32
        if int.from_bytes(draw[:8], "big") / 2**64 >= self.trade_share:
            return Decision(KEEP, confidence)
        return Decision(_RANDOM_TARGETS[draw[12] % len(_RANDOM_TARGETS)], confidence)


_RANDOM_TARGETS = (
    Action(Side.SELL, 1.0),
    Action(Side.SELL, 0.5),
    FLAT,
    Action(Side.BUY, 0.5),
    Action(Side.BUY, 1.0),
)


def baseline_agents(seed: int = 0) -> tuple[Agent, ...]:
    """The five baseline agents with their default parameters; the seed is the random agent's."""
    return (BreakoutAgent(), HoldAgent(), MeanReversionAgent(), MomentumAgent(), RandomAgent(seed=seed))


def _towards(direction: float, size: float = 1.0) -> Action:
    return Action(Side.BUY if direction > 0 else Side.SELL, size)


def _confidence(strength: float, entry: float) -> float:
    """From 0 without a signal over 0.5 at the entry threshold towards 1."""
    return strength / (strength + entry) if strength > 0 else 0.0
