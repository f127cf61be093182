"""What happened to patterns, and who met whom against which threshold, is written down as it is decided."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from memory.learning import lineage
from memory.learning.fold import FoldStep, fold_window
from memory.learning.knowledge import FoldState
from memory.learning.lineage import EVENTS, LineageEvent
from memory.learning.matching import BY_CLARITY, BY_NULL
from memory.learning.predictions import MIN_SCORED_WINDOWS, PredictionGain
from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary

SETTINGS = LearningSettings(clear_known=3, clear_group=1, clear_ratio=0.9)


def events(step: FoldStep, kind: str) -> list[LineageEvent]:
    """Events of one kind."""
    return [event for event in step.events if event.kind == kind]


def in_pieces(summary: PartitionSummary, label: int, towards: int) -> PartitionSummary:
    """The summary with a second, further cluster beside one: as if the one had come in two pieces."""
    whole, aside = summary.clusters[label], summary.clusters[towards].mean
    piece = msgspec.structs.replace(
        whole,
        label=len(summary.clusters),
        founding_id="p-piece",
        vector_sum=whole.vector_sum + 0.2 * whole.states * aside,
    )
    return msgspec.structs.replace(summary, clusters=(*summary.clusters, piece))


def gains(name: str, gain: float) -> list[PredictionGain]:
    """What one window showed about one pattern's predictions."""
    return [PredictionGain(pattern_id=name, states=10, occurrences=3, volatility_gain=gain, return_gain=0.0)]


def test_every_kind_is_explained() -> None:
    kinds = {value for name, value in vars(lineage).items() if name.isupper() and isinstance(value, str)}
    assert kinds == set(EVENTS)


def test_what_the_first_window_founds_was_compared_with_nothing(fold, summaries) -> None:
    step = fold(0)
    founded = events(step, lineage.FOUNDED)
    assert [event.label for event in founded] == list(range(6))
    for event, cluster in zip(founded, summaries(0).clusters, strict=True):
        assert (event.pattern_id, event.cluster_id) == (cluster.founding_id, cluster.founding_id)
        assert (event.states, event.partition) == (cluster.states, "enc/replay/QUIET")
        assert (event.other_id, event.cosine, event.threshold, event.rule) == (None, None, None, None)
    assert {event.pattern_id for event in events(step, lineage.PROMOTED)} == set(step.state.patterns)


def test_a_confirmation_says_what_was_met_by_which_rule_against_which_threshold(fold) -> None:
    step = fold(0, 1)
    (matching,) = step.matchings
    matches = {match.label: match for match in matching.matches}
    confirmed = events(step, lineage.CONFIRMED)
    assert [event.label for event in confirmed] == list(range(6))
    for event in confirmed:
        assert event.pattern_id == matches[event.label].pattern_id
        assert (event.cosine, event.threshold) == (matches[event.label].cosine, matching.threshold)
        assert event.rule == (BY_NULL if event.cosine > event.threshold else BY_CLARITY)
        sighting = step.state.patterns[event.pattern_id].sightings[-1]
        assert (sighting.cosine, sighting.threshold, sighting.rule) == (event.cosine, event.threshold, event.rule)
        assert (sighting.label, sighting.cluster_id) == (event.label, event.cluster_id)
    alone = sum(event.rule == BY_CLARITY for event in confirmed)
    assert (step.counts.matched, step.counts.matched_unmistakable) == (6, alone)


def test_a_stranger_is_founded_beside_the_pattern_that_it_was_nearest_to(fold, market) -> None:
    by_null_alone = msgspec.structs.replace(SETTINGS, clear_known=10**6)
    step = fold((0, (0, 1, 2)), (1, (0, 1, 2, 3)), settings=by_null_alone)
    (founded,) = events(step, lineage.FOUNDED)
    pattern = step.state.patterns[founded.pattern_id]
    assert int(np.argmax(market.centres @ pattern.place)) == 3
    assert founded.other_id in step.state.patterns
    assert founded.cosine < founded.threshold
    assert founded.rule is None
    assert pattern.split_from is None
    assert events(step, lineage.SPLIT) == []


def test_a_split_names_the_pattern_that_it_is_a_part_of(fold, summaries, window) -> None:
    before = fold(0, 1).state
    step = fold_window(before, window(2), [in_pieces(summaries(2), 0, 1)], settings=SETTINGS)
    (split,) = events(step, lineage.SPLIT)
    (whole,) = [event.pattern_id for event in events(step, lineage.CONFIRMED) if event.label == 0]
    assert (split.pattern_id, split.other_id, split.label) == ("p-piece", whole, 6)
    assert split.rule in (BY_NULL, BY_CLARITY)
    assert step.state.patterns["p-piece"].split_from == whole
    assert step.counts.patterns_split == 1
    assert FoldState.from_items(step.state.items()).patterns["p-piece"].split_from == whole


