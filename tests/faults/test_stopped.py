"""A run that is stopped past its lease, overtaken, and goes on: it cannot write any more, anywhere."""

from __future__ import annotations

import signal

import pytest
import sqlalchemy as sa
from fault_moments import Moment
from fault_rig import AGENTS, Calm, Rig, Run, proof

pytestmark = pytest.mark.faults

STEP = Moment("publish", "redis step")
"""The step of publication itself; the first writes documents where nobody sees them."""
ONE = AGENTS[:1]
OTHER = AGENTS[1:]


def stopped(rig: Rig, namespace: str, moment: Moment, removed: tuple[str, ...]) -> Run:
    """A run that consolidates what one agent lived through on the first day, and has stopped at a moment."""
    rig.fill(namespace, rig.night.of(agents=ONE))
    run = rig.start("consolidate", namespace, 0, moment=moment, action="stop", removed=removed)
    run.until_stopped()
    rig.fill(namespace, rig.night.of(agents=OTHER))
    return run


def end_what_stopped_half_way(rig: Rig) -> None:
    """A heartbeat stopped in its transaction keeps the lease. Postgres ends it after minutes; here, at once."""
    engine = sa.create_engine(rig.database_url)
    try:
        with engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE state = 'idle in transaction' AND pid <> pg_backend_pid()"
                )
            )
    finally:
        engine.dispose()


def overtaken(rig: Rig, namespace: str) -> None:
    """Another run consolidates what both lived through: it waits for the lease of the stopped one, and no longer."""
    end_what_stopped_half_way(rig)
    outcome = rig.run("consolidate", namespace, 0)
    assert (outcome.how, outcome.error) == ("done", "")
    with rig.ledger() as ledger:
        assert sorted(run.status for run in ledger.runs.list(namespace)) == ["DEAD", "SUCCEEDED"]


@pytest.mark.parametrize("removed", [("fence of the ledger",), ()], ids=["removed", "kept"])
def test_the_ledger_takes_nothing_from_a_run_that_was_overtaken(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    run = stopped(rig, namespace, Moment("commit", "begin commit"), removed)
    overtaken(rig, namespace)
    assert rig.digests(namespace) == calm.first
    run.signal(signal.SIGCONT)
    outcome = run.end()
    assert outcome.how == "failed"
    assert outcome.error == "FencedOutError"
    with proof(removed):
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("end of transactions",), ()], ids=["removed", "kept"])
def test_a_run_that_is_stopped_within_a_transaction_does_not_keep_its_successor_out(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    run = stopped(rig, namespace, Moment("fold", r"sql INSERT INTO \S*\bpatterns\b"), ())
    after = rig.run("consolidate", namespace, 0, removed=removed, environment={"COINSWARM_LOCK_WAIT_S": "8"})
    with proof(removed):
        assert (after.how, after.error) == ("done", "")
        assert rig.digests(namespace) == calm.first
    if removed:
        return
    run.signal(signal.SIGCONT)
    assert run.end().how == "failed"
    assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("fence of Redis",), ()], ids=["removed", "kept"])
def test_redis_takes_nothing_from_a_run_that_was_overtaken_between_its_reading_and_its_writing(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    run = stopped(rig, namespace, STEP, removed)
    overtaken(rig, namespace)
    assert rig.digests(namespace) == calm.first
    run.signal(signal.SIGCONT)
    outcome = run.end()
    assert outcome.how == "failed"
    assert outcome.error == "FencedOutError"
    with proof(removed):
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("lost fence",), ()], ids=["removed", "kept"])
def test_an_emptied_redis_takes_nothing_from_a_run_that_was_overtaken_before(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    run = stopped(rig, namespace, Moment("publish", "begin publish"), removed)
    overtaken(rig, namespace)
    rig.empty_redis(namespace)
    run.signal(signal.SIGCONT)
    outcome = run.end()
    assert outcome.how == "failed"
    assert outcome.error == "FencedOutError"
    with proof(removed):
        assert rig.known_to_redis(namespace) == []
    assert rig.run("consolidate", namespace, 0).how == "done"
    assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("fence of Redis",), ()], ids=["removed", "kept"])
def test_a_prune_that_was_overtaken_removes_nothing_of_what_was_recorded_since(
    removed: tuple[str, ...], rig: Rig, namespace: str
) -> None:
    first = [item for item in rig.night.lived if item.timestamp.date() == rig.night.days[0]]
    rig.fill(namespace)
    for day in (0, 1):
        assert rig.run("consolidate", namespace, day).how == "done"
    keep_one_day = {"environment": {"COINSWARM_EPISODIC_RETENTION_DAYS": "1"}}
    run = rig.start(
        "prune",
        namespace,
        1,
        moment=Moment("prune", "redis write UNLINK", 2),
        action="stop",
        removed=removed,
        **keep_one_day,
    )
    run.until_stopped()
    after = rig.run("prune", namespace, 1, **keep_one_day)
    assert after.how == "done"
    assert after.result["forgotten_experiences"] > 0
    rig.fill(namespace, first)
    run.signal(signal.SIGCONT)
    assert run.end().how == "failed"
    with proof(removed):
        assert rig.ask(namespace, lambda mem: mem.episodic.count()) == len(rig.night.lived)
