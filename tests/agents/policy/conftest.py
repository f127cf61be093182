"""A few hours that agents lived through in one product, in a memory of their own, and an untrained policy over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agents.encoder import StateEncoder
from agents.market import Market
from agents.policy.checkpoint import PolicyCheckpoint, weights_of
from agents.policy.layout import InputLayout
from agents.policy.network import NetworkSettings, build_network
from agents.replay import MarketReplay, State
from agents.training.settings import LearnerSettings

BEGIN = datetime(2021, 6, 17, tzinfo=UTC)
PRODUCT = "BTC-USDT"


@pytest.fixture(scope="session")
def layout(encoder: StateEncoder) -> InputLayout:
    """The layout over the shipped encoder; memories may be an hour old, as the test's hours are few."""
    return InputLayout.of_encoder(encoder, own=3, shared=2, min_age_minutes=60)


@pytest.fixture(scope="session")
def checkpoint(layout: InputLayout) -> PolicyCheckpoint:
    """A policy whose weights are drawn, not learned."""
    network = NetworkSettings(hidden=16, token_hidden=8, knowledge_hidden=4)
    return PolicyCheckpoint(
        layout=layout,
        network=network,
        weights=weights_of(build_network(layout, network, seed=3)),
        learner=LearnerSettings(),
        trained_until=BEGIN,
        temperature=0.3,
    )


@pytest.fixture(scope="session")
def states(binance: Market, encoder: StateEncoder) -> tuple[State, ...]:
    """Some states of the product, after hours of memory."""
    market = Market("policy-test", [binance.products[PRODUCT]])
    begin = BEGIN + timedelta(hours=8)
    replay = MarketReplay(market, begin, begin + timedelta(minutes=6), encoder)
    return tuple(state for together in replay for state in together)
