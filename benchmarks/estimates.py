"""Estimates against what came: each day's states, estimated as they would have been, minute by minute.

Run as ``python -m benchmarks.estimates`` for the sample market, or with ``--history bitfinex --first 2018-04-01 --judge
2018-06-01 --last 2018-06-30`` for a market in the folder that COINSWARM_HISTORY names, whose encoder is then fitted to
the thirty days before. Days before ``--judge`` are remembered and not scored. ``--fit`` prints, of the scored days, the
constants of `memory.learning.estimation` that were taken from Bitfinex, 2018-04-01 to 2018-05-31.

Some states of each half-hour are asked about. Neighbours, patterns, base rates and ridge regression know what the
service would: states of the last days, and of the day itself up to the embargo; patterns folded until the evening
before. Printed: mean daily rank correlation (IC) over the days with 1.96 standard errors; how often outcomes fall into
their interval; how often the mean outcome of a group (a day's lowest, middle or highest third of the estimates) falls
into the interval of the group's mean estimate, noise of the outcomes included, with and without the factors that were
learned on earlier days.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections import defaultdict, deque
from datetime import date, timedelta

import numpy as np
from threadpoolctl import threadpool_limits

from agents.encoder import StateEncoder
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from benchmarks.estimate_figures import (
    ESTIMATE,
    PATTERNS,
    PREDICTORS,
    RIDGE,
    SHARES,
    Day,
    show_calibration,
    show_correlations,
    show_fit,
)
from benchmarks.knowledge import FIT_DAYS, SETTINGS, states_of, summaries_of
from memory.learning.estimation import (
    BASE,
    EMBARGO_MINUTES,
    FROM_NEIGHBOURS,
    LONG,
    NEIGHBOURS,
    REACH,
    estimate_state,
    outcome_reach,
)
from memory.learning.evidence import (
    ESTIMATE_HORIZONS,
    Neighbours,
    OutcomeSample,
    PatternEvidence,
    base_rates,
    pattern_evidence,
)
from memory.learning.fold import fold_window
from memory.learning.knowledge import FoldState
from memory.learning.outcomes import GROSS, SCALED, compute_outcomes
from memory.learning.outcomes import VOLATILITY as FOLLOWING
from memory.learning.predictors import Remembered, predict_by_ridge
from memory.learning.projection import project_patterns
from memory.records import MIXED, REGIMES, PatternMemory
from memory.retrieval.base_sample import BASE_DAYS, sampled_minutes
from memory.tables import TRAILING_VOLATILITY, Floats, Ints, StateTable
from memory.window import Window, windows_between

VARIANTS_TRIED = 26
"""Ways of estimating that were compared on the days that the constants were taken from: 25 to 400 neighbours, of the
same regime, product, both or neither, embargo of 60, 240 and 1,440 minutes, uniform and Gaussian weights (15); reach of
patterns (4); powers of the tails' response (5); weights from a regression in place of precisions (1); constants by the
moments of a first walk and of a second (1)."""
ASKED_A_BLOCK = 2
"""States of a product and half-hour that are asked about: more of them share their half-hour's market."""
RIDGE_DAYS, RIDGE_PENALTY = 14, 0.01
_MS_PER_MINUTE, _MS_PER_DAY = 60_000, 86_400_000
_AT_ONCE = 96


