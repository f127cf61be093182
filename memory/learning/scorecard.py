"""The nightly scorecard: what yesterday's knowledge said about today, beside what it must beat.

Scored, before a window is folded, on the window's own states: the patterns; random balls of remembered states, as many
and as large as the patterns (the null); the nearest remembered states; ridge regression on the named features; and the
base rate of the regime. For the scaled return and for the volatility that followed, at each horizon: rank correlation
and calibration, with intervals that count clock blocks. Patterns and balls cover only some states, so whatever predicts
everywhere is scored twice: on all states, and on those that patterns cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.learning import ALGORITHM_VERSION
from memory.learning.agreement import agreement
from memory.learning.blocks import block_ids
from memory.learning.partitions import partition_seed
from memory.learning.predictions import HORIZONS, PatternPredictions, PredictionGain
from memory.learning.predictors import (
    NO_PATTERN,
    RETURN_COLUMN,
    VOLATILITY_COLUMN,
    Remembered,
    assign,
    predict_by_base_rate,
    predict_by_neighbours,
    predict_by_patterns,
    predict_by_ridge,
    random_balls,
    targets_of,
)
from memory.learning.scores import (
    BALLS,
    BASE,
    COVERED,
    NEIGHBOURS,
    OUTCOMES,
    OWN,
    PATTERNS,
    RETURN,
    RIDGE,
    VOLATILITY,
    Score,
    Scorecard,
)
from memory.learning.settings import DEFAULT_SETTINGS as DEFAULT_LEARNING
from memory.learning.settings import LearningSettings, settings_hash
from memory.records import to_ms
from memory.tables import Floats, Ints, StateTable
from memory.window import Window

_COLUMNS = {RETURN: RETURN_COLUMN, VOLATILITY: VOLATILITY_COLUMN}


@dataclass(frozen=True, slots=True)
class ScorecardSettings:
    """Settings of the scorecard.

    Attributes
    ----------
    neighbours
        Remembered states that are averaged: enough to average out single minutes, few enough to be near.
    most_states, most_remembered, most_balls
        States of the window that are scored, remembered states among which neighbours are looked for, and balls: above
        these an even choice is taken, so that a night's scorecard takes seconds at any size.
    ridge_penalty
        Added to the diagonal of the correlation matrix of the features.
    """

    neighbours: int = 100
    most_states: int = 4320
    most_remembered: int = 12_000
    most_balls: int = 500
    ridge_penalty: float = 0.01


DEFAULT_SETTINGS = ScorecardSettings()


def score_window(
    predictions: PatternPredictions,
    today: StateTable,
    remembered: StateTable | None,
    window: Window,
    settings: ScorecardSettings = DEFAULT_SETTINGS,
    learning: LearningSettings = DEFAULT_LEARNING,
) -> Scorecard:
    """Score what was known before a window on the window's states.

    Parameters
    ----------
    predictions
        Of the patterns of today's encoder and source, before the window is folded.
    today
        All states of the window, in canonical order.
    remembered
        States of windows before it, of the same encoder and source, in canonical order; None where there are none:
        then patterns alone are scored.
    window
        The window.
    settings, learning
        Sizes; gaps, blocks and intervals.

    Returns
    -------
    The scorecard. Deterministic: balls are drawn with a seed from the window's name, larger tables are thinned evenly.
    Cost: about 2 s on one core for 4,320 states, 30,000 remembered ones and 300 patterns.

    Raises
    ------
    InvalidRecordError
        If remembered states are of another encoder or source, or reach into the window, or are out of order.
    """
    if remembered is not None:
        _check(remembered, today, window)
    targets = targets_of(today, learning)
    scored = today
    if len(today) > settings.most_states:
        rows = np.unique(np.linspace(0, len(today) - 1, settings.most_states).round().astype(np.int64))
        scored, targets = today.take(rows), targets[rows]

    chosen = assign(predictions, scored)
    covered = chosen != NO_PATTERN
    predicted = {PATTERNS: predict_by_patterns(predictions, scored, chosen)}
    balls, covered_by_balls = 0, None
    if remembered is not None and len(remembered):
        past = Remembered(remembered, targets_of(remembered, learning))
        generator = np.random.default_rng(partition_seed(window.name, today.encoder_id, today.source, "scorecard"))
        null = random_balls(
            predictions,
            past,
            generator,
            window_ms=to_ms(window.end) - to_ms(window.start),
            most=settings.most_balls,
        )
        chosen_balls = assign(null, scored)
        balls = len(null)
        covered_by_balls = _share(chosen_balls != NO_PATTERN)
        predicted[BALLS] = predict_by_patterns(null, scored, chosen_balls)
        predicted[NEIGHBOURS] = predict_by_neighbours(
            past, scored, neighbours=settings.neighbours, most=settings.most_remembered
        )
        predicted[RIDGE] = predict_by_ridge(past, scored, penalty=settings.ridge_penalty)
        predicted[BASE] = predict_by_base_rate(past, scored)

    scores: list[Score] = []
    for predictor, prediction in predicted.items():
        scores.extend(_scores(predictor, OWN, prediction, targets, scored.timestamp_ms, learning))
        if predictor != PATTERNS:
            rows = np.flatnonzero(covered)
            scores.extend(
                _scores(predictor, COVERED, prediction[rows], targets[rows], scored.timestamp_ms[rows], learning)
            )
    return Scorecard(
        algorithm_version=ALGORITHM_VERSION,
        settings_hash=settings_hash(settings, learning),
        window=window.name,
        start_ms=to_ms(window.start),
        end_ms=to_ms(window.end),
        encoder_id=today.encoder_id,
        source=today.source,
        states=len(today),
        scored=len(scored),
        remembered=0 if remembered is None else len(remembered),
        patterns=len(predictions),
        balls=balls,
        covered=_share(covered),
        covered_by_balls=covered_by_balls,
        scores=tuple(scores),
        gains=prediction_gains(predictions, chosen, targets, scored.timestamp_ms, learning),
    )


def prediction_gains(
    predictions: PatternPredictions, chosen: Ints, targets: Floats, timestamps_ms: Ints, settings: LearningSettings
) -> tuple[PredictionGain, ...]:
    """How each pattern's predictions did against its base rate, on the states that it covers.

    Parameters
    ----------
    predictions
        The patterns.
    chosen
        (n,) pattern of each state, from `predictors.assign`.
    targets
        (n, H, 2) what came.
    timestamps_ms
        (n,) decision times.
    settings
        `block_minutes`.

    Returns
    -------
    One gain for each pattern that covers a state with a known outcome and knows its own prediction, by pattern.
    """
    blocks = block_ids(timestamps_ms, settings.block_minutes)
    gains = []
    for position in np.unique(chosen[chosen != NO_PATTERN]).tolist():
        rows = np.flatnonzero(chosen == position)
        by_return = _gain(
            targets[rows, :, RETURN_COLUMN],
            predictions.scaled_return[position],
            predictions.base_scaled_return[position],
        )
        by_volatility = _gain(
            targets[rows, :, VOLATILITY_COLUMN], predictions.volatility[position], predictions.base_volatility[position]
        )
        if by_return is None or by_volatility is None:
            continue
        gains.append(
            PredictionGain(
                pattern_id=predictions.pattern_ids[position],
                states=len(rows),
                occurrences=len(np.unique(blocks[rows])),
                volatility_gain=by_volatility,
                return_gain=by_return,
            )
        )
    return tuple(gains)


def remembered_states(windows: Sequence[StateTable]) -> StateTable | None:
    """States of several windows as one table in canonical order, fit to be remembered; None without states.

    Parameters
    ----------
    windows
        Tables of one encoder and source, in time order; products may differ, features are those that all have.

    Raises
    ------
    InvalidRecordError
        If encoders or sources differ.
    """
    held = [table for table in windows if len(table)]
    if not held:
        return None
    first = held[0]
    for table in held:
        if (table.encoder_id, table.source) != (first.encoder_id, first.source):
            raise InvalidRecordError(
                f"states of {table.encoder_id}/{table.source} and {first.encoder_id}/{first.source} stand together.",
                remedy="Remember the windows of one encoder and source.",
                field="windows",
            )
    products = tuple(sorted({product for table in held for product in table.products}))
    features = tuple(name for name in first.feature_names if all(name in table.feature_names for table in held))
    product = np.concatenate(
        [np.array([products.index(name) for name in table.products], dtype=np.int64)[table.product] for table in held]
    )

    def joined(name: str) -> Any:
        return np.concatenate([getattr(table, name) for table in held])

    whole = replace(
        first,
        feature_names=features,
        products=products,
        product=product,
        features=np.concatenate(
            [
                np.column_stack([table.feature(name) for name in features]) if features else np.zeros((len(table), 0))
                for table in held
            ]
        ),
        timestamp_ms=joined("timestamp_ms"),
        known_at_ms=joined("known_at_ms"),
        recorded_at_ms=joined("recorded_at_ms"),
        vectors=joined("vectors"),
        price=joined("price"),
        spread=joined("spread"),
        regime=joined("regime"),
        origin=joined("origin"),
    )
    return whole.take(np.lexsort((whole.timestamp_ms, whole.product)))


def _check(remembered: StateTable, today: StateTable, window: Window) -> None:
    if (remembered.encoder_id, remembered.source) != (today.encoder_id, today.source):
        raise InvalidRecordError(
            f"remembered are {remembered.encoder_id}/{remembered.source}, "
            f"scored are {today.encoder_id}/{today.source}.",
            remedy="Compare states of one encoder and source.",
            field="remembered",
        )
    if len(remembered) and int(remembered.timestamp_ms.max()) >= to_ms(window.start):
        raise InvalidRecordError(
            f"remembered states reach into the window {window.name}.",
            remedy="Remember windows before it only, or the score looks into the future.",
            field="remembered",
        )
    same = remembered.product[1:] == remembered.product[:-1]
    rising = remembered.timestamp_ms[1:] > remembered.timestamp_ms[:-1]
    if not np.where(same, rising, remembered.product[1:] > remembered.product[:-1]).all():
        raise InvalidRecordError(
            "remembered states are not in order of product and time.",
            remedy="Join windows with remembered_states.",
            field="remembered",
        )


def _scores(
    predictor: str, scope: str, predicted: Floats, targets: Floats, timestamps_ms: Ints, learning: LearningSettings
) -> list[Score]:
    return [
        Score(
            predictor=predictor,
            scope=scope,
            outcome=outcome,
            horizon_minutes=horizon,
            agreement=agreement(
                predicted[:, place, _COLUMNS[outcome]],
                targets[:, place, _COLUMNS[outcome]],
                block_ids(timestamps_ms, learning.block_minutes_of(horizon)),
                confidence=learning.confidence,
                min_blocks=learning.min_blocks,
            ),
        )
        for outcome in OUTCOMES
        for place, horizon in enumerate(HORIZONS)
    ]


def _gain(came: Floats, predicted: Floats, base: Floats) -> float | None:
    gained = (came - base) ** 2 - (came - predicted) ** 2
    known = np.isfinite(gained)
    return float(gained[known].mean()) if known.any() else None


def _share(held: npt.NDArray[np.bool_]) -> float | None:
    return float(held.mean()) if len(held) else None
