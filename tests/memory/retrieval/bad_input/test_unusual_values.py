"""Arguments of unusual types that are nevertheless what they should be are answered like any other."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import pytest

from memory import Regime
from tests.memory.retrieval.bad_input.asking import STATE, Opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_strided_and_read_only_vectors_are_answered_like_others(opened: Opened) -> None:
    wide = np.zeros(512, np.float32)
    wide[::2] = STATE
    frozen = STATE.copy()
    frozen.flags.writeable = False
    for question in ("retrieve_similar_experiences", "retrieve_shared_experiences", "retrieve_patterns"):
        for ask in opened.ask(question):
            wanted = [hit.distance for hit in await ask(STATE)]
            assert wanted
            for vector in (wide[::2], frozen, STATE[::-1][::-1], STATE.view(np.ndarray)):
                assert [hit.distance for hit in await ask(vector)] == wanted
    assert np.array_equal(wide[::2], STATE)


async def test_whole_numbers_of_numpy_are_whole_numbers(opened: Opened) -> None:
    for number in (np.int64(3), np.int32(3), np.uint8(3)):
        for question in ("retrieve_similar_experiences", "retrieve_shared_experiences"):
            for ask in opened.ask(question):
                assert len(await ask(STATE, top_k=number)) == 3
    for number in (np.int64(1), np.uint8(1)):
        found = await opened.mem.retrieval.retrieve_correlations("BTC-USDT", bar_minutes=number)
        assert [hit.other for hit in found] == ["ETH-USDT"]
        estimate = opened.mem.retrieval.estimate
        assert await estimate(STATE, "LONG", number) == await estimate(STATE, "LONG", 1)


class Product(str, Enum):  # noqa: UP042 - what its members look like as text depends on the version of Python
    """Names as many programs keep them."""

    BTC = "BTC-USDT"
    MOMENTUM = "momentum"


async def test_members_of_enumerations_are_the_names_that_they_hold(opened: Opened, make: Any) -> None:
    retrieve = opened.mem.retrieval
    assert len(await retrieve.retrieve_patterns(STATE, product_id=Product.BTC)) == 1
    assert len(await retrieve.retrieve_correlations(Product.BTC)) == 1
    for ask in opened.ask("retrieve_similar_experiences"):
        hits = await ask(STATE, agent_id=Product.MOMENTUM, product_id=Product.BTC, regime=Regime.QUIET)
        assert len(hits) == 10
    record = make(60, agent_id=Product.MOMENTUM, product_id=Product.BTC, quality=0.9)
    await opened.mem.shared.add_shared_experience(record)
    assert (type(record.agent_id), record.agent_id, record.product_id) == (str, "momentum", "BTC-USDT")
    (hit,) = await opened.mem.shared.retrieve_shared_experiences(record.state_vector, agent_id="momentum", top_k=1)
    assert (hit.memory.memory_id, hit.memory.product_id) == (record.memory_id, "BTC-USDT")
