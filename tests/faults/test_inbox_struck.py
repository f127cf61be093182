"""A drain of the inboxes is killed, anywhere: the next one stores what is left, and nothing twice."""

from __future__ import annotations

import datetime as dt
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from fault_moments import Moment
from fault_rig import AGENTS, Rig, proof

import memory
from agents.fitting import default_encoder
from memory.records import EpisodicMemory
from memory.store.inbox import MAX_DELIVERIES
from tasks.recording import register_encoder

pytestmark = pytest.mark.faults

STEP = "record from inbox"
ENTRIES = 150
"""Good entries of each agent: with those of the other more than are stored in one round trip."""
BOUNDARIES = (
    Moment(STEP, "begin record"),
    Moment(STEP, "send XREADGROUP"),
    Moment(STEP, "answered XREADGROUP"),
    Moment(STEP, "send EVALSHA"),
    Moment(STEP, "answered EVALSHA"),
    Moment(STEP, "answered EVALSHA", 2),
    Moment(STEP, "answered EVALSHA", 3),
    Moment(STEP, "send XDEL"),
    Moment(STEP, "answered XDEL"),
    Moment(STEP, "end record"),
)
"""Nothing is handed out; all is, and not stored; some is stored; all is; the refused are put aside; all is done."""
SEEDS = range(4)


@dataclass(frozen=True)
class Drained:
    """What lies in Redis after a drain: experiences as they were stored, dead letters, and entries that still wait.

    `events` is how many the undisturbed drain has, and `seconds` how long it takes.
    """

    stored: Counter[tuple[str, float, float | None, dt.datetime | None]]
    dead_letters: tuple[str, ...]
    waiting: int
    events: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)


def append(rig: Rig, namespace: str) -> None:
    """What two agents lived through comes into their inboxes, and an entry of each that cannot be stored."""
    entries: list[EpisodicMemory] = []
    for agent in AGENTS:
        own = [item for item in rig.night.lived if item.agent_id == agent][:ENTRIES]
        assert len(own) == ENTRIES
        entries += [*own, replace(own[-1], memory_id="", step=ENTRIES, regime="SIDEWAYS")]

    async def put(mem: memory.MemoryConnection) -> None:
        await register_encoder(mem, default_encoder())
        await mem.inbox.append_many(entries)

    rig.ask(namespace, put)


def drained(rig: Rig, namespace: str) -> Drained:
    """What a drain has come to."""
    start = dt.datetime.combine(rig.night.days[0], dt.time(), tzinfo=dt.UTC)

    async def read(mem: memory.MemoryConnection) -> Drained:
        pages = mem.episodic.read_window(start, start + dt.timedelta(days=1))
        stored = [item async for page in pages for item in page]
        assert await mem.episodic.count() == len(stored)
        letters = await mem.dead_letters.read()
        return Drained(
            Counter((item.memory_id, item.reward, item.quality, item.known_at) for item in stored),
            tuple(sorted(f"{letter.agent_id}: {letter.field}" for letter in letters)),
            sum((await mem.inbox.length()).values()),
        )

    found: Drained = rig.ask(namespace, read)
    return found


@pytest.fixture(scope="module")
def undisturbed(shared_rig: Rig) -> Drained:
    """The drain that nothing disturbs."""
    namespace = "t-drained"
    shared_rig.until_up()
    append(shared_rig, namespace)
    begun = time.monotonic()
    outcome = shared_rig.run("record", namespace, 0, source="inbox")
    assert outcome.how == "done", outcome
    seconds = time.monotonic() - begun
    found = replace(drained(shared_rig, namespace), events=outcome.events, seconds=seconds)
    assert len(found.stored) == found.stored.total() == ENTRIES * len(AGENTS)
    assert found.dead_letters == tuple(f"{agent}: regime" for agent in AGENTS)
    assert found.waiting == 0
    return found


def test_a_drain_killed_at_any_boundary_is_completed_by_the_next_one(
    rig: Rig, undisturbed: Drained, namespace: str
) -> None:
    for number, moment in enumerate(BOUNDARIES):
        own = f"{namespace}-{number}"
        append(rig, own)
        assert rig.run("record", own, 0, source="inbox", moment=moment).how == "killed", moment
        assert rig.run("record", own, 0, source="inbox").how == "done"
        assert drained(rig, own) == undisturbed, moment


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drain_killed_at_random_again_and_again_loses_and_doubles_nothing(
    seed: int, rig: Rig, undisturbed: Drained, namespace: str
) -> None:
    draw = random.Random(seed)
    append(rig, namespace)
    # An entry that is handed out too often goes to the dead letters, as if it were what kills the drain.
    for kill in range(MAX_DELIVERIES - 1):
        if (seed + kill) % 2:
            moment = Moment(None, "", draw.randint(1, undisturbed.events))
            outcome = rig.run("record", namespace, 0, source="inbox", moment=moment)
        else:
            run = rig.start("record", namespace, 0, source="inbox")
            time.sleep(draw.uniform(0.0, undisturbed.seconds))
            run.signal(signal.SIGKILL)
            outcome = run.end()
        assert outcome.how in ("killed", "done")
    assert rig.run("record", namespace, 0, source="inbox").how == "done"
    assert drained(rig, namespace) == undisturbed


# --- what makes it so ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "removed"),
    [
        (Moment(STEP, "send EVALSHA"), "acknowledged last"),
        (Moment(STEP, "answered XREADGROUP"), "left behind"),
        (Moment(STEP, "send XDEL"), "same key"),
    ],
    ids=lambda value: str(value),
)
def test_without_its_safeguards_a_drain_that_is_killed_loses_or_doubles(
    moment: Moment, removed: str, rig: Rig, undisturbed: Drained, namespace: str
) -> None:
    append(rig, namespace)
    assert rig.run("record", namespace, 0, source="inbox", moment=moment, removed=(removed,)).how == "killed"
    assert rig.run("record", namespace, 0, source="inbox", removed=(removed,)).how == "done"
    with proof((removed,)):
        assert drained(rig, namespace) == undisturbed
