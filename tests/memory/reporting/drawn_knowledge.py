"""What a night's report shows of knowledge, drawn from a seeded generator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import exp, log, sqrt

import numpy as np

from memory.records import (
    REGIMES,
    VECTOR_DIMENSION,
    Condition,
    CorrelationMemory,
    Interval,
    Outcome,
    PatternMemory,
    PerformanceMetrics,
    RegimeMemory,
    StrategyMemory,
    VolatilityOutcome,
)

START = datetime(2021, 6, 21, tzinfo=UTC)
DAY = timedelta(days=1)
PRODUCTS = ("BTC-USDT", "DOT-USDT", "ETH-USDT")
AGENTS = ("breakout", "hold", "mean-reversion", "momentum", "random")
HORIZONS = (1, 5, 15, 60)
COST = 4e-4
BASE = {"encoder_id": "rff-2021-06-17", "line": "default/rff-2021-06-17/1", "created_at": START, "valid_from": START}
PHRASES = (
    ("return_60", "price has fallen over the past hour"),
    ("trailing_volatility", "the market moves more than of late"),
    ("volume_trend", "volume is drying up"),
    ("autocorrelation_10", "moves tend to reverse"),
    ("trend_strength", "a clear trend"),
    ("range_position", "price is near the low of its four-hour range"),
)


def make_outcomes(rng: np.random.Generator, n: int, blocks: int, drift: float) -> tuple[Outcome, ...]:
    """Outcomes of all actions and horizons around a drift per root minute."""
    outcomes = []
    for horizon in HORIZONS:
        mean = drift * sqrt(horizon) + rng.normal(0, 1.2e-4 * sqrt(horizon))
        half = 2.1 * 1.6e-3 * sqrt(horizon) / sqrt(n) * 1.5
        for action, side in (("LONG", 1), ("SHORT", -1), ("FLAT", 0)):
            net = side * mean - abs(side) * COST
            outcomes.append(
                Outcome(
                    action=action,
                    horizon_minutes=horizon,
                    n=n,
                    blocks=blocks,
                    gross_mean=side * mean,
                    net_mean=net,
                    interval=Interval(low=side * mean - half, high=side * mean + half)
                    if blocks >= 8 and side
                    else None,
                    win_rate=min(max(0.5 + 100 * net, 0.0), 1.0) if side else 0.0,
                    gross_sharpe=side * mean / 1e-3 * 9 if side else None,
                    net_sharpe=net / 1e-3 * 9 if side else None,
                    max_drawdown=abs(rng.normal(0, 0.01)) * abs(side),
                    shrunk_net_mean=net * blocks / (blocks + 25),
                    q_value=min(1.0, 3 * exp(-2 * (mean / half) ** 2)) if blocks >= 8 and side else None,
                )
            )
    return tuple(outcomes)


def make_pattern(rng: np.random.Generator, index: int, centres: np.ndarray) -> PatternMemory:
    """One pattern near the centre of its regime."""
    regime = REGIMES[rng.choice(5, p=[0.3, 0.25, 0.2, 0.22, 0.03])]
    vector = centres[REGIMES.index(regime)] + rng.normal(0, 0.035, VECTOR_DIMENSION)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    support = int(3 + rng.pareto(1.3) * 3)
    blocks = max(support, int(support * 1.4))
    n = support * int(rng.integers(6, 20))
    chosen = rng.choice(len(PHRASES), size=int(rng.integers(2, 4)), replace=False)
    conditions = tuple(
        Condition(feature=PHRASES[i][0], low=-1.2, high=0.4, lift=float(rng.uniform(0.3, 0.8)), phrase=PHRASES[i][1])
        for i in chosen
    )
    sentence = ", ".join(condition.phrase for condition in conditions)
    outcomes = make_outcomes(rng, n, blocks, float(rng.normal(0, 2.2e-4)))
    base = log(0.65)
    shift = float(rng.normal(0, 0.28))
    half = 1.1 / sqrt(blocks) * 0.6
    volatility = tuple(
        VolatilityOutcome(
            horizon_minutes=horizon,
            n=n,
            blocks=blocks,
            mean=base + shift / sqrt(1 + horizon / 20),
            interval=Interval(
                low=base + shift / sqrt(1 + horizon / 20) - half, high=base + shift / sqrt(1 + horizon / 20) + half
            )
            if blocks >= 8
            else None,
            base_mean=base,
        )
        for horizon in HORIZONS
    )
    status = str(rng.choice(["new", "confirmed", "faded"], p=[0.45, 0.4, 0.15]))
    return PatternMemory(
        memory_id=f"p-{index:016x}",
        pattern_id=f"p-{index:016x}",
        description=f"{sentence[0].upper()}{sentence[1:]}. In the next 15 minutes the price moved +1.5 bp on average.",
        concept_vector=vector,
        source="replay",
        regime=regime,
        product_ids=tuple(sorted(rng.choice(PRODUCTS, size=int(rng.integers(1, 4)), replace=False).tolist())),
        conditions=conditions,
        support=support,
        effective_support=max(1, support // 3),
        states=n,
        windows_seen=1 if status == "new" else int(rng.integers(2, 6)),
        first_seen=START - DAY * int(rng.integers(0, 4)),
        last_seen=START + DAY,
        broad=bool(rng.random() < 0.06),
        status=status,
        outcomes=outcomes,
        volatility=volatility,
        expected_return=max(outcome.shrunk_net_mean for outcome in outcomes),
        best_action=None,
        realised={"momentum": {"buy_n": 12.0, "buy_mean": float(rng.normal(0, 2e-4)), "buy_win_rate": 0.42}},
        demoted=bool(rng.random() < 0.05),
        aliases=(),
        access_count=int(rng.integers(0, 30)),
        **BASE,
    )


def make_regimes(rng: np.random.Generator) -> tuple[RegimeMemory, ...]:
    """Regime memories of all products together and of each."""
    memories = []
    for product in ("ALL", *PRODUCTS):
        for regime in REGIMES:
            others = [name for name in REGIMES if name != regime]
            jump = rng.dirichlet(np.full(4, 2.0))
            stay = float(rng.uniform(0.93, 0.985))
            memories.append(
                RegimeMemory(
                    memory_id=f"r-{product}-{regime}",
                    description=f"{regime} on {product}",
                    regime_name=regime,
                    concept_vector=np.eye(VECTOR_DIMENSION, dtype=np.float32)[0],
                    product_id=product,
                    regime_features={"trailing_volatility": 1e-3},
                    states=int(rng.integers(30, 1500)),
                    share=float(rng.uniform(0.02, 0.4)),
                    typical_duration=float(rng.uniform(600, 4000)) if regime != "CRISIS" else None,
                    transition_probability=dict(zip(others, map(float, jump), strict=True)),
                    step_probability={regime: stay}
                    | {name: float((1 - stay) * p) for name, p in zip(others, jump, strict=True)},
                    step_s=60.0,
                    spells=int(rng.integers(3, 60)),
                    **BASE,
                )
            )
    return tuple(memories)


def make_strategies(rng: np.random.Generator) -> tuple[StrategyMemory, ...]:
    """Five agents in four regimes and over all of them."""
    memories = []
    for agent in AGENTS:
        performance = {}
        for regime in ("ALL", *REGIMES[:4]):
            mean = float(rng.normal(-2e-4, 4e-4)) if agent != "hold" else 0.0
            win = float(np.clip(0.5 + mean * 300, 0, 1))
            performance[regime] = PerformanceMetrics(
                n=4300,
                blocks=48,
                block_minutes=30,
                periods_per_year=17520,
                mean_return=mean,
                total_return=48 * mean,
                win_rate=win,
                win_rate_interval=Interval(low=max(win - 0.13, 0), high=min(win + 0.13, 1)),
                sharpe_ratio=mean * 3e4,
                gross_sharpe_ratio=(mean + 2e-4) * 3e4,
                max_drawdown=abs(float(rng.normal(0, 0.02))),
                turnover=float(rng.uniform(0, 3)),
                shrunk_mean_return=mean / 4,
                shrunk_sharpe_ratio=mean * 7.5e3,
            )
        memories.append(
            StrategyMemory(
                memory_id=f"s-{agent}",
                description=f"{agent} in all regimes",
                strategy_name=agent,
                agent_id=agent,
                source="replay",
                applicable_regimes=("TRENDING",),
                success_rate_by_regime={name: figures.win_rate for name, figures in performance.items()},
                performance=performance,
                **BASE,
            )
        )
    return tuple(memories)


def make_correlations(rng: np.random.Generator) -> tuple[CorrelationMemory, ...]:
    """All pairs, two bar lengths, lag 0 by regime, and one claimed lead."""
    memories = []
    pairs = (("BTC-USDT", "DOT-USDT"), ("BTC-USDT", "ETH-USDT"), ("DOT-USDT", "ETH-USDT"))
    for bar in (1, 15):
        for pair in pairs:
            for regime in ("ALL", "TRENDING", "VOLATILE", "QUIET"):
                value = float(rng.uniform(0.55, 0.92))
                interval = Interval(low=value - 0.1, high=min(value + 0.06, 1.0))
                memories.append(
                    CorrelationMemory(
                        memory_id=f"c-{pair[0]}-{pair[1]}-{regime}-{bar}-0",
                        description="in step",
                        products=pair,
                        regime=regime,
                        bar_minutes=bar,
                        lag=0,
                        correlation=value,
                        interval=interval,
                        n=48,
                        claimed=regime != "QUIET",
                        q_value=0.21 if regime == "QUIET" else 0.004,
                        **BASE,
                    )
                )
    memories.append(
        CorrelationMemory(
            memory_id="c-lead",
            description="BTC leads DOT",
            products=pairs[0],
            regime="VOLATILE",
            bar_minutes=1,
            lag=1,
            correlation=0.14,
            interval=Interval(low=0.06, high=0.22),
            n=48,
            claimed=True,
            q_value=0.031,
            **BASE,
        )
    )
    return tuple(memories)
