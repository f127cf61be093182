"""Training as a flow: a policy in the ledger, the same after a kill, and what a strategy then points to."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory
from agents.fitting import default_encoder
from agents.policy import extra
from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.layout import PATTERN_COLUMNS, REGIME_COLUMNS, InputLayout
from agents.trainer import CentralizedTrainer, TrainingSettings
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.forms.train_agents import Parameters
from flows.train_agents import train_agents
from memory.errors import EncoderError, InvalidRecordError, MissingExtraError
from memory.ledger import Ledger
from memory.ledger.training import PolicyRecord, TrainingFigures
from memory.records import SemanticType, StrategyMemory, from_ms
from memory.store.dead_letters import Refusal
from memory.window import Window
from tests.agents.acting import inputs_of_acting, state_of

pytestmark = pytest.mark.usefixtures("prefect_server")

FIRST, SECOND = dt.date(2021, 6, 17), dt.date(2021, 6, 18)
END = dt.datetime(2021, 6, 19, tzinfo=dt.UTC)
STEPS = 10


def train(namespace: str, **parameters: Any) -> dict[str, Any]:
    return train_agents(
        Parameters(
            namespace=namespace,
            date=SECOND,
            days=2,
            **{"steps": STEPS, "batch": 16, "held_out_hours": 24, "publish": False, "device": "cpu", **parameters},
        )
    )


async def test_knowledge_is_that_of_the_policy_that_acts(small_world: Any) -> None:
    """Regimes and patterns as of each state's time: those that the trainer finds, and those that questions find."""
    async with memory.connect(redis_url=small_world.servers.redis_url, namespace=small_world.namespace) as mem:
        layout = InputLayout.of_encoder(default_encoder(), own=1, shared=0)
        trainer = CentralizedTrainer(mem, layout, TrainingSettings(publish=False, device="cpu", held_out_hours=0))
        start = dt.datetime.combine(FIRST, dt.time(), tzinfo=dt.UTC)
        data = await trainer.load(start, END)
        pages = [page async for page in mem.episodic.read_window(start, END, agent_id="random")]
        lived = {item.timestamp: item for page in pages for item in page}
        matched = np.flatnonzero(data.inputs.knowledge_mask[:, PATTERN_COLUMNS].any(axis=1))
        for row in sorted({*range(0, len(data.states), 90), *matched[:8].tolist()}):
            item = lived[from_ms(int(data.states.timestamp_ms[row]))]
            acting, found = await inputs_of_acting(mem, layout, state_of(item), "random")
            learning = data.inputs.take(slice(row, row + 1))
            assert (acting.knowledge_mask == learning.knowledge_mask).all()
            assert abs(acting.knowledge - learning.knowledge).max() < 1e-5
            assert found.regime is None or found.regime.valid_from <= item.timestamp
            if item.timestamp.date() == FIRST:
                assert not learning.knowledge_mask.any()
        assert data.inputs.knowledge_mask[:, REGIME_COLUMNS].any()


class Struck(BaseException):
    """Ends a run as nothing that it catches does."""


def test_a_training_ends_in_a_policy_that_is_there_again(small_world: Any, ledger: Ledger) -> None:
    result = train(small_world.namespace)
    assert (result["steps"], result["agents"]) == (STEPS, ["breakout", "random"])
    assert result["states_with_knowledge"] > 0
    assert [row["step"] for row in result["curve"]] == list(range(1, STEPS + 1))
    assert {"loss", "learned_net_bp", "held_out_net_bp"} <= result["figures"].keys()
    policy = ledger.training.policy_at(small_world.namespace, "policy", END)
    assert policy is not None
    assert policy.checkpoint_id == result["checkpoint"]
    checkpoint = PolicyCheckpoint.load(policy.path)
    assert (checkpoint.id_, checkpoint.trained_until) == (result["checkpoint"], END)
    assert ledger.training.policy_at(small_world.namespace, "policy", END - dt.timedelta(minutes=1)) is None

    again = train(small_world.namespace)
    assert {name: again[name] for name in ("checkpoint", "curve", "path")} == {
        name: result[name] for name in ("checkpoint", "curve", "path")
    }
    assert len(ledger.training.policies(small_world.namespace, agent_id="policy")) == 1


