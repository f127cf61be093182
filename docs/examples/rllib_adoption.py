"""RLlib with a memory: PPO's environment runners record what they live through, each in a run of its own.

Run as ``python docs/examples/rllib_adoption.py`` where ``ray[rllib]`` is installed. The environment is made by a
function in each runner's process, so that is where its memory is opened; all of them share one Redis.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import gymnasium
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import memory
from agents.background import BackgroundMemory
from agents.environment import MarketEnvironment
from agents.fitting import default_encoder
from agents.market import Market
from agents.recording_wrapper import MarketObservationEncoder, RecordingWrapper
from agents.replay import MarketReplay

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MADE = 0


class Closing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Closes the environment's memory with it: what waits is written."""

    def __init__(self, env: gymnasium.Env[Any, Any], remembered: BackgroundMemory) -> None:
        super().__init__(env)
        self._remembered = remembered

    def close(self) -> None:
        """Close the environment, then its memory."""
        super().close()
        self._remembered.close()


def make_environment(config: Any) -> gymnasium.Env[Any, Any]:
    """A recorded environment with a memory of its own; `config` says which runner's it is."""
    global MADE  # A runner makes several, to look at one and to act in others.
    MADE += 1
    encoder = MarketObservationEncoder(default_encoder())
    remembered = BackgroundMemory(redis_url=config["redis_url"], namespace=config["namespace"], encoder=encoder).open()
    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DAY, DAY + timedelta(days=1), default_encoder())
    run_id = f"rllib-{getattr(config, 'worker_index', 0)}-{getattr(config, 'vector_index', 0)}-{MADE}"
    recorded = RecordingWrapper(MarketEnvironment(replay), remembered, encoder, agent_id="ppo", run_id=run_id)
    return Closing(recorded, remembered)


async def count(redis_url: str | None, namespace: str | None) -> int:
    """Experiences in the memory."""
    async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
        return await mem.episodic.count()


def main() -> None:
    """Train for some iterations, and say what is remembered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--runners", type=int, default=0, help="Processes that act; 0 acts in this one.")
    parser.add_argument("--redis-url", help="Redis of the memory; COINSWARM_REDIS_URL or an embedded one where empty.")
    parser.add_argument("--namespace", help="Name of the memory; COINSWARM_NAMESPACE where not given.")
    options = parser.parse_args()

    ray.init(num_cpus=options.runners + 1, include_dashboard=False)
    register_env("recorded-market", make_environment)
    place = {"redis_url": options.redis_url, "namespace": options.namespace}
    config = (
        PPOConfig()
        .environment("recorded-market", env_config=place)
        .env_runners(num_env_runners=options.runners)
        .training(train_batch_size_per_learner=options.batch)
    )
    algorithm = config.build_algo()
    for _ in range(options.iterations):
        algorithm.train()
    algorithm.stop()
    print(f"{asyncio.run(count(**place))} experiences in memory")
    ray.shutdown()


if __name__ == "__main__":
    main()
