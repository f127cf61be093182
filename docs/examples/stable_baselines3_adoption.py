"""stable-baselines3 with a memory: PPO trades a day, remembers each step, and sees what similar moments brought.

Run as ``python docs/examples/stable_baselines3_adoption.py`` where stable-baselines3 is installed. Two lines adopt the
memory: `RecordingWrapper` records what is lived through, and `RememberedRewards` shows it again. The training code
stays as it was.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO

from agents.background import BackgroundMemory
from agents.environment import MarketEnvironment
from agents.fitting import default_encoder
from agents.market import Market
from agents.recording_wrapper import MarketObservationEncoder, RecordingWrapper
from agents.replay import MarketReplay

DAY = datetime(2021, 6, 17, tzinfo=UTC)
SIMILAR = 5
BASIS_POINT = 1e-4


class RememberedRewards(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Adds to each observation what the most similar remembered moments brought, in basis points, as of its time."""

    def __init__(self, env: gymnasium.Env[Any, Any], remembered: BackgroundMemory) -> None:
        super().__init__(env)
        self._remembered = remembered
        bound = np.append(env.observation_space.high, np.float32(1e4))
        self.observation_space = gymnasium.spaces.Box(-bound, bound, dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        """The observation, and the mean reward of the moments most like it."""
        market: MarketEnvironment = self.env.unwrapped
        with market.present():  # A question that could see later than this is refused.
            hits = self._remembered.ask(
                lambda mem: mem.retrieval.retrieve_similar_experiences(
                    market.state.vector, agent_id="ppo", as_of=market.clock.now, top_k=SIMILAR
                )
            )
        mean = np.mean([hit.memory.reward for hit in hits]) / BASIS_POINT if hits else 0.0
        return np.append(observation, np.float32(np.clip(mean, -1e4, 1e4)))


def main() -> None:
    """Train for some steps, and say what is remembered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2048)
    parser.add_argument("--namespace", help="Name of the memory; COINSWARM_NAMESPACE where not given.")
    options = parser.parse_args()

    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DAY, DAY + timedelta(days=1), default_encoder())
    encoder = MarketObservationEncoder(default_encoder())
    with BackgroundMemory(namespace=options.namespace, encoder=encoder) as remembered:
        env: gymnasium.Env[Any, Any] = MarketEnvironment(replay)
        env = RecordingWrapper(env, remembered, encoder, agent_id="ppo", run_id="sb3-1")
        env = RememberedRewards(env, remembered)

        model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0, device="cpu")
        model.learn(options.steps)

        report = remembered.flush()
        print(f"{report.written} experiences written, {sum(report.dropped.values())} dropped")


if __name__ == "__main__":
    main()
