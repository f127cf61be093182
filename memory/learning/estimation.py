"""What to expect of a state: mean return and volatility, from remembered neighbours, a pattern and the base rate.

Three sources are combined for each outcome (the return, and the volatility that follows), in units of the variance of
the outcome itself, so that markets and horizons share one scale:

* the *base rate* of the regime is where every estimate begins: the prior mean;
* *neighbours*, the remembered states nearest to the one asked about, with the cluster-robust variance of their mean:
  30-minute clock blocks of all products together are one observation each (Cameron & Miller 2015), and few blocks are
  steadied by the base rate's variance, as `learning.figures.moderated_variance` does;
* the nearest *pattern*, with the variance that its published interval tells, and a variance for being the mean of a
  kind of state rather than of this one.

With deviations d_i from the base rate and variances v_i, the sources' precision-weighted mean d = sum(d_i / v_i) * v,
v = 1 / sum(1 / v_i), keeps the share tau^2 / (tau^2 + v): the posterior mean where true deviations have the variance
tau^2 (empirical Bayes). Deviations far beyond that prior are not shrunk by more than `LIMIT` standard errors
(B. Efron and C. Morris, "Limiting the Risk of Bayes and Empirical Bayes Estimators", JASA 66 (1971)), so that a
memory which plainly knows something says so.

tau^2 (`BETWEEN`), the patterns' variance, the inflation of intervals and the response of tails were fitted to
Bitfinex, April and May 2018; `benchmarks/estimates.py` judges them on later days and on another market.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memory.learning.estimates import Estimate, EstimatePart
from memory.learning.evidence import (
    CONFIDENCE,
    ESTIMATE_HORIZONS,
    MIN_BLOCKS,
    BaseRates,
    BlockMean,
    Neighbours,
    PatternEvidence,
    block_mean,
    following_volatility,
    scaled_returns,
    student_t,
)
from memory.records import Interval

LONG, SHORT, FLAT = "LONG", "SHORT", "FLAT"
ESTIMATE_ACTIONS = (LONG, SHORT, FLAT)

NEIGHBOURS = 200
"""States asked for: up to here more of them predict better (IC of 0.229, 0.251, 0.265, 0.270 for volatility at 1 minute
with 25, 50, 100, 200). 400 know no more that could be told from chance, and cost twice as much."""
REACH = 0.3
"""Cosine distance beyond which neighbours and patterns say nothing: 99.9 % of the states had theirs nearer, so that
history cannot tell. Within it, predictions were no worse for the far ones."""
EMBARGO_MINUTES = 240
"""Neighbours are at least that much older than the question: the longest look-back of a state, so that none shares
its minutes."""
SAME_STATE = 1e-6
"""Cosine distance up to which a remembered state is the state itself: rounding of float32."""

MODERATION_BLOCKS = 7.0
"""Weight, in blocks, of the base rate's variance beside the neighbours' own."""
LIMIT = 3.0
"""Standard errors that an estimate is shrunk at most: beyond them it is no luck, not even among hundreds of states. Set
by that reason, not tried against others."""

RETURN, VOLATILITY = "return", "volatility"
BETWEEN = {
    RETURN: (0.004, 0.005, 0.003, 0.001),
    VOLATILITY: (0.08, 0.03, 0.025, 0.03),
}
"""Variance of true deviations from the base rate, by horizon, in variances of the outcome: for returns an IC of 0.07 at
most. At an hour their moments gave 0; a fifth of what they gave at shorter horizons is left to them."""
PATTERN_MISMATCH = 0.1
"""Variance of a state's true mean about that of its pattern, in variances of the outcome: beside neighbours a pattern
got a tenth of their weight, alone a quarter of its own deviation."""
DRIFT = 0.0005
"""Variance of true drifts of a regime, likewise: the mean return of a month is mostly the way that the market
happened to go, and is shrunk to no drift before it serves as a base rate."""
INFLATION = {RETURN: (1.0, 1.0, 1.5, 4.4), VOLATILITY: (1.3, 1.0, 1.0, 1.0)}
"""Factor on the half width of intervals of means, by horizon, so that they hold the errors of whole days too. At an
hour it undoes the prior's confidence that returns do not differ, not the shrinkage itself."""
TAIL_RESPONSE = (0.5, 0.75, 1.0, 1.0)
"""Power of the expected volatility with which the reach of outcomes grows, by horizon. Over a minute an illiquid market
often does not move at all, which moves the mean of the logarithm more than the tails."""

