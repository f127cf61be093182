from __future__ import annotations

import functools
import math
from dataclasses import replace as replaced

import msgspec
import numpy as np
import pytest

from memory.errors import InvalidRecordError, WindowError
from memory.learning.fold import FoldStep, fold_window
from memory.learning.knowledge import CONFIRMED, FADED, NEW, FoldState
from memory.learning.outcomes import GROSS
from memory.learning.patterns import RECURRING_SHARE, aliases_after_refold
from memory.learning.predictions import MIN_SCORED_WINDOWS, PredictionGain
from memory.learning.serial import encode
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Drawdown, Moments
from memory.learning.support import occurrences

# What the fixtures `summaries` and `fold` use.
SETTINGS = LearningSettings(clear_known=3, clear_group=1, clear_ratio=0.9)


def pattern_of(step: FoldStep, market, centre: int):
    """The pattern at one of the market's centres."""
    return max(step.state.patterns.values(), key=lambda pattern: float(pattern.place @ market.centres[centre]))


def joined_by_hand(fold) -> FoldState:
    """One pattern is planted a second time under another founding, as if its windows had not matched."""
    apart = msgspec.structs.replace(SETTINGS, clear_known=10**6)
    state = fold(0, settings=apart).state
    second = fold((1, (3,)), settings=apart).state
    stranger = next(iter(second.patterns.values()))
    doubled = msgspec.structs.replace(stranger, published=True)
    return FoldState({**state.patterns, doubled.pattern_id: doubled}, state.bases, {}, {}, second.checkpoint)


def keys_of(state: FoldState, name: str) -> set[str]:
    """Keys of the sightings of a pattern."""
    return {key for key in state.items() if key.startswith(f"sighting:{name}:")}


def test_first_window_founds_a_pattern_for_each_cluster(fold) -> None:
    step = fold(0)
    assert (step.counts.clusters, step.counts.patterns_new, step.counts.matched) == (6, 6, 0)
    assert all(pattern.status == NEW and pattern.published for pattern in step.state.patterns.values())


def test_what_recurs_is_one_memory_with_the_support_of_all_windows(fold, summaries, market) -> None:
    step = fold(0, 1, 2, 3, 4, 5, 6)
    assert len(step.state.patterns) == 6
    for centre in range(6):
        pattern = pattern_of(step, market, centre)
        assert len(pattern.sightings) == 7
        assert pattern.status == CONFIRMED
        assert pattern.states == sum(summaries(number).clusters[centre].states for number in range(7))


def test_merged_figures_equal_those_of_all_windows_at_once(fold, summaries, market) -> None:
    pattern = pattern_of(fold(0, 1, 2), market, 2)
    clusters = [summaries(number).clusters[2] for number in range(3)]
    for name in ("n", "total", "total_squared", "cross"):
        expected = sum(getattr(cluster.outcomes.blocks, name) for cluster in clusters)
        np.testing.assert_allclose(getattr(pattern.outcomes.blocks, name), expected, rtol=1e-9, atol=1e-12)
    moments = functools.reduce(Moments.merged_with, [cluster.outcomes.block_returns for cluster in clusters])
    np.testing.assert_allclose(pattern.outcomes.block_returns.m2, moments.m2, rtol=1e-9)
    drawdown = functools.reduce(Drawdown.followed_by, [cluster.drawdown for cluster in clusters])
    np.testing.assert_array_equal(pattern.drawdown.worst, drawdown.worst)


def test_folding_twice_gives_the_same_bytes(fold) -> None:
    assert fold(0, 1, 2).state.items() == fold(0, 1, 2).state.items()


def test_the_state_before_is_left_as_it_was(fold) -> None:
    before = fold(0, 1).state
    items = before.items()
    fold(2, state=before)
    assert before.items() == items


def test_folding_on_from_a_checkpoint_equals_folding_through(fold) -> None:
    checkpoint = FoldState.from_items(fold(0, 1).state.items())
    assert fold(2, 3, state=checkpoint).state.items() == fold(0, 1, 2, 3).state.items()


def test_changes_lead_from_one_state_to_the_next(fold) -> None:
    items: dict[str, bytes] = {}
    state = None
    for number in (0, 1, (2, (0, 1)), 3):
        step = fold(number, state=state)
        items |= step.changes.changed
        for key in step.changes.removed:
            del items[key]
        state = step.state
        assert dict(sorted(items.items())) == state.items()


