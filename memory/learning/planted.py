"""States with planted patterns: data whose right answer is known, to judge a clustering by.

Real nights have no labels. This generator makes unit vectors that are shaped like an encoder's (random Fourier features
of points on a manifold of few dimensions) with patterns of power-law sizes and uneven density, noise between them,
bridges that tempt a clustering to join patterns, and near-duplicates. Tests and benchmarks use it; so may anyone who
changes a setting of the clustering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.stats import chi2

from memory.errors import InvalidRecordError
from memory.records import VECTOR_DIMENSION

NOISE = -1
"""Label of a state that belongs to no pattern."""


@dataclass(frozen=True, slots=True)
class PlantedStates:
    """Unit vectors and the pattern each belongs to.

    Attributes
    ----------
    vectors
        (n, dimension) float32 unit rows, in random order.
    labels
        (n,) int64: 0 is the largest pattern; `NOISE` is none.
    """

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def planted_states(
    n_states: int,
    *,
    random_state: int,
    n_patterns: int = 64,
    largest_share: float = 0.10,
    smallest_size: int = 12,
    noise_share: float = 0.40,
    bridge_share: float = 0.30,
    density_ratio: float = 4.0,
    near_duplicate_share: float = 0.05,
    manifold_dimension: int = 12,
    dimension: int = VECTOR_DIMENSION,
) -> PlantedStates:
    """Draw states with planted patterns.

    Parameters
    ----------
    n_states
        States in all.
    random_state
        Seed.
    n_patterns
        Patterns; their sizes follow a power law.
    largest_share
        Share of all states that the largest pattern holds.
    smallest_size
        No pattern is smaller.
    noise_share
        Share of all states that belong to no pattern.
    bridge_share
        Share of the noise that lies on lines between two patterns, anywhere on the line that is outside the patterns:
        a point within the radius that holds 99 % of a pattern's states would be a state of it, and is drawn again.
        The rest of the noise is uniform over the manifold.
    density_ratio
        How many times further apart the states of the sparsest pattern are than those of the densest.
    near_duplicate_share
        Share of the states that are replaced by a barely moved copy of a state of the same label.
    manifold_dimension
        Dimension of the manifold that the states lie on.
    dimension
        Dimension of the vectors.

    Returns
    -------
    `PlantedStates`. Cost: O(n_states * manifold_dimension * dimension).
    """
    generator = np.random.default_rng(random_state)
    n_noise = round(n_states * noise_share)
    sizes = _power_law_sizes(n_states - n_noise, n_patterns, round(n_states * largest_share), smallest_size)
    centres = _spread_centres(generator, n_patterns, manifold_dimension)
    # Size and spread are independent: the largest pattern is neither always the densest nor the sparsest.
    spreads = _DENSEST_SPREAD * density_ratio ** generator.permutation(np.linspace(0.0, 1.0, n_patterns))
    labels = np.repeat(np.arange(n_patterns), sizes)
    patterns = centres[labels] + generator.standard_normal((len(labels), manifold_dimension)) * spreads[labels, None]
    n_bridges = round(n_noise * bridge_share)
    bridges = _bridges(generator, n_bridges, centres, spreads)
    uniform = generator.uniform(-1.0, 1.0, (n_noise - n_bridges, manifold_dimension))
    points = np.concatenate([patterns, bridges, uniform])
    labels = np.concatenate([labels, np.full(n_noise, NOISE)])

    copies = np.flatnonzero(generator.random(n_states) < near_duplicate_share)
    for label in np.unique(labels[copies]):
        targets = copies[labels[copies] == label]
        originals = generator.choice(np.flatnonzero(labels == label), len(targets))
        points[targets] = points[originals] + generator.standard_normal((len(targets), manifold_dimension)) * 1e-5

    order = generator.permutation(n_states)
    return PlantedStates(
        vectors=_fourier_features(generator, points[order], dimension), labels=labels[order].astype(np.int64)
    )


_DENSEST_SPREAD = 0.04
"""Standard deviation of the densest pattern in each direction, where the manifold is the cube from -1 to 1."""
_BRIDGE_SPREAD = 0.05
"""Standard deviation of bridges around their line in each direction."""
_OWN_SHARE = 0.99
"""Share of a pattern's states that its own radius holds."""
_BANDWIDTH = 2.0
"""Length over which the kernel of the Fourier features falls to exp(-1/2): that of an encoder's median heuristic."""


