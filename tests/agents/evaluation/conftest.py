"""A few days of the sample as a fold, prepared once for all tests of the evaluation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agents.encoder import StateEncoder
from agents.evaluation.folds import Fold, walk_forward
from agents.evaluation.grid import Minutes
from agents.evaluation.material import Material, prepare
from agents.evaluation.neighbours import NeighbourCache
from agents.evaluation.settings import EvaluationSettings, short_settings
from agents.fitting import fit_encoder
from agents.market import Market
from memory.records import to_ms

START = datetime(2021, 6, 11, tzinfo=UTC)
TEST = datetime(2021, 6, 14, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="session")
def settings() -> EvaluationSettings:
    """The short version's settings, with fewer neighbours."""
    return replace(short_settings(), neighbours=60, memory_states=600, training_states=400)


@pytest.fixture(scope="session")
def fold(settings: EvaluationSettings) -> Fold:
    """One test day with three days before it."""
    edges = [TEST, TEST + DAY]
    return walk_forward(START, edges, embargo_minutes=settings.embargo_minutes, purge_minutes=settings.purge_minutes)[0]


@pytest.fixture(scope="session")
def market(binance: Market, fold: Fold) -> Market:
    """Two products of the sample up to the fold's end."""
    end = to_ms(fold.test_end)
    return Market("evaluation-test", [binance.products[name].between(0, end) for name in ("BTC-USDT", "ETH-USDT")])


@pytest.fixture(scope="session")
def fold_encoder(market: Market, fold: Fold) -> StateEncoder:
    """The encoder of the fold's past."""
    return fit_encoder(market, fold.known_until, name="evaluation-test")


@pytest.fixture(scope="session")
def minutes(market: Market, fold: Fold) -> Minutes:
    """Features and outcomes of the fold."""
    return Minutes(market, fold.start, fold.test_end)


@pytest.fixture(scope="session")
def material(minutes: Minutes, fold: Fold, fold_encoder: StateEncoder, settings: EvaluationSettings) -> Material:
    """The fold at decisions every 15 minutes."""
    return prepare(minutes, fold, fold_encoder, 15, settings, NeighbourCache(None))
