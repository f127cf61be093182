from __future__ import annotations

import msgspec
import pytest

from memory.learning.predictions import HORIZONS
from memory.learning.settings import (
    CorrelationSettings,
    LearningSettings,
    LearningSettingsError,
    TransitionSettings,
    from_overrides,
    settings_hash,
)

OTHER = {
    "reference_horizon_minutes": 5,
    "block_minutes": 20,
    "confidence": 0.9,
    "null_quantile": 0.9,
    "redundant_correlation": 0.8,
    "clear_ratio": 0.5,
}


@pytest.mark.parametrize("name", LearningSettings.__struct_fields__)
def test_every_setting_is_part_of_the_hash(name: str) -> None:
    default = LearningSettings()
    changed = msgspec.structs.replace(default, **{name: OTHER.get(name, getattr(default, name) + 1)})
    assert settings_hash(changed) != settings_hash(default)


def test_hash_is_the_same_in_every_process() -> None:
    assert settings_hash({"b": 1, "a": 2}) == settings_hash({"a": 2, "b": 1})


@pytest.mark.parametrize("block_minutes", [1, 2, 5, 12, 20, 30, 60])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_blocks_are_as_long_as_the_horizon_and_divide_the_day(block_minutes: int, horizon: int) -> None:
    length = LearningSettings(block_minutes=block_minutes).block_minutes_of(horizon)
    assert length >= horizon
    assert 1440 % length == 0


def test_half_hours_of_a_year_of_365_days() -> None:
    assert LearningSettings().periods_per_year(15) == 17_520
    assert LearningSettings().periods_per_year(60) == 8_760


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference_horizon_minutes": 7},
        {"block_minutes": 7},
        {"block_minutes": 0},
        {"confidence": 1.0},
        {"confidence": float("nan")},
        {"moderation_blocks": 0.0},
        {"cost_bp": float("inf")},
        {"prune_sharpe": float("nan")},
        {"min_support": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="choose"):
        LearningSettings(**wrong)


def test_nothing_set_leaves_the_defaults() -> None:
    assert from_overrides({}) == (LearningSettings(), TransitionSettings(), CorrelationSettings())


def test_what_is_set_is_replaced_and_the_rest_stays() -> None:
    chosen = from_overrides({"min_support": 4, "alpha": 1, "bar_minutes": [1, 5], "market_reference": "BTC-USDT"})
    assert chosen.learning == LearningSettings(min_support=4)
    assert chosen.transitions == TransitionSettings(alpha=1.0)
    assert chosen.correlations == CorrelationSettings(bar_minutes=(1, 5), market_reference="BTC-USDT")


def test_a_plain_name_holds_for_all_that_have_it_and_a_full_name_for_one() -> None:
    both = from_overrides({"confidence": 0.9})
    assert (both.learning.confidence, both.correlations.confidence) == (0.9, 0.9)
    one = from_overrides({"correlations.confidence": 0.8, "confidence": 0.9})
    assert (one.learning.confidence, one.correlations.confidence) == (0.9, 0.8)


@pytest.mark.parametrize("name", ["min_suport", "transitions.min_support", "patterns.alpha", "learning.", ""])
def test_an_unknown_name_is_refused_with_the_list_of_names(name: str) -> None:
    with pytest.raises(LearningSettingsError) as caught:
        from_overrides({name: 4})
    assert repr(name) in caught.value.message
    for known in ("min_support", "alpha", "market_reference"):
        assert known in caught.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"min_support": "four"}, {"min_support": 2.5}, {"alpha": None}, {"bar_minutes": [7]}, {"gap_s": 1}]
)
def test_a_value_that_cannot_be_used_is_refused_by_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(LearningSettingsError, match=name):
        from_overrides(wrong)
