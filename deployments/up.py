"""`coinswarm up`: everything on this machine, in one process that watches it until it is asked to end.

It uses the embedded servers as any command does, registers the deployments, and has Prefect's own worker as a child.
What outlives it when it is killed ends by itself: the worker hears of it and ends its runs, then the servers stop.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from deployments.console import Console
from deployments.local import PrefectUnavailableError, Stack, check_places, load_settings, local_stack
from deployments.registry import told_unscheduled
from deployments.up_checks import LEAST_FREE_BYTES, UpError, check_room, check_same, first_up, full_disk_told
from deployments.up_log import LOGGER, kept_log
from deployments.up_prefect import (
    DeploymentFacts,
    RunFacts,
    deployments_of,
    lost,
    mark_crashed,
    prefect_client,
    run_of,
    runs_under_way,
    worker_is_online,
)
from deployments.up_servers import keep_servers_up
from deployments.up_shown import found_up, show_up, shown
from deployments.up_signals import Stopping
from deployments.up_state import UpState, forget_up, up_lock, write_up
from deployments.up_worker import Worker, WorkerOrder, end_runs, run_processes
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.prefect_server import secret_file
from memory.embedded.service import State
from memory.settings import Settings
from tasks.progress import Steps, announce

logger = logging.getLogger(LOGGER)

_POLL_S = 0.1
_SUPERVISOR_INTERVAL_S = 1.0
_LOOK_INTERVAL_S = 60.0
_IN_HAND = timedelta(seconds=60)
"""A run that changed its state more recently may be on its way to a process."""
_SILENCE = timedelta(minutes=5)
"""A worker tells Prefect every half a minute that it lives."""
_STOPPED = (
    "The coinswarm up that carried this run out was stopped. Retry takes it up where it stopped, in the same window."
)
_DIED = "The process of this run ended without a word. Retry takes it up where it stopped, in the same window."


def up(
    namespace: str | None,
    port: int | None,
    console: Console,
    *,
    metrics_port: int | None = None,
    with_worker: bool = True,
) -> None:
    """Start everything, say where it is, and keep it up until SIGINT or SIGTERM; where it is up already, say that.

    Parameters
    ----------
    namespace
        Name of the memory; that of the settings where None.
    port
        Port of the embedded Prefect server; the one that the home had last, or a free one, where None.
    metrics_port
        Port of the metrics, 0 for a free one; that of the settings where None.
    with_worker
        Whether what is scheduled is carried out.

    Raises
    ------
    UpError
        No room, another namespace's or port's `up` in this home, or a worker that keeps dying.
    MetricsPortError
        The port that was chosen for metrics is taken.
    EmbeddedServerError, PrefectUnavailableError, StoreUnavailableError, ServerUnsuitableError
        A server that does not start, or a configured one that does not answer or does not fit.
    KeyboardInterrupt
        It was asked to end before all was up, or a second time while it ended.
    """
    settings = load_settings(namespace)
    if metrics_port is not None:
        settings = settings.model_copy(update={"metrics_port": metrics_port})
    check_places(settings)
    home = Home.at(settings.home)
    with full_disk_told(home):
        home.create()
        check_room(home, shutil.disk_usage(home.directory).free)
        with closing(up_lock(home.directory)) as lock, Stopping() as stopping:
            first = first_up(lock, settings, console)
            if first is not None:
                check_same(first, settings, port, with_worker=with_worker)
                console.result(found_up(settings, first), show_up)
                return
            try:
                _Up(settings, port, console, stopping, with_worker=with_worker).run()
            finally:
                forget_up(home.directory)


class _Up:
    """One `up` from its start to its end."""

    def __init__(
        self, settings: Settings, port: int | None, console: Console, stopping: Stopping, *, with_worker: bool
    ) -> None:
        self.settings = settings
        self.home = Home.at(settings.home)
        self.port = port
        self.console = console
        self.stopping = stopping
        self.with_worker = with_worker
        self.stack: Stack
        self.worker: Worker | None = None
        self.worker_heard = True
        self.pool = ""
        self.served = False
        self.state = UpState(
            pid=os.getpid(),
            state="starting",
            namespace=settings.namespace,
            ui_url="",
            api_url="",
            login_file="",
            metrics_url="",
            pool="",
            worker="",
            logs=str(self.home.logs),
            started_at=datetime.now(UTC),
        )

    def run(self) -> None:
        """Start, watch, end."""
        with kept_log(self.home.log("up"), self.console):
            try:
                self._run()
            except KeyboardInterrupt:
                if not self.served:
                    raise
            if self.stopping.hurried:
                self._say("Ended without waiting; the servers stop by themselves.")
            elif embedded.home_status(self.home.directory).supervisor_pid is None:
                self._say("Stopped.")
            else:
                self._say("Ended; the servers stay up for another process that uses them.")

    def _run(self) -> None:
        with ExitStack() as ends:
            try:
                # First of all: a port that is taken is told before anything has started.
                self._start_metrics(ends)
                self._write("starting")
                with self.console.steps("Starting", total=3 + self.with_worker):
                    deployments = self._start(ends)
                self._write("ready")
                self.served = True
                self.stopping.raises = False
                result = shown(self.settings, self.state, deployments, already=False)
                self.console.result(result, show_up)
                logger.info("ready: %s", result["summary"])
                self._watch()
            finally:
                # From here on a further signal hurries.
                self.stopping.raises = False
                self._write("stopping")

    # --- start ----------------------------------------------------------------------------------------------------

    def _start(self, ends: ExitStack) -> list[DeploymentFacts]:
        steps = Steps()
        with steps.step("servers"):
            self.stack = ends.enter_context(local_stack(self.settings, prefect_port=self.port))
            ends.callback(self._leave_servers)
            self._check_servers()
        with steps.step("deployments") as told:
            from deployments.deploying import register

            registered = register(self.settings)
            self.pool = registered.pool
            told["registered"] = len(registered.deployments)
            if remark := told_unscheduled(self.settings, "coinswarm up"):
                self._say(remark)
        if self.with_worker:
            with steps.step("worker"):
                self._start_worker(ends)
        with steps.step("health"), prefect_client(self.stack.prefect_api_url) as client:
            found: list[DeploymentFacts] = []

            def are_well() -> bool:
                found[:] = deployments_of(client, self.pool, self.settings.namespace)
                return all(
                    (item.ready or not self.with_worker) and (item.next_run is not None or not item.scheduled)
                    for item in found
                )

            self._until(are_well, "the deployments to be ready, and their next runs to be planned")
            return found

    def _check_servers(self) -> None:
        """Look that Prefect is where it was asked for, and lets us in."""
        api_url = self.stack.prefect_api_url
        if "prefect" in self.stack.started and self.port not in {None, urlsplit(api_url).port}:
            raise UpError(
                f"the Prefect server of {self.home.directory} runs on port {urlsplit(api_url).port} already.",
                remedy="End what uses this home first, or leave --port out.",
            )
        with prefect_client(api_url) as client:
            client.api_version()
        login = secret_file(self.home) if "prefect" in self.stack.started else ""
        ui_url = os.environ.get("PREFECT_UI_URL") or api_url.rstrip("/").removesuffix("/api")
        self.state = replace(self.state, ui_url=ui_url, api_url=api_url, login_file=str(login))

    def _start_worker(self, ends: ExitStack) -> None:
        order = WorkerOrder(self.pool, self.settings.worker_runs, self.stack.environment, self.stack.inherited)
        self.worker = worker = Worker(self.home, order)
        self.state = replace(self.state, pool=self.pool, worker=worker.worker_name)
        self._write("starting")
        ends.callback(self._end_worker)
        since = datetime.now(UTC)
        worker.request()
        if worker.state is State.REPAIRING:
            announce("waiting for the worker of a coinswarm up that was killed to end its runs")
        self._until(lambda: worker.state is State.READY, "the worker before it to end")
        with prefect_client(self.stack.prefect_api_url) as client:
            self._mark_lost(datetime.now(UTC))
            self._until(
                lambda: worker_is_online(client, self.pool, worker.worker_name, since), "Prefect to hear of the worker"
            )

    def _start_metrics(self, ends: ExitStack) -> None:
        """Have figures where Prometheus finds them."""
        from deployments.metrics import open_metrics

        server = open_metrics(self.settings, self._say)
        ends.callback(server.close)
        self.state = replace(self.state, metrics_url=server.url)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds, with the worker looked after."""
        deadline = time.monotonic() + self.settings.start_timeout_s
        while True:
            self._poll_worker()
            if holds():
                return
            if time.monotonic() > deadline:
                raise UpError(
                    f"waited {self.settings.start_timeout_s:g} s for {what}.",
                    remedy=f"Look at the logs in {self.home.logs}; COINSWARM_START_TIMEOUT_S allows more.",
                )
            time.sleep(_POLL_S)

    # --- watch ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Keep worker and servers up until a signal asks to end."""
        looked = supervised = time.monotonic()
        while not self.stopping.asked:
            time.sleep(_POLL_S)
            self._poll_worker()
            now = time.monotonic()
            if now - supervised > _SUPERVISOR_INTERVAL_S:
                supervised = now
                keep_servers_up(
                    self.stack, self.home, self.stopping, self._say, thoroughly=now - looked > _LOOK_INTERVAL_S
                )
            if now - looked > _LOOK_INTERVAL_S:
                looked = now
                self._look()

    def _poll_worker(self) -> None:
        if self.worker is None:
            return
        self.worker.poll()
        if self.worker.state is State.FAILED:
            raise UpError(
                f"the worker was started {self.worker.restarts_allowed + 1} times, in vain: {self.worker.why()}.",
                remedy=f"Repair what {self.worker.log} names, then run coinswarm up again.",
            )

    def _look(self) -> None:
        """Tell Prefect of runs that died, and the person of a disk that is about to be full."""
        free = shutil.disk_usage(self.home.directory).free
        if free < LEAST_FREE_BYTES:
            self._say(f"{free / 2**20:,.0f} MiB are free under {self.home.directory}: make room, or writes will fail.")
        if self.worker is not None:
            try:
                self._mark_lost(datetime.now(UTC) - _IN_HAND)
                self._look_at_worker(self.worker)
            except PrefectUnavailableError as error:
                self._say(str(error))

    def _look_at_worker(self, worker: Worker) -> None:
        """Say once where Prefect has not heard of a worker that lives: runs would wait, and nobody would know why."""
        with prefect_client(self.stack.prefect_api_url) as client:
            heard = worker_is_online(client, self.pool, worker.worker_name, datetime.now(UTC) - _SILENCE)
        if not heard and self.worker_heard:
            self._say(f"Prefect has heard nothing of the worker for five minutes: see {worker.log}.")
        self.worker_heard = heard

    def _mark_lost(self, before: datetime) -> None:
        """Tell Prefect of runs whose process is gone: those of a worker, or of a machine, that was killed."""
        assert self.worker is not None
        with prefect_client(self.stack.prefect_api_url) as client:
            alive = set(run_processes(self.home).values())
            alone = "prefect" in self.stack.started
            runs = runs_under_way(client, self.pool)
            for run in lost(runs, alive, self.worker.worker_name, alone=alone, before=before):
                mark_crashed(client, run, _DIED)
                self._say(f"{run.name} had died and is marked crashed; Retry in the UI takes it up where it stopped.")

    # --- end ------------------------------------------------------------------------------------------------------

    def _end_worker(self) -> None:
        """End the worker, and with it the runs under way; say what became of them."""
        assert self.worker is not None
        under_way = self._mine_under_way()
        if under_way:
            names = ", ".join(run.name for run in under_way)
            self._say(f"Ending the worker and what it runs: {names}. A second Ctrl-C does not wait for that.")
        else:
            self._say("Ending the worker; nothing runs.")
        end_runs(self.home, hurried=lambda: self.stopping.hurried)
        self.worker.stop()
        while self.worker.state is State.STOPPING:
            if self.stopping.hurried and self.worker.process is not None:
                self.worker.process.kill()
            time.sleep(_POLL_S)
            self.worker.poll()
        # What it began after that.
        end_runs(self.home, hurried=lambda: True)
        if under_way:
            self._tell_of_ended(under_way)

    def _mine_under_way(self) -> list[RunFacts]:
        assert self.worker is not None
        alive = set(run_processes(self.home).values())
        try:
            with prefect_client(self.stack.prefect_api_url) as client:
                runs = runs_under_way(client, self.pool)
        except PrefectUnavailableError as error:
            self._say(str(error))
            return []
        return [run for run in runs if str(run.id) in alive or run.worker == self.worker.worker_name]

    def _tell_of_ended(self, runs: list[RunFacts]) -> None:
        try:
            with prefect_client(self.stack.prefect_api_url) as client:
                for run in runs:
                    now = run_of(client, run.id)
                    if not now.ended:
                        mark_crashed(client, run, _STOPPED)
                        now = run_of(client, run.id)
                    self._say(f"{now.name}: {now.state.lower()}.")
        except PrefectUnavailableError as error:
            self._say(str(error))
        self._say("Runs that were ended: Retry in the UI, or their next run, takes them up where they stopped.")

    def _leave_servers(self) -> None:
        """Before the servers stop: a signal that comes while they do ends the waiting for them."""
        if self.stopping.hurried:
            while self.stack.sessions:
                self.stack.sessions.pop().close(wait=False)
        elif self.stack.started:
            self._say(f"Stopping {', '.join(self.stack.started)}.")
            self.stopping.raises = True

    # --- words ----------------------------------------------------------------------------------------------------

    def _write(self, phase: str) -> None:
        self.state = replace(self.state, state=phase)  # type: ignore[arg-type]
        write_up(self.home.directory, self.state)

    def _say(self, text: str) -> None:
        logger.info("%s", text)
        self.console.say(f"{datetime.now(UTC):%H:%M:%S} {text}")
