"""A Gymnasium environment over a market replay: history to train and test agents in, with the rewards of a simulation.

One episode is one unbroken stretch of one product's history: a UTC day, or what a gap leaves of it. A step decides at a
bar's end; its reward is that of the bar that follows (`agents.experiences.settle`), net of costs.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from agents.catalogue import FEATURE_NAMES
from agents.experiences import DAY_MS, Costs, ends_known_ms, settle
from agents.replay import MarketReplay, ProductStates, State
from memory.asof import ReplayClock, replaying
from memory.errors import InvalidQueryError, MarketDataError
from memory.records import Action, Side, from_ms
from memory.validation import validate_choice, validate_number

Observation = npt.NDArray[np.float32]
ObservedAs = Literal["features", "vector"]
ActionSpace = Literal["discrete", "exposure"]

FEATURE_LIMIT = 1e6
"""Bound of the observation space for raw features, which are finite and scale-free; far beyond any."""


@dataclass(frozen=True, slots=True)
class Episode:
    """An unbroken stretch of decisions: rows of a product's states, each followed by a next decision."""

    product_id: str
    rows: npt.NDArray[np.int64]


class MarketEnvironment(gymnasium.Env[Observation, Any]):
    """Trade one product at a time through a replay.

    Observation: the state's features (or its unit vector) and, last, the position, float32. Action: 0 short, 1 flat,
    2 long, 3 hold (`memory.Action.index`), or with ``actions="exposure"`` the target exposure in [-1, 1], shape (1,).
    Reward: return of the bar after the decision times the new position, less the cost of getting there; a fraction of
    notional. Episodes begin flat. They end (terminated) with the day, or before a gap; none is truncated.

    Parameters
    ----------
    replay
        The history.
    products
        Products to trade; all of the replay where None.
    observe
        ``features``: raw features in the order of `agents.catalogue.FEATURE_NAMES`; ``vector``: the encoded state.
    actions
        ``discrete`` or ``exposure``.
    costs
        As in `agents.simulation.simulate`.
    shuffle
        Whether episodes come in an order drawn from the seed of `reset`; in order of time and product otherwise, over
        and over.

    Attributes
    ----------
    clock
        The present of the replay: the decision time of the last observation. Questions to a memory belong in
        ``with env.present():``, which refuses those that could see the future.
    episodes
        All episodes, in order of time and product.

    Raises
    ------
    MarketDataError
        The replay holds no product of that name, or no warm state that a bar follows.

    Notes
    -----
    The states of all products are held: 1.3 KB each. A step takes about 20 microseconds.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        replay: MarketReplay,
        *,
        products: tuple[str, ...] | None = None,
        observe: ObservedAs = "features",
        actions: ActionSpace = "discrete",
        costs: Costs | None = None,
        shuffle: bool = False,
    ) -> None:
        self._vectors = validate_choice(observe, "observe", ("features", "vector")) == "vector"
        self._exposure = validate_choice(actions, "actions", ("discrete", "exposure")) == "exposure"
        self._costs = costs or Costs()
        self._shuffle = shuffle
        self._tables = {table.product_id: table for table in replay.products()}
        self.encoder_id = replay.encoder.id_
        self.clock = ReplayClock(replay.start)
        chosen = tuple(self._tables) if products is None else products
        unknown = [product_id for product_id in chosen if product_id not in self._tables]
        if unknown:
            raise MarketDataError(
                f"the replay has no candles of {', '.join(unknown)}.", remedy=f"It has {', '.join(self._tables)}."
            )
        found = [episode for product_id in chosen for episode in episodes_of(self._tables[product_id])]
        self.episodes = tuple(sorted(found, key=self._begin))
        if not self.episodes:
            raise MarketDataError(
                f"no state of {', '.join(chosen)} from {replay.start.isoformat()} to {replay.end.isoformat()} has "
                "enough history and a bar after it.",
                remedy="Choose a longer span: the first 240 minutes of history are look-back.",
            )
        width = self._tables[chosen[0]].vectors.shape[1] if self._vectors else len(FEATURE_NAMES)
        bound = np.full(width + 1, 1.0 if self._vectors else FEATURE_LIMIT, dtype=np.float32)
        bound[-1] = 1.0
        self.observation_space = gymnasium.spaces.Box(-bound, bound, dtype=np.float32)
        self.action_space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if self._exposure else gymnasium.spaces.Discrete(4)
        )
        self._order: list[int] = []
        self._episode: Episode | None = None
        self._at = 0
        self._position = 0.0

    # --- the environment -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode, flat.

        Parameters
        ----------
        seed
            Of the order of episodes, where they are shuffled; begins with the first again.
        options
            ``{"episode": n}`` begins the n-th of `episodes`.

        Raises
        ------
        InvalidQueryError
            There is no such episode.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._order = []
        wanted = (options or {}).get("episode")
        if wanted is None:
            if not self._order:
                numbers = np.arange(len(self.episodes))
                self._order = (self.np_random.permutation(numbers) if self._shuffle else numbers).tolist()
            wanted = self._order.pop(0)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < len(self.episodes):
            raise InvalidQueryError(
                f"there is no episode {wanted!r}.",
                remedy=f"Choose one from 0 to {len(self.episodes) - 1}.",
                argument="options",
            )
        self._episode = self.episodes[wanted]
        self._at, self._position = 0, 0.0
        return self._observed()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide; the info of the answer has what became of it, and (where it is warm) the state that comes next.

        Raises
        ------
        InvalidQueryError
            No episode has begun, or the last one has ended.
        InvalidRecordError
            The action is none.
        """
        episode = self._running()
        table, row = self._tables[episode.product_id], int(episode.rows[self._at])
        before = self._position
        taken = self.action_of(action)
        after = taken.target(before) + 0.0
        gross, cost, reward = settle(
            np.array([[before]]),
            np.array([[after]]),
            table.price[row : row + 1],
            table.price[row + 1 : row + 2],
            table.spread[row : row + 1],
            self._costs,
        )
        self._position = after
        self._at += 1
        terminated = self._at == len(episode.rows)
        observation, info = self._observed()
        info |= {
            "action": taken,
            "position_before": before,
            "position_after": after,
            "gross_return": float(gross[0, 0]),
            "cost": float(cost[0, 0]),
        }
        if terminated:
            info["end_known_at"] = from_ms(int(ends_known_ms(table, episode.rows[-1:])[0]))
        return observation, float(reward[0, 0]), terminated, False, info

    # --- beside Gymnasium ------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state of the last observation; after an episode's end the one that its last reward was known at."""
        episode = self._begun()
        return self._tables[episode.product_id].state(self._row(episode))

    @property
    def position(self) -> float:
        """Exposure, -1 to 1."""
        return self._position

    def present(self) -> ExitStack:
        """A block in which every question to a memory is bounded by the last observation's time."""
        stack = ExitStack()
        stack.enter_context(replaying(self.clock))
        return stack

    def action_of(self, action: Any) -> Action:
        """An action of the action space as the memory records it.

        Raises
        ------
        InvalidRecordError
            It is no index of an action, or no exposure in [-1, 1].
        """
        if not self._exposure:
            return Action.from_index(int(action))
        target = validate_number(float(np.asarray(action).reshape(-1)[0]), "action", -1.0, 1.0)
        return Action(Side.BUY if target >= 0.0 else Side.SELL, abs(target))

    # --- internals -------------------------------------------------------------------------------------------

    def _begin(self, episode: Episode) -> tuple[int, str]:
        return int(self._tables[episode.product_id].decision_ms[episode.rows[0]]), episode.product_id

    def _begun(self) -> Episode:
        if self._episode is None:
            raise InvalidQueryError("no episode has begun.", remedy="Call reset() first.", argument="action")
        return self._episode

    def _running(self) -> Episode:
        episode = self._begun()
        if self._at >= len(episode.rows):
            raise InvalidQueryError(
                "the episode has ended.", remedy="Call reset() to begin another.", argument="action"
            )
        return episode

    def _row(self, episode: Episode) -> int:
        return int(episode.rows[self._at]) if self._at < len(episode.rows) else int(episode.rows[-1]) + 1

    def _observed(self) -> tuple[Observation, dict[str, Any]]:
        """The observation, and what belongs to it; the present moves on to its time."""
        episode = self._begun()
        table, row = self._tables[episode.product_id], self._row(episode)
        timestamp: datetime = from_ms(int(table.decision_ms[row]))
        self.clock.now = timestamp
        values = table.vectors[row] if self._vectors else table.features[row]
        observation = np.append(values, self._position).astype(np.float32)
        if not table.warm[row]:
            observation[:-1] = 0.0  # Only the observation after an episode can be cold; nothing is decided on it.
        np.clip(observation, self.observation_space.low, self.observation_space.high, out=observation)  # type: ignore[attr-defined]
        info: dict[str, Any] = {"product_id": episode.product_id, "timestamp": timestamp}
        if table.warm[row]:
            info["state"] = table.state(row)
        return observation, info


def episodes_of(table: ProductStates) -> list[Episode]:
    """The episodes of a product: warm states inside the span that a bar follows, split at days and gaps."""
    rows = np.flatnonzero(table.inside & table.warm & table.has_next)
    if not len(rows):
        return []
    days = table.decision_ms[rows] // DAY_MS
    splits = np.flatnonzero((np.diff(rows) != 1) | (np.diff(days) != 0)) + 1
    return [Episode(table.product_id, part) for part in np.split(rows, splits)]
