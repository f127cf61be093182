from __future__ import annotations

import msgspec
import pytest

from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings, settings_hash

OTHER = {"reference_horizon_minutes": 5, "block_minutes": 20}


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


@pytest.mark.parametrize("wrong", [{"reference_horizon_minutes": 7}, {"block_minutes": 7}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="choose"):
        LearningSettings(**wrong)
