"""The exporter of metrics for Prometheus: `coinswarm metrics`, or a thread of `coinswarm up`.

Each scrape looks at the servers that run, and waits for none: a server that is away or hangs is `coinswarm_up 0`, and
the rest is told all the same. It starts no server, and keeps none from stopping.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import memory
from deployments.console import Console
from deployments.local import load_settings
from deployments.looking import PREFECT, SERVERS, Sight, observe_where_current, servers_as_asked
from deployments.metric_families import families
from deployments.patience import Patient
from deployments.prefect_state import Looked, look
from deployments.reaching import Reached, reach
from memory.embedded.home import Home
from memory.errors import CoinswarmError
from memory.ledger.database import Database
from memory.logs import set_up_logging
from memory.settings import Settings
from memory.store.tally import Tally, tally
from tasks.observing import LEDGER, REDIS, LedgerFacts, MemoryFacts, Observation, attempted, observe_memory

Value = TypeVar("Value")

PORT = 9464
"""That of OpenTelemetry's exporter for Prometheus, which its list of default ports reserves for one like this."""
ADDRESS = "127.0.0.1"
PATIENCE_S = 4.0
"""Longest wait for one server in a scrape; all are asked at once, and Prometheus waits ten seconds."""
TALLY_SHARE = 0.02
"""Share of the server's time that looking through its keys may take, however often it is scraped."""


class MetricsPortError(CoinswarmError):
    """A port that the exporter cannot listen on."""


@dataclass(slots=True)
class _Counted:
    """What lies in streams, as last counted, and from when on it is to be counted again (monotonic seconds)."""

    tally: Tally
    stale_at: float


class _Namespace:
    """Looks at one namespace again and again."""

    def __init__(self, settings: Settings, patience_s: float) -> None:
        # What is asked answers, or is given up, before the scrape is.
        self.settings = settings.model_copy(update={"redis_timeout_s": min(settings.redis_timeout_s, patience_s)})
        self._patience_s = patience_s
        self._parts = {name: Patient(name, patience_s) for name in (SERVERS, REDIS, LEDGER, PREFECT)}
        self._counted: _Counted | None = None
        self._most: str | None = None
        self._database: tuple[str, Database] | None = None

    def look(self) -> Sight:
        """What is to be seen now; takes twice the patience at most."""
        problems: dict[str, CoinswarmError] = {}
        reached = attempted(SERVERS, partial(self._asked, SERVERS, self._reach), problems)
        if reached is None:
            reached = Reached.nowhere(self.settings, problems[SERVERS])
        asks: dict[str, Callable[[], Any]] = {
            REDIS: partial(self._redis, reached.redis_url),
            LEDGER: partial(self._ledger, reached.database_url),
            PREFECT: partial(self._prefect, reached.prefect_api_url),
        }
        deadline = time.monotonic() + self._patience_s
        for name, ask in asks.items():
            self._parts[name].begin(ask)
        answers = {name: attempted(name, partial(self._parts[name].answer, deadline), problems) for name in asks}
        held: MemoryFacts | None = answers[REDIS]
        ledger: LedgerFacts | None = answers[LEDGER]
        looked: Looked = answers[PREFECT] or Looked(problem=problems.get(PREFECT))
        if looked.problem is not None:
            problems[PREFECT] = looked.problem
        return Sight(
            reached=reached,
            servers=servers_as_asked(reached, problems, held, ledger, looked),
            observation=Observation(
                namespace=self.settings.namespace,
                memory=held,
                ledger=ledger,
                problems=problems,
                observed_at=datetime.now(UTC),
            ),
            prefect=looked,
            problems=problems,
        )

    def close(self) -> None:
        """Close what is kept open between looks."""
        if self._database is not None:
            self._database[1].dispose()
            self._database = None

    def _asked(self, name: str, ask: Callable[[], Value]) -> Value:
        self._parts[name].begin(ask)
        answer: Value = self._parts[name].answer(time.monotonic() + self._patience_s)
        return answer

    def _reach(self) -> Reached:
        with ExitStack() as stack:
            return reach(self.settings, stack, start=False)

    def _redis(self, redis_url: str | None) -> MemoryFacts | None:
        if redis_url is None:
            return None

        async def ask() -> MemoryFacts:
            async with memory.connect(redis_url=redis_url, settings=self.settings, replica_urls=()) as mem:
                if self._counted is None or time.monotonic() >= self._counted.stale_at:
                    begun = time.monotonic()
                    counted = await tally(mem.link, mem.keys)
                    took = time.monotonic() - begun
                    self._counted = _Counted(counted, begun + took / TALLY_SHARE)
                held = await observe_memory(mem, known=self._counted.tally, most=self._most)
                # Most memories have one source, whose experiences need not be walked again and again.
                self._most = max(held.experiences, key=held.experiences.__getitem__)
                return held

        return asyncio.run(ask())

    def _ledger(self, database_url: str | None) -> LedgerFacts | None:
        if database_url is None:
            return None
        if self._database is None or self._database[0] != database_url:
            self.close()
            self._database = (database_url, Database.connect(database_url))
        return observe_where_current(self._database[1], self.settings.namespace)

    def _prefect(self, api_url: str | None) -> Looked:
        return look(api_url, Home.at(self.settings.home), self.settings.namespace)


