"""Records what an agent lives through in any Gymnasium environment: one wrapper around it, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import gymnasium
import msgspec
import numpy as np
import numpy.typing as npt

from agents.catalogue import FEATURE_NAMES
from agents.encoder import StateEncoder
from agents.protocols import ObservationEncoder
from agents.recorder import Experience
from agents.replay import State
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import REGIMES, Action, EpisodicMemory, Side
from memory.validation import validate_choice, validate_identifier, validate_timestamp

DEFAULT_INTERVAL = timedelta(seconds=1)


class RecordsExperiences(Protocol):
    """What takes experiences: `agents.background.BackgroundMemory`, or an open `ExperienceRecorder`."""

    def record(self, experience: Experience) -> bool: ...


class RecordingWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose steps are recorded as experiences; to whoever acts in it, it is the same environment.

    Parameters
    ----------
    env
        One environment. Vector environments are refused: wrap each of theirs, with a run of its own.
    recorder
        Where experiences go; recording takes microseconds and never waits. It is its caller's to open and close.
    encoder
        Makes state vectors of observations.
    agent_id, product_id
        Whose experiences they are, on what; by default what the environment's info says under ``product_id``.
    run_id
        Names this run: the same run again records the same experiences, or conflicts with them.
    source
        backtest or replay; live where the environment acts on the market as it is.
    action_of
        Makes a memory's action (a target exposure) of the environment's. By default the environment's own `action_of`
        (as `MarketEnvironment` has it), or what the action space says: 3 actions are short, flat, long; 4 hold as well;
        one number from -1 to 1 is the exposure.
    begin, interval
        The time of the first observation and between two, where the info has no ``timestamp`` (aware UTC).

    Attributes
    ----------
    recorded, dropped
        Steps that the recorder took, and those it had no room for.

    Notes
    -----
    The info of the environment may hold more: ``state`` (an `agents.replay.State`: its vector is taken where the
    encoder is the same, with price, spread, features and regime), ``position_before``, ``position_after``,
    ``gross_return`` and ``cost``. Cost of a step: what the encoder takes, and 10 microseconds.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        recorder: RecordsExperiences,
        encoder: ObservationEncoder,
        *,
        agent_id: str,
        run_id: str,
        product_id: str | None = None,
        source: str = "backtest",
        action_of: Callable[[Any], Action] | None = None,
        begin: datetime | None = None,
        interval: timedelta = DEFAULT_INTERVAL,
    ) -> None:
        if isinstance(env, gymnasium.vector.VectorEnv):
            raise InvalidQueryError(
                "a vector environment cannot be wrapped as a whole.",
                remedy="Wrap each environment before they are put together, each with a run_id of its own: "
                "SyncVectorEnv([lambda: RecordingWrapper(make(), ...)]).",
                argument="env",
            )
        super().__init__(env)
        self._recorder = recorder
        self._encoder = encoder
        self._agent_id = validate_identifier(agent_id, "agent_id")
        self._product_id = None if product_id is None else validate_identifier(product_id, "product_id")
        self._run_id = validate_identifier(run_id, "run_id")
        self._source = validate_choice(source, "source", ("backtest", "replay", "live"))
        self._action_of = action_of or getattr(env.unwrapped, "action_of", None) or actions_of(env.action_space)
        self._begin = datetime.now(UTC) if begin is None else validate_timestamp(begin, "begin")
        if interval <= timedelta():
            raise InvalidQueryError(f"interval is {interval}.", remedy="Use more than 0.", argument="interval")
        self._interval = interval
        self._encoder_id = getattr(env.unwrapped, "encoder_id", None)
        self._last: tuple[Any, dict[str, Any], datetime, npt.NDArray[np.float32]] | None = None
        self._observed = self._steps = 0
        self.recorded = self.dropped = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; nothing is recorded."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = self._seen(observation, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's; the step is recorded.

        Raises
        ------
        InvalidRecordError
            The encoder's vector is not finite or not of length 1, or its regime is none.
        """
        if self._last is None:
            raise InvalidQueryError("no episode has begun.", remedy="Call reset() first.", argument="action")
        observation, info, timestamp, vector = self._last
        following, reward, terminated, truncated, after = self.env.step(action)
        ended = bool(terminated or truncated)
        self._last = None if ended and not self._has_state(after) else self._seen(following, after)
        known_at = self._time(after, self._observed) if self._last is None else self._last[2]
        state: State | None = info.get("state")
        product_id = self._product_id or info.get("product_id")
        if product_id is None:
            raise InvalidRecordError(
                "the environment does not say what it is about.",
                remedy="Pass product_id=, such as the environment's name.",
                field="product_id",
            )
        figures: dict[str, Any] = {
            name: after.get(name) for name in ("gross_return", "cost", "position_before", "position_after")
        }
        experience = EpisodicMemory(
            agent_id=self._agent_id,
            timestamp=timestamp,
            state_vector=vector,
            action=self._action_of(action),
            reward=float(reward),
            product_id=product_id,
            regime=self._regime(observation, state),
            next_state_vector=None if self._last is None else self._last[3],
            terminal=ended,
            return_known_at=after.get("end_known_at"),
            encoder_id=self._encoder.id_,
            source=self._source,
            run_id=self._run_id,
            step=self._steps,
            known_at=max(known_at, timestamp),
            price=None if state is None else state.price,
            spread=None if state is None else state.spread,
            features={} if state is None else state.features,
            **figures,
        )
        self._steps += 1
        if self._recorder.record(experience):
            self.recorded += 1
        else:
            self.dropped += 1
        if ended:
            self._last = None
        return following, reward, terminated, truncated, after

    # --- internals -------------------------------------------------------------------------------------------

    def _has_state(self, info: dict[str, Any]) -> bool:
        """Whether what comes after an episode's end is a state: of a market that has gone cold it is none."""
        return "state" in info or self._encoder_id is None

    def _seen(
        self, observation: Any, info: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], datetime, npt.NDArray[np.float32]]:
        time = self._time(info, self._observed)
        self._observed += 1
        return observation, info, time, self._vector(observation, info)

    def _time(self, info: dict[str, Any], number: int) -> datetime:
        given = info.get("timestamp")
        if given is not None:
            return validate_timestamp(given, "timestamp")
        return self._begin + number * self._interval

    def _vector(self, observation: Any, info: dict[str, Any]) -> npt.NDArray[np.float32]:
        state: State | None = info.get("state")
        if state is not None and self._encoder_id == self._encoder.id_:
            return state.vector
        vector = np.asarray(self._encoder.encode(observation), dtype=np.float32)
        length = float(np.linalg.norm(vector.astype(np.float64))) if vector.ndim == 1 else 0.0
        if not abs(length - 1.0) < 1e-3:
            raise InvalidRecordError(
                f"encoder {self._encoder.id_} made a vector of shape {vector.shape} and length {length:.4g}.",
                remedy="Let encode() return one dimension of finite float32, divided by its length.",
                field="state_vector",
            )
        return vector

    def _regime(self, observation: Any, state: State | None) -> str:
        regime = self._encoder.regime(observation) if state is None else state.regime
        return validate_choice(regime, "regime", REGIMES)