def test_a_training_that_was_struck_goes_on_and_ends_in_the_same_policy(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = CentralizedTrainer.train_step, []

    def struck(trainer: CentralizedTrainer) -> dict[str, float]:
        if trainer.step == 7:
            raise Struck
        return step(trainer)

    def counted(trainer: CentralizedTrainer) -> dict[str, float]:
        taken.append(trainer.step)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(CentralizedTrainer, "train_step", struck)
        with pytest.raises(Struck):
            train(small_world.namespace, agent_id="struck")
    with monkeypatch.context() as patch:
        patch.setattr(CentralizedTrainer, "train_step", counted)
        resumed = train(small_world.namespace, agent_id="struck")
    assert taken == list(range(7, STEPS))
    undisturbed = train(small_world.namespace, agent_id="undisturbed")
    assert resumed["checkpoint"] == undisturbed["checkpoint"]
    folder: Path = Path(resumed["path"]).parent
    assert not list(folder.glob("*.pt"))


def test_a_strategy_points_to_the_policy_that_its_agent_may_have_acted_with(
    configured: str, record: Callable[[str, Sequence[dt.date]], None], ledger: Ledger, servers: Any
) -> None:
    record(configured, (SECOND,))
    window = Window.of_date(SECOND)
    for agent, until in (("breakout", window.start), ("random", window.end)):
        ledger.training.add_policy(_policy(configured, agent, until, servers))
    of_another = replace(
        _policy(configured, "breakout", window.start, servers), checkpoint_id="policy-of-another", encoder_id="other"
    )
    ledger.training.add_policy(of_another)
    consolidate_memories(ConsolidateParameters(namespace=configured, date=SECOND))
    assert _pointers(configured, servers) == {"breakout": "policy-of-breakout", "random": None}


def _policy(namespace: str, agent: str, until: dt.datetime, servers: Any) -> PolicyRecord:
    async def encoder() -> str | None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.encoders.current()

    encoder_id = asyncio.run(encoder())
    assert encoder_id is not None
    return PolicyRecord(
        namespace=namespace,
        agent_id=agent,
        checkpoint_id=f"policy-of-{agent}",
        encoder_id=encoder_id,
        path="/nowhere",
        trained_until=until,
        run_id="run",
        details={},
    )


def _pointers(namespace: str, servers: Any) -> dict[str, str | None]:
    async def read() -> dict[str, str | None]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            found = await mem.semantic.current(SemanticType.STRATEGY)
            return {item.agent_id: item.policy_checkpoint for item in found if isinstance(item, StrategyMemory)}

    return asyncio.run(read())


def test_what_cannot_be_trained_on_is_an_error_of_its_own(small_world: Any) -> None:
    with pytest.raises(EncoderError, match="other-encoder is not registered"):
        train(small_world.namespace, encoder="other-encoder")
    with pytest.raises(InvalidRecordError, match="no state whose next price is known"):
        train(small_world.namespace, source="live")


def test_in_an_empty_memory_it_completes_and_says_so_until_something_came_that_could_not_be_stored(
    configured: str, servers: Any
) -> None:
    result = train(configured)
    assert result["note"].startswith("nothing was recorded here yet")
    assert "checkpoint" not in result

    async def refuse() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            await mem.dead_letters.add([Refusal(b"any bytes", "it is no experience", "experience", "scout")])

    asyncio.run(refuse())
    with pytest.raises(InvalidRecordError, match="record_experiences"):
        train(configured)


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'coinswarm-memory\[policy\]'"):
        Parameters().check()


def test_a_policy_that_moved_is_found_where_it_lies(ledger: Ledger) -> None:
    policy = PolicyRecord(
        namespace="moved",
        agent_id="policy",
        checkpoint_id="policy-1",
        encoder_id="encoder",
        path="/old/policy-1.npz",
        trained_until=END,
        run_id="first",
        details={},
    )
    ledger.training.add_policy(policy)
    ledger.training.add_policy(replace(policy, path="/new/policy-1.npz", run_id="second"))
    assert ledger.training.policies("moved") == [replace(policy, path="/new/policy-1.npz")]


def test_the_ledger_keeps_a_step_once_and_refuses_what_is_not_finite(ledger: Ledger) -> None:
    one = TrainingFigures(step=1, figures={"loss": 2.0})
    for run in ("first", "second"):
        ledger.training.record("n", run, "training-once", [one, replace(one, step=2)])
    assert ledger.training.figures("training-once") == [one, replace(one, step=2)]
    with pytest.raises(InvalidRecordError, match="loss of step 3 is nan"):
        ledger.training.record("n", "third", "training-once", [TrainingFigures(step=3, figures={"loss": float("nan")})])
