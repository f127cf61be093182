"""Rows for the calibration of regimes from history: what rule and memory said at each decision, and what came of it.

The same question that an agent asks a running memory is asked of arrays here: the nearest states of the product that
were known `EMBARGO_MINUTES` before the decision, exactly, by matrix products of a day at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from agents.catalogue import FEATURE_MINUTES, FEATURE_NAMES
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES, LOOKBACK_MINUTES, MINUTE_MS
from agents.market import Market
from agents.regime_calibration import AHEAD_MINUTES, CalibrationRows, RegimeCalibration
from agents.regimes import CRISIS_SHARE
from agents.replay import ProductStates, replay_product
from memory.errors import MarketDataError
from memory.records import REGIMES, Regime, to_ms
from memory.retrieval.regimes import KERNEL_OFFSET
from memory.validation import validate_timestamp

NEIGHBOURS = 100
"""Remembered states that vote. Neighbouring minutes are alike, so a hundred are some thirty occasions."""
EMBARGO_MINUTES = LOOKBACK_MINUTES
"""States of the last four hours do not vote: they share their look-back with the one that is asked about, and would
only say again what the rule says."""
MIN_DAYS = 5
"""UTC days that the voting states must come from: with fewer, they are the same few hours again, and the vote says less
than the rule does."""
MEMORY_DAYS = 90
"""Days that a memory reaches back, as COINSWARM_EPISODIC_RETENTION_DAYS does by default."""
ROW_MINUTES = 10
"""Minutes between the rows that a calibration is fitted to: those between them say the same."""

_DAY_MS = 86_400_000
_CENTRED_MINUTES = {
    "volatility": 30,
    "trend_strength": 120,
    "mean_reversion": FEATURE_MINUTES,
    "volume_trend": 30,
    "autocorrelation": FEATURE_MINUTES,
    "hurst_exponent": FEATURE_MINUTES,
    "orderbook_imbalance": 5,
    "relative_spread": 5,
}
"""Trailing windows of the rule's inputs, which hindsight centres; drawdown stays what it was at the decision."""
_CRISIS = REGIMES.index(Regime.CRISIS)


def fit_calibration(
    market: Market,
    start: datetime,
    until: datetime,
    encoder: StateEncoder,
    *,
    min_days: int = MIN_DAYS,
    memory_since: datetime | None = None,
) -> RegimeCalibration:
    """Fit a calibration to a market's rows in [start, until), all of whose labels were known before `until`.

    Parameters
    ----------
    market
        The candles; none that ends at or after `until` is looked at.
    start, until
        Aware UTC. `until` becomes the calibration's `fitted_until_`.
    encoder
        A fitted encoder that was known at `memory_since`.
    min_days
        From how many days the voting states must come for memory's word to count.
    memory_since
        Decision time of the first state that may be remembered; `start` where None.

    Returns
    -------
    RegimeCalibration
        Cost: about 3 minutes for two months of three products on one core.

    Raises
    ------
    EncoderError
        Too few rows, or the encoder was fitted on later data.
    MarketDataError
        No product has a state in the span.
    """
    until = validate_timestamp(until, "until")
    rows = CalibrationRows.joined(
        list(calibration_rows(market, start, until, encoder, memory_since=memory_since))
        or _refuse_empty(market, start, until)
    )
    return RegimeCalibration().fit(rows, fitted_until=until, min_days=min_days)


