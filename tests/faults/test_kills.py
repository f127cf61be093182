"""A run that is killed, at each boundary and at any other time, and done again ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest
from fault_moments import Moment
from fault_rig import WORK, Calm, Rig, proof

pytestmark = pytest.mark.faults

SUMMARIES = "sql INSERT INTO .*[^_]summaries"
PATTERNS = r"sql INSERT INTO \S*\bpatterns\b"
MARKS = "sql INSERT INTO .*fold_checkpoints"

UNCOMMITTED, COMMITTED, FOLDED, NOTED = (
    (False, False, False),
    (True, False, False),
    (True, True, False),
    (True, True, True),
)
BOUNDARIES = (
    (Moment("archive", "begin archive"), UNCOMMITTED),
    (Moment("archive", "file"), UNCOMMITTED),
    (Moment("archive", "filed", 2), UNCOMMITTED),
    (Moment("archive", "end archive"), UNCOMMITTED),
    (Moment("cluster", SUMMARIES), UNCOMMITTED),
    (Moment("cluster", SUMMARIES, 3), UNCOMMITTED),
    (Moment("cluster", "end cluster"), UNCOMMITTED),
    (Moment("commit", "commit"), UNCOMMITTED),
    (Moment("commit", "end commit"), COMMITTED),
    (Moment("fold", "begin fold"), COMMITTED),
    (Moment("fold", PATTERNS), COMMITTED),
    (Moment("fold", "commit"), COMMITTED),
    (Moment("fold", "end fold"), FOLDED),
    (Moment("publish", "redis step"), FOLDED),
    (Moment("publish", "redis executed"), FOLDED),
    (Moment("publish", MARKS), FOLDED),
    (Moment("publish", "commit"), FOLDED),
    (Moment("publish", "end publish"), NOTED),
)
"""When a consolidation of the second day is killed, and how far it must have come: committed, folded, published."""
TRANSITION_BOUNDARIES = (
    Moment("transitions", r"sql INSERT INTO \S*\btransitions\b"),
    Moment("transitions", "end transitions"),
    Moment("publish regimes", "redis step"),
    Moment("publish regimes", "redis executed"),
    Moment("publish regimes", "end publish regimes"),
)

CHAINS = 8
KILLS_A_RUN = 2
BACKWARDS = "t-backwards"
MISSES = 12
"""A kill that comes too late for a run that has little left to do comes earlier in the next one."""


def test_killed_at_each_boundary_in_turn_and_taken_up_again_it_ends_in_the_same_knowledge(
    rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0).how == "done"
    for moment, reached in BOUNDARIES:
        assert rig.run("consolidate", namespace, 1, moment=moment).how == "killed", moment
        assert rig.progress(namespace, 1) == reached, moment
    assert rig.run("consolidate", namespace, 1).how == "done"
    assert rig.digests(namespace) == calm.both
    for moment in TRANSITION_BOUNDARIES:
        assert rig.run("transitions", namespace, 1, moment=moment).how == "killed", moment
    last = rig.run("transitions", namespace, 1)
    assert last.how == "done"
    assert rig.digests(namespace) == calm.whole
    with rig.ledger() as ledger:
        ended = [run.status for run in ledger.runs.list(namespace, limit=100)]
        holder = ledger.fence.holder(namespace)
    assert ended.count("DEAD") == len(BOUNDARIES) + len(TRANSITION_BOUNDARIES)  # none could say that it died
    assert ended.count("SUCCEEDED") == 3
    assert holder is not None
    assert (holder.run_id, holder.released) == (last.result["run_id"], True)


@pytest.mark.parametrize("seed", range(CHAINS))
def test_killed_at_random_again_and_again_it_ends_in_the_same_knowledge(
    seed: int, rig: Rig, calm: Calm, namespace: str
) -> None:
    draw = random.Random(seed)
    rig.fill(namespace)
    for number, (flow, day) in enumerate(WORK):
        for kill in range(KILLS_A_RUN):
            if (seed + kill) % 2:
                _kill_at_an_event(draw.randint(1, calm.events[number]), rig, flow, namespace, day)
            else:
                _kill_at_a_time(draw.uniform(0.0, calm.seconds[number]), rig, flow, namespace, day)
        assert rig.run(flow, namespace, day).how == "done"
    assert rig.digests(namespace) == calm.whole
    with rig.ledger() as ledger:
        ended = [run.status for run in ledger.runs.list(namespace, limit=100)]
    # A run that was killed before it was in the ledger left no row, and nothing else either.
    assert set(ended) <= {"DEAD", "SUCCEEDED"}


def _kill_at_an_event(number: int, rig: Rig, *run: Any) -> None:
    for _ in range(MISSES):
        if rig.run(*run, moment=Moment(None, "", number)).how == "killed":
            return
        number = max(1, number // 2)
    pytest.fail("it was never killed")


def _kill_at_a_time(seconds: float, rig: Rig, *run: Any) -> None:
    for _ in range(MISSES):
        begun = rig.start(*run)
        time.sleep(seconds)
        begun.signal(signal.SIGKILL)
        if begun.end().how == "killed":
            return
        seconds /= 2
    pytest.fail("it was never killed")


# --- what makes it so ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [("transactions",), ()], ids=["removed", "kept"])
def test_a_fold_that_is_killed_half_written_leaves_nothing_behind(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0, moment=Moment("fold", PATTERNS), removed=removed).how == "killed"
    assert rig.run("consolidate", namespace, 0).how == "done"
    with proof(removed):
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("staged work",), ()], ids=["removed", "kept"])
def test_what_was_clustered_before_the_kill_is_not_clustered_again(
    removed: tuple[str, ...], rig: Rig, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0, moment=Moment("cluster", "end cluster")).how == "killed"
    again = rig.run("consolidate", namespace, 0, removed=removed)
    assert again.how == "done"
    with proof(removed):
        assert again.names.get("clustered", 0) == 0


@pytest.mark.parametrize("removed", [("one step",), ()], ids=["removed", "kept"])
def test_a_publication_that_is_killed_half_way_has_published_nothing(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0).how == "done"
    # Without the one step, commands go one by one: it dies before the last of them, which stamps what was listed.
    moment = Moment("publish", "command SET") if removed else Moment("publish", "redis step")
    assert rig.run("consolidate", namespace, 1, moment=moment, removed=removed).how == "killed"
    with proof(removed):
        assert rig.digests(namespace)[1] == calm.first[1]
    assert rig.run("consolidate", namespace, 1).how == "done"
    assert rig.digests(namespace) == calm.both


@pytest.mark.parametrize("removed", [("old names",), ()], ids=["removed", "kept"])
def test_old_names_are_kept_by_the_run_after_the_one_that_was_killed_while_it_folded_again(
    removed: tuple[str, ...], rig: Rig, backwards: tuple[str, str], namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 1).how == "done"
    moment = Moment("fold", "sql SELECT .*FROM refolds")
    assert rig.run("consolidate", namespace, 0, moment=moment, removed=removed).how == "killed"
    assert rig.run("consolidate", namespace, 0).how == "done"
    assert rig.digests(namespace)[0] == backwards[0]
    with proof(removed):
        assert aliases(rig, namespace) == aliases(rig, BACKWARDS)


@pytest.fixture(scope="module")
def backwards(shared_rig: Rig) -> tuple[str, str]:
    """Digests of both days, the second of which was consolidated first."""
    shared_rig.until_up()
    shared_rig.fill(BACKWARDS)
    for day in (1, 0):
        assert shared_rig.run("consolidate", BACKWARDS, day).how == "done"
    assert aliases(shared_rig, BACKWARDS)  # names of the second day lead to those of the first
    return shared_rig.digests(BACKWARDS)


def aliases(rig: Rig, namespace: str) -> list[tuple[str, str]]:
    """Names that patterns had before, and where they lead."""
    with rig.ledger() as ledger:
        (record,) = ledger.lines.list(namespace)
        return sorted((alias.alias_id, alias.pattern_id) for alias in ledger.projections.aliases(record.line))
