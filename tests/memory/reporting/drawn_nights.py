"""What a night's report shows of the nights before it: scores, counts, latencies, sizes and pruning."""

from __future__ import annotations

from math import sqrt

import numpy as np

from memory.records import Interval, PatternMemory
from memory.reporting.data import (
    PREDICTORS,
    NightCounts,
    NightSizes,
    PassShares,
    PruneDecision,
    PruningReport,
    ScorecardEntry,
    ScorecardNight,
    Trend,
    TrendPoint,
)
from tests.memory.reporting.drawn_knowledge import AGENTS, DAY, HORIZONS, START


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
