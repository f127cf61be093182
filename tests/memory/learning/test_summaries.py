from __future__ import annotations

import hashlib

import numpy as np
import pytest

from memory.errors import InvalidRecordError
from memory.learning.blocks import block_ids, block_sums
from memory.learning.null import null_ball_means
from memory.learning.outcomes import GROSS, compute_outcomes
from memory.learning.partitions import partition_seed
from memory.learning.serial import decode, encode
from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary, summarise_partition
from memory.learning.sums import OutcomeSums, rank_correlations
from memory.learning.support import occurrences
from memory.tables import ExperienceTable, StateTable

SETTINGS = LearningSettings()


def summarise(market, window, **changes):
    table, truth = market.states(0)
    arguments = {
        "states": table,
        "rows": np.arange(len(table)),
        "labels": truth,
        "broad": np.zeros(6, dtype=bool),
        "window": window(0),
        "regime": "QUIET",
        "settings": SETTINGS,
    } | changes
    return summarise_partition(**arguments)


def experiences(table: StateTable, agents: tuple[str, ...] = ("a1", "a2")) -> ExperienceTable:
    """Every agent in every state: a1 buys for 1 bp, a2 sells for -1 bp."""
    n = len(table)
    one = np.tile(np.ones(n), len(agents))
    index = np.repeat(np.arange(len(agents)), n)
    times = np.tile(table.timestamp_ms, len(agents))
    return ExperienceTable(
        encoder_id="enc",
        source="replay",
        agents=agents,
        products=(*table.products, "ZZZ-USD"),
        runs=("r",),
        agent=index,
        product=np.tile(table.product, len(agents)),
        run=np.zeros(n * len(agents), dtype=np.int64),
        timestamp_ms=times,
        known_at_ms=times,
        recorded_at_ms=times,
        step=np.zeros(n * len(agents), dtype=np.int64),
        regime=np.zeros(n * len(agents), dtype=np.int64),
        side=np.where(index == 0, 1, -1),
        size=one,
        reward=np.where(index == 0, 1e-4, -1e-4),
        gross_return=one,
        cost=one,
        position_before=one,
        position_after=one,
        confidence=one,
        quality=one,
        terminal=np.zeros(n * len(agents), dtype=bool),
    )


def test_the_same_input_gives_the_same_bytes(market, window) -> None:
    assert encode(summarise(market, window)) == encode(summarise(market, window))


def test_a_summary_survives_being_written_and_read(market, window) -> None:
    data = encode(summarise(market, window))
    assert encode(decode(data, PartitionSummary)) == data


def test_each_cluster_is_what_its_states_say(market, window) -> None:
    table, truth = market.states(0)
    outcomes = compute_outcomes(table, SETTINGS).measures
    summary = summarise(market, window)
    for label, cluster in enumerate(summary.clusters):
        rows = np.flatnonzero(truth == label)
        assert cluster.states == len(rows)
        np.testing.assert_allclose(cluster.vector_sum, table.vectors[rows].sum(axis=0, dtype=np.float64), atol=1e-9)
        assert cluster.occurrences == occurrences(table.timestamp_ms[rows])
        assert sum(cluster.products.values()) == len(rows)
        expected = block_sums(outcomes[rows, 2, GROSS], block_ids(table.timestamp_ms[rows], 30))
        assert cluster.outcomes.blocks.total[2, GROSS] == pytest.approx(float(expected.total), abs=1e-12)
        assert cluster.outcomes.blocks.cross[2, GROSS] == pytest.approx(float(expected.cross), abs=1e-12)
        assert cluster.outcomes.block_returns.count[2, GROSS] == expected.blocks


def test_the_base_rate_is_over_all_states_noise_included(market, window) -> None:
    summary = summarise(market, window)
    table, truth = market.states(0)
    known = np.isfinite(compute_outcomes(table, SETTINGS).measures[:, 1, GROSS])
    assert summary.base.blocks.n[1, GROSS] == known.sum()
    assert summary.noise == (truth < 0).sum()
    assert summary.noise_share == pytest.approx((truth < 0).mean())


def test_outcomes_look_beyond_the_partition(market, window) -> None:
    """A forward return may end in a state of another regime."""
    table, truth = market.states(0)
    rows = np.flatnonzero(table.timestamp_ms % 120_000 == 0)
    labels = np.where(truth[rows] == 0, 0, -1)
    part = summarise(market, window, rows=rows, labels=labels, broad=[False])
    assert part.base.blocks.n[0, GROSS] > 0.9 * len(rows)


