"""What is searched: the memories of a run.

Two kinds of memories. *clustered*: unit vectors around random centres, each agent with states of its own (as the
figures of Redis search alone were taken), or shared by all agents that act at a time (as in a simulation). *real*: what
the baseline agents live through on replayed market history, encoded by the project's own encoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt

from memory.records import REGIMES, VECTOR_DIMENSION, Action, EpisodicMemory, Side
from memory.store.codec import SchemaCache, pack_experience

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FIRST_MINUTE = datetime(2024, 1, 1, tzinfo=UTC)
CENTRES_A_REGIME = 100
SPREAD = 0.5
"""Length of what is added to a centre: two states of one cluster then have a cosine of 0.8."""
REAL_WEIGHTS = (0.16, 0.28, 0.23, 0.31, 0.02)
"""Shares of the regimes on Bitfinex in 2018 (docs/performance.md), in the order of `REGIMES`."""

FeatureNames = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Memories that come together, and the number of the first."""

    first: int
    records: Sequence[EpisodicMemory]

    def numbers(self) -> range:
        """Numbers of the memories: what peers return."""
        return range(self.first, self.first + len(self.records))

    def vectors(self) -> Floats:
        """State vectors, shape (n, 256)."""
        return np.stack([record.state_vector for record in self.records])

    def bodies(self) -> list[bytes]:
        """The records packed as the project packs them, without vectors: what a peer keeps beside the vector."""
        schemas = SchemaCache()
        return [
            pack_experience(replace(record, next_state_vector=None), "FLOAT32", schemas).body for record in self.records
        ]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Memories that can be read again and again, batch by batch, in bounded memory.

    Attributes
    ----------
    name, source
        "clustered" or "real", and where they come from, in words.
    count
        Number of memories, or a little more than will come where the source holds fewer.
    shared_states
        Whether all agents met the same states.
    read
        Starts reading: batches of records in order of time.
    """

    name: str
    source: str
    count: int
    encoder_id: str
    shared_states: bool
    read: Callable[[], Iterator[list[EpisodicMemory]]]

    def batches(self) -> Iterator[Batch]:
        """The first `count` memories."""
        first = 0
        for records in self.read():
            kept = records[: self.count - first]
            yield Batch(first, kept)
            first += len(kept)
            if first >= self.count:
                return

    def materialised(self) -> Dataset:
        """The same, held in memory: for sizes that are read by many peers."""
        held = [list(batch.records) for batch in self.batches()]
        return replace(self, count=sum(map(len, held)), read=lambda: iter(held))


# --- clustered -----------------------------------------------------------------------------------------------


def clustered(
    count: int,
    *,
    agents: int = 10,
    products: int = 5,
    shared_states: bool = False,
    weights: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2),
    seed: int = 0,
    batch_minutes: int = 200,
) -> Dataset:
    """Memories around random centres: each minute, each agent meets one state of each product.

    Parameters
    ----------
    count
        Memories.
    agents, products
        Numbers of them.
    shared_states
        All agents of a minute meet the same state, as in a simulation; otherwise each has its own.
    weights
        Shares of the regimes. Centres belong to a regime, so that regimes lie apart.
    seed
        Same seed, same memories.
    """
    from agents.catalogue import FEATURE_NAMES

    def read() -> Iterator[list[EpisodicMemory]]:
        generator = np.random.default_rng(seed)
        centres = _unit(generator.standard_normal((len(REGIMES), CENTRES_A_REGIME, VECTOR_DIMENSION)))
        names = [f"agent-{number}" for number in range(agents)]
        markets = [f"PRODUCT{number}-USD" for number in range(products)]
        owners = 1 if shared_states else agents
        minute = 0
        while True:
            shape = (batch_minutes, products, owners)
            regimes = generator.choice(len(REGIMES), shape, p=weights)
            nearest = centres[regimes, generator.integers(0, CENTRES_A_REGIME, shape)]
            vectors = _unit(nearest + SPREAD * _unit(generator.standard_normal(nearest.shape)))
            features = generator.standard_normal((*shape, len(FEATURE_NAMES)))
            yield list(_minutes(minute, names, markets, regimes, vectors, features, FEATURE_NAMES, generator))
            minute += batch_minutes

    words = "shared by all agents" if shared_states else "of their own for each agent"
    source = f"{agents} agents x {products} products x 5 regimes, {5 * CENTRES_A_REGIME} centres, states {words}"
    return Dataset("clustered", source, count, "clustered", shared_states, read)


def _minutes(
    minute: int,
    agents: Sequence[str],
    products: Sequence[str],
    regimes: Ints,
    vectors: Floats,
    features: npt.NDArray[np.float64],
    feature_names: FeatureNames,
    generator: np.random.Generator,
) -> Iterator[EpisodicMemory]:
    """Records of some minutes; the next state is that of the next minute, except at the end of the batch."""
    minutes, _, owners = regimes.shape
    returns = 1e-3 * generator.standard_normal((*regimes.shape[:2], len(agents), 3))
    chosen = generator.integers(0, 3, (*regimes.shape[:2], len(agents)))
    actions = (Action(Side.SELL, 1.0), Action(Side.BUY, 1.0), Action(Side.HOLD, 0.0))
    for step, product in itertools.product(range(minutes), range(len(products))):
        timestamp = FIRST_MINUTE + timedelta(minutes=minute + step)
        known_at = timestamp + timedelta(minutes=1)
        described = [
            dict(zip(feature_names, features[step, product, owner].tolist(), strict=True)) for owner in range(owners)
        ]
        taken = {name: actions[chosen[step, product, number]] for number, name in enumerate(agents)}
        for number, name in enumerate(agents):
            owner = number % owners
            reward, gross, total = returns[step, product, number].tolist()
            yield EpisodicMemory(
                agent_id=name,
                timestamp=timestamp,
                state_vector=vectors[step, product, owner],
                action=taken[name],
                reward=reward,
                product_id=products[product],
                regime=REGIMES[regimes[step, product, owner]],
                next_state_vector=vectors[step + 1, product, owner] if step + 1 < minutes else None,
                confidence=0.5,
                other_agent_actions={k: v for k, v in taken.items() if k != name} if owners == 1 else {},
                terminal=step + 1 == minutes,
                cumulative_return=total,
                return_known_at=known_at,
                encoder_id="clustered",
                source="replay",
                run_id="benchmark",
                step=minute + step,
                known_at=known_at,
                price=30_000.0,
                spread=1e-4,
                gross_return=gross,
                cost=2e-4,
                position_before=0.0,
                position_after=1.0,
                features=described[owner],
            )


def _unit(vectors: npt.NDArray[np.float64]) -> Floats:
    units: Floats = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return units


# --- real ----------------------------------------------------------------------------------------------------

FIRST_SAMPLE_NIGHT = date(2021, 6, 17)
FIRST_HISTORY_NIGHT = datetime(2018, 4, 1, tzinfo=UTC)
FIT_DAYS = 60
"""Days before the first night that the encoder of the larger history is fitted to."""


def sample_nights(count: int) -> Dataset:
    """What the five baseline agents live through in the sample market, from 2021-06-17: 21,600 memories a night."""
    from agents.baselines import baseline_agents
    from agents.fitting import default_encoder
    from agents.market import Market
    from agents.simulation import simulate_days

    market, encoder = Market.sample("binance"), default_encoder()
    start = datetime.combine(FIRST_SAMPLE_NIGHT, datetime.min.time(), tzinfo=UTC)

    def read() -> Iterator[list[EpisodicMemory]]:
        for window in simulate_days(market, start, _midnight(market.span[1]), baseline_agents(), encoder):
            yield list(window.experiences())

    return Dataset("real", "sample market (BTC, ETH, DOT, June 2021), 5 agents", count, encoder.id_, True, read)


def history_nights(count: int, exchange: str = "bitfinex") -> Dataset:
    """What the five baseline agents live through on an exchange of the larger history, from 2018-04-01.

    The encoder is fitted to the sixty days before.

    Raises
    ------
    MarketDataError
        COINSWARM_HISTORY names no folder with candles of the exchange.
    """
    from agents.baselines import baseline_agents
    from agents.fitting import fit_encoder
    from agents.market import Market
    from agents.simulation import simulate_days

    market = Market.history(exchange)
    encoder = fit_encoder(market, FIRST_HISTORY_NIGHT, since=FIRST_HISTORY_NIGHT - timedelta(days=FIT_DAYS))

    def read() -> Iterator[list[EpisodicMemory]]:
        end = _midnight(market.span[1])
        for window in simulate_days(market, FIRST_HISTORY_NIGHT, end, baseline_agents(), encoder):
            yield list(window.experiences())

    source = f"{exchange} ({', '.join(market.product_ids)}) from 2018-04-01, 5 agents, encoder fitted before"
    return Dataset("real", source, count, encoder.id_, True, read)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
