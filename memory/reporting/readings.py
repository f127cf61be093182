"""What each chart shows, in one line: computed from the same data, so that nobody has to read it off the chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from memory.records import PatternMemory, StrategyMemory
from memory.reporting import ranking, wording
from memory.reporting.data import BaseRate, NightCounts, NightSizes, PricePath, ScorecardNight, Trend
from memory.reporting.measured_data import LatencySeries
from memory.reporting.sections import ALL_REGIMES
from memory.reporting.strip import Strip

PATTERNS, BALLS = "patterns", "balls"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart with its reading; `charts` has a wide and a narrow drawing where there are two."""

    charts: tuple[Markup, ...]
    reading: str


def drawn(chart: Markup | None, reading: str) -> Drawn | None:
    """A chart with its reading; None where there is no chart."""
    return None if chart is None else Drawn((chart,), reading)


def history(nights: Sequence[NightCounts]) -> str:
    """Of the bars of new, confirmed and faded patterns."""
    last = nights[-1]
    null = last.null_confirmed
    beside = "" if null is None else f", where the null would have confirmed {wording.number(null, 0)}"
    return (
        f"Last night {last.patterns_confirmed:,} confirmed{beside}, {last.patterns_new:,} new, "
        f"{last.patterns_faded:,} faded; {wording.plural(last.patterns_current, 'pattern')} stand."
    )


def confirmation(nights: Sequence[NightCounts]) -> str:
    """Of the share of clusters that match, beside the null's."""
    compared = [
        (night.confirmation_rate, night.null_confirmation_rate)
        for night in nights
        if night.confirmation_rate is not None and night.null_confirmation_rate is not None
    ]
    above = sum(ours > chance for ours, chance in compared)
    if not compared:
        return "No night has a null to be compared with."
    return f"In {above:,} of {wording.plural(len(compared), 'night')} more clusters matched than random balls."


def strip(table: Strip) -> str:
    """Of patterns against the nights, for the last of them."""
    last = table.count(len(table.nights) - 1)
    seen = sum(last[name] for name in ("confirmed", "returned", "new", "founded"))
    parts = [f"{seen:,} of {wording.plural(len(table.rows), 'pattern')} shown were seen in the last night"]
    for name, words in (("new", "are new"), ("split", "were split"), ("merged", "merged"), ("faded", "faded")):
        if last[name]:
            parts.append(f"{last[name]:,} {words}")
    return "; ".join(parts) + "."


def pattern_map(patterns: Sequence[PatternMemory]) -> str:
    """Of the map: how many there are in which regimes."""
    regimes = Counter(wording.regime_name(pattern.regime) for pattern in patterns)
    most = [f"{count:,} {name}" for name, count in sorted(regimes.items(), key=lambda row: (-row[1], row[0]))]
    return f"{wording.plural(len(patterns), 'pattern')}: {wording.listing(most)}."


def returns(
    rows: Sequence[tuple[int, PatternMemory]],
    base_of: Callable[[PatternMemory, str, int], BaseRate | None],
    horizon_minutes: int,
) -> str:
    """Of the forest of returns: how many intervals lie beyond costs, and beyond the base rate."""
    found = [(p, o) for _, p in rows if (o := ranking.outcome_of(p, "LONG", horizon_minutes)) is not None]
    beyond = apart = judged = 0
    for pattern, outcome in found:
        if outcome.interval is None:
            continue
        judged += 1
        cost = max(outcome.gross_mean - outcome.net_mean, 0.0)
        beyond += outcome.interval.low > cost or outcome.interval.high < -cost
        base = base_of(pattern, "LONG", horizon_minutes)
        apart += base is not None and not outcome.interval.low <= base.gross_mean <= outcome.interval.high
    return (
        f"Of {wording.plural(judged, 'interval')} {beyond or 'none'} lie{'s' if beyond == 1 else ''} beyond what costs "
        f"eat, {apart or 'none'} off the base rate."
    )


def volatility(rows: Sequence[tuple[int, PatternMemory]], horizon_minutes: int) -> str:
    """Of the forest of volatility: how many differ surely from their regime."""
    found = [v for _, p in rows if (v := ranking.volatility_of(p, horizon_minutes)) is not None]
    wilder = sum(v.interval is not None and v.interval.low > v.base_mean for v in found)
    calmer = sum(v.interval is not None and v.interval.high < v.base_mean for v in found)
    return f"Of {wording.plural(len(found), 'pattern')} {wilder:,} surely wilder than usual, {calmer:,} calmer."