def calibration_rows(
    market: Market,
    start: datetime,
    until: datetime,
    encoder: StateEncoder,
    *,
    memory_since: datetime | None = None,
    every_minutes: int = ROW_MINUTES,
) -> Iterator[CalibrationRows]:
    """Rows of each product's warm decisions in [start, until), every so many minutes; candles from `until` on unseen.

    Labels that were not known before `until` are -1. Memory: 1.3 KB a state of one product.
    """
    since = validate_timestamp(memory_since or start, "memory_since")
    encoder.check_as_of(since)
    start_ms, until_ms = to_ms(validate_timestamp(start, "start")), to_ms(validate_timestamp(until, "until"))
    for candles in market.products.values():
        known = candles.between(int(candles.decision_ms[0]), until_ms)
        if not len(known):
            continue
        states = replay_product(known, min(to_ms(since), start_ms), until_ms, encoder)
        wanted = states.warm & (states.decision_ms >= start_ms) & (states.decision_ms // MINUTE_MS % every_minutes == 0)
        if wanted.any():
            yield _rows(states, np.flatnonzero(wanted), to_ms(since), encoder)


def _rows(states: ProductStates, rows: IntArray, since_ms: int, encoder: StateEncoder) -> CalibrationRows:
    times = states.decision_ms
    codes = states.regimes.codes.astype(np.int64)
    ahead = labels_ahead(times, codes)
    vote, voting_days = votes_ahead(states, rows, ahead, since_ms)
    return CalibrationRows(
        timestamp_ms=times[rows],
        rule=codes[rows],
        share=states.regimes.confidence[rows],
        dwell_minutes=dwell_minutes(times, codes)[rows],
        candidate=encoder.regimes_.candidates(states.features[rows]).astype(np.int64),
        vote=vote,
        voting_days=voting_days,
        ahead=ahead[rows],
        hindsight=hindsight_labels(states, encoder)[rows],
    )


def dwell_minutes(decision_ms: IntArray, codes: npt.NDArray[np.int64]) -> FloatArray:
    """Minutes that each decision's label has lasted without a change or a gap, shape (n,)."""
    if not len(codes):
        return np.empty(0)
    changed = np.append(True, (np.diff(codes) != 0) | (np.diff(decision_ms) > GAP_MINUTES * MINUTE_MS))
    begun = np.maximum.accumulate(np.where(changed, np.arange(len(codes)), 0))
    return np.asarray((decision_ms - decision_ms[begun]) / MINUTE_MS)


def labels_ahead(
    decision_ms: IntArray, codes: npt.NDArray[np.int64], minutes: int = AHEAD_MINUTES
) -> npt.NDArray[np.int64]:
    """Label of the decision exactly so many minutes later, shape (n,); -1 where there is none."""
    later = np.searchsorted(decision_ms, decision_ms + minutes * MINUTE_MS)
    there = np.minimum(later, len(codes) - 1)
    found = decision_ms[there] == decision_ms + minutes * MINUTE_MS
    return np.where(found, codes[there], -1)


def votes_ahead(
    states: ProductStates, rows: IntArray, ahead: npt.NDArray[np.int64], since_ms: int
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Memory's votes for some rows, shape (n, 5), and from how many UTC days the voting states come, shape (n,).

    As `MemoryRetrievalService.retrieve_similar_regimes` as of `EMBARGO_MINUTES` before each decision answers where each
    acted-on state of the product since `since_ms`, and of the last `MEMORY_DAYS`, was recorded. Cost: 1.5 ms a row and
    100,000 states on one core.
    """
    times, vectors = states.decision_ms, states.vectors
    votes, voting_days = np.zeros((len(rows), len(REGIMES))), np.zeros(len(rows), np.int64)
    recorded = np.flatnonzero(states.warm & states.has_next & (times >= since_ms))
    following_ms = np.append(times[1:], np.iinfo(np.int64).max)
    known_ms = following_ms[recorded]
    # What a state became counts once that, too, was known.
    later = np.minimum(np.searchsorted(times, times[recorded] + AHEAD_MINUTES * MINUTE_MS), len(times) - 1)
    ahead_known_ms = following_ms[later]
    days = times[rows] // _DAY_MS
    for day in np.unique(days).tolist():
        chosen = np.flatnonzero(days == day)
        first, last = np.searchsorted(times[recorded], [(day - MEMORY_DAYS) * _DAY_MS, (day + 1) * _DAY_MS])
        part = recorded[first:last]
        as_of_ms = times[rows[chosen]] - EMBARGO_MINUTES * MINUTE_MS
        seen = known_ms[first:last][None, :] <= as_of_ms[:, None]
        if not seen.any():
            continue
        distances = np.where(seen, 1.0 - vectors[rows[chosen]] @ vectors[part].T, np.inf)
        count = min(NEIGHBOURS, distances.shape[1])
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        distance = np.take_along_axis(distances, nearest, axis=1)
        told = np.isfinite(distance) & (ahead_known_ms[first:last][nearest] <= as_of_ms[:, None])
        labels = np.where(told, ahead[part][nearest], -1)
        weights = np.where(labels >= 0, 1.0 / (np.maximum(distance, 0.0) + KERNEL_OFFSET), 0.0)
        total = weights.sum(axis=1)
        for code in range(len(REGIMES)):
            votes[chosen, code] = np.where(labels == code, weights, 0.0).sum(axis=1) / np.where(total > 0, total, 1.0)
        voters = np.sort(np.where(labels >= 0, times[part][nearest] // _DAY_MS, -1), axis=1)
        voting_days[chosen] = (voters[:, :1] >= 0).sum(axis=1) + (np.diff(voters, axis=1) > 0).sum(axis=1)
    return votes, voting_days


def hindsight_labels(states: ProductStates, encoder: StateEncoder) -> npt.NDArray[np.int64]:
    """The rule's labels from windows centred on each decision instead of ending there, shape (n,); -1 where unknown.

    Each input is read where its trailing window is centred, half its length later, and candidates from 15 minutes
    before to 15 after vote. Known an hour and a half later: for judging what was said, never for saying it.
    """
    times = states.decision_ms
    n = len(times)
    centred, known = states.features.copy(), states.warm.copy()
    for name, minutes in _CENTRED_MINUTES.items():
        wanted = times + minutes * MINUTE_MS // 2 // MINUTE_MS * MINUTE_MS
        later = np.minimum(np.searchsorted(times, wanted), n - 1)
        known &= (np.abs(times[later] - wanted) <= GAP_MINUTES * MINUTE_MS) & states.warm[later]
        column = FEATURE_NAMES.index(name)
        centred[:, column] = states.features[later, column]
    codes = encoder.regimes_.candidates(centred)
    counts = np.zeros((n + 1, len(REGIMES)), np.int64)
    np.cumsum((codes[:, None] == np.arange(len(REGIMES))) & known[:, None], axis=0, out=counts[1:])
    half_ms = AHEAD_MINUTES * MINUTE_MS // 2
    first = np.searchsorted(times, times - half_ms, side="right")
    after = np.searchsorted(times, times + half_ms, side="right")
    votes = counts[after] - counts[first]
    total = votes.sum(axis=1)
    # As in `RegimeRule.label`: ties go to the decision's own candidate; a third of the votes makes a crisis.
    ranked = 2 * votes
    ranked[np.arange(n), codes] += 1
    crisis = votes[:, _CRISIS] >= CRISIS_SHARE * total
    ranked[:, _CRISIS] = np.where(crisis, 4 * total + 2, -1)
    return np.where(known & (total > 0), np.argmax(ranked, axis=1), -1)


def _refuse_empty(market: Market, start: datetime, until: datetime) -> list[CalibrationRows]:
    raise MarketDataError(
        f"market {market.name} has no warm state from {start.isoformat()} to {until.isoformat()}.",
        remedy="Choose a span with candles, and 240 minutes of them before it.",
    )
