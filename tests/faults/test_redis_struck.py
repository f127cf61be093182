"""Redis is killed, loses what it had not written, or is emptied: the knowledge is the same in the end."""

from __future__ import annotations

import pytest
from fault_moments import Moment
from fault_rig import Calm, Rig, proof

pytestmark = pytest.mark.faults

NO_RETRIES = ("task retries", "link retries")


@pytest.mark.parametrize("removed", [NO_RETRIES, ()], ids=["removed", "kept"])
@pytest.mark.parametrize("moment", [Moment("archive", "begin archive"), Moment("publish", "redis step")], ids=str)
def test_redis_killed_under_a_consolidation_changes_nothing_of_what_it_ends_in(
    moment: Moment, removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    run = rig.start("consolidate", namespace, 0, moment=moment, action="meet", removed=removed)
    run.until_met()
    rig.strike("redis")
    run.go()
    outcome = run.end()
    rig.until_up()
    with proof(removed):
        assert (outcome.how, outcome.error) == ("done", "")
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("stamp",), ()], ids=["removed", "kept"])
def test_a_publication_that_redis_had_confirmed_and_lost_is_made_again_by_the_next_run(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    run = rig.start("consolidate", namespace, 0, moment=Moment("publish", "begin publish"), action="meet")
    run.until_met()
    # A log that is written no more stands for the last writes before a machine fails, which are not on its disk.
    rig.configure_redis(appendonly="no")
    run.go()
    assert run.end().how == "done"
    assert rig.digests(namespace) == calm.first
    rig.kill("redis")
    assert rig.digests(namespace)[1] != calm.first[1]
    assert rig.run("consolidate", namespace, 0, removed=removed).how == "done"
    with proof(removed):
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("disk",), ()], ids=["removed", "kept"])
def test_nothing_is_noted_as_published_before_it_is_on_the_disk_of_redis(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    run = rig.start(
        "consolidate",
        namespace,
        0,
        moment=Moment("publish", "begin publish"),
        action="meet",
        removed=(*removed, "task retries"),
    )
    run.until_met()
    rig.configure_redis(appendfsync="no")  # The system may write it in half a minute.
    run.go()
    outcome = run.end()
    with proof(removed):
        assert (outcome.how, outcome.error) == ("failed", "StoreUnavailableError")
        assert rig.progress(namespace, 0) == (True, True, False)
    rig.configure_redis(appendfsync="always")
    assert rig.run("consolidate", namespace, 0).how == "done"
    assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("stamp",), ()], ids=["removed", "kept"])
def test_knowledge_comes_back_from_the_ledger_after_redis_was_emptied(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0).how == "done"
    rig.empty_redis(namespace)
    assert rig.digests(namespace)[1] != calm.first[1]
    assert rig.run("consolidate", namespace, 0, removed=removed).how == "done"
    with proof(removed):
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("lost fence",), ()], ids=["removed", "kept"])
def test_a_run_under_which_redis_was_emptied_fails_and_the_next_one_brings_all_back(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0).how == "done"
    run = rig.start("consolidate", namespace, 1, moment=Moment("publish", "redis step"), action="meet", removed=removed)
    run.until_met()
    rig.empty_redis(namespace)
    run.go()
    outcome = run.end()
    with proof(removed):
        assert (outcome.how, outcome.error) == ("failed", "FencedOutError")
        assert rig.known_to_redis(namespace) == []
    assert rig.run("consolidate", namespace, 1).how == "done"
    assert rig.digests(namespace) == calm.both