class Walk:
    """Memory that grows day by day, and is asked before it does."""

    def __init__(self, market: Market, encoder: StateEncoder, remember_days: int, seed: int) -> None:
        self.market, self.encoder = market, encoder
        self.past: deque[tuple[StateTable, Floats]] = deque(maxlen=remember_days)
        self.state = FoldState()
        self.patterns: list[PatternMemory] = []
        self.random_state = np.random.default_rng(seed)
        self.seconds: dict[str, float] = defaultdict(float)

    def day(self, window: Window, *, scored: bool) -> Day | None:
        """Ask about a day, then remember it."""
        clock = time.perf_counter()
        today = states_of(self.market, self.encoder, window)
        outcomes = compute_outcomes(today, SETTINGS).measures
        answered = None
        if scored and len(self.past) > 1:
            answered = self._ask(today, outcomes)
            self.seconds["estimate"] += time.perf_counter() - clock
        clock = time.perf_counter()
        self.state = fold_window(self.state, window, summaries_of(today, window), settings=SETTINGS, gains=()).state
        self.patterns = project_patterns(self.state, valid_from=window.end, line="benchmark", settings=SETTINGS)
        self.past.append((today, outcomes))
        self.seconds["learn"] += time.perf_counter() - clock
        return answered

    def _ask(self, today: StateTable, outcomes: Floats) -> Day:
        rows = self._asked(today)
        asked = today.take(rows)
        n = len(rows)
        realised = outcomes[rows][:, :, [SCALED, FOLLOWING]]
        predicted = {name: np.full((n, len(ESTIMATE_HORIZONS), 2), np.nan) for name in PREDICTORS}
        error, about = (
            np.full((n, len(ESTIMATE_HORIZONS), 2), np.nan),
            np.full((n, len(ESTIMATE_HORIZONS), 2, 2), np.nan),
        )
        known = np.zeros((n, len(ESTIMATE_HORIZONS)), dtype=np.bool_)
        reach, plain = np.full_like(error, np.nan), np.full_like(error, np.nan)
        near = self._neighbours(asked, today, outcomes)
        patterns = self._patterns(asked)
        sample = self._base_sample()
        bases = {
            (regime, horizon): base_rates(sample, regime, horizon)
            for regime in REGIMES
            for horizon in ESTIMATE_HORIZONS
        }
        none = near(np.empty(0, dtype=np.int64), np.empty(0), 0)
        trailing = asked.feature(TRAILING_VOLATILITY)
        for row in range(n):
            regime = REGIMES[asked.regime[row]]
            chosen, distances = self._chosen[row]
            for column, horizon in enumerate(ESTIMATE_HORIZONS):
                base, pattern = bases[regime, horizon], self._evidence(patterns[row], horizon)
                if base is None or base.scaled is None or base.volatility is None:
                    continue
                neighbours, volatility = near(chosen, distances, column), float(trailing[row])
                unit = volatility * math.sqrt(horizon)
                for name, given in (
                    (ESTIMATE, (neighbours, base, pattern)),
                    (PATTERNS, (none, base, pattern)),
                    (FROM_NEIGHBOURS, (neighbours, base, None)),
                ):
                    answer = estimate_state(LONG, horizon, *given, trailing_volatility=volatility)
                    if answer.mean_return is not None:
                        predicted[name][row, column, 0] = answer.mean_return / unit
                    if answer.volatility is not None:
                        predicted[name][row, column, 1] = answer.volatility
                    if name == ESTIMATE and answer.interval is not None:
                        known[row, column] = True
                        error[row, column, 0] = (answer.interval.high - answer.interval.low) / 2 / unit
                        if answer.volatility_interval is not None:
                            span = answer.volatility_interval
                            error[row, column, 1] = (span.high - span.low) / 2
                        if answer.volatility is not None:
                            reach[row, column] = [outcome_reach(base, horizon, answer.volatility, by) for by in SHARES]
                            plain[row, column] = [base.reach[by] for by in SHARES]
                        parts = {part.source: part for part in answer.parts}
                        predicted[BASE][row, column] = base.scaled.mean, base.volatility.mean
                        said = parts.get(FROM_NEIGHBOURS)
                        if said is not None and said.mean_return is not None and said.volatility is not None:
                            about[row, column] = (
                                (said.mean_return / unit, base.scaled.spread),
                                (said.volatility - base.volatility.mean, base.volatility.spread),
                            )
        predicted[RIDGE] = self._ridge(asked)
        return Day(asked, realised, predicted, error, reach, plain, about, known)

    def _asked(self, today: StateTable) -> Ints:
        """Some states of each product and half-hour."""
        place = today.timestamp_ms // (30 * _MS_PER_MINUTE) * len(today.products) + today.product
        order = self.random_state.permutation(len(today))
        by_place = order[np.argsort(place[order], kind="stable")]
        _, starts = np.unique(place[by_place], return_index=True)
        rank = np.arange(len(today)) - np.repeat(starts, np.diff(np.append(starts, len(today))))
        return np.sort(by_place[rank < ASKED_A_BLOCK])

    def _neighbours(self, asked: StateTable, today: StateTable, outcomes: Floats):  # type: ignore[no-untyped-def]
        """Nearest states of the same regime for each question; a function that makes them evidence for a horizon."""
        tables = [*(table for table, _ in self.past), today]
        vectors = np.concatenate([table.vectors for table in tables])
        times = np.concatenate([table.timestamp_ms for table in tables])
        regimes = np.concatenate([table.regime for table in tables])
        trailing = np.concatenate([table.feature(TRAILING_VOLATILITY) for table in tables])
        gross = np.concatenate([*(measures[:, :, GROSS] for _, measures in self.past), outcomes[:, :, GROSS]])
        self._chosen: list[tuple[Ints, Floats]] = []
        for start in range(0, len(asked), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            similarity = asked.vectors[some] @ vectors.T
            allowed = times[None, :] <= asked.timestamp_ms[some][:, None] - EMBARGO_MINUTES * _MS_PER_MINUTE
            allowed &= regimes[None, :] == asked.regime[some][:, None]
            similarity[~allowed] = -np.inf
            best = np.argpartition(-similarity, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            for row, candidates in zip(similarity, best, strict=True):
                distance = 1.0 - row[candidates].astype(np.float64)
                order = np.lexsort((times[candidates], distance))
                order = order[distance[order] <= REACH]
                self._chosen.append((candidates[order], distance[order]))

        def near(chosen: Ints, distances: Floats, column: int) -> Neighbours:
            return Neighbours(distances, times[chosen], gross[chosen, column], trailing[chosen])

        return near

    def _patterns(self, asked: StateTable) -> list[tuple[PatternMemory, float] | None]:
        """The nearest pattern of the regime or MIXED for each question, within reach."""
        found: list[tuple[PatternMemory, float] | None] = [None] * len(asked)
        if not self.patterns:
            return found
        distance = 1.0 - asked.vectors @ np.array([pattern.concept_vector for pattern in self.patterns]).T
        regimes = np.array([pattern.regime for pattern in self.patterns])
        for row, regime in enumerate(asked.regime_names):
            own = np.where((regimes == regime) | (regimes == MIXED), distance[row], np.inf)
            best = int(own.argmin())
            if own[best] <= REACH:
                found[row] = (self.patterns[best], float(own[best]))
        return found

    def _evidence(self, found: tuple[PatternMemory, float] | None, horizon: int) -> PatternEvidence | None:
        return None if found is None else pattern_evidence(*found, horizon)

    def _base_sample(self) -> OutcomeSample:
        """What the service samples of the days before."""
        parts = []
        for table, measures in list(self.past)[-BASE_DAYS:]:
            minutes = np.array(sampled_minutes(int(table.timestamp_ms[0]) // _MS_PER_DAY))
            rows = np.flatnonzero(np.isin(table.timestamp_ms // _MS_PER_MINUTE * _MS_PER_MINUTE, minutes))
            parts.append(
                OutcomeSample(
                    table.timestamp_ms[rows],
                    table.regime[rows],
                    measures[rows][:, :, GROSS],
                    table.feature(TRAILING_VOLATILITY)[rows],
                )
            )
        return OutcomeSample.joined(parts)

    def _ridge(self, asked: StateTable) -> Floats:
        recent = list(self.past)[-RIDGE_DAYS:]
        names = ("product", "timestamp_ms", "known_at_ms", "recorded_at_ms", "vectors", "features", "price", "spread")
        table = dataclasses.replace(
            recent[0][0],
            regime=np.concatenate([states.regime for states, _ in recent]),
            **{name: np.concatenate([getattr(states, name) for states, _ in recent]) for name in names},
        )
        targets = np.concatenate([measures[:, :, [SCALED, FOLLOWING]] for _, measures in recent])
        return predict_by_ridge(Remembered(table, targets), asked, penalty=RIDGE_PENALTY)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", metavar="EXCHANGE", help="a market in the folder that COINSWARM_HISTORY names")
    parser.add_argument("--first", type=date.fromisoformat, help="first day that is remembered")
    parser.add_argument("--judge", type=date.fromisoformat, help="first day that is scored")
    parser.add_argument("--last", type=date.fromisoformat, help="last day that is scored")
    parser.add_argument("--remember-days", type=int, default=30, help="days that neighbours are looked for in")
    parser.add_argument("--seed", type=int, default=0, help="chooses the states that are asked about")
    parser.add_argument("--fit", action="store_true", help="print the constants that the scored days would give")
    arguments = parser.parse_args()
    if arguments.history:
        if arguments.first is None or arguments.last is None:
            parser.error("--history needs --first and --last")
        market = Market.history(arguments.history)
        until = Window.of_date(arguments.first).start
        encoder = fit_encoder(market, until, since=until - timedelta(days=FIT_DAYS))
    else:
        market, encoder = Market.sample(), default_encoder()
    first = arguments.first or encoder.fitted_until_.date()
    last = arguments.last or Window.last_full_before(market.span[1]).start.date()
    judge = arguments.judge or first
    print(f"{market.name}, {first} to {last}, scored from {judge}, encoder {encoder.id_}")
    print(f"Constants: Bitfinex, 2018-04-01 to 2018-05-31; {VARIANTS_TRIED} variants were tried there.")
    days: list[Day] = []
    with threadpool_limits(limits=1):
        walk = Walk(market, encoder, arguments.remember_days, arguments.seed)
        for window in windows_between(first, last):
            if market.has_decisions(window.start, window.end):
                day = walk.day(window, scored=window.start.date() >= judge)
                days += [] if day is None else [day]
    if len(days) < 2:
        parser.error("fewer than two days are left to score: judge from an earlier day, or until a later one")
    show_correlations(days)
    show_calibration(days)
    if arguments.fit:
        show_fit(days)
    known = np.concatenate([day.known for day in days])
    print(f"\nSomething was known of {known.mean():.1%} of {known.size // len(ESTIMATE_HORIZONS)} states asked about.")
    print("Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in walk.seconds.items()))


if __name__ == "__main__":
    main()
