from __future__ import annotations

import numpy as np
import pytest

from memory.learning.blocks import BlockSums, block_sums, block_variance, grouped_block_sums, value_variance
from memory.learning.figures import (
    Changed,
    Estimates,
    Prior,
    anchors,
    best_actions,
    moderated_variance,
    p_values,
    read_figures,
    sharpe_with,
    within_block_correlation,
)
from memory.learning.outcomes import FLAT, GROSS, LONG_NET, N_MEASURES, SCALED, SHORT_NET, VOLATILITY
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Moments, sharpe

SETTINGS = LearningSettings()


def test_one_block_has_the_variance_of_one_value() -> None:
    sums = block_sums(np.array([1.0, 1.1, 0.9]), np.zeros(3, dtype=int))
    assert moderated_variance(sums, np.array(4.0), 7.0) == pytest.approx(4.0)


def test_many_blocks_speak_for_themselves() -> None:
    values = np.random.default_rng(0).standard_normal(4000)
    sums = block_sums(values, np.arange(4000))
    assert moderated_variance(sums, value_variance(sums) * 10, 7.0) == pytest.approx(
        float(block_variance(sums)), rel=0.05
    )


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_correlation_within_blocks_is_found(rho: float) -> None:
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(3000), 8)
    values = np.sqrt(rho) * rng.standard_normal(3000)[blocks] + np.sqrt(1 - rho) * rng.standard_normal(len(blocks))
    assert within_block_correlation(block_sums(values, blocks)) == pytest.approx(rho, abs=0.03)


def test_values_that_do_not_depend_on_their_block_need_fewer_blocks() -> None:
    sums = block_sums(np.array([1.0, 1.1, 0.9]), np.zeros(3, dtype=int))
    assert moderated_variance(sums, np.array(3.0), 7.0, 0.0) == pytest.approx(1.0)


