"""An experience comes back as it went in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.records import PHASES, REGIMES, SOURCES, Action, EpisodicMemory, Side, to_ms
from memory.store.codec import (
    FeatureSchema,
    Reference,
    SchemaCache,
    following_reference,
    ms_rounded_up,
    pack_experience,
    pack_vector,
    reference_id,
    unpack_body,
    unpack_experience,
    unpack_vector,
)
from memory.store.keys import Keys
from memory.validation import validate_experience

IDENTIFIERS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0.0, 1.0)
TIMES = st.integers(0, 4_000_000_000_000).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
ACTIONS = st.builds(Action, st.sampled_from(list(Side)), SHARES)
VECTORS = st.integers(0, 10_000).map(
    lambda seed: (lambda v: (v / np.linalg.norm(v)).astype(np.float32))(
        np.random.default_rng(seed).standard_normal(256)
    )
)


@st.composite
def experiences(draw: st.DrawFn) -> EpisodicMemory:
    timestamp = draw(TIMES)
    returned = draw(st.none() | NUMBERS)
    memory = EpisodicMemory(
        agent_id=draw(IDENTIFIERS),
        timestamp=timestamp,
        state_vector=draw(VECTORS),
        next_state_vector=draw(st.none() | VECTORS),
        action=draw(ACTIONS),
        reward=draw(NUMBERS),
        product_id=draw(IDENTIFIERS),
        regime=draw(st.sampled_from(REGIMES)),
        pattern_ids=tuple(draw(st.lists(IDENTIFIERS, max_size=3))),
        confidence=draw(SHARES),
        other_agent_actions=draw(st.dictionaries(IDENTIFIERS, ACTIONS, max_size=3)),
        terminal=draw(st.booleans()),
        cumulative_return=returned,
        return_known_at=None if returned is None else draw(TIMES),
        encoder_id=draw(IDENTIFIERS),
        source=draw(st.sampled_from(SOURCES)),
        run_id=draw(IDENTIFIERS),
        step=draw(st.integers(0, 2**40)),
        known_at=timestamp + timedelta(milliseconds=draw(st.integers(0, 10**9))),
        price=draw(st.none() | st.floats(0, 1e12)),
        spread=draw(st.none() | st.floats(0, 1e12)),
        gross_return=draw(st.none() | NUMBERS),
        cost=draw(st.none() | st.floats(0, 1e12)),
        position_before=draw(st.none() | st.floats(-1, 1)),
        position_after=draw(st.none() | st.floats(-1, 1)),
        features=draw(st.dictionaries(IDENTIFIERS, NUMBERS, max_size=5)),
        quality=draw(st.none() | SHARES),
    )
    return validate_experience(memory)


def round_trip(memory: EpisodicMemory, as_of_ms: int | None = None) -> EpisodicMemory:
    packed = pack_experience(memory, "FLOAT32", SchemaCache())
    keys = Keys("ns")
    key = keys.episodic(memory.agent_id, memory.product_id, to_ms(memory.timestamp), memory.memory_id)
    body = unpack_body(packed.body)
    following = body.following
    assert packed.known_ms is not None
    return unpack_experience(
        keys.parse_episodic(key.encode()),
        body,
        unpack_vector(packed.vector, "FLOAT32"),
        packed.known_ms,
        0,
        packed.schema.names,
        unpack_vector(following, "FLOAT32") if isinstance(following, bytes) else None,
        as_of_ms,
    )


@given(experiences())
@settings(max_examples=150, deadline=None)
def test_every_field_survives(memory: EpisodicMemory) -> None:
    back = round_trip(memory)
    for name in EpisodicMemory.__slots__:
        left, right = getattr(memory, name), getattr(back, name)
        if name == "recorded_at":
            continue
        if isinstance(left, np.ndarray):
            assert np.array_equal(left, right), name
        else:
            assert left == right, name
    assert back.market_phase in PHASES


@given(experiences(), experiences())
@settings(max_examples=60, deadline=None)
def test_equal_digests_mean_equal_content(one: EpisodicMemory, other: EpisodicMemory) -> None:
    digests = [pack_experience(memory, "FLOAT32", SchemaCache()).body[:16] for memory in (one, other)]
    assert (digests[0] == digests[1]) == (one is other or _content(one) == _content(other))


def _content(memory: EpisodicMemory) -> list[Any]:
    left_out = ("quality", "pattern_ids", "recorded_at", "known_at", "memory_id", "agent_id", "product_id", "timestamp")
    values: list[Any] = []
    for name in EpisodicMemory.__slots__:
        value = getattr(memory, name)
        if name not in left_out and name != "market_phase":
            values.append(value.tobytes() if isinstance(value, np.ndarray) else value)
    return values


def test_quality_patterns_and_packing_are_no_part_of_the_content(make: Any) -> None:
    plain = validate_experience(make(1))
    changed = validate_experience(make(1, quality=0.5, pattern_ids=("p-1",)))
    referred = pack_experience(plain, "FLOAT32", SchemaCache(), Reference(to_ms(plain.timestamp) + 60_000, 2))
    digests = {pack_experience(memory, "FLOAT32", SchemaCache()).body[:16] for memory in (plain, changed)}
    assert digests == {referred.body[:16]}


def test_a_changed_reward_changes_the_content(make: Any) -> None:
    one, other = validate_experience(make(1)), validate_experience(make(1, reward=0.5))
    assert (
        pack_experience(one, "FLOAT32", SchemaCache()).body[:16]
        != pack_experience(other, "FLOAT32", SchemaCache()).body[:16]
    )


def test_a_reference_leads_to_the_next_record_and_saves_its_vector(make: Any) -> None:
    first, second = validate_experience(make(1)), validate_experience(make(2))
    packed = pack_experience(first, "FLOAT32", SchemaCache(), Reference(to_ms(second.timestamp), second.step))
    inline = pack_experience(first, "FLOAT32", SchemaCache())
    body = unpack_body(packed.body)
    reference = following_reference(body)
    assert reference is not None
    key = Keys("ns").parse_episodic(
        Keys("ns").episodic(first.agent_id, first.product_id, to_ms(first.timestamp), first.memory_id).encode()
    )
    assert reference_id(key, body, reference) == second.memory_id
    assert len(inline.body) - len(packed.body) > 1000


def test_an_end_and_a_return_that_were_not_known_yet_are_hidden(make: Any) -> None:
    memory = validate_experience(make(1, terminal=True))
    known_ms = to_ms(memory.return_known_at)
    assert round_trip(memory, known_ms - 1).cumulative_return is None
    assert round_trip(memory, known_ms - 1).return_known_at is None
    assert not round_trip(memory, known_ms - 1).terminal
    assert round_trip(memory, known_ms).cumulative_return == 0.25
    assert round_trip(memory, known_ms).terminal


def test_times_before_which_nothing_is_seen_are_rounded_up() -> None:
    time = datetime(2021, 6, 17, 0, 0, 0, 1001, tzinfo=UTC)
    assert ms_rounded_up(time) == to_ms(time) + 1
    assert ms_rounded_up(time.replace(microsecond=1000)) == to_ms(time)


def test_half_precision_keeps_vectors_within_its_error() -> None:
    vector = np.full(256, 1 / 16, dtype=np.float32)
    back = unpack_vector(pack_vector(vector, "FLOAT16"), "FLOAT16")
    assert back.dtype == np.float32
    assert np.abs(back - vector).max() < 1e-3


def test_feature_schemas_do_not_depend_on_the_order_of_names() -> None:
    assert FeatureSchema.of(["b", "a"]) == FeatureSchema.of(["a", "b"])


def test_a_body_of_another_layout_is_refused_with_the_remedy(make: Any) -> None:
    packed = pack_experience(validate_experience(make(1)), "FLOAT32", SchemaCache()).body
    assert packed[16:19] == b"\xdc\x00\x19"
    with pytest.raises(InvalidRecordError, match=r"layout 9.*Update the software"):
        unpack_body(packed[:19] + b"\x09" + packed[20:])


def test_whole_numbers_come_back_as_floats_signs_included(make: Any) -> None:
    memory = validate_experience(make(1, reward=-0.0, price=30_000.0, position_before=-1.0, cost=0.0))
    back = round_trip(memory)
    values = (back.reward, back.price, back.position_before, back.cost, back.action.size)
    assert [type(value) for value in values] == [float] * 5
    assert [str(value) for value in values] == ["-0.0", "30000.0", "-1.0", "0.0", "0.5"]
