"""Estimates from a memory: what the pure function makes of the same data, strictly as of then, or "unknown"."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import EpisodicMemory, MemoryConnection
from memory.errors import EncoderError, InvalidQueryError
from memory.learning.estimates import Estimate
from memory.learning.estimation import EMBARGO_MINUTES, NEIGHBOURS, REACH, estimate_state
from memory.learning.evidence import ESTIMATE_HORIZONS, Neighbours, OutcomeSample, base_rates
from memory.learning.outcomes import forward_returns
from memory.records import REGIMES, Action, BaseRate, BlockFigure, Interval, Outcome, Side, VolatilityOutcome, to_ms
from memory.retrieval.base_sample import DaySample, sampled_minutes, witnesses
from memory.tables import TRAILING_VOLATILITY, StateTable

DAY = datetime(2021, 6, 17, tzinfo=UTC)
AS_OF = DAY + timedelta(days=1, hours=4, minutes=7)
ENCODER = "rff-1"
COST = 0.0004


def lives(seed: int = 5) -> list[EpisodicMemory]:
    """Ten hours of one day, and the morning of the next; two products, the first of which two agents trade.

    BTC lacks a quarter of an hour, ETH every seventh minute: some prices follow minute by minute, some must be looked
    for, some lie beyond a gap. Of ETH the ends of episodes are known, which tells that there is no gap before.
    Now and then a record arrives half a day late, also of the minutes that are sampled.
    """
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(256)
    centre /= np.linalg.norm(centre)
    experiences = []
    sampled_late = sampled_minutes(to_ms(DAY) // 86_400_000)[::4]
    for product, agents in (("BTC-USDT", ("momentum", "random")), ("ETH-USDT", ("maker",))):
        price, step, previous = 100.0, 0, None
        for minute in [*range(14 * 60, 24 * 60), *range(24 * 60, 24 * 60 + 6 * 60)]:
            price *= float(np.exp(rng.standard_normal() * 1e-3))
            noise = rng.standard_normal(256)
            vector = centre + rng.uniform(0, 0.8) * noise / np.linalg.norm(noise)
            vector = (vector / np.linalg.norm(vector)).astype(np.float32)
            trailing = float(rng.uniform(5e-4, 2e-3))
            regime = ("QUIET", "VOLATILE")[int(rng.integers(0, 2))]
            missing = 18 * 60 <= minute < 18 * 60 + 15 if product == "BTC-USDT" else minute % 7 == 0
            if missing:
                continue
            if minute >= 24 * 60 and (previous or 0) < 24 * 60:
                step = 0
            timestamp = DAY + timedelta(minutes=minute)
            session_end = DAY + timedelta(days=1 if minute < 24 * 60 else 2)
            late = minute % 50 == 3 or to_ms(timestamp) in sampled_late
            for agent in agents:
                experiences.append(
                    EpisodicMemory(
                        agent_id=agent,
                        timestamp=timestamp,
                        state_vector=vector,
                        action=Action(Side.BUY, 1.0),
                        reward=0.0,
                        product_id=product,
                        regime=regime,
                        encoder_id=ENCODER,
                        source="replay",
                        run_id="run-1",
                        step=step,
                        known_at=timestamp + timedelta(minutes=720 if late else 1),
                        cumulative_return=0.0 if product == "ETH-USDT" else None,
                        return_known_at=session_end if product == "ETH-USDT" else None,
                        price=price,
                        spread=0.02 if product == "BTC-USDT" else None,
                        features={TRAILING_VOLATILITY: trailing, "trend": 0.0},
                    )
                )
            step, previous = step + 1, minute
    return experiences


LIVES = lives()
QUESTION = next(item for item in LIVES if item.timestamp >= AS_OF and item.product_id == "BTC-USDT")


def stored(servers: Any, experiences: list[EpisodicMemory]) -> str:
    """A namespace that holds these experiences."""
    name = f"t-{uuid.uuid4().hex[:12]}"

    async def store() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=name) as mem:
            report = await mem.episodic.add_many(experiences)
            assert not report.rejections

    asyncio.run(store())
    return name


@pytest.fixture(scope="module")
def all_lives(servers: Any) -> str:
    """A namespace that holds all of it; tests of this module only ask."""
    return stored(servers, LIVES)


@pytest.fixture(scope="module")
def past_lives(servers: Any) -> str:
    """A namespace that holds what was known at AS_OF, and nothing else."""
    return stored(servers, [item for item in LIVES if item.known_at is not None and item.known_at <= AS_OF])


@pytest.fixture
async def full(servers: Any, all_lives: str) -> AsyncIterator[MemoryConnection]:
    async with memory.connect(redis_url=servers.redis_url, namespace=all_lives) as connection:
        yield connection


@pytest.fixture
async def truncated(servers: Any, past_lives: str) -> AsyncIterator[MemoryConnection]:
    async with memory.connect(redis_url=servers.redis_url, namespace=past_lives) as connection:
        yield connection


async def ask(mem: MemoryConnection, horizon: int = 15, **changes: Any) -> Estimate:
    arguments: dict[str, Any] = {
        "regime": QUESTION.regime,
        "as_of": AS_OF,
        "trailing_volatility": QUESTION.features[TRAILING_VOLATILITY],
    }
    return await mem.retrieval.estimate(QUESTION.state_vector, "LONG", horizon, **{**arguments, **changes})


# --- the same as the pure function ---------------------------------------------------------------------------


def table(known_until: datetime) -> StateTable:
    """The distinct states known at a time, as learning would read them."""
    states = {
        (item.product_id, item.timestamp): item
        for item in LIVES
        if item.known_at is not None and item.known_at <= known_until
    }
    ordered = [states[place] for place in sorted(states)]
    products = tuple(sorted({item.product_id for item in ordered}))
    times = np.array([to_ms(item.timestamp) for item in ordered])
    return StateTable(
        encoder_id=ENCODER,
        source="replay",
        feature_names=(TRAILING_VOLATILITY,),
        products=products,
        product=np.array([products.index(item.product_id) for item in ordered]),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times,
        vectors=np.array([item.state_vector for item in ordered]),
        features=np.array([[item.features[TRAILING_VOLATILITY]] for item in ordered]),
        price=np.array([item.price for item in ordered]),
        spread=np.array([np.nan if item.spread is None else item.spread for item in ordered]),
        regime=np.array([REGIMES.index(item.regime) for item in ordered]),
    )


def expected(horizon: int, product_id: str | None, trailing: float | None, action: str = "LONG") -> Estimate:
    """What should be answered, from tables instead of a server."""
    day = DAY.replace(hour=0) + timedelta(days=1)
    first = table(day)
    minutes = sampled_minutes(to_ms(DAY) // 86_400_000)
    rows = np.flatnonzero(np.isin(first.timestamp_ms, minutes))
    rows = rows[np.lexsort((first.product[rows], first.timestamp_ms[rows]))]
    sample = OutcomeSample(
        first.timestamp_ms[rows],
        first.regime[rows],
        forward_returns(first, max_gap_minutes=5)[rows],
        first.feature(TRAILING_VOLATILITY)[rows],
    )
    known = table(AS_OF)
    distance = 1.0 - known.vectors.astype(np.float64) @ QUESTION.state_vector.astype(np.float64)
    allowed = known.timestamp_ms <= to_ms(AS_OF) - EMBARGO_MINUTES * 60_000
    allowed &= (distance <= REACH) & (known.regime == REGIMES.index(QUESTION.regime))
    if product_id is not None:
        allowed &= known.product == known.products.index(product_id)
    near = np.flatnonzero(allowed)
    near = near[np.argsort(distance[near])][:NEIGHBOURS]
    column = ESTIMATE_HORIZONS.index(horizon)
    spreads = (known.spread / known.price)[near]
    spreads = spreads[np.isfinite(spreads)]
    return estimate_state(
        action,
        horizon,
        Neighbours(
            distance[near],
            known.timestamp_ms[near],
            forward_returns(known, max_gap_minutes=5)[near, column],
            known.feature(TRAILING_VOLATILITY)[near],
        ),
        base_rates(sample, QUESTION.regime, horizon),
        None,
        trailing_volatility=trailing,
        round_trip_cost=COST + (float(np.median(spreads)) if len(spreads) else 0.0),
    )


@pytest.mark.parametrize("horizon", ESTIMATE_HORIZONS)
@pytest.mark.parametrize("product_id", [None, "ETH-USDT"])
async def test_the_answer_is_the_pure_functions_of_the_same_data(
    full: MemoryConnection, horizon: int, product_id: str | None
) -> None:
    answer = await ask(full, horizon, product_id=product_id)
    wanted = expected(horizon, product_id, QUESTION.features[TRAILING_VOLATILITY])
    assert wanted.known
    assert answer == wanted


async def test_without_a_trailing_volatility_and_short_it_is_so_too(full: MemoryConnection) -> None:
    answer = await full.retrieval.estimate(QUESTION.state_vector, "SHORT", 5, regime=QUESTION.regime, as_of=AS_OF)
    assert answer == expected(5, None, None, "SHORT")


async def test_an_index_a_pair_of_agent_and_product_brings_the_same(servers: Any, namespace: str) -> None:
    settings = memory.Settings(index_layout="partitioned")
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as writer:
        await writer.episodic.add_many([item for item in LIVES if item.known_at is not None and item.known_at <= AS_OF])
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        # A client that has just come learns of all indexes beside its first search.
        assert await ask(mem) == expected(15, None, QUESTION.features[TRAILING_VOLATILITY])


async def test_what_has_expired_and_is_still_in_the_index_is_passed_over(servers: Any, namespace: str) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        await mem.episodic.add_many([item for item in LIVES if item.known_at is not None and item.known_at <= AS_OF])
        before = await ask(mem)
        keys = await mem.link.execute("KEYS", f"{mem.keys.episodic_prefix}*")
        await mem.link.pipeline([("PEXPIRE", key, 1) for key in keys])
        await asyncio.sleep(0.005)
        expired = await ask(mem)
        assert expired != before
        await mem.link.pipeline(
            [("EXISTS", key) for key in keys]
        )  # Whatever has expired is deleted when it is touched.
        assert await ask(mem) == expired


# --- as of then ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", ESTIMATE_HORIZONS)
async def test_what_was_not_known_then_changes_nothing(
    full: MemoryConnection, truncated: MemoryConnection, horizon: int
) -> None:
    assert await ask(full, horizon) == await ask(truncated, horizon)
    everything = await ask(full, horizon, as_of=AS_OF + timedelta(hours=1))
    assert everything != await ask(full, horizon)


async def test_asking_again_and_asking_at_once_brings_the_same(full: MemoryConnection) -> None:
    first = await ask(full)
    assert await asyncio.gather(*(ask(full) for _ in range(5))) == [first] * 5


async def test_a_memory_locked_to_a_time_answers_as_of_it(full: MemoryConnection) -> None:
    locked = full.at(AS_OF)
    assert await locked.retrieval.estimate(
        QUESTION.state_vector,
        "LONG",
        15,
        regime=QUESTION.regime,
        trailing_volatility=QUESTION.features[TRAILING_VOLATILITY],
    ) == await ask(full)
    with pytest.raises(InvalidQueryError) as error:
        await locked.retrieval.estimate(QUESTION.state_vector, "LONG", 15, as_of=AS_OF + timedelta(minutes=1))
    assert error.value.argument == "as_of"


async def test_a_question_without_a_time_does_not_find_its_own_answer(full: MemoryConnection) -> None:
    answer = await ask(full, as_of=None, regime=None)
    own = to_ms(QUESTION.timestamp)
    reach = EMBARGO_MINUTES * 60_000
    known = table(LIVES[-1].timestamp + timedelta(days=1))
    distance = 1.0 - known.vectors @ QUESTION.state_vector
    apart = np.flatnonzero((distance <= REACH) & (np.abs(known.timestamp_ms - own) > reach))
    apart = apart[np.argsort(distance[apart])][:NEIGHBOURS]
    returns = forward_returns(known, max_gap_minutes=5)[apart, ESTIMATE_HORIZONS.index(15)]
    assert answer.neighbours == np.isfinite(returns).sum()
    assert 0 < answer.neighbours < len(known)


async def test_an_encoder_fitted_later_is_refused(servers: Any, namespace: str) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        await mem.encoders.register(ENCODER, fitted_until=AS_OF, definition={})
        await mem.episodic.add_many(LIVES[:2])
        with pytest.raises(EncoderError):
            await ask(mem, as_of=AS_OF - timedelta(minutes=1))


# --- unknown -------------------------------------------------------------------------------------------------


async def test_an_empty_memory_knows_nothing(mem: MemoryConnection) -> None:
    answer = await ask(mem)
    assert not answer.known
    assert answer.base_return is None


async def test_on_its_first_day_a_memory_knows_nothing(full: MemoryConnection) -> None:
    answer = await ask(full, as_of=DAY + timedelta(hours=23))
    assert not answer.known
    assert "base rate" in answer.reason


async def test_a_state_like_none_before_is_unknown(full: MemoryConnection) -> None:
    answer = await full.retrieval.estimate(-QUESTION.state_vector, "LONG", 15, regime=QUESTION.regime, as_of=AS_OF)
    assert not answer.known
    assert str(REACH) in answer.reason
    assert answer.base_return is not None


async def test_a_regime_without_states_near_is_unknown(full: MemoryConnection) -> None:
    assert not (await ask(full, regime="CRISIS")).known


# --- patterns ------------------------------------------------------------------------------------------------


def spoken(build: Any, **changes: Any) -> Any:
    """A pattern at the state asked about, which has something to say about 15 minutes."""
    reach = 0.0005
    outcome = Outcome(
        action="LONG",
        horizon_minutes=15,
        n=400,
        blocks=60,
        gross_mean=0.003,
        net_mean=0.0026,
        interval=Interval(low=0.003 - reach, high=0.003 + reach),
        win_rate=0.6,
        gross_sharpe=None,
        net_sharpe=None,
        max_drawdown=0.0,
        shrunk_net_mean=0.0,
    )
    moved = VolatilityOutcome(
        horizon_minutes=15, n=400, blocks=60, mean=0.4, interval=Interval(low=0.3, high=0.5), base_mean=-0.6
    )
    values = {"concept_vector": QUESTION.state_vector, "regime": QUESTION.regime}
    return build["pattern"](**{**values, "outcomes": (outcome,), "volatility": (moved,), **changes})


async def learned(servers: Any, build: Any, namespace: str, **changes: Any) -> Estimate:
    """The answer of a memory with one pattern."""
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        known = [item for item in LIVES if item.known_at is not None and item.known_at <= AS_OF]
        await mem.episodic.add_many([item for item in known if item.agent_id == "maker"])
        await mem.link.execute("SET", mem.keys.fence, 1)
        await mem.semantic.publish(
            [spoken(build, **changes)],
            line="ns/rff-1/1",
            kinds=(memory.SemanticType.PATTERN,),
            token=1,
            valid_from=DAY + timedelta(days=1),
        )
        await mem.semantic.set_current_line("ns/rff-1/1", ENCODER, token=1)
        return await ask(mem)


async def test_a_pattern_that_is_near_speaks_and_is_named_with_its_version(
    servers: Any, build: Any, namespace: str
) -> None:
    answer = await learned(servers, build, namespace)
    parts = {part.source: part for part in answer.parts}
    assert answer.pattern_id == "p-1"
    assert answer.pattern_valid_from == DAY + timedelta(days=1)
    assert parts["pattern"].mean_return == pytest.approx(0.003)
    assert parts["pattern"].volatility_weight > 0


async def test_a_pattern_of_rarer_regimes_speaks_too(servers: Any, build: Any, namespace: str) -> None:
    assert (await learned(servers, build, namespace, regime="MIXED")).pattern_id == "p-1"


async def test_a_pattern_whose_predictions_failed_does_not_speak(servers: Any, build: Any, namespace: str) -> None:
    answer = await learned(servers, build, namespace, demoted=True)
    assert answer.pattern_id is None
    assert "pattern" not in {part.source for part in answer.parts}


async def test_a_pattern_that_does_not_reach_the_state_does_not_speak(servers: Any, build: Any, namespace: str) -> None:
    beside = QUESTION.state_vector + 0.3 * np.roll(QUESTION.state_vector, 1)
    place = {"concept_vector": (beside / np.linalg.norm(beside)).astype(np.float32)}
    assert (await learned(servers, build, namespace, **place)).pattern_id == "p-1"
    assert (await learned(servers, build, f"{namespace}-b", **place, reach=0.001)).pattern_id is None


async def test_base_rates_of_the_regime_are_those_published_by_then(full: MemoryConnection, build: Any) -> None:
    figure = BlockFigure(n=4000, blocks=900, mean=0.025, spread=1e-6, variance=1e-9, concentration=1e-3)
    rates = (BaseRate(horizon_minutes=15, gross=figure),)
    now, before = AS_OF, AS_OF - timedelta(hours=1)
    sampled = (await ask(full, as_of=now)).base_return
    assert sampled is not None
    assert abs(sampled) < 0.001
    await full.link.execute("SET", full.keys.fence, 1)
    try:
        await full.semantic.publish(
            [build["regime"](QUESTION.regime, base_rates=rates, encoder_id=ENCODER)],
            line="ns/rff-1/1",
            kinds=(memory.SemanticType.REGIME,),
            token=1,
            valid_from=now,
        )
        # An estimate draws what it begins from towards no return.
        assert 0.005 < (await ask(full, as_of=now)).base_return <= 0.025  # type: ignore[operator]
        assert (await ask(full, as_of=before)).base_return < 0.005  # type: ignore[operator]
        assert (await ask(full, as_of=now, horizon=5)).base_return < 0.005  # type: ignore[operator]
    finally:
        await full.semantic.drop_line("ns/rff-1/1", 1)


# --- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("action", "BUY"),
        ("action", None),
        ("horizon", 10),
        ("horizon", True),
        ("horizon", "15"),
        ("product_id", "BTC:USDT"),
        ("regime", "CALM"),
        ("regime", "MIXED"),
        ("as_of", datetime(2021, 6, 18)),
        ("trailing_volatility", 0.0),
        ("trailing_volatility", float("nan")),
        ("state_vector", np.ones(256, dtype=np.float32)),
        ("state_vector", QUESTION.state_vector[:100]),
    ],
)
async def test_bad_arguments_are_named(mem: MemoryConnection, argument: str, value: Any) -> None:
    given: dict[str, Any] = {"state_vector": QUESTION.state_vector, "action": "LONG", "horizon": 15, argument: value}
    with pytest.raises(InvalidQueryError) as error:
        await mem.retrieval.estimate(**given)
    assert error.value.argument == argument


# --- the agents that are searched ----------------------------------------------------------------------------


def seen(*sets: tuple[str, ...]) -> DaySample:
    nothing = OutcomeSample.joined([])
    return DaySample(nothing, {frozenset(agents): 1 for agents in sets})


def test_one_agent_is_searched_where_it_saw_everything() -> None:
    assert witnesses([seen(("a", "b", "c"), ("b", "c")), seen(("b",))]) == ("b",)


def test_agents_that_saw_different_states_are_searched_together() -> None:
    assert witnesses([seen(("maker",), ("momentum", "random"))]) == ("maker", "momentum")
    assert witnesses([]) == ()