def test_founding_ids_depend_on_members_and_window_only(market, window) -> None:
    summary = summarise(market, window)
    table, truth = market.states(0)
    keys = [
        key
        for key, inside in sorted(
            (f"{table.products[p]}@{t}", label == 2)
            for p, t, label in zip(table.product, table.timestamp_ms, truth, strict=True)
        )
        if inside
    ]
    text = "\x1f".join(["enc/replay/QUIET", window(0).name, *keys])
    assert summary.clusters[2].founding_id == f"p-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def test_null_balls_are_those_of_the_null(market, window) -> None:
    summary = summarise(market, window)
    table, truth = market.states(0)
    sizes = [cluster.states for cluster in summary.clusters]
    seed = partition_seed(window(0).name, "enc", "replay", "QUIET")
    (null,) = summary.nulls
    assert (null.home, null.labels.tolist()) == ("QUIET", list(range(6)))
    np.testing.assert_array_equal(null.ball_means, null_ball_means(table.vectors, sizes, seed, labels=truth))
    assert summary.ball_sums.n.shape == (null.ball_means.shape[0] * len(sizes), 3)
    assert (summary.ball_sums.n[:, GROSS] <= np.tile(sizes, null.ball_means.shape[0])).all()


def test_realised_outcomes_are_joined_by_product_and_time(market, window) -> None:
    table, truth = market.states(0)
    summary = summarise(market, window, experiences=experiences(table))
    for label, cluster in enumerate(summary.clusters):
        n = int((truth == label).sum())
        assert {name: (sums.n, sums.wins) for name, sums in cluster.realised.items()} == {
            "a1/BUY": (n, n),
            "a2/SELL": (n, 0),
        }
        assert cluster.realised["a1/BUY"].total == pytest.approx(n * 1e-4)


def test_experiences_without_a_state_are_left_out(market, window) -> None:
    table, _ = market.states(0)
    elsewhere = experiences(table)
    elsewhere.timestamp_ms[:] += 1
    assert all(not cluster.realised for cluster in summarise(market, window, experiences=elsewhere).clusters)


def test_a_partition_without_clusters_has_a_base_rate_and_no_null(market, window) -> None:
    table, _ = market.states(0)
    summary = summarise(market, window, labels=np.full(len(table), -1), broad=[])
    assert summary.clusters == ()
    assert summary.nulls == ()
    assert len(summary.ball_sums.n) == 0
    assert summary.base.blocks.n[0, GROSS] > 0


def test_settings_are_named_in_the_summary(market, window) -> None:
    plain = summarise(market, window).settings_hash
    assert summarise(market, window, clustering={"min_cluster_size": 10}).settings_hash != plain
    assert summarise(market, window, settings=LearningSettings(cost_bp=3.0)).settings_hash != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"broad": np.zeros(5, dtype=bool)}, "5 flags"),
        ({"labels": np.zeros(3, dtype=int)}, "labels"),
        ({"rows": np.arange(2880)[::-1]}, "must ascend"),
    ],
)
def test_what_does_not_fit_is_refused(market, window, changes, message: str) -> None:
    with pytest.raises(InvalidRecordError, match=message):
        summarise(market, window, **changes)


def test_states_of_another_regime_are_refused_but_in_the_pooled_partition(market, window) -> None:
    with pytest.raises(InvalidRecordError, match="the partition CRISIS of 2021-06-17 holds states of QUIET"):
        summarise(market, window, regime="CRISIS")
    pooled = summarise(market, window, regime="MIXED")
    assert {cluster.home for cluster in pooled.clusters} == {"QUIET"}
    assert [cluster.founding_id for cluster in pooled.clusters] == [
        cluster.founding_id for cluster in summarise(market, window).clusters
    ]


def test_the_largest_run_is_the_occurrence_that_holds_most_states(market, window) -> None:
    table, truth = market.states(0)
    summary = summarise(market, window)
    for label, cluster in enumerate(summary.clusters):
        times = np.sort(table.timestamp_ms[truth == label])
        cuts = np.flatnonzero(np.diff(times) >= SETTINGS.separation_minutes * 60_000) + 1
        runs = np.split(times, cuts)
        assert len(runs) == cluster.occurrences.count
        assert cluster.largest_run == max(map(len, runs))


def test_states_of_another_window_are_refused(market, window) -> None:
    with pytest.raises(InvalidRecordError, match="do not lie in the window"):
        summarise(market, lambda number: window(number + 1))


def test_sums_of_two_windows_equal_those_of_both_at_once(market) -> None:
    first, second = market.summary(0).base, market.summary(1).base
    merged = first.merged_with(second)
    assert isinstance(merged, OutcomeSums)
    tables = [market.states(number)[0] for number in (0, 1)]
    values = np.concatenate([compute_outcomes(table, SETTINGS).measures[:, 2, GROSS] for table in tables])
    blocks = block_ids(np.concatenate([table.timestamp_ms for table in tables]), 30)
    whole = block_sums(values, blocks)
    for name in ("n", "blocks", "n_squared", "total", "total_squared", "cross", "squares"):
        assert getattr(merged.blocks, name)[2, GROSS] == pytest.approx(float(getattr(whole, name)), rel=1e-9, abs=1e-12)


def test_rank_correlations_are_those_of_spearman() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    values = rng.standard_normal((200, 3))
    values[:, 1] = np.exp(values[:, 0])
    values[:, 2] = np.round(values[:, 2])
    found = rank_correlations(values, ("a", "b", "c"))
    np.testing.assert_allclose(found, stats.spearmanr(values).statistic, atol=1e-12)
    assert rank_correlations(np.ones((5, 2)), ("a", "b")).tolist() == [[0, 0], [0, 0]]
