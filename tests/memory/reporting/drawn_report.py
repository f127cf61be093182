"""A night's report data: prices from the sample market, all else drawn."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl

from memory.records import REGIMES, VECTOR_DIMENSION, Interval
from memory.reporting.data import (
    Bar,
    BaseRate,
    BenchmarkReport,
    Gap,
    JudgedAction,
    LatencySeries,
    LineageEvent,
    PricePath,
    RecordingCounts,
    ReportData,
    RunFacts,
    StateCloud,
    StepTime,
)
from tests.memory.reporting.drawn_knowledge import (
    AGENTS,
    COST,
    DAY,
    HORIZONS,
    PRODUCTS,
    START,
    make_correlations,
    make_pattern,
    make_regimes,
    make_strategies,
)
from tests.memory.reporting.drawn_nights import make_nights, make_pruning, make_scorecards, make_sizes, make_trends

SAMPLE = Path(__file__).resolve().parents[3] / "agents" / "data" / "sample"

Factory = Callable[..., ReportData]


def regime_labels(price: np.ndarray) -> tuple[str, ...]:
    """Plausible labels that dwell: from trailing volatility and trend of smoothed returns."""
    returns = np.diff(np.log(price), prepend=np.log(price[0]))
    kernel = np.ones(90) / 90
    volatility = np.sqrt(np.convolve(returns**2, kernel, mode="same"))
    trend = np.abs(np.convolve(returns, kernel, mode="same")) / volatility
    level = np.quantile(volatility, [0.3, 0.8, 0.98])
    codes = np.where(
        volatility > level[2], 4, np.where(volatility > level[1], 2, np.where(volatility < level[0], 3, 1))
    )
    codes = np.where((codes == 1) & (trend > np.quantile(trend, 0.6)), 0, codes)
    # A minute takes the label of the hour's fifth that it lies in, so that labels dwell.
    return tuple(REGIMES[codes[(i // 12) * 12]] for i in range(len(codes)))


def make_prices() -> tuple[PricePath, ...]:
    """The sample's candles of the night."""
    paths = []
    for product in PRODUCTS:
        frame = pl.read_parquet(SAMPLE / f"binance_{product}_1m.parquet")
        frame = frame.filter(pl.col("timestamp").is_between(START, START + DAY, closed="left"))
        price = frame["close"].to_numpy()
        times = frame["timestamp"].dt.epoch("ms").to_numpy() + 60_000
        paths.append(PricePath(product_id=product, timestamp_ms=times, price=price, regimes=regime_labels(price)))
    return tuple(paths)


def make_data(*, patterns: int = 60, nights: int = 5, seed: int = 7) -> ReportData:
    """Data of a whole night, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 0.06, (5, VECTOR_DIMENSION)) + rng.normal(0, 0.04, VECTOR_DIMENSION)
    learned = tuple(make_pattern(rng, index, centres) for index in range(patterns))
    prices = make_prices()
    regimes = tuple(name for path in prices for name in path.regimes)
    noise = rng.normal(0, 0.045, (len(regimes), VECTOR_DIMENSION))
    cloud = centres[[REGIMES.index(name) for name in regimes]] + noise
    first = learned[0] if learned else None
    base_rates = tuple(
        BaseRate(
            regime=regime,
            action=action,
            horizon_minutes=horizon,
            n=900,
            blocks=46,
            gross_mean=side * 1.2e-5 * sqrt(horizon) * (1 if regime == "TRENDING" else -1),
            net_mean=side * 1.2e-5 * sqrt(horizon) - abs(side) * COST,
            interval=Interval(low=-6e-5 * sqrt(horizon), high=8e-5 * sqrt(horizon)) if side else None,
        )
        for regime in REGIMES
        for horizon in HORIZONS
        for action, side in (("LONG", 1), ("SHORT", -1), ("FLAT", 0))
    )
    return ReportData(
        facts=RunFacts(
            namespace="default",
            window_name="2021-06-21",
            window_start=START,
            window_end=START + DAY,
            run_id="b7c1f0d2-8f5c-4a57-9a35-2d7f0a4e9c11",
            encoder_id="rff-2021-06-17",
            settings_hash="9f2ab04c17d3",
            line="default/rff-2021-06-17/1",
            generation=1,
            source="replay",
            steps=(
                StepTime(name="record", seconds=7.8),
                StepTime(name="consolidate", seconds=9.4),
                StepTime(name="transitions", seconds=0.9),
                StepTime(name="prune", seconds=0.4),
                StepTime(name="benchmark", seconds=2.6),
                StepTime(name="report", seconds=1.3),
            ),
            details={"archive": "sha256:4be1c0", "ledger digest": "77d0a1c2b9e4"},
        ),
        recording=RecordingCounts(
            stored=21_600,
            duplicates=0,
            dead_letters=3,
            dead_letter_reasons={"reward is nan; it must be a finite number.": 2, "regime 'CALM' is not known.": 1},
            cold_states=0,
            experiences=21_600,
            states=4_320,
            gaps=(Gap(product_id="BTC-USDT", start=START + DAY / 2, end=START + DAY / 2 + timedelta(minutes=9)),),
            agents=AGENTS,
            products=PRODUCTS,
        ),
        nights=make_nights(nights),
        patterns=learned,
        lineage={
            pattern.pattern_id: (
                LineageEvent(window_name="2021-06-19", event="founded", states=31),
                LineageEvent(
                    window_name="2021-06-21",
                    event="confirmed",
                    states=24,
                    cosine=0.9712,
                    threshold=0.8901,
                    note="nearer than 95 % of the random balls that match",
                ),
            )
            for pattern in learned
        },
        judged=(
            JudgedAction(
                pattern_id=first.pattern_id,
                action="LONG",
                windows=2,
                n=40,
                mean=1e-4,
                interval=Interval(low=-4e-4, high=6e-4),
            ),
        )
        if first
        else (),
        base_rates=base_rates,
        states=StateCloud(vectors=cloud / np.linalg.norm(cloud, axis=1, keepdims=True), regimes=regimes),
        prices=prices,
        regimes=make_regimes(rng),
        strategies=make_strategies(rng),
        correlations=make_correlations(rng),
        scorecards=make_scorecards(rng, nights),
        pooled_scores=make_scorecards(rng, 2)[0].entries if nights > 2 else (),
        pruning=make_pruning(rng, learned),
        benchmark=BenchmarkReport(
            latencies=(
                LatencySeries(name="one agent at a time", samples_ms=rng.lognormal(-1.55, 0.22, 2000)),
                LatencySeries(name="10 agents at once", samples_ms=rng.lognormal(-0.25, 0.3, 4000)),
            ),
            bars=(
                Bar(name="filtered search, p50", value=0.21, limit=0.4),
                Bar(name="filtered search, p99", value=0.37, limit=1.5),
                Bar(name="10 agents, p99", value=3.4, limit=3.0),
                Bar(name="recall@10", value=1.0, limit=0.99, unit="", higher_is_better=True),
            ),
            recall=1.0,
            documents=108_000,
            queries_per_s=9_800.0,
        ),
        machine="one (a processor, 2 cores, x86_64)",
        trends=make_trends(8),
        sizes=make_sizes(nights),
        regressions=("agent alone: p50 beside a round trip is 5.5 round trips, 2.7 times worse than the median",),
    )


def make_minimal() -> ReportData:
    """A run that left nothing but its facts."""
    return ReportData(facts=make_facts())


def make_facts() -> RunFacts:
    """The least that a run knows of itself."""
    return RunFacts(
        namespace="default", window_name="2021-06-21", window_start=START, window_end=START + DAY, run_id="run-1"
    )