BASE, FROM_NEIGHBOURS, FROM_PATTERN = "base", "neighbours", "pattern"


def estimate_state(
    action: str,
    horizon: int,
    neighbours: Neighbours,
    base: BaseRates | None,
    pattern: PatternEvidence | None,
    *,
    trailing_volatility: float | None = None,
    round_trip_cost: float = 0.0,
) -> Estimate:
    """Estimate the outcome of one action in one state; a function of its arguments alone.

    Parameters
    ----------
    action
        LONG, SHORT or FLAT.
    horizon
        One of `ESTIMATE_HORIZONS`, minutes.
    neighbours
        Remembered states near this one, with what followed; those beyond `REACH` are left out here.
    base
        Base rates of its regime; None where too little is remembered for any.
    pattern
        The nearest pattern; None where there is none, or it says nothing about the horizon.
    trailing_volatility
        That of the state, a fraction above 0. Returns are then compared in trailing volatilities, and outcomes are
        given as fractions; without it the returns of calm and wild minutes are averaged as they are.
    round_trip_cost
        Costs of opening and closing the position, a fraction.

    Returns
    -------
    The estimate. Cost: 0.2 ms for 200 neighbours.
    """
    if base is None:
        reason = f"Too little is remembered for a base rate: outcomes in fewer than {MIN_BLOCKS} clock blocks."
        return Estimate(action=action, horizon_minutes=horizon, known=False, reason=reason)
    near = neighbours.within(REACH)
    if pattern is not None and pattern.distance > REACH:
        pattern = None
    scale = None
    if trailing_volatility is not None and base.scaled is not None:
        scale = trailing_volatility * math.sqrt(horizon)
    followed = _expected_return(horizon, near, base, pattern, scale)
    moved = _expected_volatility(horizon, near, base, pattern)

    sign = _SIGNS[action]
    unit = sign * (1.0 if scale is None else scale)
    base_return = followed.centre * unit + 0.0
    base_volatility = None if moved is None else moved.centre
    parts = _parts(followed, moved, unit, base.gross.blocks)
    if followed.variance is None:
        return Estimate(
            action=action,
            horizon_minutes=horizon,
            known=False,
            reason=_why_unknown(near, followed),
            blocks=followed.blocks,
            neighbours=followed.n,
            base_return=base_return,
            base_volatility=base_volatility,
            base_blocks=base.gross.blocks,
            parts=parts,
        )
    row = ESTIMATE_HORIZONS.index(horizon)
    mean = followed.mean * unit + 0.0
    volatility = None if moved is None or moved.variance is None else moved.mean
    expected_move = None if volatility is None or scale is None else math.exp(volatility) * scale
    outcome_interval = None
    if volatility is not None and scale is not None:
        outcome_interval = _interval(mean, abs(unit) * outcome_reach(base, horizon, volatility))
    used = pattern if pattern is not None and any(part.source == FROM_PATTERN for part in parts) else None
    return Estimate(
        action=action,
        horizon_minutes=horizon,
        known=True,
        reason="",
        mean_return=mean,
        net_return=mean - (round_trip_cost if sign else 0.0),
        interval=_interval(mean, abs(unit) * followed.reach(INFLATION[RETURN][row])),
        outcome_interval=outcome_interval,
        volatility=volatility,
        volatility_interval=None
        if moved is None or volatility is None
        else _interval(volatility, moved.reach(INFLATION[VOLATILITY][row])),
        expected_move=expected_move,
        effective_n=followed.effective_n,
        blocks=followed.blocks,
        neighbours=followed.n,
        pattern_id=None if used is None else used.pattern_id,
        pattern_valid_from=None if used is None else used.valid_from,
        base_return=base_return,
        base_volatility=base_volatility,
        base_blocks=base.gross.blocks,
        edge=mean - base_return,
        parts=parts,
    )


