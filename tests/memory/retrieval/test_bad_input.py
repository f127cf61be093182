"""Questions that cannot be answered are refused: the argument and the remedy are named, and nothing is sent.

What was sent is counted by a server that nobody else talks to.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import memory
from memory import (
    BatchedMemoryRetrieval,
    LoadBalancedMemoryRetrieval,
    MarketPhase,
    MemoryConnection,
    MemoryRetrievalService,
    Regime,
    RelevanceWeights,
    SharedMemoryPool,
    Side,
)
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.retrieval.replicas import ReplicaPolicy
from memory.store.episodic import EpisodicStore
from tests.memory.retrieval.conftest import (
    LINE,
    correlation_memory,
    experience,
    pattern_memory,
    performance,
    regime_memory,
    strategy_memory,
)
from tests.memory.retrieval.redis_processes import RedisProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY = datetime(2021, 6, 17, tzinfo=UTC)
PRESENT = DAY + timedelta(days=2)
HOUR = timedelta(hours=1)
MAX_TOP_K = 50
LOADED_WITHIN_S = 60.0
LONGEST_MESSAGE = 500
"""No refusal repeats 10 kB of what it was given."""


def unit_vector(seed: int, dimension: int = 256) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


# --- what is wrong -------------------------------------------------------------------------------------------


class Timeless(tzinfo):
    """A time zone that does not know its offset: its times are as naive as those without any."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None


class Text:
    """Something that merely looks like a name."""

    def __str__(self) -> str:
        return "QUIET"


async def keep_all(hits: list[Any]) -> list[Any]:
    return hits


