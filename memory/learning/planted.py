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
        Share of the noise that lies on lines between two patterns; the rest is uniform over the manifold.
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
    ends = np.array([generator.choice(n_patterns, 2, replace=False) for _ in range(n_bridges)]).reshape(-1, 2)
    position = generator.uniform(_BRIDGE_ENDS[0], _BRIDGE_ENDS[1], (n_bridges, 1))
    bridges = centres[ends[:, 0]] * position + centres[ends[:, 1]] * (1 - position)
    bridges += generator.standard_normal(bridges.shape) * _BRIDGE_SPREAD
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
_BRIDGE_ENDS = (0.2, 0.8)
"""Stretch of the line between two centres that bridges lie on: nearer the ends they would be part of a pattern."""
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


def _fourier_features(
    generator: np.random.Generator, points: npt.NDArray[np.float64], dimension: int
) -> npt.NDArray[np.float32]:
    """Random Fourier features (Rahimi & Recht 2007), scaled to unit length."""
    frequencies = generator.standard_normal((points.shape[1], dimension)) / _BANDWIDTH
    phases = generator.uniform(0.0, 2 * np.pi, dimension)
    features = np.cos(points @ frequencies + phases)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32)
