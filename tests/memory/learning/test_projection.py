from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from memory.errors import InvalidRecordError
from memory.learning.fold import fold_window
from memory.learning.knowledge import FoldState
from memory.learning.outcomes import ACTIONS, SCALED, VOLATILITY
from memory.learning.predictions import HORIZONS
from memory.learning.projection import build_predictions, figures_of, judged_actions, project_patterns, reach_of
from memory.learning.settings import LearningSettings
from memory.learning.sketches import FeatureSketch, bin_numbers
from memory.records import LARGEST_COSINE_DISTANCE, PatternMemory, from_ms
from memory.validation import validate_semantic

SETTINGS = LearningSettings(clear_known=3, clear_group=1, clear_ratio=0.9)


def folded(market, window, *numbers, keep=None) -> FoldState:
    """State after some windows."""
    state = FoldState()
    for number in numbers:
        summary = market.summary(number, settings=SETTINGS, keep=keep if number else None)
        state = fold_window(state, window(number), [summary], settings=SETTINGS).state
    return state


def project(state: FoldState, window, number: int = 0) -> list[PatternMemory]:
    """Memories as of the end of a window."""
    return project_patterns(state, valid_from=window(number).end, line="ns/enc/1", settings=SETTINGS)


def content(memory: PatternMemory) -> list[object]:
    """All fields but the time from which they are valid."""
    return [
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in (getattr(memory, name) for name in sorted(all_slots(memory)) if name != "valid_from")
    ]


def all_slots(memory: PatternMemory) -> set[str]:
    """Names of all fields."""
    return {name for kind in type(memory).__mro__ for name in getattr(kind, "__slots__", ())}


def test_projected_patterns_are_valid_records(market, window) -> None:
    memories = project(folded(market, window, 0, 1), window, 1)
    assert len(memories) == 6
    for memory in memories:
        validate_semantic(memory, dimension=32)
        assert memory.memory_id == memory.pattern_id
        assert memory.windows_seen == 2
        assert memory.product_ids == ("AAA-USD", "BBB-USD")
        assert memory.created_at == window(0).end
        assert window(0).start <= memory.first_seen < window(0).end
        assert window(1).start <= memory.last_seen < window(1).end


def test_every_action_and_horizon_has_an_outcome_with_its_interval(market, window) -> None:
    for memory in project(folded(market, window, 0, 1), window):
        assert {(item.action, item.horizon_minutes) for item in memory.outcomes} == {
            (action, horizon) for action in ACTIONS for horizon in HORIZONS
        }
        for item in memory.outcomes:
            if item.action == "FLAT":
                assert (item.gross_mean, item.net_mean, item.interval) == (0.0, 0.0, None)
            elif item.blocks >= 8:
                assert item.interval.low <= item.gross_mean <= item.interval.high
                assert item.net_mean < item.gross_mean
            else:
                assert item.interval is None


def test_short_mirrors_long(market, window) -> None:
    for memory in project(folded(market, window, 0, 1), window):
        outcome = {(item.action, item.horizon_minutes): item for item in memory.outcomes}
        for horizon in HORIZONS:
            long, short = outcome["LONG", horizon], outcome["SHORT", horizon]
            assert short.gross_mean == -long.gross_mean
            assert short.gross_sharpe == pytest.approx(-long.gross_sharpe)
            if long.interval:
                assert (short.interval.low, short.interval.high) == (-long.interval.high, -long.interval.low)


def test_unseen_patterns_are_projected_to_the_same_content(market, window) -> None:
    before = {memory.pattern_id: content(memory) for memory in project(folded(market, window, 0), window)}
    state = folded(market, window, 0, 1, keep=(0, 1))
    after = {memory.pattern_id: content(memory) for memory in project(state, window, 1)}
    changed = {name for name in before if before[name] != after[name]}
    seen = {name for name, pattern in state.patterns.items() if len(pattern.sightings) == 2}
    assert changed == seen
    assert len(seen) == 2


def test_candidates_and_pruned_patterns_are_not_projected(market, window) -> None:
    state = folded(market, window, 0)
    first, second, *_ = sorted(state.patterns)
    patterns = {
        **state.patterns,
        first: msgspec.structs.replace(state.patterns[first], published=False, figures=None),
        second: msgspec.structs.replace(state.patterns[second], pruned_ms=1),
    }
    state = replace(state, patterns=patterns)
    assert {memory.pattern_id for memory in project(state, window)} == set(patterns) - {first, second}
    with pytest.raises(InvalidRecordError, match="candidate"):
        figures_of(patterns[first])