def test_what_a_window_adds_does_not_grow_with_the_age_of_its_patterns(fold, window) -> None:
    """A pattern is written again, its old sightings never are."""
    state, sizes = None, []
    for number in range(6):
        step = fold(number, state=state)
        state = step.state
        written = [key for key in step.changes.changed if key.startswith("sighting:")]
        assert len(written) == 6
        assert {key.rpartition(":")[2] for key in written} == {str(int(window(number).start.timestamp() * 1000))}
        sizes.append(
            sum(len(data) for key, data in step.changes.changed.items() if key.startswith(("pattern", "sigh")))
        )
    # Sketches fill up with the values that come; they have a fixed number of bins.
    assert sizes[-1] < 1.15 * sizes[1]


def test_patterns_that_become_one_take_their_sightings_along(fold) -> None:
    state = joined_by_hand(fold)
    step = fold(2, state=state)
    ((gone, survivor),) = step.new_aliases.items()
    assert {key for key in step.changes.removed if gone in key} == {f"pattern:{gone}", *keys_of(state, gone)}
    assert len(keys_of(step.state, survivor)) == 3
    assert FoldState.from_items(step.state.items()).items() == step.state.items()


def test_support_of_what_became_one_is_that_of_all_its_states_at_once(fold, market) -> None:
    state = joined_by_hand(fold)
    step = fold(2, state=state)
    ((_, survivor),) = step.new_aliases.items()
    one = step.state.patterns[survivor]
    drawn = [market.states(number) for number in range(3)]
    at_once = occurrences(np.concatenate([table.timestamp_ms[truth == 3] for table, truth in drawn]))
    assert (one.support.count, one.support.effective) == (at_once.count, at_once.effective)
    assert (one.support.first_ms, one.support.last_ms) == (at_once.first_ms, at_once.last_ms)
    drawdown = functools.reduce(Drawdown.followed_by, [sighting.drawdown for sighting in one.sightings])
    np.testing.assert_array_equal(one.drawdown.worst, drawdown.worst)


def test_only_what_a_window_touched_is_written_again(fold) -> None:
    before = fold(0, 1).state
    step = fold((2, (0, 1)), state=before)
    written = {key for key in step.changes.changed if key.startswith("pattern:")}
    assert len(written) == 2


def test_patterns_do_not_match_across_partitions(market, window, fold) -> None:
    other = market.summary(1, regime="VOLATILE", settings=SETTINGS)
    step = fold_window(fold(0).state, window(1), [other], settings=SETTINGS)
    assert (step.counts.matched, len(step.state.patterns)) == (0, 12)


def test_slow_drift_is_followed(market, window) -> None:
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(32)
    direction /= np.linalg.norm(direction)
    state = FoldState()
    for number in range(8):
        shift = direction * 0.07 * number
        summary = market.summary(number, settings=SETTINGS, shift=shift)
        state = fold_window(state, window(number), [summary], settings=SETTINGS).state
    assert len(state.patterns) == 6
    moved = market.centres + direction * 0.49
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    for pattern in state.patterns.values():
        assert (moved @ pattern.place).max() > 0.97
        assert (moved @ pattern.place).max() > (market.centres @ pattern.place).max()


def test_a_cluster_with_few_occurrences_is_a_candidate_until_it_has_enough(fold, summaries) -> None:
    most = max(cluster.occurrences.count for cluster in summaries(0).clusters)
    strict = msgspec.structs.replace(SETTINGS, min_support=most + 1)
    first = fold(0, settings=strict)
    assert (first.counts.patterns, first.counts.candidates) == (0, 6)
    assert all(pattern.figures is None for pattern in first.state.patterns.values())
    later = fold(1, 2, 3, 4, state=first.state, settings=strict)
    assert (later.counts.patterns, later.counts.candidates) == (6, 0)


def test_candidates_not_seen_for_long_are_forgotten(fold, window) -> None:
    strict = msgspec.structs.replace(SETTINGS, min_support=1000, candidate_windows=3)
    state = fold(0, settings=strict).state
    assert fold_window(state, window(3), [], settings=strict).counts.candidates_forgotten == 0
    step = fold_window(state, window(4), [], settings=strict)
    assert (step.counts.candidates_forgotten, len(step.state.patterns)) == (6, 0)


