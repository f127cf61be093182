"""Records that cannot be kept, and criteria by which none can be counted or forgotten, are refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.store.episodic import EpisodicStore
from tests.memory.retrieval.bad_input.asking import LONGEST_MESSAGE, PRESENT, Opened, complaint
from tests.memory.retrieval.bad_input.bad_values import BAD, IDS, NO_IDS, REGIMES, TIMES, VECTORS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("shared_at", TIMES)
async def test_nothing_is_shared_at_what_is_no_time(opened: Opened, make: Any, shared_at: Any) -> None:
    before = opened.sent()
    for share in (
        opened.mem.shared.add_shared_experience(make(50, quality=0.9), shared_at=shared_at),
        opened.mem.shared.add_shared_experiences([make(50, quality=0.9)], shared_at=shared_at),
    ):
        with pytest.raises(InvalidQueryError) as caught:
            await share
        assert complaint(caught.value, "shared_at") is None
    assert opened.sent() == before


async def test_nothing_is_shared_through_a_lock(opened: Opened, make: Any) -> None:
    before = opened.sent()
    past = opened.mem.at(PRESENT).shared
    for share in (past.add_shared_experience(make(50, quality=0.9)), past.add_shared_experiences([make(50)])):
        with pytest.raises(InvalidQueryError) as caught:
            await share
        assert caught.value.argument == "experiences"
    assert opened.sent() == before


@pytest.mark.parametrize("experiences", [None, 7, object(), iter([])])
async def test_a_batch_is_a_sequence(opened: Opened, make: Any, experiences: Any) -> None:
    before = opened.sent()
    for add in (opened.mem.shared.add_shared_experiences, opened.mem.episodic.add_many):
        for batch in (experiences, make(50, quality=0.9)):
            with pytest.raises(InvalidRecordError, match="not a sequence") as caught:
                await add(batch)
            assert (caught.value.field, str(caught.value).endswith(caught.value.remedy)) == ("experiences", True)
    assert opened.sent() == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({"agent_id": name}, "agent_id") for name in NO_IDS),
        *(({"product_id": name}, "product_id") for name in NO_IDS),
        *(({"regime": name}, "regime") for name in ("MIXED", "quiet", "", None)),
        *(({"state_vector": vector}, "state_vector") for vector in VECTORS),
        *(({"quality": quality}, "quality") for quality in (-0.1, 1.1, float("nan"), 10**400, "1", True)),
        *(({"timestamp": time}, "timestamp") for time in TIMES),
    ],
)
async def test_what_is_malformed_is_not_shared(opened: Opened, make: Any, changes: dict[str, Any], field: str) -> None:
    pool = opened.mem.shared
    count = await pool.count()
    with pytest.raises(InvalidRecordError) as caught:
        await pool.add_shared_experience(make(50, **{"quality": 0.9, **changes}))
    assert caught.value.field == field
    assert len(str(caught.value)) <= LONGEST_MESSAGE
    assert str(caught.value).endswith(f" {caught.value.remedy}")
    assert await pool.count() == count


KEPT: dict[str, dict[str, list[Any]]] = {
    "get": {
        "memory_id": [*("", "a" * 31, "g" * 32, "A" * 32, "*" * 32, "?" * 32, "a" * 10_000), None, 7, b"a" * 32, ["a"]],
        **{"agent_id": IDS, "product_id": IDS, "timestamp": TIMES, "as_of": TIMES},
    },
    "count": {
        **dict.fromkeys(("agent_id", "product_id", "run_id", "encoder_id"), IDS),
        **dict.fromkeys(("since", "until", "as_of", "recorded_after"), TIMES),
        **{"regime": REGIMES, "source": BAD["source"]},
    },
    "forget": {
        **dict.fromkeys(("agent_id", "product_id", "run_id"), IDS),
        **{"before": TIMES, "source": BAD["source"]},
    },
}
FREE = {"token", "dry_run", "at_least", "self"}
"""A run's own: where they come from they are checked already."""


@pytest.mark.parametrize(("method", "argument"), [(method, name) for method, bad in KEPT.items() for name in bad])
async def test_what_was_recorded_is_not_asked_for_or_forgotten_by_what_cannot_be(
    opened: Opened, method: str, argument: str
) -> None:
    before = opened.sent()
    # Beside a good criterion: one that is taken for none would widen what is forgotten.
    beside = {"get": {"memory_id": "0" * 32}, "count": {"agent_id": "momentum"}, "forget": {"source": "replay"}}[method]
    problems = []
    for value in KEPT[method][argument]:
        shown = f"{argument}={repr(value)[:60]}"
        try:
            await getattr(opened.mem.episodic, method)(**{**beside, argument: value})
        except InvalidQueryError as error:
            lacking = complaint(error, argument)
            if lacking is not None:
                problems.append(f"{shown}: the refusal {lacking}")
        except Exception as error:  # noqa: BLE001 - whatever else comes is reported with the value that led to it
            problems.append(f"{shown} raised {type(error).__name__}: {str(error)[:100]}")
        else:
            problems.append(f"{shown} was answered")
    assert problems == []
    assert opened.sent() == before


async def test_every_argument_about_what_was_recorded_is_put_to_the_test() -> None:
    for method, bad in KEPT.items():
        assert set(inspect.signature(getattr(EpisodicStore, method)).parameters) - FREE == set(bad)


async def test_shared_experiences_are_not_counted_or_forgotten_by_what_cannot_be(opened: Opened) -> None:
    before = opened.sent()
    pool = opened.mem.shared
    for name, values in (("agent_id", IDS), ("product_id", IDS), ("as_of", TIMES)):
        for value in values:
            with pytest.raises(InvalidQueryError) as caught:
                await pool.count(**{name: value})
            assert complaint(caught.value, name) is None
    for name, values in (("agent_id", IDS), ("run_id", IDS), ("source", BAD["source"]), ("before", TIMES)):
        for value in values:
            with pytest.raises(InvalidQueryError) as caught:
                await pool._store.forget(**{"source": "replay", name: value})
            assert complaint(caught.value, name) is None
    assert opened.sent() == before
