"""What each regime looks like: mean vector, features and share of its states, product by product and pooled.

Together with the transitions (how long it lasts, what follows) this becomes one REGIME memory a regime and product, and
one for all products pooled.
"""

from __future__ import annotations

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.context import ProjectionContext
from memory.learning.sketches import FeatureSketch, grouped_sketches
from memory.learning.transition_matrices import ALL_PRODUCTS, TransitionMatrices, project_transitions
from memory.learning.transitions import DEFAULT_SETTINGS, TransitionSettings, TransitionState
from memory.records import REGIMES, RegimeMemory, from_ms, to_ms
from memory.tables import Floats, Ints, StateTable
from memory.window import Window

QUANTILES: tuple[tuple[str, float], ...] = (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))
"""Quantiles of each feature that a REGIME memory holds, beside the mean."""

_REGIME_COUNT = len(REGIMES)


class RegimeCell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """States of one product in one regime.

    Attributes
    ----------
    product, regime
        Product id and code in REGIMES.
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


class RegimeSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All cells of one window, or, as the fold's state, of all windows so far; sorted by product and regime."""

    cells: tuple[RegimeCell, ...]


RegimeState = RegimeSummary


def summarise_regimes(states: StateTable, window: Window) -> RegimeSummary:
    """Condense one window's states; depends on that window alone.

    Parameters
    ----------
    states
        Distinct states in canonical order.
    window
        The window that they lie in.

    Returns
    -------
    One cell for each product and regime that has states. Cost: O(n (dimension + features)).
    """
    order = sorted(range(len(states.feature_names)), key=states.feature_names.__getitem__)
    names = tuple(states.feature_names[position] for position in order)
    values = states.features[:, order]
    groups = states.product * _REGIME_COUNT + states.regime
    sketches = grouped_sketches(values, names, groups, len(states.products) * _REGIME_COUNT)
    cells = []
    for group in np.unique(groups).tolist():
        rows = np.flatnonzero(groups == group)
        known = ~np.isnan(values[rows])
        cells.append(
            RegimeCell(
                product=states.products[group // _REGIME_COUNT],
                regime=group % _REGIME_COUNT,
                known_ms=to_ms(window.end),
                states=len(rows),
                vector_sum=states.vectors[rows].sum(axis=0, dtype=np.float64),
                features=names,
                feature_count=known.sum(axis=0).astype(np.int64),
                feature_sum=np.where(known, values[rows], 0.0).sum(axis=0),
                sketch=sketches[group],
            )
        )
    return RegimeSummary(cells=tuple(sorted(cells, key=_key)))


def fold_regimes(state: RegimeState | None, summary: RegimeSummary) -> RegimeState:
    """Add a window to the windows before it; pure. The order of windows matters in the last bit of sums only."""
    merged = {} if state is None else {_key(cell): cell for cell in state.cells}
    for cell in summary.cells:
        known = merged.get(_key(cell))
        merged[_key(cell)] = cell if known is None else _merge(known, cell)
    return RegimeSummary(cells=tuple(merged[key] for key in sorted(merged)))


def project_regimes(
    state: RegimeState,
    transitions: TransitionState,
    context: ProjectionContext,
    settings: TransitionSettings = DEFAULT_SETTINGS,
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

    Returns
    -------
    Memories whose id depends on encoder, source, product and regime alone, so that tonight's is a version of last
    night's. `regime_features` holds ``name`` (mean), ``name.p10``, ``name.p50`` and ``name.p90``.
    """
    matrices = {item.product: item for item in project_transitions(transitions, settings)}
    pooled: dict[int, RegimeCell] = {}
    for cell in state.cells:
        known = pooled.get(cell.regime)
        whole = msgspec.structs.replace(cell, product=ALL_PRODUCTS)
        pooled[cell.regime] = whole if known is None else _merge(known, whole)
    cells = [*(pooled[regime] for regime in sorted(pooled)), *state.cells]
    totals: dict[str, int] = {}
    for cell in cells:
        totals[cell.product] = totals.get(cell.product, 0) + cell.states
    for cell in cells:
        if cell.product not in matrices:
            raise InvalidRecordError(
                f"{cell.product} has regimes but no transitions.",
                remedy="Fold transitions and regimes over the same windows.",
                field="transitions",
            )
    return [_memory(cell, totals[cell.product], matrices[cell.product], context) for cell in cells]


def _memory(cell: RegimeCell, total: int, matrices: TransitionMatrices, context: ProjectionContext) -> RegimeMemory:
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
    )


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


def _key(cell: RegimeCell) -> tuple[str, int]:
    return cell.product, cell.regime


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
    )