def test_unseen_patterns_fade_and_return_with_their_past(fold, market, window) -> None:
    state = fold(0, 1).state
    for number in (2, 3, 4, 5):
        step = fold((number, (0,)), state=state)
        state = step.state
    assert step.counts.patterns_faded == 5
    assert pattern_of(step, market, 1).status == FADED
    assert pattern_of(step, market, 0).status == CONFIRMED
    back = fold(6, state=state)
    assert back.counts.patterns_returned == 5
    assert len(pattern_of(back, market, 1).sightings) == 3
    assert pattern_of(back, market, 1).status == CONFIRMED


def test_ages_count_windows_that_nobody_consolidated(fold, window) -> None:
    step = fold_window(fold(0).state, window(30), [], settings=SETTINGS)
    assert step.counts.patterns_faded == 6


def test_pruned_patterns_are_kept_in_mind_and_return(fold, market, window) -> None:
    state = fold(0, 1).state
    empty = fold_window(state, window(60), [], settings=SETTINGS)
    assert (empty.counts.pruned, empty.counts.patterns) == (6, 0)
    assert [decision.kept for decision in empty.prune_decisions] == [False] * 6
    young = msgspec.structs.replace(SETTINGS, grace_windows=100)
    back = fold_window(empty.state, window(61), [market.summary(61, settings=SETTINGS)], settings=young)
    assert (back.counts.patterns_returned, back.counts.patterns) == (6, 6)
    assert all(len(pattern.sightings) == 3 for pattern in back.state.patterns.values())


def test_two_patterns_that_have_come_together_become_one_with_an_alias(fold, window) -> None:
    state = joined_by_hand(fold)
    step = fold(2, state=state)
    assert step.counts.patterns_merged == 1
    ((gone, survivor),) = step.new_aliases.items()
    assert len(step.state.patterns) == 6
    assert step.state.aliases[gone] == survivor
    one = step.state.patterns[survivor]
    assert gone in one.aliases
    assert [sighting.window for sighting in one.sightings] == [window(number).name for number in range(3)]


def test_the_best_action_is_judged_on_later_windows_only(fold, market) -> None:
    first = fold(0)
    pattern = pattern_of(first, market, 0)
    assert pattern.judged.windows == 0
    named = msgspec.structs.replace(pattern.figures, best_action="LONG")
    patterns = {**first.state.patterns, pattern.pattern_id: msgspec.structs.replace(pattern, figures=named)}
    state = replaced(first.state, patterns=patterns)
    second = pattern_of(fold(1, state=state), market, 0)
    assert second.judged.windows == 1
    assert 0 < int(second.judged.sums.n) < second.states


def test_a_pattern_whose_predictions_fail_is_demoted(fold, market, window) -> None:
    state = fold(0).state
    name = next(iter(state.patterns))
    gain = PredictionGain(pattern_id=name, states=10, occurrences=3, volatility_gain=-0.5, return_gain=0.0)
    for number in range(1, MIN_SCORED_WINDOWS + 1):
        step = fold(number, state=state, gains=[gain])
        state = step.state
    assert step.counts.patterns_demoted == 1
    assert [key for key, pattern in state.patterns.items() if pattern.demoted] == [name]
    assert state.records[name].windows == MIN_SCORED_WINDOWS


def test_a_window_out_of_order_is_refused(fold, window) -> None:
    state = fold(0, 1).state
    with pytest.raises(WindowError, match="does not come after"):
        fold(1, state=state)


def test_summaries_of_another_window_are_refused(summaries, window) -> None:
    with pytest.raises(WindowError, match="not of"):
        fold_window(FoldState(), window(1), [summaries(0)], settings=SETTINGS)


def test_a_partition_given_twice_is_refused(summaries, window) -> None:
    with pytest.raises(InvalidRecordError, match="comes twice"):
        fold_window(FoldState(), window(0), [summaries(0), summaries(0)], settings=SETTINGS)