def test_only_predictions_of_the_next_minute_are_shrunk_by_what_is_measured() -> None:
    rng = np.random.default_rng(4)
    values = np.repeat(rng.standard_normal((6000, 1)), N_MEASURES, axis=1)
    base = BlockSums.stack([block_sums(values, np.arange(6000) // 20)] * len(HORIZONS))
    own = BlockSums.stack([block_sums(values[:60], np.arange(60) // 20)] * len(HORIZONS))
    variance = Estimates.of(own, base, np.zeros((len(HORIZONS), N_MEASURES)), SETTINGS).variance
    safe = variance[0, GROSS]
    assert variance[0, VOLATILITY] == variance[0, SCALED] < 0.5 * safe
    np.testing.assert_array_equal(variance[1:], safe)
    np.testing.assert_array_equal(variance[0, [GROSS, LONG_NET, SHORT_NET]], safe)


def test_without_values_the_variance_is_unknown() -> None:
    assert np.isnan(moderated_variance(BlockSums.empty(()), np.array(1.0), 7.0))


def test_best_action_is_the_one_that_gains_most_or_flat() -> None:
    net = np.array([[0.2, 0.1], [-0.1, 0.3], [-0.1, -0.2], [0.0, -1.0]])
    assert best_actions(net).tolist() == [0, 1, 2, 2]


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(2000), 30)
    sums = grouped_block_sums(rng.standard_normal(len(groups)), np.tile(np.arange(30), 2000), groups, 2000)
    p = p_values(sums, np.zeros(2000), SETTINGS)
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    few = block_sums(rng.standard_normal(7), np.arange(7))
    assert np.isnan(p_values(few, np.zeros(()), SETTINGS))


def test_a_moderated_sharpe_of_many_blocks_is_the_plain_one() -> None:
    returns = Moments.of(np.random.default_rng(1).standard_normal((3000, 2)) * 0.01 + 0.001)
    base = Moments.of(np.random.default_rng(2).standard_normal((3000, 2)) * 0.01)
    np.testing.assert_allclose(
        sharpe_with(returns.mean, returns, base, 365.0, SETTINGS), sharpe(returns, 365.0), rtol=0.01
    )


def test_two_lucky_blocks_make_no_huge_sharpe() -> None:
    lucky = Moments.of(np.array([[0.0100, 0.0], [0.0101, 0.0]]))
    base = Moments.of(np.random.default_rng(2).standard_normal((3000, 2)) * 0.01)
    assert sharpe_with(lucky.mean, lucky, base, 1.0, SETTINGS)[0] < 2
    assert sharpe(lucky, 1.0)[0] > 100


def test_shrinkage_keeps_long_and_short_mirror_images_up_to_costs(market) -> None:
    summary = market.summary(0)
    bases = {summary.partition: summary.base}
    changed = [Changed(summary.partition, cluster.outcomes, ()) for cluster in summary.clusters]
    for figures in read_figures("w", changed, bases, [], SETTINGS):
        cost = figures.mean[:, GROSS] - figures.mean[:, LONG_NET]
        np.testing.assert_allclose(figures.shrunk[:, LONG_NET] + figures.shrunk[:, SHORT_NET], -2 * cost, atol=1e-9)


def test_the_drift_of_a_day_is_no_base_rate_but_volatility_is(market) -> None:
    """The test market is a random walk: whatever it did that day must not become advice."""
    base = market.summary(0).base
    anchor = anchors({"one": base, "two": market.summary(1).base, "three": market.summary(2).base}, SETTINGS)["one"]
    means = base.blocks.total / base.blocks.n
    assert (np.abs(anchor[:, GROSS]) <= np.abs(means[:, GROSS])).all()
    assert abs(anchor[2, GROSS]) < 0.5 * abs(means[2, GROSS])
    np.testing.assert_array_equal(anchor[:, VOLATILITY], means[:, VOLATILITY])
    assert anchors({}, SETTINGS) == {}


def test_a_true_edge_is_found_and_noise_is_flat(market) -> None:
    """One pattern of many is made to gain 1 % a quarter of an hour: it alone is named, and its q-value is small."""
    import msgspec

    summary = market.summary(0)
    lifted = summary.clusters[0].outcomes
    shift = 0.01 * lifted.blocks.n
    blocks = msgspec.structs.replace(
        lifted.blocks,
        total=lifted.blocks.total + shift * np.array([1, 1, -1, 0, 0]),
        total_squared=lifted.blocks.total_squared
        + 2 * 0.01 * lifted.blocks.cross * np.array([1, 1, -1, 0, 0])
        + 0.01**2 * lifted.blocks.n_squared * np.array([1, 1, 1, 0, 0]),
        cross=lifted.blocks.cross + 0.01 * lifted.blocks.n_squared * np.array([1, 1, -1, 0, 0]),
    )
    outcomes = [msgspec.structs.replace(lifted, blocks=blocks), *(item.outcomes for item in summary.clusters[1:])]
    changed = [Changed(summary.partition, item, ()) for item in outcomes]
    figures = read_figures("w", changed, {summary.partition: summary.base}, [], SETTINGS)
    assert figures[0].best_action == "LONG"
    assert figures[0].q_value[2] < 0.05
    assert figures[0].shrunk[2, GROSS] < figures[0].mean[2, GROSS]


def test_without_patterns_nothing_differs_from_the_base() -> None:
    assert (Prior.of(Estimates.stack([])).between == 0).all()
    assert read_figures("w", [], {}, [], SETTINGS) == []


def test_in_a_random_walk_nothing_beats_the_costs(market) -> None:
    summary = market.summary(0)
    changed = [Changed(summary.partition, cluster.outcomes, ()) for cluster in summary.clusters]
    figures = read_figures("w", changed, {summary.partition: summary.base}, [], SETTINGS)
    assert [item.best_action for item in figures] == [FLAT] * 6
    assert all(item.best_mean == 0.0 for item in figures)
