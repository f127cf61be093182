"""torchrl with a memory: a value network acts in a recorded environment, and its rollout can be asked about.

Run as ``python docs/examples/torchrl_adoption.py`` where torchrl is installed. One line adopts the memory: the
environment is wrapped in a `RecordingWrapper` before torchrl wraps it.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import torch
from torchrl.envs import GymWrapper
from torchrl.modules import MLP, QValueActor

from agents.background import BackgroundMemory
from agents.environment import MarketEnvironment
from agents.fitting import default_encoder
from agents.market import Market
from agents.recording_wrapper import MarketObservationEncoder, RecordingWrapper
from agents.replay import MarketReplay

DAY = datetime(2021, 6, 17, tzinfo=UTC)


def main() -> None:
    """Roll out for some steps, and say what is remembered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--namespace", help="Name of the memory; COINSWARM_NAMESPACE where not given.")
    options = parser.parse_args()

    torch.manual_seed(0)
    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DAY, DAY + timedelta(days=1), default_encoder())
    encoder = MarketObservationEncoder(default_encoder())
    with BackgroundMemory(namespace=options.namespace, encoder=encoder) as remembered:
        market = MarketEnvironment(replay)
        recorded = RecordingWrapper(market, remembered, encoder, agent_id="dqn", run_id="torchrl-1")
        env = GymWrapper(recorded, categorical_action_encoding=True)

        width = env.observation_spec["observation"].shape[-1]
        network = MLP(in_features=width, out_features=int(market.action_space.n), num_cells=[32])
        rollout = env.rollout(options.steps, QValueActor(network, spec=env.action_spec), break_when_any_done=False)

        report = remembered.flush()
        print(f"{report.written} experiences written, {sum(report.dropped.values())} dropped")
        print(f"mean reward of {len(rollout)} steps: {1e4 * rollout['next', 'reward'].mean().item():+.3f} bp")


if __name__ == "__main__":
    main()
