"""A night's report data: prices from the sample market, what was learned drawn from a seeded generator."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

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
from memory.reporting import render_report
from memory.reporting.data import (
    PREDICTORS,
    Bar,
    BaseRate,
    BenchmarkReport,
    Gap,
    JudgedAction,
    LatencySeries,
    LineageEvent,
    NightCounts,
    NightSizes,
    PassShares,
    PricePath,
    PruneDecision,
    PruningReport,
    RecordingCounts,
    ReportData,
    RunFacts,
    ScorecardEntry,
    ScorecardNight,
    StateCloud,
    StepTime,
    Trend,
    TrendPoint,
)

SAMPLE = Path(__file__).resolve().parents[3] / "agents" / "data" / "sample"
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

Factory = Callable[..., ReportData]


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


def make_scorecards(rng: np.random.Generator, nights: int) -> tuple[ScorecardNight, ...]:
    """Rank correlations about what such memories reach: risk is known, direction is not."""
    level = {"patterns": 0.10, "balls": 0.065, "neighbours": 0.15, "ridge": 0.155, "base": 0.04}
    cards = []
    for night in range(1, nights):
        entries = []
        for outcome in ("return", "volatility"):
            for horizon in HORIZONS:
                for predictor in PREDICTORS:
                    centre = level[predictor] / (1 + horizon / 40) if outcome == "volatility" else 0.008
                    ic = float(rng.normal(centre, 0.014))
                    half = 0.022 + 0.008 * sqrt(horizon) / 4
                    entries.append(
                        ScorecardEntry(
                            predictor=predictor,
                            outcome=outcome,
                            horizon_minutes=horizon,
                            n=2000,
                            blocks=48,
                            ic=None if predictor == "base" and outcome == "return" else ic,
                            interval=Interval(low=ic - half, high=ic + half),
                            calibration=float(rng.normal(0.6 if outcome == "volatility" else 0.1, 0.2)),
                        )
                    )
        name = (START - DAY * (nights - 1 - night)).date().isoformat()
        cards.append(ScorecardNight(window_name=name, coverage=0.45, entries=tuple(entries)))
    return tuple(cards)


def make_nights(count: int) -> tuple[NightCounts, ...]:
    """Counts of some nights, growing."""
    nights = []
    for night in range(count):
        clusters = 44 + 3 * (night % 4)
        matched = int(clusters * (0.34 + 0.03 * (night % 3))) if night else 0
        nights.append(
            NightCounts(
                window_name=(START - DAY * (count - 1 - night)).date().isoformat(),
                experiences=21_600,
                states=4_320,
                clusters=clusters,
                clusters_matched=matched,
                noise_share=0.68 + 0.02 * (night % 3),
                patterns_new=34 - 2 * night,
                patterns_confirmed=matched - matched // 4,
                patterns_returned=night // 2,
                patterns_faded=3 * night,
                patterns_pruned=2 * night,
                patterns_current=34 + 26 * night,
                confirmation_rate=matched / clusters if night else None,
                null_confirmation_rate=0.21 + 0.02 * (night % 2) if night else None,
            )
        )
    return tuple(nights)


def make_trends(runs: int) -> tuple[Trend, ...]:
    """Figures of some runs, the last of which is a regression of one of them."""
    judged = "agent alone: p50 beside a round trip"
    values = [2.0 + 0.05 * (run % 3) for run in range(runs - 1)] + [5.5]
    return tuple(
        Trend(
            metric=metric,
            unit=unit,
            judged=metric in (judged, "recall"),
            lower_is_better=metric != "recall",
            points=tuple(
                TrendPoint(
                    measured_at=START + DAY * run,
                    window_name=(START + DAY * run).date().isoformat(),
                    value=value,
                    documents=100_000 + 1000 * run,
                    usual=2.05 if metric == judged and run >= 5 else None,
                    limit=3.28 if metric == judged and run >= 5 else None,
                    regressed=metric == judged and run == runs - 1,
                )
                for run, value in enumerate(values if metric != "recall" else [1.0] * runs)
            ),
        )
        for metric, unit in (
            ("agent alone: p50", "ms"),
            ("agent alone: p95", "ms"),
            (judged, "round trips"),
            ("recall", "share"),
        )
    )


def make_sizes(nights: int) -> tuple[NightSizes, ...]:
    """Sizes of some nights that grow evenly."""
    return tuple(
        NightSizes(
            window_name=(START - DAY * (nights - 1 - night)).date().isoformat(),
            redis_bytes={
                "experiences": 26_000_000 * (night + 1),
                "indexes": 24_000_000 * (night + 1),
                "semantic memory": 900_000 + 40_000 * night,
                "access counters": 4_000,
                "messages": 3_000,
                "other": 20_000,
                "dead letters": 1_000,
            },
            documents={"experiences": 21_600 * (night + 1), "archived files": 2 * (night + 1)},
            archive_bytes=5_100_000 * (night + 1),
            ledger_bytes=14_000_000 + 2_500_000 * night,
        )
        for night in range(nights)
    )


def make_pruning(rng: np.random.Generator, patterns: tuple[PatternMemory, ...]) -> PruningReport:
    """Decisions about some patterns, most of them kept."""
    decisions = []
    for index, pattern in enumerate(patterns[:40]):
        removed = index % 13 == 5
        decisions.append(
            PruneDecision(
                memory_id=pattern.memory_id,
                kind="PATTERN",
                removed=removed,
                rules=() if removed else ("grace",) if index % 3 else ("sharpe", "accessed"),
                description=pattern.description,
                net_sharpe=float(rng.normal(0, 3)),
                raw_sharpe=float(rng.normal(0, 8)),
                sharpe_lower_bound=float(rng.normal(-8, 3)),
                accesses=int(rng.integers(0, 120)),
                age_windows=int(rng.integers(1, 9)),
                occurrences=pattern.support,
                random_share=0.08,
            )
        )
    decisions += [
        PruneDecision(
            memory_id=f"s-{agent}",
            kind="STRATEGY",
            removed=False,
            rules=("grace",),
            net_sharpe=float(rng.normal(0, 3)),
            raw_sharpe=float(rng.normal(0, 8)),
            age_windows=3,
            occurrences=48,
            random_share=0.37,
        )
        for agent in AGENTS
    ]
    return PruningReport(
        decisions=tuple(decisions),
        pass_shares=PassShares(
            patterns=0.16, patterns_raw=0.5, clusters=0.09, clusters_raw=0.5, random_sets=0.08, random_sets_raw=0.53
        ),
        shared_removed=12,
    )


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


@pytest.fixture(scope="session")
def report_data() -> Factory:
    """Factory of a full night's data."""
    return make_data


@pytest.fixture(scope="session")
def full() -> ReportData:
    """One full night of five."""
    return make_data()


@pytest.fixture(scope="session")
def full_page(full: ReportData) -> str:
    """The report of the full night."""
    return render_report(full)


@pytest.fixture
def minimal() -> ReportData:
    """A run that left nothing but its facts."""
    return make_minimal()