def test_a_demoted_pattern_gives_no_advice(market, window) -> None:
    state = folded(market, window, 0)
    patterns = {name: msgspec.structs.replace(item, demoted=True) for name, item in state.patterns.items()}
    for memory in project(replace(state, patterns=patterns), window):
        assert (memory.demoted, memory.best_action, memory.expected_return) == (True, None, 0.0)


def test_the_description_says_what_it_is_and_what_followed(market, window) -> None:
    state = folded(market, window, 0, 1)
    shifted = max(state.patterns.values(), key=lambda item: float(item.place @ market.centres[0]))
    memory = next(item for item in project(state, window) if item.pattern_id == shifted.pattern_id)
    assert memory.description.startswith("In a quiet market: trend is high (")
    assert "In the next 15 minutes the price moved" in memory.description
    assert "Typically it moved" in memory.description
    assert [condition.feature for condition in memory.conditions] == ["trend"]


def test_predictions_are_the_shrunk_means_beside_the_base(market, window) -> None:
    state = folded(market, window, 0, 1)
    predictions = build_predictions(state, source="replay")
    assert len(predictions) == 6
    for row, name in enumerate(predictions.pattern_ids):
        figures = state.patterns[name].figures
        np.testing.assert_array_equal(predictions.volatility[row], figures.shrunk[:, VOLATILITY])
        np.testing.assert_array_equal(predictions.scaled_return[row], figures.shrunk[:, SCALED])
    assert np.linalg.norm(predictions.vectors, axis=1) == pytest.approx(np.ones(6), abs=1e-6)


def test_nine_members_in_ten_lie_within_the_reach_of_their_pattern(market, window) -> None:
    state = folded(market, window, 0)
    predictions = build_predictions(state, source="replay")
    table, truth = market.states(0)
    cosines = table.vectors @ predictions.vectors.T
    for row in range(6):
        members = truth == np.argmax(market.centres @ predictions.vectors[row])
        assert (cosines[members, row] >= predictions.cosine_floor[row]).mean() == pytest.approx(0.9, abs=0.05)


def test_memories_say_how_far_they_reach(market, window) -> None:
    state = folded(market, window, 0)
    floors = dict(
        zip(
            *[getattr(build_predictions(state, source="replay"), name) for name in ("pattern_ids", "cosine_floor")],
            strict=True,
        )
    )
    for memory in project(state, window):
        assert memory.reach == pytest.approx(1 - floors[memory.pattern_id])
        assert 0 < memory.reach < 0.1


def test_a_reach_is_never_beyond_the_opposite_vector(market, window) -> None:
    state = folded(market, window, 0)
    far = FeatureSketch(("cosine_distance",), bin_numbers([2.0]).astype(np.int32), np.array([5], dtype=np.int64))
    pattern = msgspec.structs.replace(next(iter(state.patterns.values())), cosine_distance=far)
    assert far.quantiles(0.5)[0, 0] != 2.0
    assert reach_of(pattern) <= LARGEST_COSINE_DISTANCE


def test_memories_name_what_they_split_from(market, window) -> None:
    state = folded(market, window, 0)
    first, second = sorted(state.patterns)[:2]
    patterns = {**state.patterns, first: msgspec.structs.replace(state.patterns[first], split_from=second)}
    said = {memory.pattern_id: memory.split_from for memory in project(replace(state, patterns=patterns), window)}
    assert said == {name: second if name == first else None for name in patterns}


def test_nothing_known_predicts_nothing(market, window) -> None:
    assert len(build_predictions(FoldState(), source="replay")) == 0
    assert len(build_predictions(folded(market, window, 0), source="live")) == 0


def test_judged_actions_are_those_with_a_record(market, window) -> None:
    state = folded(market, window, 0)
    assert judged_actions(state, SETTINGS) == []
    name = min(state.patterns)
    figures = msgspec.structs.replace(state.patterns[name].figures, best_action="SHORT")
    patterns = {**state.patterns, name: msgspec.structs.replace(state.patterns[name], figures=figures)}
    summary = market.summary(1, settings=SETTINGS)
    after = fold_window(replace(state, patterns=patterns), window(1), [summary], settings=SETTINGS).state
    (judged,) = judged_actions(after, SETTINGS)
    assert (judged.pattern_id, judged.windows) == (name, 1)
    assert judged.n > 0


def test_times_are_those_of_the_states(market, window) -> None:
    state = folded(market, window, 0)
    table, truth = market.states(0)
    for memory in project(state, window):
        label = int(np.argmax(market.centres @ memory.concept_vector))
        assert memory.first_seen == from_ms(int(table.timestamp_ms[truth == label].min()))
        assert memory.states == int((truth == label).sum())