def scorecard(cards: Sequence[ScorecardNight], outcome: str, horizon_minutes: int) -> str:
    """Of one panel of the scorecard: how patterns did beside random balls, the null."""
    pairs = []
    for card in cards:
        ics = {
            entry.predictor: entry.ic
            for entry in card.entries
            if (entry.outcome, entry.horizon_minutes) == (outcome, horizon_minutes)
        }
        ours, null = ics.get(PATTERNS), ics.get(BALLS)
        if ours is not None and null is not None:
            pairs.append((ours, null))
    if not pairs:
        return "Patterns and the null were not scored on the same night."
    better = sum(ours > null for ours, null in pairs)
    gain = sum(ours - null for ours, null in pairs) / len(pairs)
    return (
        f"Patterns above the null in {better:,} of {wording.plural(len(pairs), 'night')}; mean difference "
        f"{wording.number(gain, 3, signed=True)}."
    )


def timeline(path: PricePath) -> str:
    """Of a price with its regimes: the change, and where most of the time went."""
    prices = [price for price in path.price.tolist() if isfinite(price)]
    change = f"{wording.number(100 * (prices[-1] / prices[0] - 1), 1, signed=True)} %" if prices else "No price"
    minutes = Counter(path.regimes)
    name, most = max(sorted(minutes.items()), key=lambda row: row[1])
    changes = sum(before != after for before, after in zip(path.regimes, path.regimes[1:], strict=False))
    share = wording.percent(most / len(path.regimes))
    return (
        f"{path.product_id}: {change}; {wording.regime_name(name)} for {share} of the minutes, "
        f"{wording.plural(changes, 'change')} of regime."
    )


def strategies(memories: Sequence[StrategyMemory], limit: float) -> str:
    """Of the Sharpe ratios: how many pass the limit raw, and how many once luck is drawn off."""
    figures = [found for memory in memories if (found := memory.performance.get(ALL_REGIMES)) is not None]
    raw = sum((item.sharpe_ratio or 0.0) > limit for item in figures)
    shrunk = sum((item.shrunk_sharpe_ratio or 0.0) > limit for item in figures)
    return f"{raw:,} of {wording.plural(len(figures), 'agent')} above {limit:g} by the raw ratio, {shrunk:,} shrunk."


def latency(series: Sequence[LatencySeries], quantiles: Callable[[LatencySeries], Sequence[float]]) -> str:
    """Of the distribution of latencies: the first kind's median and tail."""
    p50, _, p99 = quantiles(series[0])
    return (
        f"Half of the queries by {series[0].name} are answered within {wording.milliseconds(p50)}, 99 in 100 within "
        f"{wording.milliseconds(p99)}."
    )


def trend(figures: Trend) -> str:
    """Of one figure over the runs: the last one beside its usual value."""
    last = figures.points[-1]
    if last.usual is None or last.limit is None:
        return f"{last.value:.4g} {figures.unit}: too few comparable runs before it to judge."
    verdict = "a regression" if last.regressed else "as usual"
    before = sum(point.regressed for point in figures.points[:-1])
    earlier = f" Before: {wording.plural(before, 'regression')}." if before else ""
    return f"{last.value:.4g} against a median of {last.usual:.4g} (limit {last.limit:.4g}): {verdict}.{earlier}"


def latency_trend(median: Trend) -> str:
    """Of a latency in milliseconds over the runs."""
    last, before = median.points[-1].value, [point.value for point in median.points[:-1]]
    return f"Median {wording.milliseconds(last)} in the last run, {_span(before)} before." if before else ""


def _span(values: Sequence[float]) -> str:
    low, high = wording.milliseconds(min(values)), wording.milliseconds(max(values))
    return low if low == high else f"{low} to {high}"


def redis_growth(sizes: Sequence[NightSizes]) -> str:
    """Of the stacked sizes in Redis."""
    last = sizes[-1]
    largest = max(sorted(last.redis_bytes), key=lambda kind: last.redis_bytes[kind], default="nothing")
    return f"{growth(sizes, lambda night: night.redis_total)}; most of it: {largest}."


def growth(sizes: Sequence[NightSizes], value: Callable[[NightSizes], float | None], what: str = "") -> str:
    """Of one size over the nights: the last, and what the last night added; in megabytes, or in `what`."""
    found = [size for night in sizes if (size := value(night)) is not None]
    last, step = found[-1], found[-1] - found[-2] if len(found) > 1 else 0.0
    if what:
        return f"{wording.compact(last)} {what}, {wording.number(step, 0, signed=True)} last night."
    sign = "+" if step >= 0 else ""
    return f"{wording.megabytes(last)}, {sign}{wording.megabytes(step)} last night"
