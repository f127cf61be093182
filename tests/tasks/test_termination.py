"""A run that is told to end while its event loop works ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tasks.termination import run_until_told_to_end


class Told(BaseException):
    """As Prefect's TerminationSignal: no Exception."""


@pytest.fixture
def handled() -> Iterator[None]:
    """SIGTERM raises, as within a flow."""

    def end(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def told_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(told_to_end)
    await asyncio.sleep(0.2)


async def in_the_coroutine() -> None:
    told_to_end()
    await asyncio.sleep(0.2)


async def in_a_block_that_takes_every_error() -> None:
    try:
        told_to_end()
    except BaseException:  # noqa: BLE001  (as libraries do)
        await asyncio.sleep(0.2)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("work", [in_a_callback, in_the_coroutine, in_a_block_that_takes_every_error])
def test_sigterm_ends_the_loop_wherever_it_is_heard(work: Callable[[], asyncio.Future[None]]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Told):
        run_until_told_to_end(work())  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("handled")
def test_asyncio_alone_goes_on_after_a_sigterm_that_is_heard_in_a_callback() -> None:
    asyncio.run(in_a_callback())


@pytest.mark.usefixtures("handled")
def test_what_is_not_told_to_end_returns_its_result() -> None:
    async def work() -> int:
        return 7

    assert run_until_told_to_end(work()) == 7


def test_in_another_thread_it_runs_as_with_asyncio_alone() -> None:
    found = []

    async def work() -> int:
        return 7

    thread = threading.Thread(target=lambda: found.append(run_until_told_to_end(work())))
    thread.start()
    thread.join()
    assert found == [7]
