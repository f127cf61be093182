from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from memory.learning.fold import fold_window
from memory.learning.knowledge import FoldState
from memory.learning.pruning import ACCESSED, GRACE, RULES, SHARPE, UNJUDGED, decide_pruning, preview_pruning
from memory.learning.settings import LearningSettings
from memory.records import to_ms

SETTINGS = LearningSettings()
# Nothing but the rule in question can keep a pattern.
BARE = LearningSettings(grace_windows=0, min_judged_occurrences=0)


@pytest.fixture
def state(market, window) -> FoldState:
    """Six patterns after one window."""
    return fold_window(FoldState(), window(0), [market.summary(0)], settings=SETTINGS).state


def with_sharpe(state: FoldState, value: float) -> FoldState:
    """The state with one Sharpe ratio for all patterns."""
    patterns = {
        name: msgspec.structs.replace(pattern, figures=msgspec.structs.replace(pattern.figures, sharpe=value))
        for name, pattern in state.patterns.items()
    }
    return replace(state, patterns=patterns)


def rules_of(state: FoldState, end_ms: int, settings: LearningSettings, access=None) -> set[tuple[str, ...]]:
    """Rules that keep the patterns."""
    decisions = decide_pruning(state, end_ms, access or {}, settings)
    assert all(decision.kept == bool(decision.rules) for decision in decisions)
    return {decision.rules for decision in decisions}


@pytest.mark.parametrize(("value", "rules"), [(1.01, {(SHARPE,)}), (1.0, {()}), (float("nan"), {()})])
def test_a_high_sharpe_ratio_keeps(state, window, value: float, rules) -> None:
    assert rules_of(with_sharpe(state, value), to_ms(window(0).end), BARE) == rules


@pytest.mark.parametrize(("accesses", "rules"), [(101, (ACCESSED,)), (100, ())])
def test_many_accesses_keep(state, window, accesses: int, rules) -> None:
    low = with_sharpe(state, 0.0)
    access = dict.fromkeys(low.patterns, accesses)
    assert rules_of(low, to_ms(window(0).end), BARE, access) == {rules}


def test_accesses_of_what_became_part_of_it_count_too(state, window) -> None:
    low = with_sharpe(state, 0.0)
    name = next(iter(low.patterns))
    merged = msgspec.structs.replace(low.patterns[name], aliases=("p-old",))
    low = replace(low, patterns={name: merged})
    assert rules_of(low, to_ms(window(0).end), BARE, {"p-old": 60, name: 60}) == {(ACCESSED,)}


@pytest.mark.parametrize(("age", "rules"), [(6, (GRACE,)), (7, ())])
def test_the_young_are_kept(state, window, age: int, rules) -> None:
    settings = msgspec.structs.replace(BARE, grace_windows=7)
    assert rules_of(with_sharpe(state, 0.0), to_ms(window(age).end), settings) == {rules}


@pytest.mark.parametrize(("unseen", "rules"), [(30, (UNJUDGED,)), (31, ())])
def test_those_of_few_occurrences_are_kept_while_seen_of_late(state, window, unseen: int, rules) -> None:
    settings = msgspec.structs.replace(BARE, min_judged_occurrences=1000)
    assert rules_of(with_sharpe(state, 0.0), to_ms(window(unseen).end), settings) == {rules}


def test_those_of_many_occurrences_are_judged(state, window) -> None:
    settings = msgspec.structs.replace(BARE, min_judged_occurrences=1)
    assert rules_of(with_sharpe(state, 0.0), to_ms(window(0).end), settings) == {()}


def test_every_rule_is_explained() -> None:
    assert set(RULES) == {SHARPE, ACCESSED, GRACE, UNJUDGED}


def test_decisions_show_raw_and_shrunk_sharpe(state, window) -> None:
    for decision in decide_pruning(state, to_ms(window(0).end), {}, SETTINGS):
        figures = state.patterns[decision.pattern_id].figures
        assert decision.raw_sharpe == pytest.approx(figures.raw_sharpe)
        assert decision.sharpe == (None if np.isnan(figures.sharpe) else figures.sharpe)


def test_noise_passes_by_raw_sharpe_and_fails_by_the_shrunk_one(market, window) -> None:
    """Prices are a random walk here: no set of states has an edge, and no rule should find one."""
    state = FoldState()
    for number in range(3):
        step = fold_window(state, window(number), [market.summary(number)], settings=SETTINGS)
        state = step.state
    outlook = step.prune_outlook
    assert outlook.random_sets >= 128
    assert outlook.random_pass < 0.1
    assert outlook.random_pass_raw > 2 * outlook.random_pass
    assert outlook.clusters == 6
    assert outlook.clusters_pass == 0.0


def test_a_window_without_states_has_no_outlook_on_sets(state, window) -> None:
    outlook = fold_window(state, window(1), [], settings=SETTINGS).prune_outlook
    assert (outlook.clusters_pass, outlook.random_pass, outlook.random_sets) == (None, None, 0)
    assert outlook.patterns == 6


def test_a_preview_decides_what_the_fold_then_does_and_changes_nothing(state, market, window) -> None:
    bad = with_sharpe(state, 0.0)
    names = sorted(bad.patterns)
    access = {names[0]: 200, names[1]: 200}
    before = bad.items()
    preview = preview_pruning(bad, to_ms(window(1).end), access, BARE)
    assert bad.items() == before
    assert preview.kept == tuple(names[:2])
    assert preview.pruned == tuple(names[2:])
    step = fold_window(replace(bad, checkpoint=None), window(1), [], settings=BARE, access=access)
    gone = {name for name, pattern in step.state.patterns.items() if pattern.pruned_ms is not None}
    assert gone == set(preview.pruned)
    assert [(item.pattern_id, item.kept, item.rules) for item in step.prune_decisions] == [
        (item.pattern_id, item.kept, item.rules) for item in preview.decisions
    ]


def test_decisions_show_the_share_of_random_sets_that_would_pass(market, window) -> None:
    step = fold_window(FoldState(), window(0), [market.summary(0)], settings=SETTINGS)
    share = step.prune_outlook.random_pass
    preview = preview_pruning(step.state, to_ms(window(1).end), {}, SETTINGS, step.prune_outlook)
    assert share is not None
    assert preview.random_share == share
    assert {decision.random_share for decision in preview.decisions} == {share}
    assert {decision.random_share for decision in step.prune_decisions} == {share}
