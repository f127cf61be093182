"""A process that reads one window again and again, as the nightly job does, until its standard input ends.

Run by the benchmark as ``python -m benchmarks.retrieval.reader REDIS_URL NAMESPACE HOME DAY``; each time the window was
read it prints how many experiences it held and the seconds that it took.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import memory
from memory.settings import Settings
from memory.store.windows import read_window_data
from memory.window import Window


async def read_again_and_again(redis_url: str, namespace: str, home: Path, day: date) -> None:
    """Read the window of a day without end."""
    settings = Settings(home=home, redis_url=None, near_cache_mb=0)
    async with memory.connect(redis_url=redis_url, namespace=namespace, settings=settings) as mem:
        while True:
            begun = time.perf_counter()
            data = await read_window_data(mem, Window.of_date(day))
            count = sum(len(table.experiences) for table in data.values())
            print(f"{count} {time.perf_counter() - begun:.3f}", flush=True)


@asynccontextmanager
async def reading(redis_url: str, namespace: str, home: Path, day: date) -> AsyncIterator[list[tuple[int, float]]]:
    """While the block runs another process reads the window of a day; yields what each reading found.

    The list grows meanwhile: experiences and seconds of each time. The block begins after the first reading.
    """
    program = (sys.executable, "-m", "benchmarks.retrieval.reader", redis_url, namespace, str(home), day.isoformat())
    # A session of its own: Ctrl-C reaches this process alone, which ends the other one.
    process = await asyncio.create_subprocess_exec(
        *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    output = process.stdout
    if output is None or process.stdin is None:
        raise AssertionError("the pipes were asked for.")
    readings: list[tuple[int, float]] = []
    first = asyncio.Event()

    async def collect() -> None:
        while line := await output.readline():
            count, seconds = line.split()
            readings.append((int(count), float(seconds)))
            first.set()
        first.set()

    collecting = asyncio.create_task(collect())
    try:
        await first.wait()
        if not readings:
            raise RuntimeError(f"the reading process ended with {await process.wait()} before it had read the window.")
        yield readings
        if process.returncode is not None:
            raise RuntimeError(f"the reading process ended with {process.returncode} while it was needed.")
    finally:
        process.stdin.close()
        await process.wait()
        await collecting


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(read_again_and_again(sys.argv[1], sys.argv[2], Path(sys.argv[3]), date.fromisoformat(sys.argv[4])))
