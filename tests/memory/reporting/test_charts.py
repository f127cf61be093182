"""Charts: what they draw from, and what they refuse."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.records import REGIMES
from memory.reporting import ReportData
from memory.reporting.charts.latency import quantiles
from memory.reporting.charts.markets import spells
from memory.reporting.charts.nights import NIGHTS_DRAWN, pattern_history
from memory.reporting.charts.patterns import MAP_STATES, projected, thinned
from memory.reporting.charts.strategies import sharpe_ratios
from memory.reporting.data import LatencySeries, NightCounts, PricePath
from memory.reporting.svg import Marks, axes_of, drawing, inline_svg
from memory.reporting.theme import CSS_VARIABLES

MINUTE = 60_000


def path_of(regimes: list[str], minutes: list[int]) -> PricePath:
    times = np.array(minutes, dtype=np.int64) * MINUTE
    return PricePath(product_id="BTC-USD", timestamp_ms=times, price=np.ones(len(times)), regimes=tuple(regimes))


def test_a_spell_ends_where_the_next_regime_begins() -> None:
    found = spells(path_of(["QUIET", "QUIET", "CRISIS"], [0, 1, 2]))
    assert found == [("QUIET", 0, 2 * MINUTE), ("CRISIS", 2 * MINUTE, 3 * MINUTE)]


def test_a_gap_of_more_than_five_minutes_ends_a_spell_and_five_do_not() -> None:
    assert spells(path_of(["QUIET", "QUIET"], [0, 5])) == [("QUIET", 0, 6 * MINUTE)]
    assert spells(path_of(["QUIET", "QUIET"], [0, 6])) == [("QUIET", 0, MINUTE), ("QUIET", 6 * MINUTE, 7 * MINUTE)]


@given(st.lists(st.tuples(st.sampled_from(REGIMES), st.integers(min_value=1, max_value=12)), min_size=1, max_size=60))
def test_spells_cover_every_state_once_and_never_overlap(steps: list[tuple[str, int]]) -> None:
    regimes = [regime for regime, _ in steps]
    minutes = np.cumsum([step for _, step in steps]).tolist()
    found = spells(path_of(regimes, minutes))
    for (_, _, end), (_, start, _) in itertools.pairwise(found):
        assert end <= start
    for regime, minute in zip(regimes, minutes, strict=True):
        holders = [name for name, start, end in found if start <= minute * MINUTE < end]
        assert holders == [regime]


def test_the_map_is_the_principal_plane(full: ReportData) -> None:
    points, states, shares = projected(full.patterns, full.states)
    assert points.shape == (len(full.patterns), 2)
    assert len(states) == MAP_STATES
    vectors = np.array([p.concept_vector for p in full.patterns], dtype=np.float64)
    both = np.concatenate([vectors, np.asarray(full.states.vectors[thinned(len(full.states.vectors))])])
    singular = np.linalg.svd(both - both.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(shares, (singular**2 / np.sum(singular**2))[:2], rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(np.vstack([points, states]), axis=0), singular[:2], rtol=1e-9)


def test_a_single_pattern_sits_at_the_origin(full: ReportData) -> None:
    points, states, shares = projected(full.patterns[:1], None)
    np.testing.assert_allclose(points, 0.0, atol=1e-12)
    assert states.shape == (0, 2)
    assert np.isfinite(shares).all()


@given(st.integers(min_value=0, max_value=5000))
def test_thinning_keeps_order_ends_and_bound(n: int) -> None:
    rows = thinned(n)
    assert len(rows) == min(n, MAP_STATES)
    assert (np.diff(rows) > 0).all()
    if n > 1:
        assert (rows[0], rows[-1]) == (0, n - 1)


def test_latency_quantiles_are_those_of_the_samples() -> None:
    samples = np.arange(1.0, 101.0)
    np.testing.assert_allclose(quantiles(LatencySeries(name="x", samples_ms=samples)), [50.5, 95.05, 99.01])


def test_only_the_latest_nights_are_drawn() -> None:
    nights = [NightCounts(window_name=f"2021-{1 + i // 28:02d}-{1 + i % 28:02d}", patterns_new=1) for i in range(100)]
    with drawing():
        chart = pattern_history(nights)
    assert f"over {NIGHTS_DRAWN} nights" in chart
    assert nights[-1].window_name[5:] in chart


def test_a_colour_outside_the_theme_is_refused() -> None:
    with drawing():
        figure, axes = axes_of(100, 100)
        axes.plot([0, 1], [0, 1], color="#123456")
        with pytest.raises(ValueError, match="#123456 is not in"):
            inline_svg(figure, name="x", label="x")


def test_marks_must_fit_the_points_drawn() -> None:
    with drawing():
        figure, axes = axes_of(100, 100)
        axes.scatter([0, 1], [0, 1], color=next(iter(CSS_VARIABLES)), gid="points")
        with pytest.raises(ValueError, match="drew 2 points for 1 titles"):
            inline_svg(figure, name="x", label="x", marks=[Marks("points", ["one"])])


@pytest.mark.parametrize("sizes", [[9, 9, 9], [9, 30, 60]])
def test_marks_carry_their_titles_and_links_in_order(sizes: list[int]) -> None:
    with drawing():
        figure, axes = axes_of(100, 100)
        axes.scatter([0, 1, 2], [0, 1, 2], s=sizes, color=next(iter(CSS_VARIABLES)), gid="points")
        chart = inline_svg(
            figure, name="x", label="x", marks=[Marks("points", ["<a>", "b", "c"], ["#one", None, "#three"])]
        )
    assert chart.index("&lt;a&gt;") < chart.index("<title>b") < chart.index("<title>c")
    assert chart.index('href="#one"') < chart.index('href="#three"')


def test_a_dollar_sign_in_a_name_is_no_formula(full: ReportData) -> None:
    from memory.reporting.charts.markets import regime_timeline

    with drawing():
        chart = regime_timeline(replace(full.prices[0], product_id="$\\frac{$"), 0, wide=True)
    assert "$\\frac{$" in chart


def test_sharpe_ratios_are_drawn_shrunk_and_raw_and_a_strategy_without_any_is_left_out(full: ReportData) -> None:
    strategy = full.strategies[0]
    figures = strategy.performance["ALL"]

    def drawn(**changes: float | None) -> str | None:
        changed = replace(strategy, performance={"ALL": replace(figures, **changes)})
        with drawing():
            return sharpe_ratios([changed], limit=1.0)

    both, raw = drawn(sharpe_ratio=40.0, shrunk_sharpe_ratio=0.5), drawn(sharpe_ratio=40.0, shrunk_sharpe_ratio=None)
    assert both is not None
    assert raw is not None
    assert "var(--blue)" in both
    assert "var(--blue)" not in raw
    assert drawn(sharpe_ratio=None) is None
    with drawing():
        assert sharpe_ratios([], limit=1.0) is None
