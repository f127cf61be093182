"""Decision traces: kept beside the experience that the decision became, whole, once, and no longer than it."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from memory import MemoryConnection
from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead, validate_trace
from memory.errors import ConflictingRecordError, InvalidQueryError, InvalidRecordError, StoreUnavailableError
from memory.records import Action, EpisodicMemory, Side
from memory.store.decisions import pack_trace, unpack_trace

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def unit(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(256)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def trace(**changes: Any) -> DecisionTrace:
    """A trace with a value in every field."""
    values: dict[str, Any] = {
        "agent_id": "momentum",
        "product_id": "BTC-USDT",
        "timestamp": NOON,
        "as_of": NOON,
        "encoder_id": "rff-1",
        "features": {"return_1m": 0.5, "volatility": -1.25},
        "state_vector": unit(),
        "regime": "QUIET",
        "regime_confidence": 0.75,
        "position_before": -0.5,
        "policy": "momentum",
        "action": Action(Side.SELL, 0.25),
        "confidence": 0.5,
        "source": "replay",
        "run_id": "run-1",
        "step": 7,
        "line": "line-1",
        "own": (MemoryRead(memory_id="a" * 32, distance=0.125, known_at=NOON - HOUR),),
        "shared": (MemoryRead(memory_id="b" * 32, distance=0.25, known_at=NOON),),
        "patterns": (KnowledgeRead(memory_id="p1", kind="PATTERN", valid_from=NOON - HOUR, distance=0.1),),
        "knowledge": (KnowledgeRead(memory_id="r1", kind="REGIME", valid_from=NOON - HOUR),),
        "messages": ("c" * 32,),
        "policy_parameters": {"entry": 1.0, "spans": [1, 5], "name": "x", "off": None},
        "checkpoint": "checkpoint-1",
        "seed": 3,
        "draw": 0.5,
        "probabilities": (0.25, 0.25, 0.25, 0.25),
    }
    return DecisionTrace(**(values | changes))


def content(item: DecisionTrace) -> dict[str, Any]:
    """All fields, comparable."""
    values = {field.name: getattr(item, field.name) for field in fields(DecisionTrace)}
    return values | {"state_vector": item.state_vector.tobytes(), "features": dict(item.features)}


async def test_what_was_stored_comes_back_in_every_field(mem: MemoryConnection) -> None:
    stored = trace()
    decision_id = await mem.decisions.add(stored)
    found = await mem.decisions.get(decision_id)
    assert found is not None
    assert content(found) == content(stored)


async def test_the_id_is_that_of_the_experience_that_the_decision_became(mem: MemoryConnection) -> None:
    decided = trace()
    experience = EpisodicMemory(
        agent_id=decided.agent_id,
        timestamp=decided.timestamp,
        state_vector=decided.state_vector,
        action=decided.action,
        reward=0.0,
        product_id=decided.product_id,
        regime=decided.regime,
        encoder_id=decided.encoder_id,
        source=decided.source,
        run_id=decided.run_id,
        step=decided.step,
        known_at=NOON + HOUR,
    )
    assert await mem.decisions.add(decided) == await mem.episodic.add(experience)


async def test_the_same_trace_again_is_a_no_op(mem: MemoryConnection) -> None:
    first = await mem.decisions.add_many([trace()])
    again = await mem.decisions.add_many([trace()])
    assert (len(first.stored), again.stored, again.duplicates) == (1, (), first.stored)


async def test_another_trace_under_the_same_id_is_refused_and_what_was_stored_stands(mem: MemoryConnection) -> None:
    decision_id = await mem.decisions.add(trace())
    with pytest.raises(ConflictingRecordError, match=decision_id):
        await mem.decisions.add(trace(confidence=0.75))
    found = await mem.decisions.get(decision_id)
    assert found is not None
    assert found.confidence == 0.5


async def test_a_batch_stores_its_good_traces_and_reports_the_others_by_position(mem: MemoryConnection) -> None:
    report = await mem.decisions.add_many([trace(step=0), trace(step=1, regime="CALM"), trace(step=2)])
    assert len(report.stored) == 2
    assert [(item.position, item.error.field) for item in report.rejections] == [(1, "regime")]  # type: ignore[union-attr]


async def test_a_batch_of_more_than_one_round_trip_is_stored_whole(mem: MemoryConnection) -> None:
    report = await mem.decisions.add_many([trace(step=step) for step in range(450)])
    found = await mem.decisions.get_many(report.stored)
    assert sorted(item.step for item in found if item is not None) == list(range(450))


async def test_a_decision_without_a_trace_is_none(mem: MemoryConnection) -> None:
    assert await mem.decisions.get("0" * 32) is None


async def test_what_is_no_id_is_refused_before_anything_is_sent(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidQueryError, match="memory_id"):
        await mem.decisions.get("momentum")


@pytest.mark.parametrize(("source", "expires"), [("live", True), ("replay", False)])
async def test_live_traces_expire_as_live_experiences_do(mem: MemoryConnection, source: str, expires: bool) -> None:
    decision_id = await mem.decisions.add(trace(source=source))
    left_ms = await mem.link.execute("PTTL", mem.keys.decision(decision_id))
    expected_ms = 2 * mem.settings.episodic_retention_days * 86_400_000
    assert (expected_ms - 60_000 < left_ms <= expected_ms) if expires else left_ms == -1


async def test_pruning_takes_the_traces_of_the_experiences_that_it_removes(mem: MemoryConnection) -> None:
    old, new = trace(), trace(timestamp=NOON + HOUR, as_of=NOON + HOUR)
    for decided in (old, new):
        await mem.episodic.add(
            EpisodicMemory(
                agent_id=decided.agent_id,
                timestamp=decided.timestamp,
                state_vector=decided.state_vector,
                action=decided.action,
                reward=0.0,
                product_id=decided.product_id,
                regime=decided.regime,
                encoder_id=decided.encoder_id,
                source=decided.source,
                run_id=decided.run_id,
                step=decided.step,
                known_at=NOON + 2 * HOUR,
            )
        )
        await mem.decisions.add(decided)
    await mem.episodic.forget(before=NOON + HOUR, dry_run=True)
    assert await mem.decisions.get(old.decision_id) is not None
    await mem.episodic.forget(before=NOON + HOUR)
    assert await mem.decisions.get(old.decision_id) is None
    assert await mem.decisions.get(new.decision_id) is not None


async def test_the_vector_is_checked_against_the_registered_encoder(mem: MemoryConnection) -> None:
    await mem.encoders.register("small-1", fitted_until=NOON - HOUR, definition={}, dimension=8)
    with pytest.raises(InvalidRecordError, match=r"state_vector is float32 \(256,\), not .*\(8,\)"):
        await mem.decisions.add(trace(encoder_id="small-1"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"own": (MemoryRead(memory_id="a", distance=0.1, known_at=NOON + HOUR),)}, "own"),
        ({"shared": (MemoryRead(memory_id="a", distance=0.1, known_at=NOON + HOUR),)}, "shared"),
        ({"patterns": (KnowledgeRead(memory_id="p", kind="PATTERN", valid_from=NOON + HOUR),)}, "patterns"),
        ({"own": ("a",)}, "own"),
        ({"knowledge": (KnowledgeRead(memory_id="p", kind="RUMOUR", valid_from=NOON),)}, "knowledge.kind"),
        ({"own": (MemoryRead(memory_id="a", distance=float("nan"), known_at=NOON),)}, "own.distance"),
        ({"features": {"return_1m": float("nan")}}, "features[return_1m]"),
        ({"state_vector": np.zeros(256, np.float32)}, "state_vector"),
        ({"probabilities": (0.5, 0.25)}, "probabilities"),
        ({"draw": 1.5}, "draw"),
        ({"seed": -1}, "seed"),
        ({"as_of": datetime(2021, 6, 17)}, "as_of"),
        ({"policy_parameters": {"entry": float("inf")}}, "policy_parameters"),
        ({"policy_parameters": {"hook": print}}, "policy_parameters"),
        ({"policy_parameters": {"seed": 2**70}}, "policy_parameters"),
        ({"policy_parameters": {"spans": {1: 5}}}, "policy_parameters"),
        ({"policy_parameters": {"since": NOON}}, "policy_parameters"),
        ({"policy_parameters": None}, "policy_parameters"),
        ({"features": None}, "features"),
        ({"probabilities": None}, "probabilities"),
        ({"as_of": NOON + HOUR}, "as_of"),
        ({"decision_id": "0" * 32}, "decision_id"),
    ],
)
def test_what_cannot_be_is_refused_and_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate_trace(trace(**changes))
    assert caught.value.field == field


def test_a_read_of_the_future_is_refused_with_the_remedy() -> None:
    ahead = trace(own=(MemoryRead(memory_id="a" * 32, distance=0.1, known_at=NOON + HOUR),))
    with pytest.raises(InvalidRecordError, match=r"after as_of .*as of the decision's time"):
        validate_trace(ahead)


def test_equal_traces_are_equal_bytes_whatever_the_order_of_their_features() -> None:
    one = validate_trace(trace())
    other = validate_trace(trace(features=dict(reversed(list(trace().features.items())))))
    assert pack_trace(one) == pack_trace(other)


def test_bytes_that_are_no_trace_say_so() -> None:
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        unpack_trace(b"\x93\x01\x02\x03")


def test_a_trace_with_twenty_memories_read_takes_three_kilobytes() -> None:
    reads = tuple(MemoryRead(memory_id=f"{number:032x}", distance=0.1, known_at=NOON) for number in range(10))
    names = {f"feature_number_{number}": 0.5 for number in range(28)}
    full = validate_trace(replace(trace(), own=reads, shared=reads, features=names))
    assert len(pack_trace(full)) < 3_200