_SIGNS = {LONG: 1.0, SHORT: -1.0, FLAT: 0.0}


def outcome_reach(base: BaseRates, horizon: int, volatility: float, share: float = CONFIDENCE) -> float:
    """How far from the mean that share of the outcomes stays, in units of trailing volatility * sqrt(horizon).

    The quantile of what was seen in the regime, wider or narrower by the volatility that is expected now.
    """
    if base.volatility is None:
        raise AssertionError("without trailing volatilities there is no volatility to expect")
    power = TAIL_RESPONSE[ESTIMATE_HORIZONS.index(horizon)]
    return base.reach[share] * math.exp(power * (volatility - base.volatility.mean))


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A source's mean, the variance of that mean about the state's own, and the blocks behind it."""

    mean: float
    variance: float
    blocks: int


@dataclass(frozen=True, slots=True)
class _Combined:
    """One outcome, from all sources that speak of it; `variance` is None where none does.

    `means` and `weights` are by source; n, blocks and effective_n are those of the neighbours, or of the pattern where
    it alone speaks.
    """

    centre: float
    mean: float
    variance: float | None
    means: dict[str, float]
    weights: dict[str, float]
    counts: dict[str, int]
    n: int
    blocks: int
    effective_n: float

    def reach(self, inflation: float) -> float:
        """Half width of the interval of the mean."""
        if self.variance is None:
            raise AssertionError("an outcome that is unknown has no interval")
        return student_t(self.blocks - 1) * math.sqrt(self.variance) * inflation


def _expected_return(
    horizon: int, near: Neighbours, base: BaseRates, pattern: PatternEvidence | None, scale: float | None
) -> _Combined:
    """Return of a long position, in units of `scale` (None: a fraction)."""
    rates = base.gross if scale is None or base.scaled is None else base.scaled
    values = near.forward_return
    if scale is not None:
        values = scaled_returns(values, near.trailing_volatility, horizon)
    drift = DRIFT * rates.spread
    from_pattern = None
    if pattern is not None and pattern.mean_return is not None and pattern.return_variance is not None:
        unit = 1.0 if scale is None else scale
        from_pattern = _Evidence(pattern.mean_return / unit, pattern.return_variance / unit**2, pattern.blocks)
    # No drift is the natural centre of a mean return, before costs.
    centre = rates.mean * drift / (drift + rates.variance) if drift > 0 else 0.0
    return _combine(
        centre, rates, block_mean(values, near.timestamp_ms, horizon), from_pattern, _between(RETURN, horizon)
    )


def _expected_volatility(
    horizon: int, near: Neighbours, base: BaseRates, pattern: PatternEvidence | None
) -> _Combined | None:
    rates = base.volatility
    if rates is None:
        return None
    values = following_volatility(scaled_returns(near.forward_return, near.trailing_volatility, horizon))
    from_pattern = None
    if pattern is not None and pattern.volatility is not None and pattern.volatility_variance is not None:
        # A pattern's base rate is that of its whole past; what counts is how far it lies from it.
        apart = pattern.volatility - (rates.mean if pattern.base_volatility is None else pattern.base_volatility)
        from_pattern = _Evidence(rates.mean + apart, pattern.volatility_variance, pattern.blocks)
    near_mean = block_mean(values, near.timestamp_ms, horizon)
    return _combine(rates.mean, rates, near_mean, from_pattern, _between(VOLATILITY, horizon))


def _between(outcome: str, horizon: int) -> float:
    return BETWEEN[outcome][ESTIMATE_HORIZONS.index(horizon)]


def _combine(
    centre: float, rates: BlockMean, near: BlockMean | None, pattern: _Evidence | None, between: float
) -> _Combined:
    """Weigh the sources by their precision, and shrink what they say towards the centre."""
    sources: dict[str, _Evidence] = {}
    if near is not None and near.blocks >= MIN_BLOCKS:
        sources[FROM_NEIGHBOURS] = _Evidence(near.mean, _moderated(near, rates.spread), near.blocks)
    if pattern is not None:
        variance = pattern.variance + PATTERN_MISMATCH * rates.spread
        sources[FROM_PATTERN] = _Evidence(pattern.mean, variance, pattern.blocks)
    means = {name: source.mean for name, source in sources.items()}
    counts = {name: source.blocks for name, source in sources.items()}
    if not sources:
        n, blocks = (0, 0) if near is None else (near.n, near.blocks)
        return _Combined(centre, centre, None, means, {}, counts, n, blocks, 0.0)
    # Values that do not vary at all leave no variance to weigh by.
    precision = {name: 1.0 / max(source.variance, _LEAST_VARIANCE) for name, source in sources.items()}
    total = sum(precision.values())
    deviation = sum(precision[name] * (means[name] - centre) for name in sources) / total
    error = 1.0 / total
    kept = between * rates.spread / (between * rates.spread + error)
    if abs(deviation) > 0:
        kept = max(kept, 1.0 - LIMIT * math.sqrt(error) / abs(deviation))
    by_neighbours = near is not None and FROM_NEIGHBOURS in sources
    return _Combined(
        centre=centre,
        mean=centre + kept * deviation,
        variance=kept * error,
        means=means,
        weights={name: kept * precision[name] / total for name in sources},
        counts=counts,
        n=near.n if near is not None and by_neighbours else 0,
        blocks=counts[FROM_NEIGHBOURS if by_neighbours else FROM_PATTERN],
        effective_n=1.0 / near.concentration if near is not None and by_neighbours else float(counts[FROM_PATTERN]),
    )


_LEAST_VARIANCE = 1e-24


def _moderated(near: BlockMean, spread: float) -> float:
    """Variance of the neighbours' mean, steadied by that of the base rate where blocks are few."""
    freedom = near.blocks - 1
    prior = spread * near.concentration
    return (MODERATION_BLOCKS * prior + freedom * near.variance) / (MODERATION_BLOCKS + freedom)


