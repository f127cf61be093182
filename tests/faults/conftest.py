"""One night, one home with servers that may be struck, and what the night ends in when nothing disturbs it."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RIGS = (Path(__file__).parent / "rig", Path(__file__).parents[1] / "rig")
sys.path.insert(0, str(RIGS[0]))
# The server that runs are forked from imports them by name.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, RIGS), os.environ.get("PYTHONPATH")]))

from fault_night import planted  # noqa: E402
from fault_rig import AGENTS, WORK, Calm, Night, Rig  # noqa: E402

from memory import embedded  # noqa: E402

FIRST = dt.date(2021, 6, 17)
PRODUCT = "BTC-USDT"


@pytest.fixture(scope="session")
def night() -> Night:
    """The first hours of two days."""
    days = (FIRST, FIRST + dt.timedelta(days=1))
    return Night(days, PRODUCT, tuple(item for day in days for item in planted(day, PRODUCT, AGENTS)))


@pytest.fixture(scope="session")
def shared_rig(night: Night) -> Iterator[Rig]:
    """Servers of these tests alone: they are killed, emptied and starved."""
    home = Path(tempfile.mkdtemp(prefix="coinswarm-faults-"))
    (home / "runs").mkdir()
    try:
        with embedded.open_session(home, ("redis", "postgres", "prefect"), timeout_s=120) as session:
            quiet = {
                "PREFECT_LOGGING_TO_API_ENABLED": "false",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                **embedded.prefect_environment(home, session.endpoints),
            }
            with pytest.MonkeyPatch.context() as patch:
                for name, value in quiet.items():
                    patch.setenv(name, value)
                multiprocessing.get_context("forkserver").set_forkserver_preload(["fault_child"])
                from multiprocessing import forkserver

                forkserver.ensure_running()
            yield Rig(home, session.endpoints, night, home / "runs", quiet)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The servers, up and as they ship but for one setting, and no run left over from another test.

    Redis forces each write to its disk, where it otherwise waits up to a second for more: a second for each wait for
    the disk is what most of these runs would take.
    """
    shared_rig.rest()
    shared_rig.until_up()
    shared_rig.configure_redis(appendonly="yes", appendfsync="always")
    yield shared_rig
    shared_rig.close_runs()


@pytest.fixture(scope="session")
def calm(shared_rig: Rig) -> Calm:
    """A night that nothing disturbs."""
    namespace = "t-calm"
    shared_rig.until_up()
    shared_rig.configure_redis(appendfsync="always")
    shared_rig.fill(namespace)
    digests, events, seconds = [], [], []
    for flow, day in WORK:
        begun = time.monotonic()
        outcome = shared_rig.run(flow, namespace, day)
        assert outcome.how == "done", outcome
        seconds.append(time.monotonic() - begun)
        events.append(outcome.events)
        digests.append(shared_rig.digests(namespace))
    assert len(set(digests)) == len(WORK)
    assert outcome.names["redis"] > 1
    return Calm(*digests, events=tuple(events), seconds=tuple(seconds), namespace=namespace)