def test_a_known_pattern_that_loses_its_cluster_to_another_is_named(fold, summaries, window) -> None:
    """Two pieces are known; the next window sees one cluster, which one of them gets."""
    pair = msgspec.structs.replace(SETTINGS, clear_group=2)
    state = FoldState()
    for number in (0, 1):
        state = fold_window(state, window(number), [in_pieces(summaries(number), 0, 1)], settings=pair).state
    assert len(state.patterns) == 7
    step = fold_window(state, window(2), [summaries(2)], settings=pair)
    (lost,) = events(step, lineage.LOST)
    (winner,) = [event.pattern_id for event in events(step, lineage.CONFIRMED) if event.label == 0]
    assert (lost.pattern_id, lost.other_id, lost.label) == ("p-piece", winner, 0)
    assert len(step.state.patterns["p-piece"].sightings) == 2


def test_fading_and_coming_back_are_events(fold) -> None:
    state = fold(0, 1).state
    names = set(state.patterns)
    for number in (2, 3, 4, 5):
        step = fold((number, (0,)), state=state)
        state = step.state
    (seen,) = [event.pattern_id for event in events(step, lineage.CONFIRMED)]
    assert {event.pattern_id for event in events(step, lineage.FADED)} == names - {seen}
    back = fold(6, state=state)
    returned = events(back, lineage.RETURNED)
    assert {event.pattern_id for event in returned} == names - {seen}
    assert all(event.cosine is not None and event.rule in (BY_NULL, BY_CLARITY) for event in returned)
    assert events(fold(7, state=back.state), lineage.RETURNED) == []


def test_pruning_and_coming_back_are_events(fold, market, window) -> None:
    state = fold(0, 1).state
    empty = fold_window(state, window(60), [], settings=SETTINGS)
    assert {event.pattern_id for event in events(empty, lineage.PRUNED)} == set(state.patterns)
    young = msgspec.structs.replace(SETTINGS, grace_windows=100)
    back = fold_window(empty.state, window(61), [market.summary(61, settings=SETTINGS)], settings=young)
    assert {event.pattern_id for event in events(back, lineage.RETURNED)} == set(state.patterns)
    assert all(len(pattern.sightings) == 3 for pattern in back.state.patterns.values())


def test_candidates_are_promoted_once_and_forgotten_with_a_word(fold, window) -> None:
    strict = msgspec.structs.replace(SETTINGS, min_support=1000, candidate_windows=3)
    first = fold(0, settings=strict)
    assert events(first, lineage.PROMOTED) == []
    later = fold_window(first.state, window(4), [], settings=strict)
    assert {event.pattern_id for event in events(later, lineage.FORGOTTEN)} == set(first.state.patterns)
    promoted = fold(1, state=first.state)
    assert {event.pattern_id for event in events(promoted, lineage.PROMOTED)} == set(first.state.patterns)
    assert events(fold(2, state=promoted.state), lineage.PROMOTED) == []


def test_a_merger_names_both_and_what_made_them_one(fold, window) -> None:
    apart = msgspec.structs.replace(SETTINGS, clear_known=10**6)
    state = fold(0, settings=apart).state
    second = fold((1, (3,)), settings=apart).state
    stranger = msgspec.structs.replace(next(iter(second.patterns.values())), published=True)
    state = FoldState({**state.patterns, stranger.pattern_id: stranger}, state.bases, {}, {}, second.checkpoint)
    step = fold(2, state=state)
    (merged,) = events(step, lineage.MERGED)
    assert step.new_aliases == {merged.pattern_id: merged.other_id}
    assert merged.pattern_id == stranger.pattern_id
    assert merged.cosine > 0.99
    assert merged.rule == (BY_NULL if merged.cosine > merged.threshold else BY_CLARITY)


def test_a_candidate_that_a_pattern_becomes_one_with_is_published(fold) -> None:
    """The older id stays, whichever of the two was published."""
    strict = msgspec.structs.replace(SETTINGS, min_support=1000, clear_known=10**6)
    state = fold(0, settings=strict).state
    second = fold((1, (3,)), settings=strict).state
    stranger = msgspec.structs.replace(next(iter(second.patterns.values())), published=True)
    state = FoldState({**state.patterns, stranger.pattern_id: stranger}, state.bases, {}, {}, second.checkpoint)
    step = fold(2, state=state, settings=msgspec.structs.replace(SETTINGS, min_support=1000))
    (merged,), (promoted,) = events(step, lineage.MERGED), events(step, lineage.PROMOTED)
    assert promoted.pattern_id == merged.other_id
    assert step.state.patterns[merged.other_id].live