def _parts(followed: _Combined, moved: _Combined | None, unit: float, base_blocks: int) -> tuple[EstimatePart, ...]:
    parts = []
    for source in (FROM_NEIGHBOURS, FROM_PATTERN):
        said = source in followed.means
        measured = moved is not None and source in moved.means
        if not said and not measured:
            continue
        parts.append(
            EstimatePart(
                source=source,
                mean_return=followed.means[source] * unit + 0.0 if said else None,
                volatility=moved.means[source] if moved is not None and measured else None,
                return_weight=followed.weights.get(source, 0.0),
                volatility_weight=moved.weights.get(source, 0.0) if moved is not None else 0.0,
                blocks=max(followed.counts.get(source, 0), moved.counts.get(source, 0) if moved is not None else 0),
            )
        )
    base = EstimatePart(
        source=BASE,
        mean_return=followed.centre * unit + 0.0,
        volatility=None if moved is None else moved.centre,
        return_weight=1.0 - sum(followed.weights.values()),
        volatility_weight=0.0 if moved is None else 1.0 - sum(moved.weights.values()),
        blocks=base_blocks,
    )
    return (base, *parts)


def _why_unknown(near: Neighbours, followed: _Combined) -> str:
    if not len(near):
        return f"No remembered state and no pattern lies within a distance of {REACH} of this one."
    return (
        f"The {followed.n} remembered states near this one whose outcome is known lie in {followed.blocks} clock "
        f"blocks, fewer than {MIN_BLOCKS}, and no pattern with an interval is near."
    )


def _interval(mean: float, reach: float) -> Interval:
    return Interval(low=mean - reach, high=mean + reach)
