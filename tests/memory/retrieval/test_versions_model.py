"""Questions about what was learned, against a plain Python model of all that was published: as of any time, at once.

Whatever is published in whatever order, by one connection, the next question of another one must know of it; and a
question as of a time must know of nothing that was to be known later only, the end of what it finds included.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import MemoryConnection
from memory.records import MIXED, REGIMES
from memory.retrieval.correlations import ALL_REGIMES
from memory.retrieval.knowledge import ALL_PRODUCTS
from memory.store.publishing import Publication
from tests.memory.retrieval.published_model import (
    AROUND,
    ASKED,
    KINDS,
    LINES,
    NAMES,
    PRODUCTS,
    SIMILARITY,
    SOURCES,
    TIMES,
    Chain,
    Content,
    Correlation,
    Known,
    Model,
    Pattern,
    Strategy,
    distance,
    shown,
    wanted,
)
from tests.thoroughness import examples

# No strategy here uses `random`. Hypothesis looks whether its state changed while values were drawn, and other threads
# of the run (Prefect's, once flows were tested) change it at any time.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


# --- what is drawn ---------------------------------------------------------------------------------------------


PATTERNS = st.builds(
    Pattern,
    name=st.sampled_from(["p-1", "p-10", "p-2", "p", "a"]),
    state=st.sampled_from([0, 0, 0, 0, 0, 1, 2]),
    regime=st.sampled_from(["QUIET", *NAMES, MIXED]),
    products=st.sampled_from([("BTC-USDT",), ("BTC",), ("BTC-USDT", "ETH-USDT"), ()]),
    expected=st.sampled_from([0.0, 0.001]),
)
CHAINS = st.builds(
    Chain,
    regime=st.sampled_from(NAMES),
    product=st.sampled_from([ALL_PRODUCTS, "BTC-USDT"]),
    source=st.sampled_from(SOURCES),
    state=st.integers(0, 3),
    spells=st.integers(1, 2),
)
FIGURES = st.tuples(st.sampled_from(NAMES), st.sampled_from([None, 1.5, 1.6, 3.0]), st.sampled_from([7, 8, 8, 40]))
STRATEGIES = st.builds(
    Strategy,
    agent=st.sampled_from(["a", "a.b", "hold"]),
    source=st.sampled_from(SOURCES[1:]),
    figures=st.lists(FIGURES, max_size=2, unique_by=lambda item: item[0]).map(tuple),
)
CORRELATIONS = st.builds(
    Correlation,
    products=st.sampled_from([("BTC", "BTC-USDT"), ("BTC-USDT", "ETH-USDT"), ("BTC", "ETH-USDT")]),
    regime=st.sampled_from([*NAMES, ALL_REGIMES]),
    bar=st.sampled_from([1, 15]),
    value=st.sampled_from([-0.5, 0.25, 0.5]),
    claimed=st.booleans(),
)


def some(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(kind, min_size=2, max_size=5, unique_by=lambda content: content.memory_id)


CONTENTS: st.SearchStrategy[list[Content]] = st.builds(
    lambda *parts: [content for part in parts for content in part],
    *(some(kind) for kind in (PATTERNS, CHAINS, STRATEGIES, CORRELATIONS)),
)
SOME_KINDS = st.sampled_from([KINDS, KINDS, KINDS[:1], KINDS[1:3], KINDS[3:]])
STARTS = st.sampled_from([*TIMES, TIMES[1] + timedelta(microseconds=1)])
ONE = st.lists(st.tuples(STARTS, CONTENTS), min_size=1, max_size=1)
CHANGES = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(LINES[:2]), SOME_KINDS, ONE),
    st.tuples(st.just("publish"), st.just(LINES[0]), SOME_KINDS, ONE),
    st.tuples(
        st.just("history"),
        st.sampled_from(LINES[:2]),
        SOME_KINDS,
        st.lists(st.tuples(STARTS, CONTENTS), max_size=2, unique_by=lambda item: up(item[0])),
        st.one_of(st.none(), STARTS),
    ),
    st.tuples(st.just("again")),
    st.tuples(st.just("amend"), CONTENTS),
    st.tuples(st.just("line"), st.sampled_from(LINES)),
)  # fmt: skip
QUESTIONS = st.fixed_dictionaries(
    {
        "times": st.lists(st.sampled_from(AROUND), min_size=2, max_size=6, unique=True),
        "asked": st.integers(0, len(ASKED) - 1),
        "product": st.sampled_from([None, None, None, *PRODUCTS]),
        "regime": st.sampled_from([None, None, *NAMES, MIXED]),
        "source": st.sampled_from([None, *SOURCES]),
        "top_k": st.sampled_from([1, 1, 2, 3, 9]),
        "correlations": st.fixed_dictionaries(
            {},
            optional={
                "regime": st.sampled_from([*NAMES, ALL_REGIMES]),
                "bar_minutes": st.sampled_from([1, 15]),
                "claimed_only": st.booleans(),
            },
        ),
    }
)
"""What is asked, without a time and as of some."""


def up(time: datetime) -> datetime:
    """Rounded up to whole milliseconds: nothing is seen before it was known."""
    return time + timedelta(microseconds=-time.microsecond % 1000)


# --- asking ----------------------------------------------------------------------------------------------------


async def answers(retrieval: Any, semantic: Any, question: dict[str, Any], **bound: Any) -> dict[str, Any]:
    """What a memory answers to all questions about what was learned."""
    asked, product, regime, top_k = (question[name] for name in ("asked", "product", "regime", "top_k"))
    state = ASKED[asked]
    name = regime if regime in REGIMES else "QUIET"
    patterns = await retrieval.retrieve_patterns(state, product, regime, top_k=top_k, **bound)
    best = await retrieval.find_similar_pattern(state, product, regime, **bound)
    knowledge = await retrieval.retrieve_regime_knowledge(
        name, ["CRISIS"], top_k=top_k, product_id=product, source=question["source"], **bound
    )
    regimes = await retrieval.retrieve_similar_regimes(state, product_id=product, **bound)
    correlations = await retrieval.retrieve_correlations(product or "BTC-USDT", **question["correlations"], **bound)
    if bound:
        stored = {kind: await semantic.as_of(bound["as_of"], kind) for kind in KINDS}
    else:
        stored = {kind: await semantic.current(kind) for kind in KINDS}
    return {
        "patterns": [hit.memory for hit in patterns],
        "pattern distances": [hit.distance for hit in patterns],
        "similar": [] if best is None else [best.memory],
        "regime": [] if knowledge.memory is None else [knowledge.memory],
        "strategies": [hit.memory for hit in knowledge.strategies],
        "scores": [hit.score for hit in knowledge.strategies],
        "strategies known": knowledge.strategies_known,
        "spells": None if knowledge.transitions is None else knowledge.transitions.spells,
        "regimes": [hit.memory for hit in regimes.memories],
        "states": list(regimes.states),
        "correlations": [hit.memory for hit in correlations],
        **{f"all {kind}": memories for kind, memories in stored.items()},
    }


def expected(model: Model, question: dict[str, Any]) -> dict[str, Any]:
    """What they should be; versions in place of memories."""
    as_of, asked, product, regime = (question[name] for name in ("as_of", "asked", "product", "regime"))
    name = regime if regime in REGIMES else "QUIET"
    patterns = model.patterns(asked, product, regime, as_of)
    chain = model.chain(name, product, question["source"], as_of)
    source = question["source"] if chain is None else chain.content.source  # type: ignore[union-attr]
    strategies, count = model.strategies(name, source, as_of)
    chains = [found for found in (model.chain(other, product, None, as_of) for other in REGIMES) if found is not None]
    top_k = question["top_k"]
    return {
        "patterns": patterns[:top_k],
        "pattern distances": [distance(item, asked) for item in patterns[:top_k]],
        "similar": [item for item in patterns[:1] if 1 - distance(item, asked) >= SIMILARITY],
        "regime": [] if chain is None else [chain],
        "strategies": [item for item, _ in strategies[:top_k]],
        "scores": [sharpe for _, sharpe in strategies[:top_k]],
        "strategies known": count,
        "spells": None if chain is None else chain.content.spells,  # type: ignore[union-attr]
        "regimes": sorted(chains, key=lambda item: (distance(item, asked), item.content.memory_id)),
        "states": [],
        "correlations": model.correlations(product or "BTC-USDT", question["correlations"], as_of),
        **{f"all {kind}": model.known(kind, as_of) for kind in KINDS},
    }


def differences(model: Model, question: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In what an answer is not the model's."""
    wrong = []
    for name, value in expected(model, question).items():
        got = found[name]
        if isinstance(value, list) and any(isinstance(item, Known) for item in value):
            same = shown(got, model.line or "") == wanted(value, model.line or "")
        elif name == "pattern distances":
            same = len(got) == len(value) and bool(np.allclose(got, value, atol=1e-5))
        else:
            same = got == value
        if not same:
            wrong.append(f"{name}: {got} instead of {value}")
    return wrong