def actions_of(space: gymnasium.Space[Any]) -> Callable[[Any], Action]:
    """How actions of a space are target exposures.

    Raises
    ------
    InvalidQueryError
        The space does not say; `action_of` must.
    """
    if isinstance(space, gymnasium.spaces.Discrete) and space.n in (3, 4):
        first = int(space.start)
        return lambda action: Action.from_index(int(action) - first)
    if isinstance(space, gymnasium.spaces.Box) and space.shape == (1,) and -1 <= space.low[0] < space.high[0] <= 1:

        def exposure(action: Any) -> Action:
            target = float(np.asarray(action).reshape(-1)[0])
            return Action(Side.BUY if target >= 0.0 else Side.SELL, abs(target))

        return exposure
    raise InvalidQueryError(
        f"actions of {space} are no exposures.",
        remedy="Pass action_of=, which makes a memory.Action of an action.",
        argument="action_of",
    )


class MarketObservationEncoder:
    """The observations of a `MarketEnvironment`, encoded by the market's own encoder.

    Parameters
    ----------
    encoder
        The replay's encoder. An observation is its features or its vector, and the position, which is left out.
    """

    def __init__(self, encoder: StateEncoder) -> None:
        self._encoder = encoder

    @property
    def id_(self) -> str:
        """The encoder's id."""
        return self._encoder.id_

    @property
    def fitted_until_(self) -> datetime:
        """The encoder's."""
        return self._encoder.fitted_until_

    @property
    def definition(self) -> dict[str, Any]:
        """All that is needed to make the encoder again."""
        made: dict[str, Any] = msgspec.json.decode(self._encoder.to_json())
        return made

    def encode(self, observation: Any) -> npt.NDArray[np.float32]:
        """The vector of an observation; float32 features give it to 6 digits."""
        values = np.asarray(observation, dtype=np.float64)[:-1]
        if len(values) != len(FEATURE_NAMES):
            return values.astype(np.float32)
        vector: npt.NDArray[np.float32] = self._encoder.transform(values[None, :])[0]
        return vector

    def regime(self, observation: Any) -> str:
        """The rule's label of this minute alone; the environment's info has the one that looks back.

        Raises
        ------
        InvalidRecordError
            The observation is a vector, of which the rule cannot tell.
        """
        values = np.asarray(observation, dtype=np.float64)[:-1]
        if len(values) != len(FEATURE_NAMES):
            raise InvalidRecordError(
                "a regime cannot be told from a vector.",
                remedy="Take the regime of the state in the environment's info, or observe features.",
                field="regime",
            )
        labels = self._encoder.regimes(values[None, :], np.zeros(1, dtype=np.int64))
        return REGIMES[int(labels.codes[0])]
