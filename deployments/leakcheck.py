"""`coinswarm leakcheck`: whether anything that is known as of a time changes when all that comes after it does.

Two memories are filled, consolidated and asked: one lived through a market as it was, the other through one whose
candles differ after the time (`agents.leakage`), with other messages, other late experiences, and so another night. The
answers as of the time must agree in every bit; those as of later must not, or the check would have seen nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import rich.console
from rich.table import Table

import memory
from agents.baselines import baseline_agents
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.leakage import ACTING, LeakCheck, changed_after, compared, market_checks
from agents.market import Market
from agents.replay import MarketReplay, State
from agents.simulation import simulate
from deployments.console import Console
from deployments.leak_questions import PRODUCTS, RUN, questions_of, untrained_policy
from deployments.local import load_settings, local_stack, starting
from memory import MemoryConnection
from memory.errors import InvalidQueryError
from memory.messages import AgentMemoryMessage, MessageType
from memory.records import EpisodicMemory, SemanticType, to_ms
from memory.window import Window

if TYPE_CHECKING:
    from agents.policy.checkpoint import PolicyCheckpoint

DEFAULT_TIME = datetime(2021, 6, 18, 6, tzinfo=UTC)
HOURS_BEFORE, HOURS_AFTER = 6, 10
"""Hours around the time, of its own day, that are recorded, enough for clusters; of the day before, its second half."""
LATE_BY = timedelta(minutes=10)
LATE = 20
"""Experiences decided before the time that become known only after it."""
ASKED_MINUTES = (0, 7, 95)
"""Minutes before the time at which the states lie that are asked about."""
OWN_SETTINGS = ("REDIS_URL", "DATABASE_URL", "PREFECT_API_URL", "ARCHIVE_URL", "REDIS_REPLICA_URLS")


@dataclass(frozen=True)
class World:
    """A namespace that lived through a market, and two nights of it."""

    namespace: str
    market: Market


# --- the command -----------------------------------------------------------------------------------------------


def leakcheck(as_of: datetime | None, seed: int, console: Console) -> dict[str, Any]:
    """Check the whole chain on servers and in a home of their own, which are removed afterwards.

    Raises
    ------
    InvalidQueryError
        The sample has not enough history around the time.
    """
    as_of = as_of or DEFAULT_TIME
    market, encoder = sample(), default_encoder()
    check_time(market, encoder, as_of)
    with console.steps("Checking candles, features, encoders, states and experiences"):
        checks = market_checks(market, as_of, encoder, seed=seed)
    with tempfile.TemporaryDirectory(prefix="coinswarm-leakcheck-") as home:
        for name in OWN_SETTINGS:
            os.environ.pop(f"COINSWARM_{name}", None)
        os.environ["COINSWARM_HOME"] = home
        settings = load_settings()
        with console.steps(starting(settings)), local_stack(settings):
            console.say("Two nights in two memories, which differ in what comes after")
            worlds = fill_worlds(market, encoder, as_of, seed)
            console.say("Asking both as of then")
            checks += memory_checks(worlds, encoder, as_of)
    return result_of(as_of, seed, checks)


def sample() -> Market:
    """The market that is replayed."""
    return Market.sample("binance", PRODUCTS)


def check_time(market: Market, encoder: StateEncoder, as_of: datetime) -> None:
    """InvalidQueryError unless the day before is one that the encoder may replay, and enough comes after."""
    first = Window.containing(encoder.fitted_until_).start + timedelta(days=1)
    last = market.span[1] - timedelta(days=1)
    if not first <= as_of <= last or to_ms(as_of) % market.bar_ms:
        raise InvalidQueryError(
            f"--t {as_of.isoformat()} cannot be checked on the sample.",
            remedy=f"Choose a full minute from {first:%Y-%m-%dT%H:%M} to {last:%Y-%m-%dT%H:%M}.",
            argument="t",
        )


def result_of(as_of: datetime, seed: int, checks: Sequence[LeakCheck]) -> dict[str, Any]:
    """What the command prints; `status` is ok, or names the worst verdict."""
    verdicts = {check.verdict for check in checks}
    status = "LEAK" if "LEAK" in verdicts else "blind" if "blind" in verdicts else "ok"
    rows = [{**asdict(check), "verdict": check.verdict} for check in checks]
    first = next((f"{check.name}: {check.difference}" for check in checks if check.difference), None)
    return {"as_of": as_of.isoformat(), "seed": seed, "status": status, "first_difference": first, "checks": rows}


def show_leaks(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """The checks as a table."""
    table = Table(title=f"Known as of {result['as_of']}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    for title in ("values compared", "later ones that differ"):
        table.add_column(title, justify="right")
    table.add_column("")
    for check in result["checks"]:
        later = "" if check["later"] is None else f"{check['later']:,}"
        table.add_row(check["name"], f"{check['values']:,}", later, check["verdict"])
    out.print(table)
    values = sum(check["values"] for check in result["checks"])
    if result["first_difference"]:
        out.print(f"A LEAK: {result['first_difference']}", markup=False, highlight=False, soft_wrap=True)
    elif result["status"] == "ok":
        out.print(f"Nothing of {values:,} values as of then depends on what came after.", highlight=False)
    else:
        blind = ", ".join(check["name"] for check in result["checks"] if check["verdict"] == "blind")
        out.print(
            f"Blind: {blind}. Nothing was compared there, or nothing changed later; try another --t.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


# --- two memories ----------------------------------------------------------------------------------------------


def fill_worlds(market: Market, encoder: StateEncoder, as_of: datetime, seed: int) -> tuple[World, World]:
    """Record and consolidate two days in two namespaces; what is known after the time differs between them."""
    token = uuid.uuid4().hex[:8]
    worlds = (
        World(f"leak-{token}-a", market),
        World(f"leak-{token}-b", changed_after(market, as_of, seed)),
    )
    for number, world in enumerate(worlds):
        _fill(world, encoder, as_of, f"{number}")
    return worlds


def _fill(world: World, encoder: StateEncoder, as_of: datetime, variant: str) -> None:
    """The days around a time, as the nightly job goes through them."""
    from flows.consolidate_memories import consolidate_memories
    from flows.forms.consolidate_memories import Parameters as ConsolidationParameters
    from flows.forms.update_transitions import Parameters as TransitionParameters
    from flows.update_transitions import update_transitions
    from memory.learning.quality import score_memories
    from tasks.recording import register_encoder
    from tasks.scoring import quality_history
    from tasks.workspace import open_workspace

    today = Window.containing(as_of)
    yesterday = Window.of_date(today.start.date() - timedelta(days=1))
    agents = [agent for agent in baseline_agents(0) if agent.agent_id in ACTING]
    with open_workspace(world.namespace) as workspace:
        for window in (yesterday, today):
            lived = list(simulate(world.market, window.start, window.end, agents, encoder).experiences())
            lived = [item for item in lived if _is_recorded(item, as_of, yesterday)]
            if window == today:
                lived += _arriving_late(lived, as_of, variant)
            history = quality_history(workspace.ledger, world.namespace, encoder.id_, "replay", window)
            score_memories(lived, history)
            messages = _messages(window, as_of, variant)

            async def record(
                mem: MemoryConnection,
                lived: list[EpisodicMemory] = lived,
                messages: list[AgentMemoryMessage] = messages,
            ) -> None:
                await register_encoder(mem, encoder)
                await mem.episodic.add_many(lived)
                await mem.shared.add_shared_experiences(lived)
                await mem.messages.send_many(messages)

            workspace.with_memory(record)
            date = window.start.date()
            consolidate_memories(ConsolidationParameters(namespace=world.namespace, date=date))
            update_transitions(TransitionParameters(namespace=world.namespace, date=date))


def _is_recorded(item: EpisodicMemory, as_of: datetime, yesterday: Window) -> bool:
    if item.timestamp < yesterday.end:
        return item.timestamp >= yesterday.start + timedelta(hours=12)
    return as_of - timedelta(hours=HOURS_BEFORE) <= item.timestamp < as_of + timedelta(hours=HOURS_AFTER)


def _arriving_late(lived: Sequence[EpisodicMemory], as_of: datetime, variant: str) -> list[EpisodicMemory]:
    """Experiences of another agent that were decided before the time, and became known after it."""
    before = [item for item in lived if item.timestamp < as_of][-LATE:]
    return [
        replace(
            item,
            memory_id="",
            agent_id="late",
            reward=item.reward + 1e-4 * (1 + int(variant)),
            gross_return=None,
            cost=None,
            cumulative_return=None,
            return_known_at=None,
            known_at=as_of + LATE_BY,
        )
        for item in before
    ]


def _messages(window: Window, as_of: datetime, variant: str) -> list[AgentMemoryMessage]:
    """A message an hour; those after the time say something else in each memory."""
    times = [window.start + timedelta(hours=hour) for hour in range(24)]
    return [
        AgentMemoryMessage(
            sender_agent_id="messenger",
            message_type=MessageType.WARNING,
            insight=f"It is {time:%H:%M}." if time <= as_of else f"It is {time:%H:%M}, {variant}.",
            importance=0.5 if time <= as_of else 0.25 * (1 + int(variant)),
            timestamp=time,
            source="replay",
            run_id=RUN,
        )
        for time in times
    ]


# --- asking ----------------------------------------------------------------------------------------------------


def memory_checks(worlds: tuple[World, World], encoder: StateEncoder, as_of: datetime) -> list[LeakCheck]:
    """Ask both memories everything as of the time, and as of the end of its day, and compare."""
    one, other = worlds
    names = (one.namespace, other.namespace)
    later = Window.containing(as_of).end
    states = states_before(one.market, encoder, as_of)
    checkpoint = untrained_policy(encoder) if importlib.util.find_spec("torch") else None
    asked = [asyncio.run(_answers(world.namespace, states, checkpoint, (as_of, later))) for world in worlds]
    checks = [
        compared(
            name,
            asked[0][as_of][name],
            asked[1][as_of][name],
            asked[0][later][name],
            asked[1][later][name],
            names=names,
        )
        for name in asked[0][as_of]
    ]
    today = Window.containing(as_of)
    windows = (Window.of_date(today.start.date() - timedelta(days=1)), today)
    known, afterwards = ([_in_ledger(world.namespace, window) for world in worlds] for window in windows)
    checks.append(compared("knowledge in the ledger after the night before", *known, *afterwards, names=names))
    return checks


def states_before(market: Market, encoder: StateEncoder, as_of: datetime) -> tuple[State, ...]:
    replay = MarketReplay(market, as_of - timedelta(minutes=ASKED_MINUTES[-1]), as_of + timedelta(minutes=1), encoder)
    asked = {as_of - timedelta(minutes=minutes) for minutes in ASKED_MINUTES}
    return tuple(state for together in replay for state in together if state.timestamp in asked)


async def _answers(
    namespace: str, states: Sequence[State], checkpoint: PolicyCheckpoint | None, times: Sequence[datetime]
) -> dict[datetime, dict[str, Any]]:
    """All answers by name, as of each of some times."""
    settings = load_settings(namespace)
    answers: dict[datetime, dict[str, Any]] = {time: {} for time in times}
    for name, near in (("", 0), ("near cache: ", settings.near_cache_mb or 64)):
        chosen = settings.model_copy(update={"near_cache_mb": near, "near_cache_after": 0})
        async with memory.connect(settings=chosen) as mem:
            if near:
                await _warm(mem, states)
            questions = questions_of(states, checkpoint)
            for time in times:
                for question, ask in questions.items():
                    if not near or question.startswith("experiences"):
                        answers[time][f"{name}{question}"] = await ask(mem, time)
            if near and mem.near is not None and not mem.near.describe().hits:
                raise RuntimeError(f"the near cache answered nothing: {mem.near.describe()}")
    return answers


async def _warm(mem: MemoryConnection, states: Sequence[State]) -> None:
    """Let the near cache hold the agents that are asked about."""
    for _ in range(200):
        for agent_id in ACTING:
            await mem.retrieval.retrieve_similar_experiences(states[0].vector, agent_id=agent_id, top_k=1)
        if mem.near is None or mem.near.describe().agents == len(ACTING):
            return
        await asyncio.sleep(0.02)


def _in_ledger(namespace: str, window: Window) -> list[Any]:
    """Payloads of all that stood in the ledger after a window, by kind and id."""
    from tasks.projections import ROWS
    from tasks.workspace import open_workspace

    with open_workspace(namespace) as workspace:
        projections = workspace.ledger.projections
        return [
            (row.item_id, row.payload)
            for record in workspace.ledger.lines.list(namespace)
            for kind in sorted(SemanticType)
            for row in projections.as_of(ROWS[kind], record.line, window)
        ]