def test_summaries_of_other_settings_are_never_mixed_in(fold, market, window) -> None:
    state = fold(0).state
    other = market.summary(1, settings=LearningSettings(cost_bp=9.0))
    with pytest.raises(InvalidRecordError, match="begin a new knowledge line"):
        fold_window(state, window(1), [other], settings=SETTINGS)


def test_an_item_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="unknown kind"):
        FoldState.from_items({"novelty:x": encode("x")})


@pytest.mark.parametrize(
    ("kind", "message"), [("sighting", "no sighting of p-"), ("pattern", "sightings of no pattern p-")]
)
def test_a_pattern_without_sightings_is_refused_and_the_other_way_round(fold, kind: str, message: str) -> None:
    items = {key: data for key, data in fold(0).state.items().items() if not key.startswith(f"{kind}:")}
    with pytest.raises(InvalidRecordError, match=message):
        FoldState.from_items(items)


def test_one_occurrence_with_stray_minutes_is_no_pattern(fold, summaries, window) -> None:
    """Support counts each stray minute; what is mostly one occurrence stays a candidate until more of it is seen."""
    summary = summaries(0, (0,))
    (cluster,) = summary.clusters
    assert cluster.occurrences.count >= SETTINGS.min_support

    def founded(outside: int) -> bool:
        alone = msgspec.structs.replace(cluster, largest_run=cluster.states - outside)
        step = fold_window(
            FoldState(), window(0), [msgspec.structs.replace(summary, clusters=(alone,))], settings=SETTINGS
        )
        return step.counts.patterns_new == 1

    enough = math.ceil(RECURRING_SHARE * cluster.states)
    assert (founded(enough - 1), founded(enough)) == (False, True)


def test_a_window_without_states_changes_ages_only(fold, window) -> None:
    state = fold(0).state
    step = fold_window(state, window(1), [], settings=SETTINGS)
    assert set(step.changes.changed) == {"checkpoint"}
    assert step.counts.clusters == 0


def test_base_rates_are_those_of_all_windows(fold, summaries) -> None:
    base = fold(0, 1).state.bases["enc/replay/QUIET"]
    assert base.states == 2 * 2880
    expected = sum(summaries(number).base.blocks.total[2, GROSS] for number in (0, 1))
    assert base.outcomes.blocks.total[2, GROSS] == pytest.approx(expected)


def test_a_refold_that_founds_differently_leaves_an_alias(fold, market, window) -> None:
    before = fold(0, 1).state
    late = market.summary(0, settings=SETTINGS, keep=(0, 1, 2, 3, 4))
    clusters = tuple(msgspec.structs.replace(item, founding_id=f"p-{item.label:016x}") for item in late.clusters)
    revised = msgspec.structs.replace(late, clusters=clusters)
    after = fold(1, state=fold_window(FoldState(), window(0), [revised], settings=SETTINGS).state).state
    aliases = aliases_after_refold(before, after)
    assert set(aliases) == set(before.patterns)
    for old, new in aliases.items():
        assert before.patterns[old].place @ after.patterns[new].place > 0.99
    assert aliases_after_refold(before, before) == {}


def test_a_successor_may_be_of_another_home_but_not_of_another_source(fold, market, window) -> None:
    """A late record may take a founding cluster out of its regime, and with it into other company."""
    before = fold(0, 1).state
    renamed = {
        name: msgspec.structs.replace(pattern, pattern_id=f"m-{name}", partition="enc/replay/MIXED", regime="MIXED")
        for name, pattern in before.patterns.items()
    }
    moved = replaced(before, patterns={pattern.pattern_id: pattern for pattern in renamed.values()})
    assert aliases_after_refold(before, moved) == {name: f"m-{name}" for name in before.patterns}
    elsewhere = {name: msgspec.structs.replace(pattern, source="live") for name, pattern in moved.patterns.items()}
    assert aliases_after_refold(before, replaced(moved, patterns=elsewhere)) == {}


def test_a_successor_of_the_same_home_comes_before_a_nearer_one_of_another(fold) -> None:
    before = fold(0, 1).state
    first, second = sorted(before.patterns)[:2]
    near = msgspec.structs.replace(before.patterns[first], pattern_id="m-near", partition="enc/replay/MIXED")
    after = replaced(before, patterns={"m-near": near, second: before.patterns[second]})
    assert aliases_after_refold(before, after)[first] == second