def test_predictions_that_fail_demote_and_better_ones_reinstate(fold) -> None:
    state = fold(0).state
    name = min(state.patterns)
    for number in range(1, MIN_SCORED_WINDOWS + 1):
        step = fold(number, state=state, gains=gains(name, -0.5))
        state = step.state
    assert [event.pattern_id for event in events(step, lineage.DEMOTED)] == [name]
    step = fold(MIN_SCORED_WINDOWS + 1, state=state, gains=gains(name, 9.0))
    assert [event.pattern_id for event in events(step, lineage.REINSTATED)] == [name]
    assert step.counts.patterns_reinstated == 1
    assert not step.state.patterns[name].demoted


def test_the_record_of_what_became_one_is_of_both(fold) -> None:
    """Predictions of a pattern that is gone count for its successor, and so does a demotion."""
    apart = msgspec.structs.replace(SETTINGS, clear_known=10**6)
    state = fold(0, settings=apart).state
    second = fold((1, (3,)), settings=apart, gains=[]).state
    stranger = msgspec.structs.replace(next(iter(second.patterns.values())), published=True)
    state = FoldState({**state.patterns, stranger.pattern_id: stranger}, state.bases, {}, {}, second.checkpoint)
    for number in range(2, 2 + MIN_SCORED_WINDOWS):
        step = fold(number, state=state, gains=gains(stranger.pattern_id, -0.5))
        state = step.state
    survivor = state.aliases[stranger.pattern_id]
    assert state.records[survivor].windows == MIN_SCORED_WINDOWS
    assert [event.pattern_id for event in events(step, lineage.DEMOTED)] == [survivor]


def test_events_tell_all_that_becomes_of_patterns(fold, summaries, window) -> None:
    """Read from the beginning they give the patterns that there are, how often each was seen, and what each is."""
    hasty = msgspec.structs.replace(
        SETTINGS, min_support=12, candidate_windows=1, fade_windows=1, grace_windows=2, unseen_days=2
    )
    nights = [(0, 1, 2, 3), (0, 1, 2, 3), (0, 4), (0, 1), (0,), (0, 1, 2), (5,), (0, 1, 2, 3, 4, 5)]
    state, seen, published, pruned, faded, kinds = FoldState(), {}, set(), set(), set(), set()
    for number, keep in enumerate(nights):
        summary = summaries(number, keep)
        step = fold_window(
            state, window(number), [in_pieces(summary, 0, 1) if number == 1 else summary], settings=hasty
        )
        state = step.state
        for event in step.events:
            name = event.pattern_id
            kinds.add(event.kind)
            if event.kind == lineage.FOUNDED:
                seen[name] = 1
            elif event.kind == lineage.CONFIRMED:
                seen[name] += 1
                faded.discard(name)
                pruned.discard(name)
            elif event.kind == lineage.FORGOTTEN:
                del seen[name]
            elif event.kind == lineage.MERGED:
                seen[event.other_id] += seen.pop(name)
            elif event.kind == lineage.PROMOTED:
                published.add(name)
            elif event.kind == lineage.FADED:
                faded.add(name)
            elif event.kind == lineage.PRUNED:
                pruned.add(name)
        patterns = state.patterns.values()
        assert seen == {pattern.pattern_id: len(pattern.sightings) for pattern in patterns}
        assert published & set(seen) == {pattern.pattern_id for pattern in patterns if pattern.published}
        assert pruned == {pattern.pattern_id for pattern in patterns if pattern.pruned_ms is not None}
        assert {name for name in faded if name not in pruned} == {
            pattern.pattern_id for pattern in patterns if pattern.status == "faded" and pattern.live
        }
    assert kinds == set(EVENTS) - {lineage.DEMOTED, lineage.REINSTATED, lineage.MERGED, lineage.LOST}


def test_without_a_null_there_is_no_threshold(fold, summaries, window) -> None:
    bare = msgspec.structs.replace(summaries(1), nulls=())
    step = fold_window(fold(0).state, window(1), [bare], settings=SETTINGS)
    assert math.isinf(step.matchings[0].threshold)
    assert {(event.threshold, event.rule) for event in events(step, lineage.CONFIRMED)} == {(None, BY_CLARITY)}


def test_events_are_no_part_of_the_state(fold) -> None:
    step = fold(0, 1)
    assert step.events
    assert {key.partition(":")[0] for key in step.state.items()} == {"pattern", "sighting", "base", "checkpoint"}


def test_an_event_survives_being_written(fold) -> None:
    for event in fold(0, 1).events:
        assert msgspec.json.decode(msgspec.json.encode(event), type=LineageEvent) == event


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 2)])
def test_the_same_windows_give_the_same_events(fold, numbers) -> None:
    assert fold(*numbers).events == fold(*numbers).events
    through = fold(*numbers[:-1]).state
    again = replace(through, patterns=dict(reversed(list(through.patterns.items()))))
    assert fold(numbers[-1], state=again).events == fold(*numbers).events