def with_value(index: int, value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = unit_vector(1)
    vector[index] = value
    return vector


def without(values: list[Any], name: str) -> list[Any]:
    return [value for value in values if not (isinstance(value, str) and value == name)]


VECTORS: list[Any] = [
    *(None, [], (), "", b"\x00" * 1024, 1.0, object(), unit_vector(1).tolist(), unit_vector(1).tobytes()),
    *(np.zeros(0, np.float32), np.zeros(256, np.float32), np.full(256, np.nan, np.float32), np.float32(1.0)),
    *(with_value(0, np.nan), with_value(255, np.inf), with_value(7, -np.inf), with_value(7, 3e38)),
    *(unit_vector(1, 255), unit_vector(1, 257), unit_vector(1, 1), unit_vector(1, 512)),
    *(unit_vector(1).astype(dtype) for dtype in (np.float64, np.float16, np.int64, np.complex64, object, ">f4")),
    *(unit_vector(1)[None], unit_vector(1)[:, None], unit_vector(1).reshape(16, 16), np.array(1.0, np.float32)),
    *(2 * unit_vector(1), unit_vector(1) / 2, 1.002 * unit_vector(1), np.ones(256, np.float32)),
]
IDS: list[Any] = [
    *("", " ", "*", "|", "}", "{", '"', "'", "\\", "a|b", "a}b", "{a}", "a*", "a?", "a b", " a", "a ", "a,b", "a:b"),
    *("a=b", "$scope", "@scope", "(a)", "a~", "%a%", "-a", "_a", ".a", "..", "../a", "a/b", "a;b", "a&b", "#a", "a[0]"),
    *("a\n", "\na", "a\tb", "a\r\nPING", "\x00", "a\x00", "\x1b[31ma", "\x7f", "a" * 129, "a" * 10_000, "*" * 10_000),
    *("\u00e9", "\u0430", "\uff41", "a\u200b", "\u0661", "a\u202eb", "\u212a", "\U0001d41a", "\ud800"),
    *(b"a", 7, 1.5, True, ["a"], ("a",), {"a"}, object(), np.array(["a"])),
]
NO_IDS: list[Any] = [*IDS, None]
NAMES: list[Any] = [
    *(
        "",
        " ",
        "UNKNOWN",
        "*",
        "|",
        "}",
        "a\x00",
        "\\",
        '"',
        "Q" * 10_000,
        "QUIET ",
        " QUIET",
        "QUIET\n",
        "QUIET|VOLATILE",
    ),
    *(b"QUIET", 7, True, ["QUIET"], ("QUIET",), Text(), object(), np.array(["QUIET"]), np.array(["QUIET", "CRISIS"])),
]
REGIMES: list[Any] = [*NAMES, "quiet", "Quiet", "MIXED", "ALL", MarketPhase.OPEN]
TIMES: list[Any] = [
    *(datetime(2021, 6, 17), date(2021, 6, 17), "2021-06-17T00:00:00+00:00", 1_623_888_000, 1_623_888_000.0, True, ""),
    *(timedelta(hours=1), np.datetime64("2021-06-17T00:00"), [DAY], object(), datetime(2021, 6, 17, tzinfo=Timeless())),
    *(datetime.min.replace(tzinfo=timezone(HOUR)), datetime.max.replace(tzinfo=timezone(-HOUR))),
]
COUNTS: list[Any] = [
    *(0, -1, MAX_TOP_K + 1, 10**30, -(10**30), True, False, 1.0, 1.5, float("nan"), float("inf"), "5", b"5", "", [5]),
    *(None, Decimal(5), np.float32(5), np.bool_(True), np.array([5]), np.array([5, 6]), object()),
    *(np.int64(0), np.int64(MAX_TOP_K + 1)),
]
NOT_FINITE: list[Any] = [
    *(float("nan"), float("inf"), float("-inf"), np.float32("nan"), 10**400, -(10**400), "0", "", b"0", True, [0.0]),
    *(Decimal(0), 1j, np.array([0.0]), np.array([0.0, 1.0]), object(), timedelta(0)),
]
FLAGS: list[Any] = [None, 0, 1, "", "no", "True", [], np.bool_(True), object()]
WORTHLESS = RelevanceWeights()
"""Weights where nothing is ranked by relevance."""

BAD: dict[str, list[Any]] = {
    "state_vector": VECTORS,
    "feature_vector": VECTORS,
    "agent_id": IDS,
    "product_id": IDS,
    "exclude_agent_id": IDS,
    "regime": REGIMES,
    "market_phase": [*NAMES, "open", "Open", "NIGHT", Regime.QUIET],
    "since": TIMES,
    "until": TIMES,
    "as_of": TIMES,
    "min_reward": NOT_FINITE,
    "min_sharpe": NOT_FINITE,
    "min_quality": [*NOT_FINITE, -0.1, 1.1],
    "top_k": COUNTS,
    "ranking": [*NAMES, None, "Similarity", "SIMILARITY", "relevance "],
    "post_filter": [1, "keep", [], True, keep_all, object()],
    "weights": [WORTHLESS, RelevanceWeights, {}, {"similarity": 1.0}, (0.8, 0.1, 0.1), 1.0, "even"],
    "with_next_state": FLAGS,
    "min_similarity": [*NOT_FINITE, -1.1, 1.1],
    "action": [*NAMES, None, "BUY", "long", "Long", Side.BUY, memory.Action(Side.BUY)],
    "horizon": [0, -1, 2, 61, 10**30, True, 5.0, "5", None, [5], float("nan"), np.float64(5), np.array([5, 15])],
    "trailing_volatility": [*NOT_FINITE, 0, 0.0, -0.001, 11.0],
    "current_regime": [*REGIMES, None],
    "previous_regimes": [
        *(None, "QUIET", b"QUIET", 7, {"QUIET"}, iter(["QUIET"]), np.array(["QUIET"]), object()),
        *([name] for name in (*REGIMES, None)),
        ["QUIET", "quiet"],
    ],
    "source": [*NAMES, "LIVE", "paper", "Replay"],
    "bar_minutes": [0, -1, 1.0, True, "1", [1], float("nan"), np.float64(1), np.array([1, 2]), object()],
    "ahead_minutes": [0, -1, 1.0, True, "1", [1], float("nan"), np.float64(1), np.array([1, 2]), object()],
    "claimed_only": FLAGS,
    "timeout_s": [*NOT_FINITE, -1, -1e-9, 1e6],
}
SPECIAL: dict[tuple[str, str], list[Any]] = {
    ("retrieve_patterns", "regime"): without(REGIMES, "MIXED"),
    ("find_similar_pattern", "regime"): without(REGIMES, "MIXED"),
    ("retrieve_correlations", "regime"): without(REGIMES, "ALL"),
    ("retrieve_correlations", "product_id"): NO_IDS,
}

# --- what can be asked ---------------------------------------------------------------------------------------

STATE = unit_vector(3)
VALID: dict[str, dict[str, Any]] = {
    "retrieve_similar_experiences": {"state_vector": STATE, "agent_id": "momentum"},
    "retrieve_async": {"state_vector": STATE, "agent_id": "momentum"},
    "retrieve_patterns": {"state_vector": STATE},
    "find_similar_pattern": {"state_vector": STATE},
    "estimate": {"state_vector": STATE, "action": "LONG", "horizon": 5},
    "retrieve_regime_knowledge": {"current_regime": "QUIET"},
    "retrieve_similar_regimes": {"feature_vector": STATE},
    "retrieve_correlations": {"product_id": "BTC-USDT"},
    "retrieve_shared_experiences": {"state_vector": STATE},
}
HOLDERS: dict[str, type] = {
    **dict.fromkeys(VALID, MemoryRetrievalService),
    "retrieve_async": BatchedMemoryRetrieval,
    "retrieve_shared_experiences": SharedMemoryPool,
}
QUESTIONS = [
    (question, argument)
    for question in VALID
    for argument in inspect.signature(getattr(HOLDERS[question], question)).parameters
    if argument != "self"
]


@dataclass(frozen=True)
class Opened:
    """A memory behind all its doors, each of which was used before, and what was sent by all of them."""

    mem: MemoryConnection
    doors: tuple[Any, ...]
    sent: Callable[[], dict[str, int]]

    def ask(self, question: str) -> list[Callable[..., Any]]:
        """One question at each of the doors that know it."""
        return [getattr(door, question) for door in self.doors if hasattr(door, question)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    """A Redis that nobody else talks to."""
    directory = Path(tempfile.mkdtemp(prefix="coinswarm-test-"))
    process = RedisProcess(directory)
    process.start()
    yield process
    process.kill()
    shutil.rmtree(directory)


def count_commands(server: RedisProcess) -> dict[str, int]:
    """Commands that the server was sent so far, by name; INFO counts for nothing, since that is how it is asked."""
    lines = server.ask("INFO", "commandstats").split("\r\n")
    counts = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if "calls=" in line}
    return {name: count for name, count in counts.items() if name != "cmdstat_info"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def opened(server: RedisProcess) -> AsyncIterator[Opened]:
    """A memory with something of everything, asked once before: by wire, near cache, batched, balanced, locked."""

    def configured(near_cache_mb: int) -> memory.Settings:
        return memory.Settings(
            redis_url=server.url,
            namespace="bad-input",
            max_top_k=MAX_TOP_K,
            near_cache_mb=near_cache_mb,
            near_cache_after=0,
        )

    async with AsyncExitStack() as stack:
        mem = await stack.enter_async_context(memory.connect(settings=configured(0)))
        near = await stack.enter_async_context(memory.connect(settings=configured(16)))
        await mem.episodic.add_many([experience(minute) for minute in range(20)])
        await mem.shared.add_shared_experiences([experience(minute, quality=0.9) for minute in range(5)])
        await mem.link.execute("SET", mem.keys.fence, 1)
        await mem.semantic.publish(
            [
                pattern_memory(seed=3),
                regime_memory(),
                strategy_memory("momentum", {"QUIET": performance(2.0)}),
                correlation_memory("BTC-USDT", "ETH-USDT", 0.5),
            ],
            line=LINE,
            kinds=tuple(memory.SemanticType),
            token=1,
            valid_from=DAY,
        )
        batched = await stack.enter_async_context(BatchedMemoryRetrieval(mem))
        # It looks at its servers once an hour, so that all that is sent is sent for questions.
        policy = ReplicaPolicy(check_interval_s=3600.0, max_lag_s=7200.0)
        balanced = await stack.enter_async_context(LoadBalancedMemoryRetrieval(mem, [], policy=policy))
        past = mem.at(PRESENT)
        doors = (mem.retrieval, near.retrieval, batched, balanced, past.retrieval, mem.shared, past.shared)
        ready = Opened(mem, doors, lambda: count_commands(server))
        assert near.near is not None
        async with asyncio.timeout(LOADED_WITHIN_S):
            while not near.near.describe().hits:
                for question, arguments in VALID.items():
                    for ask in ready.ask(question):
                        await ask(**arguments)
        await mem.access.flush()
        await near.access.flush()
        yield ready


# --- refusals ------------------------------------------------------------------------------------------------


def complaint(error: InvalidQueryError, argument: str) -> str | None:
    """What a refusal lacks; None where it lacks nothing."""
    text = str(error)
    if error.argument != argument:
        return f"names {error.argument}: {text}"
    if argument not in error.message:
        return f"does not say that it is {argument}: {text}"
    if not text.endswith(f" {error.remedy}") or not error.remedy.endswith(".") or len(error.remedy) < len("Swap them."):
        return f"has no remedy: {text}"
    if len(text) > LONGEST_MESSAGE:
        return f"is {len(text)} characters long"
    if not text.isprintable():
        return f"cannot be printed: {text!r}"
    return None


@pytest.mark.parametrize(("question", "argument"), QUESTIONS)
async def test_a_bad_argument_is_refused_before_anything_is_sent(opened: Opened, question: str, argument: str) -> None:
    values = SPECIAL.get((question, argument), BAD[argument])
    problems = []
    before = opened.sent()
    for ask in opened.ask(question):
        for value in values:
            shown = f"{argument}={repr(value)[:60]}"
            try:
                await ask(**{**VALID[question], argument: value})
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
    for ask in opened.ask(question):
        await ask(**VALID[question])
    assert opened.sent() != before


async def test_every_question_and_every_argument_is_put_to_the_test() -> None:
    public = {
        name
        for holder in (MemoryRetrievalService, BatchedMemoryRetrieval, SharedMemoryPool)
        for name, _ in inspect.getmembers(holder, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    others = {"open", "close", "add_shared_experience", "add_shared_experiences", "count", "forget"}
    assert public - others == set(VALID)
    assert {argument for _, argument in QUESTIONS} == set(BAD)


@pytest.mark.parametrize("question", ["retrieve_similar_experiences", "retrieve_async", "retrieve_shared_experiences"])
async def test_a_span_that_ends_before_it_begins_is_refused(opened: Opened, question: str) -> None:
    before = opened.sent()
    for ask in opened.ask(question):
        with pytest.raises(InvalidQueryError, match=r"since .* lies after until .*\. Swap them\.") as caught:
            await ask(STATE, since=DAY + timedelta(microseconds=1), until=DAY)
        assert caught.value.argument == "since"
    assert opened.sent() == before
    for ask in opened.ask(question):
        assert await ask(STATE, since=DAY, until=DAY) == []


@pytest.mark.parametrize(
    "weights",
    [
        *({name: value} for name in ("similarity", "recency", "reward") for value in (-0.1, *NOT_FINITE)),
        *({name: value} for name in ("half_life_days", "reward_scale") for value in (0.0, -1.0, *NOT_FINITE)),
        *({"over_fetch": value} for value in (0, -1, 1001, 1.0, True, "4", None)),
        {"similarity": 0.0, "recency": 0.0, "reward": 0.0},
        {"similarity": 1e308, "recency": 1e308},
    ],
)
async def test_weights_that_weigh_nothing_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        RelevanceWeights(**weights)
    assert complaint(caught.value, "weights") is None


@pytest.mark.parametrize("time", TIMES)
async def test_no_service_can_be_locked_to_what_is_no_time(opened: Opened, time: Any) -> None:
    before = opened.sent()
    for holder in (opened.mem, opened.mem.semantic, *opened.doors):
        with pytest.raises(InvalidQueryError) as caught:
            holder.at(time)
        assert complaint(caught.value, "as_of") is None
    assert opened.sent() == before


async def test_a_lock_can_be_moved_back_but_not_forward(opened: Opened) -> None:
    past = opened.mem.at(DAY)
    batched = next(door for door in opened.doors if isinstance(door, BatchedMemoryRetrieval))
    balanced = next(door for door in opened.doors if isinstance(door, LoadBalancedMemoryRetrieval))
    for service in (past.retrieval, past.semantic, past.shared, batched.at(DAY), balanced.at(DAY)):
        with pytest.raises(InvalidQueryError, match="to which this memory is locked") as caught:
            service.at(DAY + timedelta(microseconds=1))
        assert caught.value.argument == "as_of"
        service.at(DAY - HOUR)


@pytest.mark.parametrize(
    "vector", [value for value in VECTORS if np.shape(value) not in ((255,), (257,), (1,), (512,))]
)
async def test_a_client_that_never_asked_before_sends_nothing_either(server: RedisProcess, vector: Any) -> None:
    settings = memory.Settings(redis_url=server.url, namespace="bad-input", near_cache_mb=0)
    async with memory.connect(settings=settings) as mem:
        before = count_commands(server)
        for ask, argument in (
            (mem.retrieval.retrieve_similar_experiences, "state_vector"),
            (mem.retrieval.retrieve_patterns, "state_vector"),
            (mem.retrieval.find_similar_pattern, "state_vector"),
            (mem.retrieval.retrieve_similar_regimes, "feature_vector"),
            (mem.shared.retrieve_shared_experiences, "state_vector"),
        ):
            with pytest.raises(InvalidQueryError) as caught:
                await ask(vector)
            assert caught.value.argument == argument
        with pytest.raises(InvalidQueryError):
            await mem.retrieval.estimate(vector, "LONG", 5)
        assert count_commands(server) == before


# --- the shared pool -----------------------------------------------------------------------------------------


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


# --- what was recorded ---------------------------------------------------------------------------------------

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
FREE = {"token", "dry_run", "self"}
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


# --- what is not bad -----------------------------------------------------------------------------------------


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
