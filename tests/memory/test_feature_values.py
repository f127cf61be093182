"""Features of stored experiences: a mapping like any other, which nobody can change."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import pytest

from memory.feature_values import FeatureValues

NAMES = ("trend", "volume", "width")
VALUES = {"trend": 0.5, "volume": -2.0, "width": 1e-300}


@pytest.fixture
def features() -> FeatureValues:
    return FeatureValues(NAMES, struct.pack("<3d", *VALUES.values()))


def test_it_reads_like_the_dictionary_that_it_was_packed_from(features: FeatureValues) -> None:
    assert dict(features) == VALUES
    assert features == VALUES
    assert VALUES.__eq__(features) is NotImplemented
    assert list(features.items()) == list(VALUES.items())
    assert features["volume"] == -2.0
    assert features.get("nothing") is None
    assert "trend" in features
    assert "nothing" not in features
    assert len(features) == 3
    assert repr(features) == repr(VALUES)
    with pytest.raises(KeyError):
        features["nothing"]


def test_nothing_in_it_can_be_changed(features: FeatureValues) -> None:
    anything: Any = features
    with pytest.raises(TypeError):
        anything["trend"] = 1.0
    with pytest.raises(TypeError):
        del anything["trend"]
    with pytest.raises(AttributeError):
        anything.more = 1.0
    assert features == VALUES


def test_it_travels_between_processes_and_copies(features: FeatureValues) -> None:
    for other in (pickle.loads(pickle.dumps(features)), copy.deepcopy(features), copy.copy(features)):
        assert other == features


def test_values_that_do_not_fit_their_names_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes hold no 3"):
        FeatureValues(NAMES, struct.pack("<2d", 1.0, 2.0))


def test_no_features_are_an_empty_mapping() -> None:
    assert FeatureValues((), b"") == {}
