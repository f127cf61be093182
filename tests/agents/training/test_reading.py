"""Patterns of many states at once: by the rule that a single question follows."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from agents.training.reading import _patterns_of
from memory.records import PatternMemory

NOW = datetime(2021, 6, 18, tzinfo=UTC)


def _pattern(name: str, angle: float, reach: float) -> PatternMemory:
    return PatternMemory(
        memory_id=name,
        pattern_id=name,
        description="",
        encoder_id="encoder",
        line="line",
        created_at=NOW,
        valid_from=NOW,
        concept_vector=_unit(angle),
        source="replay",
        regime="QUIET",
        product_ids=("BTC-USDT",),
        conditions=(),
        support=3,
        effective_support=3,
        states=10,
        windows_seen=1,
        first_seen=NOW,
        last_seen=NOW,
        broad=False,
        status="new",
        outcomes=(),
        volatility=(),
        expected_return=0.0,
        best_action=None,
        reach=reach,
    )


def _unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (0.02, "wide"),  # The nearest does not reach so far.
        (0.0, "narrow"),
        (0.3, "wide"),
        (0.8, None),  # Within the reach, but less alike than a state must be.
        (2.0, None),
    ],
)
def test_the_nearest_that_reaches_the_state_is_its_pattern(angle: float, expected: str | None) -> None:
    patterns = [_pattern("wide", 0.2, 0.5), _pattern("narrow", 0.0, 1e-5)]
    (found,) = _patterns_of(_unit(angle)[None], patterns, 0.88)
    assert (None if found[0] is None else found[0].memory_id) == expected
    if found[0] is not None:
        own = float(np.arctan2(*found[0].concept_vector[::-1]))
        assert found[1] == pytest.approx(1 - np.cos(angle - own), abs=1e-6)


def test_of_equal_ones_the_first_id_counts() -> None:
    patterns = [_pattern("b", 0.0, 1.0), _pattern("a", 0.0, 1.0)]
    ((found, _),) = _patterns_of(_unit(0.1)[None], patterns, 0.5)
    assert found is not None
    assert found.memory_id == "a"


def test_without_patterns_there_is_none() -> None:
    assert _patterns_of(np.zeros((2, 2), np.float32), [], 0.5) == [(None, None)] * 2