def _power_law_sizes(total: int, n_patterns: int, largest: int, smallest: int) -> npt.NDArray[np.int64]:
    """Sizes proportional to rank ** -exponent, from `largest` to at least `smallest`, adding up to `total`."""
    ranks = np.arange(1, n_patterns + 1, dtype=np.float64)
    if not largest + smallest * (n_patterns - 1) <= total <= largest * n_patterns:
        raise InvalidRecordError(
            f"{n_patterns} patterns from {smallest} to {largest} states cannot add up to {total}.",
            remedy="Change the number of states, of patterns, or the largest share.",
            field="n_patterns",
        )

    def sizes_at(exponent: float) -> npt.NDArray[np.float64]:
        return np.maximum(largest * ranks**-exponent, smallest)

    exponent = brentq(lambda value: float(sizes_at(value).sum()) - total, 0.0, 8.0)
    sizes = np.floor(sizes_at(exponent)).astype(np.int64)
    missing = total - int(sizes.sum())
    sizes[1 : 1 + missing] += 1
    return sizes


def _spread_centres(generator: np.random.Generator, n_centres: int, manifold_dimension: int) -> npt.NDArray[np.float64]:
    """Centres in the cube: each the furthest from those before it out of a few drawn at random."""
    centres = generator.uniform(-0.9, 0.9, (1, manifold_dimension))
    while len(centres) < n_centres:
        drawn = generator.uniform(-0.9, 0.9, (8, manifold_dimension))
        nearest = np.linalg.norm(drawn[:, None] - centres[None], axis=2).min(axis=1)
        centres = np.concatenate([centres, drawn[[int(np.argmax(nearest))]]])
    return centres


def _bridges(
    generator: np.random.Generator,
    n_bridges: int,
    centres: npt.NDArray[np.float64],
    spreads: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Points on lines between two patterns, drawn again where they fall within a pattern's own radius."""
    n_patterns, manifold_dimension = centres.shape
    bridges = np.empty((n_bridges, manifold_dimension))
    if n_bridges and n_patterns < 2:
        raise InvalidRecordError(
            f"{n_patterns} patterns have no line between them.",
            remedy="Plant at least two patterns, or no bridges.",
            field="bridge_share",
        )
    # The squared length of a state's offset over its spread is chi-squared, one degree of freedom a direction.
    reach = np.sqrt(chi2.ppf(_OWN_SHARE, manifold_dimension)) * spreads
    missing = np.arange(n_bridges)
    for _ in range(_BRIDGE_ATTEMPTS):
        if not len(missing):
            return bridges
        first = generator.integers(0, n_patterns, len(missing))
        second = (first + generator.integers(1, n_patterns, len(missing))) % n_patterns
        position = generator.uniform(0.0, 1.0, (len(missing), 1))
        drawn = centres[first] * position + centres[second] * (1 - position)
        drawn += generator.standard_normal(drawn.shape) * _BRIDGE_SPREAD
        bridges[missing] = drawn
        missing = missing[(cdist(drawn, centres) <= reach).any(axis=1)]
    if not len(missing):
        return bridges
    raise InvalidRecordError(
        f"{len(missing)} of {n_bridges} bridges found no place outside the patterns.",
        remedy="Plant fewer or denser patterns, or no bridges.",
        field="bridge_share",
    )


_BRIDGE_ATTEMPTS = 1_000
"""Draws of one bridge: where nine places in ten are within patterns, one bridge in 10^45 needs more."""


def _fourier_features(
    generator: np.random.Generator, points: npt.NDArray[np.float64], dimension: int
) -> npt.NDArray[np.float32]:
    """Random Fourier features (Rahimi & Recht 2007), scaled to unit length."""
    frequencies = generator.standard_normal((points.shape[1], dimension)) / _BANDWIDTH
    phases = generator.uniform(0.0, 2 * np.pi, dimension)
    vectors = np.empty((len(points), dimension), dtype=np.float32)
    for begin in range(0, len(points), _ROWS_AT_ONCE):
        features = np.cos(points[begin : begin + _ROWS_AT_ONCE] @ frequencies + phases)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        vectors[begin : begin + _ROWS_AT_ONCE] = features
    return vectors


_ROWS_AT_ONCE = 65_536
"""Rows computed in float64 at once: of a million they would take several gigabytes."""
