"""What is known of a regime, as of any time: its memory, what follows a path, the strategies that qualify."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import MemoryConnection
from memory.asof import ReplayClock, replaying
from memory.errors import EncoderError, InvalidQueryError
from memory.learning.transition_matrices import ALL_PRODUCTS as LEARNED_ALL_PRODUCTS
from memory.learning.transition_matrices import TransitionMatrices, jump_matrix, next_given_path, path_tensor
from memory.records import REGIMES, RegimeMemory
from memory.retrieval.knowledge import ALL_PRODUCTS, next_regimes

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NIGHT = timedelta(days=1)


async def test_a_regime_is_known_with_what_follows_and_what_works(
    mem: MemoryConnection, build: Any, publish: Any
) -> None:
    figures = build["performance"]
    await publish(
        [
            build["regime"]("QUIET"),
            build["regime"]("VOLATILE"),
            build["strategy"]("breakout", {"QUIET": figures(1.6), "VOLATILE": figures(9.0)}),
            build["strategy"]("momentum", {"QUIET": figures(2.5), "ALL": figures(9.0)}),
            build["strategy"]("hold", {"QUIET": figures(1.5)}, applicable_regimes=()),
        ]
    )
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    assert known.memory is not None
    assert (known.regime, known.memory.regime_name, known.memory.product_id) == ("QUIET", "QUIET", "ALL")
    assert known.transitions is not None
    assert (known.transitions.order, known.transitions.given) == (1, ("QUIET",))
    assert (known.transitions.spells, known.transitions.typical_duration_s) == (12, 900.0)
    assert next(iter(known.transitions.probability)) == "TRENDING"
    assert [(hit.memory.agent_id, hit.score) for hit in known.strategies] == [("momentum", 2.5), ("breakout", 1.6)]
    assert known.strategies[0].performance == figures(2.5)
    assert [hit.luck_excluded for hit in known.strategies] == [True, True]
    assert known.strategies_known == 3
    assert known.statement == (
        "2 of 3 strategies known in QUIET have an annualised net Sharpe ratio above 1.5 over at least 8 blocks: "
        "momentum 2.50 over 40 blocks of 30 minutes."
    )
    best_only = await mem.retrieval.retrieve_regime_knowledge("QUIET", top_k=1)
    assert [hit.memory.agent_id for hit in best_only.strategies] == ["momentum"]


@pytest.mark.parametrize(
    ("strategies", "statement"),
    [
        ({}, "No strategy is known in QUIET."),
        ({"hold": (0.83, 41)}, "None of 1 strategy known in QUIET has an annualised net Sharpe ratio above 1.5 over at "
                               "least 8 blocks: the best, hold, has 0.83 over 41 blocks of 30 minutes."),
        ({"hold": (36.29, 5), "random": (0.2, 90)}, "None of 2 strategies known in QUIET has an annualised net Sharpe "
         "ratio above 1.5 over at least 8 blocks: the best, hold, has 36.29 over 5 blocks of 30 minutes."),
        ({"hold": (None, 41)}, "None of 1 strategy known in QUIET has an annualised net Sharpe ratio above 1.5 over at "
                               "least 8 blocks: none has a Sharpe ratio yet."),
    ],
)  # fmt: skip
async def test_where_no_strategy_qualifies_it_is_said_plainly(
    mem: MemoryConnection, build: Any, publish: Any, strategies: dict[str, Any], statement: str
) -> None:
    memories = [
        build["strategy"](agent, {"QUIET": build["performance"](*figures)}) for agent, figures in strategies.items()
    ]
    await publish([build["regime"]("QUIET"), *memories])
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    assert (known.strategies, known.statement) == ((), statement)


async def test_strategies_are_chosen_by_what_luck_leaves_of_their_sharpe_ratio(
    mem: MemoryConnection, build: Any, publish: Any
) -> None:
    figures = build["performance"]
    await publish(
        [
            build["strategy"]("lucky", {"QUIET": figures(36.0, shrunk=0.4)}),
            build["strategy"]("steady", {"QUIET": figures(4.0, shrunk=2.2)}),
            build["strategy"]("plain", {"QUIET": figures(1.9)}),
        ]
    )
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    assert [(hit.memory.agent_id, hit.score, hit.raw_sharpe) for hit in known.strategies] == [
        ("steady", 2.2, 4.0),
        ("plain", 1.9, 1.9),
    ]
    assert known.statement.endswith("steady 2.20 (raw 4.00) over 40 blocks of 30 minutes.")
    lowered = await mem.retrieval.retrieve_regime_knowledge("QUIET", min_sharpe=0.3)
    assert [hit.memory.agent_id for hit in lowered.strategies] == ["steady", "plain", "lucky"]
    raised = await mem.at(DAY).retrieval.retrieve_regime_knowledge("QUIET", min_sharpe=2.2)
    assert raised.strategies == ()
    assert "above 2.2 over at least 8 blocks: the best, steady, has 2.20 (raw 4.00)" in raised.statement


async def test_luck_is_deflated_in_the_sharpe_ratio_as_it_was(mem: MemoryConnection, build: Any, publish: Any) -> None:
    figures = build["performance"]
    await publish([build["strategy"](f"a{n}", {"QUIET": figures(20.0 - n)}) for n in range(5)])
    as_it_was = await mem.retrieval.retrieve_regime_knowledge("QUIET")
    await publish([build["strategy"](f"a{n}", {"QUIET": figures(20.0 - n, shrunk=5.0 - n)}) for n in range(5)], night=1)
    shrunk = await mem.retrieval.retrieve_regime_knowledge("QUIET", min_sharpe=0.0)
    assert shrunk.strategies[0].score == 5.0
    assert [hit.deflated_probability for hit in shrunk.strategies] == [
        hit.deflated_probability for hit in as_it_was.strategies
    ]


async def test_nothing_known_is_an_answer(mem: MemoryConnection, build: Any, publish: Any) -> None:
    known = await mem.retrieval.retrieve_regime_knowledge("CRISIS", ["QUIET"])
    assert (known.memory, known.transitions, known.strategies) == (None, None, ())
    await publish([build["regime"]("QUIET")])
    known = await mem.retrieval.retrieve_regime_knowledge("CRISIS", ["QUIET"])
    assert (known.memory, known.statement) == (None, "No strategy is known in CRISIS.")


async def test_a_products_own_regime_serves_before_the_pooled_one(
    mem: MemoryConnection, build: Any, publish: Any
) -> None:
    await publish([build["regime"]("QUIET"), build["regime"]("QUIET", "BTC-USDT", states=7)])
    retrieve = mem.retrieval.retrieve_regime_knowledge

    async def served(product: str | None) -> str:
        known = await retrieve("QUIET", product_id=product)
        assert known.memory is not None
        return known.memory.product_id

    assert [await served(product) for product in ("BTC-USDT", "DOT-USDT", None)] == ["BTC-USDT", "ALL", "ALL"]
    assert ALL_PRODUCTS == LEARNED_ALL_PRODUCTS


async def test_sources_do_not_mix(mem: MemoryConnection, build: Any, publish: Any) -> None:
    figures = build["performance"]
    await publish(
        [
            build["regime"]("QUIET", memory_id="r-1", source="backtest"),
            build["regime"]("QUIET", memory_id="r-2", source="replay"),
            build["strategy"]("lucky", {"QUIET": figures(40.0)}, source="backtest"),
            build["strategy"]("momentum", {"QUIET": figures(2.0)}),
        ]
    )

    async def found(source: str | None) -> tuple[str | None, list[str]]:
        known = await mem.retrieval.retrieve_regime_knowledge("QUIET", source=source)
        memory = known.memory
        return None if memory is None else memory.source, [hit.memory.agent_id for hit in known.strategies]

    assert await found(None) == ("replay", ["momentum"])
    assert await found("backtest") == ("backtest", ["lucky"])
    assert await found("live") == (None, [])


async def test_the_best_of_many_is_held_against_what_luck_would_show(
    mem: MemoryConnection, build: Any, publish: Any
) -> None:
    figures = build["performance"]
    await publish([build["strategy"]("one", {"QUIET": figures(20.0)})])
    alone = (await mem.retrieval.retrieve_regime_knowledge("QUIET")).strategies[0]
    many = [build["strategy"](f"a{number}", {"QUIET": figures(20.0 - 4 * number)}) for number in range(10)]
    await publish(many, night=1)
    among = (await mem.retrieval.retrieve_regime_knowledge("QUIET")).strategies[0]
    assert alone.score == among.score
    assert 0.5 < among.deflated_probability < alone.deflated_probability < 1.0


# --- paths ---------------------------------------------------------------------------------------------------


def matrices(jumps: Any, paths: Any, alpha: float, strength: float) -> TransitionMatrices:
    """What a fold of these counts amounts to."""
    chain = jump_matrix(jumps, alpha)
    count = len(REGIMES)
    return TransitionMatrices(
        product="ALL",
        step_s=60.0,
        step_probability=np.eye(count),
        transition_probability=chain,
        path_probability=path_tensor(paths, chain, strength),
        step_count=np.zeros((count, count), dtype=np.int64),
        jump_count=jumps,
        states=np.zeros(count, dtype=np.int64),
        spells=np.zeros(count, dtype=np.int64),
        median_duration_s=(None,) * count,
    )


def remembered(learned: TransitionMatrices, current: int, build: Any) -> RegimeMemory:
    """The REGIME memory of one regime, as it is projected."""
    others = [code for code in range(len(REGIMES)) if code != current]
    memory: RegimeMemory = build["regime"](
        REGIMES[current],
        transition_probability={REGIMES[code]: float(learned.transition_probability[current, code]) for code in others},
        path_probability={
            REGIMES[before]: {REGIMES[code]: float(learned.path_probability[before, current, code]) for code in others}
            for before in others
        },
    )
    return memory


@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.0, 0.3, 5.0]),
    path=st.lists(st.sampled_from(REGIMES), max_size=6),
    current=st.integers(0, len(REGIMES) - 1),
)
@settings(max_examples=100, deadline=None)
def test_what_follows_a_path_is_what_was_learned_and_sums_to_1(
    seed: int, density: float, path: list[str], current: int
) -> None:
    from_seed = np.random.default_rng(seed)
    count = len(REGIMES)
    paths = from_seed.poisson(density, (count,) * 3)
    paths[:, range(count), range(count)] = 0
    paths[range(count), range(count), :] = 0
    learned = matrices(paths.sum(axis=0), paths, alpha=0.5, strength=5.0)
    # Fixtures are of no use to a property: the builder is the same for all examples.
    from_memory = remembered(learned, current, {"regime": _bare_regime})
    follows = next_regimes(from_memory, path)
    assert sum(follows.probability.values()) == pytest.approx(1.0, abs=1e-12)
    expected = next_given_path(learned, [*path, REGIMES[current]])
    assert expected.pop(REGIMES[current]) == 0.0
    assert follows.probability == pytest.approx(expected, abs=1e-9)
    assert list(follows.probability.values()) == sorted(follows.probability.values(), reverse=True)
    before = next((name for name in reversed(path) if name != REGIMES[current]), None)
    seen = before is not None and paths[REGIMES.index(before), current].sum() > 0
    if not seen:
        assert (follows.order, follows.given) == (1, (REGIMES[current],))
    if follows.order == 2:
        assert follows.given == (before, REGIMES[current])


def _bare_regime(name: str, **changes: Any) -> RegimeMemory:
    values: dict[str, Any] = {
        "memory_id": "r",
        "description": "",
        "encoder_id": "e",
        "line": "l",
        "created_at": DAY,
        "valid_from": DAY,
        "regime_name": name,
        "concept_vector": np.eye(256, dtype=np.float32)[0],
        "product_id": "ALL",
        "regime_features": {},
        "states": 1,
        "share": 1.0,
        "typical_duration": None,
        "step_probability": {},
        "step_s": 60.0,
        "spells": 3,
    }
    return RegimeMemory(**{**values, **changes})


async def test_the_path_decides_where_it_was_seen(mem: MemoryConnection, build: Any, publish: Any) -> None:
    await publish([build["regime"]("QUIET")])

    async def follows(path: Any) -> tuple[int, tuple[str, ...]]:
        known = await mem.retrieval.retrieve_regime_knowledge("QUIET", path)
        assert known.transitions is not None
        return known.transitions.order, known.transitions.given

    assert await follows(("TRENDING", "VOLATILE")) == (2, ("VOLATILE", "QUIET"))
    assert await follows(["VOLATILE", "QUIET", "QUIET"]) == (2, ("VOLATILE", "QUIET"))
    assert await follows(("TRENDING", "CRISIS")) == (1, ("QUIET",))
    assert await follows(("QUIET",)) == (1, ("QUIET",))


async def test_a_memory_without_paths_serves_with_its_chain(mem: MemoryConnection, build: Any, publish: Any) -> None:
    await publish([build["regime"]("QUIET", path_probability={})])
    known = await mem.retrieval.retrieve_regime_knowledge("QUIET", ["VOLATILE"])
    assert known.transitions is not None
    assert known.transitions.order == 1
    assert known.memory is not None
    assert known.transitions.probability == known.memory.transition_probability


# --- as of ---------------------------------------------------------------------------------------------------


async def test_nothing_that_was_published_later_is_seen(mem: MemoryConnection, build: Any, publish: Any) -> None:
    figures = build["performance"]
    certain = {name: float(name == "CRISIS") for name in REGIMES if name != "QUIET"}
    await publish([build["regime"]("QUIET"), build["strategy"]("hold", {"QUIET": figures(2.0)})])
    await publish(
        [
            build["regime"]("QUIET", transition_probability=certain, path_probability={}, spells=13),
            build["strategy"]("hold", {"QUIET": figures(0.1)}),
            build["strategy"]("late", {"QUIET": figures(7.0)}),
        ],
        night=1,
    )
    retrieve = mem.retrieval.retrieve_regime_knowledge
    before = await retrieve("QUIET", as_of=DAY - timedelta(milliseconds=1))
    assert (before.memory, before.strategies_known) == (None, 0)
    for past in (
        await retrieve("QUIET", as_of=DAY + NIGHT - timedelta(milliseconds=1)),
        await mem.at(DAY).retrieval.retrieve_regime_knowledge("QUIET"),
    ):
        assert past.memory is not None
        assert past.transitions is not None
        assert (past.memory.spells, past.memory.valid_to) == (12, None)
        assert past.transitions.probability["CRISIS"] < 0.2
        assert [(hit.memory.agent_id, hit.score, hit.memory.valid_to) for hit in past.strategies] == [
            ("hold", 2.0, None)
        ]
    for now in (await retrieve("QUIET"), await retrieve("QUIET", as_of=DAY + NIGHT)):
        assert now.transitions is not None
        assert now.transitions.probability["CRISIS"] == 1.0
        assert [hit.memory.agent_id for hit in now.strategies] == ["late"]


async def test_a_replay_must_be_bounded_and_an_encoder_of_the_future_is_refused(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    await mem.encoders.register("rff-1", fitted_until=DAY, definition={})
    await publish([build["regime"]("QUIET")])
    questions: list[tuple[Any, tuple[Any, ...]]] = [
        (mem.retrieval.retrieve_regime_knowledge, ("QUIET",)),
        (mem.retrieval.retrieve_correlations, ("BTC-USDT",)),
        (mem.retrieval.retrieve_similar_regimes, (vector(0),)),
        (mem.retrieval.find_similar_pattern, (vector(0),)),
    ]
    for ask, arguments in questions:
        with replaying(ReplayClock(DAY)), pytest.raises(InvalidQueryError, match="future") as caught:
            await ask(*arguments)
        assert caught.value.argument == "as_of"
        with pytest.raises(InvalidQueryError, match="locked"):
            await getattr(mem.at(DAY).retrieval, ask.__name__)(*arguments, as_of=DAY + NIGHT)
        await ask(*arguments, as_of=DAY)
    for ask, arguments in (questions[0], questions[1], questions[3]):
        with pytest.raises(EncoderError, match="fitted on data until"):
            await ask(*arguments, as_of=DAY - NIGHT)


# --- what is counted, what is refused ------------------------------------------------------------------------


async def test_what_is_returned_is_counted_on_the_day_of_as_of(
    mem: MemoryConnection, build: Any, publish: Any, vector: Any
) -> None:
    figures = build["performance"]
    await publish(
        [
            build["regime"]("QUIET"),
            build["regime"]("VOLATILE"),
            build["strategy"]("good", {"QUIET": figures(2.0)}),
            build["strategy"]("poor", {"QUIET": figures(0.2)}),
            build["correlation"]("BTC-USDT", "ETH-USDT", 0.5),
            build["pattern"]("p-1", seed=1),
        ]
    )
    as_of = DAY + timedelta(hours=7)
    await mem.retrieval.retrieve_regime_knowledge("QUIET", as_of=as_of)
    await mem.retrieval.retrieve_correlations("ETH-USDT", as_of=as_of)
    await mem.retrieval.find_similar_pattern(vector(1), as_of=as_of)
    assert await mem.retrieval.find_similar_pattern(vector(2), as_of=as_of) is None
    ids = ["r-ALL-QUIET", "s-good", "c-BTC-USDT-ETH-USDT-1-ALL-0", "p-1", "r-ALL-VOLATILE", "s-poor"]
    counts = await mem.semantic.access_counts(ids, DAY + NIGHT)
    assert [counts[name].count for name in ids] == [1, 1, 1, 1, 0, 0]
    assert counts["p-1"].last_day == DAY
    await mem.retrieval.retrieve_regime_knowledge("QUIET")
    today = await mem.semantic.access_counts(["r-ALL-QUIET"], datetime.now(UTC) + timedelta(minutes=1))
    assert today["r-ALL-QUIET"].count == 1


HOSTILE = ["", " ", "*", "a|b", "a}", '"', "'", "back\\slash", "new\nline", "\x00", "x" * 10_000, "@scope", 7]


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        *(({"product_id": name}, "product_id") for name in HOSTILE),
        *(({"current_regime": name}, "current_regime") for name in ("MIXED", "quiet", "*", "", None, 7)),
        *(({"previous_regimes": path}, "previous_regimes") for path in ("QUIET", None, ["MIXED"], [7], ("QUIET", "*"))),
        *(({"source": name}, "source") for name in ("paper", "", "*", 7)),
        *(({"min_sharpe": bar}, "min_sharpe") for bar in (float("nan"), float("inf"), "1.5", True)),
        *(({"top_k": count}, "top_k") for count in (0, -1, 1.5, True, 10_001)),
        *(({"as_of": time}, "as_of") for time in (datetime(2021, 6, 17), "2021-06-17")),
    ],
)
async def test_malformed_questions_are_refused_before_anything_is_sent(
    mem: MemoryConnection, asked: dict[str, Any], argument: str
) -> None:
    await mem.link.close()
    with pytest.raises(InvalidQueryError) as caught:
        await mem.retrieval.retrieve_regime_knowledge(**{"current_regime": "QUIET", **asked})
    assert caught.value.argument == argument
