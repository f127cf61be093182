"""A memory for programs without an event loop: training loops, environments, notebooks.

The memory and a recorder live in a thread with a loop of its own; calls from any other thread are handed over to it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import memory
from agents.protocols import ObservationEncoder
from agents.recorder import Destination, Experience, ExperienceRecorder
from agents.recorder_report import RecorderReport
from memory import MemoryConnection
from memory.decisions import DecisionTrace
from memory.errors import InvalidQueryError
from memory.records import VECTOR_DIMENSION

Result = TypeVar("Result")

ASK_TIMEOUT_S = 60.0
"""Longest wait for a call: longer than any single question of the memory takes."""


class BackgroundMemory:
    """A memory and a recorder in a thread: ``with BackgroundMemory(encoder=encoder) as remembered``.

    Parameters
    ----------
    redis_url, namespace
        As `memory.connect`.
    encoder
        Makes the vectors; registered with the namespace, so that its vectors may be kept and asked about.
    definition
        What is needed to make the encoder again (JSON values), kept with it; by default what its own `definition`
        holds, where it has one.
    dimension
        Of its vectors.
    destination
        As `ExperienceRecorder`; ``episodic`` so that the next question finds what was recorded.
    recording
        Other options of `ExperienceRecorder`.

    Notes
    -----
    Closing (or leaving the block) writes what waits to be written. The thread ends with the process, too; what is not
    written then is lost, as the recorder's log says.
    """

    def __init__(
        self,
        *,
        encoder: ObservationEncoder,
        redis_url: str | None = None,
        namespace: str | None = None,
        definition: Mapping[str, Any] | None = None,
        dimension: int = VECTOR_DIMENSION,
        destination: Destination = "episodic",
        **recording: Any,
    ) -> None:
        self.encoder = encoder
        self._redis_url, self._namespace = redis_url, namespace
        self._definition = dict(getattr(encoder, "definition", {}) if definition is None else definition)
        self._dimension = dimension
        self._recording = {"destination": destination, "on_termination": False, **recording}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ended: Future[None] = Future()
        self._mem: MemoryConnection | None = None
        self._recorder: ExperienceRecorder | None = None

    # --- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> BackgroundMemory:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> BackgroundMemory:
        """Connect, register the encoder, and begin to write in the background.

        Raises
        ------
        InvalidQueryError
            It is open already, or was closed.
        ConflictingRecordError
            Another encoder has its id.
        StoreUnavailableError, ServerUnsuitableError, EmbeddedServerError
            As `memory.connect`.
        """
        if self._thread is not None:
            raise InvalidQueryError("this memory was opened before.", remedy="Make another one.", argument="memory")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="coinswarm memory", daemon=True)
        self._thread.start()
        ready.result()
        return self

    def close(self) -> None:
        """Write what waits, disconnect, and end the thread; again it does nothing.

        Raises
        ------
        StoreUnavailableError
            Something could not be written in the recorder's time, and is lost: it is counted and logged.
        """
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None or not thread.is_alive() or loop is None or stop is None:
            return
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        self._ended.result()

    # --- use -------------------------------------------------------------------------------------------------

    def record(self, experience: Experience, trace: DecisionTrace | None = None) -> bool:
        """As `ExperienceRecorder.record`: about a microsecond, no I/O; False where it was dropped."""
        return self._opened()[1].record(experience, trace)

    def flush(self) -> RecorderReport:
        """Write all that was recorded before; as `ExperienceRecorder.flush`."""
        recorder = self._opened()[1]
        return self.ask(lambda _: recorder.flush())

    def report(self) -> RecorderReport:
        """What became of what was recorded."""
        return self._opened()[1].report()

    def ask(
        self, question: Callable[[MemoryConnection], Awaitable[Result]], *, timeout_s: float = ASK_TIMEOUT_S
    ) -> Result:
        """Run an async function on the memory, and wait for its result; whatever it raises is raised here.

        ``remembered.ask(lambda mem: mem.retrieval.retrieve_similar_experiences(vector))``. Cost: 0.1 ms beside the
        question's own. The replay around the call (`memory.replaying`) holds for the question.

        Raises
        ------
        InvalidQueryError
            This memory is not open, or it is asked from its own thread.
        TimeoutError
            No answer in time; the question is cancelled.
        """
        mem, _, loop = self._opened()
        if threading.current_thread() is self._thread:
            raise InvalidQueryError(
                "the memory's own thread cannot wait for itself.",
                remedy="Await the question there.",
                argument="question",
            )

        async def answer() -> Result:
            return await question(mem)

        # A task takes the context that it is made in: that of the caller, with the replay's present.
        answered: Future[Result] = Future()
        context = contextvars.copy_context()

        def start() -> None:
            task = loop.create_task(answer(), context=context)
            task.add_done_callback(lambda done: _hand_over(done, answered))
            tasks.append(task)

        tasks: list[asyncio.Task[Result]] = []
        loop.call_soon_threadsafe(start)
        try:
            return answered.result(timeout_s)
        except TimeoutError:
            for task in tasks:
                loop.call_soon_threadsafe(task.cancel)
            raise

    # --- the thread ------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[MemoryConnection, ExperienceRecorder, asyncio.AbstractEventLoop]:
        alive = self._thread is not None and self._thread.is_alive()
        if self._mem is None or self._recorder is None or self._loop is None or not alive:
            raise InvalidQueryError(
                "this memory is not open.", remedy="Use it in its with block, or call open() first.", argument="memory"
            )
        return self._mem, self._recorder, self._loop

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._live(ready))
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread is waited for
            (self._ended if ready.done() else ready).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self, ready: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with memory.connect(
            redis_url=self._redis_url, namespace=self._namespace, encoder_id=self.encoder.id_
        ) as mem:
            await mem.encoders.register(
                self.encoder.id_,
                fitted_until=self.encoder.fitted_until_,
                definition=self._definition,
                dimension=self._dimension,
            )
            async with ExperienceRecorder(mem, **self._recording) as recorder:
                self._mem, self._recorder = mem, recorder
                ready.set_result(None)
                await self._stop.wait()


def _hand_over(task: asyncio.Task[Result], answered: Future[Result]) -> None:
    """Pass a task's outcome on to who waits for it."""
    if answered.done():
        return
    if task.cancelled():
        answered.cancel()
        return
    error = task.exception()
    if error is not None:
        answered.set_exception(error)
    else:
        answered.set_result(task.result())