class StateCollector(Collector):
    """Makes metrics of the state of some namespaces, anew with each scrape.

    Parameters
    ----------
    settings
        Servers and home; the namespace is that of `namespaces`.
    namespaces
        Which memories; that of the settings where empty.
    patience_s
        Longest wait for one server.
    """

    def __init__(self, settings: Settings, namespaces: Sequence[str] = (), *, patience_s: float = PATIENCE_S) -> None:
        names = namespaces or (settings.namespace,)
        self._home = settings.home
        self._namespaces = [
            _Namespace(settings.model_copy(update={"namespace": name}), patience_s) for name in dict.fromkeys(names)
        ]
        self._one_at_a_time = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client: what is to be seen now."""
        with self._one_at_a_time:
            begun = time.monotonic()
            sights = [namespace.look() for namespace in self._namespaces]
            took = time.monotonic() - begun
        yield from families(sights)
        yield from self._own(took)

    def describe(self) -> list[Metric]:
        """Part of prometheus_client: nothing is looked at to register."""
        return []

    def close(self) -> None:
        """Close what is kept open between scrapes."""
        for namespace in self._namespaces:
            namespace.close()

    def _own(self, took: float) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "coinswarm_build_info", "Version of the exporter's software; always 1.", labels=("version",)
        )
        build.add_metric((version("coinswarm-memory"),), 1.0)
        yield build
        yield GaugeMetricFamily("coinswarm_observation_duration_seconds", "How long the look took.", value=took)
        if self._home.is_dir():
            usage = shutil.disk_usage(self._home)
            yield GaugeMetricFamily("coinswarm_home_disk_size_bytes", "Size of the home's disk.", value=usage.total)
            yield GaugeMetricFamily("coinswarm_home_disk_free_bytes", "Free room on the home's disk.", value=usage.free)


OWN_METRICS = (
    "coinswarm_build_info",
    "coinswarm_observation_duration_seconds",
    "coinswarm_home_disk_size_bytes",
    "coinswarm_home_disk_free_bytes",
)
"""Metrics beside those of `metric_families.METRICS`."""


class MetricsServer:
    """A running exporter; made by `start_metrics`."""

    def __init__(self, server: WSGIServer, thread: threading.Thread, collector: StateCollector) -> None:
        self._server = server
        self._thread = thread
        self._collector = collector

    @property
    def url(self) -> str:
        """Where Prometheus finds the metrics."""
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/metrics"

    def close(self) -> None:
        """Stop listening. A scrape that is under way gets its answer, or none."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._collector.close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_metrics(
    settings: Settings, port: int = PORT, *, address: str = ADDRESS, namespaces: Sequence[str] = ()
) -> MetricsServer:
    """Serve metrics from a thread of this process, until closed.

    Parameters
    ----------
    settings
        Servers and home.
    port
        Port to listen on; 0 for a free one.
    address
        Address to listen on. There is no password: beyond this machine, let a network that you trust reach it alone.
    namespaces
        Memories to tell about; that of the settings where empty.

    Raises
    ------
    MetricsPortError
        The port is taken, or may not be listened on, or the address is none of this machine.
    """
    collector = StateCollector(settings, namespaces)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise MetricsPortError(
            f"metrics cannot be served at {address}:{port}: {'the port is taken' if taken else error}.",
            remedy="Another exporter may run already; else choose a port with --port." if taken else "Choose another.",
        ) from error
    return MetricsServer(server, thread, collector)


def open_metrics(settings: Settings, say: Callable[[str], None]) -> MetricsServer:
    """The exporter of a `coinswarm up`: where nobody chose a port and the usual one is taken, at a free one.

    Parameters
    ----------
    say
        Tells the person that it is at another port.

    Raises
    ------
    MetricsPortError
        The port that the settings name is taken.
    """
    chosen = settings.metrics_port
    try:
        return start_metrics(settings, PORT if chosen is None else chosen)
    except MetricsPortError as error:
        if chosen is not None:
            raise MetricsPortError(
                error.message, remedy="Choose another with --metrics-port; 0 takes a free one."
            ) from error
    server = start_metrics(settings, 0)
    say(f"Port {PORT} is taken: metrics are at {server.url}; --metrics-port chooses one that stays.")
    return server


def read_once(settings: Settings, namespaces: Sequence[str] = ()) -> str:
    """All metrics as text, as a scrape would get them."""
    collector = StateCollector(settings, namespaces)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        return generate_latest(registry).decode()
    finally:
        collector.close()


# --- the command -----------------------------------------------------------------------------------------------


def metrics(namespaces: Sequence[str], port: int | None, address: str, console: Console) -> None:
    """Serve metrics until interrupted or ended by SIGTERM; `port` is that of the settings, or `PORT`, where None."""
    settings = load_settings(namespaces[0] if namespaces else None)
    for name in namespaces[1:]:
        load_settings(name)
    if port is None:
        port = PORT if settings.metrics_port is None else settings.metrics_port
    set_up_logging(logging.WARNING)
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with start_metrics(settings, port, address=address, namespaces=namespaces) as server:
            console.say(f"Metrics at {server.url}; Ctrl-C ends it.")
            ended.wait()
    except KeyboardInterrupt:
        console.say("Ended.")
    finally:
        signal.signal(signal.SIGTERM, before)


def metrics_once(namespaces: Sequence[str]) -> str:
    """All metrics as text."""
    settings = load_settings(namespaces[0] if namespaces else None)
    for name in namespaces[1:]:
        load_settings(name)
    return read_once(settings, namespaces)
