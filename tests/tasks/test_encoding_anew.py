"""A window that is encoded again product by product is, byte for byte, one that is encoded whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.catalogue import FEATURES, QUOTE_FEATURES
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from memory.errors import ArchiveError
from memory.ledger import Archive, ArchiveReference, merge
from memory.records import REGIMES
from memory.tables import ExperienceTable, StateTable, WindowData
from memory.window import Window
from tasks.lines import _encode_archive, encoded_anew

DAY = Window.of_date(date(2021, 6, 17))
PRODUCTS = ("A", "B", "C")
NAMES = tuple(sorted(spec.name for spec in FEATURES))
MINUTES = 30


@pytest.fixture(scope="module")
def encoder() -> StateEncoder:
    """One that ships with the software."""
    return default_encoder()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty archive."""
    return Archive(f"file://{tmp_path}")


def window_data(products: tuple[str, ...] = PRODUCTS, *, encoder_id: str = "old", seed: int = 0) -> WindowData:
    """A minute's state of each product and one agent's experience in it; of product B none can be encoded."""
    rng = np.random.default_rng(seed)
    count = len(products) * MINUTES
    features = rng.standard_normal((count, len(NAMES)))
    quotes = [position for position, name in enumerate(NAMES) if name in QUOTE_FEATURES]
    features[::7, quotes] = np.nan  # not seen: neutral
    needed = next(position for position, name in enumerate(NAMES) if name not in QUOTE_FEATURES)
    product = np.repeat(np.arange(len(products), dtype=np.int64), MINUTES)
    if "B" in products:
        features[product == products.index("B"), needed] = np.nan
    features[3, needed] = np.nan
    times = np.tile(1_623_888_000_000 + 60_000 * np.arange(MINUTES, dtype=np.int64), len(products))
    vectors = rng.standard_normal((count, 256)).astype(np.float32)
    states = StateTable(
        encoder_id=encoder_id,
        source="replay",
        feature_names=NAMES,
        products=products,
        product=product,
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times + 61_000,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        features=features,
        price=rng.uniform(1, 2, count),
        spread=np.full(count, np.nan),
        regime=rng.integers(0, len(REGIMES), count),
    )
    zeros = np.zeros(count)
    experiences = ExperienceTable(
        encoder_id=encoder_id,
        source="replay",
        agents=("momentum",),
        products=products,
        runs=("sample",),
        agent=np.zeros(count, dtype=np.int64),
        product=product,
        run=np.zeros(count, dtype=np.int64),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times + 61_000,
        step=np.arange(count, dtype=np.int64),
        regime=states.regime,
        side=np.zeros(count, dtype=np.int64),
        size=zeros,
        reward=rng.standard_normal(count),
        gross_return=zeros,
        cost=zeros,
        position_before=zeros,
        position_after=zeros,
        confidence=zeros,
        quality=zeros,
        terminal=np.zeros(count, dtype=bool),
    )
    return WindowData(states, experiences)


def encode(archive: Archive, encoder: StateEncoder, of: ArchiveReference, held: ArchiveReference | None) -> Any:
    workspace: Any = SimpleNamespace(archive=archive)
    with archive.writer("other", DAY, encoder.id_, "replay", derived_from="old") as writer:
        return _encode_archive(workspace, encoder, of, held, writer)


def whole(archive: Archive, encoder: StateEncoder, of: ArchiveReference, held: ArchiveReference | None) -> Any:
    data = encoded_anew(archive.read(of), encoder)
    return archive.write("other", DAY, data if held is None else merge(archive.read(held), data), derived_from="old")


def content(reference: ArchiveReference) -> tuple[str, ...]:
    return reference.content_digest, reference.states.sha256, reference.experiences.sha256


def test_in_parts_as_whole(archive: Archive, encoder: StateEncoder) -> None:
    of = archive.write("default", DAY, window_data())
    encoded = encode(archive, encoder, of, None)
    assert encoded.states == 2 * MINUTES - 1
    assert content(encoded.written) == content(whole(archive, encoder, of, None))


@pytest.mark.parametrize("products", [("B",), ("A", "D"), ("0",)], ids=str)
def test_with_what_the_new_encoder_has_already_too(
    archive: Archive, encoder: StateEncoder, products: tuple[str, ...]
) -> None:
    of = archive.write("default", DAY, window_data())
    held = archive.write("default", DAY, window_data(products, encoder_id=encoder.id_, seed=1), derived_from="old")
    assert content(encode(archive, encoder, of, held).written) == content(whole(archive, encoder, of, held))


def test_a_lost_archive_is_encoded_again_where_it_had_been_encoded_and_missed_where_it_had_been_recorded(
    archive: Archive, encoder: StateEncoder, tmp_path: Path
) -> None:
    of = archive.write("default", DAY, window_data())
    held = archive.write("default", DAY, window_data(encoder_id=encoder.id_, seed=1), derived_from="old")
    (tmp_path / held.states.path).unlink()
    assert content(encode(archive, encoder, of, held).written) == content(whole(archive, encoder, of, None))
    with pytest.raises(ArchiveError, match="is not under"):
        encode(archive, encoder, of, replace(held, derived_from=None))


def test_what_cannot_be_encoded_at_all_leaves_nothing_behind(archive: Archive, encoder: StateEncoder) -> None:
    of = archive.write("default", DAY, window_data(("B",)))
    before = archive.files("other")
    encoded = encode(archive, encoder, of, None)
    assert (encoded.states, encoded.written) == (0, None)
    assert archive.files("other") == before == {}
