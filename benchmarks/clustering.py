"""Clustering: planted patterns, real nights, seconds. Prints both tables for the configuration that ships and others.

    python -m benchmarks.clustering                      # planted patterns and the sample market
    COINSWARM_HISTORY=... python -m benchmarks.clustering --history 2018-07-01  # and Bitfinex from that day on

Columns of the table of real nights (means over the nights, standard deviation in brackets where steadiness matters):

* clusters: clusters a night, over all partitions; supported: those with at least three occurrences an hour apart;
* noise: share of states that are noise; largest: share of its partition of the night's largest cluster;
* confirmed, by chance: share of clusters that match a pattern of the seven days before above the null's threshold, and
  the share of as many random balls that would (`memory.learning.null`);
* volatility IC: rank correlation of the log volatility that follows a state (1, 5, 15 minutes) with the mean of its
  nearest earlier pattern; balls: the same for random balls of the patterns' sizes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from agents.replay import MarketReplay
from memory.learning.clustering import NOISE, MarketStateClusterer
from memory.learning.null import matching_null, mutual_nearest, null_confirmation_rate, null_replicates, null_threshold
from memory.learning.partitions import assign_partitions, partition_seed
from memory.learning.planted import planted_states
from memory.learning.support import MIN_OCCURRENCES, occurrences_by_label
from memory.records import REGIMES
from memory.window import Window

HORIZONS_MIN = (1, 5, 15)
MEMORY_DAYS = 7
_DAY_MS = 86_400_000
_VOLATILITY_FLOOR = 0.05
"""Added to |return / trailing volatility| before the logarithm: minutes without a trade have a return of zero."""

FloatArray = npt.NDArray[np.float64]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "no recurrence window": {"min_recurrences": 0},
    "no core": {"keep_core": False},
    "no tail cut": {"tail_ratio": math.inf},
    "bounded, nothing else": {"min_recurrences": 0, "keep_core": False, "tail_ratio": math.inf},
    "plain HDBSCAN": {"min_recurrences": 0, "broad_share": 1.0, "largest_share": 1.0, "tail_ratio": math.inf},
}


@dataclass(frozen=True)
class Nights:
    """States of a span of days, in canonical order within each."""

    vectors: npt.NDArray[np.float32]
    times_ms: npt.NDArray[np.int64]
    products: npt.NDArray[np.int64]
    regimes: npt.NDArray[np.str_]
    log_volatility: FloatArray

    def days(self) -> list[npt.NDArray[np.int64]]:
        """Rows of each day."""
        day = self.times_ms // _DAY_MS
        rows = np.lexsort((self.times_ms, self.products))
        return [rows[day[rows] == number] for number in np.unique(day)]


@dataclass
class Known:
    """A pattern of an earlier night, and the random ball beside it."""

    day: int
    mean: FloatArray
    outcome: FloatArray
    ball_mean: FloatArray
    ball_outcome: FloatArray


@dataclass
class Tally:
    """What the nights add up to."""

    clusters: list[int] = field(default_factory=list)
    supported: list[int] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    matched: int = 0
    confirmed: int = 0
    by_chance: float = 0.0
    judged: int = 0
    cosines: list[float] = field(default_factory=list)
    null_cosines: list[float] = field(default_factory=list)
    correlation: list[list[float]] = field(default_factory=list)
    ball_correlation: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Run what the arguments ask for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--history",
        type=date.fromisoformat,
        metavar="DATE",
        help="also Bitfinex of COINSWARM_HISTORY, from that day on",
    )
    parser.add_argument("--nights", type=int, default=23, help="nights of each market")
    parser.add_argument("--seeds", type=int, default=3, help="planted data sets of each size")
    parser.add_argument("--only", nargs="*", choices=sorted(CONFIGURATIONS), help="configurations to run")
    arguments = parser.parse_args()
    configurations = {name: CONFIGURATIONS[name] for name in arguments.only or CONFIGURATIONS}
    for n_states in (4_320, 20_000):
        planted_table(n_states, arguments.seeds, configurations)
    binance_start = datetime(2021, 6, 17, tzinfo=UTC)
    nights_table("Binance sample", _binance(binance_start, arguments.nights), configurations)
    if arguments.history:
        first = Window.of_date(arguments.history).start
        nights_table(f"Bitfinex, from {arguments.history}", _bitfinex(first, arguments.nights), configurations)


def planted_table(n_states: int, n_seeds: int, configurations: dict[str, dict[str, Any]]) -> None:
    """Agreement with planted patterns: adjusted Rand index over the planted points, noise recall, seconds."""
    print(f"\nPlanted patterns, {n_states:,} states, {n_seeds} data sets (worst of them)")
    print(f"{'':24}{'ARI':>8}{'noise recall':>14}{'clusters':>10}{'route':>8}{'seconds':>9}")
    data = [planted_states(n_states, random_state=seed) for seed in range(n_seeds)]
    # Times at random: the recurrence window is at work, as it is on real nights.
    times = [np.random.default_rng(seed).integers(0, 1_440, n_states) * 60_000 for seed in range(n_seeds)]
    for name, settings in configurations.items():
        indices, recalls, counts, seconds = [], [], [], []
        clusterer = MarketStateClusterer(**settings)
        for states, timestamps in zip(data, times, strict=True):
            started = time.perf_counter()
            labels = clusterer.fit(states.vectors, timestamps_ms=timestamps).labels_
            seconds.append(time.perf_counter() - started)
            in_pattern = states.labels != NOISE
            indices.append(adjusted_rand_score(states.labels[in_pattern], labels[in_pattern]))
            recalls.append(float(np.mean(labels[~in_pattern] == NOISE)))
            counts.append(clusterer.n_clusters_)
        print(
            f"{name:24}{min(indices):8.3f}{min(recalls):14.3f}{np.mean(counts):10.1f}"
            f"{clusterer.route_:>8}{np.median(seconds):9.2f}"
        )


def nights_table(title: str, nights: Nights, configurations: dict[str, dict[str, Any]]) -> None:
    """Clusters, noise, recurrence and prediction over real nights."""
    print(f"\n{title}: {len(nights.days())} nights, {len(nights.vectors):,} states")
    print(
        f"{'':24}{'clusters':>10}{'supported':>10}{'noise':>12}{'largest':>14}{'confirmed':>10}{'by chance':>10}"
        f"{'volatility IC':>22}{'balls':>20}{'s/night':>9}"
    )
    for name, settings in configurations.items():
        tally = _walk(nights, lambda settings=settings: MarketStateClusterer(**settings))  # type: ignore[misc]
        judged = max(tally.judged, 1)
        print(
            f"{name:24}{_spread(tally.clusters):>10}{np.mean(tally.supported):>10.1f}"
            f"{np.mean(tally.noise):>6.2f} ({np.std(tally.noise):.2f})"
            f"{np.mean(tally.largest):>7.2f}/{np.max(tally.largest):.2f}"
            f"{tally.confirmed / judged:>12.3f}{tally.by_chance / judged:>10.3f}"
            f"{_figures(tally.correlation):>22}{_figures(tally.ball_correlation):>20}{np.median(tally.seconds):>9.2f}"
        )


def _walk(nights: Nights, make: Callable[[], MarketStateClusterer]) -> Tally:
    tally = Tally()
    known: dict[str, list[Known]] = {}
    for day, rows in enumerate(nights.days()):
        clusters = supported = noise = 0
        largest = seconds = 0.0
        found: dict[str, list[Known]] = {}
        predictions: list[FloatArray] = []
        ball_predictions: list[FloatArray] = []
        actual: list[FloatArray] = []
        partitions = assign_partitions(nights.regimes[rows])
        for partition in np.unique(partitions).tolist():
            members = rows[partitions == partition]
            vectors, times = nights.vectors[members], nights.times_ms[members]
            earlier = [pattern for pattern in known.get(partition, []) if day - pattern.day <= MEMORY_DAYS]
            started = time.perf_counter()
            clusterer = make().fit(vectors, timestamps_ms=times)
            sizes = clusterer.sizes_.tolist()
            replicates = null_replicates(vectors, sizes, partition_seed(str(day), partition), labels=clusterer.labels_)
            seconds += time.perf_counter() - started
            clusters += clusterer.n_clusters_
            noise += int(np.sum(clusterer.labels_ == NOISE))
            largest = max(largest, float(clusterer.record()["largest_share"]))
            means = np.array([vectors[clusterer.labels_ == label].mean(axis=0) for label in range(len(sizes))])
            if earlier and sizes:
                _judge(tally, vectors, means, replicates, np.array([pattern.mean for pattern in earlier]))
            if earlier:
                outcomes = np.array([pattern.outcome for pattern in earlier])
                ball_outcomes = np.array([pattern.ball_outcome for pattern in earlier])
                predictions.append(outcomes[_nearest(vectors, [pattern.mean for pattern in earlier])])
                ball_predictions.append(ball_outcomes[_nearest(vectors, [pattern.ball_mean for pattern in earlier])])
                actual.append(nights.log_volatility[members])
            support = occurrences_by_label(times, clusterer.labels_, n_labels=len(sizes))
            for label in range(len(sizes)):
                if support[label].count < MIN_OCCURRENCES:
                    continue
                supported += 1
                ball = replicates[label % len(replicates)][label]
                inside = clusterer.labels_ == label
                found.setdefault(partition, []).append(
                    Known(
                        day=day,
                        mean=means[label],
                        outcome=np.nanmean(nights.log_volatility[members[inside]], axis=0),
                        ball_mean=vectors[ball].mean(axis=0),
                        ball_outcome=np.nanmean(nights.log_volatility[members[ball]], axis=0),
                    )
                )
        for partition, patterns in found.items():
            known.setdefault(partition, []).extend(patterns)
        tally.clusters.append(clusters)
        tally.supported.append(supported)
        tally.noise.append(noise / len(rows))
        tally.largest.append(largest)
        tally.seconds.append(seconds)
        if actual:
            truth = np.concatenate(actual)
            tally.correlation.append(_rank_correlations(np.concatenate(predictions), truth))
            tally.ball_correlation.append(_rank_correlations(np.concatenate(ball_predictions), truth))
    return tally


def _judge(
    tally: Tally,
    vectors: npt.NDArray[np.float32],
    means: FloatArray,
    replicates: list[list[npt.NDArray[np.int64]]],
    patterns: FloatArray,
) -> None:
    ball_means = np.array([[vectors[ball].mean(axis=0) for ball in balls] for balls in replicates])
    matches = mutual_nearest(means, patterns)
    tally.confirmed += int(np.sum(matches.cosine > null_threshold(ball_means, patterns)))
    tally.by_chance += null_confirmation_rate(ball_means, patterns) * len(means)
    tally.judged += len(means)
    tally.cosines.extend(matches.cosine.tolist())
    tally.null_cosines.extend(np.concatenate(matching_null(ball_means, patterns)).tolist())


def _nearest(vectors: npt.NDArray[np.float32], means: list[FloatArray]) -> npt.NDArray[np.int64]:
    centres = np.array(means)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    nearest: npt.NDArray[np.int64] = np.argmax(vectors @ centres.T, axis=1)
    return nearest


def _rank_correlations(predicted: FloatArray, actual: FloatArray) -> list[float]:
    correlations = []
    for horizon in range(len(HORIZONS_MIN)):
        usable = np.isfinite(actual[:, horizon])
        constant = len(np.unique(predicted[usable, horizon])) < 2
        value = 0.0 if constant else spearmanr(predicted[usable, horizon], actual[usable, horizon]).statistic
        correlations.append(float(value))
    return correlations


def _binance(start: datetime, nights: int) -> Nights:
    return _nights(MarketReplay(Market.sample("binance"), start, start + timedelta(days=nights), default_encoder()))


def _bitfinex(start: datetime, nights: int) -> Nights:
    market = Market.history("bitfinex")
    encoder = fit_encoder(market, until=start, since=start - timedelta(days=30))
    return _nights(MarketReplay(market, start, start + timedelta(days=nights), encoder))


def _nights(replay: MarketReplay) -> Nights:
    vectors, times, products, regimes, volatility = [], [], [], [], []
    for number, states in enumerate(replay.products()):
        use = states.inside & states.warm
        following = np.full((len(use), len(HORIZONS_MIN)), np.nan)
        for column, minutes in enumerate(HORIZONS_MIN):
            later = np.searchsorted(states.decision_ms, states.decision_ms + minutes * 60_000)
            exists = later < len(use)
            exists[exists] &= states.decision_ms[later[exists]] == states.decision_ms[exists] + minutes * 60_000
            returns = states.price[later[exists]] / states.price[exists] - 1.0
            following[exists, column] = np.abs(returns) / (states.trailing_volatility[exists] * math.sqrt(minutes))
        vectors.append(states.vectors[use])
        times.append(states.decision_ms[use])
        products.append(np.full(int(use.sum()), number))
        regimes.append(np.array(REGIMES)[states.regimes.codes[use]])
        volatility.append(np.log(following[use] + _VOLATILITY_FLOOR))
    return Nights(
        vectors=np.concatenate(vectors),
        times_ms=np.concatenate(times),
        products=np.concatenate(products),
        regimes=np.concatenate(regimes),
        log_volatility=np.concatenate(volatility),
    )


def _spread(values: list[int]) -> str:
    return f"{np.mean(values):.0f} ({np.std(values):.0f})"


def _figures(rows: list[list[float]]) -> str:
    return " ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)) if rows else "-"


if __name__ == "__main__":
    main()