async def change(mem: MemoryConnection, model: Model, what: tuple[Any, ...], last: list[Any]) -> Callable[[], Any]:
    """Apply a change to the model; returns what applies it to the memory."""
    if what[0] in ("again", "amend"):
        if not last:
            return lambda: asyncio.sleep(0)
        contents = what[1:]
        what = last[-1]
        if contents and what[3]:  # Other content from the same time on.
            what = (*what[:3], [*what[3][:-1], (what[3][-1][0], *contents)], *what[4:])
    if what[0] == "line":
        model.line = what[1]
        return lambda: mem.semantic.set_current_line(what[1], "rff-1", token=1)
    last.append(what)
    line, kinds, publications = what[1:4]
    publications = [(time, [item for item in contents if item.kind in kinds]) for time, contents in publications]
    if what[0] == "history":
        model.replace_from(line, kinds, None if what[4] is None else up(what[4]))
    for time, contents in publications:
        model.publish(line, kinds, up(time), contents)
    built = [Publication(time, [item.build(line) for item in contents]) for time, contents in publications]
    if what[0] == "history":
        return lambda: mem.semantic.publish_history(built, line=line, kinds=kinds, token=1, since=what[4])
    (only,) = built
    return lambda: mem.semantic.publish(only.memories, line=line, kinds=kinds, token=1, valid_from=only.valid_from)


