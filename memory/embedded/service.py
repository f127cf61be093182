"""One server of a home as a small state machine: repair, prepare, start, watch, stop. Nothing here ever waits."""

from __future__ import annotations

import enum
import logging
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from memory.embedded.home import FileLock, Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import (
    ProcessIdentity,
    keep_log_small,
    last_lines,
    log_size,
    processes_holding,
    put_aside_if_large,
    server_environment,
    start_server,
)
from memory.errors import EmbeddedServerError

logger = logging.getLogger(__name__)

#: A server that dies more often than this within the period is not started again: something is wrong with it.
RESTARTS_ALLOWED = 5
RESTART_PERIOD_S = 60.0
#: An orphan gets this long to end by itself after its signal, and as long again after it is killed.
ORPHAN_PATIENCE_S = 20.0
#: How often the log of a running server is looked at; one of a year would fill the disk.
LOG_INTERVAL_S = 60.0


class State(enum.Enum):
    """Where a server is in its life."""

    STOPPED = "stopped"
    REPAIRING = "repairing"
    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """A program to run, with what it reads from its standard input."""

    command: Sequence[str | Path]
    input_text: str = ""


class Service(ABC):
    """One server. :meth:`request` asks for it, :meth:`poll` moves it on, :meth:`stop` ends it.

    Parameters
    ----------
    home
        The home whose data it serves.
    runtime
        The private directory for sockets and configuration.
    options
        Settings in force.
    """

    name: ClassVar[str]
    #: Ends the server cleanly; also what the kernel sends it should the supervisor die.
    stop_signal: ClassVar[int] = signal.SIGTERM
    #: After this long the server is killed. Generous: a clean end is what makes data durable.
    stop_patience_s: ClassVar[float] = 30.0
    orphan_patience_s: ClassVar[float] = ORPHAN_PATIENCE_S
    restarts_allowed: ClassVar[int] = RESTARTS_ALLOWED
    restart_period_s: ClassVar[float] = RESTART_PERIOD_S
    #: Wait before the second restart within the period, doubled with each further one; the first comes at once.
    restart_delay_s: ClassVar[float] = 0.0

    def __init__(self, home: Home, runtime: Path, options: EmbeddedOptions) -> None:
        self.home = home
        self.runtime = runtime
        self.options = options
        self.state = State.STOPPED
        self.error = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: FileLock | None = None
        self._steps: Iterator[Step] = iter(())
        self._since = 0.0
        self._log_offset = 0
        self._orphan: ProcessIdentity | None = None
        self._killed = False
        self._deaths: deque[float] = deque()
        self._not_before = 0.0
        self._log_looked_at = time.monotonic()

    # --- what each server says about itself -----------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """Where its users find it."""

    @abstractmethod
    def prepare(self) -> Iterator[Step]:
        """Remove what a dead server left, write the configuration; yield programs to run first, one after another."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The program and its arguments. They are visible to everybody, so they hold no secret."""

    @abstractmethod
    def version(self) -> str:
        """Its version, as it names it itself."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it answers. Called often while it starts; must return at once."""

    @abstractmethod
    def data_directory(self) -> Path:
        """Where it works."""

    def environment(self) -> Mapping[str, str]:
        """Its environment variables."""
        return server_environment(os.environ)

    def inherited(self) -> Sequence[int]:
        """Descriptors, beside its lock's, that it keeps open, and with them the locks that they hold."""
        return ()

    def clean_up(self) -> None:  # noqa: B027  # most servers leave nothing behind
        """Remove what the stopped server leaves in the runtime directory."""

    # --- the state machine ------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        """Its log."""
        return self.home.log(self.name)

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self.process.pid if self.process is not None else None

    @property
    def settled(self) -> bool:
        """Return whether nothing changes without a request or an accident."""
        return self.state in {State.STOPPED, State.READY, State.FAILED}

    def request(self) -> None:
        """Ask for the server: starts it where it is stopped or has failed."""
        if self.state in {State.STOPPED, State.FAILED}:
            self.error = ""
            self._deaths.clear()
            self._not_before = 0.0
            self._begin()

    def stop(self) -> None:
        """Begin to stop the server, whatever it does."""
        if self.process is None:
            self._release()
            if self.state is not State.FAILED:
                self.state = State.STOPPED
            return
        if self.state is not State.STOPPING:
            logger.info("stopping %s (pid %d)", self.name, self.process.pid)
            self._enter(State.STOPPING)
            self._killed = False
            self.process.send_signal(self.stop_signal)

    def poll(self) -> None:
        """Move on by at most one step."""
        try:
            if self.state is State.REPAIRING:
                self._repair()
            elif self.state is State.PREPARING:
                self._run_next_step()
            elif self.state in {State.STARTING, State.READY}:
                self._watch()
            elif self.state is State.STOPPING:
                self._wait_for_end()
        except (OSError, EmbeddedServerError) as error:
            reason = str(error).rstrip(".")
            self._fail(f"{self.name} could not be started: {reason}.")

    def _enter(self, state: State) -> None:
        self.state = state
        self._since = time.monotonic()

    def _begin(self, delay_s: float = 0.0) -> None:
        self._enter(State.REPAIRING)
        self._not_before = time.monotonic() + delay_s
        self._orphan = None
        self._killed = False
        self.poll()

    def _repair(self) -> None:
        """Wait for the lock on the data directory; end an orphan that holds it."""
        if time.monotonic() < self._not_before:
            return
        lock = self._lock or self.home.lock(self.name)
        self._lock = lock
        if lock.try_exclusive():
            put_aside_if_large(self.log)
            self._log_offset = log_size(self.log)
            self.data_directory().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._steps = self.prepare()
            self._enter(State.PREPARING)
            self._run_next_step()
            return
        waited = time.monotonic() - self._not_before
        if self._orphan is None:
            recorded = ProcessIdentity.read(self.home.process_record(self.name))
            # Pid, start and boot together name one process, and the lock says that it is at our data. Its open files
            # cannot be looked at: it runs in the user namespace of the supervisor that it lost.
            if recorded is not None and recorded.is_alive():
                logger.warning("stopping %s (pid %d), which lost its supervisor", self.name, recorded.pid)
                self._orphan = recorded
                recorded.wake_and_signal(self.stop_signal)
        elif waited > self.orphan_patience_s and not self._killed:
            self._killed = True
            self._orphan.signal(signal.SIGKILL)
        if waited > 2 * self.orphan_patience_s:
            holders = ", ".join(map(str, processes_holding(lock.path))) or "not visible from here"
            self._fail(
                f"the data of {self.name} in {self.data_directory()} is in use by another process (pid {holders}), "
                "which must be stopped first"
            )

    def _run_next_step(self) -> None:
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return
            self.process = None
            if status != 0:
                self._fail(self._ended("a step of its set-up", status))
                return
        step = next(self._steps, None)
        if step is not None:
            self._spawn(step)
            return
        self._spawn(Step(self.command()))
        self._enter(State.STARTING)

    def _spawn(self, step: Step) -> None:
        assert self._lock is not None
        self.process = start_server(
            step.command,
            input_text=step.input_text,
            log=self.log,
            environment=self.environment(),
            directory=self.data_directory() if self.data_directory().is_dir() else self.home.directory,
            keep_open=[self._lock.descriptor, *self.inherited()],
            death_signal=self.stop_signal,
        )
        identity = ProcessIdentity.of(self.process.pid)
        if identity is not None:
            identity.write(self.home.process_record(self.name))

    def _watch(self) -> None:
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            if self.state is State.STARTING and self.is_ready():
                logger.info("%s is ready (pid %d, %.2f s)", self.name, self.process.pid, time.monotonic() - self._since)
                self._enter(State.READY)
            if time.monotonic() - self._log_looked_at > LOG_INTERVAL_S:
                self._log_looked_at = time.monotonic()
                self._put_log_aside()
            return
        self.process = None
        was_ready = self.state is State.READY
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths and self._deaths[0] < now - self.restart_period_s:
            self._deaths.popleft()
        if not was_ready or len(self._deaths) > self.restarts_allowed:
            self._fail(self._ended(self.name, status))
            return
        again = len(self._deaths) - 1
        delay_s = self.restart_delay_s * 2 ** (again - 1) if again else 0.0
        soon = f" in {delay_s:g} s" if delay_s else ""
        logger.warning("%s %s; starting it again%s; %s", self.name, _how(status), soon, self._last_words())
        self._release()
        self._begin(delay_s)

    def _put_log_aside(self) -> None:
        try:
            keep_log_small(self.log)
        except OSError as error:  # of a full disk, which must not end a server that runs
            logger.warning("the log %s stays as large as it is: %s", self.log, error)

    def _wait_for_end(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            if time.monotonic() - self._since > self.stop_patience_s and not self._killed:
                logger.error("%s (pid %d) did not stop and is killed", self.name, self.process.pid)
                self._killed = True
                self.process.kill()
            return
        self.process = None
        self.clean_up()
        self._release()
        self.home.process_record(self.name).unlink(missing_ok=True)
        self.state = State.STOPPED

    def _release(self) -> None:
        # Closing, not unlocking: a child that outlives the server, such as a backend of Postgres, keeps the lock.
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _fail(self, message: str) -> None:
        logger.error("%s", message)
        self.error = message
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None
        self._release()
        self.state = State.FAILED

    def _ended(self, what: str, status: int) -> str:
        return f"{what} {_how(status)}; {self._last_words()}"

    def _last_words(self) -> str:
        return f"its log {self.log} ends with:\n{last_lines(self.log, since=self._log_offset)}"


def _how(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
