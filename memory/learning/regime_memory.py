"""What each regime looks like: mean vector, features and share of its states, product by product and pooled.

Together with the transitions (how long it lasts, what follows) this becomes one REGIME memory a regime and product, and
one for all products pooled. What followed its states, over each horizon, is the base rate that estimates begin with;
outcomes are those of the window alone, so the last minutes before its end, whose outcomes lie beyond it, have none.
"""

from __future__ import annotations

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.blocks import (
    BlockSums,
    block_ids,
    block_interval,
    block_mean,
    block_variance,
    grouped_block_sums,
    value_variance,
)
from memory.learning.context import ProjectionContext
from memory.learning.outcomes import GROSS, SCALED, VOLATILITY, Outcomes, compute_outcomes
from memory.learning.predictions import HORIZONS
from memory.learning.settings import DEFAULT_SETTINGS as DEFAULT_LEARNING
from memory.learning.settings import LearningSettings
from memory.learning.sketches import FeatureSketch, grouped_sketches
from memory.learning.transition_matrices import ALL_PRODUCTS, TransitionMatrices, project_transitions
from memory.learning.transitions import DEFAULT_SETTINGS, TransitionSettings, TransitionState
from memory.records import REGIMES, BaseRate, BlockFigure, Interval, RegimeMemory, from_ms, to_ms
from memory.tables import Floats, Ints, StateTable
from memory.window import Window

QUANTILES: tuple[tuple[str, float], ...] = (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))
"""Quantiles of each feature that a REGIME memory holds, beside the mean."""

MEASURES = (GROSS, SCALED, VOLATILITY)
"""Measures of `outcomes` that base rates are given of, in the order of the columns of `RegimeCell.outcomes`."""
MAGNITUDE_SHARES = (0.90, 0.95)
"""Quantiles of |scaled return| that a base rate holds."""
_MAGNITUDES = tuple(f"within {horizon:03d} minutes" for horizon in HORIZONS)
"""Names of the sketched magnitudes, sorted as the horizons are."""

_REGIME_COUNT = len(REGIMES)


class RegimeCell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """States of one product, or of all, in one regime.

    Attributes
    ----------
    product, regime
        Product id or `ALL_PRODUCTS`, and code in REGIMES. All products have cells of their own, because products share
        their clock blocks, so that sums over blocks cannot be added up over products.
    known_ms
        End of the first window that had such states.
    states
        How many there are.
    vector_sum
        float64 (dimension,): sum of their vectors.
    features
        Names, sorted: the order of `feature_count` and `feature_sum`, int64 and float64, over states that have it.
    sketch
        Distribution of each feature.
    outcomes
        (H, 3): sums over clock blocks of each of `MEASURES`.
    magnitudes
        Distribution of |scaled return|, one "feature" a horizon.
    """

    product: str
    regime: int
    known_ms: int
    states: int
    vector_sum: Floats
    features: tuple[str, ...]
    feature_count: Ints
    feature_sum: Floats
    sketch: FeatureSketch
    outcomes: BlockSums
    magnitudes: FeatureSketch


class RegimeSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All cells of one window, or, as the fold's state, of all windows so far.

    Attributes
    ----------
    block_minutes
        Length of the clock blocks (that of the 60-minute horizon is at least an hour).
    cells
        All products first, then each by name; by regime.
    """

    block_minutes: int
    cells: tuple[RegimeCell, ...]


RegimeState = RegimeSummary


def summarise_regimes(
    states: StateTable,
    window: Window,
    settings: LearningSettings = DEFAULT_LEARNING,
    *,
    outcomes: Outcomes | None = None,
) -> RegimeSummary:
    """Condense one window's states; depends on that window alone.

    Parameters
    ----------
    states
        Distinct states in canonical order.
    window
        The window that they lie in.
    settings
        Blocks, gaps and the floor of volatilities.
    outcomes
        `compute_outcomes(states, settings)`, where the caller has it already.

    Returns
    -------
    One cell for each regime that has states, of all products and of each. Cost: O(n (dimension + features)).
    """
    order = sorted(range(len(states.feature_names)), key=states.feature_names.__getitem__)
    names = tuple(states.feature_names[position] for position in order)
    values = states.features[:, order]
    measures = (compute_outcomes(states, settings) if outcomes is None else outcomes).measures[:, :, MEASURES]
    cells: list[RegimeCell] = []
    by_product = states.product * _REGIME_COUNT + states.regime
    for products, groups in (((ALL_PRODUCTS,), states.regime), (states.products, by_product)):
        count = len(products) * _REGIME_COUNT
        sketches = grouped_sketches(values, names, groups, count)
        magnitudes = grouped_sketches(np.abs(measures[:, :, MEASURES.index(SCALED)]), _MAGNITUDES, groups, count)
        sums = _grouped_outcomes(measures, states.timestamp_ms, groups, count, settings)
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            known = ~np.isnan(values[rows])
            cells.append(
                RegimeCell(
                    product=products[group // _REGIME_COUNT],
                    regime=group % _REGIME_COUNT,
                    known_ms=to_ms(window.end),
                    states=len(rows),
                    vector_sum=states.vectors[rows].sum(axis=0, dtype=np.float64),
                    features=names,
                    feature_count=known.sum(axis=0).astype(np.int64),
                    feature_sum=np.where(known, values[rows], 0.0).sum(axis=0),
                    sketch=sketches[group],
                    outcomes=sums[group],
                    magnitudes=magnitudes[group],
                )
            )
    return RegimeSummary(block_minutes=settings.block_minutes, cells=tuple(sorted(cells, key=_key)))


def _grouped_outcomes(
    measures: Floats, timestamps_ms: Ints, groups: Ints, n_groups: int, settings: LearningSettings
) -> BlockSums:
    """Block sums of each group: (groups, H, 3)."""
    parts = [
        grouped_block_sums(
            measures[:, column], block_ids(timestamps_ms, settings.block_minutes_of(horizon)), groups, n_groups
        )
        for column, horizon in enumerate(HORIZONS)
    ]
    return BlockSums(
        *(np.stack([getattr(part, name) for part in parts], axis=1) for name in BlockSums.__struct_fields__)
    )


def fold_regimes(state: RegimeState | None, summary: RegimeSummary) -> RegimeState:
    """Add a window to the windows before it; pure. The order of windows matters in the last bit of sums only.

    Raises
    ------
    InvalidRecordError
        If the window counts other blocks.
    """
    if state is None:
        return summary
    if state.block_minutes != summary.block_minutes:
        raise InvalidRecordError(
            f"blocks of {summary.block_minutes} minutes follow blocks of {state.block_minutes}.",
            remedy="Summaries of different settings are never mixed: consolidate the windows again.",
            field="summary",
        )
    merged = {_key(cell): cell for cell in state.cells}
    for cell in summary.cells:
        known = merged.get(_key(cell))
        merged[_key(cell)] = cell if known is None else _merge(known, cell)
    return RegimeSummary(block_minutes=state.block_minutes, cells=tuple(merged[key] for key in sorted(merged)))


def project_regimes(
    state: RegimeState,
    transitions: TransitionState,
    context: ProjectionContext,
    settings: TransitionSettings = DEFAULT_SETTINGS,
    learning: LearningSettings = DEFAULT_LEARNING,
) -> list[RegimeMemory]:
    """REGIME memories: for all products pooled, then for each product, every regime that was seen.

    Parameters
    ----------
    state, transitions
        Folded over the same windows.
    context
        What the memories have in common.
    settings
        Smoothing of the transition probabilities.
    learning
        Confidence of the base rates' intervals, and the blocks that they need.

    Returns
    -------
    Memories whose id depends on encoder, source, product and regime alone, so that tonight's is a version of last
    night's. `regime_features` holds ``name`` (mean), ``name.p10``, ``name.p50`` and ``name.p90``.
    """
    matrices = {item.product: item for item in project_transitions(transitions, settings)}
    totals: dict[str, int] = {}
    for cell in state.cells:
        totals[cell.product] = totals.get(cell.product, 0) + cell.states
    for cell in state.cells:
        if cell.product not in matrices:
            raise InvalidRecordError(
                f"{cell.product} has regimes but no transitions.",
                remedy="Fold transitions and regimes over the same windows.",
                field="transitions",
            )
    return [_memory(cell, totals[cell.product], matrices[cell.product], context, learning) for cell in state.cells]


def _memory(
    cell: RegimeCell,
    total: int,
    matrices: TransitionMatrices,
    context: ProjectionContext,
    learning: LearningSettings,
) -> RegimeMemory:
    name = REGIMES[cell.regime]
    length = float(np.linalg.norm(cell.vector_sum))
    if not length > 0:
        raise InvalidRecordError(
            f"the vectors of {name} in {cell.product} cancel out: their mean has no direction.",
            remedy="Look at the encoder: states of one regime should not be opposite.",
            field="vector_sum",
        )
    duration = matrices.median_duration_s[cell.regime]
    following = matrices.transition_probability[cell.regime]
    others = [code for code in range(_REGIME_COUNT) if code != cell.regime]
    share = cell.states / total
    return RegimeMemory(
        memory_id=context.memory_id("r", cell.product, name),
        description=_sentence(cell, share, duration, following),
        encoder_id=context.encoder_id,
        line=context.line,
        created_at=from_ms(cell.known_ms),
        valid_from=context.valid_from,
        source=context.source,
        regime_name=name,
        concept_vector=(cell.vector_sum / length).astype(np.float32),
        product_id=cell.product,
        regime_features=_features(cell),
        states=cell.states,
        share=share,
        typical_duration=duration,
        transition_probability={REGIMES[code]: float(following[code]) for code in others},
        step_probability={
            REGIMES[code]: float(matrices.step_probability[cell.regime, code]) for code in range(_REGIME_COUNT)
        },
        step_s=matrices.step_s,
        spells=int(matrices.spells[cell.regime]),
        path_probability={
            REGIMES[before]: {
                REGIMES[code]: float(matrices.path_probability[before, cell.regime, code]) for code in others
            }
            for before in others
        },
        base_rates=base_rates_of(cell, learning),
    )


def base_rates_of(cell: RegimeCell, settings: LearningSettings = DEFAULT_LEARNING) -> tuple[BaseRate, ...]:
    """What followed the states of a cell, one item a horizon of which any outcome is known."""
    low, high = block_interval(cell.outcomes, confidence=settings.confidence, min_blocks=settings.min_blocks)
    mean, spread, variance = block_mean(cell.outcomes), value_variance(cell.outcomes), block_variance(cell.outcomes)
    sizes = cell.magnitudes.quantiles(MAGNITUDE_SHARES)

    def figure(row: int, measure: int) -> BlockFigure | None:
        column = MEASURES.index(measure)
        sums = cell.outcomes[row, column]
        if not sums.n:
            return None
        ends = float(low[row, column]), float(high[row, column])
        return BlockFigure(
            n=int(sums.n),
            blocks=int(sums.blocks),
            mean=float(mean[row, column]),
            spread=_known(spread[row, column]),
            variance=_known(variance[row, column]),
            concentration=float(sums.n_squared / float(sums.n) ** 2),
            interval=None if np.isnan(ends).any() else Interval(low=ends[0], high=ends[1]),
        )

    rates = []
    for row, horizon in enumerate(HORIZONS):
        gross = figure(row, GROSS)
        if gross is not None:
            rates.append(
                BaseRate(
                    horizon_minutes=horizon,
                    gross=gross,
                    scaled=figure(row, SCALED),
                    volatility=figure(row, VOLATILITY),
                    magnitude_p90=_known(sizes[row, 0]),
                    magnitude_p95=_known(sizes[row, 1]),
                )
            )
    return tuple(rates)


def _known(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _features(cell: RegimeCell) -> dict[str, float]:
    quantiles = cell.sketch.quantiles([share for _, share in QUANTILES])
    features = {}
    for position, name in enumerate(cell.features):
        if cell.feature_count[position]:
            features[name] = float(cell.feature_sum[position] / cell.feature_count[position])
            for column, (suffix, _) in enumerate(QUANTILES):
                features[f"{name}.{suffix}"] = float(quantiles[position, column])
    return features


def _sentence(cell: RegimeCell, share: float, duration_s: float | None, following: Floats) -> str:
    where = "all products" if cell.product == ALL_PRODUCTS else cell.product
    lasts = "a spell's length is not known yet" if duration_s is None else f"a spell lasts {_duration(duration_s)}"
    likely = sorted(range(_REGIME_COUNT), key=lambda code: (-following[code], code))[:2]
    then = " or ".join(f"{REGIMES[code]} ({following[code]:.0%})" for code in likely)
    return f"{REGIMES[cell.regime]} in {where}: {share:.0%} of {cell.states / share:,.0f} states; {lasts}; then {then}."


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _key(cell: RegimeCell) -> tuple[bool, str, int]:
    return cell.product != ALL_PRODUCTS, cell.product, cell.regime


def _merge(left: RegimeCell, right: RegimeCell) -> RegimeCell:
    names = tuple(sorted({*left.features, *right.features}))
    count, total = np.zeros(len(names), dtype=np.int64), np.zeros(len(names))
    for cell in (left, right):
        places = [names.index(name) for name in cell.features]
        count[places] += cell.feature_count
        total[places] += cell.feature_sum
    return RegimeCell(
        product=left.product,
        regime=left.regime,
        known_ms=min(left.known_ms, right.known_ms),
        states=left.states + right.states,
        vector_sum=left.vector_sum + right.vector_sum,
        features=names,
        feature_count=count,
        feature_sum=total,
        sketch=left.sketch.merged_with(right.sketch),
        outcomes=left.outcomes.merged_with(right.outcomes),
        magnitudes=left.magnitudes.merged_with(right.magnitudes),
    )