async def drop(mem: MemoryConnection, name: str) -> None:
    for index in await mem.link.execute("FT._LIST"):
        if index.decode().split(":")[0] == name:
            await mem.link.execute("FT.DROPINDEX", index, "DD")


@given(steps=st.lists(st.tuples(CHANGES, QUESTIONS), min_size=3, max_size=9))
@settings(max_examples=examples(9, 54), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_question_knows_what_was_published_until_then_and_no_more(servers: Any, steps: list[Any]) -> None:
    async def run() -> None:
        name = f"v-{uuid.uuid4().hex[:10]}"
        model, last = Model(), []  # type: ignore[var-annotated]
        async with (
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as writer,
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as reader,
        ):
            await writer.link.execute("SET", writer.keys.fence, 1)
            for what, question in steps:
                await (await change(writer, model, what, last))()
                for mem in (reader, writer):
                    found = await answers(mem.retrieval, mem.semantic, question)
                    assert differences(model, {**question, "as_of": None}, found) == []
                for as_of in question["times"]:
                    past = reader.at(as_of)
                    counts = {kind: len(model.known(kind, as_of)) for kind in KINDS}
                    assert await past.semantic.counts() == counts
                    for found in (
                        await answers(past.retrieval, past.semantic, question),
                        await answers(reader.retrieval, reader.semantic, question, as_of=as_of),
                    ):
                        assert differences(model, {**question, "as_of": as_of}, found) == []
            await drop(reader, name)

    asyncio.run(run())


@given(
    first=st.tuples(st.just("publish"), st.just(LINES[0]), st.just(KINDS), ONE),
    changes=st.lists(CHANGES, min_size=1, max_size=4),
    question=QUESTIONS,
)  # fmt: skip
@settings(max_examples=examples(12, 36), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_while_something_is_published_answers_are_those_before_or_after_it(
    servers: Any, first: Any, changes: list[Any], question: dict[str, Any]
) -> None:
    async def run() -> None:
        name = f"v-{uuid.uuid4().hex[:10]}"
        before, last = Model(), []  # type: ignore[var-annotated]
        bound = {"as_of": question["times"][0]} if question["source"] else {}
        question["as_of"] = bound.get("as_of")
        async with (
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as writer,
            memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as reader,
        ):
            await writer.link.execute("SET", writer.keys.fence, 1)
            await (await change(writer, before, first, last))()
            for what in changes:
                after = replace(before, published={place: dict(times) for place, times in before.published.items()})
                apply = await change(writer, after, what, last)
                publishing = asyncio.ensure_future(apply())
                while True:
                    over = publishing.done()
                    for about, memories in (await single_answers(reader, question, bound)).items():
                        possible = [
                            (model.line or "", expected(model, question)[about])
                            for model in ([after] if over else [before, after])
                        ]
                        assert any(
                            len(memories) == len(items)
                            and all(item.line == line for item in memories)
                            and shown(memories, line) == wanted(items, line)
                            for line, items in possible
                        ), (about, memories, possible)
                    if over:
                        break
                await publishing
                before = after
            await drop(reader, name)

    asyncio.run(run())


async def single_answers(mem: MemoryConnection, question: dict[str, Any], bound: dict[str, Any]) -> dict[str, Any]:
    """Some answers, each of which must be of one moment; by what it is about."""
    asked, product, regime, top_k = (question[name] for name in ("asked", "product", "regime", "top_k"))
    patterns, correlations = await asyncio.gather(
        mem.retrieval.retrieve_patterns(ASKED[asked], product, regime, top_k=top_k, **bound),
        mem.retrieval.retrieve_correlations(product or "BTC-USDT", **question["correlations"], **bound),
    )
    return {
        "patterns": [hit.memory for hit in patterns],
        "correlations": [hit.memory for hit in correlations],
    }
