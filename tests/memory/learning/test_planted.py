"""The generator of planted patterns keeps what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from memory.learning.planted import NOISE, _bridges, planted_states


@pytest.mark.parametrize("n_states", [4_320, 20_000])
def test_shares_and_sizes_are_as_asked(n_states: int) -> None:
    labels = planted_states(n_states, random_state=0).labels
    sizes = np.bincount(labels[labels >= 0])
    assert len(sizes) >= 60
    assert sizes[0] == round(0.10 * n_states)
    assert np.mean(labels == NOISE) == pytest.approx(0.40, abs=1 / n_states)
    assert sizes.min() >= 12
    assert np.all(np.diff(sizes) <= 0)


def test_sizes_follow_a_power_law() -> None:
    labels = planted_states(20_000, random_state=0).labels
    sizes = np.bincount(labels[labels >= 0]).astype(float)
    rank = np.log(np.arange(1, len(sizes) + 1))
    residual = np.log(sizes) - np.polyval(np.polyfit(rank, np.log(sizes), 1), rank)
    assert np.abs(residual).max() < 0.05


def test_densities_are_a_factor_of_four_apart() -> None:
    states = planted_states(20_000, random_state=0, near_duplicate_share=0.0)
    spreads = []
    for label in range(64):
        members = states.vectors[states.labels == label].astype(float)
        spreads.append(np.sqrt(np.mean(np.sum((members - members.mean(axis=0)) ** 2, axis=1))))
    assert 3.0 < max(spreads) / min(spreads) < 5.0


def test_rows_are_unit_float32() -> None:
    vectors = planted_states(1_000, random_state=0, n_patterns=12).vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_near_duplicates_are_there() -> None:
    states = planted_states(1_000, random_state=0, n_patterns=12, near_duplicate_share=0.2)
    cosines = states.vectors.astype(float) @ states.vectors.T.astype(float)
    np.fill_diagonal(cosines, -1)
    assert np.mean(cosines.max(axis=1) > 1 - 1e-6) > 0.2


def test_the_seed_decides() -> None:
    first, again, other = (planted_states(1_000, random_state=seed, n_patterns=12) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


def test_sizes_that_cannot_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot add up"):
        planted_states(500, random_state=0)


def test_bridges_lie_anywhere_between_patterns_but_in_none() -> None:
    generator = np.random.default_rng(4)
    centres = generator.uniform(-0.9, 0.9, (40, 12))
    spreads = np.linspace(0.04, 0.16, 40)
    bridges = _bridges(generator, 2_000, centres, spreads)
    # The offset of a state in units of its pattern's spread: 99 % of a pattern's own states lie below 5.12.
    offsets = np.linalg.norm(bridges[:, None] - centres[None], axis=2) / spreads
    assert offsets.min() > 5.12
    assert np.mean(offsets.min(axis=1) < 7.0) > 0.1


def test_bridges_without_a_place_are_refused() -> None:
    generator = np.random.default_rng(4)
    with pytest.raises(ValueError, match="no place outside the patterns"):
        _bridges(generator, 10, np.zeros((2, 12)), np.full(2, 1.0))


def test_one_pattern_has_no_bridges() -> None:
    with pytest.raises(ValueError, match="no line between"):
        planted_states(1_000, random_state=0, n_patterns=1, largest_share=0.6)
