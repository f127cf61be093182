"""What the memory knows: night after night, patterns and what they must beat, scored on the next day.

Run as ``python benchmarks/knowledge.py`` for the sample market, or with ``--history bitfinex --first 2018-04-01
--last 2018-05-31`` for a market in the folder that COINSWARM_HISTORY names; its encoder is then fitted to the thirty
days before. Each day is clustered, summarised and folded with the settings that ship, after it was used to score what
was known the evening before. Printed: mean rank correlation (IC) over the days with 1.96 standard errors, the
differences between patterns and each rival paired by day, coverage, confirmation beside the null, and the seconds that
each step took. In brackets: the days that count. Where all patterns predict the same, because nothing sets them apart
from their base rate, there is no rank correlation, and the day is left out.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import numpy as np
from threadpoolctl import threadpool_limits

from agents.catalogue import FEATURE_NAMES
from agents.encoder import StateEncoder
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from agents.replay import MarketReplay
from memory.learning.clustering import MarketStateClusterer
from memory.learning.fold import FoldCounts, fold_window
from memory.learning.knowledge import FoldState
from memory.learning.outcomes import compute_outcomes
from memory.learning.partitions import assign_partitions
from memory.learning.predictions import HORIZONS
from memory.learning.projection import build_predictions
from memory.learning.scorecard import remembered_states, score_window
from memory.learning.scores import (
    COVERED,
    OUTCOMES,
    OWN,
    PATTERNS,
    PREDICTORS,
    PooledScore,
    Scorecard,
    pool_differences,
    pool_scorecards,
)
from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary, summarise_partition
from memory.tables import TRAILING_VOLATILITY, StateTable
from memory.window import Window, windows_between
from tasks.fold_plan import REMEMBERED_WINDOWS

SETTINGS = LearningSettings()
FIT_DAYS = 30


def states_of(market: Market, encoder: StateEncoder, window: Window) -> StateTable:
    """Warm states of one day, as consolidation would read them."""
    parts = []
    for states in MarketReplay(market, window.start, window.end, encoder).products():
        rows = np.flatnonzero(states.inside & states.warm)
        if len(rows):
            parts.append((states, rows))
    names = tuple(states.product_id for states, _ in parts)
    times = np.concatenate([states.decision_ms[rows] for states, rows in parts]).astype(np.int64)
    return StateTable(
        encoder_id=encoder.id_,
        source="replay",
        feature_names=(*FEATURE_NAMES, TRAILING_VOLATILITY),
        products=names,
        product=np.repeat(np.arange(len(parts)), [len(rows) for _, rows in parts]),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times + 60_000,
        vectors=np.concatenate([states.vectors[rows] for states, rows in parts]),
        features=np.concatenate(
            [np.column_stack([states.features[rows], states.trailing_volatility[rows]]) for states, rows in parts]
        ),
        price=np.concatenate([states.price[rows] for states, rows in parts]),
        spread=np.concatenate([states.spread[rows] for states, rows in parts]),
        regime=np.concatenate([states.regimes.codes[rows] for states, rows in parts]).astype(np.int64),
    )


def summaries_of(states: StateTable, window: Window) -> list[PartitionSummary]:
    """Cluster and summarise every partition of one day."""
    outcomes = compute_outcomes(states, SETTINGS)
    partitions = assign_partitions(states.regime_names)
    summaries = []
    for regime in np.unique(partitions).tolist():
        rows = np.flatnonzero(partitions == regime)
        clusterer = MarketStateClusterer().fit(states.vectors[rows], timestamps_ms=states.timestamp_ms[rows])
        summaries.append(
            summarise_partition(
                states,
                rows,
                clusterer.labels_,
                clusterer.broad_,
                window=window,
                regime=regime,
                settings=SETTINGS,
                outcomes=outcomes,
                route=clusterer.route_,
                clustering=clusterer.settings(),
            )
        )
    return summaries


def walk(
    market: Market, encoder: StateEncoder, first: date, last: date, remember_days: int
) -> tuple[list[Scorecard], list[FoldCounts], dict[str, float]]:
    """Score and fold day after day; scorecards, counts of the fold, and seconds a step in all."""
    seconds: dict[str, float] = defaultdict(float)
    past: deque[StateTable] = deque(maxlen=remember_days)
    state, cards, counts = FoldState(), [], []

    def lap(step: str, since: float) -> float:
        now = time.perf_counter()
        seconds[step] += now - since
        return now

    for window in windows_between(first, last):
        if not market.has_decisions(window.start, window.end):
            continue
        clock = time.perf_counter()
        today = states_of(market, encoder, window)
        clock = lap("replay", clock)
        card = None
        if past:
            card = score_window(build_predictions(state, source="replay"), today, remembered_states(past), window)
            clock = lap("score", clock)
        summaries = summaries_of(today, window)
        clock = lap("cluster and summarise", clock)
        step = fold_window(state, window, summaries, settings=SETTINGS, gains=card.gains if card else ())
        clock = lap("fold", clock)
        state = step.state
        counts.append(step.counts)
        if card:
            cards.append(card)
        past.append(today)
    return cards, counts, dict(seconds)


def show(cards: list[Scorecard], counts: list[FoldCounts], seconds: dict[str, float]) -> None:
    """Print the tables."""
    pooled = {(item.predictor, item.scope, item.outcome, item.horizon_minutes): item for item in pool_scorecards(cards)}
    for scope, note in ((OWN, "each on all states that it covers"), (COVERED, "on the states that patterns cover")):
        print(f"\nRank correlation with what came, {note}; mean over {len(cards)} days and 1.96 standard errors")
        _table(
            PREDICTORS,
            {
                (predictor, outcome, horizon): pooled.get((predictor, own, outcome, horizon))
                for predictor in PREDICTORS
                for own in (OWN if predictor == PATTERNS else scope,)
                for outcome in OUTCOMES
                for horizon in HORIZONS
            },
        )
    print("\nPatterns less each rival, paired by day, on the states that patterns cover")
    rivals = tuple(predictor for predictor in PREDICTORS if predictor != PATTERNS)
    _table(rivals, {(item.predictor, item.outcome, item.horizon_minutes): item for item in pool_differences(cards)})
    covered = [card.covered for card in cards if card.covered is not None]
    by_balls = [card.covered_by_balls for card in cards if card.covered_by_balls is not None]
    print(f"\nPatterns at the end: {cards[-1].patterns}; covered {np.mean(covered):.0%} of the states")
    print(f"(balls {np.mean(by_balls):.0%}); gain of the patterns' volatility against their base rate, by day:")
    gains = [np.mean([gain.volatility_gain for gain in card.gains]) for card in cards if card.gains]
    print(f"{np.mean(gains):+.3f}, above 0 on {np.mean(np.array(gains) > 0):.0%} of the days" if gains else "none")
    clusters, matched = (sum(getattr(count, name) for count in counts[1:]) for name in ("clusters", "matched"))
    chance = sum(count.null_confirmation_rate * count.clusters for count in counts[1:])
    unmistakable = sum(count.matched_unmistakable for count in counts[1:])
    print(
        f"\nOf {clusters} clusters {matched / max(clusters, 1):.1%} matched, by chance {chance / max(clusters, 1):.1%};"
    )
    print(f"{unmistakable / max(matched, 1):.1%} of the matches by the rule of the unmistakable alone")
    print("\nFold of the last day:", counts[-1])
    print("\nSeconds a day: " + ", ".join(f"{step} {total / len(counts):.2f}" for step, total in seconds.items()))


def _table(predictors: Sequence[str], cells: Mapping[tuple[str, str, int], PooledScore | None]) -> None:
    print(f"{'':20}" + "".join(f"{predictor:>22}" for predictor in predictors))
    for outcome in OUTCOMES:
        for horizon in HORIZONS:
            texts = []
            for predictor in predictors:
                item = cells.get((predictor, outcome, horizon))
                reach = item.interval.high - item.rank_correlation if item and item.interval else float("nan")
                texts.append(f"{item.rank_correlation:+.3f} ± {reach:.3f} ({item.windows})" if item else "-")
            print(f"{outcome:12}{horizon:>4} min" + "".join(f"{text:>22}" for text in texts))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", metavar="EXCHANGE", help="a market in the folder that COINSWARM_HISTORY names")
    parser.add_argument("--first", type=date.fromisoformat, help="first day that is remembered")
    parser.add_argument("--last", type=date.fromisoformat, help="last day that is scored")
    parser.add_argument(
        "--remember-days", type=int, default=REMEMBERED_WINDOWS, help="days that balls and neighbours are of"
    )
    arguments = parser.parse_args()
    if arguments.history:
        if arguments.first is None or arguments.last is None:
            parser.error("--history needs --first and --last")
        market = Market.history(arguments.history)
        until = Window.of_date(arguments.first).start
        encoder = fit_encoder(market, until, since=until - timedelta(days=FIT_DAYS))
    else:
        market, encoder = Market.sample(), default_encoder()
    end: datetime = market.span[1]
    first = arguments.first or encoder.fitted_until_.date()
    last = arguments.last or Window.last_full_before(end).start.date()
    print(f"{market.name}, {first} to {last}, encoder {encoder.id_}")
    with threadpool_limits(limits=1):
        show(*walk(market, encoder, first, last, arguments.remember_days))


if __name__ == "__main__":
    main()
