"""What is chosen nowhere: the settings where nothing is, the index as it is where something is."""

from __future__ import annotations

import pytest

from memory.settings import Settings
from memory.store.layout import IndexSchema
from tasks.reindexing import shape_settings

SETTINGS = Settings(index_layout="single", vector_algorithm="FLAT", vector_type="FLOAT32")


def schema(layout: str = "single", algorithm: str = "HNSW", vector_type: str = "FLOAT16") -> IndexSchema:
    return IndexSchema("n", "f", "a", algorithm, vector_type, 256, encoder_id="rff-1", layout=layout)


def shape(settings: Settings) -> tuple[str, str, str]:
    return settings.index_layout, settings.vector_algorithm, settings.vector_type


def test_without_a_choice_the_settings_rule() -> None:
    assert shape(shape_settings(SETTINGS, schema(), None, None, None)) == ("single", "FLAT", "FLOAT32")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (("partitioned", None, None), ("partitioned", "HNSW", "FLOAT16")),
        ((None, "FLAT", None), ("single", "FLAT", "FLOAT16")),
        ((None, None, "FLOAT32"), ("single", "HNSW", "FLOAT32")),
    ],
)
def test_one_choice_leaves_the_rest_as_the_index_has_it(
    choice: tuple[str | None, str | None, str | None], expected: tuple[str, str, str]
) -> None:
    assert shape(shape_settings(SETTINGS, schema(), *choice)) == expected


def test_a_partitioned_index_made_single_takes_the_algorithm_of_the_settings() -> None:
    assert shape(shape_settings(SETTINGS, schema("partitioned"), "single", None, None)) == ("single", "FLAT", "FLOAT16")


def test_without_an_index_the_choice_is_completed_by_the_settings() -> None:
    assert shape(shape_settings(SETTINGS, None, None, None, "FLOAT16")) == ("single", "FLAT", "FLOAT16")
